"""Generations: complete or absent, verified or refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from stream.run.assemble import build_engine
from stream.settings.upgrade import journaled
from stream.state.generations import (
    FORMAT,
    CheckpointError,
    Locked,
    Snapshot,
    StateDirectory,
    list_generations,
    load,
    read_manifest,
)
from stream.state.platform import fingerprint
from stream.step.pending import store
from stream.step.scoring import ScoringEngine
from tests.support.factory import Feed, config, event, traffic


def snapshot(engine: ScoringEngine) -> Snapshot:
    return Snapshot(
        "test",
        engine.seq,
        engine.digest,
        0,
        {("events", 0): 7},
        journaled(engine.config),
        fingerprint(),
        engine.state(),
        engine.files(),
    )


@pytest.fixture
def trained(tmp_path: Path) -> tuple[StateDirectory, ScoringEngine, Feed]:
    """An engine with pending events, and one generation of it."""
    directory = StateDirectory(tmp_path / "state").open()
    engine, feed = build_engine(config(tmp_path), directory.pending), Feed()
    for parts in traffic(300, lag=100):
        engine.step(feed.batch(*parts))
    directory.publish(directory.write(snapshot(engine)), keep=3)
    return directory, engine, feed


def test_a_loaded_engine_goes_on_as_if_never_saved(
    trained: tuple[StateDirectory, ScoringEngine, Feed], tmp_path: Path
) -> None:
    """Restored state has the same digest, and the next steps give the same bytes."""
    directory, engine, feed = trained
    [loaded] = directory.usable(lambda m: None)
    again = build_engine(config(tmp_path), directory.pending)
    again.restore(loaded.state, loaded.segments)
    assert again.state_digest() == engine.state_digest()
    for parts in traffic(500, lag=100)[8:]:
        batch = feed.batch(*parts)
        got, expected = again.step(batch), engine.step(batch)
        assert (got.scores, got.journal) == (expected.scores, expected.journal)
    assert again.state_digest() == engine.state_digest()


def test_a_generation_does_not_change_after_it_was_written(
    trained: tuple[StateDirectory, ScoringEngine, Feed],
) -> None:
    """Rows held later share the segment's file but not the generation."""
    directory, engine, feed = trained
    for parts in traffic(700, lag=100)[8:]:
        engine.step(feed.batch(*parts))
    [path] = directory.listed()
    assert load(path, read_manifest(path)).manifest.seq == 8


def test_only_the_newest_generations_are_kept(
    trained: tuple[StateDirectory, ScoringEngine, Feed],
) -> None:
    """Publishing removes all but `keep`."""
    directory, engine, feed = trained
    for parts in traffic(500)[8:]:
        engine.step(feed.batch(*parts))
        directory.publish(directory.write(snapshot(engine)), keep=3)
    assert [int(p.name) for p in directory.listed()] == [13, 12, 11]


def _files(path: Path) -> list[str]:
    return sorted(p.name for p in path.iterdir())


@pytest.mark.parametrize("harm", ["truncate", "flip", "remove"])
def test_an_altered_generation_is_set_aside_and_the_one_before_is_used(
    trained: tuple[StateDirectory, ScoringEngine, Feed], harm: str
) -> None:
    """Whatever file is harmed and wherever, the bad generation is never loaded nor deleted."""
    directory, engine, feed = trained
    good = engine.seq
    rng = np.random.default_rng(1)
    [first] = directory.listed()
    for name in _files(first):
        engine.step(feed.batch(("events", [])))
        path = directory.publish(directory.write(snapshot(engine)), keep=100)
        target = path / name
        raw = target.read_bytes()
        # Segments are shared links: harm a copy, as a bad disk block under one name would not.
        target.unlink()
        used = read_manifest(path).files[name].bytes if name != "manifest.json" else len(raw)
        at = int(rng.integers(0, used))
        if harm == "truncate":
            target.write_bytes(raw[:at])
        elif harm == "flip":
            target.write_bytes(
                raw[:at] + bytes([raw[at] ^ 1 << int(rng.integers(8))]) + raw[at + 1 :]
            )
        loaded = next(iter(directory.usable(lambda m: None)))
        assert loaded.manifest.seq == good, name
    assert len(list(directory.quarantine.iterdir())) == len(_files(first))


def test_a_cut_write_leaves_no_generation(
    trained: tuple[StateDirectory, ScoringEngine, Feed], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the disk fills up at any file, the old generations stay and nothing is left behind."""
    directory, engine, _ = trained
    real = os.fsync
    for allowed in range(4):
        calls = iter(range(1000))

        def full(fd: int, calls: object = calls, allowed: int = allowed) -> None:
            if next(calls) >= allowed:  # type: ignore[call-overload]
                raise OSError(28, "No space left on device")
            real(fd)

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            directory.write(snapshot(engine))
        monkeypatch.setattr(os, "fsync", real)
        assert [p.name for p in directory.generations.iterdir()] == ["000000000008"]


def test_a_second_process_is_refused(trained: tuple[StateDirectory, ScoringEngine, Feed]) -> None:
    """The lock names the process that holds the directory."""
    directory = trained[0]
    with pytest.raises(Locked, match=f"pid {os.getpid()}"):
        StateDirectory(directory.path).open()
    directory.close()
    StateDirectory(directory.path).open().close()


def test_a_foreign_format_is_refused(trained: tuple[StateDirectory, ScoringEngine, Feed]) -> None:
    """A manifest whose seal does not match its bytes is not read."""
    [path] = list_generations(trained[0].path)
    manifest = path / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"format": %d' % FORMAT, b'"format": 1'))
    with pytest.raises(CheckpointError, match="checksum"):
        read_manifest(path)


def test_a_segment_saved_before_and_after_it_filled_verifies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A generation with a pending segment that an older one holds half full can be loaded."""
    monkeypatch.setattr(store, "SEGMENT_ROWS", 128)
    engine, feed = build_engine(config(tmp_path), tmp_path), Feed()
    directory = StateDirectory(tmp_path / "state").open()
    for start in (0, 100):
        engine.step(feed.batch(("events", [event(i) for i in range(start, start + 100)])))
        directory.publish(directory.write(snapshot(engine)), keep=3)
    assert [loaded.manifest.seq for loaded in directory.usable(lambda m: None)] == [2, 1]
    engine.close()
    directory.close()

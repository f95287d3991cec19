"""Generations that somebody crafted: nothing they name runs, whatever fails is one of them."""

from __future__ import annotations

import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from models.base import OtherVersion
from stream.contract.records import JournalRecord
from stream.logs.sqlite.log import SqliteLog
from stream.run.assemble import build_engine
from stream.settings.schema import Config
from stream.settings.upgrade import journaled
from stream.state.generations import (
    CheckpointError,
    StateDirectory,
    list_generations,
    load,
    read_manifest,
    revive,
    snapshot_of,
)
from stream.state.recovery import Unvouched
from stream.state.topics import Standing
from tests.support.crafted import (
    ARRAYS,
    REST,
    change_arrays,
    change_rest,
    evil_member,
    reseal,
    rewrite,
)
from tests.support.factory import Feed, config, event, label, traffic
from tests.support.runner import append, caught_up, running

MEMBERS = [
    {"name": "linear", "type": "logistic"},
    {"name": "bayes", "type": "river", "model": "river.naive_bayes.GaussianNB"},
]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard of two sessions, with a generation of each."""
    directory = tmp_path_factory.mktemp("shard")
    c = shard_of(directory)
    for start in (0, 100):
        span = range(start, start + 100)
        append(c, ("events", [event(i) for i in span]), ("labels", [label(i) for i in span]))
        with running(c) as service:
            caught_up(service, 2 * (start + 100))
    return directory


def shard_of(directory: Path, **changes: Any) -> Config:
    return config(directory, limits={"batch": 50}, members=MEMBERS, **changes)


@pytest.fixture
def shard(ran: Path, tmp_path: Path) -> Path:
    """A copy of it to tamper with."""
    return Path(shutil.copytree(ran, tmp_path / "shard"))


def started(c: Config) -> int:
    """The step of the generation that a start loads."""
    with running(c) as service:
        caught_up(service, 400)
        assert service.recovered is not None
        return service.recovered.from_seq


def bomb(generation: Path) -> None:
    """A frame of a few bytes that declares a petabyte."""
    rewrite(
        generation, ARRAYS, b"\x28\xb5\x2f\xfd\xe0" + (1 << 50).to_bytes(8, "little") + b"\1\0\0"
    )


def unsized(generation: Path) -> None:
    """A frame that does not say what it holds."""
    packed = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 20))
    rewrite(generation, ARRAYS, packed)


def deep(generation: Path) -> None:
    rewrite(generation, REST, b"\x91" * 100_000 + b"\x90")


def another_length(generation: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["files"][ARRAYS]["unpacked"] = 12

    reseal(generation, change)


def odd_arrays(generation: Path) -> None:
    change_arrays(
        generation, lambda arrays: arrays.update({k: np.zeros((0, 3), "c8") for k in arrays})
    )


def text_for_numbers(generation: Path) -> None:
    change_rest(generation, lambda rest: rest.update(seq="x", counts=None))


def another_step(generation: Path) -> None:
    change_rest(generation, lambda rest: rest.update(seq=1))


def without_arrays(generation: Path) -> None:
    reseal(generation, lambda manifest: manifest["files"].pop(ARRAYS))


def a_file_elsewhere(generation: Path) -> None:
    entry = {"bytes": 0, "sha256": "", "unpacked": 0}
    reseal(generation, lambda manifest: manifest["files"].update({"../../lock": entry}))


def crafted_river(generation: Path) -> None:
    change_rest(
        generation,
        lambda rest: rest["ensemble"]["members"]["bayes"].update(pickle=pickle.dumps(np.load, 4)),
    )


@pytest.mark.parametrize(
    "craft",
    [
        bomb,
        unsized,
        deep,
        another_length,
        odd_arrays,
        text_for_numbers,
        another_step,
        without_arrays,
        a_file_elsewhere,
        crafted_river,
    ],
    ids=lambda craft: craft.__name__,
)
def test_a_crafted_generation_is_set_aside_and_the_one_before_is_used(
    shard: Path, craft: Callable[[Path], None]
) -> None:
    """Whatever a restore fails of is the generation's fault, and there is an older one."""
    newest, older = list_generations(shard / "state")[:2]
    craft(newest)
    assert started(shard_of(shard)) == int(older.name)
    assert [p.name for p in (shard / "state" / "quarantine").iterdir()] == [f"{newest.name}-0"]


@pytest.mark.parametrize("array", ["members/linear/weight", "quality/p", "features/numbers"])
def test_numbers_that_the_journal_does_not_vouch_for_are_not_loaded(
    shard: Path, array: str
) -> None:
    """One other bit: kernels trust what is loaded as indices, so nothing crafted reaches them."""
    newest, older = list_generations(shard / "state")[:2]

    def flip(arrays: dict[str, Any]) -> None:
        [name] = [n for n in arrays if n.endswith(array)]
        arrays[name].reshape(-1).view("u1")[0] ^= 1

    change_arrays(newest, flip)
    assert started(shard_of(shard)) == int(older.name)


def test_a_member_whose_state_is_gone_is_no_new_member(shard: Path) -> None:
    """It would start untrained and say nothing."""
    newest, older = list_generations(shard / "state")[:2]
    change_rest(newest, lambda rest: rest["ensemble"]["members"].pop("linear"))
    assert started(shard_of(shard)) == int(older.name)


def test_a_configuration_that_nobody_vouches_for_is_not_run(shard: Path, tmp_path: Path) -> None:
    """A start takes the generation before: the journal says what configuration a step had."""
    newest, older = list_generations(shard / "state")[:2]
    mark = evil_member(newest, tmp_path)
    assert started(shard_of(shard)) == int(older.name)
    assert not mark.exists()


def test_from_before_configurations_were_on_record_only_the_given_one_is_run(
    shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is set aside then: the operator may start once with the file of before."""
    real = SqliteLog.journal

    def journal(log: SqliteLog, after_seq: int = 0) -> Iterator[JournalRecord]:
        return (msgspec.structs.replace(r, config="", contents={}) for r in real(log, after_seq))

    monkeypatch.setattr(SqliteLog, "journal", journal)
    c = shard_of(shard)
    newest = list_generations(shard / "state")[0]
    # As before a default changed: what runs no code may differ.
    before = c.model_copy(update={"limits": c.limits.model_copy(update={"early_labels": 77})})
    reseal(newest, lambda manifest: manifest.update(config=journaled(before)))
    assert started(c) == int(newest.name)
    mark = evil_member(list_generations(shard / "state")[0], tmp_path)
    with pytest.raises(Unvouched, match="start once with the file that the shard ran under"):
        started(c)
    assert not mark.exists()
    assert not (shard / "state" / "quarantine").exists()


def test_a_generation_of_another_river_stays_where_it_is(
    shard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start says what to install: no older generation would do."""
    newest = list_generations(shard / "state")[0]
    change_rest(newest, lambda rest: rest["ensemble"]["members"]["bayes"].update(river="0.1.2"))
    with pytest.raises(OtherVersion, match=r"install river 0\.1\.2"):
        started(shard_of(shard))
    assert newest.exists()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generation with every kind of part in use."""
    directory = tmp_path_factory.mktemp("whole")
    engine, feed = build_engine(shard_of(directory), None), Feed()
    for parts in traffic(200):
        engine.step(feed.batch(*parts))
    place = StateDirectory(directory / "state").open()
    written = place.publish(place.write(snapshot_of(engine, Standing(), 0)), keep=1)
    place.close()
    return written


def leaves(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of everything in a tree, itself left out."""
    if not isinstance(tree, dict | list):
        return
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield (*path, key)
        yield from leaves(value, (*path, key))


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.lists(st.integers(0, 3), max_size=3),
    st.dictionaries(st.text(max_size=2), st.none(), max_size=2),
)


@settings(max_examples=150)
@given(data=st.data())
def test_whatever_a_crafted_state_holds_it_restores_or_is_refused(
    whole: Path, data: st.DataObject
) -> None:
    """One value replaced by junk, or bytes flipped under a new seal: never another error."""
    with tempfile.TemporaryDirectory() as scratch:
        generation = Path(shutil.copytree(whole, Path(scratch) / whole.name))
        if data.draw(st.booleans()):
            rest = msgspec.msgpack.decode((generation / REST).read_bytes())
            *path, last = data.draw(st.sampled_from(list(leaves(rest))))
            holder = rest
            for key in path:
                holder = holder[key]
            holder[last] = data.draw(JUNK)
            rewrite(generation, REST, msgspec.msgpack.encode(rest))
        else:
            name = data.draw(st.sampled_from([REST, ARRAYS]))
            raw = bytearray((generation / name).read_bytes())
            for _ in range(data.draw(st.integers(1, 3))):
                raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
            rewrite(generation, name, bytes(raw[: data.draw(st.integers(1, len(raw)))]))
        engine = build_engine(shard_of(Path(scratch)), None)
        try:
            revive(engine, load(generation, read_manifest(generation)))
        except (CheckpointError, OtherVersion):
            return

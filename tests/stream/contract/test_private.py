"""Files and folders of a shard: their owner's alone, whoever made them and whatever the umask."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from stream.contract import private
from stream.contract.records import NewRecord
from stream.run.assemble import open_log
from stream.state.anchors import FileWitness
from stream.state.generations import StateDirectory
from stream.tools.audit.read import export
from tests.support.factory import START_MS, config


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o000, 0o277], autouse=True)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test under a umask that lets all in, and one that would lock the owner out."""
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.parametrize("before", [None, 0o755, 0o777, 0o2770])
def test_a_folder_is_its_owners_alone(
    tmp_path: Path, before: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Made so, or mended with a warning."""
    place = tmp_path / "state"
    if before is not None:
        place.mkdir()
        place.chmod(before)
    private.folder(place)
    assert mode(place) & 0o777 == 0o700
    assert ("mended_rights" in capsys.readouterr().out) == (before is not None)
    private.folder(place)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("before", [None, 0o644, 0o666])
def test_a_file_is_its_owners_alone(
    tmp_path: Path, before: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Made so, or mended with a warning; what it held is kept where it is appended to."""
    place = tmp_path / "file"
    if before is not None:
        place.touch()
        place.chmod(before)
    for _ in range(2):
        with private.opened(place, "ab") as file:
            file.write(b"x")
    assert mode(place) == 0o600
    assert place.read_bytes() == b"xx"
    assert capsys.readouterr().out.count("mended_rights") == (before is not None)


def test_a_folder_of_another_is_refused_where_others_may_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody could put another file in the place of ours; what others may only read is left."""
    monkeypatch.setattr("stream.contract.private.os.geteuid", lambda: os.getuid() + 1)
    tmp_path.chmod(0o770)
    with pytest.raises(private.NotPrivate, match=r"its owner alone may write, got mode 0770"):
        private.folder(tmp_path)
    for left in (0o755, 0o1777):
        tmp_path.chmod(left)
        private.folder(tmp_path)
        assert mode(tmp_path) == left


def test_a_place_that_many_share_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither /tmp nor the folder that somebody works in is taken from its other users."""
    tmp_path.chmod(0o1777)
    private.folder(tmp_path)
    assert mode(tmp_path) == 0o1777
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    private.folder(Path())
    assert mode(tmp_path) == 0o755
    private.mend(Path(os.devnull))
    assert mode(Path(os.devnull)) & 0o666


def test_everything_that_a_shard_keeps_is_private(tmp_path: Path) -> None:
    """Log and what SQLite puts beside it, state, anchors and exports, in folders made by others."""
    c = config(tmp_path)
    for place in {c.state_dir, Path(c.log.path).parent}:  # type: ignore[union-attr]
        place.mkdir(parents=True, exist_ok=True)
        place.chmod(0o755)
    directory = StateDirectory(c.state_dir).open()
    log = open_log(c, lambda: START_MS)
    log.append("events", [NewRecord(None, b"{}")])
    FileWitness(c.state_dir / "audit-anchors.jsonl").keep(b"{}")
    exported = tmp_path / "trail.jsonl"
    exported.touch()
    exported.chmod(0o644)
    export(c, exported)
    found = [p for p in (*tmp_path.rglob("*"), tmp_path) if not p.is_symlink()]
    assert len(found) > 6
    wrong = {str(p): oct(mode(p)) for p in found if mode(p) != (0o700 if p.is_dir() else 0o600)}
    log.close()
    directory.close()
    assert wrong == {}

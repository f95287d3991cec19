"""Artefacts: what is read has the digest that its file is named by, or is not used."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.base import Learner
from stream.run.assemble import build_engine
from stream.state.artefacts import ArtefactError, Artefacts, packed
from stream.step.engine import Engine
from tests.support.factory import Feed, config, event, label

RIVER = {"name": "bayes", "type": "river", "model": "river.naive_bayes.GaussianNB"}
MEMBERS = [
    {"name": "linear", "type": "logistic"},
    {"name": "trees", "type": "forest", "trees": 2, "max_leaves": 64, "grace": 20},
]


def taught(directory: Path, members: list[dict[str, Any]]) -> Engine:
    """An engine whose members have learned."""
    engine, feed = build_engine(config(directory, members=members), None), Feed()
    rows = range(200)
    engine.step(
        feed.batch(("events", [event(i) for i in rows]), ("labels", [label(i) for i in rows]))
    )
    return engine


def maker(engine: Engine, name: str) -> Callable[[], Learner]:
    """Fresh members of a name."""
    return lambda: engine.ensemble.fresh(name, 0)


@pytest.mark.parametrize("name", ["linear", "trees", "bayes"])
def test_a_member_comes_back_from_its_artefact(tmp_path: Path, name: str) -> None:
    """Compiled and River's alike: the same digest, in a file of its owner's alone."""
    engine = taught(tmp_path, [*MEMBERS, RIVER])
    member, artefacts = engine.ensemble.members[name], Artefacts(tmp_path / "artefacts")
    artefacts.put(member.digest(), member.state)
    assert artefacts.model(member.digest(), maker(engine, name)).digest() == member.digest()
    assert artefacts.sizes().keys() == {member.digest()}
    assert artefacts.file(member.digest()).stat().st_mode & 0o777 == 0o600


def _cut(raw: bytes) -> bytes:
    return raw[:-40]


def _flipped(raw: bytes) -> bytes:
    return raw[:200] + bytes([raw[200] ^ 1]) + raw[201:]


def _other(raw: bytes) -> bytes:
    return packed({"anything": 1})


@pytest.mark.parametrize("damage", [_cut, _flipped, _other, lambda _: b""])
def test_what_does_not_have_its_digest_is_refused(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    """A damaged or exchanged file is told by name, and nothing is restored from it."""
    engine = taught(tmp_path, MEMBERS)
    member, artefacts = engine.ensemble.members["linear"], Artefacts(tmp_path / "artefacts")
    artefacts.put(member.digest(), member.state)
    file = artefacts.file(member.digest())
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ArtefactError, match=str(file)):
        artefacts.model(member.digest(), maker(engine, "linear"))


def test_one_from_elsewhere_is_kept_if_it_fits(tmp_path: Path) -> None:
    """It is named by what it holds; another member's is refused and leaves nothing."""
    engine = taught(tmp_path, MEMBERS)
    linear, artefacts = engine.ensemble.members["linear"], Artefacts(tmp_path / "artefacts")
    assert artefacts.take(packed(linear.state()), maker(engine, "linear")) == linear.digest()
    other = Artefacts(tmp_path / "others")
    with pytest.raises(ArtefactError, match="does not fit the member"):
        other.take(packed(linear.state()), maker(engine, "trees"))
    assert other.sizes() == {}


def test_only_what_nobody_names_any_more_is_let_go(tmp_path: Path) -> None:
    """A named one stays, however old; one that is not named until its time has passed."""
    engine, artefacts = taught(tmp_path, MEMBERS), Artefacts(tmp_path / "artefacts")
    for name, member in engine.ensemble.members.items():
        artefacts.put(member.digest(), member.state)
        os.utime(artefacts.file(engine.ensemble.members[name].digest()), (1000, 1000))
    linear, trees = (engine.ensemble.members[name].digest() for name in ("linear", "trees"))
    left, written = (artefacts.path / f".writing-{n}" for n in (1, 2))
    for path in (left, written):
        path.touch()
    os.utime(left, (1000, 1000))
    artefacts.prune({linear}, before_ms=999_999)
    assert artefacts.sizes().keys() == {linear, trees}
    artefacts.prune({linear}, before_ms=1_000_001)
    assert artefacts.sizes().keys() == {linear}
    assert list(artefacts.path.glob(".writing-*")) == [written]


def test_what_could_not_be_saved_is_saved_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk takes no state away."""
    artefacts = Artefacts(tmp_path / "artefacts")
    states: dict[str, Callable[[], Any]] = {n * 64: lambda n=n: {"n": n} for n in "ab"}
    with monkeypatch.context() as m:
        m.setattr("stream.state.artefacts.failpoint", _full)
        with pytest.raises(OSError, match="full"):
            artefacts.save(states)
    assert len(states) == 2
    artefacts.save(states)
    assert states == {}
    assert artefacts.sizes().keys() == {"a" * 64, "b" * 64}


def _full(name: str) -> None:
    raise OSError("full")

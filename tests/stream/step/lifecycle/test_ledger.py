"""The ledger: which versions are kept, which one a person means."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream.contract.records import Batch
from stream.run.assemble import build_engine
from stream.settings.schema import VersionsSettings
from stream.step.engine import Engine
from stream.step.lifecycle.ledger import Ledger, NoVersion, Version
from tests.support.factory import Feed, config, decoded, event, label, reasons


def version(seq: int, digest: str | None = None) -> Version:
    """The version of a step; its digest is the step's number, many times."""
    return Version(seq, 1000 * seq, digest or f"{seq:08d}" * 8, "regular", seq)


def ledger(seqs: range, keep: int = 30) -> Ledger:
    """One with a version of member ``m`` for each step."""
    made = Ledger(VersionsSettings(keep=keep, every="10s"), ["m"])
    for seq in seqs:
        made.keep("m", version(seq), lambda seq=seq: {"seq": seq})  # type: ignore[misc]
    return made


def seqs(of: Ledger) -> list[int]:
    """The steps of the kept versions, oldest first."""
    return [v.seq for v in of.versions()["m"]]


def test_the_oldest_that_is_not_pinned_makes_room() -> None:
    """A pinned one stays beside as many others as may be kept, until its time."""
    made = ledger(range(1, 4), keep=3)
    made.pin(version(1).digest, until_ms=8_000)
    for seq in range(4, 8):
        made.keep("m", version(seq), dict)
    assert seqs(made) == [1, 5, 6, 7]
    made.keep("m", version(9), dict)
    assert seqs(made) == [6, 7, 9]
    assert made.pinned() == {}


def test_what_is_kept_already_is_not_kept_twice() -> None:
    """A member that learned nothing since gains no version."""
    made = ledger(range(1, 3))
    made.keep("m", version(3, version(2).digest), dict)
    assert seqs(made) == [1, 2]


@pytest.mark.parametrize(
    ("to", "seq"), [("last_good", 9), ("4", 4), ("100", 9), (f"{5:08d}", 5), (f"{5:08d}" * 8, 5)]
)
def test_a_version_is_named_in_three_ways(to: str, seq: int) -> None:
    """Without an alarm the last good one is the newest; a step means the newest before it."""
    assert ledger(range(1, 10)).named("m", to).seq == seq


@pytest.mark.parametrize("to", ["0", f"{0:08d}", "0000", "abcdef012"])
def test_what_is_not_kept_is_refused_with_what_is(to: str) -> None:
    """The error lists the newest versions."""
    with pytest.raises(NoVersion, match=r"kept: .*000000090000 \(step 9\)"):
        ledger(range(1, 10)).named("m", to)


@pytest.mark.parametrize("signal", ["m", "ensemble"])
def test_the_last_good_one_is_from_before_the_alarms(signal: str) -> None:
    """The first alarm of those that last counts, the member's own or the ensemble's."""
    made = ledger(range(1, 10))
    made.alarmed(signal, 5)
    made.alarmed(signal, 7)
    assert made.named("m", "last_good").seq == 4
    made.replaced("m")
    assert made.named("m", "last_good").seq == (9 if signal == "m" else 4)


@pytest.mark.parametrize("cause", ["installed", "promoted"])
def test_what_came_in_place_is_not_the_way_back_from_itself(cause: Any) -> None:
    """The last good one is what it took the place of, until it was kept as time passed."""
    made = ledger(range(1, 5))
    came = msgspec.structs.replace(version(6), cause=cause)
    made.keep("m", came, dict)
    assert made.named("m", "last_good").seq == 4
    again = ledger(range(1, 5))
    again.keep("m", came, dict)
    again.alarmed("m", 8)  # as it came it was good, and it has learned since
    assert again.named("m", "last_good").seq == 6
    made.keep("m", version(9), dict)
    assert made.named("m", "last_good").seq == 9
    alone = ledger(range(0))
    alone.keep("m", came, dict)
    with pytest.raises(NoVersion):
        alone.named("m", "last_good")


def test_steps_may_have_as_many_digits_as_a_digest() -> None:
    """A digest that begins so is meant first."""
    made = ledger(range(1, 4))
    made.keep("m", version(50_000_000), dict)
    assert made.named("m", "60000000").seq == 50_000_000
    assert made.named("m", "49999999").seq == 3
    assert made.named("m", f"{2:08d}").seq == 2


def test_alarms_are_over_after_a_quiet_time() -> None:
    """No alarm came between two regular versions, and the error is not raised any more."""
    made = ledger(range(1, 10))
    made.alarmed("m", 5)
    made.regular(1_000, set())
    assert made.named("m", "last_good").seq == 4
    made.regular(2_000, {"m"})
    assert made.named("m", "last_good").seq == 4
    made.regular(3_000, set())
    assert made.named("m", "last_good").seq == 9


def test_regular_ones_fall_due_by_event_time() -> None:
    """At the first checkpoint, then after ``versions.every``."""
    made = ledger(range(0))
    assert made.due(0)
    made.regular(5_000, set())
    assert not made.due(14_999)
    assert made.due(15_000)


def test_a_saved_ledger_is_the_same() -> None:
    """State, restore, state."""
    made, again = ledger(range(1, 5)), ledger(range(0))
    made.alarmed("m", 3)
    made.pin(version(2).digest, 9)
    made.keep("m", msgspec.structs.replace(version(5), cause="replaced"), dict)
    made.arrives("m", "promoted")
    again.restore(made.state())
    assert again.state() == made.state()
    assert again.arrived() == {"m": "promoted"}
    assert [one.seq for one in again.made_room()] == [5]
    assert again.named("m", "last_good").seq == 2


# ---------------------------------------------------------------------- in an engine


def taught(directory: Path) -> tuple[Engine, Feed]:
    """An engine that kept a version after 100 labels, and learned 100 more."""
    engine, feed = build_engine(config(directory), None), Feed()
    for first in (0, 100):
        rows = range(first, first + 100)
        batch = feed.batch(
            ("events", [event(i) for i in rows]), ("labels", [label(i) for i in rows])
        )
        engine.step(msgspec.structs.replace(batch, checkpoint=first == 0))
    return engine, feed


def with_models(engine: Engine, batch: Batch, states: dict[str, object]) -> Batch:
    """The batch with the models that its commands name, made of kept states."""
    models = {}
    for name, digest in engine.wanted(batch.slices):
        models[name, digest] = engine.ensemble.fresh(name, 0)
        models[name, digest].restore(states[digest])  # type: ignore[arg-type]
    return msgspec.structs.replace(batch, models=models)


def test_a_rollback_moves_the_member_and_nothing_else(tmp_path: Path) -> None:
    """It has the kept state; windows, pending rows, combiner and quality stay as they were."""
    engine, feed = taught(tmp_path)
    kept = engine.ledger.versions()["linear"][-1]
    states = {digest: state() for digest, state in engine.ledger.unsaved.items()}
    before = engine.state()
    assert engine.ensemble.members["linear"].digest() != kept.digest
    command = {"command": "rollback", "to": "last_good", "member": "linear"}
    out = engine.step(with_models(engine, feed.batch(("control", [command])), states))
    assert engine.ensemble.members["linear"].digest() == kept.digest
    after = engine.state()
    for part in ("features", "pending", "quality", "matured", "watermark_ms"):
        assert msgspec.msgpack.encode(_plain(after[part])) == msgspec.msgpack.encode(
            _plain(before[part])
        )
    assert _plain(after["ensemble"]["combiner"]) == _plain(before["ensemble"]["combiner"])
    told = [r for r in decoded(out.audit) if r["event"] == "rolled_back"]
    assert [r["target"] if "target" in r else r["model"] for r in told] == ["linear", "linear"]
    assert told[1]["root"] == told[1]["to"] == kept.digest
    causes = [v.cause for v in engine.ledger.versions()["linear"]]
    assert causes == ["regular", "replaced", "rolled_back"]


@pytest.mark.parametrize("look", ["at once", "later", "after a restart"])
def test_what_made_room_is_told_with_the_next_checkpoint(tmp_path: Path, look: str) -> None:
    """Its digest is taken beside the steps: whoever looks, and when, the outputs are the same."""
    found = []
    for own in ("later", look):
        engine, feed = taught(tmp_path)
        was = engine.ensemble.members["linear"].digest()
        states = {digest: state() for digest, state in engine.ledger.unsaved.items()}
        command = {"command": "rollback", "to": "last_good", "member": "linear"}
        outputs = [engine.step(with_models(engine, feed.batch(("control", [command])), states))]
        if own == "at once":
            assert engine.ledger.versions()["linear"][-2].digest == was
            assert was in engine.ledger.unsaved
        rows = range(200, 250)
        outputs.append(engine.step(feed.batch(("events", [event(i) for i in rows]))))
        if own == "after a restart":
            before, engine = engine, build_engine(config(tmp_path), None)
            engine.restore(before.state(), before.rows())
        assert engine.checkpoint_wanted or own == "after a restart"
        labelled = feed.batch(("labels", [label(i) for i in rows]))
        outputs += [
            engine.step(msgspec.structs.replace(labelled, checkpoint=True)),
            engine.step(msgspec.structs.replace(feed.batch(), checkpoint=True)),
        ]
        told = [[r for r in decoded(out.audit) if r["event"] == "made_room"] for out in outputs]
        assert [len(each) for each in told] == [0, 0, 1, 0]
        assert told[2][0]["model"] == "linear"
        assert (told[2][0]["version"], told[2][0]["up_to_step"]) == (was, 2)
        found.append((outputs[-1].journal.digest, engine.state_digest()))
    assert found[0] == found[1]


def test_a_digest_that_comes_is_waited_for_in_its_order() -> None:
    """What is entered behind it stands behind it, and what guards a version then counts."""
    made, slow = ledger(range(1, 4), keep=2), Future[str]()
    made.guarded = {"m": version(2).digest}
    made.keep("m", version(4, ""), dict, slow)
    made.keep("m", version(5), dict)
    made.guarded = {}
    assert not made.settled
    slow.set_result(version(4).digest)
    assert made.settled
    assert seqs(made) == [2, 4, 5]
    assert version(4).digest in made.unsaved


def test_a_checkpoint_digests_each_member_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The versions that it keeps are those that the trail tells the roots of."""
    engine, feed = taught(tmp_path)
    taken: list[str] = []
    for name, member in engine.ensemble.members.items():

        def digest(name: str = name, own: Callable[[], str] = member.digest) -> str:
            taken.append(name)
            return own()

        monkeypatch.setattr(member, "digest", digest)
    late = event(200, at_ms=event(200)["time"] + 10 * 86_400_000)
    batch = feed.batch(("events", [late]))
    out = engine.step(msgspec.structs.replace(batch, checkpoint=True))
    (told,) = [r for r in decoded(out.audit) if r["event"] == "checkpointed"]
    assert sorted(taken) == sorted(engine.ensemble.names)
    for name in engine.ensemble.names:
        assert engine.ledger.versions()[name][-1].digest == told["roots"][name]
    assert engine.ledger.versions()["linear"][-1].seq == 3


def test_all_members_roll_back_or_none(tmp_path: Path) -> None:
    """Where one version cannot be had, nothing moves and the command is a dead letter."""
    engine, feed = taught(tmp_path)
    states = {digest: state() for digest, state in engine.ledger.unsaved.items()}
    digests = engine.ensemble.roots()
    batch = with_models(
        engine, feed.batch(("control", [{"command": "rollback", "to": "1"}])), states
    )
    models = dict(batch.models)
    gone = next(iter(models))
    models[gone] = OSError("no such file")
    out = engine.step(msgspec.structs.replace(batch, models=models))
    assert reasons(out.dead_letters) == ["command"]
    assert gone[1] in out.dead_letters[0].error
    assert out.journal.missing == (gone[1],)
    assert engine.ensemble.roots() == digests


def test_an_unknown_version_is_a_dead_letter(tmp_path: Path) -> None:
    """It says which versions there are."""
    engine, feed = taught(tmp_path)
    command = {"command": "rollback", "to": "ffffffff", "member": "linear"}
    out = engine.step(feed.batch(("control", [command])))
    assert "expected a version that is kept, got 'ffffffff'; kept: " in out.dead_letters[0].error


def _plain(state: object) -> object:
    """A state without arrays."""
    if isinstance(state, dict):
        return {key: _plain(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [_plain(value) for value in state]
    return state.tolist() if hasattr(state, "tolist") else state

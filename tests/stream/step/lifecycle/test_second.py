"""A whole second ensemble: scored beside the first, judged as made, promoted, taken back."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import stream.step.lifecycle.challengers
from stream.contract.commands import CommandRefused, Promote
from stream.contract.outputs import Outputs
from stream.contract.records import Batch
from stream.run.assemble import build_engine
from stream.state.artefacts import ArtefactError, packed, revived, unpacked
from stream.state.follow import built
from stream.step.configure import configures
from stream.step.engine import Models
from stream.step.lifecycle.promotion import exchange
from stream.step.lifecycle.second import Whole
from stream.step.reconfigure import compare, reconfigure
from stream.step.scoring import ScoringEngine
from tests.stream.step.lifecycle.test_challengers import EASY, LAG, RIPE, SIZE, run
from tests.stream.step.lifecycle.test_challengers import build as built_easy
from tests.stream.step.lifecycle.test_reactions import LINEAR
from tests.support.factory import Feed, decoded, event, label

SPEC = {
    "combine": "mean_logit",
    "members": [
        {"name": "fast", "type": "logistic", "learning_rate": 0.3},
        {"name": "prior", "type": "constant"},
        {"name": "pairs", "type": "crossed", "table_bits": 8},
    ],
}
CHALLENGE = {"command": "challenge", "member": "ensemble", "spec": json.dumps(SPEC)}
PROMOTE = {"command": "promote", "member": "ensemble"}
SLOW = EASY | {"block": "30d"}
"""Nothing is decided by itself."""
WORSE = [{"name": "zero", "type": "constant"}]
"""A champion that anything beats."""


@pytest.fixture(autouse=True)
def _ripe_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """A challenger is judged from its first labels on."""
    monkeypatch.setattr(stream.step.lifecycle.challengers, "WARM_UP", RIPE)


def build(directory: Path, **changes: Any) -> ScoringEngine:
    """Linear and prior under a stack; what challenges runs until somebody ends it."""
    return built_easy(directory, **({"challengers": SLOW} | changes))


def told(n: int, *commands: tuple[int, dict[str, Any]]) -> list[Batch]:
    """``n`` rounds of events and late labels; a command is a step of its own before its round."""
    feed, out = Feed(), []
    for i in range(n):
        out += [feed.batch(("control", [command])) for at, command in commands if at == i]
        start = i * SIZE
        due = range(max(0, start - LAG), max(0, start + SIZE - LAG))
        events = ("events", [event(k) for k in range(start, start + SIZE)])
        labels = ("labels", [label(k) for k in due])
        out.append(feed.batch(events, *([labels] if due else [])))
    return out


def serve(engine: ScoringEngine, batches: list[Batch]) -> tuple[ScoringEngine, list[Outputs]]:
    """As the service takes them: a promotion is a switch of engines."""
    outputs: list[Outputs] = []
    for batch in batches:
        command = configures(engine, batch.slices)
        if engine.promotes:
            engine, out = switch(engine, None)
            outputs.append(out)
        if command is not None:
            engine, out = switch(engine, batch)
        else:
            out = engine.step(msgspec.structs.replace(batch, seq=engine.seq + 1))
        outputs.append(out)
    return engine, outputs


def switch(engine: ScoringEngine, batch: Batch | None) -> tuple[ScoringEngine, Outputs]:
    asked = None if batch is None else configures(engine, batch.slices)
    models = {} if batch is None else kept(engine, batch)
    new = engine.admit(asked or Promote(member="ensemble"), models)
    out = exchange(engine, new, new.tree, batch.slices[0] if batch else None, models)
    assert isinstance(new, ScoringEngine)
    return new, out


def kept(engine: ScoringEngine, batch: Batch) -> Models:
    """What the batch's commands name, by way of an artefact's bytes."""
    return {
        (name, digest): revived(
            unpacked(packed(engine.ledger.unsaved[digest]())),
            partial(engine.blank, name, digest),
            digest,
        )
        for name, digest in engine.wanted(batch.slices)
    }


def audited(outputs: list[Outputs]) -> list[tuple[str, str, str]]:
    found = [r for out in outputs for r in decoded(list(out.audit))]
    return [(r["event"], r["cause"], r["model"]) for r in found if "challenger" in r["event"]]


def test_no_score_changes_by_a_bit_while_one_runs(tmp_path: Path) -> None:
    """Scores and every part but the challengers' are those of an engine without one."""
    one, beside = serve(build(tmp_path), told(20, (3, CHALLENGE)))
    beside = [out for i, out in enumerate(beside) if i != 3]
    alone, without = serve(build(tmp_path), told(20))
    assert [s.member for s in one.challengers.standings()] == ["ensemble"]
    for ours, theirs in zip(beside, without, strict=True):
        made = [msgspec.json.decode(r.value) | {"seq": 0} for r in ours.scores]
        assert made == [msgspec.json.decode(r.value) | {"seq": 0} for r in theirs.scores]
    for part in ("features", "quality", "matured", "drift", "tallies", "ensemble"):
        np.testing.assert_equal(one.state()[part], alone.state()[part])


def test_it_says_and_learns_what_it_would_alone(tmp_path: Path) -> None:
    """Its members and its combiner are, bit for bit, those of a shard that had it from the start:
    its combiner learns from what its members said of each event when it came."""
    for combine in ("stack", "weighted_vote"):
        spec = SPEC | {"combine": combine}
        command = CHALLENGE | {"spec": json.dumps(spec)}
        engine, _ = serve(build(tmp_path), told(30, (0, command)))
        ensemble = {"combine": combine}
        alone, _ = serve(build(tmp_path, members=SPEC["members"], ensemble=ensemble), told(30))
        second = engine.challengers.second().ensemble
        assert second.digest() == alone.ensemble.digest()


def test_a_command_puts_it_in_place_and_takes_it_back(tmp_path: Path) -> None:
    """Members and combiner are the challenger's as they were; what made room challenges, goes on
    learning, and comes back as it is by then; nothing that waits is lost."""
    batches = told(30, (2, CHALLENGE), (15, PROMOTE), (25, PROMOTE))
    before, _ = serve(build(tmp_path), batches[:16])
    was = before.challengers.second().ensemble.state()
    first = before.ensemble.state()
    engine, [out] = serve(before, batches[16:17])
    assert engine.ensemble.names == ("fast", "prior", "pairs")
    assert engine.config.ensemble.combine == "mean_logit"
    assert out.journal.kind == "reconfigured"
    now = engine.ensemble.state()
    np.testing.assert_equal(now["members"], was["members"])
    np.testing.assert_equal(now["combiner"], was["combiner"])
    back = engine.challengers.second()
    np.testing.assert_equal(back.ensemble.state()["members"], first["members"])
    assert len(engine.pending) == len(before.pending)
    assert engine.counts["learned"] == before.counts["learned"]

    engine, rest = serve(engine, batches[17:27])
    assert [letter for out in rest for letter in out.dead_letters] == []
    ours = engine.challengers.second().ensemble.state()
    engine, _ = serve(engine, batches[27:])
    assert engine.ensemble.names == ("linear", "prior")
    np.testing.assert_equal(engine.challengers.second().ensemble.names, ("fast", "prior", "pairs"))
    assert ours["labelled"] > first["labelled"]


def test_the_trail_tells_it(tmp_path: Path) -> None:
    """Who began, what was known of both, who promoted, and that the old one challenges."""
    _, outputs = serve(build(tmp_path), told(20, (2, CHALLENGE), (15, PROMOTE)))
    assert audited(outputs) == [
        ("challenger_started", "command", "ensemble"),
        ("challenger_promoted", "command", "ensemble"),
    ]
    records = [r for out in outputs for r in decoded(list(out.audit))]
    [promoted] = [r for r in records if r["event"] == "challenger_promoted"]
    assert promoted["old_one"] == "challenges"
    assert promoted["labels"] > 0
    added = [r["model"] for r in records if r["event"] == "member_added"]
    assert added == ["fast", "prior", "pairs"]


ROLLBACK = {"command": "rollback", "member": "ensemble", "to": "last_good"}


def made_room(out: Outputs) -> list[tuple[str, str]]:
    """What did, and its digest, as the trail tells it."""
    told = decoded(list(out.audit))
    return [(r["model"], r["version"]) for r in told if r["event"] == "made_room"]


@pytest.mark.parametrize("combine", ["stack", "weighted_vote"])
def test_what_made_room_comes_back_as_it_was(tmp_path: Path, combine: str) -> None:
    """Members, combiner and a promoted member's own definition, bit for bit; all challenges are
    over; what leaves is a version again, so that going back can be undone."""
    own = {"command": "challenge", "member": "prior", "spec": '{"type": "crossed"}'}
    early = [(0, own), (6, {"command": "promote", "member": "prior"}), (8, CHALLENGE)]
    batches = told(30, *early, (15, PROMOTE), (22, ROLLBACK), (26, ROLLBACK))
    engine, _ = serve(build(tmp_path, ensemble={"combine": combine}), batches[:18])
    first = Whole(engine.ensemble).digest()
    saved = msgspec.structs.replace(batches[25], checkpoint=True)
    engine, outputs = serve(engine, [*batches[18:25], saved])
    assert made_room(outputs[-1])[1:] == [("ensemble", first)]
    [version] = engine.ledger.versions()["ensemble"]
    assert (version.digest, version.cause) == (first, "replaced")
    causes = {n: [v.cause for v in engine.ledger.versions()[n]] for n in engine.ensemble.names}
    assert causes == {name: ["promoted"] for name in ("fast", "prior", "pairs")}

    second = Whole(engine.ensemble).digest()
    engine, [out] = serve(engine, batches[26:27])
    assert Whole(engine.ensemble).digest() == first
    assert engine.ensemble.specs == {"prior": {"type": "crossed"}}
    assert engine.config.ensemble.combine == combine
    assert engine.challengers.standings() == []
    records = decoded(list(out.audit))
    found = [r for r in records if r["event"] in ("rolled_back", "challenger_dropped")]
    assert [(r["event"], r["model"]) for r in found] == [
        ("challenger_dropped", "ensemble"),
        ("rolled_back", "ensemble"),
    ]
    assert found[1]["to"] == first
    saved = msgspec.structs.replace(batches[27], checkpoint=True)
    engine, rest = serve(engine, [saved, *batches[28:]])
    assert made_room(rest[0]) == [("ensemble", second)]
    assert [letter for out in rest for letter in out.dead_letters] == []
    assert engine.ensemble.names == ("fast", "prior", "pairs")
    assert len(engine.ledger.versions()["ensemble"]) == 3


def test_without_a_version_nothing_comes_back(tmp_path: Path) -> None:
    """Before the first promotion, and of a digest that nobody kept: a dead letter says so."""
    for to in ("last_good", "0123456789"):
        batch = told(1, (0, ROLLBACK | {"to": to}))[0]
        [letter] = build(tmp_path).step(batch).dead_letters
        assert "ensemble: expected a version that is kept" in letter.error


def test_a_version_that_cannot_be_had_is_refused(tmp_path: Path) -> None:
    """Its file is gone, or it is of other columns: nothing changes."""
    engine, _ = serve(build(tmp_path), told(20, (2, CHALLENGE), (15, PROMOTE)))
    [version] = engine.ledger.versions()["ensemble"]
    batch = msgspec.structs.replace(told(1, (0, ROLLBACK))[0], seq=engine.seq + 1)
    asked = configures(engine, batch.slices)
    assert asked is not None
    error = ArtefactError("gone")
    with pytest.raises(CommandRefused, match="cannot be had"):
        engine.admit(asked, {("ensemble", version.digest): error})
    [letter] = engine.step(
        msgspec.structs.replace(batch, models={("ensemble", version.digest): error})
    ).dead_letters
    assert "cannot be had" in letter.error
    other = build(tmp_path, features=[{"name": "a", "type": "number", "field": "amount"}])
    state = engine.ledger.unsaved[version.digest]()
    with pytest.raises(ArtefactError, match="does not fit"):
        revived(state, lambda: Whole(other.challengers.another(version.spec or {})), version.digest)


@pytest.mark.parametrize("mode", ["propose", "auto"])
def test_a_better_one_is_proposed_or_takes_the_place(tmp_path: Path, mode: str) -> None:
    """By the evidence of scores as made, and the switch is a step of its own."""
    engine = build(tmp_path, members=WORSE, ensemble={}, challengers=EASY | {"promote": mode})
    engine, outputs = serve(engine, told(120, (1, CHALLENGE)))
    events = [event for event, _, _ in audited(outputs)]
    if mode == "propose":
        assert "challenger_proposed" in events
        assert "challenger_promoted" not in events
        assert engine.ensemble.names == ("zero",)
        return
    assert events[:2] == ["challenger_started", "challenger_promoted"]
    assert engine.ensemble.names == ("fast", "prior", "pairs")


def test_one_that_is_worse_is_dropped(tmp_path: Path) -> None:
    """The same evidence the other way round."""
    spec = json.dumps({"combine": "mean_logit", "members": WORSE})
    engine = build(tmp_path, challengers=EASY)
    engine, outputs = serve(engine, told(100, (1, CHALLENGE | {"spec": spec})))
    assert [event for event, _, _ in audited(outputs)][-1] == "challenger_dropped"
    assert engine.challengers.standings() == []


def test_a_restored_engine_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """From a checkpoint amid the challenge, and from one after the promotion."""
    batches = told(30, (2, CHALLENGE), (15, PROMOTE))
    for cut in (10, 20):
        engine, _ = serve(build(tmp_path), batches[:cut])
        fresh = built(lambda c: build_engine(c, None), engine.tree, "here")
        assert isinstance(fresh, ScoringEngine)
        fresh.restore(engine.state(), engine.rows())
        whole, _ = serve(engine, batches[cut:])
        again, _ = serve(fresh, batches[cut:])
        assert again.digest == whole.digest
        assert again.state_digest() == whole.state_digest()


@pytest.mark.parametrize("target", ["classes", "number"])
def test_other_targets_have_them_too(tmp_path: Path, target: str) -> None:
    """Classes and numbers: the same challenge, promotion and way back."""
    settings: dict[str, Any] = {"target": {"type": target}}
    settings["label"] = {"field": "fraud", "horizon": "10d", "values": None}
    if target == "classes":
        settings["target"] |= {"max_classes": 3}
    members = [LINEAR, {"name": "prior", "type": "constant"}]
    spec = json.dumps({"combine": "stack", "members": [*members, SPEC["members"][0]]})
    plain = [{"name": "amount", "type": "number", "field": "amount"}]
    engine = build(tmp_path, features=plain, members=members, **settings)
    given = [(2, CHALLENGE | {"spec": spec}), (15, PROMOTE)]
    engine, _ = serve(engine, (numbered if target == "number" else told)(25, *given))
    assert engine.ensemble.names == ("linear", "prior", "fast")
    [standing] = engine.challengers.standings()
    assert standing.labels > 0
    assert np.isfinite([standing.loss, standing.challenger_loss]).all()


def numbered(n: int, *commands: tuple[int, dict[str, Any]]) -> list[Batch]:
    """As :func:`told`, with numbers for labels."""
    feed, out = Feed(), []
    for i in range(n):
        out += [feed.batch(("control", [command])) for at, command in commands if at == i]
        start = i * SIZE
        due = range(max(0, start - LAG), max(0, start + SIZE - LAG))
        labels = [label(k) | {"fraud": float(k % 7)} for k in due]
        events = ("events", [event(k) for k in range(start, start + SIZE)])
        out.append(feed.batch(events, *([("labels", labels)] if due else [])))
    return out


@pytest.mark.parametrize(
    ("spec", "told_why"),
    [
        ("", "JSON"),
        ('{"type": "logistic"}', "`combine` and `members`"),
        ('{"combine": "stack", "members": [{"name": "a", "type": "river", "model": "x"}]}', "code"),
        ('{"combine": "stack", "members": [{"name": "a", "type": "nothing"}]}', "got 'nothing'"),
        (
            '{"combine": "no", "members": [{"name": "a", "type": "logistic"}]}',
            "combine: expected one of mean_logit",
        ),
        (
            '{"combine": "stack", "members": [{"name": "a", "type": "forest", "trees": 0}]}',
            "members[0]: trees: expected greater than",
        ),
        ('{"combine": "stack", "members": [{"name": "ensemble", "type": "logistic"}]}', "name"),
    ],
)
def test_what_cannot_be_one_is_a_dead_letter(tmp_path: Path, spec: str, told_why: str) -> None:
    """Of another form, of code, of nothing known: refused with what was expected."""
    _, [out] = serve(build(tmp_path), told(1, (0, CHALLENGE | {"spec": spec}))[:1])
    [letter] = out.dead_letters
    assert letter.reason == "command"
    assert told_why in letter.error


def test_without_one_there_is_nothing_to_promote(tmp_path: Path) -> None:
    """And a second one while one runs is refused."""
    engine = build(tmp_path)
    assert len(run(engine, told(1, (0, PROMOTE))[:1])[0].dead_letters) == 1
    _, outputs = serve(engine, told(2, (0, CHALLENGE), (0, CHALLENGE))[:2][1:])
    assert len(outputs[-1].dead_letters) == 0


def test_another_configuration_keeps_it_while_columns_stay(tmp_path: Path) -> None:
    """Other members leave it; other columns end it, which `apply` calls lost."""
    engine, _ = serve(build(tmp_path), told(20, (2, CHALLENGE)))
    other = build(tmp_path, members=[LINEAR])
    reconfigure(engine, other, other.tree)
    assert [s.member for s in other.challengers.standings()] == ["ensemble"]
    plain = [{"name": "amount", "type": "number", "field": "amount"}]
    narrow = build(tmp_path, features=plain)
    assert any("challenger of the ensemble" in line for line in compare(engine, narrow).lost)
    out = reconfigure(engine, narrow, narrow.tree)
    assert narrow.challengers.standings() == []
    assert ("challenger_dropped", "configuration", "ensemble") in audited([out])


def test_settings_that_it_cannot_have_end_it(tmp_path: Path) -> None:
    """A budget of a member that it does not have: `apply` calls it lost, the trail tells its end,
    and the next one is refused."""
    engine, _ = serve(build(tmp_path), told(20, (2, CHALLENGE)))
    budget = {"member": {"linear": {"parameters": {"limit": 1_000}}}}
    strict = build(tmp_path, audit=budget)
    assert any("challenger of the ensemble" in line for line in compare(engine, strict).lost)
    out = reconfigure(engine, strict, strict.tree)
    assert ("challenger_dropped", "configuration", "ensemble") in audited([out])
    batch = msgspec.structs.replace(told(1, (0, CHALLENGE))[0], seq=strict.seq + 1)
    [letter] = strict.step(batch).dead_letters
    assert "audit.member.linear: expected a member's name" in letter.error

"""One learner and its scorers: what they hand to one another, and that nothing is lost between."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard

from stream.contract.commands import Configure
from stream.run.readings import readings
from stream.settings.hot import needing_restart
from stream.settings.upgrade import digest, encoded, journaled, settings
from stream.step.reconfigure import Irreconcilable, compare, reconfigure
from stream.step.roles import versions
from stream.step.roles.examples import Reader, meaning, told_meaning
from stream.step.roles.versions import viewed
from tests.stream.step.roles.scaled import (
    Part,
    Scaled,
    assert_goes_on,
    contents,
    of_role,
    partition,
    raw,
    whole,
)
from tests.support.factory import event, label, reasons, traffic

TARGETS: dict[str, dict[str, Any]] = {
    "binary": {
        "members": [
            {"name": "linear", "type": "logistic"},
            {"name": "forest", "type": "forest", "trees": 3},
            {
                "name": "bayes",
                "type": "river",
                "model": "river.compose.Pipeline",
                "steps": [
                    {"model": "river.preprocessing.StandardScaler"},
                    {"model": "river.linear_model.LogisticRegression"},
                ],
            },
        ],
        "ensemble": {"combine": "stack"},
    },
    "classes": {
        "target": {"type": "classes", "classes": ["true", "false"], "alert": "true"},
        "members": [
            {"name": "linear", "type": "logistic"},
            {"name": "forest", "type": "forest", "trees": 3},
        ],
        "ensemble": {"combine": "stack"},
    },
    "number": {
        "target": {"type": "number", "alert_above": 1},
        "features": [],
        "members": [{"name": "linear", "type": "logistic"}, {"name": "boost", "type": "boosting"}],
    },
}


def digest_of(part: Part) -> str:
    """Of what scores read of its members."""
    ensemble = part.engine.ensemble
    return str(ensemble.view_digest(viewed(ensemble)))


def labels(kind: str, values: list[Any]) -> list[Any]:
    """The labels of a target."""
    return [v | {"fraud": int(v["fraud"])} for v in values] if kind == "number" else values


@pytest.mark.parametrize("kind", TARGETS)
def test_one_scorer_that_takes_each_version_at_once_scores_as_the_whole_does(
    tmp_path: Path, kind: str
) -> None:
    """Scores and members are those of one process, bit for bit."""
    tree = raw(tmp_path, **{k: v for k, v in TARGETS[kind].items() if k != "features"})
    if kind == "number":
        tree["features"] = [f for f in tree["features"] if f["type"] != "risk"]
    one, many = Part(whole(tree)), Scaled(tree)
    for parts in traffic(600):
        given = [(t, 0, labels(kind, v) if t == "labels" else v) for t, v in parts]
        expected, got = one.step(*given), many.score(0, *given)
        many.learn()
        for a, b in zip(expected.scored, got.scored, strict=True):
            assert (a.output == b.output).all()
            assert (a.members == b.members).all()
            assert (a.alert == b.alert).all()
            assert a.cold == b.cold
    learner = many.learner.engine
    assert learner.counts["learned"] == one.engine.counts["learned"] > 400
    assert learner.ensemble.digest() == one.engine.ensemble.digest()
    assert learner.quality.report() == one.engine.quality.report()
    assert not one.engine.ensemble.cold


def scaled(tmp_path: Path, count: int = 2, **changes: Any) -> Scaled:
    """A service of compiled members."""
    return Scaled(raw(tmp_path, count, members=TARGETS["binary"]["members"][:2], **changes))


def fed(many: Scaled, n: int = 400) -> list[str]:
    """Events spread by their entity, labels to the partition of their event; gives all ids."""
    partitions = many.learner.config.topics.partitions
    where = {event(i)["id"]: partition(event(i), partitions) for i in range(n)}
    for parts in traffic(n):
        for i in range(len(many.scorers)):
            own = [
                (topic, p, found)
                for topic, values in parts
                for p in range(i, partitions, len(many.scorers))
                if (found := [v for v in values if where[v["id"]] == p])
            ]
            many.score(i, *own)
        many.learn()
    return list(where)


def test_each_event_is_scored_once_and_each_label_learned_once(tmp_path: Path) -> None:
    """By whichever scorer; and the newest version is the learner's ensemble everywhere."""
    many = scaled(tmp_path)
    ids = fed(many)
    assert sorted(i for out in many.outputs for i in out.ids()) == sorted(ids)
    joined = [s.engine.counts["labels.joined"] for s in many.scorers]
    assert min(joined) > 0
    assert many.learner.engine.counts["learned"] == sum(joined) == 350
    for i, scorer in enumerate(many.scorers):
        many.score(i)
        assert scorer.engine.versions.current == many.learner.engine.versions.current
        assert digest_of(scorer) == digest_of(many.learner)
    assert not [x for out in many.outputs for x in out.dead_letters]


def test_scorers_and_learner_go_on_from_their_state_and_replay_to_the_same_bits(
    tmp_path: Path,
) -> None:
    """From a state taken amid the pieces of a version, too."""
    many = scaled(tmp_path)
    fed(many)
    for part in (many.learner, *many.scorers):
        assert_goes_on(part, len(part.batches) // 2)


def test_a_version_in_pieces_is_taken_over_once_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A piece a step, with a state taken between them; one that began before is passed over."""
    monkeypatch.setattr(versions, "PIECE_BYTES", 400)
    many = scaled(tmp_path, 1)
    fed(many, 80)
    fresh, topic = Part(many.scorers[0].config), many.scorers[0].config.models_topic
    last = many.learner.engine.versions.current
    own = [m for m in many.models if msgspec.msgpack.decode(m)[1] == last.number]
    assert len(own) > 3
    fresh.step((topic, 0, own[-2:]))  # its beginning is gone
    assert fresh.engine.versions.current.number == 0
    for piece in own[:-1]:
        fresh.step((topic, 0, [piece]))
        again = Part(fresh.config)
        again.engine.restore(fresh.engine.state(), fresh.engine.rows())
        again.offsets = dict(fresh.offsets)
        fresh = again
        assert fresh.engine.ensemble.cold
    fresh.step((topic, 0, own[-1:]))
    assert fresh.engine.versions.current == last
    assert digest_of(fresh) == digest_of(many.learner)


def test_what_means_something_else_is_neither_learned_nor_taken_over(tmp_path: Path) -> None:
    """Records under another seed, damaged ones, and versions that go back become dead letters."""
    many, other = scaled(tmp_path, 1), scaled(tmp_path, 1, seed=2)
    fed(many, 80)
    fed(other, 80)
    examples, models = many.learner.config.examples_topic, many.scorers[0].config.models_topic
    before = many.learner.engine.ensemble.digest()
    out = many.learner.step((examples, 0, [*other.examples[0][:1], b"?", many.models[0]]))
    assert reasons(out.dead_letters) == ["foreign"] * 3
    assert "give all processes of the service the same file" in out.dead_letters[0].error
    assert many.learner.engine.ensemble.digest() == before
    many.score(0)
    before = many.scorers[0].engine.ensemble.digest()
    out = many.scorers[0].step((models, 0, [other.models[-1], b"?", many.models[0]]))
    assert reasons(out.dead_letters) == ["foreign"] * 3
    assert "began anew" in out.dead_letters[2].error
    assert many.scorers[0].engine.ensemble.digest() == before


def test_crafted_rows_reach_no_kernel(tmp_path: Path) -> None:
    """A code that no column has, or a truth that no target has, makes a dead letter."""
    many = scaled(tmp_path, 1)
    fed(many, 120)
    engine = many.learner.engine
    reader = Reader(
        *(meaning(many.learner.config), engine.pending.dtype, engine.features.schema, engine.task)
    )
    good = reader.read(many.examples[0][-1])
    for change in ("hashed", "y", "w", "short"):
        rows, y, w = good.rows.copy(), good.y.copy(), good.w.copy()
        if change == "hashed":
            rows["hashed"][0] = 1 << 20
        elif change == "y":
            y[0] = 7
        elif change == "w":
            w[0] = -1
        else:
            y = y[1:]
        example = msgspec.structs.replace(
            good.example, rows=rows.tobytes(), y=y.tobytes(), w=w.tobytes()
        )
        crafted = zstandard.compress(msgspec.msgpack.encode(example))
        out = many.learner.step((many.learner.config.examples_topic, 0, [crafted]))
        assert reasons(out.dead_letters) == ["foreign"], change


def test_commands_reach_scorers_by_the_learner_or_hold_everywhere(tmp_path: Path) -> None:
    """A member frozen at the learner is frozen at scorers with the version that follows at once; a
    threshold is everybody's; what only one process can do is refused."""
    many = scaled(tmp_path, 1)
    fed(many, 80)
    many.score(0)
    control, commands = many.learner.config.topics.control, [
        {"command": "freeze", "member": "linear"},
        {"command": "set_threshold", "threshold": 0.25},
        {"command": "rebuild", "member": "linear"},
        {"command": "retract", "id": "e1"},
    ]  # fmt: skip
    out = many.learner.step((control, 0, commands))
    assert reasons(out.dead_letters) == ["command"] * 2
    many.models += [r.value or b"" for r in out.handed[many.learner.config.models_topic]]
    assert not many.scorers[0].step((control, 0, commands)).dead_letters
    assert not many.scorers[0].engine.ensemble.frozen
    many.score(0)
    assert many.scorers[0].engine.ensemble.frozen == {"linear"}
    assert many.scorers[0].engine.threshold == many.learner.engine.threshold == 0.25


def test_no_process_of_many_takes_another_configuration_by_itself(tmp_path: Path) -> None:
    """Its members and rows would mean what those of the others do not: the learner says so, and so
    does who compares files."""
    many = scaled(tmp_path, 1)
    for part in (many.learner, *many.scorers):
        asked = part.engine.tree | {"seed": 2}
        [told] = needing_restart(part.config, settings(asked, "asked"))
        assert told.startswith("shard.role: of a service of several processes nothing changes")
        command = Configure(base=digest(part.engine.tree), settings=encoded(asked).decode())
        values = [msgspec.to_builtins(command)]
        out = part.step((part.config.topics.control, 0, values))
        wanted = ["expected shard.role = 'all'"] if part is many.learner else []
        assert [letter.error[:27] for letter in out.dead_letters] == wanted


def test_the_learner_publishes_its_members_under_another_file_at_once(tmp_path: Path) -> None:
    """Scorers would wait for the next labels, and score by blank ones meanwhile; also from a state
    that was taken between the two steps."""
    many = scaled(tmp_path, 1)
    fed(many, 160)
    old, more = many.learner, [{"name": "boost", "type": "boosting"}]
    tree = raw(tmp_path, 1, members=[*TARGETS["binary"]["members"][:2], *more])
    part = Part(of_role(tree, "learner"))
    reconfigure(old.engine, part.engine, journaled(part.config))
    assert part.engine.checkpoint_wanted  # which is a step, though nothing comes
    again = Part(part.config)
    again.engine.restore(part.engine.state(), part.engine.rows())
    scorer = Part(of_role(tree, "scorer"))
    for learner in (part, again):
        made = contents(learner.step().handed[part.config.models_topic])
        assert not learner.step().handed
        assert learner.engine.versions.current == part.engine.versions.current
    scorer.step((scorer.config.models_topic, 0, made))
    assert digest_of(scorer) == digest_of(part)
    assert not scorer.engine.ensemble.cold


def test_what_scorers_tell_each_other_means_the_same_whatever_members_they_have(
    tmp_path: Path,
) -> None:
    """A change of members loses none of what is under way between them."""
    one, other = (of_role(raw(tmp_path, 2, **change), "scorer") for change in ({}, {"seed": 5}))
    assert meaning(one) != meaning(other)
    assert told_meaning(one) == told_meaning(other)
    fields = raw(tmp_path, 2)["event"]
    more = raw(tmp_path, 2, event=fields | {"fields": fields["fields"] | {"more": "number"}})
    assert told_meaning(of_role(more, "scorer")) != told_meaning(one)


def test_where_labels_stand_does_not_go_back(tmp_path: Path) -> None:
    """They are under way between scorers; the learner of the same file says so, too."""
    anywhere, here = raw(tmp_path, 2, shard={"labels": "any"}), raw(tmp_path, 2)
    for role in ("scorer", "learner"):
        old, new = (Part(of_role(tree, role)).engine for tree in (anywhere, here))
        with pytest.raises(Irreconcilable, match=r"shard\.labels: expected 'any'"):
            compare(old, new)
        compare(new, old)


def test_readings_tell_the_version_and_its_age(tmp_path: Path) -> None:
    """Of scorers and of the learner; of one process that does all there is none."""
    many = scaled(tmp_path, 1)
    before = readings(many.scorers[0].engine, {}).shared
    assert before is not None
    assert (before.number, before.digest) == (0, "")
    assert math.isnan(before.age_s)
    fed(many, 160)
    assert readings(Part(whole(raw(tmp_path))).engine, {}).shared is None
    told = readings(many.scorers[0].engine, {}).shared
    current = many.scorers[0].engine.versions.current
    assert told is not None
    assert told.number == current.number > 0
    assert told.age_s == (many.scorers[0].engine.watermark_ms - current.at_ms) / 1000 > 0
    assert readings(many.learner.engine, {}).consumed[many.learner.config.examples_topic] > 0


def test_the_learner_tells_of_each_scorer_what_its_examples_say(tmp_path: Path) -> None:
    """Which partitions it reads, the version that it scored by and how far it is; kept in state."""
    many = scaled(tmp_path, 2)
    fed(many, 160)
    shared = readings(many.learner.engine, {}).shared
    assert shared is not None
    assert shared.role == "learner"
    assert [s.partitions for s in shared.scorers] == [(0, 2), (1, 3)]
    for scorer, told in zip(many.scorers, shared.scorers, strict=True):
        assert told.name == scorer.config.name
        assert 0 < told.version <= shared.number
        assert 0 < told.watermark_ms <= scorer.engine.watermark_ms
    again = Part(many.learner.config)
    again.engine.versions.restore(many.learner.engine.versions.state())
    assert again.engine.versions.taken == many.learner.engine.versions.taken


def test_a_label_that_corrects_what_was_handed_over_is_refused(tmp_path: Path) -> None:
    """The first label of an event may say so; a later one becomes a dead letter."""
    many = scaled(tmp_path, 1)
    many.score(0, ("events", 0, [event(1)]), ("labels", 0, [label(1) | {"corrects": True}]))
    out = many.score(0, ("labels", 0, [label(1, True) | {"corrects": True}]))
    assert reasons(out.dead_letters) == ["label_conflict"]
    many.learn()
    assert many.learner.engine.counts["learned"] == 1

"""Challengers of a service of many: they learn at the learner, and say at scorers, as made."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zstandard

import stream.step.lifecycle.challengers
import stream.step.roles.versions
from models.ensemble.group import key_of
from stream.step.roles.examples import Reader, meaning
from stream.step.roles.move import take_over
from stream.step.roles.versions import viewed
from tests.stream.step.lifecycle.test_reactions import LINEAR, PRIOR
from tests.stream.step.roles.scaled import Part, Scaled, assert_goes_on, partition, raw, whole
from tests.support.factory import event, reasons, traffic

RIPE = 200
EASY = {"block": "30m", "rows": 20, "alpha": 0.2}
BETTER = {
    "command": "challenge",
    "member": "prior",
    "spec": json.dumps({"type": "logistic", "learning_rate": 0.3}),
}
KINDS: dict[str, dict[str, Any]] = {
    "binary": {},
    "classes": {
        "target": {"type": "classes", "classes": ["true", "false"], "alert": "true"},
        "members": [LINEAR, {"name": "prior", "type": "constant"}],
    },
}


@pytest.fixture(autouse=True)
def _ripe_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream.step.lifecycle.challengers, "WARM_UP", RIPE)


def tree(directory: Path, count: int = 1, **changes: Any) -> Any:
    """Linear and prior under a stack, with short blocks."""
    given = {"members": [LINEAR, PRIOR], "ensemble": {"combine": "stack"}, "challengers": EASY}
    return raw(directory, count, **(given | changes))


def command(many: Scaled, value: dict[str, Any]) -> list[Any]:
    """Every process reads it; the learner's dead letters."""
    topic = many.learner.config.topics.control
    made = many.learner.step((topic, 0, [value]))
    many.models += [r.value or b"" for r in made.handed[many.learner.config.models_topic]]
    for scorer in many.scorers:
        assert not scorer.step((topic, 0, [value])).dead_letters
    return list(made.dead_letters)


def fed(many: Scaled, parts: list[list[tuple[str, list[Any]]]]) -> None:
    """Each event and its label to the scorer of its customer, and a step of the learner."""
    partitions, count = many.learner.config.topics.partitions, len(many.scorers)
    for slices in parts:
        for i in range(count):
            own = [
                (topic, p, found)
                for topic, values in slices
                for p in range(i, partitions, count)
                if (found := [v for v in values if _home(v, partitions) == p])
            ]
            many.score(i, *own)
        many.learn()


def _home(value: dict[str, Any], partitions: int) -> int:
    return partition(event(int(value["id"][1:])), partitions)


# ---------------------------------------------------------------------- as made


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("promote", ["propose", "auto"])
def test_it_is_judged_and_promoted_as_in_one_process(
    tmp_path: Path, kind: str, promote: str
) -> None:
    """Where the scorer takes each version at once: the same evidence, label by label, the same
    scores before and after the promotion, and the same model, bit for bit."""
    given = tree(tmp_path, challengers=EASY | {"promote": promote}, **KINDS[kind])
    one, many = Part(whole(given)), Scaled(given)
    for i, parts in enumerate(traffic(1600)):
        if i == 3:
            one.step((one.config.topics.control, 0, [BETTER]))
            assert not command(many, BETTER)
        slices = [(topic, 0, values) for topic, values in parts]
        expected, got = one.step(*slices), many.score(0, *slices)
        many.learn()
        for a, b in zip(expected.scored, got.scored, strict=True):
            np.testing.assert_array_equal(a.members, b.members)
            np.testing.assert_array_equal(a.output, b.output)
        wanted, found = (p.engine.challengers.standings() for p in (one, many.learner))
        apart = ("scored", "divergence", "agreement")  # of rows with a truth alone
        for ours, theirs in zip(wanted, found, strict=True):
            for name, value in ours._asdict().items():
                if name not in apart and not name.startswith("alerts"):
                    np.testing.assert_equal(getattr(theirs, name), value, name)
    ended = promote == "auto"
    assert many.learner.engine.challengers.counts == one.engine.challengers.counts
    assert bool(many.learner.engine.challengers.counts["challenger_promoted/prior"]) == ended
    assert bool(many.learner.engine.challengers.standings()) != ended
    assert many.learner.engine.ensemble.digest() == one.engine.ensemble.digest()
    [scorer] = many.scorers
    assert scorer.engine.ensemble.specs == many.learner.engine.ensemble.specs
    assert not scorer.engine.challengers.standings()


def test_what_scorers_said_is_what_is_compared(tmp_path: Path) -> None:
    """Two scorers that are a while behind: losses recomputed from links caught as they scored."""
    many = Scaled(tree(tmp_path, 2, shard={"every": "1h"}, challengers=EASY | {"block": "30d"}))
    made: dict[str, tuple[float, float]] = {}

    def catching(part: Part) -> None:
        engine, score = part.engine, part.engine.challengers.score

        def caught(x: Any, links: Any, link: Any, numbers: Any, *rest: Any) -> None:
            score(x, links, link, numbers, *rest)
            running = engine.challengers._running.get(key_of("prior", 1))
            if running is not None and 0 <= running.ripe <= numbers[0]:
                said = engine.ensemble.score_beside("prior", 1, x)[:, 0]
                ids = engine.pending.column("id")[-len(numbers) :]
                made.update(zip(ids.tolist(), zip(links[:, 1, 0], said, strict=True), strict=True))

        engine.challengers.score = caught

    for scorer in many.scorers:
        catching(scorer)
    fed(many, traffic(200))
    assert not command(many, BETTER)
    fed(many, [p for p in traffic(1400) if int(p[0][1][0]["id"][1:]) >= 200])
    [standing] = many.learner.engine.challengers.standings()
    learned = [
        (row["id"].item(), y)
        for scorer, handed in zip(many.scorers, many.examples, strict=True)
        for part in _read(many, scorer, handed)
        for row, y in zip(part.rows, part.y, strict=True)
    ]
    told = [(made[i], y) for i, y in learned if i in made]
    assert standing.labels == len(told) > 300
    for side, found in enumerate((standing.loss, standing.challenger_loss)):
        p = [1 / (1 + math.exp(-z[side])) for z, _ in told]
        right = [max(q if y else 1 - q, 1e-4) for q, (_, y) in zip(p, told, strict=True)]
        assert found == pytest.approx(-np.log(right).mean())


def _read(many: Scaled, scorer: Part, handed: list[bytes]) -> list[Any]:
    engine = scorer.engine
    reader = Reader(
        meaning(scorer.config), engine.pending.dtype, engine.features.schema, engine.task
    )
    return [reader.read(value) for value in handed]


# ---------------------------------------------------------------------- from state, and hostile


def test_all_go_on_from_their_state_and_replay_to_the_same_bits(tmp_path: Path) -> None:
    """Amid a race, and after the promotion of a model of another definition."""
    many = Scaled(tree(tmp_path, 2, challengers=EASY | {"promote": "auto"}))
    fed(many, traffic(120))
    race = BETTER | {"spec": json.dumps([json.loads(str(BETTER["spec"])), {"type": "logistic"}])}
    assert not command(many, race)
    fed(many, [p for p in traffic(1600) if int(p[0][1][0]["id"][1:]) >= 120])
    assert many.learner.engine.challengers.counts["challenger_promoted/prior"] == 1
    for part in (many.learner, *many.scorers):
        for share in (3, 8):
            assert_goes_on(part, share * len(part.batches) // 10)


def test_what_ends_at_the_learner_is_scored_no_more(tmp_path: Path) -> None:
    """A drop by command, and a deadline, which the learner's clock of events decides."""
    many = Scaled(tree(tmp_path, 2, challengers=EASY | {"deadline": "4h", "alpha": 0.001}))
    fed(many, traffic(80))
    for number, how in ((1, "command"), (2, "deadline")):
        assert not command(many, BETTER)
        for i, scorer in enumerate(many.scorers):
            many.score(i)
            assert list(scorer.engine.ensemble.challengers) == [f"prior #{number}"]
        if how == "command":
            assert not command(many, {"command": "drop", "member": "prior"})
        else:
            fed(many, [p for p in traffic(480) if int(p[0][1][0]["id"][1:]) >= 80])
        for i, scorer in enumerate(many.scorers):
            many.score(i)
            assert not scorer.engine.ensemble.challengers
            assert not scorer.engine.challengers.led()
    assert many.learner.engine.challengers.counts["challenger_dropped/prior"] == 2


def test_a_challenge_goes_on_where_partitions_move(tmp_path: Path) -> None:
    """With what is scored from then on; of rows that wait by then nothing is compared."""
    given = tree(tmp_path, 2, topics={"partitions": 12}, challengers=EASY | {"block": "30d"})
    many = Scaled(given)
    fed(many, traffic(80))
    assert not command(many, BETTER)
    fed(many, [p for p in traffic(800) if int(p[0][1][0]["id"][1:]) >= 80])
    for i in range(2):
        many.score(i)
    after = Scaled(given | {"shard": given["shard"] | {"count": 3}})
    after.learner, after.models = many.learner, many.models
    after._taken = [len(many.models)] * 3
    for part in after.scorers:
        take_over(part.engine, {i: old.engine for i, old in enumerate(many.scorers)})
        assert list(part.engine.ensemble.challengers) == ["prior #1"]
        waiting = part.engine.pending.head + np.arange(len(part.engine.pending))
        assert len(waiting)
        assert not part.engine.challengers.said(waiting)
    [before] = many.learner.engine.challengers.standings()
    after.learner.offsets = dict.fromkeys(
        [(many.learner.config.examples_topic, i) for i in range(3)], 10_000
    ) | {(many.learner.config.topics.control, 0): 1}
    fed(after, [p for p in traffic(1200) if int(p[0][1][0]["id"][1:]) >= 800])
    [standing] = after.learner.engine.challengers.standings()
    assert standing.number == before.number == 1
    assert standing.labels > before.labels > 0
    joined = sum(part.engine.counts["labels.joined"] for part in after.scorers)
    assert joined == 1150


def test_a_whole_ensemble_challenges_in_one_process_alone(tmp_path: Path) -> None:
    """The learner says so."""
    many = Scaled(tree(tmp_path))
    spec = json.dumps({"combine": "stack", "members": [{"name": "a", "type": "logistic"}]})
    for value in (
        {"command": "challenge", "member": "ensemble", "spec": spec},
        {"command": "promote", "member": "ensemble"},
    ):
        topic = many.learner.config.topics.control
        [letter] = many.learner.step((topic, 0, [value])).dead_letters
        assert "expected shard.role = 'all'" in letter.error


@pytest.mark.parametrize(
    ("crafted", "said"),
    [
        (
            {"specs": {"prior": {"type": "river", "model": "os.system"}}},
            "Expected code that a member of the configuration names",
        ),
        ({"specs": [1]}, "something else in the place of challengers and definitions"),
        ({"challengers": [1]}, "something else in the place of challengers and definitions"),
        ({"led": [["prior", 1, 1, True]]}, "a model of each challenge, and no other"),
        ({"led": [[1]]}, "expected members"),
        ({"last_good": {}}, "what they were, too"),
    ],
)
def test_a_crafted_version_is_not_taken_over(
    tmp_path: Path, crafted: dict[str, Any], said: str
) -> None:
    """It is a dead letter: of code only what a member of the file names may run, and a challenge
    has a model."""
    many = Scaled(tree(tmp_path))
    fed(many, traffic(160))
    engine, topic = many.learner.engine, many.scorers[0].config.models_topic
    version = engine.versions.current
    made = stream.step.roles.versions.pieces(
        viewed(engine.ensemble) | crafted,
        version._replace(number=version.number + 1),
        meaning(many.learner.config),
    )
    before = many.scorers[0].engine.ensemble.digest()
    out = many.scorers[0].step((topic, 0, [r.value for r in made]))
    assert reasons(out.dead_letters) == ["foreign"]
    assert said in out.dead_letters[0].error
    assert many.scorers[0].engine.ensemble.digest() == before
    many.score(0, ("events", 0, [event(200)]))


def test_crafted_links_are_refused(tmp_path: Path) -> None:
    """As many as rows, or it is no example."""
    many = Scaled(tree(tmp_path))
    fed(many, traffic(160))
    [good] = _read(many, many.scorers[0], many.examples[0][-1:])
    for said in ({"prior #1": b"\0" * 8}, {"prior #1": b"\0" * 7}):
        if len(good.rows) == 1:
            said = {"prior #1": b"\0" * 16}
        crafted = zstandard.compress(
            msgspec.msgpack.encode(msgspec.structs.replace(good.example, said=said))
        )
        out = many.learner.step((many.learner.config.examples_topic, 0, [crafted]))
        assert reasons(out.dead_letters) == ["foreign"]

"""Labels that correct older ones: as if the right one had come at once, or told why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.base import F32
from stream.contract.hashing import hash_texts
from stream.contract.outputs import Outputs
from stream.run.assemble import build_engine, build_scoring
from stream.settings.schema import Config
from stream.step.scoring import ScoringEngine
from tests.stream.step.lifecycle.test_reactions import restored
from tests.support.factory import (
    Feed,
    config,
    decoded,
    event,
    label,
    ranking_config,
    reasons,
    records,
    truth,
)

N, SIZE = 240, 40
HOUR = "2h"
"""Of events a minute apart: half of them are past their horizon at the end."""
LEARNINGS = ("arrival", "mature", "corrected", "auto")
CLASSES = {
    "type": "classes",
    "classes": ["low", "mid", "high"],
    "alert": "high",
}
TARGETS: dict[str, tuple[dict[str, Any], Callable[[int], Any]]] = {
    "binary": ({}, truth),
    "classes": (
        {"target": CLASSES, "members": [{"name": "linear", "type": "logistic"}]},
        lambda i: ("low", "mid", "high")[i * 37 % 191 // 64],
    ),
    "number": (
        {
            "target": {"type": "number"},
            "members": [{"name": "linear", "type": "logistic"}],
            "features": [{"name": "amount", "type": "number", "field": "amount"}],
        },
        lambda i: 0.25 * (i * 37 % 191),
    ),
}


def shard(directory: Path, **changes: Any) -> Config:
    given = {"label": {"field": "fraud", "horizon": HOUR}, "history": {"disk": "1MB"}}
    return config(directory, **(given | changes))


def run(
    engine: ScoringEngine,
    said: Callable[[int], Any],
    corrections: dict[int, list[dict[str, Any]]] | None = None,
    n: int = N,
) -> list[Outputs]:
    """Events a minute apart, each one's label three steps later, corrections after a step."""
    feed, outputs = Feed(), []
    for start in range(0, n, SIZE):
        parts: list[tuple[str, list[Any]]] = [
            ("events", [event(i) for i in range(start, start + SIZE)])
        ]
        parts += [("labels", [label(i, said(i)) for i in range(max(0, start - SIZE), start)])]
        parts += [("labels", (corrections or {}).get(start // SIZE, []))]
        outputs.append(engine.step(feed.batch(*[p for p in parts if p[1]])))
    return outputs


def kept(engine: ScoringEngine) -> list[tuple[int, float, float]]:
    """Id, truth and weight of what was learned, as it should have been."""
    return [
        (int(i), float(y), float(w))
        for part in engine.history.learned()
        for i, y, w in zip(part.rows["id"], part.y, part.w, strict=True)
    ]


def foreseen(engine: ScoringEngine) -> F32:
    """The features of events to come over eight days: all that windows remember of labels."""
    to_come = records("events", 0, [event(i) for i in range(N, N + 12_000, 29)])
    return engine.features.foresee(engine.codec.events(to_come.records)[0].columns).dense


def figures(engine: ScoringEngine) -> dict[str, dict[str, float]]:
    """The window ``all`` of both qualities, by scorer, but for what pairs of neighbours tell."""
    return {
        f"{which} {name}": {
            metric: value
            for metric, value in windows["all"].items()
            if metric not in ("no_change_accuracy", "kappa_temporal")
        }
        for which in ("quality", "matured")
        for name, windows in getattr(engine, which).report().items()
    }


def alike(found: dict[str, dict[str, float]], wanted: dict[str, dict[str, float]]) -> None:
    assert found.keys() == wanted.keys()
    for name, metrics in wanted.items():
        assert found[name] == pytest.approx(metrics, rel=1e-9, abs=1e-12, nan_ok=True), name


WRONG = frozenset(range(7, N, 5))


@pytest.mark.parametrize("learning", LEARNINGS)
def test_what_is_put_right_is_as_if_the_right_label_had_come(tmp_path: Path, learning: str) -> None:
    """Windows of risk, what waits, and what was learned, within the horizon and after it."""
    given = {"label": {"field": "fraud", "horizon": HOUR, "learning": learning}}
    wrong, right = (build_scoring(shard(tmp_path, **given), None) for _ in range(2))
    last = N // SIZE - 1
    # Of the last ones only first labels may come after: members have learned otherwise.
    fixes = [label(i) | {"corrects": True} for i in sorted(WRONG) if i < N - SIZE]
    run(right, truth)
    [*_, out] = run(wrong, lambda i: truth(i) ^ (i in WRONG), {last: fixes[::-1]})
    assert reasons(out.dead_letters) == []
    assert wrong.counts["labels.corrected"] == len(fixes)
    np.testing.assert_array_equal(foreseen(wrong), foreseen(right))
    for key in ("truth", "marks"):
        np.testing.assert_array_equal(wrong.pending.state()[key], right.pending.state()[key])
    assert (wrong.pending.told, wrong.pending.waiting) == (
        right.pending.told,
        right.pending.waiting,
    )
    if learning in ("arrival", "mature"):
        assert kept(wrong) == kept(right)


@pytest.mark.parametrize("target", TARGETS)
def test_quality_since_the_start_is_put_right(tmp_path: Path, target: str) -> None:
    """Of the scores that were made: as one who judges them by the right labels."""
    changes, said = TARGETS[target]
    given = {"label": {"field": "fraud", "horizon": HOUR, "learning": "arrival"}} | changes
    engine, judge = (build_scoring(shard(tmp_path, **given), None) for _ in range(2))
    other = {i: said(i + 1) for i in WRONG if said(i + 1) != said(i)}
    fixes = [label(i, said(i)) | {"corrects": True} for i in other if i < N - SIZE]
    last = N // SIZE - 1
    run(engine, lambda i: other.get(i, said(i)), {last: fixes})
    assert engine.counts["labels.corrected"] == len(fixes) > 10
    for part in engine.history.learned():
        rows = engine.pending.carried(part.rows, part.members)
        made = engine.learning.made(rows)
        judge.quality.update(made[0], part.y, rows["alert"], made[1])
        over = engine.pending.find(np.ascontiguousarray(rows["id"])) < 0
        said_then = None if made[1] is None else made[1][over]
        judge.matured.update(made[0][over], part.y[over], rows["alert"][over], said_then)
    alike(figures(engine), figures(judge))


def test_a_label_that_corrects_nothing_is_told(tmp_path: Path) -> None:
    """The same truth again, an event that nobody knows, one that was forgotten."""
    engine = build_scoring(shard(tmp_path, history={"keep": "0s"}), None)
    run(engine, truth)
    feed = Feed()
    feed.seq, feed.offsets = engine.seq, {"labels": 10_000}
    given = [label(3, not truth(3)), label(N - 50), label(N - 50, not truth(N - 50)), label(999)]
    out = engine.step(feed.batch(("labels", [one | {"corrects": True} for one in given])))
    assert [(d.record.offset - 10_000, d.reason) for d in out.dead_letters] == [
        (0, "label_orphan"),
        (1, "label_duplicate"),
        (2, "label_orphan"),
        (3, "label_orphan"),
    ]
    assert "history.keep" in out.dead_letters[0].error


def test_without_saying_so_a_label_corrects_nothing(tmp_path: Path) -> None:
    """The first one holds, and what ``corrects`` says must be a boolean."""
    engine = build_scoring(shard(tmp_path), None)
    run(engine, truth)
    feed = Feed()
    feed.seq = engine.seq
    said = [
        label(9, not truth(9)) | more for more in ({}, {"corrects": False}, {"corrects": "yes"})
    ]
    out = engine.step(feed.batch(("labels", [label(190, not truth(190)), *said[1:]])))
    assert sorted(reasons(out.dead_letters)) == ["label_conflict", "schema"]


def test_the_first_label_may_say_that_it_corrects(tmp_path: Path) -> None:
    """Where none came before it is a label as any other, for an event that waits or comes."""
    one, other = (build_scoring(shard(tmp_path), None) for _ in range(2))
    for engine, more in ((one, {}), (other, {"corrects": True})):
        feed = Feed()
        engine.step(feed.batch(("events", [event(i) for i in range(50)])))
        engine.step(feed.batch(("labels", [label(i) | more for i in range(50)])))
    assert one.ensemble.digest() == other.ensemble.digest()
    assert (one.counts, kept(one)) == (other.counts, kept(other))


def test_a_label_that_waits_for_its_event_is_corrected_too(tmp_path: Path) -> None:
    """The event meets the right one."""
    engine = build_scoring(shard(tmp_path), None)
    feed = Feed()
    early = [label(1, False), label(1, True) | {"corrects": True}, label(1, True)]
    out = engine.step(feed.batch(("labels", early)))
    assert reasons(out.dead_letters) == ["label_duplicate"]
    engine.step(feed.batch(("events", [event(1)])))
    assert engine.pending.truth(np.array([0])).tolist() == [1.0]
    assert engine.counts["labels.corrected"] == 1


def test_a_stray_repeat_keeps_nothing_from_being_put_right(tmp_path: Path) -> None:
    """A label that came again when its event was gone waits for one that will never come; what
    was learned is corrected and retracted all the same."""
    first, second = 3, 4  # past their horizon
    plain, strayed = (build_scoring(shard(tmp_path), None) for _ in range(2))
    for engine in (plain, strayed):
        run(engine, truth)
        assert engine.pending.find(hash_texts([f"e{first}", f"e{second}"])).max() < 0
    told(strayed, ("labels", [label(first, not truth(first)), label(second, truth(second))]))
    assert strayed.counts["labels.early"] == plain.counts["labels.early"] + 2
    right = label(first, not truth(first)) | {"corrects": True}
    for engine in (plain, strayed):
        out = told(engine, ("labels", [right]), retract(second))
        assert out.dead_letters == []
        assert engine.counts["labels.corrected"] == engine.counts["labels.retracted"] == 1
    assert kept(strayed) == kept(plain)
    np.testing.assert_array_equal(foreseen(strayed), foreseen(plain))


@settings(max_examples=10)
@given(data=st.data())
def test_nothing_depends_on_the_order_of_corrections(tmp_path_factory: Any, data: Any) -> None:
    """Any order, any number of changes of mind, any cut into steps: the last word of each holds."""
    directory = tmp_path_factory.getbasetemp()
    learning = data.draw(st.sampled_from(LEARNINGS))
    given = {"label": {"field": "fraud", "horizon": HOUR, "learning": learning}}
    engine, again = (build_scoring(shard(directory, **given), None) for _ in range(2))
    words = data.draw(st.lists(st.tuples(st.integers(0, 79), st.booleans()), max_size=30))
    # What later rows weigh goes by when a positive was known, where delays are learned.
    cut = 0 if learning == "corrected" else data.draw(st.integers(0, len(words)))
    changes = [label(i, y) | {"corrects": True} for i, y in words]
    run(engine, truth, {4: changes[:cut], 5: changes[cut:]})
    last = {i: y for i, y in words if y != truth(i) or i in dict(words)}
    run(again, truth, {5: [label(i, y) | {"corrects": True} for i, y in last.items()]})
    np.testing.assert_array_equal(foreseen(engine), foreseen(again))
    assert kept(engine) == kept(again)
    alike(figures(engine), figures(again))


def test_no_moment_of_a_restart_shows(tmp_path: Path) -> None:
    """Corrections are part of the state."""
    whole, parted = (build_scoring(shard(tmp_path), None) for _ in range(2))
    feeds = [Feed(), Feed()]
    for start in range(0, N, SIZE):
        parts: list[tuple[str, list[Any]]] = [
            ("events", [event(i) for i in range(start, start + SIZE)]),
            ("labels", [label(i) for i in range(start, start + SIZE)]),
            ("labels", [label(start + 1, not truth(start + 1)) | {"corrects": True}]),
        ]
        for engine, feed in zip((whole, parted), feeds, strict=True):
            engine.step(feed.batch(*parts))
        parted = restored(parted, tmp_path / str(start))
    assert whole.counts["labels.corrected"] == N // SIZE
    assert (whole.digest, whole.state_digest()) == (parted.digest, parted.state_digest())


def test_corrections_are_on_record(tmp_path: Path) -> None:
    """How many labels of a step, and of how many of them members had learned the wrong truth."""
    engine = build_scoring(shard(tmp_path, label={"field": "fraud", "learning": "arrival"}), None)
    fixes = [label(i, not truth(i)) | {"corrects": True} for i in (3, 4, 170)]
    [*_, out] = run(engine, truth, {5: fixes})
    [record] = [r for r in decoded(list(out.audit)) if r["event"] == "corrected"]
    assert (record["labels"], record["learned"], record["model"]) == (3, 3, "ensemble")


# ---------------------------------------------------------------------- retracted


def told(engine: ScoringEngine, *parts: tuple[str, list[Any]]) -> Outputs:
    """One more step."""
    feed = Feed()
    feed.seq = engine.seq
    feed.offsets = {t: engine.counts[f"consumed.{t}"] for t in ("events", "labels", "control")}
    return engine.step(feed.batch(*parts))


def retract(*ids: int) -> tuple[str, list[Any]]:
    return "control", [{"command": "retract", "id": f"e{i}", "actor": "ops"} for i in ids]


@pytest.mark.parametrize("learning", LEARNINGS)
def test_what_is_retracted_never_was(tmp_path: Path, learning: str) -> None:
    """Of events that wait still: as if nobody had told; and a label may come after all."""
    given = {"label": {"field": "fraud", "horizon": "30d", "learning": learning}}
    one, other = (build_scoring(shard(tmp_path, **given), None) for _ in range(2))
    gone = (20, 5, 7, 150)
    run(one, truth)
    run(other, lambda i: truth(i) if i not in gone else "never")
    told(one, retract(*gone))
    np.testing.assert_array_equal(foreseen(one), foreseen(other))
    np.testing.assert_array_equal(
        *(np.concatenate(e.pending.state()["truth"]) for e in (one, other))
    )
    assert (one.pending.told, one.pending.waiting) == (other.pending.told, other.pending.waiting)
    assert kept(one) == kept(other)
    again = ("labels", [label(i) for i in gone])
    for engine in (one, other):
        assert told(engine, again).dead_letters == []
    assert kept(one) == kept(other)


def test_the_quality_of_what_is_retracted_is_taken_back(tmp_path: Path) -> None:
    """Also of events that are past their horizon; their silence is not learned in its place."""
    label_settings = {"field": "fraud", "horizon": HOUR, "learning": "arrival"}
    engine, judge = (build_scoring(shard(tmp_path, label=label_settings), None) for _ in range(2))
    run(engine, truth)
    told(engine, retract(3, 4, 170))
    for part in engine.history.learned():
        made, _ = engine.learning.made(part.rows)
        over = engine.pending.find(np.ascontiguousarray(part.rows["id"])) < 0
        judge.quality.update(made, part.y, part.rows["alert"])
        judge.matured.update(made[over], part.y[over], part.rows["alert"][over])
    alike(figures(engine), figures(judge))
    assert engine.counts["labels.retracted"] == 3


def test_who_retracts_what_is_on_record_or_told_why_not(tmp_path: Path) -> None:
    """An unknown event, one without a label, one retracted twice are dead letters."""
    engine = build_scoring(shard(tmp_path), None)
    run(engine, truth)
    out = told(engine, retract(3, 3, N - 1, 999))
    assert [(d.record.offset, d.reason) for d in out.dead_letters] == [
        (1, "command"),
        (2, "command"),
        (3, "command"),
    ]
    [record] = [r for r in decoded(list(out.audit)) if r["event"] == "retracted"]
    assert (record["actor"], record["learned"], "id" in record) == ("ops", True, False)


def test_a_label_that_waits_is_retracted_too(tmp_path: Path) -> None:
    """Its event waits for another one."""
    engine = build_scoring(shard(tmp_path), None)
    told(engine, ("labels", [label(1, True)]), retract(1), ("events", [event(1)]))
    assert np.isnan(engine.pending.truth(np.array([0]))).all()


def test_interactions_cannot_be_retracted(tmp_path: Path) -> None:
    """A shard that ranks says so."""
    engine = build_engine(ranking_config(tmp_path), None)
    out = engine.step(Feed().batch(retract(1)))
    assert "interactions are learned as they come" in out.dead_letters[0].error

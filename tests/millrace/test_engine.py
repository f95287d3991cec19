"""The Python package: tables in and out, labels, saved states; the same bits as the service's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import millrace
from stream.run.assemble import build_engine
from stream.state.generations import CheckpointError, list_generations
from tests.support.crafted import change_rest, evil_member
from tests.support.factory import START_MS, Feed, config, event, label, raw_config, truth

ROWS = [event(i) for i in range(60)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration as a file: TOML reads what JSON writes of these tables."""
    path = tmp_path / "c.toml"
    path.write_text(_toml(raw_config(tmp_path)), encoding="utf-8")
    return path


def _toml(raw: dict[str, Any]) -> str:
    return "".join(f"{key} = {_value(value)}\n" for key, value in raw.items())


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(value)


@pytest.fixture
def engine(file: Path) -> millrace.Engine:
    return millrace.load(file)


def test_scores_are_those_of_the_step(tmp_path: Path, engine: millrace.Engine) -> None:
    """A table through the package and the same records through a step give the same bits."""
    got = engine.score(ROWS)
    out = build_engine(config(tmp_path), None).step(Feed().batch(("events", ROWS)))
    expected = [json.loads(r.value or b"") for r in out.scores]
    assert [r["id"] for r in got] == [r["id"] for r in expected]
    assert [r["score"] for r in got] == [r["score"] for r in expected]
    assert [r["score_linear"] for r in got] == [r["members"]["linear"] for r in expected]
    assert [r["error"] for r in got] == [None] * 60


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.Table.from_pylist])
def test_any_table_gives_its_own_kind(file: Path, make: Any) -> None:
    """pandas, polars and Arrow in: the same out, with the very numbers of plain rows."""
    expected = millrace.load(file).score(ROWS)
    got = millrace.load(file).score(make(ROWS))
    assert type(got) is type(make(ROWS))
    assert list(got["score"].to_pylist() if isinstance(got, pa.Table) else got["score"]) == [
        r["score"] for r in expected
    ]


def told(tmp_path: Path, target: dict[str, Any]) -> tuple[list[dict[str, Any]], list[Any]]:
    """What the package says of 60 events once 60 were learned, and the step's records of them."""
    raw = raw_config(
        tmp_path,
        target=target,
        label={"field": "fraud", "horizon": "30d"},
        features=[{"name": "amount", "type": "number", "field": "amount"}],
        members=[{"name": "linear", "type": "logistic"}],
    )
    file = tmp_path / "c.toml"
    file.write_text(_toml(raw), encoding="utf-8")
    engine, feed = millrace.load(file), Feed()
    step = build_engine(config(tmp_path, **raw), None)
    labels = [label(i, i if target["type"] == "number" else "ab"[truth(i)]) for i in range(60)]
    for half in (slice(30), slice(30, 60)):  # nothing is promised by scores made cold
        engine.score(ROWS[half])
        engine.learn([r["id"] for r in labels[half]], [r["fraud"] for r in labels[half]])
        step.step(feed.batch(("events", ROWS[half])))
        step.step(feed.batch(("labels", labels[half])))
    later = [event(i) for i in range(60, 120)]
    made = step.step(feed.batch(("events", later))).scores
    return engine.score(later), [json.loads(r.value or b"") for r in made]


@pytest.mark.parametrize("classes", [{"classes": ["a", "b"]}, {"max_classes": 3}])
def test_classes_are_told_by_prediction_and_probability(
    tmp_path: Path, classes: dict[str, Any]
) -> None:
    """As the records have them; a prediction that is not sure enough is null."""
    target = {"type": "classes", "abstain_below": 0.6} | classes
    got, expected = told(tmp_path, target)
    assert {r["prediction"] for r in got} >= {"a", None}
    assert [r["prediction"] for r in got] == [r["prediction"] for r in expected]
    assert [r["set"] for r in got] == [r["set"] for r in expected]
    assert all(r["set"] for r in got)
    assert [{n: r[f"probability_{n}"] for n in "ab"} for r in got] == [
        r["probabilities"] for r in expected
    ]
    assert [r["prediction_linear"] for r in got] == [r["members"]["linear"] for r in expected]


def test_numbers_are_told_by_the_number(tmp_path: Path) -> None:
    """As the records have them, the members' and the ends of intervals too."""
    got, expected = told(tmp_path, {"type": "number"})
    ends = [None if r["low"] is None else [r["low"], r["high"]] for r in got]
    assert ends == [r["interval"] for r in expected]
    assert None not in ends
    assert [r["score"] for r in got] == [r["score"] for r in expected]
    assert [r["score_linear"] for r in got] == [r["members"]["linear"] for r in expected]


def test_one_event_may_come_alone(engine: millrace.Engine) -> None:
    """A dict is a table of one row; its score is cold before anything was learned."""
    [row] = engine.score(event(0))
    assert (row["id"], row["cold"]) == ("e0", True)
    assert row["event_time"].timestamp() * 1000 == START_MS


def test_a_refused_row_says_why_in_its_place(engine: millrace.Engine) -> None:
    """Rows stay in order; a bad one has no score and a sentence."""
    rows = engine.score([event(0), {"id": "x"}, event(1, amount="much"), event(0)])
    assert [r["score"] is None for r in rows] == [False, True, True, True]
    assert [(r["error"] or "").partition(":")[0] for r in rows] == [
        *("", "schema", "schema", "duplicate_event")
    ]


def test_labels_are_learned_by_id(engine: millrace.Engine) -> None:
    """Columns of ids and truths: joined, early, refused with position and reason."""
    engine.score(ROWS)
    ids = [f"e{i}" for i in range(60)]
    first = engine.learn(pd.Series(ids), np.array([truth(i) for i in range(60)]))
    assert first == (60, 0, [])
    again = engine.learn(["e0", "later", "e1"], [truth(0), True, not truth(1)])
    assert (again.joined, again.early) == (0, 1)
    assert [(at, reason) for at, reason, _ in again.refused] == [
        *((0, "label_duplicate"), (2, "label_conflict"))
    ]
    with pytest.raises(millrace.MillraceError, match="as many labels as ids, got 1 and 2"):
        engine.learn(["a", "b"], [True])


def test_labels_take_the_place_of_older_ones_where_they_say_so(engine: millrace.Engine) -> None:
    """What was told stands corrected; the same truth again is refused."""
    engine.score(ROWS)
    engine.learn(["e0", "e1"], [truth(0), truth(1)])
    again = engine.learn(["e0", "e1"], [not truth(0), truth(1)], corrects=True)
    assert again.joined == 1
    assert [(at, reason) for at, reason, _ in again.refused] == [(1, "label_duplicate")]


def test_it_learns(engine: millrace.Engine) -> None:
    """After some labels a large amount scores above a small one."""
    for start in range(0, 2000, 200):
        some = range(start, start + 200)
        engine.score([event(i) for i in some])
        engine.learn([f"e{i}" for i in some], [truth(i) for i in some])
    low, high = engine.score([event(9000, amount=12.0), event(9001, amount=190.0)])
    assert high["score_linear"] > low["score_linear"]
    assert not high["cold"]


def test_a_saved_engine_goes_on_bit_for_bit(engine: millrace.Engine, tmp_path: Path) -> None:
    """Opened again it scores as the one that was saved, and knows the events that wait."""
    engine.score(ROWS)
    engine.learn(["e0", "e1"], [True, False])
    for _ in range(2):  # saving twice at the same step is no fault
        engine.save(tmp_path / "saved")
    again = millrace.open(tmp_path / "saved")
    more = [event(i) for i in range(100, 140)]
    assert again.score(more) == engine.score(more)
    assert again.learn(["e2"], [True]) == engine.learn(["e2"], [True]) == (1, 0, [])


def test_what_a_saved_state_names_runs_only_under_the_given_configuration(
    tmp_path: Path,
) -> None:
    """A crafted directory runs nothing; a River member needs the file that it was made of."""
    members = [{"name": "bayes", "type": "river", "model": "river.naive_bayes.GaussianNB"}]
    (tmp_path / "c.toml").write_text(_toml(raw_config(tmp_path, members=members)))
    engine = millrace.load(tmp_path / "c.toml")
    engine.score(ROWS)
    engine.save(tmp_path / "saved")
    with pytest.raises(CheckpointError, match=r"'bayes' names code to run; give the config"):
        millrace.open(tmp_path / "saved")
    again = millrace.open(tmp_path / "saved", tmp_path / "c.toml")
    assert again.score([event(500)]) == engine.score([event(500)])
    mark = evil_member(list_generations(tmp_path / "saved")[0], tmp_path)
    for given in (None, tmp_path / "c.toml"):
        with pytest.raises(CheckpointError):
            millrace.open(tmp_path / "saved", given)
    assert not mark.exists()


def test_a_saved_state_that_cannot_be_restored_is_set_aside(
    engine: millrace.Engine, tmp_path: Path
) -> None:
    """The one before is opened."""
    engine.score(ROWS)
    engine.save(tmp_path / "saved")
    engine.score([event(500)])
    engine.save(tmp_path / "saved")
    change_rest(list_generations(tmp_path / "saved")[0], lambda rest: rest.update(counts=7))
    again = millrace.open(tmp_path / "saved")
    assert again.score([event(500)])[0]["error"] is None


def test_nothing_saved_is_told(tmp_path: Path) -> None:
    """A directory that is none, or holds nothing, is an error with its path."""
    with pytest.raises(CheckpointError, match="expected a directory that Engine"):
        millrace.open(tmp_path / "none")
    with pytest.raises(CheckpointError, match="expected a saved state"):
        millrace.open(tmp_path)


def test_evaluate_leaves_the_engine_alone(engine: millrace.Engine) -> None:
    """It plays the table through a new engine: the figures of `millrace evaluate`."""
    rows = [event(i) | {"fraud": truth(i)} for i in range(3000)]
    found = engine.evaluate(pd.DataFrame(rows), label_delay="1h")
    assert found["labels"] == found["scores"] == 3000
    assert found["quality"]["linear"]["roc_auc"] > 0.9
    apart = engine.evaluate(
        [event(i) for i in range(3000)],
        label_delay="1h",
        labels=[label(i) for i in range(3000)],
    )
    assert apart["quality"] == found["quality"]
    [row] = engine.score(event(0))
    assert row["cold"]


def test_what_is_no_table_is_refused(engine: millrace.Engine) -> None:
    """The error names what was expected and the type that came."""
    with pytest.raises(millrace.MillraceError, match="list of dicts, got int"):
        engine.score(7)


def test_a_shadowed_package_is_told_by_its_path(tmp_path: Path) -> None:
    """A user's own models.py comes first: the import names it and says what to do."""
    (tmp_path / "models.py").write_text("x = 1\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", "import millrace"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert str(tmp_path / "models.py") in done.stderr
    assert "rename that file or folder" in done.stderr

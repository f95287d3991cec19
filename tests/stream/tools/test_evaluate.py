"""What `millrace evaluate` says of a file: all of it, and nothing that is not so."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from sklearn.metrics import roc_auc_score

from stream.cli.terminal import print_quality
from stream.settings.schema import Config
from stream.tools.evaluate import evaluate_file
from stream.tools.refused import TOLD
from tests.support.factory import (
    DAY_MS,
    HOUR_MS,
    START_MS,
    config,
    event,
    raw_config,
    to_json,
    truth,
)

MINUTE_MS = 60_000


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_bytes(b"\n".join(map(to_json, rows)) + b"\n")
    return path


def rows_of(n: int, gap_ms: int = 10 * MINUTE_MS) -> list[dict[str, Any]]:
    return [event(i, START_MS + i * gap_ms) | {"fraud": truth(i)} for i in range(n)]


def evaluated(c: Config, data: Path, delay: str | None = "1d", **options: Any) -> dict[str, Any]:
    """The summary, as strict JSON has it."""
    options = {"scores_out": None, "batch": 512, "console": Console(stderr=True)} | options
    summary = evaluate_file(c, data, delay, **options)
    json.dumps(summary, allow_nan=False)
    return summary


@pytest.mark.parametrize("per_second", [1, 1000])
def test_times_of_another_unit_are_told(tmp_path: Path, per_second: int) -> None:
    """Seconds that are read as milliseconds lie in 1970: with what was expected."""
    rows = [row | {"time": row["time"] * per_second // 1000} for row in rows_of(20)]
    notes = evaluated(config(tmp_path), write(tmp_path / "d.jsonl", rows))["notes"]
    told = [n for n in notes if n.startswith("event times lie between 1970-01-2")]
    assert len(told) == (per_second == 1)
    assert all("event.time_format = 'ms'" in n for n in told)


@pytest.mark.parametrize(
    ("label", "joined", "reasons"),
    [
        ("1", 1, {}),
        ("true", 1, {}),
        ('"1"', 1, {}),
        ("1.0", 0, {"schema": 1}),
        ('"Y"', 0, {"label_value": 1}),
        ('"True"', 0, {"label_value": 1}),
        ('""', 0, {"label_value": 1}),
        ("[1]", 0, {"schema": 1}),
        ("null", 0, {}),
    ],
)
def test_a_label_is_what_the_service_takes_it_for(
    tmp_path: Path, label: str, joined: int, reasons: dict[str, int]
) -> None:
    """Joined, or a dead letter with its reason; null is no label, and that is told."""
    data = tmp_path / "d.jsonl"
    row = to_json(event(1))[:-1] + f',"fraud":{label}}}'.encode()
    data.write_bytes(row)
    found = evaluated(config(tmp_path), data)
    assert (found["labels"], found["dead_letter_reasons"]) == (joined, reasons)
    assert found["without_label"] == 1 - joined
    assert ("no row has a label: there is nothing to judge" in found["notes"]) == (not joined)


@pytest.mark.parametrize(
    ("rows", "note"),
    [
        (rows_of(1), "every judged row was scored before anything was learned"),
        ([r | {"fraud": None} for r in rows_of(30)], "no row has a label"),
        ([r | {"fraud": False} for r in rows_of(400)], "judged rows are negative"),
        ([r | {"fraud": True} for r in rows_of(400)], "judged rows are positive"),
    ],
)
def test_what_cannot_be_judged_is_said(
    tmp_path: Path, rows: list[dict[str, Any]], note: str
) -> None:
    """No label, one class or one row: null in the JSON, and a sentence."""
    found = evaluated(config(tmp_path), write(tmp_path / "d.jsonl", rows))
    assert found["quality"]["ensemble"]["roc_auc"] is None
    assert found["scores"] == len(rows)
    assert any(note in n for n in found["notes"])


def test_rows_that_nothing_was_learned_for_are_judged_apart(tmp_path: Path) -> None:
    """Those scored before the first label; the figures are of the others."""
    scores = tmp_path / "s.parquet"
    data = write(tmp_path / "d.jsonl", rows_of(600))
    found = evaluated(config(tmp_path), data, scores_out=scores)
    table = pq.read_table(scores).to_pydict()
    cold = np.array(table["cold"])
    assert found["unlearned"]["scores"] == found["unlearned"]["judged"] == cold.sum() > 100
    assert found["judged"] == 600 - cold.sum()
    y, p = np.array(table["label"])[~cold], np.array(table["score"])[~cold]
    assert found["quality"]["ensemble"]["roc_auc"] == pytest.approx(roc_auc_score(y, p), abs=1e-6)
    assert any("before anything was learned" in n for n in found["notes"])


RAISES = {
    "name": "rus",
    "type": "river",
    "model": "river.imblearn.RandomUnderSampler",
    "desired_dist": {"a": 0.5, "b": 0.5},
    "classifier": {"model": "river.linear_model.LogisticRegression"},
}


def test_a_member_that_failed_is_told(tmp_path: Path) -> None:
    """State, error and since when; it has no figures, and no score in the file."""
    c = config(tmp_path, members=[RAISES, {"name": "linear", "type": "logistic"}])
    scores = tmp_path / "s.parquet"
    found = evaluated(c, write(tmp_path / "d.jsonl", rows_of(400)), scores_out=scores)
    assert found["quality"]["rus"]["roc_auc"] is None
    assert found["quality"]["linear"]["roc_auc"] is not None
    member = found["members"]["rus"]
    assert (member["state"], member["step"]) == ("quarantined", 3)
    assert "KeyError" in member["error"]
    assert member["since"].startswith("2026-01-02")
    assert found["members"]["linear"]["state"] == "working"
    assert pq.read_table(scores)["score_rus"].null_count == found["judged"]
    console = Console(width=80, record=True, file=io.StringIO())
    print_quality(console, found)
    assert "rus (failed)" in console.export_text()


def test_the_first_dead_letters_are_told_with_their_rows(tmp_path: Path) -> None:
    """Field, row, what was got, what to write; all of them stand in the file."""
    rows = rows_of(20)
    for i in (3, 5, 6, 9, 11, 12, 13):
        rows[i]["amount"] = "$3.50"
    letters = tmp_path / "letters.jsonl"
    data = write(tmp_path / "d.jsonl", rows)
    found = evaluated(config(tmp_path), data, dead_letters_out=letters)
    first = found["first_dead_letters"]
    assert [x["row"] for x in first] == [4, 6, 7, 10, 12]
    assert len(first) == TOLD
    assert first[0] == {
        "reason": "schema",
        "error": "Expected `float`, got `str` - at `$.amount`",
        "row": 4,
        "file": str(data),
        "field": "amount",
        "got": '"$3.50"',
        "advice": "write a number without currency or separators or, if it is text:"
        ' [event.fields] amount = "category"',
    }
    written = [msgspec.json.decode(line) for line in letters.read_bytes().splitlines()]
    assert [w["row"] for w in written] == [4, 6, 7, 10, 12, 13, 14]
    assert set(written[0]) == {"reason", "error", "row", "file", "raw"}
    assert json.loads(written[0]["raw"]) == rows[3]


@pytest.mark.parametrize(
    ("changes", "field", "got", "advice"),
    [
        ({"time": "2026-01-01T00:00:00Z"}, "time", '"2026-01-01', 'time_format = "rfc3339"'),
        ({"time": 1767225600.5}, "time", "1767225600.5", 'time_format = "s"'),
        ({"time": "01.02.2026"}, "time", '"01.02.2026"', "write it as 1767225600250"),
        ({"time": None}, "time", "null", "write it as"),
        ({"amount": "1.234,5"}, "amount", '"1.234,5"', 'decimal = ",", thousands = "."'),
        ({"amount": "12.5"}, "amount", '"12.5"', '{ kind = "number", decimal = "." }'),
        ({"id": None}, "id", "null", ""),
        ({"amount": None}, "amount", "null", 'amount = { kind = "number", required = false }'),
        ({"customer": 1.5}, "customer", "1.5", "text or a whole number"),
    ],
)
def test_a_field_that_does_not_fit_is_explained(
    tmp_path: Path, changes: dict[str, Any], field: str, got: str, advice: str
) -> None:
    """Which field, what was got, what to write in the configuration."""
    data = write(tmp_path / "d.jsonl", [event(i) | changes for i in range(3)])
    found = evaluated(config(tmp_path), data)
    assert found["scores"] == 0
    assert found["notes"][0] == "nothing could be scored of 3 rows"
    told = found["first_dead_letters"][0]
    assert told["field"] == field
    assert told["got"].startswith(got)
    assert advice in told.get("advice", "")


@pytest.mark.parametrize(
    ("truth", "advice"),
    [
        ("12,5", 'or say how it is: [label] decimal = ",", thousands = "."'),
        ("soon", "write a number in 0..99 without currency or separators"),
        (-1, "write a number in 0..99 without currency or separators"),
        (True, "write a number in 0..99 without currency or separators"),
    ],
)
def test_the_truth_of_a_number_that_is_none_is_explained(
    tmp_path: Path, truth: Any, advice: str
) -> None:
    """By what a number is, not by what yes or no are."""
    linear = [{"name": "linear", "type": "logistic"}]
    amount = [{"name": "amount", "type": "number", "field": "amount"}]
    target = {"type": "number", "minimum": 0, "maximum": 99}
    c = config(tmp_path, target=target, members=linear, features=amount)
    data = write(tmp_path / "d.jsonl", [event(i) | {"fraud": truth} for i in range(3)])
    told = evaluated(c, data)["first_dead_letters"][0]
    assert told["advice"].endswith(advice)


@pytest.mark.parametrize(
    ("target", "advice"),
    [
        ({"type": "binary"}, 'such as "blocked" = 1'),
        (
            {"type": "classes", "classes": ["paid", "lost"]},
            "add it to target.classes, or say under [label.values] which class it is of, such as "
            '"blocked" = "paid"',
        ),
    ],
)
def test_a_truth_that_is_none_is_explained(
    tmp_path: Path, target: dict[str, Any], advice: str
) -> None:
    """What its value may be said to mean."""
    linear = [{"name": "linear", "type": "logistic"}]
    amount = [{"name": "amount", "type": "number", "field": "amount"}]
    c = config(tmp_path, target=target, members=linear, features=amount)
    data = write(tmp_path / "d.jsonl", [event(i) | {"fraud": "blocked"} for i in range(3)])
    told = evaluated(c, data)["first_dead_letters"][0]
    assert told["reason"] == "label_value"
    assert told["advice"].endswith(advice)


@pytest.mark.parametrize("field", ["id", "time", "amount"])
def test_a_field_that_is_missing_is_explained(tmp_path: Path, field: str) -> None:
    """The fields that the row has are named."""
    row = {("zz" if k == field else k): v for k, v in event(1).items()}
    data = write(tmp_path / "d.jsonl", [row])
    told = evaluated(config(tmp_path), data)["first_dead_letters"][0]
    assert (told["field"], told["got"]) == (field, "none")
    assert "the row has" in told["advice"]
    assert "zz" in told["advice"]


def test_an_object_that_is_missing_is_explained(tmp_path: Path) -> None:
    """What is read in it is what is missing: with where to say it, and what the row has."""
    flat = {"uid": "e1", "fraud": True}
    path = write(tmp_path / "l.jsonl", [flat])
    c = config(tmp_path, event=raw_config(tmp_path)["event"] | {"id": "meta.uid"})
    nested = [{"meta": {"uid": "e1"}} | {k: v for k, v in event(1).items() if k != "id"}]
    found = evaluated(c, write(tmp_path / "d.jsonl", nested), labels=path)
    (told,) = found["first_dead_letters"]
    assert (told["file"], told["field"], told["got"]) == (str(path), "meta.uid", "none")
    assert told["advice"] == 'name the field: [label] event_id = "..."; the row has uid, fraud'


def test_labels_may_stand_in_a_file_of_their_own(tmp_path: Path) -> None:
    """In any order, by id and time: the same labels, the same run as in the events' rows."""
    label = {"field": "fraud", "event_id": "of", "time": "told", "time_format": "s"}
    rows = rows_of(300)
    told = [(r["time"] + 7 * HOUR_MS) / 1000 for r in rows]
    inside = [r | {"told": t} for r, t in zip(rows, told, strict=True)]
    together = evaluated(
        config(tmp_path, label=label), write(tmp_path / "a.jsonl", inside), delay=None
    )
    apart = [
        {"of": r["id"], "fraud": r.pop("fraud"), "told": t} for r, t in zip(rows, told, strict=True)
    ]
    order = np.random.default_rng(1).permutation(300)
    found = evaluated(
        config(tmp_path, label=label),
        write(tmp_path / "b.jsonl", rows),
        delay=None,
        labels=write(tmp_path / "l.jsonl", [apart[i] for i in order]),
    )
    assert found["digest"] == together["digest"]
    assert found["labels"] == found["labelled"] == 300


def test_labels_of_nobody_are_told(tmp_path: Path) -> None:
    """A label in a file of its own whose event never comes, and one that cannot be read."""
    rows = rows_of(5)
    labels = [{"id": "e1", "fraud": True}, {"id": "x", "fraud": True}, {"id": "e2", "fraud": "?"}]
    path = write(tmp_path / "l.jsonl", labels)
    found = evaluated(config(tmp_path), write(tmp_path / "d.jsonl", rows), labels=path)
    assert (found["labels"], found["labels_without_event"]) == (1, 1)
    assert "1 label found no event" in found["notes"]
    told = found["first_dead_letters"][0]
    assert (told["reason"], told["file"], told["row"]) == ("label_value", str(path), 3)


def test_a_label_without_its_time_is_never_learned(tmp_path: Path) -> None:
    """Nobody knows when it came: told, and released by --label-delay."""
    c = config(tmp_path, label={"field": "fraud", "time": "told"})
    data = write(tmp_path / "d.jsonl", [r | {"told": None} for r in rows_of(10)])
    found = evaluated(c, data, delay=None)
    assert (found["labels"], found["labels_without_time"], found["labelled"]) == (0, 10, 10)
    assert any("had no label.time" in n for n in found["notes"])
    assert evaluated(c, data)["labels"] == 10


@pytest.mark.parametrize("label_format", ["s", "ms", "rfc3339"])
def test_label_times_have_a_format_of_their_own(tmp_path: Path, label_format: str) -> None:
    """Timestamps of a Parquet file are written as each column is read."""
    label = {"field": "fraud", "time": "told", "time_format": label_format}
    rows = rows_of(300)
    columns: dict[str, Any] = {k: [r[k] for r in rows] for k in rows[0]}
    columns["time"] = pa.array(columns["time"], pa.timestamp("ms"))
    told = np.array([r["time"] + DAY_MS for r in rows])
    columns["told"] = pa.array(told, pa.timestamp("ms"))
    path = tmp_path / "d.parquet"
    pq.write_table(pa.table(columns), path)
    found = evaluated(config(tmp_path, label=label), path, delay=None)
    assert (found["labels"], found["dead_letters"]) == (300, 0)


def test_the_table_keeps_whole_names(tmp_path: Path) -> None:
    """In 80 columns, and of a member with a long name."""
    name = "a_member_with_a_name_that_is_far_too_long_for_a_table"
    c = config(tmp_path, members=[{"name": name, "type": "logistic"}])
    found = evaluated(c, write(tmp_path / "d.jsonl", rows_of(300)))
    console = Console(width=80, record=True, file=io.StringIO())
    print_quality(console, found)
    text = console.export_text()
    for word in (name, "ensemble", "roc_auc", "pr_auc", "precision", "accuracy", "log_loss"):
        assert word in text
    assert "…" not in text

"""`millrace init`: its drafts pass `check`, take the file's rows, and say what was guessed."""

from __future__ import annotations

import csv
import io
import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from models.base import MillraceError
from stream.cli.main import app
from stream.demo.player import write_jsonl
from stream.demo.simulator import Simulator
from stream.run.assemble import build_engine
from stream.settings.load import parse
from stream.settings.schema import Config
from stream.tools.draft.text import draft
from stream.tools.evaluate import Evaluation, rows_of
from stream.tools.ranking.interactions import played

N = 300


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def drafted(path: Path, label: str | None = None) -> tuple[Config, dict[str, Any]]:
    """The configuration, and a whole run of the engine over the file."""
    made = draft(path, label)
    assert made.refused == 0, made.text
    c = parse(tomllib.loads(made.text), "draft")
    summary = Evaluation(c, build_engine(c, None), None, 64).run(rows_of(c, path), lambda n: None)
    assert summary["dead_letters"] == 0
    return c, summary


def payment(i: int, **more: Any) -> dict[str, Any]:
    return {
        "id": f"p{i}",
        "created_at": f"2026-01-{1 + i // 24 % 28:02}T{i % 24:02}:00:00Z",
        "amount": 1.5 * (i % 97) ** 2,
        "card": f"c{i % 40}",
        "country": ("DE", "FR", "NL")[i % 3],
        "online": i % 2 == 0,
    } | more


def test_payments(tmp_path: Path) -> None:
    """Types, keys, time, label, and windows of keys over the amount."""
    rows = [payment(i, is_fraud="Y" if i % 9 == 0 else "N") for i in range(N)]
    c, summary = drafted(jsonl(tmp_path / "pay ments!.jsonl", rows))
    kinds = {name: f.kind for name, f in c.event.fields.items()}
    assert kinds == {"amount": "number", "card": "entity", "country": "category",
                     "online": "boolean"}  # fmt: skip
    assert (c.event.id, c.event.time, c.event.time_format) == ("id", "created_at", "rfc3339")
    assert (c.label.field, c.label.values) == ("is_fraud", {"N": 0, "Y": 1})
    (window,) = [f for f in c.features if f.type == "window"]
    assert (window.entity, window.value) == ("card", "amount")
    assert summary["labels"] == N


def test_a_column_that_gives_the_label_away_is_not_used(tmp_path: Path) -> None:
    """What is known only once the truth is would make every score look perfect."""
    rows = [
        payment(i, fraud=i % 9 == 0, how=i % 18 // 9 + 1 if i % 9 == 0 else 0) for i in range(N)
    ]
    c, _ = drafted(jsonl(tmp_path / "a.jsonl", rows))
    assert c.event.fields["how"].kind == "text"


def test_clicks_in_csv_with_epoch_seconds_and_no_label(tmp_path: Path) -> None:
    """A key made of whole numbers; that no label was found is said."""
    out = io.StringIO()
    table = csv.writer(out)
    table.writerow(["event_id", "ts", "user_id", "page", "price"])
    table.writerows(
        [i, 1767225600 + 60 * i, i % 50, f"page {i % 7}", f"{i * 31 % 5000:,}.50"] for i in range(N)
    )
    path = tmp_path / "clicks.csv"
    path.write_text(out.getvalue(), encoding="utf-8")
    c, summary = drafted(path)
    assert c.event.time_format == "s"
    assert c.event.fields["user_id"].kind == "entity"
    assert (c.event.fields["price"].decimal, c.event.fields["price"].thousands) == (".", ",")
    assert "No column looks like the truth" in draft(path).text
    assert summary["scores"] == N


@pytest.mark.parametrize(
    ("label", "values", "kind"),
    [
        ("paid", lambda i: i % 9 == 0, "binary"),
        ("team", lambda i: ("a", "b", "c")[i % 3] if i % 7 else None, "classes"),
        ("minutes", lambda i: 3.5 + i * 31 % 50, "number"),
        ("Minuten", lambda i: f"1.{i * 31 % 50 + 100},5" if i % 5 else None, "number"),
        ("stars", lambda i: 1 + i % 5, "number"),
        ("queue code", lambda i: 100 + i % 4, "classes"),
    ],
)
def test_a_truth_that_is_named_may_be_of_any_kind(
    tmp_path: Path, label: str, values: Callable[[int], Any], kind: str
) -> None:
    """Two values are yes and no, numbers a number, a few texts or codes are classes."""
    rows = [payment(i) | {"truth": {label: values(i)}} for i in range(N)]
    c, summary = drafted(jsonl(tmp_path / "a.jsonl", rows), f"truth.{label}")
    assert c.target.type == summary["target"] == kind
    truths = {values(i) for i in range(N)} - {None}
    if kind == "classes":
        assert list(c.target.classes) == sorted(map(str, truths))
    assert summary["labels"] == sum(values(i) is not None for i in range(N))
    assert f"truth.{label}" not in c.event.fields


@pytest.mark.parametrize(
    ("label", "values", "told"),
    [
        ("nothing", lambda i: i % 2, "expected a column beside id and time; it has 'id'"),
        ("id", lambda i: i % 2, "expected numbers, or at most 50 classes"),
        ("truth", lambda i: 7, "expected two values at least, got 1"),
        ("truth", lambda i: f"word {i}", "expected numbers, or at most 50 classes"),
    ],
)
def test_what_can_be_no_truth_is_refused(
    tmp_path: Path, label: str, values: Callable[[int], Any], told: str
) -> None:
    """With what was expected."""
    path = jsonl(
        tmp_path / "a.jsonl", [payment(i) | {"n": i, "truth": values(i)} for i in range(N)]
    )
    with pytest.raises(MillraceError, match=re.escape(told)):
        draft(path, label)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_cells_stand_between_what_the_first_line_has(tmp_path: Path, separator: str) -> None:
    """As spreadsheets write them; codes that begin with a zero are no numbers."""
    path = tmp_path / "a.csv"
    lines = [["Nr", "at", "weight", "zip", "paid"]]
    for i in range(N):
        weight = f"{i % 30}.5" if separator == "," else f"{i % 30},5"
        lines.append([f"A-{i}", f"{1 + i // 24:02}.01.2026 {i % 24:02}:00", weight,
                      ("80331", "04109")[i % 2], "yn"[i % 97 > 30]])  # fmt: skip
    path.write_text("\ufeff" + "".join(separator.join(line) + "\n" for line in lines), "utf-8")
    c, summary = drafted(path, "paid")
    assert (c.event.id, c.event.time) == ("Nr", "at")
    assert {name: f.kind for name, f in c.event.fields.items()} == {
        "weight": "number",
        "zip": "category",
    }
    assert summary["scores"] == summary["labels"] == N
    c, summary = drafted(path, "weight")
    assert (c.target.type, c.label.decimal) == ("number", None if separator == "," else ",")
    assert (summary["labels"], summary["scores"]) == (N, N)


def test_nested_parquet_and_names_with_odd_characters(tmp_path: Path) -> None:
    """Structs are read by path; names that are no plain words are quoted."""
    rows = [
        {"meta": {"uuid": f"u{i}", "at": 1767225600000 + i}, "a.b/c": float(i),
         "naïve ☃": i % 3 > 1,
         "who": {"card": f"c{i % 30}", "a.b/c": f"k{i % 3}"}}
        for i in range(N)
    ]  # fmt: skip
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    c, _ = drafted(path)
    assert (c.event.id, c.event.time) == ("meta.uuid", "meta.at")
    assert c.event.place("who.a.b/c") == ("who", "a.b/c")
    assert c.event.place("a.b/c") == ("a.b/c",)
    assert c.event.fields["naïve ☃"].kind == "boolean"


@pytest.mark.parametrize(
    ("clock", "pattern"),
    [("%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M"), ("%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M:%S")],
)
def test_a_time_in_a_pattern_gets_a_zone_to_correct(
    tmp_path: Path, clock: str, pattern: str
) -> None:
    """Which zone wrote it no value says: UTC, as a guess."""
    import datetime as dt

    start = dt.datetime(2026, 1, 1)
    rows = [
        {"key": i, "when": (start + dt.timedelta(hours=7 * i)).strftime(clock), "x": i / 7}
        for i in range(N)
    ]
    c, _ = drafted(jsonl(tmp_path / "a.jsonl", [{**r, "date": r.pop("when")} for r in rows]))
    assert (c.event.time_format, c.event.time_zone) == (pattern, "UTC")


def test_a_file_in_another_language(tmp_path: Path) -> None:
    """The rarer of two unknown words is yes; the label's time is read by the event's clock; long
    numbers are keys, and who is told of no label is asked for one."""
    path = tmp_path / "buchungen.csv"
    header = "Nr.;Zeitpunkt;Betrag;Karte;Fraude;Reported"
    rows = [
        f"B{i};{1 + i // 24 % 28:02}.01.2026 {i % 24:02}:00;{i * 37 % 3000},5;"
        f"{4 * 10**15 + i % 40};"
        + (f"oui;{1 + i // 24 % 28:02}.02.2026 09:00" if i % 9 == 0 else "non;")
        for i in range(N)
    ]
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    c, summary = drafted(path, "Fraude")
    assert c.label.values == {"non": 0, "oui": 1}
    assert (c.label.time, c.label.time_format) == ("Reported", c.event.time_format)
    assert (c.event.time_format, c.event.time_zone) == ("%d.%m.%Y %H:%M", "UTC")
    assert c.event.fields["Karte"].kind == "entity"
    assert summary["labels_without_time"] == sum(i % 9 != 0 for i in range(N))
    assert "a guess: the rarer one" in draft(path, "Fraude").text
    told = CliRunner().invoke(app, ["init", "--data", str(path), "--out", str(tmp_path / "c.toml")])
    assert told.exit_code == 0
    assert "no column looks like the truth: --label COLUMN" not in told.output
    path.write_text(path.read_text().replace("Fraude", "Betrug"))
    told = CliRunner().invoke(app, ["init", "--data", str(path), "--out", str(tmp_path / "d.toml")])
    assert "no column looks like the truth: --label COLUMN" in told.output


def test_what_the_simulator_writes(tmp_path: Path) -> None:
    """With its label's time, which is no feature."""
    path = tmp_path / "payments.jsonl"
    write_jsonl(path, Simulator(seed=3, events=2000))
    c, summary = drafted(path)
    assert (c.label.field, c.label.time) == ("fraud", "reported_at")
    assert "reported_at" not in c.event.fields
    assert summary["labels"] > 0


@pytest.mark.parametrize(
    ("row", "missing"),
    [
        (lambda i: {"x": i / 7}, "no column is a time in every row"),
        (lambda i: {"a": f"t{i}", "b": f"u{i % 9}"}, "no column is a time in every row"),
        (lambda i: {"time": 1767225600, "x": 0.5}, "no column has a text or whole number"),
        (lambda i: {"time": 1767225600, "id": i}, "there is nothing to learn from"),
        (lambda i: {"time": 1767225600, "id": i, "t": "x" * 99 + str(i)}, "nothing to learn from"),
        (lambda i: [i], "expected rows of JSON objects"),
        (lambda i: {}, "expected rows of JSON objects"),
    ],
)
def test_what_is_missing_is_said(tmp_path: Path, row: Any, missing: str) -> None:
    """In one sentence, with the columns there are."""
    with pytest.raises(MillraceError, match=missing):
        draft(jsonl(tmp_path / "a.jsonl", [row(i) for i in range(N)]))


HOSTILE = st.text(max_size=12) | st.sampled_from(
    [
        '"]\n[log]\ntype="kafka"',
        "'''",
        '"""',
        "\\u0000",
        "#",
        "[[members]]",
        "\x7f\u202e",
        "=",
        "a.b",
    ]
)


@given(names=st.lists(HOSTILE, min_size=1, max_size=5, unique=True), values=st.lists(HOSTILE),
       deep=st.booleans())  # fmt: skip
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_hostile_names_and_values_change_nothing_else(
    tmp_path: Path, names: list[str], values: list[str], deep: bool
) -> None:
    """The text is TOML that says what it would say of harmless ones."""
    odd: dict[str, Any] = {
        n: (values[i % len(values)] if values else None) for i, n in enumerate(names)
    }
    odd = {"in": odd} if deep else {k: v for k, v in odd.items() if k not in ("id", "time", "x")}
    rows = [{"id": f"i{i}", "time": 1767225600000 + i, "x": i / 7} | odd for i in range(30)]
    made = draft(jsonl(tmp_path / "a.jsonl", rows))
    assert made.refused == 0
    raw = tomllib.loads(made.text)
    assert raw["log"]["type"] == "embedded"
    assert [m["type"] for m in raw["members"]] == ["logistic", "forest"]
    assert (raw["event"]["id"], raw["event"]["time"]) == ("id", "time")


def test_the_command_writes_a_file_once(tmp_path: Path) -> None:
    """It says what to do next; what is there stays as it is."""
    data = jsonl(tmp_path / "a.jsonl", [payment(i) for i in range(N)])
    out = tmp_path / "a.toml"
    arguments = ["init", "--data", str(data), "--out", str(out)]
    told = CliRunner().invoke(app, arguments)
    assert told.exit_code == 0, told.output
    assert f"drafted from {N} rows" in told.output
    text = out.read_text(encoding="utf-8")
    assert CliRunner().invoke(app, ["init", "--data", str(data)]).stdout == text
    assert CliRunner().invoke(app, arguments).exit_code == 3
    assert out.read_text(encoding="utf-8") == text
    assert CliRunner().invoke(app, ["check", str(out)]).exit_code == 0


@pytest.mark.parametrize("again", [True, False])
def test_users_and_items_become_a_ranking(tmp_path: Path, again: bool) -> None:
    """Columns by their names, whether people come back to items, and ratings; it can be judged."""
    path = tmp_path / "plays.csv"
    lines = [
        f"{i % 23},song-{i % 9 if again else i},{('play', 'like')[i % 5 == 0]},{1 + i % 5},{at}"
        for i, at in enumerate(range(1767225600, 1767225600 + 60 * N, 60))
    ]
    path.write_text("listener_account,song,action,stars,timestamp\n" + "\n".join(lines) + "\n")
    made = draft(path, item="song")
    c = parse(tomllib.loads(made.text), "draft")
    assert c.reco is not None
    table = c.reco.table
    assert (table.user, table.item, table.type) == ("listener_account", "song", "action")
    assert (table.value, table.time, c.event.time_format) == ("stars", "timestamp", "s")
    assert c.reco.ratings is not None
    assert c.reco.seen == ("include" if again else "exclude")
    assert "# positive = { like = 1, play = 1 }" in made.text
    done = played(c, path)
    assert (len(done.records), done.types) == (N, {"play": N - N // 5, "like": N // 5})


def test_a_ranking_needs_an_item_and_somebody(tmp_path: Path) -> None:
    """What is missing is said, and of a file without ids what to add."""
    path = tmp_path / "visits.csv"
    rows = "".join(f"p{i % 7},c{i % 5},{1767225600 + i}\n" for i in range(N))
    path.write_text("page,visitor,time\n" + rows)
    with pytest.raises(MillraceError, match=r"unique id.*--item page"):
        draft(path)
    with pytest.raises(MillraceError, match="--item film: expected a column"):
        draft(path, item="film")
    path.write_text("page,where,time\n" + rows)
    with pytest.raises(MillraceError, match="named as a user or a session"):
        draft(path, item="page")

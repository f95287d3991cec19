"""Files in and out: every row arrives as the JSON a producer would have sent."""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import io
import json
import math
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream.demo.player import write_jsonl
from stream.demo.simulator import Simulator
from stream.tools.files import FileError, ScoresWriter, count_rows, kind_of, read_rows

on_disk = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def rows(path: Path, **options: Any) -> list[Any]:
    """All rows of a file, decoded; JSON with NaN or a repeated name is refused."""

    def refuse(text: str) -> float:
        raise AssertionError(f"{text} is no JSON")

    return [
        json.loads(row, parse_constant=refuse)
        for batch in read_rows(path, **options)
        for row in batch
    ]


def parquet(path: Path, columns: dict[str, pa.Array]) -> Path:
    """A Parquet file of these columns."""
    pq.write_table(pa.table(columns), path)
    return path


def text_file(path: Path, text: str | bytes) -> Path:
    """A file of this text, compressed if its name says so."""
    raw = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.jsonl.gz", "A.JSONL"])
def test_json_lines_pass_as_they_stand(tmp_path: Path, name: str) -> None:
    """Every line is handed on byte for byte, malformed ones too; empty lines are left out."""
    path = tmp_path / name
    raw = b'{"a": 1}\n\n  \nnot json\r\n{"b":2}'
    path.write_bytes(gzip.compress(raw) if name.endswith("gz") else raw)
    assert list(read_rows(path, 2)) == [[b'{"a": 1}', b"not json"], [b'{"b":2}']]


def test_simulated_files_come_back_whole(tmp_path: Path) -> None:
    """What write_jsonl writes is counted and read row for row."""
    path = tmp_path / "payments.jsonl"
    told: list[int] = []
    write_jsonl(path, Simulator(1, customers=50, terminals=20, events=5000), told.append)
    assert sum(told) == count_rows(path) == 5000
    read = rows(path, batch_rows=1000)
    assert [r["payment_id"] for r in read] == [f"p1-{i}" for i in range(5000)]
    assert {type(r["fraud"]) for r in read} == {bool}


CELLS: dict[str, tuple[pa.Array, list[Any]]] = {
    "int64": (pa.array([2**62, None, -1]), [2**62, None, -1]),
    "uint64": (pa.array([2**64 - 1, 0, None], pa.uint64()), [2**64 - 1, 0, None]),
    "float64": (pa.array([0.1, math.nan, math.inf]), [0.1, None, None]),
    "float32": (pa.array([0.1, -math.inf, 2.5], pa.float32()), [0.1, None, 2.5]),
    "float16": (pa.array(np.array([0.5, 1, 2], np.float16)), [0.5, 1, 2]),
    "bool": (pa.array([True, False, None]), [True, False, None]),
    "null": (pa.nulls(3), [None, None, None]),
    "decimal": (pa.array([Decimal("12.30"), Decimal("-0.01"), None]), [12.3, -0.01, None]),
    "dictionary": (pa.array(["x", None, "y"]).dictionary_encode(), ["x", None, "y"]),
    "text": (pa.array(['say "hi"\n', "é\\", None]), ['say "hi"\n', "é\\", None]),
    "large text": (pa.array(["a", "b", "c"], pa.large_string()), ["a", "b", "c"]),
    "date": (pa.array([dt.date(2026, 1, 31), None, dt.date(1969, 12, 31)]), ["2026-01-31", None]),
}


@pytest.mark.parametrize("kind", CELLS)
def test_parquet_types_become_json_without_surprises(tmp_path: Path, kind: str) -> None:
    """Each column type gives the JSON value that the same Python value would."""
    column, expected = CELLS[kind]
    path = parquet(tmp_path / "a.parquet", {"v": column, "odd \"name'": pa.array([1, 2, 3])})
    read = rows(path)
    assert [r["v"] for r in read][: len(expected)] == expected
    assert [r["odd \"name'"] for r in read] == [1, 2, 3]


INNER = st.none() | st.fixed_dictionaries(
    {
        "a": st.none() | st.integers(-5, 5),
        "b": st.none() | st.lists(st.none() | st.text(max_size=3), max_size=3),
        "c": st.none() | st.fixed_dictionaries({"d é": st.none() | st.booleans()}),
    }
)
KIND = pa.struct(
    [("a", pa.int64()), ("b", pa.list_(pa.string())), ("c", pa.struct([("d é", pa.bool_())]))]
)


@on_disk
@given(st.lists(INNER, min_size=1, max_size=12), st.lists(st.lists(INNER, max_size=3)))
def test_structs_and_lists_become_objects_and_arrays(
    tmp_path: Path, structs: list[Any], lists: list[Any]
) -> None:
    """Whatever is null at whatever depth, equal to what Python's own JSON would give."""
    columns = {"v": pa.array(structs, KIND).slice(1)} if structs[1:] else {}
    path = parquet(tmp_path / "a.parquet", {"v": pa.array(structs, KIND), **columns})
    assert [r["v"] for r in rows(path, batch_rows=5)] == (structs[1:] or structs)
    path = parquet(tmp_path / "b.parquet", {"v": pa.array(lists, pa.list_(KIND))})
    assert [r["v"] for r in rows(path, batch_rows=2)] == lists


def test_cells_of_a_text_column_stay_text(tmp_path: Path) -> None:
    """`1.234` may mean a thousand: only who reads the column knows."""
    path = text_file(tmp_path / "a.csv", "a,b\n1.234,1.234\n,\n")
    assert rows(path, text={"a"}) == [{"a": "1.234", "b": 1.234}, {"a": None, "b": None}]


def test_timestamps_are_written_in_finer_units_and_patterns(tmp_path: Path) -> None:
    """As the zone's clock showed the moment."""
    at = dt.datetime(2026, 7, 2, 3, 4, 5, 678_000, tzinfo=dt.UTC)
    path = parquet(tmp_path / "a.parquet", {"t": pa.array([at, None], pa.timestamp("ns", "UTC"))})
    us = round(at.timestamp() * 1000) * 1000
    assert [r["t"] for r in rows(path, time_format="us")] == [us, None]
    assert [r["t"] for r in rows(path, time_format="ns")] == [us * 1000, None]
    told = rows(path, time_format="%d.%m.%Y %H:%M:%S", time_zone="Europe/Berlin")
    assert [r["t"] for r in told] == ["02.07.2026 05:04:05", None]


@pytest.mark.parametrize(
    ("zone", "expected"),
    [(None, "2026-01-02T03:04:05.678Z"), ("Europe/Berlin", "2026-01-02T03:04:05.678Z")],
)
@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_timestamps_are_written_as_the_configuration_reads_them(
    tmp_path: Path, unit: str, zone: str | None, expected: str
) -> None:
    """The instant is the same as RFC 3339, in milliseconds and in seconds; a zone moves nothing."""
    at = dt.datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=dt.UTC)
    value = at if zone else at.replace(tzinfo=None)
    path = parquet(tmp_path / "a.parquet", {"t": pa.array([value, None], pa.timestamp(unit, zone))})
    assert [r["t"] for r in rows(path)] == [expected, None]
    ms = round(at.timestamp() * 1000)
    assert [r["t"] for r in rows(path, time_format="ms")] == [ms, None]
    assert [r["t"] for r in rows(path, time_format="s")] == [ms / 1000, None]


@on_disk
@given(
    st.lists(
        st.tuples(
            st.none() | st.text(st.characters(codec="utf-8")),
            st.none() | st.floats(),
            st.none() | st.integers(-(2**63), 2**63 - 1),
        ),
        min_size=1,
        max_size=30,
    ),
    st.integers(1, 7),
)
def test_parquet_rows_equal_a_dict_a_row(
    tmp_path: Path, table: list[tuple[Any, ...]], batch_rows: int
) -> None:
    """The columns joined in Arrow give the same objects as row-by-row Python dicts."""
    texts, floats, ints = zip(*table, strict=True)
    path = parquet(
        tmp_path / "a.parquet",
        {
            "s": pa.array(texts, pa.string()),
            "f": pa.array(floats, pa.float64()),
            "i": pa.array(ints, pa.int64()),
        },
    )
    expected = [
        {"s": s, "f": f if f is not None and math.isfinite(f) else None, "i": i}
        for s, f, i in table
    ]
    assert rows(path, batch_rows=batch_rows) == expected
    assert [len(b) for b in read_rows(path, batch_rows)][:-1] == [batch_rows] * (
        (len(table) - 1) // batch_rows
    )


def test_csv_numbers_and_booleans_are_typed_and_text_keeps_its_zeros(tmp_path: Path) -> None:
    """A column of numbers gives numbers, one with leading zeros text, empty cells null."""
    path = text_file(
        tmp_path / "a.csv.gz",
        "id,amount,online,terminal,note\n00123,12.50,True,7,\n00124,,FALSE,8,3\n9,1E2,true,9,x\n",
    )
    assert rows(path) == [
        {"id": "00123", "amount": 12.5, "online": True, "terminal": 7, "note": None},
        {"id": "00124", "amount": None, "online": False, "terminal": 8, "note": "3"},
        {"id": "9", "amount": 100.0, "online": True, "terminal": 9, "note": "x"},
    ]


def test_csv_integers_keep_every_digit(tmp_path: Path) -> None:
    """An integer beyond 2**63 is written as it stands."""
    path = text_file(tmp_path / "a.csv", "id\n123456789012345678901234567890\n")
    assert next(read_rows(path)) == [b'{"id":123456789012345678901234567890}']


def test_a_cell_that_does_not_fit_its_csv_column_passes_as_text(tmp_path: Path) -> None:
    """Columns are told by the first block; later misfits are left to the codec, NaN is null."""
    filler = "12.5,a\n" * 200_000  # more than one block
    path = text_file(tmp_path / "a.csv", f"v,s\n{filler}abc,1\nNaN,2\n007,3\n")
    assert rows(path)[-3:] == [
        {"v": "abc", "s": "1"},
        {"v": None, "s": "2"},
        {"v": "007", "s": "3"},
    ]


@on_disk
@given(st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=20))
def test_quoted_csv_text_survives(tmp_path: Path, table: list[tuple[str, str]]) -> None:
    """Commas, quotes and line ends inside quoted cells arrive unchanged (empty ones as null)."""
    safe = [
        tuple("t" + c.encode("utf-8", "ignore").decode().replace("\0", "") for c in r)
        for r in table
    ]
    out = io.StringIO(newline="")
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows([("a", "b"), *safe])
    path = text_file(tmp_path / "a.csv", out.getvalue())
    assert rows(path) == [{"a": a, "b": b} for a, b in safe]


def test_rows_are_counted_where_that_is_cheap(tmp_path: Path) -> None:
    """Parquet and plain JSON Lines tell their rows; CSV and compressed files do not."""
    assert count_rows(parquet(tmp_path / "a.parquet", {"v": pa.array([1, 2])})) == 2
    assert count_rows(text_file(tmp_path / "a.jsonl", "{}\n\n{}")) == 2
    assert count_rows(text_file(tmp_path / "b.jsonl.gz", "{}\n")) is None
    assert count_rows(text_file(tmp_path / "a.csv", "a\n1\n")) is None


def damaged_gzip(folder: Path) -> Path:
    """A compressed file that ends too early."""
    path = folder / "cut.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a":1}\n' * 1000)[:-20])
    return path


BROKEN: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no such file": (lambda d: d / "none.parquet", "none.parquet: .*No such file"),
    "no such csv": (lambda d: d / "none.csv", "none.csv: .*No such file"),
    "suffix": (lambda d: text_file(d / "a.xlsx", ""), r"a\.xlsx: expected a name that ends in"),
    "not parquet": (lambda d: text_file(d / "a.parquet", "x" * 99), r"a\.parquet: .*[Pp]arquet"),
    "cut short": (damaged_gzip, r"cut\.jsonl\.gz: "),
    "not gzip": (lambda d: (d / "a.jsonl.gz", (d / "a.jsonl.gz").write_bytes(b"{}"))[0], "gzip"),
    "ragged": (
        lambda d: text_file(d / "a.csv", "a,b\n1,2\n1,2,3\n"),
        r"a\.csv: .*Row #3: Expected 2 columns, got 3",
    ),
    "not utf-8": (lambda d: text_file(d / "a.csv", b"a,b\n1,\xff\n"), r"a\.csv: .*UTF8"),
    "empty": (lambda d: text_file(d / "a.csv", ""), r"a\.csv: Empty CSV file"),
    "repeated": (
        lambda d: text_file(d / "a.csv", "a,a\n1,2\n"),
        r"row 1: expected different column names, got a, a",
    ),
    "nested": (
        lambda d: parquet(d / "a.parquet", {"v": pa.array([[b"1"], [b"2"]])}),
        r"a\.parquet: column '\w+': expected numbers, .* got binary",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_refused_with_their_name(tmp_path: Path, case: str) -> None:
    """The error names the file, what was expected and, where known, the row."""
    make, message = BROKEN[case]
    with pytest.raises(FileError, match=message):
        list(read_rows(make(tmp_path)))


def test_scores_come_back_as_written(tmp_path: Path) -> None:
    """Two written batches are the rows of the file, with one column for each member."""
    path = tmp_path / "scores.parquet"
    with ScoresWriter(path, ["a", "b"]) as out:
        for first in (0, 2):
            out.write(
                [f"e{first}", f"e{first + 1}"],
                np.array([first, first + 1]),
                np.array([0.1, 0.9]),
                np.array([False, True]),
                [True, False],
                np.array([[0.1, 0.2], [0.8, 0.9]]),
                [None, 1],
            )
    read = pq.read_table(path).to_pylist()
    assert len(read) == 4
    assert read[3] == {
        "id": "e3",
        "event_time": dt.datetime(1970, 1, 1, 0, 0, 0, 3000, tzinfo=dt.UTC),
        "score": 0.9,
        "alert": True,
        "cold": False,
        "score_a": 0.8,
        "score_b": 0.9,
        "label": 1,
    }
    assert read[0]["label"] is None
    assert kind_of(path) == "parquet"


def test_a_failed_run_leaves_the_old_scores(tmp_path: Path) -> None:
    """An exception inside the block leaves no partial file and does not touch the old one."""
    path = text_file(tmp_path / "scores.parquet", "old")
    with pytest.raises(ZeroDivisionError), ScoresWriter(path, []):
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_scores_to_a_missing_folder_are_refused(tmp_path: Path) -> None:
    """The error names the file before any work is done."""
    path = tmp_path / "none" / "scores.parquet"
    with pytest.raises(FileError, match=r"none/scores\.parquet: cannot be written"):
        ScoresWriter(path, []).__enter__()
    with pytest.raises(FileError, match=r"ends in \.parquet"):
        ScoresWriter(tmp_path / "scores.csv", [])

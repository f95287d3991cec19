"""Files in and out: rows of JSON Lines, CSV and Parquet as JSON events, scores as Parquet.

The CLI reads and scores files with it. Rows leave here as raw JSON bytes, exactly what a producer
would have sent, so that ``stream/decode/codec.py`` stays the only judge of an event: a cell that
does not fit its column becomes a dead letter there, it does not stop the file. Nothing here knows
an event's schema.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from models.base import F64, I64, MillraceError
from models.task import TaskType
from stream.contract import private
from stream.decode.times import in_pattern
from stream.settings.schema import TimeFormat

BATCH_ROWS = 8192
SEPARATORS = (",", ";", "\t", "|")
"""What stands between the cells of CSV files: the first of these that the first line has."""
FIRST_LINE = 1 << 20
"""Bytes of it that are looked at."""

Kind = Literal["jsonl", "csv", "parquet"]

_SUFFIXES: dict[str, Kind] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jsonl.gz": "jsonl",
    ".ndjson.gz": "jsonl",
    ".csv": "csv",
    ".csv.gz": "csv",
    ".parquet": "parquet",
}
_NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$"  # RFC 8259, section 6
_BOOLEAN = r"^([tT]rue|[fF]alse|TRUE|FALSE)$"
_MISSING = r"^(|nan|NaN|NA|null|NULL)$"
_ESCAPED = r'["\\\x00-\x1f]'  # RFC 8259, section 7: what a string must escape


class FileError(MillraceError):
    """A file cannot be read or written; the message names the file and, if known, the row."""


def kind_of(path: Path) -> Kind:
    """The format, by the file's suffix; raises :class:`FileError` for any other."""
    name = path.name.lower()
    for suffix, kind in _SUFFIXES.items():
        if name.endswith(suffix):
            return kind
    raise FileError(f"{path}: expected a name that ends in {', '.join(_SUFFIXES)}")


def _known(path: Path) -> bool:
    return path.name.lower().endswith(tuple(_SUFFIXES))


def count_rows(path: Path) -> int | None:
    """The number of rows where it costs little (Parquet, plain JSON Lines), else ``None``."""
    kind = kind_of(path)
    if kind == "csv" or path.suffix == ".gz":
        return None
    try:
        if kind == "parquet":
            return int(pq.read_metadata(path).num_rows)
        with path.open("rb") as file:
            return sum(1 for line in file if not line.isspace())
    except (OSError, pa.ArrowException) as error:
        raise FileError(_sentence(path, error)) from error


def read_rows(
    path: Path,
    batch_rows: int = BATCH_ROWS,
    time_format: TimeFormat = "rfc3339",
    time_formats: Mapping[str, TimeFormat] | None = None,
    time_zone: str | None = None,
    text: Collection[str] = (),
    separator: str | None = None,
    columns: Sequence[str] | None = None,
) -> Iterator[list[bytes]]:
    """The file's rows in order, each as the bytes of one JSON object.

    JSON Lines pass as they stand (empty lines are left out). The first block of a CSV file tells
    number and boolean columns from text; cells keep their text, so ``00123`` stays text and no
    digit is lost. Empty cells, Parquet nulls and numbers that JSON cannot write (NaN, infinities)
    become ``null``.

    Parameters
    ----------
    path : Path
        ``.jsonl``, ``.ndjson`` or ``.csv`` (each also ``.gz``), or ``.parquet``.
    batch_rows : int
        Rows in one list at most, 1 or more.
    time_format : str
        How Parquet timestamps are written: as ``event.time_format`` reads them. Timestamps without
        a zone count as UTC. Dates are always written as ``2026-01-31``.
    time_formats : mapping of str to str
        Columns that are written in another one.
    time_zone : str or None
        The zone in which a pattern without ``%z`` writes them: ``event.time_zone``.
    text : collection of str
        Columns of a CSV file whose cells are text whatever they look like.
    separator : str or None
        Between the cells of a CSV file, which may then have any unknown suffix. ``None``: a comma;
        where the first line has none, a semicolon, a tab or a bar if it has one.
    columns : sequence of str, optional
        Of a CSV file that does not begin with their names.

    Raises
    ------
    FileError
        When the file cannot be read, is damaged, has a row with another number of cells, or a
        column that has no form in JSON here.
    """
    bare = separator not in (None, ",") or columns is not None
    kind = "csv" if bare and not _known(path) else kind_of(path)
    try:
        if kind == "jsonl":
            yield from _json_lines(path, batch_rows)
        elif kind == "csv":
            for block in _csv(path, text, separator or _separator(path), columns):
                yield from _objects(block, batch_rows)
        else:
            for block in _parquet(path, batch_rows, time_format, time_formats or {}, time_zone):
                yield from _objects(block, batch_rows)
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        raise FileError(_sentence(path, error)) from error


def _sentence(path: Path, error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{path}: cannot be opened: {error.strerror}"
    return f"{path}: {str(error).splitlines()[0].rstrip('.')}"


def _opened(path: Path) -> IO[bytes] | gzip.GzipFile:
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")


def _separator(path: Path) -> str:
    with _opened(path) as file:
        first = file.readline(FIRST_LINE)
    return next((s for s in SEPARATORS if s.encode() in first), SEPARATORS[0])


def _json_lines(path: Path, batch_rows: int) -> Iterator[list[bytes]]:
    with _opened(path) as file:
        rows = (line.strip() for line in file if not line.isspace())
        while batch := list(islice(rows, batch_rows)):
            yield batch


Times = tuple[TimeFormat, str | None]
"""A format of moments and the time zone of a pattern."""
Block = dict[str, pa.Array]
"""Columns of equal length whose cells are JSON text, null for a JSON null."""


def _objects(block: Block, batch_rows: int) -> Iterator[list[bytes]]:
    """The rows of a block as JSON objects."""
    rows = _joined(block).cast(pa.binary())
    for first in range(0, len(rows), batch_rows):
        yield rows.slice(first, batch_rows).to_pylist()


def _joined(block: Block) -> pa.Array:
    """JSON text of the objects that have a block's columns as members.

    Joined inside Arrow: 1,754,155 rows of 7 columns took 1.0 s, against 3.0 s through a dict a row.
    """
    parts: list[Any] = []
    for name, cells in block.items():
        opening = "," if parts else "{"
        parts += [f"{opening}{msgspec.json.encode(name).decode()}:", cells]
    return pc.binary_join_element_wise(
        *parts, "}", "", null_handling="replace", null_replacement="null"
    )


def _quoted(cells: pa.Array) -> pa.Array:
    """Strings as JSON strings."""
    if pc.any(pc.match_substring_regex(cells, _ESCAPED)).as_py():
        encode = msgspec.json.encode
        return pa.array(
            [None if v is None else encode(v).decode() for v in cells.to_pylist()], pa.string()
        )
    return pc.binary_join_element_wise('"', cells, '"', "")


def _csv(
    path: Path, text: Collection[str], separator: str, columns: Sequence[str] | None
) -> Iterator[Block]:
    # All columns are read as text: Arrow's own inference would drop leading zeros, and a cell that
    # does not fit would end the file.
    one_thread = pyarrow.csv.ReadOptions(
        use_threads=False,  # so that errors name the row
        column_names=columns,
    )
    plain = pyarrow.csv.ParseOptions(delimiter=separator)
    names = pyarrow.csv.open_csv(path, read_options=one_thread, parse_options=plain).schema.names
    if len(set(names)) < len(names):
        raise pa.ArrowInvalid(f"row 1: expected different column names, got {', '.join(names)}")
    reader = pyarrow.csv.open_csv(
        path,
        read_options=one_thread,
        parse_options=pyarrow.csv.ParseOptions(delimiter=separator, newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            strings_can_be_null=True,
            null_values=[""],
        ),
    )
    patterns = dict.fromkeys(text, "")
    for batch in reader:
        yield {name: _csv_column(name, batch[name], patterns) for name in names}


def _csv_column(name: str, cells: pa.Array, patterns: dict[str, str]) -> pa.Array:
    """JSON text of a CSV column; ``patterns`` remembers what its first filled block held."""
    if name not in patterns:
        given = cells.filter(pc.invert(pc.match_substring_regex(cells, _MISSING)))
        if len(given) == 0:
            return pa.nulls(len(cells), pa.string())
        fits = [
            p for p in (_NUMBER, _BOOLEAN) if pc.all(pc.match_substring_regex(given, p)).as_py()
        ]
        patterns[name] = fits[0] if fits else ""
    pattern = patterns[name]
    if not pattern:
        return _quoted(cells)
    plain = pc.match_substring_regex(cells, pattern)
    if pc.all(plain).as_py():
        return pc.utf8_lower(cells)  # TRUE is true, 1E5 is 1e5
    missing = pc.match_substring_regex(cells, _MISSING)
    other = pc.if_else(missing, pa.scalar(None, pa.string()), _quoted(cells))
    return pc.if_else(plain, pc.utf8_lower(cells), other)


def _parquet(
    path: Path,
    batch_rows: int,
    time_format: TimeFormat,
    others: Mapping[str, TimeFormat],
    time_zone: str | None,
) -> Iterator[Block]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_rows):
            yield _block(batch, time_format, others, time_zone)


def table_rows(
    table: pa.Table,
    batch_rows: int,
    time_format: TimeFormat,
    time_formats: Mapping[str, TimeFormat] | None = None,
    time_zone: str | None = None,
) -> Iterator[list[bytes]]:
    """The rows of an Arrow table as :func:`read_rows` gives those of a Parquet file."""
    try:
        for batch in table.to_batches(max_chunksize=batch_rows):
            yield from _objects(
                _block(batch, time_format, time_formats or {}, time_zone), batch_rows
            )
    except pa.ArrowException as error:
        raise FileError(str(error).splitlines()[0].rstrip(".")) from error


def _block(
    batch: pa.RecordBatch,
    time_format: TimeFormat,
    others: Mapping[str, TimeFormat],
    time_zone: str | None,
) -> Block:
    return {
        field.name: _parquet_column(field, column, (others.get(field.name, time_format), time_zone))
        for field, column in zip(batch.schema, batch.columns, strict=True)
    }


def _parquet_column(field: pa.Field, cells: pa.Array, times: Times) -> pa.Array:
    """JSON text of a Parquet column."""
    kind = cells.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
        cells = cells.cast(kind)
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind):
        return cells.cast(pa.string())
    if pa.types.is_floating(kind):
        cells = cells.cast(pa.float32()) if pa.types.is_float16(kind) else cells
        finite = pc.is_finite(cells)
        return pc.if_else(finite, cells, pa.scalar(None, cells.type)).cast(pa.string())
    if pa.types.is_decimal(kind):
        return cells.cast(pa.string())
    if pa.types.is_timestamp(kind):
        return _timestamps(cells, *times)
    if pa.types.is_date(kind):
        return _quoted(cells.cast(pa.date32()).cast(pa.string()))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return _quoted(cells.cast(pa.string()))
    if pa.types.is_struct(kind) and kind.num_fields:
        return _struct(field, cells, times)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _list(field, cells, times)
    raise pa.ArrowInvalid(
        f"column {field.name!r}: expected numbers, booleans, text, dates, timestamps, or structs"
        f" and lists of them, got {kind}; leave the column out or convert it"
    )


def _struct(field: pa.Field, cells: pa.Array, times: Times) -> pa.Array:
    """Structs as JSON objects."""
    inner = dict(zip(field.type, cells.flatten(), strict=True))
    names = [child.name for child in inner]
    if len(set(names)) < len(names):
        raise pa.ArrowInvalid(f"column {field.name!r}: expected different names in its structs")
    objects = _joined({f.name: _parquet_column(f, c, times) for f, c in inner.items()})
    return pc.if_else(cells.is_valid(), objects, pa.scalar(None, pa.string()))


def _list(field: pa.Field, cells: pa.Array, times: Times) -> pa.Array:
    """Lists as JSON arrays."""
    items = _parquet_column(field.type.value_field, cells.flatten(), times).fill_null("null")
    ends = np.cumsum(pc.fill_null(pc.list_value_length(cells), 0).to_numpy(zero_copy_only=False))
    lists = pa.LargeListArray.from_arrays(np.concatenate([[0], ends]).astype(np.int64), items)
    arrays = pc.binary_join_element_wise("[", pc.binary_join(lists, ","), "]", "")
    return pc.if_else(cells.is_valid(), arrays, pa.scalar(None, pa.string()))


_PER_MS = {"ms": 1, "us": 1000, "ns": 1_000_000}


def _timestamps(cells: pa.Array, time_format: TimeFormat, time_zone: str | None) -> pa.Array:
    # Through int64, so that a zone is dropped without moving the instant; then to the nearest
    # millisecond, as `stream/decode/times.py` reads what is written more finely.
    instants = cells.cast(pa.int64()).cast(pa.timestamp(cells.type.unit))
    rounded = pc.round_temporal(instants, 1, "millisecond")
    ms = rounded.cast(pa.timestamp("ms"), safe=False).cast(pa.int64())
    if time_format in _PER_MS:
        return pc.multiply_checked(ms, _PER_MS[time_format]).cast(pa.string())
    if time_format == "s":
        return pc.divide(ms.cast(pa.float64()), 1000.0).cast(pa.string())
    if time_format != "rfc3339":
        return _quoted(
            pa.array(
                [v if v is None else in_pattern(v, time_format, time_zone) for v in ms.to_pylist()],
                pa.string(),
            )
        )
    text = pc.replace_substring(ms.cast(pa.timestamp("ms")).cast(pa.string()), " ", "T")
    return pc.binary_join_element_wise('"', text, 'Z"', "")


_YES_OR_NO = pa.int8()
LABEL: Mapping[TaskType, pa.DataType] = {
    "binary": _YES_OR_NO,
    "classes": pa.string(),
    "number": pa.float64(),
}
"""What a label is in a file of scores, for each type of target."""


class ScoresWriter:
    """Scores as a Parquet file, written batch by batch; use it as a context manager.

    Columns: ``id``, ``event_time`` (UTC), ``score``, ``alert``, ``cold`` (made before any member
    had learned), ``score_NAME`` of each member, null where it did not score, and ``label``
    (:data:`LABEL`), null where the truth is not known. The file appears under its name when the
    block ends without an exception; until then its name ends in ``.partial``, which an exception
    removes.

    Examples
    --------
    >>> with ScoresWriter(path, ["mlp"]) as out:  # doctest: +SKIP
    ...     out.write(["a"], [0], np.array([0.9]), np.array([True]), [True], np.array([[0.9]]),
    ...               [None])
    """

    def __init__(self, path: Path, members: Sequence[str], label: pa.DataType = _YES_OR_NO) -> None:
        if kind_of(path) != "parquet":
            raise FileError(f"{path}: expected a name that ends in .parquet")
        self._path = path
        self._partial = path.with_name(path.name + ".partial")
        self._schema = pa.schema(
            [
                ("id", pa.string()),
                ("event_time", pa.timestamp("ms", "UTC")),
                ("score", pa.float64()),
                ("alert", pa.bool_()),
                ("cold", pa.bool_()),
                *[(f"score_{name}", pa.float64()) for name in members],
                ("label", label),
            ]
        )

    def __enter__(self) -> Self:
        try:
            private.opened(self._partial).close()
            self._writer = pq.ParquetWriter(self._partial, self._schema, compression="zstd")
        except OSError as error:
            raise FileError(f"{self._path}: cannot be written: {error}") from error
        return self

    def write(
        self,
        ids: Sequence[str],
        event_time_ms: I64 | Sequence[int],
        scores: F64,
        alerts: NDArray[np.bool_],
        cold: Sequence[bool],
        members: F64,
        labels: Sequence[float | str | None],
    ) -> None:
        """Append ``n`` rows.

        Parameters
        ----------
        scores : float64 ``(n,)``
        alerts : bool ``(n,)``
        cold : bool each
        members : float64 ``(n, m)``, each member's score, nan where it has none
        labels : truths in the target's words, or ``None``, each
        """
        columns = [ids, event_time_ms, scores, alerts, cold, *members.T, labels]
        arrays = [
            pa.array(c, f.type, from_pandas=True)
            for c, f in zip(columns, self._schema, strict=True)
        ]
        try:
            self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))
        except OSError as error:
            raise FileError(f"{self._path}: cannot be written: {error}") from error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.close()
        if kind is None:
            self._partial.replace(self._path)
        else:
            self._partial.unlink(missing_ok=True)

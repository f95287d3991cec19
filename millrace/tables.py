"""Tables of pandas, polars and Arrow, and lists of dicts, in and out through Arrow.

Neither pandas nor polars is imported here: a table of theirs can only come from who did.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import pyarrow as pa

from models.base import MillraceError
from stream.settings.schema import Config
from stream.tools.files import BATCH_ROWS, table_rows

Give = Callable[[pa.Table], Any]
"""Makes of an Arrow table what the caller gave: a table of the same library, or a list of dicts."""


def taken(data: Any) -> tuple[pa.Table | list[Any], Give]:
    """The data as an Arrow table, or as a list of dicts, and how to give a table back.

    Raises :class:`~models.base.MillraceError` for anything else.
    """
    if isinstance(data, pa.RecordBatch):
        return pa.Table.from_batches([data]), lambda table: table
    if isinstance(data, pa.Table):
        return data, lambda table: table
    pandas, polars = sys.modules.get("pandas"), sys.modules.get("polars")
    if pandas is not None and isinstance(data, pandas.DataFrame):
        return pa.Table.from_pandas(data, preserve_index=False), lambda table: table.to_pandas()
    if polars is not None and isinstance(data, polars.DataFrame):
        return data.to_arrow(), polars.from_arrow
    if isinstance(data, Mapping):
        return [data], lambda table: table.to_pylist()
    if isinstance(data, Sequence) and all(isinstance(row, Mapping) for row in data):
        return list(data), lambda table: table.to_pylist()
    raise MillraceError(
        "data: expected a pandas or polars DataFrame, an Arrow table, or a list of dicts, got "
        f"{type(data).__name__}"
    )


def rows_of(data: pa.Table | list[Any], config: Config) -> Iterator[list[bytes]]:
    """Each row as the bytes of one JSON object, as a producer would send it."""
    if isinstance(data, pa.Table):
        label = config.label
        others = {label.time: config.label_time_format} if label.time else {}
        event = config.event
        yield from table_rows(data, BATCH_ROWS, event.time_format, others, event.time_zone)
        return
    for first in range(0, len(data), BATCH_ROWS):
        yield [_encoded(row, first + i) for i, row in enumerate(data[first : first + BATCH_ROWS])]


def _encoded(row: Any, i: int) -> bytes:
    try:
        return msgspec.json.encode(row)
    except (TypeError, ValueError, OverflowError) as error:
        raise MillraceError(f"row {i}: expected what JSON can hold: {error}") from error


def column(values: Any) -> list[Any]:
    """A column, of any of these libraries or a list, as plain values."""
    given = values.to_pylist if hasattr(values, "to_pylist") else getattr(values, "tolist", None)
    if given is None and hasattr(values, "to_list"):
        given = values.to_list
    return list(values) if given is None else list(given())

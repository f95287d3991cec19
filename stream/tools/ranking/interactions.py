"""A file of interactions as the records that a shard takes, in order of time.

JSON Lines of records (with an ``event`` in each) pass as they stand. A table, one interaction a
row, is written as such records by ``[reco.table]``. Nothing here learns.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from models.base import I64
from stream.contract.records import Record
from stream.decode.feedback import KINDS, FeedbackCodec, Interaction
from stream.settings.ranking import TableSettings
from stream.settings.schema import Config
from stream.tools.files import FileError, read_rows
from stream.tools.ranking.ranks import in_order

LOOKED_AT = 100
"""The first rows, by which a file is told from a table."""
_SAID = tuple(str(kind.__struct_config__.tag) for kind in KINDS)


class Played(NamedTuple):
    """Records in the order of play, the row of each in the file, its time (0 of a bad one), and
    whether it interacts; how many interactions there are of each type."""

    records: list[Record]
    rows: I64
    time_ms: I64
    interacts: list[bool]
    types: Counter[str]


def played(config: Config, path: Path) -> Played:
    """The file's records, bad ones first; those of a table :func:`in_order`.

    Raises :class:`FileError`.
    """
    assert config.reco is not None
    table = config.reco.table
    values = [
        value
        for part in read_rows(
            *(path, 8192, config.event.time_format),
            separator=table.separator,
            columns=table.columns or None,
        )
        for value in part
    ]
    as_they_stand = table.type != "event" and _are_records(values, path)
    if not as_they_stand:
        values = [_record(value, row, table, path) for row, value in enumerate(values)]
    topic = config.topics.events
    records = [Record(topic, 0, row, None, value) for row, value in enumerate(values)]
    taken, bad = FeedbackCodec(config).feedback(records)
    rows = np.array([r.offset for r in taken.records], np.int64)
    times = np.array(taken.time_ms, np.int64)
    interacts = np.array([isinstance(what, Interaction) for what in taken.what], np.bool_)
    if not as_they_stand:
        order = in_order(times, rows, len(records))
        rows, times, interacts = rows[order], times[order], interacts[order]
    first = np.array([letter.record.offset for letter in bad], np.int64)
    every = np.concatenate([first, rows])
    return Played(
        [Record(topic, 0, i, None, values[row]) for i, row in enumerate(every.tolist())],
        every,
        np.concatenate([np.zeros(len(first), np.int64), times]),
        [*(False for _ in bad), *interacts.tolist()],
        Counter(what.type for what in taken.what if isinstance(what, Interaction)),
    )


def _are_records(values: list[bytes], path: Path) -> bool:
    """Whether the rows say what kind of record each is; raises :class:`FileError` where they say
    something else."""
    first = [msgspec.json.decode(value, type=dict[str, Any]) for value in values[:LOOKED_AT]]
    said = [cells["event"] for cells in first if "event" in cells]
    if said and not any(kind in _SAID for kind in said):
        raise FileError(
            f"{path}: 'event' says {said[0]!r:.60}, expected one of {', '.join(_SAID)}; where it "
            'is what a user does, write type = "event" in [reco.table]'
        )
    return bool(said)


def _record(value: bytes, row: int, table: TableSettings, path: Path) -> bytes:
    """A row of a table as an interaction."""
    cells = msgspec.json.decode(value, type=dict[str, Any])
    for name in (table.item, table.time):
        if name not in cells:
            raise FileError(
                f"{path}: expected a column {name!r}, got {', '.join(cells)}; name the columns in"
                " [reco.table]"
            )
    found: dict[str, Any] = {"event": "interaction", "id": str(row)}
    for key, name in (
        *(("user", table.user), ("session", table.session), ("item", table.item)),
        *(("type", table.type), ("value", table.value), ("timestamp", table.time)),
    ):
        cell = cells.get(name)
        if cell is not None:
            found[key] = cell if key in ("timestamp", "value") else str(cell)
    return msgspec.json.encode({"type": table.default_type} | found)

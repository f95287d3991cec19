"""Score records: what the engine says of each event, as JSON.

The same scores give the same bytes on every machine: they go into the journal's digest.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.task import Classes, Task
from stream.contract.outputs import Scored
from stream.contract.records import Headers, NewRecord
from stream.settings.schema import ScoresSettings

HEADER_BYTES = 4096
"""Bytes of an event's headers that its score carries on, at most: an event may be as large as its
topic allows, its score must fit into another one."""

PLACE = ("partition", "offset")
"""Of a score, what only an event in the log has."""

Why = Iterable[msgspec.Raw | msgspec.UnsetType]
"""Of each event the reasons that are told with its score, as JSON."""
Write = Callable[[Why], list[NewRecord]]
Encode = Callable[[Scored, "Shared"], Write]
"""What writes the score records of ``n`` events, keyed by event id, from their columns and what all
of them share. It may be called later, when more classes are known: it writes the same."""

_encode_lines = msgspec.json.Encoder().encode_lines


class Shared(NamedTuple):
    """The last members of all score records of a step."""

    scored_at: int
    model: str
    seq: int
    cold: bool


def _record(*own: tuple[str, Any]) -> type[msgspec.Struct]:
    """A score record whose ``own`` members stand between the event's time and its place."""
    fields: list[Any] = [
        *(("id", str), ("event_time", int)),
        *own,
        *(("partition", int), ("offset", int)),
        *(("scored_at", int), ("model", str), ("seq", int)),
        ("cold", bool, False),
        ("reasons", msgspec.Raw | msgspec.UnsetType, msgspec.UNSET),
    ]
    return msgspec.defstruct("Score", fields, omit_defaults=True, gc=False)


_SCORE = _record(("score", float), ("alert", bool), ("members", msgspec.Struct))
_NUMBER = _record(
    *(("score", float), ("interval", list[float] | None), ("alert", bool)),
    ("members", msgspec.Struct),
)
"""``interval``: null where nothing is promised yet."""
_CLASS = _record(
    *(("prediction", str | None), ("set", list[str]), ("score", float), ("alert", bool)),
    *(("probabilities", msgspec.Struct), ("members", msgspec.Struct)),
)
"""``prediction``: null where none is likely enough; ``set``: those that hold the truth as often as
asked, empty where nothing is promised yet."""


def score_encoder(task: Task, names: Sequence[str]) -> Encode:
    """What writes the scores of a task's ensemble with members of these names."""
    return _ENCODERS[task.type](task, names)


def _yes_or_no(task: Task, names: Sequence[str]) -> Encode:
    """A score is one probability, and so is what each member says."""
    members = _struct(names, float)

    def write(scored: Scored, shared: Shared, why: Why) -> list[NewRecord]:
        said = scored.members[:, :, 0]
        columns = (scored.score.tolist(), scored.alert.tolist(), _each(members, said))
        return _records(_SCORE, scored, columns, shared, why)

    return partial(partial, write)


def _one_number(task: Task, names: Sequence[str]) -> Encode:
    """A score is one number within an interval, and one number is what each member says."""
    members = _struct(names, float)

    def write(scored: Scored, shared: Shared, why: Why) -> list[NewRecord]:
        intervals = [None if math.isnan(p[0]) else p for p in _said(scored).tolist()]
        said = _each(members, scored.members[:, :, 0])
        columns = (scored.score.tolist(), intervals, scored.alert.tolist(), said)
        return _records(_NUMBER, scored, columns, shared, why)

    return partial(partial, write)


def _one_of_classes(task: Classes, names: Sequence[str]) -> Encode:
    """A score is a probability for each class; of a member its likeliest class is told."""
    members, nobody = _struct(names, str), _struct((), str)
    shares = _struct(task.names[: task.known], float)

    def encode(scored: Scored, shared: Shared) -> Write:
        nonlocal shares
        if len(shares.__struct_fields__) != task.known:
            shares = _struct(task.names[: task.known], float)
        return partial(write, scored, shared, shares)

    def write(
        scored: Scored, shared: Shared, shares: type[msgspec.Struct], why: Why
    ) -> list[NewRecord]:
        n = len(shares.__struct_fields__)
        told = np.array([*task.names[:n], None], dtype=object)
        likeliest = np.where(scored.output.any(axis=1), scored.output.argmax(axis=1), n)
        predicted = told[likeliest]
        predicted[scored.output.max(axis=1) < task.abstain_below] = None
        sets = [told[:-1][held[:n]].tolist() for held in _said(scored)]
        said = told[scored.members.argmax(axis=2)]
        columns = (
            *(predicted.tolist(), sets, scored.score.tolist(), scored.alert.tolist()),
            _each(shares, scored.output[:, :n]),
            _each(members, said) if n else _each(nobody, said[:, :0]),
        )
        return _records(_CLASS, scored, columns, shared, why)

    return encode


_ENCODERS: dict[str, Callable[[Any, Sequence[str]], Encode]] = {
    "binary": _yes_or_no,
    "number": _one_number,
    "classes": _one_of_classes,
}


def _said(scored: Scored) -> NDArray[Any]:
    """What was promised of each event."""
    return np.empty((0, 2)) if scored.said is None else scored.said


def _struct(names: Sequence[str], kind: type) -> type[msgspec.Struct]:
    """One field for each name: encoded 3.6 times as fast as text put together by f-strings."""
    fields: list[Any] = [(f"m{i}", kind) for i in range(len(names))]
    rename = {f"m{i}": name for i, name in enumerate(names)}
    return msgspec.defstruct("Named", fields, rename=rename, gc=False)


def _each(struct: type[msgspec.Struct], table: NDArray[Any]) -> Iterator[msgspec.Struct]:
    """Each row of a table ``(n, names)`` as a struct."""
    if not table.shape[1]:
        return itertools.repeat(struct(), len(table))
    # Lists of columns: faster than a list of each row.
    return itertools.starmap(struct, zip(*(column.tolist() for column in table.T), strict=True))


def _records(
    struct: type[msgspec.Struct],
    scored: Scored,
    columns: Sequence[Iterable[Any]],
    shared: Shared,
    why: Why,
) -> list[NewRecord]:
    """The records, ``columns`` standing between event time and position."""
    ids, times, n = scored.ids, scored.event_time_ms.tolist(), len(scored.ids)
    places = ([r.partition for r in scored.records], [r.offset for r in scored.records])
    rest = (itertools.repeat(value, n) for value in shared)
    wholes = itertools.starmap(struct, zip(ids, times, *columns, *places, *rest, why, strict=True))
    # All at once, then taken apart, in half the time: no JSON holds a newline as it is.
    *lines, _ = _encode_lines(list(wholes)).split(b"\n")
    return list(itertools.starmap(NewRecord, zip(map(str.encode, ids), lines, strict=True)))


def carrying(
    made: list[NewRecord], scored: Scored, settings: ScoresSettings, clock_ms: int
) -> list[NewRecord]:
    """The score records with what they carry of their events: key, chosen headers, and the time."""
    if not settings.headers and settings.timestamp == "step" and settings.key == "id":
        return made
    chosen = frozenset(settings.headers)
    times: list[int] | list[None] = [None] * len(made)
    if settings.timestamp == "event":
        # Brokers refuse records from the future.
        times = np.minimum(scored.event_time_ms, clock_ms).tolist()
    theirs = settings.key == "input"
    return [
        NewRecord(
            record.key if theirs and record.key is not None else r.key,
            *(r.value, r.partition, _picked(record.headers, chosen), at),
        )
        for r, record, at in zip(made, scored.records, times, strict=True)
    ]


def _picked(headers: Headers, chosen: frozenset[str]) -> Headers:
    room = HEADER_BYTES
    picked = []
    for name, value in headers:
        size = len(name) + len(value)
        if name in chosen and size <= room:
            room -= size
            picked.append((name, value))
    return tuple(picked)

"""Score records: what the engine says of each event, as JSON.

The same scores give the same bytes on every machine: they go into the journal's digest.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from stream.contract.outputs import Scored
from stream.contract.records import Headers, NewRecord
from stream.settings.schema import ScoresSettings

HEADER_BYTES = 4096
"""Bytes of an event's headers that its score carries on, at most: an event may be as large as its
topic allows, its score must fit into another one."""


class _Score(msgspec.Struct, gc=False):
    """A score record up to what all of a step's share."""

    id: str
    event_time: int
    score: float
    alert: bool
    members: msgspec.Struct
    partition: int
    offset: int


_encode = msgspec.json.Encoder().encode


@functools.cache
def _members_struct(names: tuple[str, ...]) -> type[msgspec.Struct]:
    """One float for each member: encoded 3.6 times as fast as text put together by f-strings."""
    fields: list[Any] = [(f"m{i}", float) for i in range(len(names))]
    rename = {f"m{i}": name for i, name in enumerate(names)}
    return msgspec.defstruct("Members", fields, rename=rename, gc=False)


def encode_scores(scored: Scored, names: Sequence[str], tail: str) -> list[NewRecord]:
    """The score records of ``n`` events, keyed by event id.

    ``names`` are the members'; ``tail`` are JSON members that all records share, beginning with a
    comma.
    """
    members = _members_struct(tuple(names))
    end = tail.encode() + b"}"
    out = []
    for record, identifier, at, score, alert, each in zip(
        scored.records,
        scored.ids,
        scored.event_time_ms.tolist(),
        scored.p.tolist(),
        scored.alert.tolist(),
        # Lists of columns: faster than a list of each row.
        zip(*(column.tolist() for column in scored.members.T), strict=True),
        strict=True,
    ):
        of_event = record.partition, record.offset
        whole = _Score(identifier, at, score, alert, members(*each), *of_event)
        out.append(NewRecord(identifier.encode(), _encode(whole)[:-1] + end))
    return out


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

"""Score records: what the engine says of each event, as JSON.

The same scores give the same bytes on every machine: they go into the journal's digest.
"""

from __future__ import annotations

import functools
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.base import F64
from stream.contract.records import NewRecord
from stream.decode.codec import Events


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


def encode_scores(
    events: Events,
    scores: F64,
    alerts: NDArray[np.bool_],
    members: dict[str, list[float]],
    tail: str,
) -> list[NewRecord]:
    """The score records of ``n`` events, keyed by event id, on the event's own partition.

    Parameters
    ----------
    scores : float64 ``(n,)``
        Probabilities of the positive class.
    members : mapping of member name to its ``n`` probabilities
    tail : str
        JSON members that all records share, beginning with a comma.
    """
    members_struct = _members_struct(tuple(members))
    end = tail.encode() + b"}"
    out = []
    for record, identifier, at, score, alert, each in zip(
        events.records,
        events.ids,
        events.columns.event_time_ms.tolist(),
        scores.tolist(),
        alerts.tolist(),
        zip(*members.values(), strict=True),
        strict=True,
    ):
        place = record.partition
        whole = _Score(identifier, at, score, alert, members_struct(*each), place, record.offset)
        out.append(NewRecord(identifier.encode(), _encode(whole)[:-1] + end, place))
    return out

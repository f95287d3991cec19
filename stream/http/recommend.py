"""`/rank` and `/recommend`, in Metarank's words: a request's record, and its answer for the caller.

``api.py`` appends the record and waits for its answer as for any score. Whoever leaves out ``id``
or ``timestamp`` asks now, see :func:`now`, under an id that the answer tells.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

import msgspec

from stream.decode.times import in_pattern
from stream.http.problem import Problem
from stream.settings.schema import Config

_WRITE: dict[str, Callable[[int], Any]] = {
    "ms": lambda ms: ms,
    "s": lambda ms: ms / 1000,
    "us": lambda ms: ms * 1000,
    "ns": lambda ms: ms * 1_000_000,
    "rfc3339": lambda ms: in_pattern(ms, "%Y-%m-%dT%H:%M:%S.%fZ", None),
}


def record_of(config: Config, event: str, body: bytes, explain: bool, newest_ms: int) -> bytes:
    """The record of a request of that kind; raises :class:`Problem` for what is no object.

    ``newest_ms`` is the newest event time scored, 0 before the first.
    """
    try:
        asked = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as error:
        wrong = isinstance(error, msgspec.ValidationError)
        raise Problem(
            "invalid" if wrong else "malformed", f"expected an object: {error}"
        ) from error
    asked = (
        {"id": str(uuid.uuid4()), "timestamp": now(config, newest_ms)} | asked | {"event": event}
    )
    return msgspec.json.encode(asked | ({"explain": True} if explain else {}))


def now(config: Config, newest_ms: int) -> Any:
    """The moment as events write it: the newest event's where the stream is in the past.

    That is where it is more than the horizon behind the clock, as one that is played again. By the
    clock all items would have expired there, and all that waits for a label would be past its
    horizon once the record is taken in.
    """
    ms, event = time.time_ns() // 1_000_000, config.event
    if 0 < newest_ms < ms - config.label.horizon:
        ms = newest_ms
    write = _WRITE.get(event.time_format)
    return in_pattern(ms, event.time_format, event.time_zone) if write is None else write(ms)


def answer_of(payload: bytes, took_ms: float) -> dict[str, Any]:
    """The committed answer as Metarank's: ``took`` in milliseconds, items with scores."""
    answer = msgspec.json.decode(payload)
    items = [
        {"item": place["id"], "score": place["score"], "propensity": place["propensity"]}
        | ({"features": place["members"]} if "members" in place else {})
        | ({"rating": place["rating"]} if "rating" in place else {})
        for place in answer["items"]
    ]
    told = {key: answer[key] for key in ("id", "fallback", "left_out", "seq")}
    return {"took": round(took_ms, 3), "items": items} | told

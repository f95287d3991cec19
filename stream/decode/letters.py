"""Dead letters: records that are not taken in, each with a reason from a closed list."""

from __future__ import annotations

from typing import Literal

import msgspec

from stream.contract.records import Headers, NewRecord, Record

Reason = Literal[
    "null",
    "oversized",
    "malformed",
    "schema",
    "event_time_ahead",
    "duplicate_event",
    "label_value",
    "label_duplicate",
    "label_conflict",
    "label_orphan",
    "command",
    "poison",
]
REASONS: tuple[Reason, ...] = Reason.__args__  # type: ignore[attr-defined]
"""Why a record can become a dead letter; a closed list, so that it can be a metric's label."""

DEAD_LETTER_BYTES = 900_000
"""Raw bytes that a dead letter keeps; a longer record is cut, and its length stands in a header."""


class Bad(msgspec.Struct, frozen=True):
    """A record that is not taken in, and why: a closed reason and a sentence for people."""

    record: Record
    reason: Reason
    error: str


def dead_letter(bad: Bad) -> NewRecord:
    """The record's own key and raw bytes, with position and reason in headers."""
    r = bad.record
    value, key = r.value, r.key
    if value is None and key is None:
        key = b""  # a record with neither key nor value cannot be written
    extra: Headers = ()
    if value is not None and len(value) > DEAD_LETTER_BYTES:
        # What a broker takes at most by default is 1 MB with the headers.
        extra = (("original_bytes", b"%d" % len(value)),)
        value = value[:DEAD_LETTER_BYTES]
    headers = (
        ("reason", bad.reason.encode()),
        ("error", bad.error.encode()),
        ("topic", r.topic.encode()),
        ("partition", b"%d" % r.partition),
        ("offset", b"%d" % r.offset),
    )
    return NewRecord(key, value, None, (*headers, *extra))

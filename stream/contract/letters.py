"""Dead letters: records that are not taken in, each with a reason from a closed list."""

from __future__ import annotations

from typing import Literal

import msgspec

from stream.contract.records import NewRecord, Record

Reason = Literal[
    "null",
    "oversized",
    "malformed",
    "schema",
    "event_time_ahead",
    "duplicate_event",
    "label_value",
    "label_class",
    "label_duplicate",
    "label_conflict",
    "label_orphan",
    "command",
    "foreign",
    "poison",
]
REASONS: tuple[Reason, ...] = Reason.__args__  # type: ignore[attr-defined]
"""Why a record can become a dead letter; a closed list, so that it can be a metric's label."""

DEAD_LETTER_BYTES = 900_000
"""Raw bytes that a dead letter keeps; a longer record is cut, and its length stands in a header."""


class DeadLetter(msgspec.Struct, frozen=True):
    """A record that is not taken in, and why: a closed reason and a sentence for people."""

    record: Record
    reason: Reason
    error: str

    @property
    def value(self) -> bytes | None:
        """The record's raw bytes, as far as a dead letter keeps them."""
        return self.record.value and self.record.value[:DEAD_LETTER_BYTES]

    def told(self) -> dict[str, str]:
        """Reason, error and position, without the payload."""
        r = self.record
        return {
            "reason": self.reason,
            "error": self.error,
            "topic": r.topic,
            "partition": str(r.partition),
            "offset": str(r.offset),
        }

    def encoded(self) -> NewRecord:
        """The record's own key and raw bytes, with position and reason in headers."""
        key, value = self.record.key, self.record.value
        if value is None and key is None:
            key = b""  # a record with neither key nor value cannot be written
        headers = tuple((name, text.encode()) for name, text in self.told().items())
        if value is not None and len(value) > DEAD_LETTER_BYTES:
            # What a broker takes at most by default is 1 MB with the headers.
            headers += (("original_bytes", b"%d" % len(value)),)
        return NewRecord(key, self.value, None, headers)

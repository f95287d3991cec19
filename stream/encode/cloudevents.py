"""Score records as CloudEvents 1.0 on Kafka: the score is the data, its event's id the id."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from stream.contract.records import Headers, NewRecord

TYPE = "millrace.score"


class _Told(msgspec.Struct):
    """What of a score record the attributes tell."""

    id: str
    scored_at: int


class _Envelope(msgspec.Struct):
    specversion: str
    id: str
    source: str
    type: str
    time: str
    datacontenttype: str
    data: msgspec.Raw


_read = msgspec.json.Decoder(_Told).decode


def structured(source: str) -> Callable[[NewRecord], NewRecord]:
    """What writes one JSON object of attributes and data."""

    def write(record: NewRecord) -> NewRecord:
        told = _read(record.value or b"")
        event = _Envelope(
            *("1.0", told.id, source, TYPE, _moment(told.scored_at), "application/json"),
            msgspec.Raw(record.value or b""),
        )
        headers = (*_plain(record.headers), ("content-type", b"application/cloudevents+json"))
        return msgspec.structs.replace(record, value=msgspec.json.encode(event), headers=headers)

    return write


def binary(source: str) -> Callable[[NewRecord], NewRecord]:
    """What writes the attributes into headers and leaves the value as it is."""
    same = (
        ("content-type", b"application/json"),
        ("ce_specversion", b"1.0"),
        ("ce_source", source.encode()),
        ("ce_type", TYPE.encode()),
    )

    def write(record: NewRecord) -> NewRecord:
        told = _read(record.value or b"")
        own = (("ce_id", told.id.encode()), ("ce_time", _moment(told.scored_at).encode()))
        headers = (*_plain(record.headers), *same, *own)
        return msgspec.structs.replace(record, headers=headers)

    return write


def _plain(headers: Headers) -> Headers:
    """Without those that would say something else of this record: an event's may be among them."""
    return tuple(
        (name, value)
        for name, value in headers
        if name.lower() != "content-type" and not name.lower().startswith("ce_")
    )


def _moment(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")

"""CloudEvents 1.0 as Kafka carries them: the attributes at the root, the event itself in ``data``.

Structured (one JSON object) and binary (attributes in headers, the value is the data) give the same
values. Source: CloudEvents 1.0.2, its JSON format and its Kafka protocol binding.
"""

from __future__ import annotations

from typing import Any

import msgspec

from stream.contract.records import Headers, Record
from stream.decode.payload import Misfit, shallow

CONTENT_TYPE = "content-type"
STRUCTURED = "application/cloudevents+json"
PREFIX = "ce_"
"""Of the headers that hold attributes in binary mode."""


class _Attributes(msgspec.Struct):
    """What each event must have."""

    specversion: str
    id: str
    source: str
    type: str


def cloud_event(record: Record, payload: bytes) -> Any:
    """The event's attributes and its ``data``.

    A record that its headers say nothing of is structured. Raises ``ValueError``.
    """
    content = _header(record.headers, CONTENT_TYPE).lower()
    if not content.startswith("application/cloudevents") and _header(
        record.headers, f"{PREFIX}specversion"
    ):
        return _binary(record.headers, content, payload)
    if content.startswith("application/cloudevents") and not content.startswith(STRUCTURED):
        raise Misfit(f"expected a CloudEvent as {STRUCTURED}, got {content[:80]}")
    event = msgspec.json.decode(shallow(payload))
    _check(event)
    return event


def _binary(headers: Headers, content: str, payload: bytes) -> dict[str, Any]:
    event: dict[str, Any] = {
        name.removeprefix(PREFIX): value.decode()
        for name, value in headers
        if name.startswith(PREFIX)
    }
    _check(event)
    media = content.partition(";")[0].strip()
    if media and media != "application/json" and not media.endswith("+json"):
        raise Misfit(f"expected data in JSON, got {media[:80]}")
    if media:
        event["datacontenttype"] = content
    event["data"] = msgspec.json.decode(shallow(payload))
    return event


def _check(event: Any) -> None:
    found = msgspec.convert(event, _Attributes)
    if found.specversion != "1.0":
        raise Misfit(
            f"expected CloudEvents 1.0, got {found.specversion[:40]!r} - at `$.specversion`"
        )
    for name in ("id", "source", "type"):
        if not getattr(found, name):
            raise Misfit(f"expected an attribute that is not empty - at `$.{name}`")


def _header(headers: Headers, wanted: str) -> str:
    """The text of a header, whose name may be in any case; empty where there is none."""
    return next((v.decode() for name, v in headers if name.lower() == wanted), "")

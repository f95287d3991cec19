"""Score records in the format of their topic: the last thing before they are committed, and back.

The step, its digest and every reader in this process know them in JSON. What else is written is a
function of that and of the number that the registry gave the schema.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from stream.contract.outputs import Outputs
from stream.contract.records import NewRecord
from stream.encode.cloudevents import binary, structured
from stream.settings.schema import Config

Write = Callable[[NewRecord], NewRecord]
"""A score record in JSON as its topic holds it."""


class Field(NamedTuple):
    """One part of a score record, as each kind of schema calls its type."""

    avro: Any
    protobuf: str
    json: Any


_TEXT = Field("string", "string", {"type": "string"})
_COUNT = Field("long", "int64", {"type": "integer"})
_INT = Field("int", "int32", {"type": "integer"})
_MOMENT = _COUNT._replace(avro={"type": "long", "logicalType": "timestamp-millis"})
_SHARE = Field("double", "double", {"type": "number"})
_FLAG = Field("boolean", "bool", {"type": "boolean"})
_SHARES = Field(
    {"type": "map", "values": "double"},
    "map<string, double>",
    {"type": "object", "additionalProperties": {"type": "number"}},
)
FIELDS = {
    "id": _TEXT,
    "event_time": _MOMENT,
    "score": _SHARE,
    "alert": _FLAG,
    "members": _SHARES,
    "partition": _INT,
    "offset": _COUNT,
    "scored_at": _MOMENT,
    "model": _TEXT,
    "seq": _COUNT,
    "cold": _FLAG,
}
"""The parts of a score record, in order; a map of members, so that another ensemble has the same
schema."""
_OPTIONAL = {"cold"}
"""Parts that JSON leaves out where they are false."""


def schema_text(kind: str) -> str:
    """The schema of score records in a format, as a registry takes it."""
    if kind == "protobuf":
        lines = [f"  {f.protobuf} {name} = {i};" for i, (name, f) in enumerate(FIELDS.items(), 1)]
        whole = ['syntax = "proto3";', "package millrace;", "", "message Score {", *lines, "}", ""]
        return "\n".join(whole)
    if kind == "avro":
        fields = [
            {"name": name, "type": f.avro} | ({"default": False} if name in _OPTIONAL else {})
            for name, f in FIELDS.items()
        ]
        record = {"type": "record", "name": "Score", "namespace": "millrace", "fields": fields}
        return msgspec.json.encode(record).decode()
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Score",
        "type": "object",
        "properties": {name: f.json for name, f in FIELDS.items()},
        "required": [name for name in FIELDS if name not in _OPTIONAL],
    }
    return msgspec.json.encode(schema).decode()


def writer(config: Config, number: int) -> Callable[[Outputs], Outputs]:
    """What puts the scores of a step into the format of their topic.

    ``number`` is that of their schema in the registry, where the format has one.
    """
    kind = config.scores.format
    if kind == "json":
        return lambda outputs: outputs
    write = _write(kind, number, f"/millrace/{config.name}")

    def write_all(outputs: Outputs) -> Outputs:
        return msgspec.structs.replace(outputs, scores=[write(r) for r in outputs.scores])

    return write_all


def _write(kind: str, number: int, source: str) -> Write:
    if kind == "cloudevents":
        return structured(source)
    if kind == "cloudevents-binary":
        return binary(source)
    prefix = b"\0" + number.to_bytes(4, "big")
    if kind == "json-schema":
        return lambda r: msgspec.structs.replace(r, value=prefix + (r.value or b""))
    # Each library is loaded where the topic needs it.
    if kind == "avro":
        from stream.encode.avro import avro_writer

        encode = avro_writer(schema_text(kind))
    else:
        from stream.encode.protobuf import protobuf_writer

        encode = protobuf_writer({name: f.protobuf for name, f in FIELDS.items()})

    def write(record: NewRecord) -> NewRecord:
        value = msgspec.json.decode(record.value or b"")
        return msgspec.structs.replace(record, value=prefix + encode(value))

    return write


def reader(kind: str) -> Callable[[bytes], dict[str, Any]]:
    """What reads the score in a record's value, in a format or in JSON of any kind.

    Raises :class:`ValueError` for a value that is none of these.
    """
    if kind == "avro":
        from stream.encode.avro import avro_reader

        decode: Callable[[bytes], Any] = avro_reader(schema_text(kind))
    elif kind == "protobuf":
        from stream.encode.protobuf import protobuf_reader

        decode = protobuf_reader({name: f.protobuf for name, f in FIELDS.items()})
    else:
        decode = msgspec.json.decode

    def read(raw: bytes) -> dict[str, Any]:
        # A number of a schema begins with a null byte: the topic may hold an older format, too.
        try:
            value = decode(raw[5:]) if raw[:1] == b"\0" else msgspec.json.decode(raw)
        except Exception as error:  # each library has its own
            raise ValueError(f"expected a score in {kind} or JSON: {error}") from error
        if isinstance(value, dict) and "specversion" in value:
            value = value.get("data")
        if not isinstance(value, dict) or not value.get("id") or "seq" not in value:
            raise ValueError("expected a score with its id and step")
        return {name: v for name, v in value.items() if v or name not in _OPTIONAL}

    return read

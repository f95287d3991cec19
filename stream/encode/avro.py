"""Plain values to Avro's binary form, and back."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import fastavro
import msgspec


def avro_writer(schema: str) -> Callable[[Any], bytes]:
    """What writes values by the schema."""
    parsed = fastavro.parse_schema(msgspec.json.decode(schema))

    def write(value: Any) -> bytes:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, parsed, value)
        return out.getvalue()

    return write


def avro_reader(schema: str) -> Callable[[bytes], Any]:
    """What reads values that were written by the schema; a time is the number that it is."""
    parsed = fastavro.parse_schema(json.loads(schema, object_hook=_without_logical_types))

    def read(raw: bytes) -> Any:
        return fastavro.schemaless_reader(io.BytesIO(raw), parsed, None)

    return read


def _without_logical_types(tree: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in tree.items() if name != "logicalType"}

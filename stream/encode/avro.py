"""Plain values to Avro's binary form."""

from __future__ import annotations

import io
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

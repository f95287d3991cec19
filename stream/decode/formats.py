"""What stands around and under the values of a record, by the format of its topic.

A format turns the bytes of a record into plain values, objects as dicts: all that follows sees
these alone. JSON needs none of it: its bytes are decoded straight into rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from stream.contract.records import Record
from stream.contract.schemas import Schema
from stream.decode.cloudevents import cloud_event
from stream.decode.payload import Misfit
from stream.settings.schema import SCHEMA_TYPES, InputFormat

Unpack = Callable[[Record, bytes], Any]
"""The plain values of a record with this payload; raises ``ValueError`` where it has none."""
Read = Callable[[bytes], Any]
"""The plain values of what follows a schema's number; raises ``ValueError``."""

PREFIX_BYTES = 5
"""Confluent's wire format: a zero byte, then a schema's number in four."""
KEPT = 1_000
"""Schemas kept from one step to the next; the oldest is let go, and fetched again when needed."""


def number_of(payload: bytes) -> int:
    """The schema that a payload in the wire format names; -1 where it is in no such format.

    Numbers are positive in 32 bits with a sign: no registry is asked for another one.
    """
    if len(payload) < PREFIX_BYTES or payload[0] or payload[1] & 0x80:
        return -1
    return int.from_bytes(payload[1:PREFIX_BYTES], "big")


class Schemas:
    """The schemas that records may be written by, and what reads by them.

    The registry has no others: those that a step needs are adopted before it.
    """

    def __init__(self) -> None:
        self._known: dict[int, Schema] = {}
        # By format too: what one topic cannot read by a schema another may.
        self._reads: dict[tuple[int, str], Read | Misfit] = {}

    def __contains__(self, number: int) -> bool:
        return number in self._known

    def adopt(self, schema: Schema) -> None:
        """Records may be written by it from here on."""
        self._known[schema.id] = schema

    def trim(self) -> None:
        """Keep the newest; between steps alone, so that none of a step goes before it."""
        while len(self._known) > KEPT:
            gone = next(iter(self._known))
            del self._known[gone]
            for kind in SCHEMA_TYPES:
                self._reads.pop((gone, kind), None)

    def state(self) -> list[Any]:
        """See :data:`models.base.State`."""
        return [msgspec.to_builtins(schema) for schema in self._known.values()]

    def restore(self, state: Iterable[Any]) -> None:
        """See :data:`models.base.State`."""
        self._known = {s.id: s for s in (msgspec.convert(kept, Schema) for kept in state)}
        self._reads = {}

    def unpack(self, kind: str) -> Unpack:
        """What unpacks the wire format with schemas of one format."""

        def unpack(record: Record, payload: bytes) -> Any:
            number = number_of(payload)
            if number < 0:
                raise ValueError(
                    "expected a zero byte and the number of a schema in four, as serializers with "
                    f"a registry write it; got {payload[:PREFIX_BYTES].hex(' ') or 'nothing'}"
                )
            read = self._read(number, kind)
            try:
                return read(payload[PREFIX_BYTES:])
            except Misfit as error:
                raise Misfit(f"schema {number}: {error}") from error
            except ValueError as error:
                raise ValueError(f"schema {number}: {error}") from error

        return unpack

    def _read(self, number: int, kind: str) -> Read:
        read = self._reads.get((number, kind))
        if read is None:
            schema = self._known.get(number)
            if schema is None:
                raise Misfit(f"schema {number}: the registry has none of this number")
            read = self._reads[number, kind] = _built(schema, kind)
        if isinstance(read, Misfit):
            raise Misfit(str(read))
        return read


def _built(schema: Schema, kind: str) -> Read | Misfit:
    """What reads by the schema, or why nothing can."""
    if schema.type != SCHEMA_TYPES[kind]:
        return Misfit(
            f"schema {schema.id}: expected one of {SCHEMA_TYPES[kind]}, got {schema.type[:40]}"
        )
    # Each library is loaded where a topic needs it.
    try:
        if kind == "avro":
            from stream.decode.avro import avro_reader as reader
        elif kind == "protobuf":
            from stream.decode.protobuf import protobuf_reader as reader
        else:
            from stream.decode.json_schema import json_schema_reader as reader
        return reader(schema)
    except ValueError as error:
        return Misfit(f"schema {schema.id}: cannot be read by: {error}")


def unpacker(kind: InputFormat, schemas: Schemas) -> Unpack | None:
    """What unpacks records of a topic; ``None`` for JSON, which needs none."""
    if kind == "json":
        return None
    return cloud_event if kind == "cloudevents" else schemas.unpack(kind)

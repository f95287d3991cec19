"""Avro to plain values: binary data by the schema that wrote it.

Logical types stay the numbers and texts under them (a `timestamp-millis` is a count of `ms`), but
for decimals, which are numbers. A schema that lets few bytes become many values is refused, and so
is one that refers to itself: neither has a bound that a record's size gives it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import fastavro
import msgspec
from fastavro.schema import SchemaParseException

from stream.contract.schemas import Schema
from stream.decode.payload import DEPTH, shallow

VALUES = 10_000
"""Values that a schema describes at most, each use of a named type counted."""
_PRIMITIVE = {"null", "boolean", "int", "long", "float", "double", "bytes", "string"}
_KEPT = {"type", "name", "namespace", "fields", "items", "values", "symbols", "size"}
_DECIMAL = "bounded-decimal"
"""The logical type that decimals are given: fastavro's own takes 25 s for one of 256 KiB."""
DECIMAL_BYTES = 64
"""Longest unscaled value of a decimal; no double tells more."""
SCALE = 300
"""Most decimals of a decimal."""


def avro_reader(schema: Schema) -> Callable[[bytes], Any]:
    """What reads data that was written by the schema; raises ``ValueError`` where none can."""
    plain = _Plain()
    named: dict[str, Any] = {}
    try:
        for _, text in schema.references:
            fastavro.parse_schema(plain.read(text), named_schemas=named)
        parsed = fastavro.parse_schema(plain.read(schema.text), named_schemas=named)
    except (SchemaParseException, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it is not Avro: {error!r}") from error

    def read(data: bytes) -> Any:
        stream = io.BytesIO(data)
        try:
            value = fastavro.schemaless_reader(stream, parsed, None)
        except (EOFError, IndexError, TypeError, ArithmeticError) as error:
            raise ValueError(f"the data does not follow it: {error!r}") from error
        if stream.tell() != len(data):
            raise ValueError(f"{len(data) - stream.tell()} bytes follow the data")
        return value

    return read


def _decimal(data: bytes, schema: Any, _: Any) -> float:
    """The double nearest to a decimal."""
    if len(data) > DECIMAL_BYTES:
        raise ValueError(f"expected a decimal of at most {DECIMAL_BYTES} bytes, got {len(data)}")
    scale: int = schema["scale"]
    return int.from_bytes(data, "big", signed=True) / 10**scale


for _kind in ("bytes", "fixed"):
    fastavro.read.LOGICAL_READERS[f"{_kind}-{_DECIMAL}"] = _decimal


class _Size(NamedTuple):
    """Values and levels that a type describes, and whether one may take no bytes."""

    values: int
    depth: int
    empty: bool = False


class _Plain:
    """Schemas without what does not change what is read; refuses what has no bound."""

    def __init__(self) -> None:
        self._sizes: dict[str, _Size] = {}

    def read(self, text: str) -> Any:
        made, size = self._any(msgspec.json.decode(shallow(text.encode())), "", ())
        if size.empty:
            raise ValueError("it takes no bytes")
        return made

    def _any(self, node: Any, space: str, above: Collection[str]) -> tuple[Any, _Size]:
        if isinstance(node, list):
            return self._union(node, space, above)
        if isinstance(node, str):
            return self._named(node, space, above)
        kind = node["type"]
        if not isinstance(kind, str):
            return self._any(kind, space, above)
        made = {key: value for key, value in node.items() if key in _KEPT}
        if node.get("logicalType") == "decimal":
            scale = node.get("scale", 0)
            if not isinstance(scale, int) or not 0 <= scale <= SCALE:
                raise ValueError(f"expected a scale of 0..{SCALE}, got {str(scale)[:40]}")
            made |= {"logicalType": _DECIMAL, "scale": scale}
        if kind in ("record", "error", "enum", "fixed"):
            return self._definition(made, space, above)
        if kind in ("array", "map"):
            part = "items" if kind == "array" else "values"
            made[part], inner = self._any(node[part], space, above)
            return made, self._around([inner])
        made["type"], size = self._named(kind, space, above)
        return made, size

    def _definition(
        self, made: dict[str, Any], space: str, above: Collection[str]
    ) -> tuple[Any, _Size]:
        full = _full(made["name"], made.get("namespace", space))
        size = _Size(1, 1, made["type"] == "fixed" and made["size"] == 0)
        if made["type"] in ("record", "error"):
            space = full.rpartition(".")[0]
            fields, sizes = [], []
            for field in made["fields"]:
                kind, inner = self._any(field["type"], space, (*above, full))
                fields.append({"name": field["name"], "type": kind})
                sizes.append(inner)
            made["fields"] = fields
            size = self._around(sizes)._replace(empty=not fields)
        self._sizes[full] = size
        return made, size

    def _union(self, node: list[Any], space: str, above: Collection[str]) -> tuple[Any, _Size]:
        made = [self._any(branch, space, above) for branch in node]
        sizes = [size._replace(empty=False) for _, size in made]  # its number is a byte
        return [branch for branch, _ in made], self._around(sizes)

    def _named(self, name: str, space: str, above: Collection[str]) -> tuple[str, _Size]:
        if name in _PRIMITIVE:
            return name, _Size(1, 1, name == "null")
        full = next((n for n in (_full(name, space), name) if n in self._sizes or n in above), name)
        if full in above:
            raise ValueError(f"{full} refers to itself")
        return full, self._sizes[full]

    def _around(self, inner: list[_Size]) -> _Size:
        if any(size.empty for size in inner):
            raise ValueError("a type that takes no bytes stands outside of a union")
        size = _Size(1 + sum(s.values for s in inner), 1 + max((s.depth for s in inner), default=0))
        if size.values > VALUES or size.depth > DEPTH:
            raise ValueError(
                f"expected at most {VALUES} values in {DEPTH} levels, got {size.values} in "
                f"{size.depth}"
            )
        return size


def _full(name: str, space: str) -> str:
    return name if "." in name or not space else f"{space}.{name}"

"""Protobuf to plain values: messages by the descriptor that their schema holds.

Names are those of the ``.proto`` file. An enum is its value's name, bytes are base64; a timestamp
is text as RFC 3339 writes it, a wrapper its value, a struct an object. Nothing is compiled: a
descriptor is data.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Any

import msgspec
from google.protobuf import (
    any_pb2,
    descriptor_pb2,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    json_format,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
)
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from stream.contract.schemas import Schema

VALUES = 100_000
"""Values of one record at most: two bytes can stand for a message with all fields at defaults."""
_COMMON: dict[str, FileDescriptor] = {
    module.DESCRIPTOR.name: module.DESCRIPTOR
    for module in (
        any_pb2,
        descriptor_pb2,
        duration_pb2,
        empty_pb2,
        field_mask_pb2,
        struct_pb2,
        timestamp_pb2,
        wrappers_pb2,
    )
}
"""What every schema may import."""
_AS_JSON = {
    f"google.protobuf.{name}"
    for name in ("Timestamp", "Duration", "FieldMask", "Struct", "Value", "ListValue", "BoolValue")
} | {f"google.protobuf.{kind}Value" for kind in ("Float", "Double", "String", "Bytes")}
_INTEGERS = {f"google.protobuf.{kind}Value" for kind in ("Int32", "Int64", "UInt32", "UInt64")}
"""Wrappers whose JSON may be text."""


def protobuf_reader(schema: Schema) -> Callable[[bytes], Any]:
    """What reads messages of the schema; raises ``ValueError`` where none can."""
    pool = DescriptorPool()
    try:
        for name, text in schema.references:
            _add(pool, text, name)
        root = pool.FindFileByName(_add(pool, schema.text, ""))
    except binascii.Error as error:
        raise ValueError(
            "expected a descriptor in base64; the registry must give one for `format=serialized`"
        ) from error
    except (DecodeError, TypeError, KeyError) as error:
        raise ValueError(f"it is not a Protobuf file: {error}") from error
    classes: dict[bytes, type[Message]] = {}

    def read(data: bytes) -> Any:
        path, start = _path(data)
        prefix = data[:start]
        if prefix not in classes:
            classes[prefix] = GetMessageClass(_message(root, path))
        message = classes[prefix]()
        try:
            message.ParseFromString(data[start:])
        except DecodeError as error:
            raise ValueError(f"the data does not follow it: {error}") from error
        return _Values().of(message)

    return read


def _add(pool: DescriptorPool, text: str, name: str) -> str:
    """Put a file into the pool, under the name that others import it by."""
    file = descriptor_pb2.FileDescriptorProto.FromString(base64.b64decode(text, validate=True))
    file.name = name or file.name or "schema.proto"
    for needed in file.dependency:
        if needed in _COMMON:
            pool.AddSerializedFile(_COMMON[needed].serialized_pb)
    pool.Add(file)
    return file.name


def _path(data: bytes) -> tuple[list[int], int]:
    """The indices of a message in its file, each inside the one before, and where they end."""
    count, at = _varint(data, 0)
    if not count:
        return [0], at  # the first one, in a byte
    if not 0 < count <= len(data):
        raise ValueError("the data does not begin with the place of a message")
    path = []
    for _ in range(count):
        index, at = _varint(data, at)
        path.append(index)
    return path, at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A zigzag varint and where it ends."""
    value = 0
    for shift in range(0, 35, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at
    raise ValueError("the data does not begin with the place of a message")


def _message(root: FileDescriptor, path: list[int]) -> Descriptor:
    found: Descriptor | None = None
    messages = list(root.message_types_by_name.values())
    for index in path:
        if not 0 <= index < len(messages):
            raise ValueError(f"it has no message at {path[:10]}")
        found = messages[index]
        messages = list(found.nested_types)
    assert found is not None
    return found


class _Values:
    """Messages as dicts, up to a bound of values."""

    def __init__(self) -> None:
        self._left = VALUES

    def of(self, message: Message) -> Any:
        name = message.DESCRIPTOR.full_name
        if name in _INTEGERS:
            return getattr(message, "value")  # noqa: B009 - no class that a type checker knows
        if name in _AS_JSON:
            return self._as_json(message)
        return {
            field.name: self._field(field, getattr(message, field.name))
            for field in message.DESCRIPTOR.fields
            if not field.has_presence or message.HasField(field.name)
        }

    def _as_json(self, message: Message) -> Any:
        try:
            return msgspec.json.decode(json_format.MessageToJson(message, indent=None))
        except (json_format.Error, RecursionError) as error:
            raise ValueError(f"{message.DESCRIPTOR.full_name}: {error}") from error

    def _field(self, field: FieldDescriptor, value: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"expected a message of at most {VALUES} values")
        kind = field.message_type
        if kind is not None and kind.GetOptions().map_entry:
            inner = kind.fields_by_name["value"]
            return {str(key): self._field(inner, value[key]) for key in value}
        if field.is_repeated:
            return [self._one(field, item) for item in value]
        return self._one(field, value)

    def _one(self, field: FieldDescriptor, value: Any) -> Any:
        if field.type == FieldDescriptor.TYPE_ENUM:
            named = field.enum_type.values_by_number.get(value)
            return named.name if named else value
        if field.type == FieldDescriptor.TYPE_BYTES:
            return base64.b64encode(value).decode()
        return value if field.message_type is None else self.of(value)

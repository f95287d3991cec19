"""Plain values to a Protobuf message, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

_TYPES = {
    "string": FieldDescriptorProto.TYPE_STRING,
    "double": FieldDescriptorProto.TYPE_DOUBLE,
    "bool": FieldDescriptorProto.TYPE_BOOL,
    "int32": FieldDescriptorProto.TYPE_INT32,
    "int64": FieldDescriptorProto.TYPE_INT64,
}
_MAP = "map<string, "
_OPTIONAL = "optional "
_REPEATED = "repeated "


def protobuf_writer(fields: Mapping[str, str]) -> Callable[[Any], bytes]:
    """What writes values as the message ``millrace.Score`` of these fields and their types.

    Behind the place of the message in its file, as the wire format has it.
    """
    score = _message(fields)

    def write(value: Any) -> bytes:
        made: bytes = score(**value).SerializeToString(deterministic=True)
        return b"\0" + made

    return write


def protobuf_reader(fields: Mapping[str, str]) -> Callable[[bytes], dict[str, Any]]:
    """What reads the values that :func:`protobuf_writer` wrote of these fields."""
    score = _message(fields)

    def read(raw: bytes) -> dict[str, Any]:
        message = score.FromString(raw[1:])
        return {name: _value(message, name, kind) for name, kind in fields.items()}

    return read


def _value(message: Any, name: str, kind: str) -> Any:
    if kind.startswith(_OPTIONAL) and not message.HasField(name):
        return None
    value = getattr(message, name)
    if kind.startswith(_REPEATED):
        return list(value)
    return dict(value) if kind.startswith(_MAP) else value


def _message(fields: Mapping[str, str]) -> Any:
    """The class of messages of these fields and their types."""
    message = DescriptorProto(name="Score")
    for number, (name, kind) in enumerate(fields.items(), 1):
        _add(message, name, kind, number)
    file = FileDescriptorProto(
        name="score.proto", package="millrace", syntax="proto3", message_type=[message]
    )
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("millrace.Score"))


def _add(message: DescriptorProto, name: str, kind: str, number: int) -> None:
    field = message.field.add(name=name, number=number, label=FieldDescriptorProto.LABEL_OPTIONAL)
    if not kind.startswith(_MAP):
        field.type = _TYPES[kind.removeprefix(_OPTIONAL).removeprefix(_REPEATED)]
        if kind.startswith(_REPEATED):
            field.label = FieldDescriptorProto.LABEL_REPEATED
        if kind.startswith(_OPTIONAL):
            # What may be absent is alone in a group of its own, as protoc writes it.
            field.proto3_optional, field.oneof_index = True, len(message.oneof_decl)
            message.oneof_decl.add(name=f"_{name}")
        return
    # A map is a repeated message of a key and a value (protobuf.dev/programming-guides/proto3).
    entry = message.nested_type.add(name=f"{name.title()}Entry")
    entry.options.map_entry = True
    for i, (part, each) in enumerate((("key", "string"), ("value", kind[len(_MAP) : -1])), 1):
        inner = entry.field.add(name=part, number=i, label=FieldDescriptorProto.LABEL_OPTIONAL)
        inner.type = _TYPES[each]
    field.label, field.type = FieldDescriptorProto.LABEL_REPEATED, FieldDescriptorProto.TYPE_MESSAGE
    field.type_name = f".millrace.Score.{entry.name}"

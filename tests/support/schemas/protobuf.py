"""Protobuf files without a compiler: descriptors, and classes of their messages."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)

_KINDS = {
    "string": FieldDescriptorProto.TYPE_STRING,
    "double": FieldDescriptorProto.TYPE_DOUBLE,
    "int64": FieldDescriptorProto.TYPE_INT64,
    "int32": FieldDescriptorProto.TYPE_INT32,
    "bool": FieldDescriptorProto.TYPE_BOOL,
}


def message(name: str, **fields: str) -> DescriptorProto:
    """A message of these fields; those with a question mark tell whether they are there.

    ``string -> double`` is a map, ``string*`` a list.
    """
    made = DescriptorProto(name=name)
    for number, (field, kind) in enumerate(fields.items(), 1):
        plain = kind.rstrip("?*")
        one = made.field.add(name=field, number=number, label=FieldDescriptorProto.LABEL_OPTIONAL)
        key, arrow, value = plain.partition(" -> ")
        if arrow:
            entry = message(f"{field.title()}Entry", key=key, value=value)
            entry.options.map_entry = True
            made.nested_type.append(entry)
            one.label = FieldDescriptorProto.LABEL_REPEATED
            plain = f".shop.{name}.{entry.name}"
        one.type = _KINDS.get(plain, FieldDescriptorProto.TYPE_MESSAGE)
        if plain not in _KINDS:
            one.type_name = plain
        if kind.endswith("*"):
            one.label = FieldDescriptorProto.LABEL_REPEATED
        if kind.endswith("?"):
            one.proto3_optional = True
            one.oneof_index = len(made.oneof_decl)
            made.oneof_decl.add(name=f"_{field}")
    return made


def file_of(
    name: str, *messages: DescriptorProto, needs: tuple[str, ...] = ()
) -> FileDescriptorProto:
    """A file of the package ``shop``."""
    return FileDescriptorProto(
        name=name, package="shop", syntax="proto3", message_type=messages, dependency=needs
    )


def message_class(file: Any, name: str, *others: Any) -> Any:
    """The class of a file's message; ``others`` are the files that it imports."""
    pool = descriptor_pool.DescriptorPool()
    for each in (*others, file):
        pool.AddSerializedFile(
            each.serialized_pb if hasattr(each, "serialized_pb") else each.SerializeToString()
        )
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"shop.{name}"))

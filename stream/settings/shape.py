"""The shape of settings, read from their annotations: what stands where in a file.

Messages name places by it, the reference lists them, checks read by it what is valid of a
configuration that is not. Knows no key by name.
"""

from __future__ import annotations

import json
import re
import types
from collections.abc import Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, JsonValue, SecretStr, TypeAdapter, ValidationError

Place = tuple[str | int, ...]
"""Keys and indices from the root of a file to a value."""
HIDDEN: dict[str, JsonValue] = {"writeOnly": True}
"""``json_schema_extra`` of text in whose place somebody may put a secret by mistake."""


def models(annotation: Any) -> list[type[BaseModel]]:
    """Every settings class inside an annotation, in order."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [c for a in get_args(annotation) for c in models(a)]


def secrets(annotation: Any) -> frozenset[str]:
    """Keys whose values nobody may see: those of ``SecretStr`` and of :data:`HIDDEN`."""
    found: set[str] = set()
    for cls in models(annotation):
        for key, field in cls.model_fields.items():
            if _bare(field.annotation) is SecretStr or field.json_schema_extra == HIDDEN:
                found.add(key)
            found |= secrets(field.annotation)
    return frozenset(found)


def tag(cls: type[BaseModel]) -> str | None:
    """The literal value of ``type`` that chooses this class."""
    field = cls.model_fields.get("type")
    values = get_args(field.annotation) if field else ()
    return values[0] if len(values) == 1 else None


def written(place: Sequence[str | int]) -> str:
    """A place as people write it.

    >>> written(("event", "fields", "a b", 0))
    'event.fields."a b"[0]'
    """
    text = ""
    for part in place:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            key = part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else json.dumps(part)
            text += f".{key}" if text else key
    return text or "the file"


def locate(annotation: Any, loc: Sequence[str | int]) -> tuple[Place, Any]:
    """The place in a file that a location of pydantic means, and the annotation of what is there.

    A location also holds what is written nowhere: the tag of the class that was tried, the member
    of a union, ``[key]`` after a key that is wrong itself. Only the annotations tell these from
    keys of the same names. Where they end (``Any``, an unknown key) all else are keys.
    """
    place: list[str | int] = []
    node, below_key = annotation, False
    for part in loc:
        node = _bare(node)
        if below_key and part == "[key]":
            continue
        below_key = get_origin(node) is dict
        if _is_union(node):
            node = _chosen(node, part)
            continue
        place.append(part)
        node = _child(node, part)
    return tuple(place), _bare(node)


def partly(annotation: Any, raw: Any) -> Any:
    """``raw`` as its annotation has it, as far as it is valid.

    A settings object lacks the attributes that are not valid: reading one is an ``AttributeError``.
    An item of a list of which nothing is valid is ``None``. Raises :class:`ValidationError` where
    nothing is.
    """
    try:
        return TypeAdapter(annotation).validate_python(raw)
    except ValidationError:
        node = _bare(annotation)
        if _is_union(node) and isinstance(raw, dict):
            node = _chosen(node, raw.get("type"))
        if isinstance(node, type) and issubclass(node, BaseModel) and isinstance(raw, dict):
            return _partly_object(node, raw)
        if get_origin(node) is tuple and models(node) and isinstance(raw, list | tuple):
            return tuple(_partly_item(get_args(node)[0], item) for item in raw)
        raise


def _partly_object(cls: type[BaseModel], raw: dict[str, Any]) -> BaseModel:
    made = cls.model_construct(**{k: v for k, v in raw.items() if k not in cls.model_fields})
    for key in raw.keys() & cls.model_fields.keys():
        field = cls.model_fields[key]
        try:
            made.__dict__[key] = partly(Annotated[field.annotation, field], raw[key])
        except ValidationError:
            made.__dict__.pop(key, None)  # also the default that stands in for it
    return made


def _partly_item(annotation: Any, raw: Any) -> Any:
    try:
        return partly(annotation, raw)
    except ValidationError:
        return None


def _bare(annotation: Any) -> Any:
    """Without ``Annotated`` and ``None``."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if _is_union(annotation):
        others = [a for a in get_args(annotation) if a is not type(None)]
        return _bare(others[0]) if len(others) == 1 else annotation
    return annotation


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)


def _chosen(union: Any, choice: object) -> Any:
    """The member of a union that a tag chooses; ``Any`` where members have none."""
    return next((c for c in models(union) if tag(c) == choice), Any)


def _child(annotation: Any, part: str | int) -> Any:
    """The annotation one key or index below."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(str(part))
        return field.annotation if field else Any
    if get_origin(annotation) in (tuple, list):
        return get_args(annotation)[0]
    return get_args(annotation)[1] if get_origin(annotation) is dict else Any

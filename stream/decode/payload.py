"""Objects to flat rows: values at their places, by typed structs made from the configuration.

A flat object in JSON is decoded straight into its row. A nested one is decoded into structs inside
one another, in one pass as well, then laid flat: what follows sees rows alone. Nothing is looked up
by name once the structs are made. Plain values of other formats are converted by the same structs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec
import numpy as np

from stream.settings.shape import Place

Tree = dict[str | int, Any]
"""Values and further trees by name or index."""
DEPTH = 64
"""Deepest nesting of a record. A fixed number: the decoder's own limit depends on how much stack is
left, so that a step and its replay could decide differently."""


class Misfit(ValueError):
    """A record that can be read, and is not what was declared."""


def shallow(value: bytes) -> bytes:
    """The same JSON, if it nests at most :data:`DEPTH` levels; any bytes are looked at."""
    if len(value) > 2 * DEPTH:  # a shorter one has no room for more, each with its end
        brackets = value.count(b"[") + value.count(b"{")
        if brackets > DEPTH and _depth(value) > DEPTH:
            raise ValueError(f"expected at most {DEPTH} nested levels")
    return value


def all_shallow(values: list[bytes], whole: bytes) -> list[bytes]:
    """The same, as :func:`shallow` of each; ``whole`` is all of them one after another.

    Each that is an object or array has a bracket; whatever has none must be refused for that.
    """
    if _brackets(whole) < len(values) + DEPTH:
        return values  # the others have one, none has more than are allowed
    return list(map(shallow, values))


def _brackets(values: bytes) -> int:
    """How many of ``[`` and ``{``, which one bit tells apart."""
    if len(values) < 4096:
        return values.count(b"[") + values.count(b"{")
    return int(np.count_nonzero(np.frombuffer(values, np.uint8) | 0x20 == 0x7B))


def _depth(value: bytes) -> int:
    """How deep the brackets outside of text nest, at most."""
    depth = deepest = 0
    in_text = escaped = False
    for byte in value:
        if in_text:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                in_text = False
        elif byte == 0x22:
            in_text = True
        elif byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


class Value(NamedTuple):
    """One attribute of a row: its name there, its place in the object and what it must be.

    Where it is not ``required`` it may be null or missing, or an object around it may.
    """

    name: str
    place: Place
    kind: Any
    required: bool = True


def tree(values: Iterable[tuple[Place, Any]]) -> Tree:
    """What is given, each at its place; raises ``KeyError`` where one stands inside another."""
    root: Tree = {}
    for place, value in values:
        node = root
        for part in place[:-1]:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise KeyError(place)
        if place[-1] in node:
            raise KeyError(place)
        node[place[-1]] = value
    return root


def decoder(
    title: str, values: Iterable[Value], strict: bool = False, plain: bool = False
) -> Callable[[Any], Any]:
    """What reads a row with the ``values`` as attributes from the bytes of an object.

    ``strict`` refuses names that no place has. With ``plain`` it reads from plain values, such as
    dicts, not from JSON. The reader raises ``msgspec.DecodeError``, of plain values that do not fit
    ``msgspec.ValidationError``.
    """
    if plain:
        values = [v._replace(kind=Any) if v.kind is msgspec.Raw else v for v in values]
    # Those that must be there first, as the struct needs it.
    ordered = sorted(values, key=lambda v: not v.required)
    fields = [(v.name, *_kind(v)) for v in ordered]
    if all(len(v.place) == 1 for v in ordered):
        rename = {v.name: str(v.place[0]) for v in ordered}
        row = msgspec.defstruct(
            title, fields, rename=rename, forbid_unknown_fields=strict, gc=False
        )
        return _read(row, plain)
    row = msgspec.defstruct(title, fields, gc=False)
    found: dict[str, str] = {}
    passed = (Any, None) if plain else (msgspec.Raw, _RAW)
    root = _struct(title, tree((v.place, v) for v in ordered), strict, "", found, passed)
    nested = _read(root, plain)
    paths = [found[v.name] for v in ordered]
    return _laid_flat(
        nested, row, paths, [None if v.kind is not msgspec.Raw else _RAW for v in ordered]
    )


def _read(kind: type[Any], plain: bool) -> Callable[[Any], Any]:
    return partial(msgspec.convert, type=kind) if plain else msgspec.json.Decoder(kind).decode


_RAW = msgspec.Raw(b"")


def _laid_flat(
    nested: Callable[[bytes], Any], row: Callable[..., Any], paths: list[str], missing: list[Any]
) -> Callable[[bytes], Any]:
    fetch = attrgetter(*paths)
    steps = [path.split(".") for path in paths]

    def decode(payload: bytes) -> Any:
        found = nested(payload)
        try:
            return row(*fetch(found))
        except AttributeError:  # null in place of an object: what is inside counts as missing
            return row(*(_reach(found, s, m) for s, m in zip(steps, missing, strict=True)))

    return decode


def _reach(found: Any, steps: list[str], missing: Any) -> Any:
    for step in steps:
        if found is None:
            return missing
        found = getattr(found, step)
    return found


def _kind(value: Value) -> tuple[Any, ...]:
    """The annotation of a struct's field, and its default if it may be missing."""
    if value.required:
        return (value.kind,)
    return (value.kind, _RAW) if value.kind is msgspec.Raw else (value.kind | None, None)


def _struct(
    title: str,
    children: Mapping[str | int, Any],
    strict: bool,
    above: str,
    found: dict[str, str],
    passed: tuple[Any, Any],
) -> Any:
    """The struct of an object or array; notes in ``found`` which attributes lead to each value.

    ``passed`` is type and default of an item that nothing reads.
    """
    fields: list[Any] = []
    rename: dict[str, str] = {}
    array = any(isinstance(part, int) for part in children)
    # An array's items stand in a row: those that nothing reads are stepped over.
    parts = range(1 + max(int(p) for p in children)) if array else children
    for i, part in enumerate(parts):
        name = f"x{i}"
        rename[name] = str(part)
        child = children.get(part)
        if child is None:
            fields.append((name, *passed))
        elif isinstance(child, Value):
            found[child.name] = above + name
            fields.append((name, *_kind(child)))
        else:
            inner = _struct(title, child, strict, f"{above}{name}.", found, passed)
            fields.append((name, inner) if _needed(child) else (name, inner | None, inner()))
    return msgspec.defstruct(
        title,
        fields,
        rename=None if array else rename,
        array_like=array,
        forbid_unknown_fields=strict and not array,
        kw_only=True,
        frozen=True,
        gc=False,
    )


def _needed(child: Any) -> bool:
    """Whether something must be there."""
    return child.required if isinstance(child, Value) else any(map(_needed, child.values()))


def encoded(values: Iterable[tuple[Place, Any]]) -> bytes:
    """The object that has each value at its place, as JSON; items of arrays between are null."""
    return msgspec.json.encode(_plain(tree(values)))


def _plain(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    if any(isinstance(part, int) for part in node):
        return [_plain(node.get(i)) for i in range(1 + max(int(p) for p in node))]
    return {part: _plain(child) for part, child in node.items()}

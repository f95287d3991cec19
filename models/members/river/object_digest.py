"""A digest of Python objects that is equal before a save and after a restore.

Pickle bytes will not do: they depend on which equal strings and tuples happen to be the same
object. Nothing here changes what it walks.
"""

from __future__ import annotations

import copyreg
import hashlib
import struct
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from models.base import StateError

_FLUSH_BYTES = 1 << 16


def object_digest(value: Any) -> str:
    """SHA-256 over a canonical walk of ``value``, as 64 hex digits.

    Objects are taken apart as pickle does (``copyreg``, ``__reduce_ex__(4)``). Numbers, text and
    tuples count by value; a mutable object met again counts as the same object (aliases and cycles
    are kept); sets count by content; dicts in their order, because River's sums follow it.

    Raises :class:`~models.base.StateError` for what pickle cannot take apart.

    >>> object_digest([1, {"a": (2.0,)}]) == object_digest([1, {"a": (2.0,)}])
    True
    >>> object_digest([1, True]) == object_digest([1, 1])
    False
    """
    return _Walk(value).digest.hex()


def count_numbers(value: Any) -> int:
    """How many floats and array elements are reachable from ``value``."""
    return _Walk(value).numbers


class _Walk:
    """One walk in depth-first order, with a stack of its own: trees may be deeper than Python's.

    Every value is written as a tag, a length and its parts, so that no two graphs read alike.
    """

    def __init__(self, value: Any) -> None:
        self.numbers = 0
        self._hash = hashlib.sha256()
        self._buffer = bytearray()
        self._seen: dict[int, int] = {}
        # An id is only good while its object lives: what is taken apart is held to the end.
        self._held: list[Any] = []
        self._stack = [value]
        while self._stack:
            self._one(self._stack.pop())
            if len(self._buffer) > _FLUSH_BYTES:
                self._hash.update(self._buffer)
                self._buffer.clear()
        self._hash.update(self._buffer)
        self.digest = self._hash.digest()

    def _one(self, value: Any) -> None:
        cls = type(value)
        writer = _WRITERS.get(cls)
        if writer is not None:
            writer(self, value)
        elif issubclass(cls, type) or cls in _FUNCTIONS:
            self._function(value)
        elif issubclass(cls, np.generic):
            self.numbers += 1
            self._raw(b"n" + value.dtype.str.encode(), value.tobytes())
        elif self._first(value):
            self._taken_apart(value)

    def _first(self, value: Any) -> bool:
        """Whether ``value`` is met for the first time; else its number is written."""
        number = self._seen.setdefault(id(value), len(self._held))
        if number < len(self._held):
            self._buffer += b"@%d;" % number
            return False
        self._held.append(value)
        return True

    def _raw(self, tag: bytes, raw: bytes) -> None:
        self._buffer += b"%b%d;" % (tag, len(raw))
        self._buffer += raw

    def _parts(self, tag: bytes, parts: list[Any]) -> None:
        self._buffer += b"%b%d;" % (tag, len(parts))
        parts.reverse()
        self._stack += parts

    def _float(self, value: float) -> None:
        self.numbers += 1
        self._buffer += b"f" + struct.pack("<d", value)

    def _tuple(self, value: tuple[Any, ...]) -> None:
        self._parts(b"(", list(value))

    def _list(self, value: list[Any]) -> None:
        if self._first(value):
            self._parts(b"[", list(value))

    def _dict(self, value: dict[Any, Any]) -> None:
        if self._first(value):
            self._parts(b"{", [part for item in value.items() for part in item])

    def _set(self, value: set[Any] | frozenset[Any]) -> None:
        # A frozenset has no identity to keep; members are sorted by a digest of their own.
        if isinstance(value, frozenset) or self._first(value):
            members = sorted((_Walk(member).digest, i) for i, member in enumerate(value))
            ordered = list(value)
            self._parts(b"<" + type(value).__name__[:1].encode(), [ordered[i] for _, i in members])

    def _array(self, value: np.ndarray[Any, Any]) -> None:
        if not self._first(value):
            return
        self._raw(b"a", f"{value.dtype.str}{value.shape}".encode())
        if value.dtype.hasobject:
            self._parts(b"[", value.ravel().tolist())
        else:
            self.numbers += value.size
            self._raw(b"", value.tobytes())

    def _function(self, value: Any) -> None:
        holder = getattr(value, "__self__", None)
        if holder is not None and not isinstance(holder, types.ModuleType):
            self._parts(b"m", [holder, value.__name__])
        else:
            self._raw(b"g", f"{value.__module__}.{value.__qualname__}".encode())

    def _taken_apart(self, value: Any) -> None:
        """Class, then what pickle would keep: constructor, arguments, state, items."""
        try:
            reducer = copyreg.dispatch_table.get(type(value))
            reduced: Any
            reduced = reducer(value) if reducer else value.__reduce_ex__(4)
        except TypeError as error:
            raise StateError(f"{type(value).__qualname__} cannot be saved: {error}") from error
        if isinstance(reduced, str):
            self._raw(b"g", f"{type(value).__module__}.{reduced}".encode())
            return
        full = (*reduced, None, None, None)
        parts = [full[0], *full[1], full[2], list(full[3] or ())]
        parts += [part for pair in full[4] or () for part in pair]
        # Often made for this call only: held, or their ids may come back.
        self._held += (reduced, parts)
        self._parts(b"o", list(parts))


_FUNCTIONS = frozenset(
    {
        *(types.FunctionType, types.BuiltinFunctionType, types.MethodType),
        *(types.MethodDescriptorType, types.WrapperDescriptorType),
    }
)

_WRITERS: dict[type, Callable[[_Walk, Any], None]] = {
    type(None): lambda walk, value: walk._raw(b"c", b"None"),
    bool: lambda walk, value: walk._raw(b"c", b"%d" % value),
    int: lambda walk, value: walk._raw(b"i", b"%d" % value),
    float: _Walk._float,
    str: lambda walk, value: walk._raw(b"s", value.encode("utf-8", "surrogatepass")),
    bytes: lambda walk, value: walk._raw(b"b", value),
    tuple: _Walk._tuple,
    list: _Walk._list,
    dict: _Walk._dict,
    set: _Walk._set,
    frozenset: _Walk._set,
    np.ndarray: _Walk._array,
}

"""Arrays of members as bytes that are few and compress well: for versions.

Most of a forest's histograms is zeros, and numbers next to each other differ in their low bytes.
An array goes as the items that are not zero, byte by byte in planes, and a bit for each item; bit
for bit what it was. Left out are 26 MB of 32 that would be compressed, digested and decoded for
nothing.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from models.base import U8, U32, U64
from models.kernels.common import HELPER
from models.kernels.entry import entry

_WHOLE, _WORDS = 1, 2
"""Codes of msgpack's extensions."""
LEAST_BYTES = 4096
"""A shorter array goes whole."""
MOST_BYTES = 4 << 30
"""Of the arrays that one text of packed ones may unpack to."""


def _read_only(dimensions: int) -> types.Array:
    """Bytes as they stand in a message."""
    return types.Array(types.uint8, dimensions, "C", readonly=True)


def _set_bits() -> tuple[U8, U8]:
    """How many bits of each byte are set, and which: ``(256,)`` and ``(256, 8)``."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    return bits.sum(axis=1, dtype=np.uint8), np.argsort(1 - bits, kind="stable").astype(np.uint8)


_COUNT, _SET = _set_bits()


@njit(**HELPER)
def _gather(words: Any, mask: U8, named: Any, planes: U8, width: int) -> None:
    j = 0
    for b in range(len(mask)):
        first, bits = 8 * b, 0
        for q in range(min(8, len(words) - first)):
            bits |= (words[first + q] != 0) << q
        mask[b] = bits
        for q in range(_COUNT[bits]):
            named[j] = words[first + _SET[bits, q]]
            j += 1
    for k in range(width):  # after that alone: it takes many at once
        for j in range(len(named)):
            planes[k, j] = (named[j] >> np.uint64(8 * k)) & np.uint64(255)


@njit(**HELPER)
def _scatter(mask: U8, planes: U8, named: Any, words: Any, width: int) -> None:
    for j in range(len(named)):
        word = np.uint64(0)
        for k in range(width):
            word |= np.uint64(planes[k, j]) << np.uint64(8 * k)
        named[j] = word
    j = 0
    for b in range(len(mask)):
        for q in range(_COUNT[mask[b]]):
            words[8 * b + _SET[mask[b], q]] = named[j]
            j += 1


_BYTES, _PLANES = _read_only(1), _read_only(2)


@entry(types.void(types.uint32[::1], types.uint8[::1], types.uint32[::1], types.uint8[:, ::1]))
def _pack_4(words: U32, mask: U8, named: U32, planes: U8) -> None:
    """A bit of ``mask`` for each word that is not zero, these words, and byte k of each."""
    _gather(words, mask, named, planes, 4)


@entry(types.void(types.uint64[::1], types.uint8[::1], types.uint64[::1], types.uint8[:, ::1]))
def _pack_8(words: U64, mask: U8, named: U64, planes: U8) -> None:
    """As :func:`_pack_4`."""
    _gather(words, mask, named, planes, 8)


@entry(types.void(_BYTES, _PLANES, types.uint32[::1], types.uint32[::1]))
def _unpack_4(mask: U8, planes: U8, named: U32, words: U32) -> None:
    """The words that ``mask`` names, alone and in their places; the others are left as they are."""
    _scatter(mask, planes, named, words, 4)


@entry(types.void(_BYTES, _PLANES, types.uint64[::1], types.uint64[::1]))
def _unpack_8(mask: U8, planes: U8, named: U64, words: U64) -> None:
    """As :func:`_unpack_4`."""
    _scatter(mask, planes, named, words, 8)


_PACK, _UNPACK = {4: _pack_4, 8: _pack_8}, {4: _unpack_4, 8: _unpack_8}
"""By the bytes of an item."""
_encode = msgspec.msgpack.Encoder().encode
_read_whole = msgspec.msgpack.Decoder(tuple[str, tuple[int, ...], memoryview]).decode
_read_words = msgspec.msgpack.Decoder(tuple[str, tuple[int, ...], memoryview, memoryview]).decode


def packed(value: Any) -> bytes:
    """Plain values and arrays as bytes, the same for the same bits.

    >>> unpacked(packed({"a": np.zeros(1024), "b": 1}))["a"].sum()
    np.float64(0.0)
    """
    return msgspec.msgpack.encode(value, enc_hook=_extension)


def unpacked(raw: bytes) -> Any:
    """What was packed; raises :class:`ValueError` (msgspec's errors among them)."""
    room = MOST_BYTES

    def array(code: int, data: memoryview) -> NDArray[Any]:
        nonlocal room
        found, room = _array(code, data, room)
        return found

    return msgspec.msgpack.decode(raw, ext_hook=array)


def _extension(value: Any) -> msgspec.msgpack.Ext:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"expected a plain value or an array, got {type(value).__name__}")
    plain = np.ascontiguousarray(value)
    if plain.nbytes < LEAST_BYTES or plain.itemsize not in _PACK:
        whole = (value.dtype.str, value.shape, plain.tobytes())
        return msgspec.msgpack.Ext(_WHOLE, _encode(whole))
    words = plain.reshape(-1).view(f"u{plain.itemsize}")
    named = np.empty(np.count_nonzero(words), words.dtype)
    planes = np.empty((plain.itemsize, len(named)), np.uint8)
    mask = np.empty((len(words) + 7) // 8, np.uint8)
    _PACK[plain.itemsize](words, mask, named, planes)
    parts = (value.dtype.str, value.shape, mask.tobytes(), planes.tobytes())
    return msgspec.msgpack.Ext(_WORDS, _encode(parts))


def _array(code: int, data: memoryview, room: int) -> tuple[NDArray[Any], int]:
    """An array of at most ``room`` bytes, and what is left of these."""
    if code == _WHOLE:
        kind, shape, raw = _read_whole(data)
        found = np.frombuffer(raw, _plain(kind)).reshape(shape).copy()
        return found, room - found.nbytes
    if code != _WORDS:
        raise ValueError(f"an extension {code}")
    kind, shape, bits, raw = _read_words(data)
    dtype, n = _plain(kind), math.prod(shape)
    mask, values = np.frombuffer(bits, np.uint8), np.frombuffer(raw, np.uint8)
    named, beyond, width = int(np.bitwise_count(mask).sum()), n % 8, dtype.itemsize
    fits = len(mask) == (n + 7) // 8 and len(values) == width * named and width in _UNPACK
    if min(shape, default=1) < 0 or n * width > room or not fits or (beyond and mask[-1] >> beyond):
        raise ValueError(f"{len(values)} bytes of words for an array {kind} of shape {shape}")
    words = np.zeros(n, f"u{width}")
    _UNPACK[width](mask, values.reshape(width, -1), np.empty(named, words.dtype), words)
    return words.view(dtype).reshape(shape), room - words.nbytes


_KINDS = frozenset(np.dtype(code).str for code in "?bBhHiIlLefd")


def _plain(kind: str) -> np.dtype[Any]:
    """The type of that name, if it is one of numbers."""
    if kind not in _KINDS:
        raise ValueError(f"an array of type {kind!r}")
    return np.dtype(kind)

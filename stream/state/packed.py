"""A state as arrays and the rest, files that survive a crash: for generations and artefacts."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import zstandard
from numpy.typing import NDArray

from stream.contract import private


def memory_bytes() -> int:
    """This machine's memory: what does not fit was not held here."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


_ARRAY = "\0array"


def split(value: Any, path: str, arrays: dict[str, NDArray[Any]]) -> Any:
    """The tree with each array replaced by its name in ``arrays``."""
    if isinstance(value, np.ndarray):
        # Reshaped: numpy makes one dimension of none.
        arrays[path] = np.ascontiguousarray(value).reshape(value.shape)
        return {_ARRAY: path}
    if isinstance(value, dict):
        return {k: split(v, f"{path}/{k}", arrays) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [split(v, f"{path}/{i}", arrays) for i, v in enumerate(value)]
    return value


def joined(value: Any, arrays: dict[str, NDArray[Any]]) -> Any:
    """The tree that :func:`split` took apart."""
    if isinstance(value, dict):
        if _ARRAY in value:
            return arrays[value[_ARRAY]]
        return {k: joined(v, arrays) for k, v in value.items()}
    return [joined(v, arrays) for v in value] if isinstance(value, list) else value


def compressed(arrays: Mapping[str, NDArray[Any]]) -> tuple[bytes, int]:
    """The arrays as one compressed safetensors file, and its length before.

    Not by the library's ``save``, which copies the whole twice and lets no other thread run
    meanwhile: of 85 MB a step beside it waited 130 ms. Here nothing holds the interpreter's lock
    for longer than a piece takes.
    """
    # The widest first: so each array lies where its items are aligned.
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    head, raw, end = {}, [], 0
    for name in names:
        a = arrays[name].astype(arrays[name].dtype.newbyteorder("<"), copy=False)
        raw.append(np.ascontiguousarray(a).reshape(-1).view(np.uint8))
        begin, end = end, end + a.nbytes
        head[name] = {"dtype": _DTYPES[a.dtype], "shape": a.shape, "data_offsets": (begin, end)}
    told = msgspec.json.encode(head)
    told += b" " * (-len(told) % 8)
    told = len(told).to_bytes(8, "little") + told
    # Trees' histograms are mostly zeros: compressing 46 MB to 7 takes 50 ms, writing the rest 120.
    zstd = zstandard.ZstdCompressor(level=1).compressobj(size=len(told) + end)
    found = [zstd.compress(told)]
    for a in raw:
        found += [zstd.compress(a[k : k + _PIECE].data) for k in range(0, len(a), _PIECE)]
    return b"".join([*found, zstd.flush()]), len(told) + end


def expanded(packed: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of :func:`compressed`, or of any such file.

    Nor is this the library's ``load``, which held the lock for 4 to 12 ms of 30 MB. The caller has
    seen that the frame declares what fits into memory. Raises ``ValueError``, and what the decoders
    raise.
    """
    left = zstandard.get_frame_parameters(packed).content_size
    arrays: dict[str, NDArray[Any]] = {}
    with zstandard.ZstdDecompressor().stream_reader(packed) as frame:

        def read(length: int) -> NDArray[np.uint8]:
            nonlocal left
            if (left := left - length) < 0:
                raise ValueError(f"expected a frame that is {-left} bytes longer")
            raw = np.empty(length, np.uint8)
            for k in range(0, length, _PIECE):
                piece = raw[k : k + _PIECE]
                if frame.readinto(piece.data) != len(piece):
                    raise ValueError("expected a frame as long as it declares")
            return raw

        length = int.from_bytes(read(8).tobytes(), "little")
        told = msgspec.json.decode(read(length).tobytes())
        told.pop("__metadata__", None)
        places, at = msgspec.convert(told, dict[str, _Place]), 0
        for name, place in sorted(places.items(), key=lambda item: item[1].data_offsets):
            kind, (begin, end) = _KINDS[place.dtype], place.data_offsets
            if begin != at or end - begin != math.prod(place.shape) * kind.itemsize:
                raise ValueError(f"{name}: expected {at} and so many bytes, got {place}")
            arrays[name], at = read(end - begin).view(kind).reshape(place.shape), end
    return arrays


class _Place(msgspec.Struct):
    """Where an array lies behind a file's head."""

    dtype: str
    shape: tuple[Annotated[int, msgspec.Meta(ge=0)], ...]
    data_offsets: tuple[int, int]


_PIECE = 1 << 20
_DTYPES = {
    np.dtype(kind).newbyteorder("<"): name
    for name, kind in {
        **{f"F{8 * n}": f"f{n}" for n in (2, 4, 8)},
        **{f"I{8 * n}": f"i{n}" for n in (1, 2, 4, 8)},
        **{f"U{8 * n}": f"u{n}" for n in (1, 2, 4, 8)},
        "BOOL": "?",
    }.items()
}
_KINDS = {name: kind for kind, name in _DTYPES.items()}


def write_durably(path: Path, raw: bytes) -> None:
    """Write a file of ours and sync it; raises ``OSError``.

    Piece by piece: a commit beside it, which the disk takes after what it has, waited 19 ms for 6
    MB at once.
    """
    with private.opened(path) as file:
        for first in range(0, len(raw), _PIECE):
            file.write(memoryview(raw)[first : first + _PIECE])
            file.flush()
            os.fdatasync(file.fileno())
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

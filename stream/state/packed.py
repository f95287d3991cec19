"""A state as arrays and the rest, files that survive a crash: for generations and artefacts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
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


def write_durably(path: Path, raw: bytes) -> None:
    """Write a file of ours and sync it; raises ``OSError``."""
    with private.opened(path) as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

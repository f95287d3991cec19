"""Which elements of which tensors were already counted: by memory, not by name.

Two tensors may be one object under two names, two views of one storage, or overlap in part; each
element of memory is counted once. Reads addresses and strides, never values.
"""

from __future__ import annotations

import bisect
from collections.abc import Hashable, Iterator
from typing import Any, NamedTuple


class Claim(NamedTuple):
    """Elements that nobody claimed before, and who claimed the others first."""

    fresh: int
    owner: str | None


class Ledger:
    """Claimed byte ranges per memory space, with the path that claimed each first.

    Examples
    --------
    >>> import torch
    >>> ledger, w = Ledger(), torch.zeros(4, 5)
    >>> ledger.claim(w, "a"), ledger.claim(w[:2], "b")
    (Claim(fresh=20, owner=None), Claim(fresh=0, owner='a'))
    """

    def __init__(self) -> None:
        # Per space: sorted starts, and the (end, owner) of each disjoint range.
        self._starts: dict[Hashable, list[int]] = {}
        self._ranges: dict[Hashable, list[tuple[int, str]]] = {}
        # Fake tensors have no address: keeping them alive keeps their ids theirs.
        self._alive: list[Any] = []

    def claim(self, tensor: Any, path: str) -> Claim:
        """Claim every element of ``tensor`` for ``path``."""
        self._alive.append(tensor)
        size = tensor.element_size()
        space, base = _space(tensor)
        fresh, owner = 0, None
        for start, end in _runs(tensor, size):
            new, first = self._claim_range(space, base + start, base + end, path)
            fresh += new
            owner = owner or first
        return Claim(fresh // size, owner)

    def _claim_range(
        self, space: Hashable, start: int, end: int, path: str
    ) -> tuple[int, str | None]:
        starts = self._starts.setdefault(space, [])
        ranges = self._ranges.setdefault(space, [])
        i = bisect.bisect_right(starts, start) - 1
        if i < 0 or ranges[i][0] <= start:
            i += 1
        fresh, owner, at = 0, None, start
        while at < end:
            if i < len(starts) and starts[i] <= at:
                owner = owner or ranges[i][1]
                at = max(at, ranges[i][0])
                i += 1
                continue
            stop = min(end, starts[i]) if i < len(starts) else end
            starts.insert(i, at)
            ranges.insert(i, (stop, path))
            fresh += stop - at
            at = stop
            i += 1
        return fresh, owner


def _space(tensor: Any) -> tuple[Hashable, int]:
    """The address space a tensor lives in, and its first byte there."""
    try:
        storage = tensor.untyped_storage()
        if tensor.device.type != "meta" and storage.nbytes():
            return str(tensor.device), tensor.data_ptr()
        # On the meta device every address is 0: the storage object stands for the memory.
        offset = tensor.storage_offset() * tensor.element_size()
        return ("storage", storage._cdata), offset
    except (RuntimeError, NotImplementedError):
        # Sparse, fake and packed tensors have no storage to ask.
        return ("object", id(tensor)), 0


def _runs(tensor: Any, size: int) -> Iterator[tuple[int, int]]:
    """The byte ranges that a strided tensor's elements take, from its first element on."""
    count = tensor.numel()
    if not count:
        return
    try:
        contiguous = tensor.is_contiguous()
        dims = list(zip(tensor.stride(), tensor.shape, strict=True))
    except (RuntimeError, NotImplementedError):
        contiguous, dims = True, []
    if contiguous:
        yield 0, count * size
        return
    # A stride of 0 (expand) repeats the same element; the innermost dimensions may lie densely.
    dims = sorted((step, length) for step, length in dims if step and length > 1)
    dense = 1
    while dims and dims[0][0] == dense:
        dense *= dims.pop(0)[1]
    starts = [0]
    for step, length in dims:
        starts = [at + step * i for i in range(length) for at in starts]
    for at in sorted(starts):
        yield at * size, (at + dense) * size

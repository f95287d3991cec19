"""The index from ids to rows, while it grows and beside a dictionary."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.base import I64, U64
from stream.step.pending.id_index import IdIndex


def ids(numbers: I64, tags: int) -> U64:
    """Ids that share ``tags`` upper halves, of which alone the index knows; 0 and all ones too."""
    upper = (numbers % tags).astype(np.uint64) * np.uint64(0xFFFF_FFFF // max(tags - 1, 1))
    return (upper << np.uint64(32)) | numbers.astype(np.uint64)


def rows_of(index: IdIndex, wanted: U64, head: int) -> list[list[int]]:
    """All rows of each id's upper half, by asking on from each match."""
    found: list[list[int]] = [[] for _ in wanted]
    slots = np.full(len(wanted), -1, np.int64)
    todo = np.arange(len(wanted))
    while len(todo):
        rows, at = index.find(wanted[todo], slots[todo], head)
        slots[todo] = at
        for i, row in zip(todo, rows, strict=True):
            if row >= 0:
                found[i].append(int(row))
        todo = todo[rows >= 0]
    return found


@given(
    st.lists(st.tuples(st.integers(1, 700), st.integers(0, 500)), min_size=3, max_size=12),
    st.sampled_from([40, 5_000, 100_000]),
    st.sampled_from([0, 2**32 - 1_000]),
)
def test_every_row_is_found_and_none_that_left(
    steps: list[tuple[int, int]], tags: int, first: int
) -> None:
    """Rows come and the oldest leave, through growth and past 32 bits of row number."""
    index, head, tail = IdIndex(), first, first
    for come, leave in steps:
        new = np.arange(tail, tail + come)
        tail += come
        index.insert(ids(new, tags), new, tail - head)
        old = np.arange(head, min(head + leave, tail))
        index.remove(ids(old, tags), old)
        head += len(old)
    held = np.arange(head, tail)
    by_tag: dict[int, list[int]] = {}
    for row, tag in zip(held, ids(held, tags) >> np.uint64(32), strict=True):
        by_tag.setdefault(int(tag), []).append(int(row))
    wanted = ids(np.arange(first, tail), tags)
    for one, rows in zip(wanted, rows_of(index, wanted, head), strict=True):
        tag = int(one >> np.uint64(32))
        also = {0: 1, 1: 0}.get(tag)  # 0 is kept as 1
        other = by_tag.get(also, []) if also is not None else []
        assert sorted(rows) == sorted(by_tag.get(tag, []) + other)


def test_a_table_grows_bit_by_bit() -> None:
    """Over 1,536 inserts of one id, the larger table stands beside the smaller one, then alone."""
    index = IdIndex()
    numbers = np.arange(10**6)
    known = ids(numbers, 10**6)
    index.insert(known[:49_152], numbers[:49_152], 49_152)
    alone = index.nbytes
    sizes = []
    for i in range(49_152, 60_000):
        index.insert(known[i : i + 1], numbers[i : i + 1], i + 1)
        sizes.append(index.nbytes)
    assert alone == 8 * 65_536
    assert sizes[:60] == [3 * alone] * 60
    assert sizes[-1] == 2 * alone


def test_what_comes_at_once_is_entered_at_once() -> None:
    """An index that is filled anew has the size of all that will come from the start."""
    index = IdIndex()
    numbers = np.arange(100_000)
    for start in range(0, 100_000, 10_000):
        part = numbers[start : start + 10_000]
        index.insert(ids(part, 10**6), part, 100_000)
    assert index.nbytes == 8 * 2**18
    assert all(len(rows) == 1 for rows in rows_of(index, ids(numbers, 10**6), 0))

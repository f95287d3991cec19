"""The index from ids to rows, while it grows and beside a dictionary."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.base import I64, U64
from stream.step.pending.id_index import SLOT_BYTES, IdIndex
from stream.step.pending.id_index import tags as tags_of


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


def slots_of(rows: I64, known: U64) -> list[int]:
    """What stands in the slots of rows."""
    low = rows.astype(np.uint64) & np.uint64(0xFFFF_FFFF)
    found: list[int] = (tags_of(known).astype(np.uint64) << np.uint64(32) | low).tolist()
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
        index.insert(tags_of(ids(new, tags)), int(new[0]))
        old = np.arange(head, min(head + leave, tail))
        index.remove(ids(old, tags), old)
        head += len(old)
    held = np.arange(head, tail)
    assert index.slots().tolist() == sorted(slots_of(held, ids(held, tags)))
    by_tag: dict[int, list[int]] = {}
    for row, tag in zip(held, ids(held, tags) >> np.uint64(32), strict=True):
        by_tag.setdefault(int(tag), []).append(int(row))
    wanted = ids(np.arange(first, tail), tags)
    for one, rows in zip(wanted, rows_of(index, wanted, head), strict=True):
        tag = int(one >> np.uint64(32))
        also = {0: 1, 1: 0}.get(tag)  # 0 is kept as 1
        other = by_tag.get(also, []) if also is not None else []
        assert sorted(rows) == sorted(by_tag.get(tag, []) + other)


def test_tables_grow_by_themselves() -> None:
    """Of a million rows, some tables grow at a time: memory comes in small pieces, and no more of
    it than a row may take."""
    index = IdIndex()
    rng = np.random.default_rng(0)
    before, most = 0, 0
    for first in range(0, 10**6, 4096):
        index.insert(tags_of(rng.integers(0, 2**64, 4096, np.uint64)), first)
        most, before = max(most, index.nbytes - before), index.nbytes
        if first > 800_000:
            assert 9 < index.nbytes / (first + 4096) < SLOT_BYTES + 0.5
    assert most < 2_500_000


def test_what_comes_at_once_is_entered_at_once() -> None:
    """An index that is filled anew has the size of all that will come from the start."""
    index = IdIndex()
    numbers = np.arange(300_000)
    known = ids(numbers, 10**6)
    sizes = set()
    for start in range(0, 300_000, 100_000):
        part = numbers[start : start + 100_000]
        index.insert(tags_of(known[part]), start, 300_000)
        sizes.add(index.nbytes)
    assert len(sizes) == 1
    assert sizes.pop() / 300_000 < 20.5
    assert all(len(rows) == 1 for rows in rows_of(index, known, 0))
    assert index.slots().tolist() == sorted(slots_of(numbers, known))


def test_ids_that_share_their_bits_are_found() -> None:
    """Where 30,000 ids share one tag, no table is made two again and again."""
    index = IdIndex()
    numbers = np.arange(30_000)
    alike = np.full(30_000, 7 << 32, np.uint64)
    for first in range(0, 30_000, 5_000):
        index.insert(tags_of(alike[first : first + 5_000]), first)
    index.remove(alike[:29_990], numbers[:29_990])
    assert rows_of(index, alike[:1], 29_990) == [list(range(29_990, 30_000))]
    assert index.nbytes < 40 * 30_000

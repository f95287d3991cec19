"""Truths and marks by segment, beside a dictionary."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stream.step.pending.labels import Labels, truths, waits

SIZE = 16
Y = st.sampled_from([0.0, -0.0, 1.0, 7.0, 254.0, 255.0, 0.5, -3.0, 1e300, float("nan")])


def bits(y: list[float]) -> list[int]:
    return np.array(y).view(np.uint64).tolist()


@given(
    st.lists(st.tuples(st.integers(0, 63), Y, st.integers(0, 3)), max_size=60),
    st.integers(0, 30),
    st.integers(40, 64),
)
def test_labels_equal_a_dictionary(
    steps: list[tuple[int, float, int]], head: int, tail: int
) -> None:
    """Whatever truths come and go, each row has the bits it was given, and after a restart."""
    labels = Labels(SIZE)
    for segment in range(4):
        labels.begin(segment)
    known = dict.fromkeys(range(64), float("nan"))
    marked = dict.fromkeys(range(64), 0)
    for row, y, mark in steps:
        rows = np.array([row])
        labels.settle(rows, np.array([y]))
        labels.mark(rows, mark)
        known[row], marked[row] = y, marked[row] | mark
    every = np.arange(64)
    assert bits(labels.truth(every).tolist()) == bits(list(known.values()))
    assert labels.marks(every).tolist() == list(marked.values())
    held = range(head, tail)
    truth, marks = labels.held(head, tail)
    assert bits(truths(truth).tolist()) == bits([known[row] for row in held])
    assert labels.unmarked(2, head, tail).tolist() == [
        row for row in held if known[row] == known[row] and not marked[row] & 2
    ]
    again = Labels(SIZE)
    for segment in range(head // SIZE, -(-tail // SIZE)):
        again.begin(segment)
        low, high = max(segment * SIZE, head), min(segment * SIZE + SIZE, tail)
        at, part = slice(low % SIZE, (high - 1) % SIZE + 1), slice(low - head, high - head)
        again.restore(segment, at, truth[part], marks[part])
    rows = np.arange(head, tail)
    assert bits(again.truth(rows).tolist()) == bits(labels.truth(rows).tolist())
    others, _ = again.held(head, tail)
    assert others.dtype == truth.dtype
    assert (waits(others) == waits(truth)).all()


def test_yes_and_no_and_classes_take_a_byte() -> None:
    """A segment whose truths are small whole numbers has two bytes a row; another one has nine."""
    labels = Labels(SIZE)
    for segment in range(2):
        labels.begin(segment)
    labels.settle(np.arange(20), np.arange(20) % 3.0)
    assert labels.nbytes == 2 * 2 * SIZE
    labels.settle(np.array([3]), np.array([0.5]))
    assert labels.nbytes == 2 * SIZE + 9 * SIZE
    assert labels.held(0, 32)[0].dtype == np.float64
    labels.settle(np.array([3]), np.array([2.0]))
    assert labels.held(0, 32)[0].dtype == np.uint8

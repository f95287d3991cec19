"""Truths and marks by segment, beside a dictionary."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from monitoring.audit import contents
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
    by_segment = labels.held(head, tail)
    whole = np.concatenate([truths(part) for part in by_segment[0]])
    assert bits(whole.tolist()) == bits([known[row] for row in held])
    assert labels.unmarked(2, head, tail).tolist() == [
        row for row in held if known[row] == known[row] and not marked[row] & 2
    ]
    again = Labels(SIZE)
    for segment in range(head // SIZE, -(-tail // SIZE)):
        again.begin(segment)
        low, high = max(segment * SIZE, head), min(segment * SIZE + SIZE, tail)
        at, nth = slice(low % SIZE, (high - 1) % SIZE + 1), segment - head // SIZE
        again.restore(segment, at, by_segment[0][nth], by_segment[1][nth])
    rows = np.arange(head, tail)
    assert bits(again.truth(rows).tolist()) == bits(labels.truth(rows).tolist())
    others, _ = again.held(head, tail)
    assert [part.dtype for part in others] == [part.dtype for part in by_segment[0]]
    assert [waits(part).tolist() for part in others] == [waits(p).tolist() for p in by_segment[0]]


@given(
    st.lists(
        st.tuples(st.lists(st.tuples(st.integers(0, 63), Y, st.integers(0, 3))), st.booleans()),
        max_size=12,
    ),
    st.integers(0, 30),
    st.integers(40, 64),
)
def test_digests_are_those_of_what_a_checkpoint_holds(
    rounds: list[tuple[list[tuple[int, float, int]], bool]], head: int, tail: int
) -> None:
    """However much is hashed again, and no label that comes later changes what was handed out."""
    labels, given_out = Labels(SIZE), []
    for segment in range(4):
        labels.begin(segment)
    with patch.object(contents, "LABELS", 4), patch("stream.step.pending.labels.LABELS", 4):
        for changes, checkpoint in rounds:
            for row, y, mark in changes:
                labels.settle(np.array([row]), np.array([y]))
                labels.mark(np.array([row]), mark)
            if not checkpoint:
                continue
            told = labels.digests(head, tail)
            truth, marks = labels.held(head, tail)
            state = {"head": head, "truth": truth, "marks": marks}
            assert told == contents.labels_of(state) == labels.digests(head, tail)
            given_out.append((state, told))
        for state, told in given_out:
            assert contents.labels_of(state) == told


def test_only_what_changed_is_hashed_again() -> None:
    """Of 64 rows in blocks of 4, with one label more."""
    labels, hashed = Labels(SIZE), []

    def leaf(truth: np.ndarray, marks: np.ndarray) -> str:
        hashed.append(len(truth))
        return contents.leaf(truth, marks)

    for segment in range(4):
        labels.begin(segment)
    with (
        patch.object(contents, "LABELS", 4),
        patch("stream.step.pending.labels.LABELS", 4),
        patch("stream.step.pending.labels.leaf", leaf),
    ):
        first = labels.digests(0, 64)
        labels.settle(np.array([21]), np.array([1.0]))
        second = labels.digests(0, 64)
    assert hashed == [4] * 17
    assert [i for i in range(16) if first[i] != second[i]] == [21 // 4]


def test_yes_and_no_and_classes_take_a_byte() -> None:
    """A segment whose truths are small whole numbers has two bytes a row; another one has nine."""
    labels = Labels(SIZE)
    for segment in range(2):
        labels.begin(segment)
    labels.settle(np.arange(20), np.arange(20) % 3.0)
    assert labels.nbytes == 2 * 2 * SIZE
    labels.settle(np.array([3]), np.array([0.5]))
    assert labels.nbytes == 2 * SIZE + 9 * SIZE
    assert [part.dtype for part in labels.held(0, 32)[0]] == [np.float64, np.uint8]
    labels.settle(np.array([3]), np.array([2.0]))
    assert [part.dtype for part in labels.held(0, 32)[0]] == [np.uint8, np.uint8]

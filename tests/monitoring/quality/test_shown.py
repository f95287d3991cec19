"""What is shown of a catalogue against a plain count over the same places."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.base import StateError
from monitoring.quality.shown import Shown

WINDOW = 7
lists = st.lists(st.lists(st.integers(1, 9), max_size=20), max_size=8)


def made(parts: list[list[int]]) -> Shown:
    """What was shown in these lists."""
    shown = Shown(WINDOW)
    for part in parts:
        shown.update(np.array(part, np.uint64))
    return shown


@given(lists)
def test_figures_are_those_of_the_newest_places(parts: list[list[int]]) -> None:
    """Items, their share of a catalogue and the most shown ones' are of the last seven places."""
    kept = [item for part in parts for item in part][-WINDOW:]
    shown = made(parts)
    assert shown.items().tolist() == sorted(set(kept))
    known = np.isin(shown.items(), np.array([2, 3, 5], np.uint64))
    if kept:
        assert shown.coverage(known, 12) == len({2, 3, 5} & set(kept)) / 12
        assert shown.top(2) == sum(n for _, n in Counter(kept).most_common(2)) / len(kept)


def test_nothing_shown_is_no_number() -> None:
    """Before the first list there is no share, and none of an empty catalogue."""
    assert math.isnan(made([]).coverage(np.zeros(0, np.bool_), 5))
    assert math.isnan(made([]).top())
    assert math.isnan(made([[1]]).coverage(np.zeros(1, np.bool_), 0))


@given(lists, lists)
def test_a_restored_one_goes_on_alike(before: list[list[int]], after: list[list[int]]) -> None:
    """State and digest are those of one that was never saved, however lists are cut."""
    again, straight = made([]), made([*before, *after])
    again.restore(made([[item for part in before for item in part]]).state())
    for part in after:
        again.update(np.array(part, np.uint64))
    assert again.digest() == straight.digest()


def test_a_state_of_another_window_is_refused() -> None:
    """A ring of another length is no state of this one."""
    state: Any = Shown(3).state()
    with pytest.raises(StateError, match=r"shown\.places: expected 7, got 3"):
        Shown(WINDOW).restore(state)

"""Links that wait beside the rows of the pending store, against a dictionary."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.base import state_digest
from monitoring.audit import contents
from monitoring.audit.contents import parts_of
from stream.step.lifecycle import beside
from stream.step.lifecycle.beside import Held


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "ROWS", 16)


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 30), st.booleans()), max_size=12),
    st.integers(0, 40),
)
def test_held_links_equal_a_dictionary(steps: list[tuple[int, int, bool]], first: int) -> None:
    """Rows come, older ones leave, restarts; a state stays what it was, whatever comes after it."""
    held, tail, head = Held(2), first, first
    known: dict[int, list[float]] = {}
    given_out: list[tuple[Any, str]] = []
    for come, leave, again in steps:
        head = min(head + leave, tail)
        links = np.arange(2.0 * come).reshape(come, 2) + 1000 * tail
        held.hold(links, tail, head)
        known |= {tail + i: row for i, row in enumerate(links.tolist())}
        tail += come
        known = {row: said for row, said in known.items() if row >= head}
        if again:
            state = held.state()
            given_out.append((state, state_digest(state)))
            one, held = held, Held(2)
            held.restore(state)
            one.hold(np.zeros((40, 2)), tail, head)  # where the switch failed it goes on
            assert state_digest(held.state()) == given_out[-1][1]
    every = np.arange(first, tail + 5)
    there = held.holds(every)
    assert every[there].tolist() == sorted(known)
    assert len(held) == len(known)
    assert held.of(every[there]).tolist() == [known[row] for row in sorted(known)]
    assert all(state_digest(state) == digest for state, digest in given_out)


def test_full_pieces_go_on_as_they_are() -> None:
    """A checkpoint, and an engine that goes on, copy what is open alone."""
    held, again = Held(1), Held(1)
    held.hold(np.arange(40.0)[:, None], 0, 0)
    again.restore(held.state())
    parts = zip(held.state()["links"], again.state()["links"], strict=True)
    assert [np.shares_memory(*pair) for pair in parts] == [True, True, False]


def test_full_pieces_are_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes on record is the same from a checkpoint's files, where none was hashed yet."""
    held, hashed = Held(1), []

    def counted(value: Any) -> str:
        if isinstance(value, np.ndarray):
            hashed.append(len(value))
        return state_digest(value)

    monkeypatch.setattr(contents, "state_digest", counted)

    def told(state: Any) -> str:
        nothing = {"clock_ms": 0, "watermark_ms": 0, "threshold": 0.0, "counts": {}}
        pending = {"head": 0, "truth": [], "marks": []}
        part = {"running": {"m": state}}
        return parts_of(nothing | {"pending": pending, "challengers": part}, [])["challengers"]

    held.hold(np.arange(40.0)[:, None], 0, 0)
    first = told(held.state())
    assert told(held.state()) == first
    assert hashed == [16, 16, 8, 8]
    saved = {"first": 0, "links": [np.array(part) for part in held.state()["links"]]}
    assert told(saved) == first
    saved["links"][1][3] += 1
    assert told(saved) != first
    held.hold(np.arange(1.0)[:, None], 40, 18)
    assert told(held.state()) != first


def test_where_none_waits_none_is_kept() -> None:
    """As where the columns changed: it begins with the next row."""
    held = Held(1)
    held.restore({"first": 5, "links": []})
    assert held.state() == {"first": 5, "links": []}
    held.hold(np.ones((3, 1)), 40, 30)
    assert held.holds(np.array([5, 39, 40, 42, 43])).tolist() == [False, False, True, True, False]
    held.hold(np.ones((1, 1)), 43, 43)
    assert held.of(np.array([43])).tolist() == [[1.0]]


def test_links_of_format_7_are_read() -> None:
    """One array of all, from the first row on."""
    held = Held(1)
    held.restore({"first": 5, "links": np.arange(40.0)[:, None]})
    assert held.of(np.array([5, 20, 44])).ravel().tolist() == [0.0, 15.0, 39.0]
    assert not held.holds(np.array([4, 45])).any()

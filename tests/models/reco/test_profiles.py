"""What is told of items and users: columns by id, bounded, kept across a restore."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.base import StateError, state_digest
from models.reco.profiles import Profiles


def profiles(most: int = 4, *more: str) -> Profiles:
    """Prices and brands."""
    return Profiles(["price", *more], ["brand"], most)


def row(found: Profiles, key: int) -> dict[str, float]:
    """All that is known of one id."""
    columns = found.columns(np.array([key], np.uint64))
    return {name: column[0] for name, column in columns.items() if column[0] == column[0] != 0}


_TOLD = st.tuples(
    st.integers(1, 8),
    st.dictionaries(st.sampled_from(["price", "brand"]), st.sampled_from([None, 1, 5])),
)


@given(st.lists(st.one_of(_TOLD, st.integers(1, 8)), max_size=200))
def test_it_is_a_dictionary_that_forgets_the_longest_idle(steps: list[object]) -> None:
    """What is not told anew stays; ``None`` takes it back; a number forgets that id."""
    found, plain = profiles(), dict[int, dict[str, float]]()
    for step in steps:
        if isinstance(step, int):
            found.forget(step)
            plain.pop(step, None)
            continue
        assert isinstance(step, tuple)
        key, told = step
        found.told(key, told)
        known = plain.pop(key, {}) | told
        plain[key] = {name: value for name, value in known.items() if value is not None}
        if len(plain) > 4:
            del plain[next(iter(plain))]
    assert {key: row(found, key) for key in range(1, 9)} == {
        k: plain.get(k, {}) for k in range(1, 9)
    }
    again = profiles()
    again.restore(found.state())
    assert state_digest(again.state()) == state_digest(found.state())
    assert {key: row(again, key) for key in range(1, 9)} == {
        k: plain.get(k, {}) for k in range(1, 9)
    }


def test_it_grows_past_its_first_room() -> None:
    """None is mixed up with another."""
    found = profiles(1000)
    for key in range(1, 301):
        found.told(key, {"price": key})
    keys = np.arange(1, 401, dtype=np.uint64)
    expected = [float(k) if k <= 300 else np.nan for k in range(1, 401)]
    assert found.columns(keys)["price"].tolist() == pytest.approx(expected, nan_ok=True)


def test_other_settings_take_over_what_they_have() -> None:
    """Fields by name; of more ids than fit the longest idle go."""
    one = profiles(3)
    for key in (1, 2, 3):
        one.told(key, {"price": key, "brand": 7})
    other = profiles(2, "size")
    other.restore(one.state())
    assert [row(other, key) for key in (1, 2, 3)] == [
        {},
        *({"price": k, "brand": 7} for k in (2, 3)),
    ]
    assert other.evicted == 1


def test_a_state_that_does_not_fit_is_refused() -> None:
    """Columns are as long as there are ids."""
    state = profiles().state() | {"keys": np.arange(1, 3, dtype=np.uint64)}
    with pytest.raises(StateError, match="price: expected 2 values, got 0"):
        profiles().restore(state)

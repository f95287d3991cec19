"""Which scorer holds an event: as a table of sets would have it."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.base import state_digest
from stream.step.roles.holders import Holders

IDS = np.random.default_rng(5).integers(1, 2**63, 40).astype(np.uint64)
PLACES = st.lists(st.integers(0, len(IDS) - 1), unique=True, max_size=12)


@given(st.lists(st.tuples(st.booleans(), PLACES, st.sampled_from([0, 1, 512, 1023]))))
def test_holders_are_found_as_long_as_they_hold(told: list[tuple[bool, list[int], int]]) -> None:
    """The first of several, or of those that are left without one; and from a state again."""
    holders, known = Holders(), [set[int]() for _ in IDS]
    for comes, places, holder in told:
        if comes:
            places = [i for i in places if holder not in known[i]]
            holders.add(IDS[places], holder)
        else:
            holders.remove(IDS[places], holder)
        for i in places:
            (known[i].add if comes else known[i].discard)(holder)
    again = Holders()
    again.restore(holders.state())
    for one in (holders, again):
        assert len(one) == sum(map(len, known))
        for but in (-1, 1):
            wanted = [min(own - {but}, default=-1) for own in known]
            assert one.find(IDS, but).tolist() == wanted
    assert state_digest(again.state()) == state_digest(holders.state())
    other = Holders()
    for i, own in reversed([*enumerate(known)]):
        for holder in own:
            other.add(IDS[[i]], holder)
    assert state_digest(other.state()) == state_digest(holders.state())

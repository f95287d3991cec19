"""The ring of the newest scores."""

from __future__ import annotations

import numpy as np
import pytest

from stream.contract.outputs import Outputs, Scored
from stream.contract.records import JournalRecord, NewRecord
from stream.http.live.recent import RecentScores


def step(first: int, p: list[float]) -> Outputs:
    """A step that scored as many events, with ids from ``first`` on."""
    ids = [str(first + i) for i in range(len(p))]
    records = [NewRecord(i.encode(), b"score of " + i.encode()) for i in ids]
    column = np.array(p)
    output = column[:, None]
    scored = Scored(
        *([], ids, column.astype(np.int64), column, output, output[:, None], column > 0.5)
    )
    return Outputs(records, [], [], JournalRecord(1, 0, ""), scored=[scored] if p else [])


@pytest.fixture
def ring() -> RecentScores:
    """A ring for five scores, after three steps of three and one without."""
    made = RecentScores(5)
    for first, p in ((0, [0.99, 0.1, 0.2]), (3, [0.3, 0.9, 0.1]), (6, []), (6, [0.2, 0.9, 0.4])):
        made.committed(step(first, p))
    return made


def test_the_latest_come_newest_first(ring: RecentScores) -> None:
    """As many as wanted, across steps."""
    assert ring.latest(4) == [b"score of 8", b"score of 7", b"score of 6", b"score of 5"]


def test_the_highest_come_first(ring: RecentScores) -> None:
    """By score; of equal ones the newer first; what has left the ring is not among them."""
    assert ring.highest(3) == [b"score of 7", b"score of 4", b"score of 8"]
    assert RecentScores().highest(3) == []


def test_an_event_is_found_until_it_leaves(ring: RecentScores) -> None:
    """The ring keeps whole steps, as few as hold what it must keep; memory stays bounded."""
    assert ring.find("3") == b"score of 3"
    assert ring.find("2") is None
    assert ring.find("\udc80") is None
    assert len(ring.latest(100)) == 6

"""Answers to requests for a ranking, as records: a list with its scores, and why it is short."""

from __future__ import annotations

import msgspec

from stream.contract.records import NewRecord
from stream.decode.feedback import Among

_encode = msgspec.json.Encoder().encode


class Place(msgspec.Struct, gc=False):
    """An item in an answer; ``score``: null of one that nothing is known of; ``rating``: what the
    user would say of it, where that is foretold."""

    id: str
    score: float | None
    propensity: float = 1.0
    members: dict[str, float] | msgspec.UnsetType = msgspec.UNSET
    rating: float | msgspec.UnsetType = msgspec.UNSET


class Answer(msgspec.Struct, gc=False, tag_field="event", tag="ranking"):
    """What is answered: itself the ranking that interactions with it name.

    ``fallback``: nothing is known of the user, so that what is popular speaks. ``left_out``: how
    many items that were asked for, or are known, cannot be shown, by the reason. ``among``: what a
    list was drawn from that does not hold all of it.
    """

    id: str
    timestamp: int
    user: str | None
    session: str | None
    items: list[Place]
    fallback: bool
    left_out: dict[str, int]
    partition: int
    offset: int
    scored_at: int
    model: str
    seq: int
    among: Among | msgspec.UnsetType = msgspec.UNSET

    def record(self) -> NewRecord:
        """Keyed by the request's id."""
        return NewRecord(self.id.encode(), _encode(self))

"""A ranking taken apart: what each member said of each of its places."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from stream.decode.feedback import Rank, Recommend
from stream.step.ranking.answers import Answer, Place
from stream.step.ranking.candidates import Candidates, Found


def answer_reader() -> Callable[[bytes], dict[str, Any]]:
    """What reads an answer in a record's value; raises :class:`ValueError` for any other."""
    decode = msgspec.json.Decoder(Answer).decode

    def read(raw: bytes) -> dict[str, Any]:
        try:
            decode(raw)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ValueError(f"expected the answer to a request: {error}") from error
        found: dict[str, Any] = msgspec.json.decode(raw)
        return found

    return read


class Watched(Candidates):
    """Finds candidates as the engine's own, and notes what members say of those of one request."""

    def __init__(self, inner: Candidates, identifier: str) -> None:
        self.__dict__ |= inner.__dict__
        self._identifier = identifier
        self.places: list[dict[str, Any]] | None = None

    def listed(self, what: Rank | Recommend, time_ms: int) -> tuple[Found, list[Place], int | None]:
        """See :meth:`Candidates.listed`."""
        if what.id == self._identifier:
            explained = msgspec.structs.replace(what, explain=True)
            self.places = msgspec.to_builtins(super().listed(explained, time_ms)[1])
        return super().listed(what, time_ms)

"""All that is known of items and users, as one process of a service gives it to another."""

from __future__ import annotations

from models.base import State, state_digest
from stream.step.ranking.engine import RankingEngine


def whole_of(engine: RankingEngine) -> State:
    """All of it: enough to answer, and to follow what is learned."""
    parts = {name: part.state() for name, part in engine.known().items()}
    return parts | {"ensemble": engine.ensemble.view()}


def take_whole(engine: RankingEngine, whole: State) -> None:
    """Know what :func:`whole_of` gave; raises :class:`~models.base.StateError` and ``KeyError``."""
    engine.ensemble.restore_view(whole["ensemble"])
    for name, part in engine.known().items():
        part.restore(whole[name])


def digest_of(engine: RankingEngine) -> str:
    """Hex digest, equal where the same is known."""
    return state_digest(whole_of(engine))

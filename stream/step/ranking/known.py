"""All that is known of items and users, as one process of a service gives it to another."""

from __future__ import annotations

from models.base import State, state_digest
from stream.step.ranking.engine import RankingEngine


def whole_of(engine: RankingEngine) -> State:
    """All of it: enough to answer, and to follow what is learned."""
    parts = {name: part.state() for name, part in engine.known().items()}
    return parts | {"ensemble": engine.ensemble.view()}


def scored_by(engine: RankingEngine) -> State:
    """What members score places by, without what learns of interactions."""
    learners = _learners(engine)
    return engine.ensemble.view([n for n in engine.ensemble.names if n not in learners])


def take_whole(engine: RankingEngine, whole: State) -> None:
    """Know what :func:`whole_of` gave; raises :class:`~models.base.StateError` and ``KeyError``."""
    engine.ensemble.restore_view(whole["ensemble"])
    for name, part in engine.known().items():
        part.restore(whole[name])


def digest_of(engine: RankingEngine) -> str:
    """Hex digest, equal where the same is known; whatever members score places by."""
    parts = {name: part.state() for name, part in engine.known().items()}
    views = {name: engine.ensemble.members[name].view() for name in _learners(engine)}
    return state_digest(parts | {"learners": views})


def _learners(engine: RankingEngine) -> tuple[str, ...]:
    return () if engine.config.reco is None else engine.config.reco.learners

"""What moved a recommender, or what foretells ratings: interaction by interaction, by replay.

They learn in order, each interaction from where the one before left off, however many stand in a
step. So the updates of a stretch are taken apart exactly: on a copy, from where an update began,
its interactions are learned one at a time, and what each changed is noted.
"""

from __future__ import annotations

import heapq
import sys
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.base import F64, MillraceError, State
from models.reco.ratings import Ratings
from models.reco.recommender import Interactions, Recommender
from monitoring.audit.weights import norm
from stream.contract.hashing import hash_text
from stream.contract.records import Slice
from stream.decode.feedback import FeedbackCodec, Interaction
from stream.settings.ranking import RATINGS, RECOMMENDER
from stream.settings.schema import Config
from stream.step.ranking.engine import RankingEngine
from stream.tools.replay import rebuilt

LEARNERS = (RECOMMENDER, RATINGS)
ROWS = 3
"""Users and items that are named of each interaction, of the array that it changed most."""


def parts(config: Config) -> list[str]:
    """Members that learn within the recommender or the ratings, and what makes one of them."""
    if config.reco is None:
        return []
    rated = (
        () if config.reco.ratings is None else (*config.reco.ratings.members.names, "means", "line")
    )
    return [*config.reco.members.names, "stack", *rated]


def part_of(config: Config, member: str, layer: str | None) -> tuple[str, str | None]:
    """The learner that a member is part of, and the beginning of the paths of its arrays."""
    if member not in parts(config):
        return member, layer
    assert config.reco is not None
    first = (*config.reco.members.names, "stack")
    return RECOMMENDER if member in first else RATINGS, f"{member}.{layer or ''}"


def of_a_list(what: Any) -> bool:
    """Whether a record tells that an item of a list was taken."""
    return isinstance(what, Interaction) and what.ranking is not None


class _Update(NamedTuple):
    """Interactions that were learned together, and the learner before."""

    version: int
    before: State
    given: Interactions


def interactions_again(
    config: Config, learner: str, layer: str | None, stretch: Mapping[str, Any], most: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The updates of a stretch and their interactions, as ``explain.py`` tells those of events;
    the versions and labels that it was."""
    first, last = max(1, stretch["steps"][0] - 1), stretch["steps"][1]
    versions = versions_of(stretch)
    rows: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    names = _Names()
    with rebuilt(config, first - 1) as past:
        noted: list[_Update] = []
        engine = _watched(past.follower.engine, learner, noted)
        for slices, outputs in past.onward(last):
            names.read(engine, slices)
            for update in noted:
                found, moves = _apart(engine, learner, layer, update, names)
                if update.version in versions:
                    rows.append(_row(moves, update, outputs.journal.seq, slices))
                    events = heapq.nlargest(most, [*events, *found], key=_moved)
            noted.clear()
            # A switch of the configuration, or an install, made another one.
            engine = _watched(past.follower.engine, learner, noted)
    return {
        "updates": heapq.nlargest(most, rows, key=_moved),
        "events": events,
        "replay": f"steps {first} to {last}: {len(rows)} updates",
    }, learned_in(rows, versions)


def versions_of(stretch: Mapping[str, Any]) -> range:
    """Those of the updates of a stretch, which may be open: what came since the newest record."""
    first, last = stretch["versions"]
    return range(first, sys.maxsize if last is None else last + 1)


def learned_in(rows: Sequence[Mapping[str, Any]], versions: range) -> dict[str, Any]:
    """Versions and labels of these updates of a stretch."""
    last = max((row["version"] for row in rows), default=versions.start - 1)
    return {"versions": [versions.start, last], "labels": sum(row["labels"] for row in rows)}


def _moved(row: Mapping[str, Any]) -> float:
    return float(row["moved"])


def _watched(engine: Any, name: str, noted: list[_Update]) -> RankingEngine:
    """The engine, whose learner notes what it is given, and what it was before."""
    assert isinstance(engine, RankingEngine)
    learner = engine.ensemble.members[name]
    if "learn" not in vars(learner):

        def learn(given: Interactions, **options: bool) -> Any:
            version = engine.auditor.versions()[name] + 1
            noted.append(_Update(version, learner.state(), given))
            return type(learner).learn(learner, given, **options)

        vars(learner)["learn"] = learn
    return engine


class _Names:
    """Texts by their hash, and the ids of interactions by what they are."""

    def __init__(self) -> None:
        self._texts: dict[int, str] = {}
        self._ids: defaultdict[tuple[int, int, int], deque[str | None]] = defaultdict(deque)

    def read(self, engine: RankingEngine, slices: Sequence[Slice]) -> None:
        """Take in the records of a step."""
        codec = engine.codec
        assert isinstance(codec, FeedbackCodec)
        for piece in slices:
            if piece.range.topic != engine.config.topics.events:
                continue
            taken, _ = codec.feedback(piece.records)
            for what, time_ms in zip(taken.what, taken.time_ms, strict=True):
                if isinstance(what, Interaction):
                    texts = [t for t in (what.user, what.session, what.item) if t]
                    self._texts |= {hash_text(text): text for text in texts}
                    user, item = (hash_text(t) if t else 0 for t in (what.user, what.item))
                    self._ids[time_ms, user, item].append(what.id)

    def id(self, time_ms: int, user: int, item: int) -> str | None:
        """Of the next interaction of that time, user and item."""
        ids = self._ids.get((time_ms, user, item))
        return ids.popleft() if ids else None

    def text(self, engine: RankingEngine, key: int) -> str:
        """The text of a user or an item, as far as it is known; else its hash."""
        return self._texts.get(key) or engine.catalogue.text(key) or f"#{key:016x}"


def _apart(
    engine: RankingEngine, name: str, layer: str | None, update: _Update, names: _Names
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """What each interaction of an update changed, from where the one before left off, and how far
    all of them together moved each array."""
    copy: Any = engine.ensemble.made(name, 0, engine.ensemble.specs.get(name))
    copy.restore(update.before)
    found, given = [], update.given
    first = before = _arrays(copy, layer)
    for i in range(len(given.time_ms)):
        copy.learn(Interactions._make(column[i : i + 1].copy() for column in given))
        after = _arrays(copy, layer)
        changes = {path: change(before.get(path), array) for path, array in after.items()}
        moves = {path: norm(changed) for path, changed in changes.items()}
        most, before = max(moves, key=moves.__getitem__, default=""), after
        user, item = int(given.user[i]), int(given.item[i])
        row: dict[str, Any] = {"event": names.id(int(given.time_ms[i]), user, item)}
        row |= {
            "id_hash": f"{item:016x}",
            "user": names.text(engine, user or int(given.session[i])),
        }
        row |= {"item": names.text(engine, item), "version": update.version}
        row |= {"weight": float(given.weight[i]), "moved": _size(moves), "most": most}
        found.append(row | {"rows": _rows(engine, copy, most, changes, names)})
    return found, {path: norm(change(first.get(path), a)) for path, a in before.items()}


def _size(moves: Mapping[str, float]) -> float:
    return norm(np.array([*moves.values()])) if moves else 0.0


def _arrays(learner: Recommender | Ratings, layer: str | None) -> dict[str, NDArray[Any]]:
    """Copies of the learned arrays that are asked for; where there are none of what is counted."""
    known: list[str] = []
    for role in ("learned", "statistic"):
        arrays = learner.arrays(role)
        if found := {p: a.copy() for p, a in arrays.items() if p.startswith(layer or "")}:
            return found
        known += arrays
    raise MillraceError(
        f"audit explain: layer: expected the beginning of one of {', '.join(known)}; got {layer!r}"
    )


def change(old: NDArray[Any] | None, new: NDArray[Any]) -> F64:
    """By how much each value changed; rows that are new, and other shapes, with all they hold."""
    if old is None or old.shape[1:] != new.shape[1:] or len(old) > len(new):
        return np.asarray(new, np.float64)
    changed = np.array(new, np.float64)
    changed[: len(old)] -= old
    return changed


def _rows(
    engine: RankingEngine, learner: Any, path: str, changes: Mapping[str, F64], names: _Names
) -> str:
    """Whose rows of an array changed most, and how far."""
    keys = learner.row_keys(path) if path else None
    if keys is None:
        return ""
    sizes = np.sqrt(np.square(changes[path].reshape(len(changes[path]), -1)).sum(axis=1))
    best = [row for row in np.argsort(-sizes, kind="stable")[:ROWS].tolist() if sizes[row] > 0]
    return ", ".join(f"{names.text(engine, int(keys[row]))} {sizes[row]:.3g}" for row in best)


def _row(
    moves: Mapping[str, float], update: _Update, step: int, slices: Sequence[Slice]
) -> dict[str, Any]:
    return {
        "step": step,
        "version": update.version,
        "labels": len(update.given.time_ms),
        "moved": _size(moves),
        "most": max(moves, key=moves.__getitem__, default=""),
        "ranges": [[s.range.topic, s.range.partition, s.range.first, s.range.last] for s in slices],
    }

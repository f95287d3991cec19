"""What moved a member most: stretches of its life by the trail, their updates and events by replay.

The trail tells how far each array went from one record of the member to the next. The stretch that
went furthest is done again beside the service, update by update; each event of it is also learned
alone, on a copy, from where its update began: within an update events may cancel one another. What
ranks learns one interaction after another, and so is taken apart exactly: ``interactions.py``.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.base import F64, FeatureBatch, MillraceError, State
from monitoring.audit.trail import Exit
from monitoring.audit.weights import Tensors, norm
from stream.contract.hashing import hash_text
from stream.contract.outputs import Outputs
from stream.contract.records import Slice
from stream.decode.codec import Codec
from stream.decode.feedback import FeedbackCodec
from stream.run.assemble import open_log, wall_clock_ms
from stream.settings.schema import Config
from stream.state.follow import Diverged
from stream.state.recovery import OUT_OF_REACH
from stream.step.engine import Engine
from stream.step.learn import Learning
from stream.step.ranking.engine import RankingEngine
from stream.step.ranking.rerank import Reranker
from stream.step.scoring import ScoringEngine, scoring
from stream.tools.audit.interactions import (
    LEARNERS,
    change,
    interactions_again,
    learned_in,
    of_a_list,
    part_of,
    parts,
    versions_of,
)
from stream.tools.audit.read import read_trail, records_of
from stream.tools.replay import rebuilt
from stream.tools.scaled.whom import ask_who_learns


class _Array(msgspec.Struct):
    path: str
    delta_norm: str | None


class _Told(msgspec.Struct):
    """A full record of a member, as far as it is read here."""

    seq: int
    at: int
    event: str
    version_from: int
    version_to: int
    n_updates: int
    steps: tuple[int, int]
    tensors: list[_Array]

    def moves(self) -> dict[str, float]:
        """How far each array went since the record before, as far as that was measured."""
        found = {}
        for array in self.tensors:
            try:
                found[array.path] = float.fromhex(array.delta_norm or "")
            except (ValueError, OverflowError):
                continue
        return found


class Update(NamedTuple):
    """One update of the member, done again."""

    version: int
    moves: dict[str, float]
    before: State
    rows: NDArray[Any]
    y: F64
    w: F64


def explain(
    config: Config,
    member: str,
    layer: str | None,
    since_ms: int | None,
    most: int,
    latest: bool = False,
) -> dict[str, Any]:
    """The ``most`` stretches, updates and events that moved a member's arrays furthest.

    ``layer``: only arrays whose path begins so. ``since_ms``: only what came from then on.
    ``latest``: what came since the member's newest record, up to the journal's end; that is told as
    well where no record tells of a change. Sizes are L2 norms of the change. ``exit`` is 0, or 14
    where journal and checkpoints do not reach back to the stretch, whose updates are not known
    then.

    Raises :class:`MillraceError` for a member or a layer that the trail does not tell of, and of a
    scorer, which learns nothing.
    """
    ask_who_learns(config, f"audit explain {member}")
    learner, layer = part_of(config, member, layer)
    told = _told(config, learner, member, latest)
    stretches = [] if latest else _stretches(told, layer, learner in LEARNERS)
    asked = [row for row in stretches if since_ms is None or row["at"] >= since_ms]
    stretches = sorted(asked, key=_moved, reverse=True)
    if not stretches:
        newest = _unrecorded(config, told)
        stretches = [row for row in newest if since_ms is None or row["at"] >= since_ms]
    found: dict[str, Any] = {"member": member, "layer": layer, "exit": int(Exit.OK), "replay": ""}
    found |= {"stretches": stretches[:most], "updates": [], "events": []}
    if not stretches:
        return found | {"replay": "nothing to do again: no change on record, and no step since"}
    try:
        again = interactions_again if learner in LEARNERS else _again
        made, learned = again(config, learner, layer, stretches[0], most)
        found |= made
        if stretches[0]["record"] is None:
            stretches[0] |= learned
    except (*OUT_OF_REACH, Diverged) as error:
        found |= {"exit": int(Exit.MISSING), "replay": f"out of reach: {error}"}
    return found


def _unrecorded(config: Config, told: Sequence[_Told]) -> list[dict[str, Any]]:
    """What came since the newest record; how many versions and labels only a replay can tell."""
    version, step = (told[-1].version_to, told[-1].steps[1]) if told else (0, 0)
    log = open_log(config, wall_clock_ms)
    try:
        newest = log.journal_tail()
    finally:
        log.close()
    if newest is None or newest.seq < step:
        return []
    row = {"record": None, "at": newest.clock_ms, "event": "", "versions": [version + 1, None]}
    # Later updates of the record's own step are not on record either.
    row |= {"steps": [min(step + 1, newest.seq), newest.seq]}
    return [row | {"labels": None, "moved": None, "most": ""}]


def _told(config: Config, learner: str, asked: str, latest: bool) -> list[_Told]:
    found = []
    records = records_of(read_trail(config))
    for record in records:
        if record["model"] == learner:
            try:
                found.append(msgspec.convert(record, _Told))
            except msgspec.ValidationError:
                continue  # of another kind: it tells of no arrays
    if not found and not (latest and learner in config.learners):
        known = sorted({record["model"] for record in records if "tensors" in record})
        known += parts(config)
        raise MillraceError(
            f"audit explain: expected one of {', '.join(known)}, whose learned arrays the trail"
            f" tells of; got {asked!r}"
        )
    return found


def _stretches(told: Iterable[_Told], layer: str | None, tables: bool) -> list[dict[str, Any]]:
    """What each record says of the arrays that are asked for.

    ``tables``: they grow, and some are none that the trail measures: what it cannot tell is left
    open.
    """
    rows = []
    paths: set[str] = set()
    for record in told:
        moves = record.moves()
        paths |= {array.path for array in record.tensors}
        moved = _size(_chosen(moves, layer))
        measured = math.isfinite(moved) and moved > 0
        if measured or (tables and record.version_to > record.version_from):
            row = {"record": record.seq, "at": record.at, "event": record.event}
            row |= {"versions": [record.version_from + 1, record.version_to]}
            row |= {"steps": list(record.steps), "labels": record.n_updates}
            row |= {"moved": moved if measured else None}
            rows.append(row | {"most": _most(_chosen(moves, layer))})
    if layer is not None and not tables and not _chosen(dict.fromkeys(paths, 0.0), layer):
        raise MillraceError(
            f"audit explain: layer: expected the beginning of one of {', '.join(sorted(paths))};"
            f" got {layer!r}"
        )
    return rows


def _chosen(moves: Mapping[str, float], layer: str | None) -> dict[str, float]:
    return {path: size for path, size in moves.items() if path.startswith(layer or "")}


def _size(moves: Mapping[str, float]) -> float:
    return norm(np.array(list(moves.values()))) if moves else 0.0


def _most(moves: Mapping[str, float]) -> str:
    return max(moves, key=moves.__getitem__, default="")


# ------------------------------------------------------------------ once more


def _again(
    config: Config, member: str, layer: str | None, stretch: Mapping[str, Any], most: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The updates of a stretch and their events; the versions and labels that it was."""
    # The record before was written within a step, whose later updates are of this stretch.
    first, last = max(1, stretch["steps"][0] - 1), stretch["steps"][1]
    versions = versions_of(stretch)
    rows: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    names: dict[int, str] = {}
    with rebuilt(config, first - 1) as past:
        watching = _watch(scores(past.follower.engine), member)
        for slices, outputs in past.onward(last):
            names |= _names(past.follower.engine.codec, config, slices, outputs)
            for update in watching.taken():
                if update.version in versions:
                    rows.append(_row(update, layer, outputs.journal.seq, slices))
                    engine = scores(past.follower.engine)
                    events += _alone(engine, member, layer, update, names)
                    events = heapq.nlargest(most, events, key=_moved)
            watching = _watch(scores(past.follower.engine), member)
    return {
        "updates": heapq.nlargest(most, rows, key=_moved),
        "events": events,
        "replay": f"steps {first} to {last}: {len(rows)} updates",
    }, learned_in(rows, versions)


def _moved(row: Mapping[str, Any]) -> tuple[float, int]:
    """What is not measured counts by what was learned."""
    return float(row["moved"] or 0.0), row.get("labels", 0)


class _Watching(Learning):
    """Learns as the engine does, and notes how far each update moved one member."""

    def __init__(self, inner: Learning, member: str) -> None:
        self.__dict__ |= inner.__dict__
        self._member = member
        self._noted: list[Update] = []

    def learn(self, rows: NDArray[Any], y: F64, w: F64, *rest: Any) -> None:
        """See :meth:`Learning.learn`."""
        member = self._ensemble.members[self._member]
        before, state = {p: a.copy() for p, a in member.tensors().items()}, member.state()
        super().learn(rows, y, w, *rest)
        if self._ensemble.members[self._member] is member:  # else another model took its place
            version = self._auditor.versions()[self._member]
            moves = _moves(before, member.tensors())
            self._noted.append(Update(version, moves, state, rows.copy(), y, w))

    def taken(self) -> list[Update]:
        """The updates since the last call."""
        noted, self._noted = self._noted, []
        return noted


def _watch(engine: ScoringEngine | Reranker, member: str) -> _Watching:
    """The engine's learning, watched; a switch of the configuration made another engine."""
    watching = engine.outcomes.learning
    if not isinstance(watching, _Watching):
        watching = engine.outcomes.learning = _Watching(watching, member)
    return watching


def scores(engine: Engine) -> ScoringEngine | Reranker:
    """What scores and learns by labels: the engine, or the second stage of one that ranks."""
    if isinstance(engine, RankingEngine) and engine.reranker is not None:
        return engine.reranker
    return scoring(engine)


def _moves(before: Tensors, after: Tensors) -> dict[str, float]:
    """How far each array went; one that is new or of another shape, with all of its values."""
    return {path: norm(change(before.get(path), array)) for path, array in after.items()}


def _row(update: Update, layer: str | None, step: int, slices: Sequence[Slice]) -> dict[str, Any]:
    return {
        "step": step,
        "version": update.version,
        "labels": len(update.y),
        "moved": _size(_chosen(update.moves, layer)),
        "most": _most(_chosen(update.moves, layer)),
        "ranges": [[s.range.topic, s.range.partition, s.range.first, s.range.last] for s in slices],
    }


def _names(
    codec: Codec, config: Config, slices: Sequence[Slice], outputs: Outputs
) -> dict[int, str]:
    """Ids by their hash: of the events scored and of the labels that came."""
    ids = list(outputs.ids())
    for piece in slices:
        if piece.range.topic == config.topics.labels:
            ids += [keyed.id for keyed in codec.label_keys(piece.records)[0]]
        elif isinstance(codec, FeedbackCodec):
            taken = [what for what in codec.feedback(piece.records)[0].what if of_a_list(what)]
            places = {hash_text(f"{w.ranking}\0{w.item}"): f"{w.ranking} {w.item}" for w in taken}
            return places | {hash_text(i): i for i in ids}
    return {hash_text(identifier): identifier for identifier in ids}


def _alone(
    engine: ScoringEngine | Reranker,
    name: str,
    layer: str | None,
    update: Update,
    names: Mapping[int, str],
) -> Iterator[dict[str, Any]]:
    """How far each event of an update moves the member alone, from where the update began."""
    member = engine.ensemble.made(name, 0, engine.ensemble.specs.get(name))
    schema = engine.features.schema
    for i, row in enumerate(update.rows):
        member.restore(update.before)
        before = {p: a.copy() for p, a in member.tensors().items()}
        one = update.rows[i : i + 1]
        x = FeatureBatch(
            schema, np.ascontiguousarray(one["dense"]), np.ascontiguousarray(one["hashed"])
        )
        member.learn(x, update.y[i : i + 1], update.w[i : i + 1])
        moves = _chosen(_moves(before, member.tensors()), layer)
        hashed = int(row["id"])
        yield {
            "event": names.get(hashed),
            "id_hash": f"{hashed:016x}",
            "version": update.version,
            "truth": float(update.y[i]),
            "weight": float(update.w[i]),
            "moved": _size(moves),
            "most": _most(moves),
        }

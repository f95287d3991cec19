"""What a scorer holds, from those that held it: when partitions move from one to another.

A service that gets other scorers gives each of them what belongs to its partitions. What follows
from an event goes with the event's partition: windows, waiting rows, labels that wait. What all
scorers know alike, members and the risk of entities that all of them see, comes from the one that
knows the newest. Nothing here reads or writes a file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np

from models.base import BOOL, F64, I64, MillraceError, State
from stream.step.early import EarlyLabel
from stream.step.lifecycle.beside import unheld
from stream.step.pending.store import SEGMENT_ROWS
from stream.step.roles.routes import Routes, owner
from stream.step.roles.scorer import ScorerEngine

KEPT_BY_NAME = ("seq", "digest", "trail", "auditor", "ledger")
"""Parts of a state that go on under their process's name, wherever the rest comes from."""
COUNTED = ("tallies", "matured", "quality")
"""What only counts and measures: it stays in one place, so that sums over processes stay."""


class Unmovable(MillraceError):
    """What scorers hold does not fit together in fewer of them."""


def owned(index: int, count: int, partitions: int) -> range:
    """The partitions of events and labels that scorer ``index`` of ``count`` reads."""
    return range(index, partitions, count)


def sources(index: int, count: int, before: int, partitions: int) -> list[int]:
    """Of the scorers there were, those that have read what ``index`` reads from now on."""
    return sorted({p % before for p in owned(index, count, partitions)})


def heirs(before: int, count: int, partitions: int) -> dict[int, int]:
    """Of each scorer there was, the one that goes on with its counts."""
    found: dict[int, int] = {}
    for index in range(count):
        for source in sources(index, count, before, partitions):
            found.setdefault(source, index)
    return found


def take_over(to: ScorerEngine, found: Mapping[int, ScorerEngine]) -> None:
    """Let a new engine of the new configuration hold what belongs to its partitions.

    ``found``: by index all scorers there were, at the end of their journals, each told all of the
    others' risk; they are not changed. Raises :class:`Unmovable`.
    """
    shard, partitions = to.config.shard, to.config.topics.partitions
    before, homes = len(found), owned(shard.index, shard.count, partitions)
    base, *others = newest_first(found, shard.index, shard.count, partitions)
    parts = [base, *others]
    mine = [s for s, heir in heirs(before, shard.count, partitions).items() if heir == shard.index]
    to.restore(_plain(to, found.get(shard.index, to), base, [found[s] for s in mine]), {})
    to.clock_ms = max(part.clock_ms for part in parts)
    to.join.watermark_ms = max(part.watermark_ms for part in parts)
    to.features.gather([part.features for part in parts], homes)
    _early(to, _unmet(found) if shard.labels == "any" else _waiting(parts), homes)
    _rows(to, parts, homes)
    told = {
        i: min(found[s].watermark_ms for s in sources(i, shard.count, before, partitions))
        for i in range(shard.count)
        if i != shard.index
    }
    if to.sharing is not None:
        to.sharing.told_ms = told
    if to.routes is not None:
        _routes(to, to.routes, found)
        to.routes.told_ms = told
        to.join.heard(to.routes.hear(to.watermark_ms)[0])


def newest_first(
    found: Mapping[int, ScorerEngine], index: int, count: int, partitions: int
) -> list[ScorerEngine]:
    """Those whose partitions a scorer gets, the one with the newest version first."""
    parts = [found[i] for i in sources(index, count, len(found), partitions)]
    return sorted(parts, key=lambda part: -part.versions.current.number)


def _plain(
    to: ScorerEngine, own: ScorerEngine, base: ScorerEngine, counted: Sequence[ScorerEngine]
) -> State:
    """The state without what belongs to partitions."""
    state, fresh, named = base.state(), to.state(), own.state()
    state |= {key: named[key] for key in KEPT_BY_NAME}
    here = ("pending", "history", "features", "early", "routes")
    state |= {key: fresh[key] for key in here if key in fresh}
    state["challengers"] = unheld(state["challengers"])
    state["maturity"] |= {key: fresh["maturity"][key] for key in ("ends", "shares")}
    if base not in counted:
        state |= {key: fresh[key] for key in COUNTED}
    counts = Counter[str]()
    for part in counted:
        counts.update(part.counts)
    return state | {"counts": dict(counts)}


def met(found: Mapping[int, ScorerEngine]) -> list[EarlyLabel]:
    """Labels that wait where nobody has told yet that their event is held elsewhere."""
    waiting = _waiting(found.values())
    ids = np.array([label.id_hash for label in waiting], np.uint64)
    held = np.zeros(len(ids), np.bool_)
    for part in found.values():
        held |= part.pending.find(ids) >= 0
    return [waiting[i] for i in np.flatnonzero(held).tolist()]


def _unmet(found: Mapping[int, ScorerEngine]) -> list[EarlyLabel]:
    gone = {label.id_hash for label in met(found)}
    return [label for label in _waiting(found.values()) if label.id_hash not in gone]


def _waiting(parts: Iterable[ScorerEngine]) -> list[EarlyLabel]:
    return [label for part in parts for label in part.early.waiting()]


def _early(to: ScorerEngine, waiting: list[EarlyLabel], homes: range) -> None:
    """Labels that wait for their event wait on, those that came first before the others."""
    shard = to.config.shard
    if shard.labels == "any":
        mine = [label for label in waiting if owner(label.id_hash, shard.count) == shard.index]
    else:
        mine = [label for label in waiting if label.record.partition in homes]
    if twice := [i for i, n in Counter(label.id_hash for label in mine).items() if n > 1]:
        of = next(label.record for label in mine if label.id_hash == twice[0])
        raise Unmovable(
            f"scorer {shard.index}: two labels of one event wait for it at two scorers,"
            f" one of them at {of.topic}/{of.partition} offset {of.offset}: expected one for each"
            " event. Move once the horizon of these labels has passed"
        )
    to.early.restore({"labels": msgspec.msgpack.encode(sorted(mine, key=lambda x: x.since_ms))})


def _routes(to: ScorerEngine, routes: Routes, found: Mapping[int, ScorerEngine]) -> None:
    """It knows where all events wait that it is the owner of."""
    routes.untold = False
    for part in found.values():
        ids = part.pending.column("id")
        holder = part.pending.column("partition") % to.config.shard.count
        holder[~routes.mine(ids)] = to.config.shard.index
        for other in routes.told_ms:
            routes.holders.add(ids[holder == other], other)


def _rows(to: ScorerEngine, parts: Sequence[ScorerEngine], homes: range) -> None:
    """Rows wait on, in the order in which they were scored; of several scorers by event time."""
    found = [part.pending.among(homes) for part in parts]
    sizes = [len(numbers) for numbers, _ in found]
    if sum(sizes) > to.pending.room and not to.pending.open:
        raise Unmovable(
            f"scorer {to.config.shard.index}: {sum(sizes):,} events would wait for labels, and"
            f" limits.pending lets {to.pending.room:,}: raise it in the file first"
        )
    source = np.repeat(np.arange(len(parts)), sizes)
    numbers = np.concatenate([numbers for numbers, _ in found])
    if len(parts) > 1:
        # A row that was late when it was scored stands behind those before it.
        scored = [np.maximum.accumulate(times) for _, times in found]
        order = np.argsort(np.concatenate(scored), kind="stable")
        source, numbers = source[order], numbers[order]
    shares, looked = np.empty(len(numbers)), np.empty(len(numbers), np.bool_)
    for start in range(0, len(numbers), SEGMENT_ROWS):
        at = slice(start, start + SEGMENT_ROWS)
        _chunk(to, parts, source[at], numbers[at], (shares[at], looked[at]))
    to.maturity.moved_in(shares, looked)


def _chunk(
    to: ScorerEngine,
    parts: Sequence[ScorerEngine],
    source: I64,
    numbers: I64,
    at_look: tuple[F64, BOOL],
) -> None:
    rows = np.empty(len(numbers), to.pending.dtype)
    truth, marks = np.empty(len(numbers)), np.empty(len(numbers), np.uint8)
    for i, part in enumerate(parts):
        here = np.flatnonzero(source == i)
        rows[here], truth[here], marks[here] = part.pending.moving(numbers[here])
        at_look[0][here], at_look[1][here] = part.maturity.moving(numbers[here])
    to.pending.move_in(rows, truth, marks)

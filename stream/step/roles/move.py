"""What a scorer holds, from those that held it: when partitions move from one to another.

A service that gets other scorers gives each of them what belongs to its partitions. What follows
from an event goes with the event's partition: windows, waiting rows, labels that wait. What all
scorers know alike, members and the risk of entities that all of them see, comes from the one that
knows the newest. Nothing here reads or writes a file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

import msgspec
import numpy as np

from models.base import I64, MillraceError, State
from stream.settings.schema import Config
from stream.step.early import EarlyLabel
from stream.step.engine import Engine
from stream.step.lifecycle.beside import unheld
from stream.step.maturity import Maturity
from stream.step.pending.store import SEGMENT_ROWS
from stream.step.roles.routes import Routes, owner
from stream.step.roles.scorer import ScorerEngine
from stream.step.roles.versions import Joining

KEPT_BY_NAME = ("seq", "digest", "trail", "auditor", "ledger")
"""Parts of a state that go on under their process's name, wherever the rest comes from."""
COUNTED = ("tallies", "matured", "quality")
"""What only counts and measures: it stays in one place, so that sums over processes stay."""


class Versioned(Protocol):
    """A scorer of any kind."""

    @property
    def versions(self) -> Joining:
        """What it follows the learner by."""
        ...


class Timed(Protocol):
    """A scorer of any kind."""

    @property
    def watermark_ms(self) -> int:
        """The newest event time that it has taken in."""
        ...


V = TypeVar("V", bound=Versioned)


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
    rows = gather_rows(to, parts, homes)
    at_look(to.maturity, [part.maturity for part in parts], rows)
    told = told_by(to.config, found)
    if to.sharing is not None:
        to.sharing.told_ms = told
    if to.routes is not None:
        _routes(to, to.routes, found)
        to.routes.told_ms = told
        to.join.heard(to.routes.hear(to.watermark_ms)[0])


def newest_first(found: Mapping[int, V], index: int, count: int, partitions: int) -> list[V]:
    """Those whose partitions a scorer gets, the one with the newest version first."""
    parts = [found[i] for i in sources(index, count, len(found), partitions)]
    return sorted(parts, key=lambda part: -part.versions.current.number)


def _plain(
    to: ScorerEngine, own: ScorerEngine, base: ScorerEngine, counted: Sequence[ScorerEngine]
) -> State:
    """The state without what belongs to partitions."""
    fresh = to.state()
    state = base.state() | kept_by_name(own) | counted_of(counted)
    here = ("pending", "history", "features", "early", "routes")
    state |= {key: fresh[key] for key in here if key in fresh}
    state["challengers"] = unheld(state["challengers"])
    state["maturity"] |= {key: fresh["maturity"][key] for key in ("ends", "shares")}
    if base not in counted:
        state |= {key: fresh[key] for key in COUNTED}
    return state


def kept_by_name(own: Engine) -> State:
    """What goes on of the scorer of the same name, else of the new one itself."""
    state = own.state()
    return {key: state[key] for key in KEPT_BY_NAME}


def counted_of(counted: Sequence[Engine]) -> State:
    """The counts of all these."""
    counts = Counter[str]()
    for part in counted:
        counts.update(part.counts)
    return {"counts": dict(counts)}


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


class Rows(NamedTuple):
    """Rows of several stores in one order: of which one each is, and its number there."""

    source: I64
    number: I64

    def of(self, part: int) -> tuple[I64, I64]:
        """Of one store, places in the order and numbers."""
        here = np.flatnonzero(self.source == part)
        return here, self.number[here]


def gather_rows(to: Engine, parts: Sequence[Engine], homes: Sequence[int]) -> Rows:
    """Rows wait on, in the order in which they were held; of several scorers by event time."""
    found = [part.pending.among(homes) for part in parts]
    rows = Rows(
        np.repeat(np.arange(len(parts)), [len(numbers) for numbers, _ in found]),
        np.concatenate([numbers for numbers, _ in found]),
    )
    if len(parts) > 1:
        # A row that was late when it was held stands behind those before it.
        held = [np.maximum.accumulate(times) for _, times in found]
        order = np.argsort(np.concatenate(held), kind="stable")
        rows = Rows(rows.source[order], rows.number[order])
    if len(rows.number) > to.pending.room and not to.pending.open:
        raise Unmovable(
            f"scorer {to.config.shard.index}: {len(rows.number):,} rows would wait, and"
            f" limits.pending lets {to.pending.room:,}: raise it in the file first"
        )
    for start in range(0, len(rows.number), SEGMENT_ROWS):
        at = slice(start, start + SEGMENT_ROWS)
        _chunk(to, parts, Rows(rows.source[at], rows.number[at]))
    return rows


def _chunk(to: Engine, parts: Sequence[Engine], some: Rows) -> None:
    n = len(some.number)
    rows = np.empty(n, to.pending.dtype)
    truth, marks = np.empty(n), np.empty(n, np.uint8)
    for i, part in enumerate(parts):
        here, numbers = some.of(i)
        rows[here], truth[here], marks[here] = part.pending.moving(numbers)
    to.pending.move_in(rows, truth, marks)


def at_look(to: Maturity, parts: Sequence[Maturity], rows: Rows) -> None:
    """What was known of the rows at their look."""
    shares, looked = np.empty(len(rows.number)), np.empty(len(rows.number), np.bool_)
    for i, part in enumerate(parts):
        here, numbers = rows.of(i)
        shares[here], looked[here] = part.moving(numbers)
    to.moved_in(shares, looked)


def told_by(to: Config, found: Mapping[int, Timed]) -> dict[int, int]:
    """By scorer that another one there is will hear of, up to which event time it has told all."""
    count, partitions = to.shard.count, to.topics.partitions
    return {
        i: min(found[s].watermark_ms for s in sources(i, count, len(found), partitions))
        for i in range(count)
        if i != to.shard.index
    }

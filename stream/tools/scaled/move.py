"""Gives a service of many processes another number of scorers: what would move, and the move.

All scorers are stopped meanwhile; the learner may run. Each new scorer's state is put into its
state directory, and then one transaction says so in the journals of all: before it the old scorers
are whole, after it the new ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np

from models.base import MillraceError
from monitoring.audit.trail import Head
from stream.contract.failpoint import failpoint
from stream.contract.outputs import Outputs
from stream.contract.records import JournalRecord, NewRecord, Record
from stream.decode.codec import Labels
from stream.logs.kafka.together import Together
from stream.run.assemble import build_engine, open_log, open_together, pending_row, wall_clock_ms
from stream.settings.load import environments, load
from stream.settings.schema import Config
from stream.settings.upgrade import journaled
from stream.state.follow import moved
from stream.state.generations import (
    CheckpointError,
    Manifest,
    StateDirectory,
    list_generations,
    read_manifest,
    sealed,
    snapshot_of,
)
from stream.state.platform import fingerprint
from stream.state.recovery import recover
from stream.state.topics import Standing, passed, unread
from stream.step.pending.segments import Segment
from stream.step.pending.store import members_of, with_members
from stream.step.ranking.move import all_back, tell
from stream.step.ranking.move import take_over as take_over_ranking
from stream.step.ranking.scorer import RankingScorer
from stream.step.roles.examples import Foreign, told_meaning
from stream.step.roles.move import met, newest_first, owned, sources, take_over
from stream.step.roles.routes import Stage, asked, waited
from stream.step.roles.scorer import ScorerEngine

SAMPLE = 65_536
"""Rows that are copied to tell how long all of them take."""


Scorer = ScorerEngine | RankingScorer
S = TypeVar("S", ScorerEngine, RankingScorer)


class MoveRefused(MillraceError):
    """The scorers cannot become so many now; nothing has changed."""


class Moving(NamedTuple):
    """One way that partitions go: ``rows`` wait for labels and take ``bytes`` on disk."""

    source: int
    to: int
    partitions: list[int]
    rows: int
    bytes: int


class Plan(NamedTuple):
    """What a move means, as of the newest checkpoints.

    ``seconds``: about how long scorers stand still for the rows, as this machine copied some of
    them just now; starting a process comes to it.
    """

    before: int
    after: int
    ways: list[Moving]
    seconds: float


class Old(NamedTuple):
    """A scorer there is, at the end of its journal."""

    config: Config
    directory: StateDirectory
    engine: Scorer
    standing: Standing


def _engines(old: Mapping[int, Old], kind: type[S]) -> dict[int, S]:
    """Those of this kind, by index: all scorers of a service are of one."""
    return {i: one.engine for i, one in old.items() if isinstance(one.engine, kind)}


def scorers(path: Path, environ: Mapping[str, str], count: int | None = None) -> list[Config]:
    """The configuration of each scorer of a file, or of so many; raises :class:`ConfigError`."""
    _, *own = environments(path, environ, count).values()
    return [load(path, {**environ, **one}) for one in own]


def _both(path: Path, environ: Mapping[str, str], count: int) -> tuple[list[Config], list[Config]]:
    before, after = scorers(path, environ), scorers(path, environ, count)
    if len(before) == count:
        raise MoveRefused(
            f"shard.count: expected another number than the file's, got {count}: the file says how"
            " many scorers there are until the move is done"
        )
    shared = [bool(configs[0].shared_entities) for configs in (before, after)]
    if shared[0] != shared[1]:
        raise MoveRefused(
            "shard.count: expected 2 or more scorers before and after, where risk of an entity is"
            " known by which events are not spread: one alone remembers less of it"
        )
    return before, after


# ---------------------------------------------------------------------- what would move


def plan(path: Path, environ: Mapping[str, str], count: int) -> Plan:
    """What would move if there were ``count`` scorers; changes nothing, whoever runs."""
    before, _ = _both(path, environ, count)
    partitions = before[0].topics.partitions
    ways, sample_s, copied = [], 0.0, 0
    for source, config in enumerate(before):
        generation, manifest = _newest(config)
        rows = _rows(config, generation, manifest)
        if len(rows) and not copied:
            sample_s, copied = _copied(rows, config.state_dir)
        of = np.bincount(rows["partition"], minlength=partitions)
        for to in range(count):
            if source in sources(to, count, len(before), partitions):
                went = [p for p in owned(to, count, partitions) if p % len(before) == source]
                n = int(of[went].sum())
                ways.append(Moving(source, to, went, n, n * rows.dtype.itemsize))
    seconds = sample_s / copied * sum(way.rows for way in ways) if copied else 0.0
    return Plan(len(before), count, ways, seconds)


def _newest(config: Config) -> tuple[Path, Manifest]:
    for generation in list_generations(config.state_dir):
        try:
            manifest = read_manifest(generation)
        except CheckpointError:
            continue
        return generation, manifest
    raise MoveRefused(_missing(config))


def _missing(config: Config) -> str:
    return (
        f"{config.state_dir}: expected a checkpoint of {config.name}, got none: give this command"
        " the state directories of all scorers, each of which has run"
    )


def _rows(config: Config, generation: Path, manifest: Manifest) -> Any:
    """The rows that wait, as they lie on disk."""
    dtype, parts = pending_row(config), []
    rest = msgspec.msgpack.decode((generation / "state.msgpack").read_bytes())
    head, tail = rest["pending"]["head"], rest["pending"]["tail"]
    for name, entry in sorted(manifest.files.items()):
        if name.startswith("pending-") and name.endswith(".seg"):
            number = int(name.removeprefix("pending-").removesuffix(".seg"))
            first, held = number * SAMPLE, rest["pending"]
            members = members_of(number, held.get("older", ()), held["members"])
            own = with_members(dtype, len(members))
            whole = np.memmap(generation / name, own, "r", shape=entry.bytes // own.itemsize)
            rows = whole[max(0, head - first) : max(0, tail - first)]
            parts.append(rows if own == dtype else _widened(rows, dtype))
    return np.concatenate(parts) if parts else np.empty(0, dtype)


def _widened(rows: Any, dtype: np.dtype[Any]) -> Any:
    """Rows from before members came or went, as they will be written; links aside."""
    found = np.zeros(len(rows), dtype)
    for name in set(dtype.names or ()) - {"links"}:
        found[name] = rows[name]
    return found


def _copied(rows: Any, directory: Path) -> tuple[float, int]:
    """Seconds to write some of the rows where they would lie, and how many these were."""
    some = rows[:SAMPLE]
    started = time.perf_counter()
    place = directory / "pending" / "sample.seg"
    segment = Segment(rows.dtype, len(some), place)
    segment.rows[:] = some
    segment.sha256(len(some))
    seconds = time.perf_counter() - started
    segment.drop()
    return seconds, len(some)


# ---------------------------------------------------------------------- the move


def move(
    path: Path, environ: Mapping[str, str], count: int, told: Callable[[str], object]
) -> dict[str, Any]:
    """Let there be ``count`` scorers; tells what came of it.

    1. Take all state directories: nobody else may run there. Shut older processes out.
    2. Bring each scorer to the end of its journal, and let it know all that others told of risk,
       and of a service that ranks all that the learner told.
    3. Gather each new scorer's state, and put it into its directory, where nothing reads it yet.
    4. Say so in all journals, in one transaction.

    Raises :class:`MoveRefused`, or what a start of a scorer raises; nothing has changed then.
    """
    before, after = _both(path, environ, count)
    started = time.monotonic()
    with ExitStack() as ending:
        together = open_together(before[0])
        ending.callback(together.close)
        together.claim()
        directories = {}
        for config in max(before, after, key=len):
            directory = StateDirectory(config.state_dir)
            known = directory.listed() or [*directory.entered.glob("[0-9]*")]
            if config.shard.index < len(before) and not known:
                raise MoveRefused(_missing(config))
            directories[config.shard.index] = directory.open()
            ending.callback(directory.close)
        old: dict[int, Old] = {}
        for i, config in enumerate(before):
            together.shut_out(config)
            old[i] = _old(config, directories[i])
            ending.callback(old[i].engine.close)
            told(f"{config.name} stands at step {old[i].engine.seq}")
        ends = _drain(together, old)
        examples = _follow(together, old)
        labels = _under_way(together, old, count)
        together.make_journals(after)
        failpoint("move.gathered")
        steps = [_gathered(together, c, directories[c.shard.index], old, ends) for c in after]
        steps[0] = _with(*steps[0], labels)
        steps += [_left(old[i], old, count) for i in range(count, len(before))]
        for i, records in examples.items():
            steps[i] = _handing(*steps[i], records)
        failpoint("move.kept")
        together.commit(steps)
        failpoint("move.committed")
        together.grow(after[0])
    rows = sum(len(one.engine.pending) for one in old.values())
    seconds = round(time.monotonic() - started, 3)
    return {"before": len(before), "count": count, "rows": rows, "seconds": seconds}


def _old(config: Config, directory: StateDirectory) -> Old:
    """The scorer, at the end of its journal."""
    log = open_log(config, wall_clock_ms)
    try:
        recovered = recover(
            *(log, directory, config, lambda c: build_engine(c, directory.pending), lambda: None)
        )
        standing = recovered.standing
        behind, gone = passed(log, standing, config)
        if gone:
            raise MoveRefused(
                f"retention deleted what {config.name} is not known to have read:\n"
                f"{unread(gone, standing)}Start it once with --accept-changes, and stop it"
            )
        standing.positions |= behind
    finally:
        log.close()
    engine = recovered.engine
    if not isinstance(engine, Scorer) or engine.seq == 0:
        raise MoveRefused(_missing(config))
    if (got := engine.config.shard.count) != config.shard.count:
        raise MoveRefused(
            f"shard.count: expected {got} in the file, as {config.name} has it since step"
            f" {engine.seq} at the latest, got {config.shard.count}: it has moved before, or the"
            " file is another service's"
        )
    if journaled(engine.config) != journaled(config):
        raise MoveRefused(
            f"{config.name}: expected the file that it ran under, got another one: start all"
            " processes with this file once, and stop them, or put the old one back"
        )
    return Old(config, directory, engine, standing)


def _drain(together: Together, old: Mapping[int, Old]) -> dict[int, int]:
    """Let each know all that the others told of risk; the next offset of each partition of it."""
    topic, ends = old[0].config.risk_topic, dict[int, int]()
    if old[0].config.shared_entities:
        ends = {partition: end for (_, partition), end in together.ends(topic).items()}
    for i, sharing in ((i, one.engine.sharing) for i, one in old.items()):
        for partition in range(len(old)):
            if partition == i or sharing is None:
                continue
            first = old[i].standing.positions.get((topic, partition), 0)
            for record in together.between((topic, partition), first, ends[partition]):
                try:
                    sharing.read(partition, record.value)
                except Foreign as error:
                    raise MoveRefused(_crafted(record, error)) from error
    return ends


def _follow(together: Together, old: Mapping[int, Old]) -> dict[int, list[NewRecord]]:
    """Let each that ranks know all that the learner has told, so that lists have their hits of it,
    and nothing that they handed over is on its way; what they have to tell the learner of it."""
    key = old[0].config.models_topic, 0
    ranking = _engines(old, RankingScorer)
    end = together.ends(key[0]).get(key, 0) if ranking else 0
    for i, engine in ranking.items():
        positions = old[i].standing.positions
        for record in together.between(key, positions.get(key, 0), end):
            try:
                engine.hear(record.value)
            except Foreign as error:
                raise MoveRefused(_crafted(record, error)) from error
        positions[key] = end
    all_back(ranking)
    return tell(ranking)


def _under_way(together: Together, old: Mapping[int, Old], count: int) -> list[Labels]:
    """Labels on their way to an event that is held, each id's in their order: those that wait where
    it is not known yet, and those that scorers have handed on and that nobody has read."""
    topic, found = old[0].config.routes_topic, []
    engines = _engines(old, ScorerEngine)
    if (early := met(engines)) and old[0].config.routed:
        found.append((Stage.FOUND, waited(early)))
    for i, engine in engines.items():
        if (routes := engine.routes) is None:
            continue
        first, end = (
            at.get((topic, i), 0) for at in (old[i].standing.positions, together.ends(topic))
        )
        for record in together.between((topic, i), first, end):
            try:
                found += routes.heard(record.value).labels
            except Foreign as error:
                raise MoveRefused(_crafted(record, error)) from error
    if found and count == 1:
        raise MoveRefused(
            f"{topic}: expected no labels under way between scorers, got"
            f" {sum(len(labels.records) for _, labels in found)}, and one scorer hands on none:"
            " start all of them for a while without new labels, and stop them"
        )
    # Who was found has been asked for before whoever is asked for now.
    order = (Stage.FOUND, Stage.LEFT, Stage.ASKED)
    return [labels for _, labels in sorted(found, key=lambda pair: order.index(pair[0]))]


def _with(config: Config, outputs: Outputs, labels: list[Labels]) -> tuple[Config, Outputs]:
    """The first scorer is asked for the events of these labels, and asks their owners."""
    if not labels:
        return config, outputs
    records = asked(told_meaning(config), config.shard.index + 1, labels, config.shard.index)
    return config, msgspec.structs.replace(outputs, handed={config.routes_topic: records})


def _handing(config: Config, outputs: Outputs, records: list[NewRecord]) -> tuple[Config, Outputs]:
    """The learner is told what came of lists by the last news."""
    if not records:
        return config, outputs
    handed = dict(outputs.handed) | {config.examples_topic: records}
    return config, msgspec.structs.replace(outputs, handed=handed)


def _crafted(record: Record, error: Foreign) -> str:
    return (
        f"{record.topic}/{record.partition} offset {record.offset}: {error}. Start all scorers"
        " once, whose dead letter it becomes, and stop them"
    )


def _gathered(
    together: Together,
    config: Config,
    directory: StateDirectory,
    old: Mapping[int, Old],
    ends: Mapping[int, int],
) -> tuple[Config, Outputs]:
    """A new scorer's state, kept in its directory; the step that says so."""
    engine = build_engine(config, directory.pending)
    if not isinstance(engine, Scorer):
        raise MoveRefused(f"{config.name}: expected shard.role = 'scorer'")
    try:
        engine.tree = journaled(config)
        if isinstance(engine, RankingScorer):
            take_over_ranking(engine, _engines(old, RankingScorer))
        else:
            take_over(engine, _engines(old, ScorerEngine))
        index, engines = config.shard.index, {i: one.engine for i, one in old.items()}
        if index not in old:
            _go_on(engine, together.tail(config))
        [base, *_] = newest_first(engines, index, config.shard.count, config.topics.partitions)
        standing = _standing(config, next(o for o in old.values() if o.engine is base), old, ends)
        if config.routed:
            topic = config.routes_topic
            standing.positions[topic, index] = together.ends(topic).get((topic, index), 0)
        positions = [(t, p, at) for (t, p), at in sorted(standing.positions.items())]
        engine.auditor.moved(positions)
        came = [old[i] for i in _sources(config, old)]
        snapshot = snapshot_of(engine, standing, wall_clock_ms())
        kept = directory.enter(directory.write(snapshot))
        outputs = moved(
            engine,
            {
                **_told(standing, config.shard.count, came),
                "config": engine.tree,
                "kept": sealed(kept),
                "positions": [list(position) for position in positions],
            },
        )
    finally:
        engine.close()
    return config, outputs


def _go_on(engine: Scorer, tail: JournalRecord | None) -> None:
    """One that was a scorer before there were fewer: its journal and its trail go on."""
    if tail is None:
        return
    if tail.kind != "moved" or "config" in tail.body or tail.head is None:
        raise MoveRefused(
            f"{engine.config.journal_topic}: expected no journal, or one whose scorer ended by a"
            f" move, got one at step {tail.seq}: the service has more scorers than the file says"
        )
    engine.seq, engine.digest = tail.seq, tail.digest
    engine.trail.go_on(Head(*tail.head))


def _sources(config: Config, old: Mapping[int, Old]) -> list[int]:
    return sources(config.shard.index, config.shard.count, len(old), config.topics.partitions)


def _left(one: Old, old: Mapping[int, Old], count: int) -> tuple[Config, Outputs]:
    """The step that says of an old scorer that it is none of the new ones."""
    return one.config, moved(one.engine, _told(one.standing, count, [one]))


def _told(standing: Standing, count: int, came: list[Old]) -> dict[str, Any]:
    return {
        "fingerprint": fingerprint(),
        "version": version("millrace"),
        "topics": dict(standing.ids),
        "count": count,
        "sources": [[o.config.name, o.engine.seq, o.engine.digest] for o in came],
    }


def _standing(
    config: Config, base: Old, old: Mapping[int, Old], ends: Mapping[int, int]
) -> Standing:
    """Where a new scorer goes on: with its partitions as their scorers left them, with commands and
    versions as the one did whose members it has, and with risk as nobody has told more yet."""
    found = Standing(base.standing.ids)
    events = (config.topics.events, config.topics.labels)
    for one in old.values():
        at = one.standing.positions.items()
        found.positions |= {k: v for k, v in at if k[0] in events and config.reads(*k)}
    common = (config.topics.control, config.models_topic)
    found.positions |= {k: v for k, v in base.standing.positions.items() if k[0] in common}
    if config.shared_entities:
        others = [i for i in range(config.shard.count) if i != config.shard.index]
        found.positions |= {(config.risk_topic, i): ends.get(i, 0) for i in others}
    return found

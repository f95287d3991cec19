"""The past for new parts: an engine of another configuration takes the journal's steps beside it.

It takes the very records that the steps took, with their clocks and cuts, from the oldest step on
whose records the log still holds; nothing that it puts out is committed. ``millrace backfill``
drives it to the journal's end, a start goes on from there to the switch, and a replay of the
switch comes to the same state: by the generation that was kept for it, else by the same steps.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import NamedTuple

import structlog

from models.base import MillraceError
from stream.contract.failpoint import failpoint
from stream.contract.log import Log, OutOfRetention
from stream.contract.records import Batch, JournalRecord, Range
from stream.decode.codec import Codec
from stream.logs.ahead import one_ahead
from stream.settings.schema import Config
from stream.settings.upgrade import Tree, digest, plain, settings
from stream.state.follow import Adopted, Build, body_of, steps
from stream.state.generations import (
    CheckpointError,
    Loaded,
    Locked,
    Manifest,
    StateDirectory,
    list_generations,
    load,
    read_manifest,
    revive,
    snapshot_of,
)
from stream.state.topics import Standing, ids_of
from stream.step.backfill import Backfill
from stream.step.engine import Engine
from stream.step.scoring import scoring

logger = structlog.get_logger()

PLACE = "backfill"
"""Where under ``state_dir`` an engine waits to be taken over: a state directory of its own."""
APART = {"state_dir", "log", "registry", "scores", "http", "checkpoints", "quality"}
"""Sections of a configuration that no engine is made of."""


class BackfillRefused(MillraceError):
    """There is no past that this configuration could learn, or none that it did."""


class Reach(NamedTuple):
    """How far the log goes back: the steps after ``after`` can be taken again.

    ``first_ms`` and ``last_ms`` are the times of the oldest and the newest event among them.
    """

    after: int
    events: int
    labels: int
    first_ms: int
    last_ms: int


def reach(log: Log, config: Config) -> Reach:
    """The steps whose records the log still holds, in the topics that ``config`` reads."""
    topics, earliest, head = config.topics, log.earliest(), log.journal_head()
    standing, now = Standing(), ids_of(log.topics())
    after = head.seq - 1 if head is not None else 0
    counts = dict.fromkeys((topics.control, topics.events, topics.labels), 0)
    ends: list[Range] = []
    codec = Codec(config)
    for record in log.journal():
        adopt(codec, record)
        standing.told(record.body.get("topics", {}), ())
        anew = standing.anew(now)
        if any(
            r.topic not in counts
            or r.topic in anew
            or r.first < earliest.get((r.topic, r.partition), 0)
            for r in record.ranges
        ):
            after, counts, ends = record.seq, dict.fromkeys(counts, 0), []
            continue
        for r in record.ranges:
            counts[r.topic] += r.count
        ends += [r for r in record.ranges if r.topic == topics.events]
        del ends[1:-1]
    times: list[int] = []
    for piece in log.read(ends):
        times += codec.events(piece.records)[0].columns.event_time_ms.tolist()
    first_ms, last_ms = (min(times), max(times)) if times else (0, 0)
    return Reach(after, counts[topics.events], counts[topics.labels], first_ms, last_ms)


def in_force(log: Log, config: Config) -> Tree:
    """The configuration that the newest step of the shard ran under, as the journal vouches."""
    tree: Tree | None = None
    seq = 0
    for path in list_generations(config.state_dir):
        try:
            manifest = read_manifest(path)
        except CheckpointError:
            continue
        record = _record(log, manifest.seq)
        if record is not None and record.config == digest(manifest.config):
            tree, seq = manifest.config, manifest.seq
            break
    for record in log.journal(seq):
        tree = body_of(record).config or tree
    if tree is None:
        raise BackfillRefused(
            f"expected a stream that runs, got neither a generation in "
            f"{config.state_dir} nor the first step in {config.journal_topic}: `millrace run` it, "
            "its members learn as it goes"
        )
    return tree


def _record(log: Log, seq: int) -> JournalRecord | None:
    record = next(iter(log.journal(seq - 1)), None)
    return record if record is not None and record.seq == seq else None


def _confirmed(manifest: Manifest, log: Log) -> bool:
    """Whether the journal holds the generation's step, with its digest."""
    record = _record(log, manifest.seq)
    return record is not None and record.digest == manifest.digest


def made_for(loaded: Loaded, config: Config) -> bool:
    """Whether a generation's engine takes the same steps to the same state as one of ``config``.

    Nothing that the generation names is loaded.
    """
    a, b = plain(settings(loaded.manifest.config, str(loaded.path))), plain(config)
    return all(a[key] == b[key] for key in a.keys() - APART)


def adopt(codec: Codec, record: JournalRecord) -> None:
    """Let a codec read by the schema of a journal record, if it holds one."""
    if record.kind == "schema" and isinstance(body := body_of(record), Adopted):
        codec.schemas.adopt(body.schema)


def beginning(log: Log, build: Build, config: Config, after: int) -> Backfill:
    """An engine that takes the steps after ``after`` next, and knows but the schemas from before.

    Those of a registry, as far as the journal holds them: records go by their numbers.
    """
    engine = build(config)
    engine.seq = after
    for record in log.journal() if after else ():
        if record.seq > after:
            break
        adopt(engine.codec, record)
    return Backfill(scoring(engine), after)


def follow(past: Backfill, log: Log, until: int, told: Callable[[int], object]) -> None:
    """Take the journaled steps up to ``until``; ``told`` is called with the records of each.

    Changes of the configuration between them are passed over: it is the new one from the start.
    Labels of events from before the first step find none, and end as orphans.

    Raises :class:`~stream.contract.log.OutOfRetention` where a step is gone.
    """
    engine = past.engine
    journaled = steps(log, engine.seq, until, lambda: engine.codec, {})
    for record, slices in one_ahead(journaled, engine.spare):
        if record.seq != engine.seq + 1:
            raise OutOfRetention(
                f"journal: expected step {engine.seq + 1}, the oldest retained is {record.seq}"
            )
        failpoint("backfill.step")
        adopt(engine.codec, record)
        if record.kind == "step" and slices is not None:
            engine.step(Batch(record.seq, record.clock_ms, slices, frozenset(record.skipped)))
        engine.seq = record.seq
        # As a generation says it: the journal's at this step, by which the journal knows it.
        engine.digest = record.digest
        told(sum(r.count for r in record.ranges))


def save(past: Backfill, directory: StateDirectory, written_ms: int) -> None:
    """Publish a generation from which to go on."""
    snapshot = snapshot_of(past.engine, Standing(), written_ms, past.after)
    directory.publish(directory.write(snapshot), keep=1)


def saved(log: Log, directory: StateDirectory) -> Loaded | None:
    """The newest generation that verifies and that the journal knows."""
    refusal = "the journal does not hold this step with this digest"
    found = directory.usable(lambda m: None if _confirmed(m, log) else refusal)
    return next(found, None)


def restored(loaded: Loaded, build: Build, config: Config) -> Backfill:
    """The engine of a generation that was :func:`made_for` this configuration.

    Raises :class:`CheckpointError` where it cannot be restored.
    """
    engine = build(config)
    revive(engine, loaded)
    return Backfill(scoring(engine), loaded.manifest.after)


# ---------------------------------------------------------------------- at the switch


def arriving(
    log: Log,
    directory: StateDirectory,
    build: Build,
    now: Engine,
    new: Config,
    beat: Callable[[], None],
) -> Backfill | None:
    """What was prepared for the switch from ``now`` to ``new``, if anything, caught up with it.

    Raises :class:`BackfillRefused` while somebody prepares it, or for another configuration.
    """
    place = StateDirectory(directory.path / PLACE)
    if not place.listed():
        return None
    try:
        place.open()
    except Locked as error:
        raise BackfillRefused(
            f"{place.path}: `millrace backfill` is at work; start when it has caught up"
        ) from error
    try:
        loaded = saved(log, place)
        if loaded is None:
            raise BackfillRefused(
                f"{place.path}: expected what `millrace backfill` learned, got what cannot be used "
                f"(see {place.quarantine}). Run it again, or start again to let what is new begin "
                "empty"
            )
        if made_for(loaded, now.config):
            return None  # left by a switch that is over
        if not made_for(loaded, new):
            raise BackfillRefused(
                f"{place.path}: was prepared for another configuration than this one. Start with "
                "that one, or run `millrace backfill` with this one, or delete the directory to "
                "let what is new begin empty"
            )
        past = restored(loaded, build, new)
    finally:
        place.close()
    logger.info("backfill_catching_up", from_seq=past.engine.seq, to_seq=now.seq)
    try:
        follow(past, log, now.seq, lambda _: beat())
    except OutOfRetention as error:
        raise BackfillRefused(
            f"{place.path}: what was prepared ends before what the log still holds ({error}). "
            "Start with the old configuration and run `millrace backfill` again, or delete the "
            "directory to let what is new begin empty"
        ) from error
    failpoint("backfill.caught_up")
    return past


def keep(past: Backfill, directory: StateDirectory, written_ms: int) -> None:
    """Put by what the coming switch takes over from, for replays of it: before its commit."""
    snapshot = snapshot_of(past.engine, Standing(), written_ms, past.after)
    directory.enter(directory.write(snapshot))
    failpoint("backfill.kept")


def leave(directory: StateDirectory) -> None:
    """The switch is committed: what was prepared for it goes."""
    failpoint("backfill.committed")
    shutil.rmtree(directory.path / PLACE)
    failpoint("backfill.left")


def entered(
    log: Log,
    directory: StateDirectory,
    build: Build,
    beat: Callable[[], None],
    config: Config,
    after: int,
    until: int,
) -> Backfill:
    """What a journaled switch after step ``until`` took parts over from, in the same state.

    Raises :class:`CheckpointError` where it was not kept and the log no longer reaches back.
    """
    path = directory.entered / f"{until:012d}"
    try:
        manifest = read_manifest(path)
        if manifest.after == after and _confirmed(manifest, log):
            return restored(load(path, manifest), build, config)
    except CheckpointError as error:
        logger.warning("backfill_again", from_seq=after, to_seq=until, reason=str(error))
    past = beginning(log, build, config, after)
    try:
        follow(past, log, until, lambda _: beat())
    except OutOfRetention as error:
        raise CheckpointError(
            f"step {until + 1}: its new parts had learned from the steps {after + 1} to {until}; "
            f"expected what it took over in {path}, or those steps in the log, got neither "
            f"({error}). Put that directory back from a backup, or a generation of step "
            f"{until + 1} or later"
        ) from error
    return past

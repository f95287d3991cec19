"""The log's past for what is new: taught beside the running service, taken over by its next start.

Nothing is appended and no model of the service is touched: what was taught waits in a directory of
its own under ``state_dir``.
"""

from __future__ import annotations

import shutil
import time
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from models.settings import parse_duration
from stream.contract.log import Log, OutOfRetention
from stream.run.assemble import build_engine, open_log, wall_clock_ms
from stream.settings.schema import SCHEMA_TYPES, Config
from stream.settings.upgrade import recorded
from stream.state.backfill import (
    PLACE,
    BackfillRefused,
    Reach,
    beginning,
    follow,
    in_force,
    made_for,
    reach,
    restored,
    save,
    saved,
)
from stream.state.follow import Build
from stream.state.generations import CheckpointError, StateDirectory
from stream.step.backfill import Backfill
from stream.step.engine import Engine
from stream.step.reconfigure import compare
from stream.tools.progress import progress

SAVE_S = 60.0
"""How often what to go on from is saved."""
NEAR_S = 2.0
"""It has caught up when what came meanwhile took less than this: a start takes longer."""


def backfill(config: Config, at_least: str | None, console: Console) -> dict[str, Any]:
    """Teach what ``config`` adds to its shard from the log's past; the service may be running.

    1. Something is new, and the past is long enough: ``at_least`` of event time, by default the
    horizon of labels, or all there ever was. 2. An engine of ``config`` takes the journal's steps
    from the oldest one on, or from where an earlier run ended. 3. It waits in ``state_dir`` for the
    start that takes its new parts over.

    Raises :class:`~stream.state.backfill.BackfillRefused` with how far the log reaches back.
    """
    wanted_ms = _reach_ms(config, at_least)
    log = open_log(config, wall_clock_ms)
    directory = StateDirectory(config.state_dir / PLACE)

    def build(made_of: Config) -> Engine:
        return build_engine(made_of, directory.pending)

    try:
        now = recorded(in_force(log, config), f"{config.journal_topic} or {config.state_dir}")
        parts = _new_parts(now, config)
        directory.open()
        past = _begun(log, directory, config, build)
        if past is None:
            _require_schemas(log, config)
            found = reach(log, config)
            _require(found, wanted_ms, config)
            past = beginning(log, build, config, found.after)
        figures = _catch_up(past, log, directory, console)
        if not figures["scored"]:
            raise _unread(figures)
        save(past, directory, wall_clock_ms())
        past.engine.close()
        return {"parts": parts, "from_step": past.after + 1} | figures
    except OutOfRetention as error:
        _forget(directory)
        raise BackfillRefused(
            f"backfill: the log let go of steps that were to be learned ({error}). Run it again: "
            "it begins anew with the oldest that are left"
        ) from error
    finally:
        directory.close()
        log.close()


def _reach_ms(config: Config, at_least: str | None) -> int:
    try:
        return config.label.horizon if at_least is None else parse_duration(at_least)
    except ValueError as error:
        raise BackfillRefused(f"--reach: {error}, got {at_least!r}") from error


def _new_parts(now: Config, config: Config) -> list[str]:
    """What a start under ``config`` would let begin empty."""
    changes = compare(build_engine(now, None), build_engine(config, None))
    parts = changes.fresh
    if parts and not changes.from_past:
        raise BackfillRefused(
            "backfill: expected a target that is no ranking: what is new to a recommender learns "
            "as the stream goes. Start under the new configuration, or teach a new shard what was "
            "before with `millrace warm`"
        )
    if not parts:
        raise BackfillRefused(
            "backfill: expected a configuration with a member or feature that the shard does not "
            "have, got one under which every part keeps its state; start with it"
        )
    return parts


def _begun(log: Log, directory: StateDirectory, config: Config, build: Build) -> Backfill | None:
    """What an earlier run for this configuration came to; that of another one is removed."""
    loaded = saved(log, directory)
    if loaded is None:
        return None
    if made_for(loaded, config):
        try:
            return restored(loaded, build, config)
        except CheckpointError as error:
            directory.set_aside(loaded.path, str(error))
            return None
    _forget(directory)
    return None


def _require_schemas(log: Log, config: Config) -> None:
    """Refuse topics whose records name schemas, if the journal may not hold all of those."""
    formats, head = {config.event.format, config.label.format}, log.journal_head()
    if formats & SCHEMA_TYPES.keys() and head is not None and head.seq > 1:
        raise BackfillRefused(
            "backfill: expected a journal from step 1 on, for records that name schemas (formats "
            f"{', '.join(sorted(formats))}), got one from step {head.seq} on: schemas adopted "
            "before may be gone. Start; new parts learn as the stream goes"
        )


def _require(found: Reach, wanted_ms: int, config: Config) -> None:
    """Refuse a past that is too short, unless it is all there ever was."""
    reached_ms = found.last_ms - found.first_ms
    if found.events and (found.after == 0 or reached_ms >= wanted_ms):
        return
    oldest = datetime.fromtimestamp(found.first_ms / 1000, UTC).isoformat(timespec="seconds")
    since = f" to {oldest}, step {found.after + 1}" if found.events else ""
    kept = "log.retention" if config.log.type == "embedded" else "the topics' retention.ms"
    raise BackfillRefused(
        f"backfill: expected a past of {_days(wanted_ms)}; the log reaches back "
        f"{_days(reached_ms)}{since}, {found.events:,} events and {found.labels:,} labels. "
        f"Lengthen {kept} and wait, or take less with --reach, or let what is new begin empty: "
        "`millrace run` without a backfill"
    )


def _unread(figures: dict[str, Any]) -> BackfillRefused:
    """The new configuration reads no event of the past."""
    told = ", ".join(f"{n:,} {reason}" for reason, n in figures["dead_letters"].items())
    return BackfillRefused(
        f"backfill: expected past events that this configuration reads, got none; dead letters: "
        f"{told}. A field that events did not have before needs `required = false` or a `default`"
    )


def _forget(directory: StateDirectory) -> None:
    """What was learned so far goes."""
    for path in directory.listed():
        shutil.rmtree(path)


def _days(ms: int) -> str:
    return f"{ms / 86_400_000:.4g} days"


def _catch_up(
    past: Backfill, log: Log, directory: StateDirectory, console: Console
) -> dict[str, Any]:
    """Follow the journal to its end, saving now and then; what was taken, and how fast."""
    started = saved_s = time.monotonic()
    engine, first = past.engine, past.engine.seq
    taken = 0
    total = sum(r.count for record in log.journal(first) for r in record.ranges)
    with progress(console, "learning", total) as advance:

        def told(records: int) -> None:
            nonlocal taken, saved_s
            taken += records
            advance(records)
            if time.monotonic() - saved_s >= SAVE_S and engine.counts["scored"]:
                save(past, directory, wall_clock_ms())
                saved_s = time.monotonic()

        near = False
        while not near and (tail := log.journal_tail()) is not None and tail.seq > engine.seq:
            began = time.monotonic()
            follow(past, log, tail.seq, told)
            near = time.monotonic() - began < NEAR_S
    seconds = time.monotonic() - started
    return {
        "to_step": engine.seq,
        "steps": engine.seq - first,
        "records": taken,
        "seconds": round(seconds, 3),
        "records_per_s": round(taken / seconds) if seconds else 0,
        "scored": engine.counts["scored"],
        "labels_joined": engine.counts["labels.joined"],
        "learned": engine.counts["learned"],
        "dead_letters": {
            key.removeprefix("dead."): n
            for key, n in sorted(engine.counts.items())
            if key.startswith("dead.")
        },
        "failed_members": sorted(engine.ensemble.quarantined),
    }

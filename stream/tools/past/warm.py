"""History into a new shard: a file played through its engine, journaled like everything it takes.

What is learned is what ``millrace evaluate`` would have learned. Afterwards the service starts
where the file ended: input, journal, audit trail and a generation stand as if it had run all along.
Scores of history are not published: nobody waits for them.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from models.base import MillraceError
from monitoring.audit.trail import load_private_key
from stream.contract.log import Log
from stream.contract.outputs import Outputs
from stream.contract.records import Batch, NewRecord, Slice, range_of
from stream.run.assemble import build_engine, open_log, wall_clock_ms
from stream.settings.schema import Config
from stream.settings.upgrade import journaled
from stream.state.anchors import Anchors
from stream.state.follow import tell
from stream.state.generations import StateDirectory, snapshot_of
from stream.state.platform import fingerprint
from stream.state.topics import Standing, ids_of
from stream.step.engine import Engine
from stream.step.ranking.engine import RankingEngine
from stream.step.scoring import ScoringEngine, scoring
from stream.tools.evaluate import Evaluation, delay_ms, rows_of
from stream.tools.files import count_rows
from stream.tools.progress import progress
from stream.tools.ranking.evaluate import play
from stream.tools.refused import Refused


class NotNew(MillraceError):
    """The shard, or the topics it reads, hold something already."""


def warm(
    config: Config,
    data: Path,
    labels: Path | None,
    label_delay: str | None,
    batch: int,
    console: Console,
) -> dict[str, Any]:
    """Play history into the shard's own log and state; returns what ``evaluate`` returns.

    Where items are ranked, ``data`` holds interactions, and labels and their delay mean nothing.

    1. The shard must be new: no journal, no generation, empty inputs. 2. Each step's records are
    appended to the input topics, stepped, committed. 3. The state is saved as a generation.

    Raises
    ------
    NotNew
        Something is there already; nothing was written.
    MillraceError
        The topics are not in JSON, in which history would be written; or this is one of many
        processes.
    """
    _require_possible(config, labels is not None or label_delay is not None)
    delay = delay_ms(label_delay)
    key = load_private_key(config.audit.key) if config.audit.key else None
    directory = StateDirectory(config.state_dir)
    log = open_log(config, wall_clock_ms)
    directory.open()
    try:
        log.open()
        _require_new(log, directory)
        engine = build_engine(config, directory.pending, key)
        writing = _Journaling(config, engine, log, Anchors(config, key))
        if isinstance(engine, RankingEngine):
            summary = play(config, engine, data, batch, console, step=writing.step).summary
        else:
            summary = _scored(
                config, scoring(engine), data, labels, delay, batch, console, writing.step
            )
        writing.step(Batch(engine.seq + 1, engine.clock_ms, [], checkpoint=True))
        writing.anchors.close()
        written = directory.write(snapshot_of(engine, writing.standing, wall_clock_ms()))
        directory.publish(written, config.checkpoints.keep)
        engine.close()
    finally:
        log.close()
        directory.close()
    return {"data": str(data), "label_delay": label_delay} | summary


def _require_possible(config: Config, labelled: bool) -> None:
    if config.shard.role != "all":
        raise MillraceError(
            f"warm: expected shard.role = 'all', got {config.shard.role!r}: history goes through"
            " all processes of a service. Start them, and write it to their topics as producers"
            " do, each event to the partition of its entity"
        )
    if config.reco is not None and labelled:
        raise MillraceError("warm: expected no labels and no label delay where items are ranked")
    if config != config.in_json():
        raise MillraceError(
            "warm: expected event.format and label.format 'json', in which it writes to topics, "
            f"got {config.event.format!r} and {config.label.format!r}: write history there as the "
            "producers do, and start"
        )


def _scored(
    config: Config,
    engine: ScoringEngine,
    data: Path,
    labels: Path | None,
    delay: int | None,
    batch: int,
    console: Console,
    step: Callable[[Batch], Outputs],
) -> dict[str, Any]:
    """Play events and their labels."""
    files = (str(data), str(data if labels is None else labels))
    apart = None if labels is None else rows_of(config, labels)
    run = Evaluation(config, engine, delay, batch, apart, files, step)
    with Refused(config) as refused, progress(console, "playing", count_rows(data)) as done:
        return run.run(rows_of(config, data), done, None, refused)


def _require_new(log: Log, directory: StateDirectory) -> None:
    tail = log.journal_tail()
    if tail is not None or directory.listed():
        raise NotNew(
            f"warm: expected a shard that has taken nothing yet, got one "
            f"{f'at step {tail.seq}' if tail else f'with generations in {directory.path}'}; a run "
            "or another warm began it: give the configuration another name, state_dir and log, or "
            "delete this one's state and log together and begin anew"
        )
    waiting = {place: n for place, n in log.lag().items() if n}
    moved = {place: at for place, at in log.earliest().items() if at}
    for (topic, partition), n in (waiting | moved).items():
        raise NotNew(
            f"warm: expected empty input topics, got {topic}/{partition} with {n} records; history "
            "comes before the stream: warm before producers start, or into topics of another name"
        )


class _Journaling:
    """Steps an engine as the service does, on records that it appends itself."""

    def __init__(self, config: Config, engine: Engine, log: Log, anchors: Anchors) -> None:
        self.anchors = anchors
        topics = ids_of(log.topics())
        joined = [(*key, offset) for key, offset in log.earliest().items()]
        self.standing = Standing()
        tell(engine, self.standing, topics, joined)
        self._engine = engine
        self._log = log
        self._body: dict[str, Any] = {
            "fingerprint": fingerprint(),
            "version": version("millrace"),
            "config": journaled(config),
            "topics": topics,
            "joined": joined,
        }

    def step(self, batch: Batch) -> Outputs:
        """Append the batch's records, step, commit."""
        for piece in batch.slices:
            r = piece.range
            records = [NewRecord(record.key, record.value, r.partition) for record in piece.records]
            placed = [offset for _, offset in self._log.append(r.topic, records)]
            if placed != list(range(r.first, r.last + 1)):
                raise NotNew(
                    f"warm: expected {r.topic}/{r.partition} to be this command's alone, got "
                    f"offset {placed[0]} where {r.first} was next: stop its producers, begin anew"
                )
            self.standing.positions[(r.topic, r.partition)] = r.next_offset
        told = [Slice(range_of(s.records), s.records, s.ahead) for s in batch.slices]
        outputs = self._engine.step(msgspec.structs.replace(batch, slices=told))
        journal = outputs.journal
        if self._body:
            journal = msgspec.structs.replace(journal, body=journal.body | self._body)
            self._body = {}
        committed = msgspec.structs.replace(outputs, scores=[], journal=journal)
        self._log.commit(self.anchors.witnessed(committed))
        self.anchors.committed(committed)
        return outputs

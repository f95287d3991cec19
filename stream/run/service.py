"""One shard from start to stop: restore, then poll, step and commit until told to stop.

``Service.run`` is the loop, and the only writer of the engine. Beside it run the commit thread, the
checkpoint writer and whatever a :class:`Listener` starts; what one of them fails of ends the
service. Before ``run`` there is no thread, and nothing on disk is touched.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from importlib.metadata import version
from typing import Any, TypeVar

import msgspec
import structlog

from models.base import MillraceError
from monitoring.audit.trail import head_after, load_private_key
from monitoring.show.readings import Telemetry
from stream.contract.commands import WHOLE, CommandRefused, Configure, Promote
from stream.contract.failpoint import failpoint
from stream.contract.log import LogError, LogUnavailable
from stream.contract.outputs import Outputs
from stream.contract.records import Batch, Range, Slice, range_of
from stream.contract.schemas import RegistryUnavailable, Schema
from stream.encode.scores import schema_text, writer
from stream.logs.ahead import Ahead
from stream.run.assemble import build_engine, open_log, open_registry, wall_clock_ms
from stream.run.checkpointer import Checkpointer, Written
from stream.run.committer import Committer
from stream.run.health import Health
from stream.run.isolation import Isolation
from stream.run.losses import Losses
from stream.run.threads import Threads, Turns
from stream.run.topics import Topics
from stream.settings.schema import SCHEMA_TYPES, Config, KafkaLogSettings
from stream.settings.upgrade import journaled
from stream.state.anchors import Anchors
from stream.state.backfill import arriving, keep, leave
from stream.state.follow import Follower, tell
from stream.state.generations import StateDirectory
from stream.state.held import Held
from stream.state.platform import fingerprint
from stream.state.recovery import recover
from stream.state.room import free_room
from stream.step.configure import configures
from stream.step.engine import Engine, Models
from stream.step.lifecycle.promotion import exchange
from stream.step.pending.segments import Damaged
from stream.step.reconfigure import compare, reconfigure
from stream.step.roles.examples import meaning, told_meaning

T = TypeVar("T")
logger = structlog.get_logger()

IDLE_POLL_S = 0.5
HELD_POLL_S = 0.005
"""While commands wait for their models."""
LAG_S = 2.0
"""How often the distance to the log's end is asked for."""


class _GivenUp(Exception):
    """The service was asked to stop, and what it waits for does not come back."""


class ReconfigurationRefused(MillraceError):
    """The configuration changed in a way that loses state, and nobody accepted it."""


class Listener:
    """What the service tells others of; each method does nothing unless it is overridden.

    None of them may wait, or change what it is given; what one raises ends the service.
    """

    def awaited(self) -> bool:
        """Whether somebody waits for an answer (loop thread)."""
        return False

    def stepped(self, engine: Engine, outputs: Outputs, seconds: float) -> None:
        """A step was done, not yet committed (loop thread)."""

    def idle(self, engine: Engine) -> None:
        """There was nothing to take (loop thread)."""

    def committed(self, outputs: Outputs, seconds: float) -> None:
        """A step is visible (commit thread)."""

    def checkpointed(self, written: Written) -> None:
        """A generation was published (checkpoint thread)."""

    def reconfigured(self, config: Config) -> None:
        """Another configuration holds from here on; not visible yet (loop thread)."""


class Service:
    """One shard, from start to stop.

    Parameters
    ----------
    config : Config
    accept_changes : bool
        Let a changed configuration drop the state of parts it changed.
    clock_ms : callable
        The clock that steps are stamped with; injected by tests.

    Attributes
    ----------
    health : Health
        What it says of itself (any thread).
    engine : Engine or None
        Whoever has the turn may touch it; None until it is restored.
    recovered : Follower or None
        What the newest restoration took.
    lag : dict
        Records not yet polled, by input partition; asked for every :data:`LAG_S`.
    busy : bool
        Whether a step or its commit is under way.
    threads : Threads
        For what runs beside the service: a failure there ends it.
    turns : Turns
        The loop's, and between two of its steps whoever asks.
    listeners : list of Listener
        Complete before :meth:`run`, or of those that may begin in the middle.
    """

    def __init__(
        self,
        config: Config,
        accept_changes: bool = False,
        clock_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self.config = config
        self._accept_changes = accept_changes
        self._clock_ms = clock_ms
        self._key = load_private_key(config.audit.key) if config.audit.key else None
        self.directory = StateDirectory(config.state_dir)
        log = config.log
        self.health = Health(log.bootstrap if isinstance(log, KafkaLogSettings) else str(log.path))
        self.threads = Threads(self.stop)
        self.turns = Turns()
        self.listeners: list[Listener] = []
        self.log = open_log(config, clock_ms)
        self.registry = open_registry(config)
        self._ahead = Ahead(self.log)
        self.stopping = threading.Event()
        self.engine: Engine | None = None
        self.recovered: Follower | None = None
        self.committer = Committer(self.log, self.health, self._written, self._committed)
        self.checkpointer = Checkpointer(
            config, self.directory, self.committer, self.log, clock_ms, self._checkpointed
        )
        self.anchors = Anchors(config, self._key)
        self.isolation = Isolation()
        self._held = Held(self.directory.artefacts, self.checkpointer.unsaved)
        self.lag: dict[tuple[str, int], int] = {}
        self.busy = False
        self._lag_s = 0.0
        self._kept: Engine | None = None  # whose challenger could not take its place
        self._body: dict[str, object] = {
            "fingerprint": fingerprint(),
            "version": version("millrace"),
        }
        self._losses = Losses(config)
        self.topics = Topics(config, self.log, accept_changes, self.stopping)

    def beat(self) -> None:
        """The loop is alive; raises what a thread beside it failed of, or to end a vain wait."""
        self.health.beat()
        self.threads.check()
        if self.health.state == "running":
            self.topics.check()
        if self.health.given_up():
            raise _GivenUp

    # ------------------------------------------------------------------ the run

    def run(self) -> None:
        """Start, step until stopped, drain.

        Raises the error that ended it: :class:`~stream.contract.log.Fenced`,
        :class:`~stream.state.follow.Diverged`, :class:`BreakerOpen`, ... or that of a thread.
        """
        with (
            ExitStack() as ending
        ):  # whatever ended it, and whatever fails at the end: last to first
            ending.callback(self.directory.close)
            ending.callback(self._let_go)
            ending.callback(self.registry.close)
            ending.callback(self.log.close)
            ending.callback(self._ahead.close)
            ending.callback(self._held.close)
            ending.callback(self.anchors.close)
            ending.callback(self.checkpointer.close)
            ending.callback(self.committer.close)  # first: a checkpoint waits for its commit
            ending.callback(self.turns.end)
            ending.callback(self._stopped)
            try:
                if self._start():
                    for listener in self.listeners:  # whoever finds it ready reads what it is
                        listener.idle(self._engine())
                    self.health.state = "running"
                    self._loop()
                    self.threads.check()
                    self._drain()
            except _GivenUp:
                logger.warning("stopped_early", waiting_for=self.health.ready()[1])
            except LogError as error:
                raise self._topics_end(error) from error
            self.threads.check()
            self.isolation.stopped()

    def _topics_end(self, error: LogError) -> LogError:
        """What to end with: if other topics are the cause, that, with the state saved."""
        cause = self.topics.cause_of(error) if self.health.state == "running" else None
        if cause is not None:
            self.stop()
            with suppress(LogError, _GivenUp):
                self._drain()
                self.isolation.stopped()
        return cause or error

    def _stopped(self) -> None:
        self.health.state = "stopped"
        self.stopping.set()

    def _let_go(self) -> None:
        if self.engine is not None:
            self.engine.close()

    def stop(self) -> None:
        """Ask the loop to finish its step, commit, checkpoint and end (any thread)."""
        self.health.asked()
        self.stopping.set()
        self.log.wake()

    def _start(self) -> bool:
        """Take the directory, open the log (for as long as it takes), restore.

        ``False`` when stopped meanwhile.
        """
        self.health.state = "connecting"
        self.directory.open()
        self.anchors.open()
        self.committer.start(self.threads)
        self.checkpointer.start(self.threads)
        if not self._patiently("open", self.log.open):
            return False
        if not self._patiently("schema of scores", self._register):
            return False
        self.health.state = "restoring"
        return self._patiently("restore", self._restore)

    def _patiently(self, what: str, operation: Callable[[], object]) -> bool:
        """Retry while log or registry is away; ``False`` when asked to stop meanwhile."""
        backoff = 0.2
        while not self.stopping.is_set():
            try:
                with self.health.calling(what):
                    operation()
                return True
            except (LogUnavailable, RegistryUnavailable) as error:
                away = "log" if isinstance(error, LogUnavailable) else "registry"
                logger.warning(f"{away}_unavailable", error=str(error), retry_s=backoff)
                self.stopping.wait(backoff)
                backoff = min(backoff * 2, 5.0)
                self.beat()
        return False

    def _restore(self) -> None:
        first = self.recovered is None
        if self.engine is not None:
            self.engine.close()
            self.engine = None
        recovered = recover(
            *(self.log, self.directory, self.config, self._build, self.beat),
            accept=self._accept_changes,
        )
        self.engine = recovered.engine
        self.recovered = recovered
        self._tell(self.topics.restored(recovered.standing))
        if recovered.skipped_steps:
            self._body |= self._without(recovered.skipped_steps)
        self._seek(self.topics.standing.positions)
        self.committer.restored(self.engine.seq)
        self.checkpointer.restored(recovered)
        if first:
            self.isolation.started(self.directory.path, self.engine.seq)
        logger.info(
            "restored",
            seq=self.engine.seq,
            from_checkpoint=recovered.from_seq,
            replayed_steps=recovered.replayed_steps,
            replayed_records=recovered.replayed_records,
            seconds=round(recovered.seconds, 3),
        )
        self._reconfigure_if_changed()
        if "joined" in self._body and self._engine().seq > 0:
            self._take([])  # on record before anything of them is read

    def _tell(self, body: dict[str, Any]) -> None:
        """Let the next journal record say this of the topics."""
        tell(self._engine(), self.topics.standing, body["topics"], body.get("joined", ()))
        self._body |= body

    def _without(self, steps: int) -> dict[str, object]:
        """Go on without steps whose records are gone; what the journal must say of it."""
        engine = self._engine()
        own = engine.config.name.encode()
        newest = self.log.tail(self.config.topics.audit, 1000)
        heads = [head_after(r.value or b"") for r in newest if r.key == own]
        head = max(heads, key=lambda h: h.seq, default=engine.trail.head())
        engine.trail.go_on(head)
        logger.warning("steps_left_out", first=engine.seq - steps + 1, last=engine.seq)
        return {"resumed": head}

    def _seek(self, positions: dict[tuple[str, int], int]) -> None:
        """Go on at these positions; those of topics that were renamed are only remembered."""
        topics, reads = self.config.inputs, self.config.reads
        self._held.forget()
        self.log.seek({k: at for k, at in positions.items() if k[0] in topics and reads(*k)})

    def _reconfigure_if_changed(self) -> None:
        """Switch to the new configuration by a journaled record, once the old one has replayed."""
        engine = self._engine()
        if engine.seq == 0 or journaled(engine.config) == journaled(self.config):
            engine.config = self.config
            return
        fresh = self._build(self.config)
        changes, past = compare(engine, fresh), None
        if changes.fresh:
            past = arriving(self.log, self.directory, self._build, engine, self.config, self.beat)
        if past is not None:
            changes = compare(engine, fresh, past.engine)
        unread = self._left_unread(engine.config)
        told = [*changes.lines(), *unread]
        if (changes.lost or unread) and not self._accept_changes:
            taught = changes.fresh and changes.from_past
            first = " to teach what is new first (`millrace backfill`)" if taught else ""
            raise ReconfigurationRefused(
                "the configuration changed and state or input would be lost:\n"
                + "\n".join(f"  {line}" for line in told)
                + f"\nstart again with --accept-changes, or with the old configuration{first}"
            )
        if past is not None:
            keep(past, self.directory, self._clock_ms())
        outputs = reconfigure(engine, fresh, journaled(self.config), past)
        engine.close()
        self.engine = fresh
        for line in told:
            logger.info("reconfigured", part=line)
        self._commit(outputs)
        if past is not None:
            past.engine.close()
            self.committer.wait(self.beat)
            leave(self.directory)
            fresh.checkpoint_wanted = True  # a start need not learn the past again

    def _left_unread(self, before: Config) -> list[str]:
        """Records of inputs that the configuration no longer names, or that mean nothing under it:
        other processes of the service made them under the old one."""
        config, now = self.config, self.topics.standing.positions
        left = {*before.inputs}.difference(config.inputs)
        foreign = {
            *([config.examples_topic] if meaning(before) != meaning(config) else []),
            *(config.told_topics if told_meaning(before) != told_meaning(config) else []),
        }
        first = {key: at for key, at in now.items() if key[0] in left}
        second = {key: at for key, at in now.items() if key[0] in foreign - left}
        return [
            f"stays unread: {count} offsets of {topic}/{partition}; run under the old {what}, or"
            " let them go"
            for positions, what in (
                (first, "name until it has caught up"),
                (second, "file until it has caught up, while scorers are stopped"),
            )
            for (topic, partition), count in self.log.unread(positions).items()
        ]

    def ask(self, question: Callable[[Engine], T], timeout_s: float) -> T:
        """What ``question``, which changes nothing, gives of the engine between two steps.

        Any other thread. Raises :class:`TimeoutError`, or
        :class:`~stream.run.threads.NoTurn` once the service ends.
        """
        return self.turns.ask(lambda: question(self._engine()), timeout_s)

    def on_record(self, seq: int, timeout_s: float) -> bool:
        """Whether the journal holds step ``seq`` by then (any thread)."""
        return self.committer.wait_for(seq, timeout_s)

    def tell(self, telemetry: Telemetry) -> None:
        """Numbers of its own, for a scrape (any thread)."""
        telemetry.checkpoint_failures = self.checkpointer.failures_total
        telemetry.retention_margin_s = self.topics.margin_s
        others = self.topics.others
        telemetry.other_writers = math.nan if others is None else len(others)

    def _build(self, config: Config) -> Engine:
        return build_engine(config, self.directory.pending, self._key)

    def _engine(self) -> Engine:
        if self.engine is None:
            raise MillraceError("service: the engine is not restored yet; wait for /readyz")
        return self.engine

    def _loop(self) -> None:
        self.topics.start(self.threads)
        while not self.stopping.is_set():
            self.beat()
            self._join_partitions()
            if not self._ahead.backlog:
                # Polled now, records would only wait for the commit under way; so later ones join
                # them. With 1,000 events/s on Kafka p50 was 35 ms the other way, 21 ms this way.
                with self.turns.waiting():
                    self.committer.wait(self.beat)
            if self.checkpointer.put_off and not self._awaited():
                self._take([], checkpoint=True)
            if slices := self._coming():
                self.busy = True
                if self._adopt(slices):
                    for part in self._apart(slices):
                        if not self._take(part):
                            break
            else:
                self._idle()
            self._losses.tell()
            self.health.shared = self.topics.shared
            self._measure_lag()

    def _awaited(self) -> bool:
        return any(listener.awaited() for listener in self.listeners)

    def _join_partitions(self) -> None:
        """Read partitions that were added from here on."""
        if told := self.topics.news():
            self._tell(told)
            self._take([])  # on record before anything of them is read
            self._ahead.forget()
            behind = self.isolation.behind(self.topics.standing.positions)
            self._patiently("seek", lambda: self._seek(behind))

    def _idle(self) -> None:
        self.busy = self.committer.busy or bool(self._held)
        for listener in self.listeners:
            listener.idle(self._engine())
        if self.checkpointer.due(self._engine(), 0):
            self._take([], checkpoint=True)

    def _measure_lag(self) -> None:
        now = time.monotonic()
        if now - self._lag_s >= LAG_S:
            self._lag_s = now
            with suppress(LogUnavailable), self.health.calling("lag"):
                self.lag = self.log.lag()

    def _coming(self) -> list[Slice]:
        """What to take next: what must be taken again first."""
        if (again := self.isolation.next()) is not None:
            return again
        with self.turns.waiting():
            slices = self._poll()
        return slices if self.isolation.careful else self._held.sift(self._engine(), slices)

    def _poll(self) -> list[Slice]:
        try:
            limit = self.checkpointer.most_records(self.config.step_records, self._awaited())
            limit = 1 if self.isolation.careful else limit
            with self.health.calling("poll"):
                wait_s = HELD_POLL_S if self._held else IDLE_POLL_S
                engine = self._engine()
                return self._ahead.poll(limit, wait_s, engine.codec.ahead, engine.spare)
        except LogUnavailable as error:
            logger.warning("poll_failed", error=str(error))
            self.stopping.wait(0.5)
            return []

    def _adopt(self, slices: list[Slice]) -> bool:
        """Take in the schemas that the records name, as far as the registry has them.

        ``False`` when asked to stop meanwhile: the records must not be taken.
        """
        for number in self._engine().codec.unknown(slices):
            self.beat()
            found: dict[int, Schema | None] = {}
            if not self._patiently(f"schema {number}", partial(self._ask, number, found)):
                return False
            if (schema := found[number]) is not None:
                self._commit(self._engine().adopt(schema, self._clock_ms()))
        return True

    def _ask(self, number: int, found: dict[int, Schema | None]) -> None:
        found[number] = self.registry.schema(number)

    def _apart(self, slices: list[Slice]) -> list[list[Slice]]:
        """A command that puts models in place is a step of its own: what it names is had before.
        So is one that asks for another configuration."""
        engine, topic = self._engine(), self.config.topics.control
        control = [piece for piece in slices if piece.range.topic == topic]
        rest = [piece for piece in slices if piece.range.topic != topic]
        each = [[Slice(range_of([r]), [r])] for piece in control for r in piece.records]
        if not any(configures(engine, one) for one in each) and not engine.wanted(control):
            return [slices]
        return [*each, rest] if rest else each

    def _models(self, slices: list[Slice]) -> Models:
        """The models that the commands among the records put in place."""
        engine = self._engine()
        return self._held.models(engine, slices) if engine.wanted(slices) else {}

    def _take(self, slices: list[Slice], checkpoint: bool = False) -> bool:
        """One step: compute, hand over to the commit thread, snapshot when due.

        ``False`` where it failed: its records, and those polled after them, come again.
        """
        engine = self._engine()
        started = time.monotonic()
        records = sum(len(s.records) for s in slices)
        checkpoint = checkpoint or self.checkpointer.due(engine, records, self._awaited())
        if self.isolation.careful:
            self.committer.wait(self.beat)
        skipped = self.isolation.taking(slices, engine.seq)
        if not skipped and (command := configures(engine, slices)) is not None:
            if engine.seq == 0:
                self._take([])  # under what the shard began is on record first
            models = self._models(slices)
            with suppress(CommandRefused):  # the step's dead letter says so
                return self._configure(engine.admit(command, models), slices, models)
        if engine.promotes and engine is not self._kept:
            try:
                self._configure(engine.admit(Promote(member=WHOLE)), [])
            except CommandRefused as error:
                self._kept = engine  # told once; another configuration is asked again
                logger.error("promotion_refused", member=WHOLE, error=str(error), exc_info=True)
            engine = self._engine()
        models = self._models(slices)
        batch = Batch(
            *(engine.seq + 1, self._clock_ms(), slices, skipped, checkpoint, self._room(), models),
            self._quiet(slices),
        )
        try:
            failpoint("step.before")
            outputs = engine.step(batch)
            failpoint("step.after")
        except Exception as error:  # noqa: BLE001 - any defect of a part: isolate the record
            self._isolate(slices, error)
            return False
        seconds = time.monotonic() - started
        let_go = engine.counts["pending.evicted"]
        self.health.amiss = self._losses.taken(outputs, let_go, engine.watermark_ms)
        self._losses.refused(engine.auditor.refused())
        self._commit(outputs)
        for r in outputs.journal.ranges:
            self.topics.standing.positions[(r.topic, r.partition)] = r.next_offset
        for listener in self.listeners:
            listener.stepped(engine, outputs, seconds)
        self.checkpointer.stepped(seconds, 0 if checkpoint else records)
        if checkpoint:
            self.checkpointer.snapshot(engine, self.topics.standing)
        return True

    def _configure(self, new: Engine, slices: list[Slice], models: Models | None = None) -> bool:
        """Go on with a new engine, by a step that is the command alone; ``False`` as of a step.

        Without one what challenges the ensemble takes its place, as it has proved better; raises
        :class:`CommandRefused` where it cannot.
        """
        engine, started = self._engine(), time.monotonic()
        asked = slices[0] if slices else None
        try:
            failpoint("configure.before")
            if asked and isinstance(engine.codec.command(asked.records[0]), Configure):
                outputs = reconfigure(engine, new, new.tree, asked=asked)
            else:
                outputs = exchange(engine, new, new.tree, asked, models)
            failpoint("configure.after")
        except Exception as error:
            new.close()
            if asked is None:  # no record's doing, and nothing has changed
                raise CommandRefused(f"the switch failed: {error!r}") from error
            self._isolate(slices, error)
            return False
        engine.close()
        self.engine, self.config = new, new.config
        for listener in self.listeners:
            listener.reconfigured(self.config)
        self._commit(outputs)
        for r in outputs.journal.ranges:
            self.topics.standing.positions[(r.topic, r.partition)] = r.next_offset
        seconds = time.monotonic() - started
        logger.info("configured", seq=new.seq, seconds=round(seconds, 3))
        for listener in self.listeners:
            listener.stepped(new, outputs, seconds)
        self.checkpointer.stepped(seconds, 1)
        return True

    def _quiet(self, slices: list[Slice]) -> bool:
        """Whether no event is there for a scorer whose silence others wait upon."""
        events = self.config.topics.events
        if not (self.config.shared_entities or self.config.routed) or self._ahead.backlog:
            return False
        if any(piece.range.topic == events for piece in slices):
            return False
        with suppress(LogUnavailable):
            return not any(n for (topic, _), n in self.log.lag().items() if topic == events)
        return False

    def _room(self) -> int:
        """How many events may wait for a label, where nobody has said so yet; else 0."""
        pending = self._engine().pending
        if not pending.open:
            return 0
        free = free_room(self.directory.path, pending.dtype.itemsize)
        return max(free, self.config.limits.batch)

    def _commit(self, outputs: Outputs) -> None:
        if self._body:
            # What ran, and where, for the records to come; the very first tells under what, too.
            journal = outputs.journal
            if journal.seq == 1:
                self._body["config"] = journaled(self.config)
            journal = msgspec.structs.replace(journal, body=journal.body | self._body)
            outputs = msgspec.structs.replace(outputs, journal=journal)
            self._body = {}
        self.committer.submit(outputs, self.beat)

    def _register(self) -> None:
        """Scores are written from here on, by the schema that the registry has or takes."""
        kind, number = self.config.scores.format, 0
        if kind in SCHEMA_TYPES:
            subject = f"{self.config.topics.scores}-value"
            schema = schema_text(kind, self.config.target.type)
            number = self.registry.register(subject, SCHEMA_TYPES[kind], schema)
        self._write = writer(self.config, number)

    def _written(self, outputs: Outputs) -> Outputs:
        return self._write(self.anchors.witnessed(outputs))

    def _committed(self, outputs: Outputs, seconds: float) -> None:
        self.isolation.committed(outputs.journal.seq, self.config.limits.batch)
        self.anchors.committed(outputs)
        for listener in self.listeners:
            listener.committed(outputs, seconds)

    def _checkpointed(self, written: Written) -> None:
        for listener in self.listeners:
            listener.checkpointed(written)

    def _drain(self) -> None:
        """Finish what is under way, save the state."""
        self.health.state = "stopping"
        failpoint("stop.before")
        self.committer.wait(self.beat)
        self.checkpointer.wait()
        if self.checkpointer.behind(self._engine()):
            self._take([], checkpoint=True)
            self.committer.wait(self.beat)
            self.checkpointer.wait()
        failpoint("stop.after")

    # ------------------------------------------------------------------ what goes wrong

    def _isolate(self, slices: list[Slice], error: Exception) -> None:
        """A step failed: go back to what was committed, and take its records in smaller steps."""
        count = sum(len(s.records) for s in slices)
        where = ", ".join(_name(s.range) for s in slices)
        logger.error("step_failed", records=count, ranges=where, error=repr(error), exc_info=error)
        if isinstance(error, Damaged):
            self.directory.distrust(error)
        elif count == 0:
            raise error  # no record's doing
        self.committer.wait(self.beat)
        self._ahead.forget()
        self._restore()
        if not isinstance(error, Damaged):
            self.isolation.failed(slices)
        self._seek(self.isolation.behind(self.topics.standing.positions))


def _name(r: Range) -> str:
    return f"{r.topic}/{r.partition}@{r.first}..{r.last}"

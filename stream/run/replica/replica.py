"""Follows a running service by its journal: does each step again, compares it, and answers reads.

It begins at a checkpoint that the journal vouches for, and takes the very records that each step
took, from the service's log. So it knows what the service knew, a moment later, and nothing more:
it stands at a journaled step at any time. It never commits or appends, and never writes to the
service's log or ``state_dir``; what it keeps stands in a directory of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import structlog

from models.base import MillraceError
from monitoring.show.readings import Progress, Telemetry
from stream.contract.log import LogUnavailable, OtherRecords
from stream.contract.records import JournalRecord, Slice
from stream.logs.ahead import one_ahead
from stream.run.assemble import build_engine, open_log, wall_clock_ms
from stream.run.health import Health
from stream.run.service import Listener
from stream.run.threads import NoTurn, Threads, Turns
from stream.settings.schema import Config, KafkaLogSettings
from stream.state.follow import Diverged, Follower, steps
from stream.state.generations import StateDirectory
from stream.state.recovery import OUT_OF_REACH, load
from stream.step.engine import Engine

T = TypeVar("T")
logger = structlog.get_logger()

LOOK_S = 0.05
"""How often it looks for new steps once it has done all; a look takes .1 ms on the embedded log."""
RETRY_S, PATIENCE_S = 0.2, 5.0
"""How long it waits where it cannot go on now: at first, and at most."""
PASS = 1_000
"""Steps that are followed before the journal's end is looked for again."""
OWN = ("state_dir", "log", "registry", "http", "audit")
"""Sections of the configuration that are the replica's, whatever the service goes on under."""


class OtherCode(MillraceError):
    """The service runs other code than its replica."""


class Replica:
    """A replica of one service, from start to stop.

    Parameters
    ----------
    config : Config
        The service's, but for ``http``.
    directory : Path
        For working files: its own, no other process's.

    Attributes
    ----------
    config : Config
        What the newest step ran under.
    health, threads, turns, listeners, recovered, lag, log
        As of :class:`~stream.run.service.Service`. Listeners are told of a step once it is proved.
    progress : Progress
        How far it is (any thread).
    waits_for : str
        Why it cannot go on from where it was; empty while it does.
    """

    def __init__(self, config: Config, directory: Path) -> None:
        if directory.resolve().is_relative_to(config.state_dir.resolve()):
            raise MillraceError(
                f"{directory}: expected a directory of the replica's own, got one in the service's"
                f" state_dir, {config.state_dir}"
            )
        self.config = config
        # An operator may let a start go on with other bits; a replica proves that there are none.
        strict = config.checkpoints.model_copy(update={"on_divergence": "stop"})
        self._given = config.model_copy(update={"checkpoints": strict})
        self.directory = StateDirectory(directory, config.state_dir)
        log = config.log
        self.health = Health(log.bootstrap if isinstance(log, KafkaLogSettings) else str(log.path))
        self.threads = Threads(self.stop)
        self.turns = Turns()
        self.listeners: list[Listener] = []
        self.log = open_log(config, wall_clock_ms, read_only=True)
        self.stopping = threading.Event()
        self.recovered: Follower | None = None
        self.lag: dict[tuple[str, int], int] = {}
        self.waits_for = ""
        self._retry_s = RETRY_S
        self._progress = Progress()
        self._level_s = time.monotonic()

    @property
    def progress(self) -> Progress:
        """How far it is, at this moment."""
        lag_s = time.monotonic() - self._level_s
        return replace(self._progress, lag_s=lag_s)

    def beat(self) -> None:
        """The loop is alive; raises what a thread beside it failed of."""
        self.health.beat()
        self.threads.check()

    def stop(self) -> None:
        """Ask the loop to end (any thread)."""
        self.health.asked()
        self.stopping.set()
        self.log.wake()

    def ask(self, question: Callable[[Engine], T], timeout_s: float) -> T:
        """What ``question``, which changes nothing, gives of the engine between two steps.

        Any other thread. Raises :class:`TimeoutError`, or :class:`~stream.run.threads.NoTurn`
        where there is no proved state.
        """
        return self.turns.ask(lambda: question(self._proved()), timeout_s)

    def on_record(self, seq: int, timeout_s: float) -> bool:
        """Always: a step is done again because the journal holds it."""
        return True

    def tell(self, telemetry: Telemetry) -> None:
        """It commits nothing and writes no checkpoint: there is nothing to tell."""

    def _proved(self) -> Engine:
        if self.recovered is None or self.health.state != "running":
            raise NoTurn
        return self.recovered.engine

    # ------------------------------------------------------------------ the run

    def run(self) -> None:
        """Follow until stopped; raises the error that ended it.

        After a divergence it goes on only to say so, until it is stopped, and raises it then.
        """
        with ExitStack() as ending:  # last to first
            ending.callback(self.directory.close)
            ending.callback(self._let_go)
            ending.callback(self.log.close)
            ending.callback(self.turns.end)
            ending.callback(self._stopped)
            self.directory.open()
            self.health.state = "connecting"
            try:
                while not self.stopping.is_set():
                    self._turn()
            except (Diverged, OtherRecords) as error:
                self._say_so(error)
                raise
            self.threads.check()

    def _stopped(self) -> None:
        self.health.state = "stopped"
        self.stopping.set()

    def _let_go(self) -> None:
        if self.recovered is not None:
            self.recovered.engine.close()
            self.recovered = None

    def _turn(self) -> None:
        """Go on as far as the journal does, then let others ask for a while."""
        self.beat()
        pause_s = LOOK_S
        try:
            if self.recovered is None:
                self._begin()
                pause_s = 0.0
            elif self._follow(self.recovered):
                pause_s = 0.0
        except LogUnavailable as error:
            pause_s = self._retry_s
            logger.warning("log_unavailable", error=str(error), retry_s=pause_s)
            self._retry_s = min(2 * pause_s, PATIENCE_S)
        except OUT_OF_REACH as error:
            pause_s = self._retry_s
            logger.warning("starts_again", reason=str(error), retry_s=pause_s)
            self._retry_s = min(2 * pause_s, PATIENCE_S)
            self.health.state, self.waits_for = "restoring", str(error)
            self._let_go()
        with self.turns.waiting():
            self.stopping.wait(pause_s)

    def _begin(self) -> None:
        """Load the newest checkpoint that the journal knows."""
        with self.health.calling("restore"):
            if self.log.journal_head() is None:
                raise LogUnavailable(f"{self.config.journal_topic}: the service took no step yet")
            self.health.state = "restoring"
            build = self._build
            self.recovered = load(self.log, self.directory, self._given, build, self.beat)
        self.waits_for = ""
        self._under(self.recovered.engine)
        seq, starts = self.recovered.engine.seq, self._progress.starts + 1
        self._progress = replace(self._progress, verified_seq=seq, starts=starts)
        logger.info("begun", seq=seq, from_checkpoint=self.recovered.loaded is not None)

    def _build(self, config: Config) -> Engine:
        return build_engine(config, self.directory.pending)

    def _follow(self, follower: Follower) -> bool:
        """Do journaled steps again, :data:`PASS` at most; whether there may be more."""
        with self.health.calling("journal"):
            tail = self.log.journal_tail()
            if tail is None:
                raise LogUnavailable(f"{self.config.journal_topic}: holds no step now")
        seq, newest = follower.engine.seq, tail.seq
        if newest < seq:
            raise Diverged(
                f"journal: expected step {seq}, which was done again, got {newest} as the newest:"
                " the log is another one now, or an older one was put back"
            )
        self._progress = replace(self._progress, journal_seq=newest)
        if newest == seq and self.health.state == "running":
            self._at_end(follower.engine)
            return False
        if newest > seq:
            ids, until = dict(follower.standing.ids), min(newest, seq + PASS)
            read = steps(self.log, seq, until, lambda: follower.engine.codec, ids)
            for record, slices in one_ahead(read, lambda job: follower.engine.spare(job)):
                self._step(follower, record, slices)
                self.beat()
                if self.stopping.is_set():
                    return False
                if self.turns.asked:
                    with self.turns.waiting():
                        pass
        if follower.engine.seq < newest:
            return True
        self._level(follower)
        return False

    def _level(self, follower: Follower) -> None:
        """All steps are done: it may serve, if the service's code is what runs here."""
        if other := follower.foreign():
            raise OtherCode(
                f"step {follower.engine.seq} was made by other code ({other}): start the replica"
                " with what the service runs"
            )
        if self.health.state != "running":
            self.health.state = "running"
            logger.info("level", seq=follower.engine.seq, replayed_steps=follower.replayed_steps)
        self._at_end(follower.engine)

    def _at_end(self, engine: Engine) -> None:
        self._level_s, self._retry_s = time.monotonic(), RETRY_S
        for listener in self.listeners:
            listener.idle(engine)

    def _step(
        self, follower: Follower, record: JournalRecord, slices: Sequence[Slice] | None
    ) -> None:
        """Do one step again, and tell of it once it is proved."""
        before, started = follower.engine, time.monotonic()
        if slices is None:
            follower.skip(record)
            return
        try:
            outputs = follower.apply(record, slices)
        except (MillraceError, OSError):
            raise
        except Exception as error:  # the service took it
            raise Diverged(f"step {record.seq}: failed in the replica: {error!r}") from error
        _compare(record, outputs.journal, follower)
        self._progress = replace(self._progress, verified_seq=record.seq)
        if follower.engine is not before:
            self._under(follower.engine)
        if record.checkpoint:
            named = follower.engine.ledger.digests()
            self.directory.artefacts.prune(named, wall_clock_ms())
        for listener in self.listeners:
            listener.stepped(follower.engine, outputs, time.monotonic() - started)
            listener.committed(outputs, 0.0)

    def _under(self, engine: Engine) -> None:
        """Another configuration holds from here on."""
        own = {name: getattr(self._given, name) for name in OWN}
        self.config = engine.config.model_copy(update=own)
        for listener in self.listeners:
            listener.reconfigured(self.config)

    # ------------------------------------------------------------------ what goes wrong

    def _say_so(self, error: MillraceError) -> None:
        """Nothing is answered from here on but that, so that probes and alerts see it."""
        self.health.state = "diverged"
        self._progress = replace(self._progress, diverged=str(error))
        logger.critical("replica_diverged", error=str(error), next_step="see docs/replica.md")
        with self.turns.waiting():
            while not self.stopping.wait(PATIENCE_S):
                self.beat()


def _compare(record: JournalRecord, made: JournalRecord, follower: Follower) -> None:
    """Raise :class:`Diverged` for what a step made that is not what the journal holds of it.

    Its digest is over what it put out, ``contents`` are the parts of a state that was saved. Other
    code, which made steps before an upgrade, may have said less than this one, or more.
    """
    for name in record.__struct_fields__:
        then, now = getattr(record, name), getattr(made, name)
        if name == "body" or then == now:  # the body says what a process is, too
            continue
        if name == "digest" or not follower.foreign():
            differs = ", ".join(sorted(follower.elsewhere))
            raise Diverged(
                f"step {record.seq}: {name}: expected {then}, as the journal holds it, got {now}"
                + (f"; differs here: {differs}" if differs else "")
            )

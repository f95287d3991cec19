"""When a checkpoint falls due, and the thread that writes it.

One falls due by time, on command, and when replaying the steps since the last one would take longer
than ``checkpoints.recovery_budget`` at their measured cost: recovery time is bounded whatever the
members cost. The loop thread only takes the snapshot; writing, syncing and hashing happen beside
it, and a generation is published only once the commit of its step is visible.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import structlog

from models.base import MillraceError, State
from models.settings import parse_duration
from stream.contract.failpoint import failpoint
from stream.contract.log import Log, LogError
from stream.run.committer import Committer
from stream.run.threads import Threads
from stream.settings.schema import Config
from stream.state.follow import Follower
from stream.state.generations import (
    Snapshot,
    StateDirectory,
    list_generations,
    read_manifest,
    snapshot_of,
)
from stream.state.topics import Standing
from stream.step.engine import Engine
from stream.step.pending.segments import Damaged

logger = structlog.get_logger()

_BUDGET_SHARE = 0.75  # of the recovery budget: the rest is for loading the generation itself
_STEP_SHARE = 0.25  # of that: what one step may take, since it is replayed whole
_FIRST_RECORDS = 256
"""Records of a step whose cost nobody has measured yet."""
SPARE_MS = parse_duration("7d")
"""For how long an artefact stays that nobody names: one from elsewhere may be installed yet."""
PROMPT_S = 0.01
"""What a step may take while somebody waits for an answer: his stands behind what came before it,
and leaves with all that came after it and is in the same step."""
_LEAST = 16
"""Records that it takes in any case, or small steps would do little but commit."""
PUT_OFF_S = 1.0
"""For so long a snapshot is put off while somebody waits: most answers are given within a tenth of
that, and the digest of 20 MB stops the loop for longer than an answer takes."""
_ENOUGH = 64
"""A step of fewer records tells of its overhead, not of what a record costs."""


class Written(NamedTuple):
    """A generation that was published ``at_ms``.

    ``snapshot_s``: what its snapshot took in the loop, ``write_s``: what the rest took beside it.
    """

    at_ms: int
    bytes: int
    snapshot_s: float
    write_s: float


class Checkpointer:
    """Keeps a shard's generations fresh.

    Attributes
    ----------
    written_total, failures_total : int
    replay_s : float
        What a replay of the steps since the last snapshot would take.
    """

    def __init__(
        self,
        config: Config,
        directory: StateDirectory,
        committer: Committer,
        log: Log,
        clock_ms: Callable[[], int],
        on_written: Callable[[Written], None],
    ) -> None:
        self._config = config
        self._directory = directory
        self._committer = committer
        self._log = log
        self._clock_ms = clock_ms
        self._on_written = on_written
        self._budget_s = config.checkpoints.recovery_budget / 1000 * _BUDGET_SHARE
        self._interval_s = config.checkpoints.interval / 1000
        self._condition = threading.Condition()
        self._work: Snapshot | None = None
        self._versions: dict[str, Callable[[], State]] = {}  # the writer's, not saved yet
        self._closing = False
        self._last_s = time.monotonic()
        self._last_seq = 0
        self._put_off_s = math.inf  # since when it is put off
        self.replay_s = 0.0
        self._record_s = 0.0
        self.written_total = 0
        self.failures_total = 0
        self._write_s = 0.0
        self._snapshot_s = 0.0
        self._thread: threading.Thread | None = None

    def start(self, threads: Threads) -> None:
        """Begin to write."""
        self._thread = threads.start("checkpoint", self._run)

    def restored(self, recovered: Follower) -> None:
        """Replaying to here took this long: it counts towards the next one."""
        self._last_seq = recovered.from_seq
        self._last_s = time.monotonic()
        self._put_off_s = math.inf
        self.replay_s = recovered.seconds if recovered.replayed_steps else 0.0

    def due(self, engine: Engine, records: int, awaited: bool = False) -> bool:
        """Whether to snapshot after the coming step, which takes ``records`` records (loop thread).

        Asked before the step, so that it can put the digests of its members on record; a step
        without records is worth taking where this is true. ``awaited``: somebody waits for an
        answer. Then it is put off (:attr:`put_off`), unless that was for :data:`PUT_OFF_S`.
        """
        due = engine.checkpoint_wanted or (
            (records > 0 or self.behind(engine))
            and (
                time.monotonic() - self._last_s >= self._interval_s
                or self.replay_s >= max(self._budget_s - self._write_s, self._budget_s / 4)
            )
        )
        if not (due and self._idle() and engine.ledger.settled):
            return False
        if awaited:
            self._put_off_s = min(self._put_off_s, time.monotonic())
        return not awaited or time.monotonic() - self._put_off_s >= PUT_OFF_S

    @property
    def put_off(self) -> bool:
        """Whether one is due since a step that somebody waited for."""
        return self._put_off_s < math.inf

    def behind(self, engine: Engine) -> bool:
        """Whether steps were taken since the last snapshot."""
        return engine.seq > self._last_seq

    def stepped(self, seconds: float, records: int) -> None:
        """A step of so many records took ``seconds``, and would in a replay."""
        self.replay_s += seconds
        if records >= _ENOUGH:
            cost = seconds / records
            # Rising at once and falling slowly: trees grow, and a small step pays for its overhead.
            self._record_s = max(cost, 0.75 * self._record_s + 0.25 * cost)

    def most_records(self, limit: int, awaited: bool = False) -> int:
        """How many records the next step may take: ``limit``, fewer where members are slow.

        ``awaited``: somebody waits for an answer.
        """
        if self._record_s == 0.0:
            return min(limit, _FIRST_RECORDS)
        most = min(limit, int(_STEP_SHARE * self._budget_s / self._record_s))
        if awaited:
            most = min(most, max(_LEAST, int(PROMPT_S / self._record_s)))
        return max(1, most)

    def close(self) -> None:
        """End the writer's thread."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        if self._thread is not None:
            self._thread.join(5.0)

    def _idle(self) -> bool:
        with self._condition:
            return self._work is None

    def wait(self) -> None:
        """Wait until no write is under way, or none will ever end."""
        with self._condition:
            self._condition.wait_for(lambda: self._work is None or self._closing)

    def snapshot(self, engine: Engine, standing: Standing) -> None:
        """Hand the state over to the writer; only after :meth:`due` or :meth:`wait`."""
        started = time.monotonic()
        snapshot = snapshot_of(engine, standing, self._clock_ms())
        self._take_versions(engine)
        failpoint("checkpoint.snapshot")
        engine.checkpoint_wanted = False
        self._snapshot_s = time.monotonic() - started
        self._last_s = time.monotonic()
        self._last_seq = engine.seq
        self._put_off_s = math.inf
        self.replay_s = 0.0
        with self._condition:
            self._work = snapshot
            self._condition.notify_all()

    def unsaved(self, engine: Engine, digest: str) -> Callable[[], State] | None:
        """What gives the state of a version that may be no artefact yet (loop thread).

        Without one it is an artefact: the writer lets go of a state once that is durable.
        """
        return engine.ledger.unsaved.get(digest) or self._versions.get(digest)

    def _take_versions(self, engine: Engine) -> None:
        """The writer has them from here on (loop thread, while it writes nothing)."""
        self._versions |= engine.ledger.unsaved
        engine.ledger.unsaved.clear()

    def _run(self) -> None:
        try:
            self._write_each()
        finally:
            # Whatever ended it: nobody waits for a write that this thread will not do.
            with self._condition:
                self._closing = True
                self._condition.notify_all()

    def _write_each(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._work is not None or self._closing)
                snapshot = self._work
            if snapshot is None:
                return
            try:
                self._write(snapshot)
                written = True
            except (OSError, MillraceError) as error:
                # Scoring goes on: the journal still holds everything since the last generation.
                if isinstance(error, Damaged):
                    self._directory.distrust(error)
                written = False
                self.failures_total += 1
                logger.error("checkpoint_failed", seq=snapshot.seq, error=str(error))
            with self._condition:
                self._work = None
                self._condition.notify_all()
            if written:  # nobody waits for this, least of all a stop without a broker
                self._let_go()

    def _write(self, snapshot: Snapshot) -> None:
        started = time.monotonic()
        # What cannot be saved is tried again with the next generation: each names it.
        self._directory.artefacts.save(self._versions)
        written = self._directory.write(snapshot)
        if not self._committer.wait_for(snapshot.seq):
            raise MillraceError(f"step {snapshot.seq} was never committed")
        path = self._directory.publish(written, self._config.checkpoints.keep)
        self._write_s = time.monotonic() - started
        self.written_total += 1
        size_bytes, now_ms = read_manifest(path).total_bytes, time.time_ns() // 1_000_000
        self._on_written(Written(now_ms, size_bytes, self._snapshot_s, self._write_s))
        logger.debug("checkpoint", seq=snapshot.seq, seconds=round(self._write_s, 3))

    def _let_go(self) -> None:
        """Input, journal and artefacts before the oldest generation nobody here needs."""
        kept = [read_manifest(path) for path in list_generations(self._directory.path)]
        oldest = kept[-1]
        named = {digest for manifest in kept for digest in manifest.artefacts}
        self._directory.artefacts.prune(named, oldest.written_ms - SPARE_MS)
        positions = oldest.standing.positions
        try:
            self._log.truncate(positions, oldest.seq - 1)
            for (topic, partition), earliest in self._log.earliest().items():
                if earliest > positions.get((topic, partition), 0):
                    logger.warning(
                        "retention_passes_checkpoint",
                        topic=topic,
                        partition=partition,
                        earliest_offset=earliest,
                        generation=oldest.seq,
                        next_step="raise the topic's retention; this generation is of no use now",
                    )
        except LogError as error:
            logger.warning("truncate_failed", error=str(error))

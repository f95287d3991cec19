"""Back to where the journal ends: newest good checkpoint, then replay of the steps after it.

Outputs of replayed steps are thrown away; their digest must be the journal's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import msgspec
import structlog

from models.base import MillraceError
from stream.contract.failpoint import failpoint
from stream.contract.log import Log, OutOfRetention
from stream.contract.records import Batch, JournalRecord, Slice
from stream.logs.ahead import one_ahead
from stream.settings.schema import Config
from stream.settings.upgrade import recorded
from stream.state.generations import CheckpointError, Loaded, Manifest, StateDirectory
from stream.state.platform import fingerprint
from stream.step.engine import Engine
from stream.step.reconfigure import reconfigure

logger = structlog.get_logger()


class ForeignState(MillraceError):
    """The state directory belongs to another shard."""


class Diverged(MillraceError):
    """A replayed step gave other bits than the journal holds."""


class Recovered(msgspec.Struct):
    """A restored engine and what it took.

    ``loaded`` is the manifest it began with, if any; ``elsewhere`` names what differs between here
    and where replayed steps were made: of :func:`~stream.state.platform.fingerprint`.
    """

    engine: Engine
    positions: dict[tuple[str, int], int]
    from_seq: int
    loaded: Manifest | None = None
    replayed_steps: int = 0
    replayed_records: int = 0
    seconds: float = 0.0
    divergences: int = 0
    elsewhere: set[str] = msgspec.field(default_factory=set)


Build = Callable[[Config], Engine]


def recover(
    log: Log,
    directory: StateDirectory,
    config: Config,
    build: Build,
    beat: Callable[[], None],
    until_seq: int | None = None,
) -> Recovered:
    """The engine as of the journal's end (or of step ``until_seq``).

    1. The newest generation that verifies and that the journal knows; else an empty engine.
    2. Each journaled step after it, on the very records it took, with its clock.
    3. Digests compared step by step.

    Raises :class:`Diverged`, :class:`~stream.contract.log.OutOfRetention` when the journal does not
    reach back far enough, :class:`CheckpointError` when generations exist but none can be used.
    """
    failpoint("restore.start")
    started = time.monotonic()
    recovered = _start(log, directory, config, build, until_seq)
    failpoint("restore.loaded")
    made = recovered.loaded.fingerprint if recovered.loaded else {}
    for record, slices in one_ahead(_steps(recovered, log, until_seq)):
        made = record.body.get("fingerprint", made)
        recovered.elsewhere |= _differing(made)
        _apply(recovered, record, slices, build)
        if recovered.engine.digest != record.digest:
            # What holds is the operator's word of today, not the one the step ran under.
            _diverged(recovered, record, config.checkpoints.on_divergence)
        beat()
    if until_seq is not None and recovered.engine.seq != until_seq:
        raise CheckpointError(
            f"replay: expected the journal to reach step {until_seq}, it ends at "
            f"{recovered.engine.seq}"
        )
    recovered.seconds = time.monotonic() - started
    failpoint("restore.done")
    return recovered


def _start(
    log: Log, directory: StateDirectory, config: Config, build: Build, until_seq: int | None
) -> Recovered:
    head = log.journal_head()
    for loaded in directory.usable(lambda m: _refusal(m, log, config), until_seq):
        if head is not None and head.seq > loaded.manifest.seq + 1:
            raise OutOfRetention(
                f"journal: expected steps from {loaded.manifest.seq + 1}, the oldest retained is "
                f"{head.seq}; no checkpoint reaches it"
            )
        return _restore(loaded, build)
    if head is not None and head.seq > 1:
        raise CheckpointError(
            f"{directory.generations}: no usable checkpoint, and the journal starts at step "
            f"{head.seq}, not 1; put a good generation back from {directory.quarantine} or a backup"
        )
    if head is not None and "config" in head.body:
        # What the first step ran under.
        config = recorded(head.body["config"], f"{config.journal_topic}: step {head.seq}")
    return Recovered(build(config), {}, 0)


def _refusal(manifest: Manifest, log: Log, config: Config) -> str | None:
    """Why a generation is not of this journal, or ``None``."""
    if manifest.shard != config.name:
        raise ForeignState(
            f"{config.state_dir}: expected the state of shard {config.name!r}, got that of "
            f"{manifest.shard!r}; give each shard a state_dir of its own"
        )
    theirs = recorded(manifest.config, f"{config.state_dir}: generation {manifest.seq}")
    if theirs.journal_topic != config.journal_topic:
        raise ForeignState(
            f"topics.journal: expected {theirs.journal_topic!r}, in which the state in "
            f"{config.state_dir} is journaled, got {config.journal_topic!r}; put it back, or begin "
            "a new shard with a name and a state_dir of its own"
        )
    record = next(iter(log.journal(manifest.seq - 1)), None)
    if record is not None and record.seq == manifest.seq and record.digest == manifest.digest:
        return None
    reason = "the journal does not hold this step with this digest"
    logger.error("checkpoint_refused", seq=manifest.seq, reason=reason)
    return reason


def _restore(loaded: Loaded, build: Build) -> Recovered:
    manifest = loaded.manifest
    engine = build(recorded(manifest.config, str(loaded.path)))
    engine.restore(loaded.state, loaded.segments)
    positions = {(t, p): o for t, p, o in manifest.positions}
    return Recovered(engine, positions, manifest.seq, manifest)


def _steps(
    recovered: Recovered, log: Log, until_seq: int | None
) -> Iterator[tuple[JournalRecord, list[Slice]]]:
    """The journaled steps to do again, and the records that each took."""
    for record in log.journal(recovered.from_seq):
        if until_seq is not None and record.seq > until_seq:
            return
        codec = recovered.engine.codec
        yield record, [codec.ahead(piece) for piece in log.read(record.ranges)]


def _apply(recovered: Recovered, record: JournalRecord, slices: list[Slice], build: Build) -> None:
    """Do one journaled step again."""
    engine = recovered.engine
    if record.seq != engine.seq + 1:
        raise CheckpointError(f"journal: expected step {engine.seq + 1}, got {record.seq}")
    failpoint("restore.replay")
    if record.kind == "reconfigured":
        tree = record.body["config"]
        where = f"{engine.config.journal_topic}: step {record.seq}"
        recovered.engine = build(recorded(tree, where))
        reconfigure(engine, recovered.engine, tree)
        engine.pending.close()
    else:
        skipped = frozenset(record.skipped)
        engine.step(Batch(record.seq, record.clock_ms, slices, skipped, record.checkpoint))
        recovered.replayed_records += sum(r.count for r in record.ranges)
    for r in record.ranges:
        recovered.positions[(r.topic, r.partition)] = r.next_offset
    recovered.replayed_steps += 1


def _differing(made: dict[str, str]) -> set[str]:
    """What is not here as it was where a step was made; nothing if that is not known."""
    here = fingerprint()
    return {k for k in made.keys() | here.keys() if made.get(k) != here.get(k)} if made else set()


def _diverged(recovered: Recovered, record: JournalRecord, on_divergence: str) -> None:
    """Stop, unless bits may differ.

    They may by ``on_divergence``, or once a replayed step was made elsewhere: from there on the
    state may be another one, whoever made the later steps.
    """
    engine = recovered.engine
    message = (
        f"step {record.seq}: the replay gave digest {engine.digest}, the journal holds "
        f"{record.digest}"
    )
    if not recovered.elsewhere and on_divergence == "stop":
        raise Diverged(
            f"{message}, made by the same kernels and libraries on the same kind of processor; "
            "some member is not deterministic. Find it with `millrace replay`, or set "
            'checkpoints.on_divergence = "warn" to go on with the replayed state'
        )
    if recovered.divergences == 0:
        changed = ", ".join(sorted(recovered.elsewhere))
        logger.error("replay_diverged", message=message, changed=changed or "nothing")
    recovered.divergences += 1
    engine.digest = record.digest  # the chain goes on from the journal; each step is compared alone

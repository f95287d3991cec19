"""Does journaled steps again: the one way from a state to a later one that was committed before.

A start follows to the journal's end, ``millrace replay`` to a step, a replica for ever. Outputs are
given back, not committed; their digest must be the journal's. What a record says is done by its
kind: :data:`KINDS` is the whole table.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import structlog

from models.base import MillraceError
from monitoring.audit.trail import Head
from stream.contract.failpoint import failpoint
from stream.contract.log import Log
from stream.contract.outputs import Outputs
from stream.contract.records import Batch, JournalRecord, Range, Slice
from stream.contract.schemas import Schema
from stream.decode.codec import Codec
from stream.logs.ahead import read_together
from stream.settings.schema import Config
from stream.settings.upgrade import recorded
from stream.state.artefacts import Artefacts
from stream.state.generations import (
    CheckpointError,
    Manifest,
    load,
    read_manifest,
    revive,
    sealed,
)
from stream.state.platform import fingerprint
from stream.state.topics import Standing, TopicsChanged, ids_of
from stream.step.backfill import Backfill
from stream.step.engine import Engine, Models, usable
from stream.step.lifecycle.promotion import exchange
from stream.step.reconfigure import reconfigure

logger = structlog.get_logger()

Build = Callable[[Config], Engine]
"""A new engine of a configuration."""
Past = Callable[[Config, int, int], Backfill]
"""An engine of a configuration that took the steps after one up to another one."""


class Means(NamedTuple):
    """What steps are done again with.

    ``build`` makes the engine that takes over at a switch, ``past`` the one that taught its new
    parts; ``artefacts`` hold the versions of members, ``entered`` what moved here from other
    scorers.
    """

    build: Build
    past: Past
    artefacts: Artefacts
    entered: Path

    def save(self, engine: Engine) -> None:
        """The versions that a step kept are artefacts from then on."""
        try:
            self.artefacts.save(engine.ledger.unsaved)
        except OSError as error:  # the next generation tries again
            logger.error("versions_not_saved", error=str(error), next_step="free the disk")


CHUNK = 1_000
"""Steps and their records that are read at a time to be done again."""


def built(build: Build, tree: dict[str, Any], where: str) -> Engine:
    """A new engine of a configuration as it is on record: a journal's, or a vouched checkpoint's.

    Raises :class:`~stream.settings.upgrade.UnreadableConfig`.
    """
    engine = build(recorded(tree, where))
    engine.tree = tree
    return engine


class Diverged(MillraceError):
    """A replayed step gave other bits than the journal holds."""


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What the body of every kind may hold; it holds for the records after it, too.

    A process's first record has the ``version`` of Millrace, the ``fingerprint`` of where it ran,
    and the ids of the ``topics``. ``joined``: partitions that are read from an offset on, as
    ``(topic, partition, offset)``. ``resumed``: the steps before this one, from the first whose
    records are gone, are no part of the state; the audit trail goes on from this head.
    """

    fingerprint: dict[str, str] = {}
    version: str = ""
    topics: dict[str, str] = {}
    joined: tuple[tuple[str, int, int], ...] = ()
    resumed: tuple[int, str] | None = None


class Step(Told, frozen=True, kw_only=True):
    """Kind ``step``: the engine took a batch. The journal's first record holds the ``config``."""

    config: dict[str, Any] | None = None

    def replay(
        self,
        engine: Engine,
        record: JournalRecord,
        slices: Sequence[Slice],
        means: Means,
    ) -> tuple[Engine, Outputs]:
        """The engine after the record, and what came out."""
        skipped = frozenset(record.skipped)
        models = means.artefacts.models(engine, slices, record.missing)
        _refuse_gone(record, models)
        batch = Batch(
            *(record.seq, record.clock_ms, slices, skipped, record.checkpoint, record.room, models),
            record.quiet,
        )
        outputs = engine.step(batch)
        means.save(engine)
        return engine, outputs


class Taken(msgspec.Struct, frozen=True):
    """What a switch took parts over from: an engine that took the steps after ``after``.

    ``digest``: of its state at the switch.
    """

    after: int
    digest: str


class Reconfigured(Told, frozen=True, kw_only=True):
    """Kind ``reconfigured``: the configuration in the body holds from here on.

    ``promoted``: its members are those of what challenged the whole ensemble.
    """

    config: dict[str, Any]
    backfill: Taken | None = None
    promoted: bool = False

    def replay(
        self,
        engine: Engine,
        record: JournalRecord,
        slices: Sequence[Slice],
        means: Means,
    ) -> tuple[Engine, Outputs]:
        """See :meth:`Step.replay`."""
        new = built(means.build, self.config, f"{engine.config.journal_topic}: step {record.seq}")
        taken = self.backfill
        taught = None if taken is None else means.past(new.config, taken.after, engine.seq)
        asked = slices[0] if slices else None
        if self.promoted:
            models = means.artefacts.models(engine, slices, record.missing)
            _refuse_gone(record, models)
            outputs = exchange(engine, new, self.config, asked, models)
        else:
            outputs = reconfigure(engine, new, self.config, taught, asked)
        means.save(new)
        for left in (engine, *(() if taught is None else (taught.engine,))):
            left.close()
        return new, outputs


class Adopted(Told, frozen=True, kw_only=True):
    """Kind ``schema``: records may be written by the schema in the body from here on."""

    schema: Schema
    config: dict[str, Any] | None = None

    def replay(
        self,
        engine: Engine,
        record: JournalRecord,
        slices: Sequence[Slice],
        means: Means,
    ) -> tuple[Engine, Outputs]:
        """See :meth:`Step.replay`."""
        return engine, engine.adopt(self.schema, record.clock_ms)


class Moved(Told, frozen=True, kw_only=True):
    """Kind ``moved``: partitions moved between the scorers of a service, all at this moment.

    There are ``count`` of them from here on. Under ``config`` this one goes on with what was
    ``kept`` for it (SHA-256 of its manifest), at ``positions``; without, it is none of them.
    ``sources``: name, step and digest of each scorer that it comes from.
    """

    count: int
    sources: tuple[tuple[str, int, str], ...]
    config: dict[str, Any] | None = None
    kept: str = ""
    positions: tuple[tuple[str, int, int], ...] = ()

    def replay(
        self,
        engine: Engine,
        record: JournalRecord,
        slices: Sequence[Slice],
        means: Means,
    ) -> tuple[Engine, Outputs]:
        """See :meth:`Step.replay`."""
        if self.config is None:
            return engine, moved(engine, record.body)
        where = f"{engine.config.journal_topic}: step {record.seq}"
        new = built(means.build, self.config, where)
        path = means.entered / f"{engine.seq:012d}"
        try:
            if (got := sealed(path)) != self.kept:
                raise CheckpointError(
                    f"{path}: expected a manifest of SHA-256 {self.kept}, got {got}"
                )
            revive(new, load(path, read_manifest(path)))
        except CheckpointError as error:
            raise CheckpointError(
                f"{where}: its state moved here from {', '.join(name for name, *_ in self.sources)}"
                f" and cannot be had: {error}. Put that directory back from a backup, or a"
                f" generation of step {record.seq} or later"
            ) from error
        engine.close()
        new.checkpoint_wanted = True  # a start need not read it again
        return new, moved(new, record.body)


def moved(engine: Engine, body: Mapping[str, Any]) -> Outputs:
    """What moved is this engine's, or not its own any more: a step, of which the journal says
    ``body`` (:class:`Moved`)."""
    told = {key: body[key] for key in ("count", "sources")}
    engine.auditor.begin(engine.seq + 1, engine.clock_ms)
    engine.auditor.record("moved", "command", "service", told | {"here": "config" in body})
    return engine.switched(dict(body), msgspec.json.encode(body, order="sorted"), kind="moved")


Body = Step | Reconfigured | Adopted | Moved
KINDS: dict[str, type[Body]] = {
    "step": Step,
    "reconfigured": Reconfigured,
    "schema": Adopted,
    "moved": Moved,
}
"""What the body of a journal record holds and how it is done again, by ``kind``."""


def body_of(record: JournalRecord, writer: str = "") -> Body:
    """The body of a journal record, which a Millrace of version ``writer`` wrote.

    Raises :class:`CheckpointError` for a kind, or a body, that this version does not know.
    """
    by = record.body.get("version", writer) or "a version that did not leave its name"
    try:
        return msgspec.convert(record.body, KINDS[record.kind])
    except KeyError as error:
        wrong = f"expected a kind of {', '.join(KINDS)}; got {record.kind!r}"
        cause: Exception = error
    except msgspec.ValidationError as error:
        wrong, cause = f"{record.kind}: {error}", error
    raise CheckpointError(
        f"journal: step {record.seq}: {wrong}. It was written by Millrace {by}, this is "
        f"{version('millrace')}: run the version that wrote it, or a newer one"
    ) from cause


def tell(
    engine: Engine,
    standing: Standing,
    topics: Mapping[str, str],
    joined: Sequence[tuple[str, int, int]],
) -> None:
    """What the next journal record says of topics: live, and when it is done again."""
    for topic in standing.told(topics, joined):
        engine.auditor.forget(topic)
    for topic, partition, offset in joined:
        engine.auditor.joined(topic, partition, offset)


class Follower:
    """An engine, and how far it has followed the journal.

    Parameters
    ----------
    engine : Engine
    standing : Standing
        Where to resume each input partition, and of which topics.
    means : Means
    on_divergence : str
        ``checkpoints.on_divergence``: the operator's word of today, not that of the steps.
    loaded : Manifest, optional
        The generation that the engine was restored from.

    Attributes
    ----------
    from_seq : int
        The step it began after.
    replayed_steps, replayed_records, divergences : int
    skipped_steps : int
        Steps whose records are gone, which are no part of the state.
    elsewhere : set of str
        What differs between here and where replayed steps were made: parts of
        :func:`~stream.state.platform.fingerprint`.
    gone : int
        Where its partitions have moved away: the number of scorers that there are since; else 0.
    seconds : float
        What a start took to load and follow.
    """

    def __init__(
        self,
        engine: Engine,
        standing: Standing,
        means: Means,
        on_divergence: str,
        loaded: Manifest | None = None,
    ) -> None:
        self.engine = engine
        self.standing = standing
        self.loaded = loaded
        self.from_seq = engine.seq
        self.replayed_steps = self.replayed_records = self.skipped_steps = self.divergences = 0
        self.elsewhere: set[str] = set()
        self.gone = 0
        self.seconds = 0.0
        self._means = means
        self._on_divergence = on_divergence
        self._made = loaded.fingerprint if loaded else {}
        self._version = ""

    def skip(self, record: JournalRecord) -> None:
        """Pass over a step whose records are gone: it is no part of the state.

        Raises :class:`CheckpointError` for one that did more than take records.
        """
        if not isinstance(body := body_of(record, self._version), Step):
            raise CheckpointError(
                f"journal: step {record.seq} ({record.kind}) comes after steps whose input is gone:"
                " the state cannot go on without it. Begin a new shard with a name and a state_dir"
                " of its own"
            )
        self.engine.seq, self.engine.digest = record.seq, record.digest
        tell(self.engine, self.standing, body.topics, body.joined)
        for r in record.ranges:
            self.engine.auditor.taking(r.topic, r.partition, r.first, r.last)
        self._take(record)
        self.skipped_steps += 1

    def apply(self, record: JournalRecord, slices: Sequence[Slice]) -> Outputs:
        """Do the next journaled step again, on the very records it took.

        1. Its body, by its kind. 2. What it says of topics. 3. The engine. 4. Where to resume.
        5. The digests compared.

        Raises :class:`Diverged`, or :class:`CheckpointError` for a record that cannot follow.
        """
        if record.seq != self.engine.seq + 1:
            raise CheckpointError(f"journal: expected step {self.engine.seq + 1}, got {record.seq}")
        failpoint("restore.replay")
        body = body_of(record, self._version)
        self._version = body.version or self._version
        self._made = body.fingerprint or self._made
        self.elsewhere |= _differing(self._made)
        tell(self.engine, self.standing, body.topics, body.joined)
        if body.resumed is not None:
            self.engine.trail.go_on(Head(*body.resumed))
        self.engine, outputs = body.replay(self.engine, record, slices, self._means)
        self._take(record)
        if isinstance(body, Moved):
            self.standing.positions = {(topic, p): offset for topic, p, offset in body.positions}
            self.gone = body.count if body.config is None else 0
        self.replayed_steps += 1
        self.replayed_records += sum(r.count for r in record.ranges)
        if self.engine.digest != record.digest:
            self._diverged(record)
        return outputs

    def foreign(self) -> str:
        """What of the code that made the newest step is not what runs here, in words; else empty.

        The processor may be another one: the digests tell whether it rounds alike.
        """
        told = {"millrace": self._version} if self._version else {}
        made = {k: v for k, v in self._made.items() if k != "cpu"} | told
        here = fingerprint() | {"millrace": version("millrace")}
        found = ((k, made[k], here.get(k, "none")) for k in sorted(made))
        return ", ".join(f"{k} {then}, here {now}" for k, then, now in found if then != now)

    def _take(self, record: JournalRecord) -> None:
        for r in record.ranges:
            self.standing.positions[(r.topic, r.partition)] = r.next_offset

    def _diverged(self, record: JournalRecord) -> None:
        """Stop, unless bits may differ.

        They may by ``on_divergence``, or once a replayed step was made elsewhere: from there on the
        state may be another one, whoever made the later steps.
        """
        message = (
            f"step {record.seq}: the replay gave digest {self.engine.digest}, the journal holds "
            f"{record.digest}"
        )
        if not self.elsewhere and self._on_divergence == "stop":
            raise Diverged(
                f"{message}, made by the same kernels and libraries on the same kind of processor; "
                "some member is not deterministic. Find it with `millrace replay`, or set "
                'checkpoints.on_divergence = "warn" to go on with the replayed state'
            )
        if self.divergences == 0:
            changed = ", ".join(sorted(self.elsewhere))
            logger.error("replay_diverged", message=message, changed=changed or "nothing")
        self.divergences += 1
        # The chain goes on from the journal: each step is compared alone.
        self.engine.digest = record.digest


def steps(
    log: Log,
    after: int,
    until: int | None,
    codec: Callable[[], Codec],
    ids: Mapping[str, str],
    accept: bool = False,
) -> Iterator[tuple[JournalRecord, list[Slice] | None]]:
    """The journaled steps after one up to another, and the records that each took, decoded.

    ``None`` in the place of records says that they are gone, and that the step is no part of the
    state: so it stands in the journal, or so it will with ``accept``. ``ids`` are those of the
    topics when the first step was taken.

    Raises :class:`TopicsChanged` where a step took records of a topic that was made anew since.
    """
    standing, now, resumed = Standing(ids), ids_of(log.topics()), 0
    chunk: list[JournalRecord] = []
    size = 0
    for record in log.journal(after):
        if until is not None and record.seq > until:
            break
        standing.told(record.body.get("topics", {}), ())
        if record.seq >= resumed and (gone := _gone(record, standing.anew(now))) is not None:
            yield from _read(log, chunk, codec)
            chunk, size = [], 0
            resumed = _resumed(log, record)
            if not resumed and not accept:
                raise TopicsChanged(_unrepeatable(record, gone, standing.ids, now))
            resumed = resumed or sys.maxsize
        if record.seq < resumed:
            yield record, None
            continue
        chunk.append(record)
        size += 1 + sum(r.count for r in record.ranges)
        if size >= CHUNK:
            yield from _read(log, chunk, codec)
            chunk, size = [], 0
    yield from _read(log, chunk, codec)


def _read(
    log: Log, chunk: Sequence[JournalRecord], codec: Callable[[], Codec]
) -> Iterator[tuple[JournalRecord, list[Slice]]]:
    """Each of the records with what its step took, decoded by the codec of then."""
    together = read_together(log, [record.ranges for record in chunk])
    for record, slices in zip(chunk, together, strict=True):
        read = codec()
        yield record, [read.ahead(piece) for piece in slices]


def _refuse_gone(record: JournalRecord, models: Models) -> None:
    """Raise where a model that the step put in place cannot be had any more."""
    for (name, wanted), model in models.items():
        if not usable(model) and wanted not in record.missing:
            raise CheckpointError(
                f"step {record.seq}: put version {wanted} in the place of {name}, which cannot be "
                f"had now ({model}). Put the file back from a backup, or a generation of step "
                f"{record.seq} or later"
            )


def _gone(record: JournalRecord, anew: Sequence[str]) -> Range | None:
    """Records that a step took of a topic which was made anew since."""
    return next((r for r in record.ranges if r.topic in anew), None)


def _resumed(log: Log, record: JournalRecord) -> int:
    """The step from which the state goes on without this one and those after it; 0: none."""
    found = (r.seq for r in log.journal(record.seq) if "resumed" in r.body)
    return next(found, 0)


def _unrepeatable(
    record: JournalRecord, gone: Range, then: Mapping[str, str], now: Mapping[str, str]
) -> str:
    return (
        f"journal: step {record.seq} took {gone.topic}/{gone.partition} offsets {gone.first}.."
        f"{gone.last}, of a topic that was deleted and made anew since (id {then[gone.topic]}, now"
        f" {now[gone.topic]}): it cannot be done again, nor can those after it. Put the old topic"
        f" back (log.bootstrap), or start with --accept-changes: the state of step"
        f" {record.seq - 1} goes on without what the steps from {record.seq} on taught; their"
        " scores stand"
    )


def _differing(made: dict[str, str]) -> set[str]:
    """What is not here as it was where a step was made; nothing if that is not known."""
    here = fingerprint()
    return {k for k in made.keys() | here.keys() if made.get(k) != here.get(k)} if made else set()

"""The deterministic step: a batch in; outputs, dead letters, audit and a journal record out.

``Engine.step`` is a pure function of (state, batch): no I/O, no wall clock, no unseeded randomness.
All that learns, counts, waits, drifts or audits is reachable from here and part of :meth:`state`.
Here stands what steps of every kind have in common: the order of slices, commands, the digest, the
journal, the state. ``scoring.py`` says what becomes of events and labels;
``stream/contract/commands.py`` what operators' commands do.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, TypeGuard

import msgspec

from models.base import Learner, MillraceError, State, state_digest
from models.ensemble.group import Group
from monitoring.audit.auditor import Auditor
from monitoring.audit.contents import contents_of, member_key
from monitoring.audit.trail import Trail
from monitoring.drift.monitor import Alarm, DriftMonitor
from monitoring.quality.tasks import Kept
from stream.contract.commands import CommandRefused, Switch
from stream.contract.letters import DeadLetter
from stream.contract.outputs import Judged, Outputs, Scored
from stream.contract.records import Batch, JournalRecord, NewRecord, Range, Slice
from stream.contract.schemas import Schema
from stream.decode.codec import Codec
from stream.settings.schema import Config
from stream.settings.upgrade import digest, journaled
from stream.step.lifecycle.challengers import Challengers
from stream.step.lifecycle.ledger import Cause, Ledger, NoVersion, Version, beside
from stream.step.pending.segments import SegmentFile, Source
from stream.step.pending.store import Pending

GENESIS = "0" * 32
"""The digest before the first step."""


class Store(Protocol):
    """Keeps rows that never change in segments."""

    def files(self) -> list[SegmentFile]:
        """Every segment as it stands now."""
        ...

    def rows(self) -> Mapping[int, Source]:
        """Every segment's rows, by its number."""
        ...

    def state(self) -> State:
        """What is not in the rows."""
        ...

    def digest_state(self) -> State:
        """What a digest of all covers."""
        ...

    def restore(self, state: State, segments: Any) -> None:
        """Become the store that gave ``state`` and these rows, or go on from that store."""
        ...

    def close(self) -> None:
        """Drop the working files."""
        ...


class StepError(MillraceError):
    """A step was asked for out of order."""


Handed = Mapping[str, list[NewRecord]]
"""Records for other processes of a service, by topic."""


class Made:
    """What one step has produced so far."""

    def __init__(self) -> None:
        self.scores: list[NewRecord] = []
        self.scored: list[Scored] = []
        self.letters: list[DeadLetter] = []
        self.alarms: list[Alarm] = []
        self.judged: list[Judged] = []
        self.handed: Handed = {}
        self.covered = b""  # what the digest covers beside outputs


Models = Mapping[tuple[str, str], Any]
"""Models by member and digest; the error where one cannot be had."""
Segments = Mapping[str, Mapping[int, Source] | Store]
"""Rows of each store, by its name and their segment; or the store, to go on from."""
Handler = Callable[[Slice, Made], None]
"""Takes one slice of a topic in."""


class Engine(ABC):
    """One shard's whole state and its step.

    An engine built from the same configuration and fed the same batches holds the same state, bit
    for bit.

    Attributes
    ----------
    tree : dict
        The configuration as the journal holds it, in whatever version's form.
    seq : int
        The last step done; 0 at the start.
    digest : str
        ``blake2b-128`` chain over the outputs of all steps, in hex: the journal's digest.
    clock_ms : int
        The latest step's clock.
    checkpoint_wanted : bool
        A command asked for a checkpoint after this step; the service resets it.
    threshold : float
        A score at or above it is an alert; infinite where nothing alerts.
    admits : callable or None
        Makes the engine that goes on under another configuration, see ``configure.py``. Set by who
        builds the engine; ``None``: it has one configuration for life.
    quality : Kept
        How good what was said turned out to be.
    drift : DriftMonitor
    ledger : Ledger
        Which versions of the members are kept.
    challengers : Challengers
        Of an engine that scores events.
    """

    threshold: float = math.inf
    admits: Callable[[Engine, Switch, Models], Engine] | None = None
    quality: Kept
    drift: DriftMonitor
    challengers: Challengers

    def __init__(
        self, config: Config, codec: Codec, ensemble: Group[Any], pending: Pending, trail: Trail
    ) -> None:
        self.config = config
        self.tree = journaled(config)
        self.codec = codec
        self.ensemble = ensemble
        self.pending = pending
        self.trail = trail
        self.auditor = Auditor(config.audit, ensemble, trail)
        self.ledger = Ledger(config.versions, ensemble.names)
        self._models: Models = {}
        self._quiet = False
        self.counts: Counter[str] = Counter()
        self.seq = 0
        self.digest = GENESIS
        self.clock_ms = 0
        self.checkpoint_wanted = False
        self._handlers: dict[str, Handler] = {config.topics.control: self._control}

    @property
    def promotes(self) -> bool:
        """Whether what challenges the ensemble is to take its place before the next step."""
        return False

    @property
    @abstractmethod
    def watermark_ms(self) -> int:
        """Newest event time taken in: the clock of time-outs."""

    @abstractmethod
    def _parts(self) -> dict[str, Any]:
        """What has a state of its own, by its key in :meth:`state`; the ensemble among it."""

    # ------------------------------------------------------------------ the step

    def step(self, batch: Batch) -> Outputs:
        """Take one batch in.

        1. Slices in their journaled order, each by its topic: commands, events, labels.
        2. Where a checkpoint will be taken of this step, what it will hold goes on record.
        3. The outputs are chained into the digest.

        Raises :class:`StepError` if ``batch.seq`` is not the next one. Any other exception leaves
        the engine in an unknown state: the caller must restore it from a checkpoint.
        """
        if batch.seq != self.seq + 1:
            raise StepError(f"step: expected seq {self.seq + 1}, got {batch.seq}")
        out = Made()
        self.clock_ms = max(self.clock_ms, batch.clock_ms)
        if batch.room:
            self.pending.tell(batch.room)
        self._models, self._quiet = batch.models, batch.quiet
        self.auditor.begin(batch.seq, self.clock_ms)
        for piece in batch.slices:
            r = piece.range
            self.auditor.taking(r.topic, r.partition, r.first, r.last)
            self._handlers[r.topic](self._admit(piece, batch, out), out)
        self.codec.schemas.trim()
        taken = Counter[str]()
        for piece in batch.slices:
            taken[f"consumed.{piece.range.topic}"] += len(piece.records)
        taken.update(f"dead.{letter.reason}" for letter in out.letters)
        for alarm in out.alarms:
            self.ledger.alarmed(alarm.signal, batch.seq)
        out.handed, out.covered = self._handed()
        vouched: dict[str, Any] = {}
        if batch.checkpoint:
            for name, seq, was in self.ledger.made_room():
                detail = {"version": was, "up_to_step": seq}
                self.auditor.record("made_room", "checkpoint", name, detail)
            with self.ensemble.unchanged():
                for name, cause in self.ledger.arrived().items():
                    self._keep(name, cause)
                if self.ledger.due(self.watermark_ms):
                    self._keep_all()
                held = self.auditor.checkpointed(lambda: self.contents(self.counts + taken))
            roots = {member_key(name): root for name, root in held["roots"].items()}
            vouched = {"config": held["config"], "contents": held["parts"] | roots}
        journal = JournalRecord(
            seq=batch.seq,
            clock_ms=batch.clock_ms,
            digest="",
            ranges=tuple(piece.range for piece in batch.slices),
            skipped=tuple(sorted(batch.skipped)),
            checkpoint=batch.checkpoint,
            room=batch.room,
            missing=tuple(sorted(d for (_, d), m in batch.models.items() if not usable(m))),
            quiet=batch.quiet,
            **vouched,
        )
        outputs = self._finish(journal, out)
        # Last of all: another thread that reads these finds the step done.
        self.counts.update(taken)
        return outputs

    def spare(self, job: Callable[[], None]) -> bool:
        """Do this where the next step would wait for threads beside it; whether there is a place.

        It may never be done. It changes nothing here.
        """
        return False

    def _handed(self) -> tuple[Handed, bytes]:
        """What other processes of the service are to take, and what the digest covers of it."""
        return {}, b""

    def admit(self, command: Switch, models: Models | None = None) -> Engine:
        """A new engine of the configuration asked for; raises :class:`CommandRefused`.

        ``models``: what the command puts in place; ``None``: those of the step under way.
        """
        if self.admits is None:
            raise CommandRefused("expected a service whose events are scored: start with the file")
        return self.admits(self, command, self._models if models is None else models)

    def switched(
        self,
        body: dict[str, Any],
        cause: bytes,
        command: Slice | None = None,
        kind: str = "reconfigured",
    ) -> Outputs:
        """This engine has taken another one's state over: the switch is a step of its own.

        ``body`` is what the journal says of it, ``cause`` the bytes that the digest covers;
        ``command`` the record that asked for it, if one did. ``kind``: the journal's.
        """
        out = Made()
        out.letters += self._left_over()
        self.counts.update(f"dead.{letter.reason}" for letter in out.letters)
        ranges: tuple[Range, ...] = ()
        if command is not None:
            ranges = (command.range,)
            self.counts.update(["commands", f"consumed.{command.range.topic}"])
        journal = JournalRecord(
            *(self.seq + 1, self.clock_ms, ""), ranges=ranges, kind=kind, body=body
        )
        return self._finish(journal, out, cause)

    def _left_over(self) -> list[DeadLetter]:
        """Dead letters that a switch of configurations made."""
        return []

    @abstractmethod
    def reconfigured(self, combiner_is_new: bool) -> None:
        """What a state from another configuration holds, and this one does not allow, leaves."""

    def adopt(self, schema: Schema, clock_ms: int) -> Outputs:
        """Records may be written by the schema from here on: a step of its own."""
        self.clock_ms = max(self.clock_ms, clock_ms)
        self.codec.schemas.adopt(schema)
        tree = msgspec.to_builtins(schema)
        journal = JournalRecord(self.seq + 1, clock_ms, "", kind="schema", body={"schema": tree})
        return self._finish(journal, Made(), msgspec.json.encode(schema))

    def _admit(self, piece: Slice, batch: Batch, out: Made) -> Slice:
        """The slice without those records that crashed the step before."""
        if not batch.skipped:
            return piece
        good = []
        for r in piece.records:
            if (r.topic, r.partition, r.offset) in batch.skipped:
                error = "this record stopped the service repeatedly"
                out.letters.append(DeadLetter(r, "poison", error))
            else:
                good.append(r)
        return Slice(piece.range, good)

    def _finish(self, journal: JournalRecord, out: Made, cause: bytes = b"") -> Outputs:
        """Chain what the step made, and a cause that no records are, into the digest."""
        self.seq = journal.seq
        head = self.trail.head()
        h = hashlib.blake2b(bytes.fromhex(self.digest), digest_size=16)
        for values in ((r.value for r in out.scores), (d.value for d in out.letters)):
            _chain(h, values)
        # Of the audit records their hash: it covers everything in them but the signatures.
        h.update(bytes.fromhex(head.hash) + cause + out.covered)
        self.digest = h.hexdigest()
        audit = self.audit_records()
        journal = msgspec.structs.replace(
            journal, digest=self.digest, head=tuple(head) if audit else None
        )
        return Outputs(
            *(out.scores, out.letters, audit, journal, out.scored, out.alarms, head),
            judged=out.judged,
            handed=out.handed,
        )

    def audit_records(self) -> list[NewRecord]:
        """What the auditor wrote since the last call, on partition 0 to keep its order."""
        key = self.config.name.encode()
        return [NewRecord(key, raw, 0) for raw in self.auditor.take()]

    # ------------------------------------------------------------------ commands

    def _control(self, piece: Slice, out: Made) -> None:
        for record in piece.records:
            command = self.codec.command(record)
            if isinstance(command, DeadLetter):
                out.letters.append(command)
                continue
            try:
                done = command.apply(self)
            except CommandRefused as error:
                out.letters.append(DeadLetter(record, "command", str(error)))
                continue
            self.counts["commands"] += 1
            where = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
            actor = command.actor or "engine"
            detail = done.detail | command.grounds() | where
            self.auditor.record(command.event, "command", done.target, detail, actor)
            for further in done.further:
                told = further | command.grounds() | where
                self.auditor.record(command.event, "command", done.target, told, actor)
            for name, moved in done.renewed.items():
                root = done.digests.get(name)
                self.auditor.renewed(name, command.event, "command", moved, root)

    def wanted(self, slices: Iterable[Slice]) -> list[tuple[str, str]]:
        """Members and the digests of the models that the commands in ``slices`` put in place."""
        found: list[tuple[str, str]] = []
        for piece in slices:
            for record in piece.records if piece.range.topic == self.config.topics.control else ():
                command = self.codec.command(record)
                if not isinstance(command, DeadLetter):
                    with suppress(CommandRefused):  # its dead letter says so
                        found += command.models(self).items()
        return found

    def version(self, name: str, to: str) -> str:
        """The digest of :meth:`Ledger.named`; raises :class:`CommandRefused`."""
        try:
            return self.ledger.named(name, to).digest
        except NoVersion as error:
            raise CommandRefused(str(error)) from error

    def pin(self, digest: str, until_ms: int) -> None:
        """See :meth:`Ledger.pin`."""
        self.ledger.pin(digest, until_ms)

    def rebuild(self, member: str, accept: bool) -> dict[str, Any]:
        """Ask for a member, or all that are stale, to be rebuilt; may be refused as above."""
        raise CommandRefused(f"{member}: expected a shard whose events are scored")

    def awaited(self, member: str) -> None:
        """Raise :class:`CommandRefused` where no trained model is awaited for the member."""
        raise CommandRefused(f"{member}: expected a shard whose events are scored")

    def withdraw(self, member: str) -> None:
        """Do not rebuild the member; raises :class:`CommandRefused` where nobody asked."""
        raise CommandRefused(f"{member}: expected a shard whose events are scored")

    def retract(self, event_id: str) -> dict[str, Any]:
        """An event's label never was; raises :class:`CommandRefused`."""
        raise CommandRefused(f"{event_id!r:.80}: expected an event that was scored")

    def install(
        self, digests: Mapping[str, str], cause: Cause, upto: int = 0
    ) -> dict[str, dict[str, Any]]:
        """Put models in the places of members, all or none; gives what it did to each.

        What makes room is kept as a version. ``upto``: the step up to which they have learned the
        history, and learn it from there; 0: that is all. Raises :class:`CommandRefused`.
        """
        if upto:
            raise CommandRefused("upto: expected a shard that keeps a history of what was learned")
        models = {name: self._had(name, digest) for name, digest in digests.items()}
        made: dict[str, dict[str, Any]] = {}
        for name, model in models.items():
            spec = self.spec(name, digests[name])
            taught = self.ledger.taught(name, digests[name])
            put = partial(self.ensemble.replace, name, model, spec, taught)
            made[name] = {"to": self._exchanged(name, cause, put, digests[name])}
        return made

    def _had(self, name: str, digest: str) -> Learner:
        """The model with this digest that the step was given; raises :class:`CommandRefused`."""
        model = self._models.get((name, digest))
        if not usable(model):
            raise CommandRefused(
                f"{name}: artefact {digest} cannot be had; put it there by `millrace models import`"
                ", and send the command again"
            )
        return model

    def another(self, name: str, digest: str) -> tuple[Learner, Any]:
        """A model with this digest that is nobody else's, and by which definition it was made.

        Raises :class:`CommandRefused`.
        """
        if not self.ledger.taught(name, digest):
            raise CommandRefused(f"{name}: artefact {digest} has learned nothing yet")
        model, fresh = self._had(name, digest), self.blank(name, digest)
        fresh.restore(model.state())
        self.checkpoint_wanted = True  # a start need not load the artefact again
        return fresh, self.spec(name, digest)

    def spec(self, name: str, digest: str) -> Any:
        """By which definition the model with this digest was made; ``None``: the member's own."""
        return self.ledger.spec(name, digest, self.ensemble.specs.get(name))

    def blank(self, name: str, digest: str) -> Learner:
        """A new model that can become the one with this digest."""
        found: Learner = self.ensemble.made(name, 0, self.spec(name, digest))
        return found

    def _exchanged(
        self, name: str, cause: Cause, put: Callable[[], None], known: str | None = None
    ) -> str:
        """``put`` another model into the member's place; gives its digest.

        Both are versions. What makes room is digested beside the steps to come, as nobody changes
        it any more; the trail has it with the next checkpoint. ``known``: the other model's digest,
        which was compared as it was read: its state is an artefact already. Another is a version
        with the next checkpoint, as it is then.
        """
        replaced = self.ensemble.members[name]
        digest = beside(replaced.digest) if replaced.apart else None
        before = self._version(name, "replaced", self.seq, "" if digest else None)
        self.ledger.keep(name, before, replaced.state, digest)
        self.checkpoint_wanted = True  # a start need not load the artefact again
        spec = self.ensemble.specs.get(name)
        put()
        self.ledger.replaced(name)
        if known is None:
            self.ledger.arrives(name, cause)
        else:
            self.ledger.keep(name, self._version(name, cause, self.seq + 1, known), None)
        made_alike = self.ensemble.specs.get(name) == spec
        self._renewed(name, cause == "installed" and made_alike)
        return known or self.ensemble.digest_of(name)

    @abstractmethod
    def _renewed(self, name: str, goes_on: bool) -> None:
        """Another model stands in the member's place: what is known of the old one leaves.

        ``goes_on``: it was installed, and made by the same definition.
        """

    def _keep_all(self) -> None:
        """Keep a version of each member that serves."""
        self.ledger.regular(self.watermark_ms, self.drift.raised())
        for name in self.ensemble.names:
            self._keep(name, "regular")

    def _keep(self, name: str, cause: Cause) -> None:
        """Keep a copy of the member, if it serves, as a version."""
        version = self._version(name, cause, self.seq + 1)
        if name not in self.ensemble.quarantined and not self.ledger.newest(name, version.digest):
            state = self.ensemble.members[name].state()
            self.ledger.keep(name, version, partial(_same, state))

    def _version(self, name: str, cause: Cause, seq: int, known: str | None = None) -> Version:
        """The member as it is now, after step ``seq``; ``known``: its digest; empty: none yet."""
        quality = self._judged(name).snapshot().fading(name)
        digest = self.ensemble.digest_of(name) if known is None else known
        updates = self.auditor.versions()[name] if self.ensemble.taught(name) else 0
        spec = self.ensemble.specs.get(name)
        own = None if spec is None else dict(spec)
        return Version(seq, self.watermark_ms, digest, cause, updates, quality, own)

    def _judged(self, name: str) -> Kept:
        """What tells how good the member is."""
        return self.quality

    # ------------------------------------------------------------------ state

    def state(self) -> State:
        """Everything but the rows of the stores, which are taken along as files."""
        return self._beside_members() | {"ensemble": self.ensemble.state()}

    def _beside_members(self) -> State:
        return {
            "seq": self.seq,
            "digest": self.digest,
            "clock_ms": self.clock_ms,
            **self._marks(),
            "counts": dict(self.counts),
            **{name: store.state() for name, store in self._stores().items()},
            "schemas": self.codec.schemas.state(),
            "ledger": self.ledger.state(),
            **{name: part.state() for name, part in self._parts().items() if name != "ensemble"},
        }

    @abstractmethod
    def _marks(self) -> State:
        """Plain values of the engine's own."""

    @abstractmethod
    def _restore_marks(self, state: State) -> None:
        """Take :meth:`_marks` over from a whole state."""

    def _stores(self) -> dict[str, Store]:
        """What keeps rows beside the state, by its key in :meth:`state`."""
        return {"pending": self.pending}

    def files(self) -> dict[str, list[SegmentFile]]:
        """The rows of each store as files, for a checkpoint."""
        return {name: store.files() for name, store in self._stores().items()}

    def rows(self) -> Segments:
        """The rows of each store, for another engine to restore from."""
        return {name: store.rows() for name, store in self._stores().items()}

    def stores(self) -> Segments:
        """The stores, for an engine that goes on from this one, which takes no step after that."""
        return self._stores()

    def close(self) -> None:
        """Drop the stores' working files."""
        for store in self._stores().values():
            store.close()

    def restore(self, state: State, segments: Segments | None = None) -> None:
        """Take over what ``state`` tells of these parts; ``segments`` are the stores' rows.

        The rest goes by the configuration. See :data:`models.base.State`.
        """
        self.seq = int(state["seq"])
        self.digest = state["digest"]
        self.clock_ms = int(state["clock_ms"])
        self._restore_marks(state)
        self.counts.clear()
        self.counts.update(state["counts"])
        self.codec.schemas.restore(state.get("schemas", ()))
        self.ledger.restore(state["ledger"])
        for name, store in self._stores().items():
            if name in state:
                store.restore(state[name], (segments or {}).get(name, {}))
        for name, part in self._parts().items():
            if name in state:  # else the part is new with this configuration
                part.restore(state[name])

    def state_digest(self) -> str:
        """SHA-256 of the whole state, rows included; equal for equal engines."""
        state = self.state()
        state["ensemble"] = self.ensemble.digest()  # members may hold what only they can digest
        state |= {name: store.digest_state() for name, store in self._stores().items()}
        return state_digest(state)

    def contents(self, counts: Counter[str]) -> dict[str, Any]:
        """What a checkpoint of this state holds once it has these ``counts``."""
        rows = [file.sha256() for file in self.pending.files()]
        state = self._beside_members() | {"counts": dict(counts)}
        members, labels = self.auditor.members(), self.pending.label_digests()
        return contents_of(digest(self.tree), state, rows, members, labels)


def _same(state: State) -> State:
    return state


def usable(model: Learner | Exception | None) -> TypeGuard[Learner]:
    """Whether a model that a command names could be had."""
    return isinstance(model, Learner)


def _chain(h: Any, values: Iterable[bytes | None]) -> None:
    """Hash records' values with their number."""
    raw = [value or b"" for value in values]
    h.update(b"%d;" % len(raw))
    h.update(b"\0".join(raw))

"""Generations on disk: the state as of one step, verified before it is believed.

``generations/<seq>/`` holds ``arrays.safetensors.zst``, ``state.msgpack``, the segments of pending
events and of learned rows as hard links, the ids of the full ones of pending events, and
``manifest.json``, written last. A generation is
written to a temporary directory, synced, and renamed into place only after the commit of its step;
a crash at any point leaves either the old generations or the new one. Loading goes from the newest
to the oldest; what fails its checksums, or cannot be restored, is moved to ``quarantine/``, never
deleted and never loaded. Checksums show damage, not malice: what is read may be crafted, so sizes
are bounded and every failure is one of the generation. No pickle is read here.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import msgspec
import structlog
import zstandard
from numpy.typing import NDArray

from models.base import MillraceError, OtherVersion, State, StateError
from stream.contract import private
from stream.contract.failpoint import failpoint
from stream.state.artefacts import FOLDER, Artefacts
from stream.state.packed import (
    compressed,
    expanded,
    joined,
    memory_bytes,
    split,
    sync_directory,
    write_durably,
)
from stream.state.platform import fingerprint
from stream.state.topics import Standing
from stream.step.engine import Engine
from stream.step.lifecycle.history import parts_of
from stream.step.pending.segments import Damaged, Kept, SegmentFile, Source

logger = structlog.get_logger()

FORMAT = 8
"""1: arrays that were not compressed. 2: labels of pending rows as another
code. 4: truths of pending rows as a byte each. 7: all pending rows with links of the same members.
"""
_READ = (7, FORMAT)
_ARRAYS, _REST = "arrays.safetensors.zst", "state.msgpack"
_FILE_NAME = re.compile(rf"{_ARRAYS}|{_REST}|(pending|history)-[0-9]{{1,12}}\.(seg|ids)")
_PENDING = re.compile(r"pending-([0-9]{1,12})\.seg")
_WRITING = ".writing-"


class CheckpointError(MillraceError):
    """No generation can be used, or one cannot be written."""


class Locked(MillraceError):
    """Another process holds this state directory."""


class FileEntry(msgspec.Struct, frozen=True):
    """A file of a generation: the first ``bytes`` bytes have this SHA-256.

    ``unpacked`` is how long they are decompressed; 0 where they are not compressed.
    """

    bytes: int
    sha256: str
    unpacked: int = 0


class Manifest(msgspec.Struct, frozen=True):
    """What a generation is. ``digest`` is the journal's at ``seq``, ``topics`` are their ids.

    ``after``: the step that its engine began after, where that is not the first one;
    ``artefacts``: digests of the versions that its ledger names.
    """

    format: int
    shard: str
    seq: int
    digest: str
    written_ms: int
    positions: list[tuple[str, int, int]]
    config: dict[str, Any]
    fingerprint: dict[str, str]
    files: dict[str, FileEntry]
    after: int = 0
    topics: dict[str, str] = {}
    artefacts: list[str] = []

    @property
    def standing(self) -> Standing:
        """Where its inputs go on, and in which topics."""
        return Standing(self.topics, {(t, p): offset for t, p, offset in self.positions})

    @property
    def total_bytes(self) -> int:
        """Bytes of all files."""
        return sum(f.bytes for f in self.files.values())


class Snapshot(msgspec.Struct, frozen=True):
    """The state at a step boundary, ready to be written by another thread."""

    shard: str
    seq: int
    digest: str
    written_ms: int
    positions: dict[tuple[str, int], int]
    config: dict[str, Any]
    fingerprint: dict[str, str]
    state: State
    segments: dict[str, list[SegmentFile]]
    after: int = 0
    topics: dict[str, str] = {}
    artefacts: list[str] = []


def snapshot_of(engine: Engine, standing: Standing, written_ms: int, after: int = 0) -> Snapshot:
    """The engine's state now; ``standing`` is where its inputs go on.

    ``after``: see :class:`Manifest`.
    """
    return Snapshot(
        engine.config.name,
        engine.seq,
        engine.digest,
        written_ms,
        dict(standing.positions),
        engine.tree,
        fingerprint(),
        engine.state(),
        engine.files(),
        after,
        dict(standing.ids),
        sorted(engine.ledger.digests()),
    )


class Loaded(msgspec.Struct, frozen=True):
    """A verified generation."""

    path: Path
    manifest: Manifest
    state: State
    segments: dict[str, dict[int, Source]]

    @property
    def rows(self) -> list[str]:
        """SHA-256 of each pending segment, in order."""
        files = self.manifest.files
        return [files[name].sha256 for name in sorted(files) if _PENDING.fullmatch(name)]


class StateDirectory:
    """One shard's directory: the lock, the generations, the working files of segments.

    Nothing is touched before :meth:`open`. ``lender``: the directory of a running shard, whose
    generations, kept switches and artefacts are read in the place of our own; it is never written.
    """

    def __init__(self, path: Path, lender: Path | None = None) -> None:
        self.path = path
        self._lender = lender
        self.generations = path / "generations"
        self.quarantine = path / "quarantine"
        self.entered = (lender or path) / "entered"
        self.pending = path / "pending"
        self.artefacts = Artefacts(path / FOLDER, lender and lender / FOLDER)
        self._lock: int | None = None

    def open(self) -> Self:
        """Take the lock, sweep out what a dead process left half written; returns itself.

        Raises :class:`Locked` when another process holds it.
        """
        private.folder(self.path)
        private.made(self.path / "lock")
        lock = os.open(self.path / "lock", os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(lock, 32, 0).decode(errors="replace").strip()
            os.close(lock)
            raise Locked(
                f"{self.path}: another process (pid {owner or 'unknown'}) runs this shard; "
                "stop it first, or give this one a state_dir of its own"
            ) from error
        self._lock = lock
        os.ftruncate(lock, 0)
        os.pwrite(lock, b"%d\n" % os.getpid(), 0)
        private.folder(self.generations)
        for left in self.generations.glob(f"{_WRITING}*"):
            shutil.rmtree(left)
        private.folder(self.path / FOLDER)  # a backup copies it from the first start on
        private.folder(self.pending)
        for working in (*self.pending.glob("*.seg"), *self.pending.glob("*.ids")):
            working.unlink()  # of a process that is gone; only the generations' links count
        return self

    def close(self) -> None:
        """Give the lock back, if it was taken."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def listed(self) -> list[Path]:
        """Every generation, newest first, unverified."""
        return list_generations(self._lender or self.path)

    def usable(
        self, accept: Callable[[Manifest], str | None], until_seq: int | None = None
    ) -> Iterator[Loaded]:
        """Verified generations up to ``until_seq``, newest first.

        ``accept`` says why a manifest may not be used, or ``None``. What it refuses and what fails
        verification is :meth:`set_aside`, as the caller does with one that it cannot restore: left
        in place, a refused one that is numbered higher than what this shard writes next would
        outlive it when old generations are removed.
        """
        for path in self.listed():
            try:
                manifest = read_manifest(path)
                if until_seq is not None and manifest.seq > until_seq:
                    continue
                if (refusal := accept(manifest)) is None:
                    yield load(path, manifest, whole=self._lender is not None)
                    continue
            except CheckpointError as error:
                refusal = str(error)
            self.set_aside(path, refusal)

    def set_aside(self, path: Path, reason: str) -> None:
        """Move a generation to ``quarantine/``; one that is lent stays where it is."""
        logger.error("checkpoint_unusable", path=str(path), error=reason)
        if self._lender is not None:
            return
        private.folder(self.quarantine)
        n = 0
        while (target := self.quarantine / f"{path.name}-{n}").exists():
            n += 1
        path.rename(target)

    def distrust(self, damaged: Damaged) -> None:
        """Let the next start read all rows of a segment: without its ids it does."""
        logger.error("checkpoint_damaged", error=str(damaged))
        for path in () if self._lender is not None else self.listed():
            (path / damaged.path.name).with_suffix(".ids").unlink(missing_ok=True)

    def write(self, snapshot: Snapshot) -> Path:
        """Write a generation to a temporary directory, durable and complete; not yet visible.

        1. arrays and the rest of the state, 2. segments as links, 3. the manifest,
        4. the directory itself. Raises ``OSError`` (disk full) and leaves nothing behind.
        """
        temporary = self.generations / f"{_WRITING}{snapshot.seq:012d}"
        shutil.rmtree(temporary, ignore_errors=True)
        private.folder(temporary)
        try:
            failpoint("checkpoint.write")
            files = _write_state(temporary, snapshot.state)
            failpoint("checkpoint.files")
            for store, segments in snapshot.segments.items():
                for segment in segments:
                    name = f"{store}-{segment.number:08d}.seg"
                    length = segment.place(temporary / name)
                    files[name] = FileEntry(length, segment.sha256())
                    ids = _ids_of(name)
                    if (entry := segment.place_ids(temporary / ids)) is not None:
                        files[ids] = FileEntry(*entry)
            manifest = Manifest(
                FORMAT,
                snapshot.shard,
                snapshot.seq,
                snapshot.digest,
                snapshot.written_ms,
                [(t, p, o) for (t, p), o in sorted(snapshot.positions.items())],
                snapshot.config,
                snapshot.fingerprint,
                files,
                snapshot.after,
                snapshot.topics,
                snapshot.artefacts,
            )
            failpoint("checkpoint.manifest")
            write_durably(temporary / "manifest.json", _with_seal(manifest))
            sync_directory(temporary)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        return temporary

    def publish(self, written: Path, keep: int) -> Path:
        """Make a written generation visible, then remove all but the newest ``keep``."""
        failpoint("checkpoint.before_publish")
        final = self.generations / written.name.removeprefix(_WRITING)
        if final.exists():
            shutil.rmtree(final)  # the same step written again after a restart
        written.rename(final)
        sync_directory(self.generations)
        failpoint("checkpoint.publish")
        for old in self.listed()[keep:]:
            shutil.rmtree(old)
            failpoint("checkpoint.prune")
        oldest = self.listed()[-1].name
        for taken in self.entered.glob("[0-9]*"):
            if taken.name < oldest:  # no start replays its switch any more
                shutil.rmtree(taken)
        return final

    def enter(self, written: Path) -> Path:
        """Keep a written generation for the switch after it, which takes parts over from it."""
        private.folder(self.entered)
        final = self.entered / written.name.removeprefix(_WRITING)
        if final.exists():
            shutil.rmtree(final)  # of a start that ended before its switch was committed
        written.rename(final)
        sync_directory(self.entered)
        sync_directory(self.path)
        return final


def list_generations(state_dir: Path) -> list[Path]:
    """Every generation of a state directory, newest first, unverified."""
    found = [p for p in (state_dir / "generations").glob("[0-9]*") if p.name.isdecimal()]
    return sorted(found, key=lambda p: p.name, reverse=True)


def sealed(path: Path) -> str:
    """SHA-256 of a generation's manifest, which names those of its files; as the file says.

    Raises :class:`CheckpointError` where there is none.
    """
    try:
        return (path / "manifest.json").read_bytes().partition(b"\n")[0].decode(errors="replace")
    except OSError as error:
        raise CheckpointError(f"{path / 'manifest.json'}: {error.strerror}") from error


def read_manifest(path: Path) -> Manifest:
    """A generation's manifest; raises :class:`CheckpointError` if it is missing or altered."""
    try:
        seal, _, raw = (path / "manifest.json").read_bytes().partition(b"\n")
        if hashlib.sha256(raw).hexdigest().encode() != seal:
            raise CheckpointError(f"{path / 'manifest.json'}: its checksum does not match")
        manifest = msgspec.json.decode(raw, type=Manifest)
    except OSError as error:
        raise CheckpointError(f"{path / 'manifest.json'}: {error.strerror}") from error
    except (msgspec.MsgspecError, RecursionError) as error:
        raise CheckpointError(f"{path / 'manifest.json'}: {error}") from error
    if manifest.format not in _READ:
        raise CheckpointError(f"{path}: expected format {FORMAT}, got {manifest.format}")
    if manifest.seq != int(path.name.removeprefix(_WRITING)):
        raise CheckpointError(f"{path}: its manifest is of step {manifest.seq}")
    return manifest


def verify(path: Path, manifest: Manifest, whole: bool = True) -> set[str]:
    """Check each file's length and SHA-256; :class:`CheckpointError` names the first bad one.

    Unless ``whole``, of a segment whose ids are there and right only the length: returns those
    segments' names. Their rows are compared before the first of them is used.
    """
    unread = set()
    for name, entry in manifest.files.items():
        if not _FILE_NAME.fullmatch(name):
            raise CheckpointError(f"{path}: expected names of a generation's files, got {name!r}")
        if name.endswith(".ids"):
            continue
        try:
            if not whole and _has_ids(path, name, manifest):
                if (size := (path / name).stat().st_size) < entry.bytes:
                    raise OSError(0, f"expected {entry.bytes} bytes, got {size}")
                unread.add(name)
                continue
            got = sha256_of(path / name, entry.bytes)
        except OSError as error:
            raise CheckpointError(f"{path / name}: {error.strerror}") from error
        if got != entry.sha256:
            raise CheckpointError(f"{path / name}: expected SHA-256 {entry.sha256}, got {got}")
    return unread


def _ids_of(name: str) -> str:
    """The name of the file of a segment's ids."""
    return name.removesuffix(".seg") + ".ids"


def _has_ids(path: Path, name: str, manifest: Manifest) -> bool:
    """Whether a segment's ids are there and right; else they are made of its rows again."""
    ids = _ids_of(name)
    if ids not in manifest.files:
        return False
    entry = manifest.files[ids]
    try:
        right = sha256_of(path / ids, entry.bytes) == entry.sha256
        error = "another SHA-256"
    except OSError as failure:
        right, error = False, str(failure.strerror)
    if not right:
        logger.warning("ids_unreadable", path=str(path / ids), error=error)
    return right


def load(path: Path, manifest: Manifest, whole: bool = True) -> Loaded:
    """Verify and read a generation, see :func:`verify`; raises :class:`CheckpointError`."""
    unread = verify(path, manifest, whole)
    try:
        state = _read_state(path, manifest.files[_ARRAYS].unpacked)
        _match(state, manifest)
    except Exception as error:  # crafted bytes may raise anything, MemoryError among it
        raise CheckpointError(f"{path}: {error or type(error).__name__}") from error
    segments: dict[str, dict[int, Source]] = {}
    for name, entry in manifest.files.items():
        if name.endswith(".seg"):
            store, number = name.removesuffix(".seg").split("-")
            source: Source = path / name
            if name in unread:
                ids = _ids_of(name)
                source = Kept(path / name, entry.sha256, path / ids, manifest.files[ids].sha256)
            segments.setdefault(store, {})[int(number)] = source
    return Loaded(path, manifest, state, segments)


def _match(state: State, manifest: Manifest) -> None:
    """Raise for a part of the history that is not the one of the state, which is vouched for."""
    for part in parts_of(state["history"]) if "history" in state else ():
        name = f"history-{part.number:08d}.seg"
        if manifest.files[name].sha256 != part.sha256:
            raise StateError(f"{name}: expected SHA-256 {part.sha256}")


def revive(engine: Engine, loaded: Loaded) -> None:
    """Let a new engine take a generation's state over.

    Raises :class:`CheckpointError` whatever it fails of, but
    :class:`~models.base.OtherVersion`, which another generation would raise too.
    """
    try:
        engine.restore(loaded.state, loaded.segments)
        names = loaded.state["ensemble"]["names"]
        if names != list(engine.ensemble.names):
            raise StateError(f"it is of members {names}")
        if (engine.seq, engine.digest) != (loaded.manifest.seq, loaded.manifest.digest):
            raise StateError(f"its state is of step {engine.seq}, digest {engine.digest}")
    except OtherVersion:
        raise
    except Exception as error:  # a crafted state may raise anything
        engine.close()
        raise CheckpointError(f"{loaded.path}: {error or type(error).__name__}") from error


def sha256_of(path: Path, length: int) -> str:
    """SHA-256 of the first ``length`` bytes; raises ``OSError`` if the file is shorter."""
    h = hashlib.sha256()
    left = length
    with path.open("rb") as file:
        while left:
            part = file.read(min(left, 1 << 20))
            if not part:
                raise OSError(0, f"expected {length} bytes, got {length - left}")
            h.update(part)
            left -= len(part)
    return h.hexdigest()


def _with_seal(manifest: Manifest) -> bytes:
    raw = msgspec.json.format(msgspec.json.encode(manifest))
    return hashlib.sha256(raw).hexdigest().encode() + b"\n" + raw


def _write_state(directory: Path, state: State) -> dict[str, FileEntry]:
    arrays: dict[str, NDArray[Any]] = {}
    rest = split(state, "", arrays)
    files = {_ARRAYS: compressed(arrays), _REST: (msgspec.msgpack.encode(rest), 0)}
    entries = {}
    for name, (raw, length) in files.items():
        write_durably(directory / name, raw)
        entries[name] = FileEntry(len(raw), hashlib.sha256(raw).hexdigest(), length)
    return entries


def _read_state(directory: Path, unpacked: int) -> State:
    packed = (directory / _ARRAYS).read_bytes()
    declared = zstandard.get_frame_parameters(packed).content_size
    if declared > memory_bytes() or declared != (unpacked or declared):
        raise CheckpointError(
            f"{_ARRAYS}: expected {unpacked or 'as many bytes as this machine holds'} unpacked, its"
            f" frame declares {declared}"
        )
    arrays = expanded(packed)
    rest = msgspec.msgpack.decode((directory / _REST).read_bytes())
    return joined(rest, arrays)

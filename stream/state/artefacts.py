"""Artefacts: states of single members on disk, by the digest of what they hold.

A version that the ledger keeps is one, and so is a model that was made elsewhere and is to be
installed. A file's name is the member's digest: what is read is believed only if it has that
digest. The step reads no file: who runs one asks :meth:`Artefacts.models` before it for the models
that its commands name. Files stay while a ledger or a retained step names them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
import structlog
import zstandard

from models.base import Learner, MillraceError, State, state_digest
from stream.contract import private
from stream.contract.failpoint import failpoint
from stream.contract.records import Slice
from stream.state.packed import (
    compressed,
    expanded,
    joined,
    memory_bytes,
    split,
    sync_directory,
    write_durably,
)
from stream.step.engine import Engine, Models

logger = structlog.get_logger()

Unsaved = Callable[[Engine, str], Callable[[], State] | None]
"""What gives the state of a version that is no artefact yet, by its digest."""

FOLDER = "artefacts"
_SUFFIX, _WRITING = ".safetensors.zst", ".writing-"
_REST = "\0rest"
"""The tensor that holds what is no array, as MessagePack."""


class ArtefactError(MillraceError):
    """A file is not the artefact that its name says, or is not there."""


class Artefacts:
    """The artefacts of one shard; nothing is touched before something is put there.

    ``lender``: another folder, where those are read that are not here; it is never written.
    """

    def __init__(self, path: Path, lender: Path | None = None) -> None:
        self.path = path
        self._lender = lender

    def file(self, digest: str) -> Path:
        """Where an artefact stands, or would."""
        ours = self._own(digest)
        if self._lender is None or ours.exists():
            return ours
        theirs = self._lender / ours.name
        return theirs if theirs.exists() else ours

    def _own(self, digest: str) -> Path:
        return self.path / f"{digest}{_SUFFIX}"

    def sizes(self) -> dict[str, int]:
        """Bytes of each artefact that is there, by digest."""
        found: dict[str, int] = {}
        for path in self.path.glob(f"*{_SUFFIX}"):
            with suppress(FileNotFoundError):  # let go meanwhile
                found[path.name.removesuffix(_SUFFIX)] = path.stat().st_size
        return found

    def put(self, digest: str, state: Callable[[], State]) -> None:
        """Save a member's state, durably, unless it is there; raises ``OSError``."""
        if self.file(digest).exists():
            return
        private.folder(self.path)
        failpoint("artefact.write")
        temporary = self.path / f"{_WRITING}{os.getpid()}-{digest}"
        write_durably(temporary, packed(state()))
        temporary.rename(self._own(digest))
        sync_directory(self.path)
        failpoint("artefact.written")

    def save(self, states: dict[str, Callable[[], State]]) -> None:
        """Put states by their digests, each taken out once it is durable; raises ``OSError``."""
        for digest, state in list(states.items()):
            self.put(digest, state)
            del states[digest]

    def take(self, raw: bytes, fresh: Callable[[], Learner]) -> str:
        """Put an artefact from elsewhere here, if it fits a ``fresh`` member; gives its digest.

        Raises :class:`ArtefactError`.
        """
        state = unpacked(raw)
        digest = revived(state, fresh).digest()
        self.put(digest, lambda: state)
        return digest

    def raw(self, digest: str) -> bytes:
        """An artefact's bytes; raises :class:`ArtefactError`."""
        try:
            return self.file(digest).read_bytes()
        except OSError as error:
            raise ArtefactError(f"{self.file(digest)}: {error.strerror}") from error

    def model(self, digest: str, fresh: Callable[[], Learner]) -> Learner:
        """The member that the artefact is of, made of a ``fresh`` one.

        Raises :class:`ArtefactError` for a file that is not there, is damaged, or does not fit.
        """
        where, raw = self.file(digest), self.raw(digest)
        try:
            model = revived(unpacked(raw), fresh, digest)
            if where.parent == self.path:
                os.utime(where)  # as long as the step that asks for it is retained, the file is
        except (ArtefactError, OSError) as error:
            raise ArtefactError(f"{where}: {error}") from error
        return model

    def models(
        self,
        engine: Engine,
        slices: Iterable[Slice],
        missing: Collection[str] = (),
        ready: Models = MappingProxyType({}),
        unsaved: Unsaved = lambda engine, digest: None,
    ) -> Models:
        """The models that the commands in ``slices`` put in place, by member and digest.

        ``missing``: those that were not there when the step was made, and must not be now. One that
        cannot be had is an :class:`ArtefactError` in its place. ``ready``: some that were had
        already. ``unsaved``: of versions that are no artefacts yet, what gives their state.
        """
        found: dict[tuple[str, str], Any] = {}
        for name, digest in engine.wanted(slices):
            if digest in missing:
                found[name, digest] = ArtefactError(f"{self.file(digest)}: was not there")
            elif (name, digest) in ready:
                found[name, digest] = ready[name, digest]
            else:
                fresh = partial(engine.blank, name, digest)
                found[name, digest] = self.had(name, digest, fresh, unsaved(engine, digest))
        return found

    def had(
        self,
        name: str,
        digest: str,
        fresh: Callable[[], Learner],
        state: Callable[[], State] | None = None,
    ) -> Learner | ArtefactError:
        """The model for this member, or why it cannot be had, which is logged.

        ``state`` gives its state where that is no artefact yet.
        """
        try:
            return self.model(digest, fresh) if state is None else revived(state(), fresh, digest)
        except ArtefactError as error:
            logger.error("artefact_missing", member=name, error=str(error))
            return error

    def prune(self, named: Collection[str], before_ms: int) -> None:
        """Let go what is not named and was last asked for before ``before_ms``.

        What a dead process left half written goes by its age too: another one may be writing now.
        """
        keep = {self.file(digest) for digest in named}
        for path in (*self.path.glob(f"*{_SUFFIX}"), *self.path.glob(f"{_WRITING}*")):
            try:
                if path not in keep and path.stat().st_mtime_ns // 1_000_000 < before_ms:
                    path.unlink()
            except OSError as error:
                logger.warning("artefact_stays", path=str(path), error=str(error))


def packed(state: State) -> bytes:
    """A state as the bytes of an artefact: one compressed safetensors file, no pickle."""
    arrays: dict[str, np.ndarray] = {}
    rest = msgspec.msgpack.encode(split(state, "", arrays))
    arrays[_REST] = np.frombuffer(rest, np.uint8)
    return compressed(arrays)[0]


def unpacked(raw: bytes) -> State:
    """The state in an artefact's bytes; raises :class:`ArtefactError`."""
    try:
        declared = zstandard.get_frame_parameters(raw).content_size
        if declared > memory_bytes():
            raise ArtefactError(f"its frame declares {declared} bytes unpacked")
        arrays = expanded(raw)
        rest = msgspec.msgpack.decode(arrays.pop(_REST).tobytes())
        state: State = joined(rest, arrays)
    except Exception as error:  # crafted bytes may raise anything, MemoryError among it
        raise ArtefactError(f"expected an artefact: {error or type(error).__name__}") from error
    return state


def revived(state: State, fresh: Callable[[], Learner], digest: str | None = None) -> Learner:
    """A member made of a ``fresh`` one and a state that has this digest.

    Kernels trust the numbers in a state as indices: where a digest is that of what is saved, it is
    compared before anything is restored. Raises :class:`ArtefactError`.
    """
    try:
        model = fresh()
        read = digest if digest is None or not model.digests_state() else state_digest(state)
        if read == digest:
            model.restore(state)
            read = digest if digest is None else model.digest()
    except Exception as error:  # a crafted state may raise anything
        raise ArtefactError(f"it does not fit the member: {error}") from error
    if read != digest:
        raise ArtefactError(f"expected digest {digest}, got {read}")
    return model

"""Signed heads of the audit trail, kept where others can see them: what shows that a tail was cut.

The service calls :class:`Anchors` around each commit, in the commit thread, never the step: an
anchor is no part of the state. One witness is a file beside the state, a second one that of
``audit.witness``; a topic, ``topics.witness``, is written with the step. ``millrace audit verify``
reads them all, or a copy kept elsewhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from models.base import MillraceError
from monitoring.audit.trail import Head, make_anchor, read_anchor
from stream.contract import private
from stream.contract.outputs import Outputs
from stream.contract.records import NewRecord
from stream.settings.schema import Config

logger = structlog.get_logger()

FILE = "audit-anchors.jsonl"


class Witness(Protocol):
    """A place apart from the log that keeps anchors: a file, a time-stamping service."""

    def last(self) -> Head:
        """The newest head that it kept; ``Head(0, "")`` before the first."""

    def keep(self, anchor: bytes) -> None:
        """Keep one more line. Raises ``OSError``: it is tried again at the next commit."""


class FileWitness:
    """Keeps anchors as lines of a file, appended only."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def last(self) -> Head:
        """See :meth:`Witness.last`."""
        lines = self._path.read_bytes().splitlines() if self._path.exists() else []
        for line in reversed(lines):
            try:
                return read_anchor(line)
            except MillraceError:
                # The process died in the middle of this line; the one before is whole.
                logger.warning("anchor_unreadable", path=str(self._path))
        return Head(0, "")

    def keep(self, anchor: bytes) -> None:
        """See :meth:`Witness.keep`."""
        with private.opened(self._path, "ab") as file:
            torn = file.tell() > 0 and self._path.read_bytes()[-1:] != b"\n"
            file.write(b"\n" * torn + anchor + b"\n")


class Anchors:
    """Tells each witness whenever ``audit.anchor_every`` records were committed, and at the end."""

    def __init__(self, config: Config, key: Ed25519PrivateKey | None) -> None:
        paths = [config.state_dir / FILE, config.audit.witness]
        self._witnesses: list[Witness] = [FileWitness(path) for path in paths if path is not None]
        self._name = config.name
        self._every = config.audit.anchor_every
        self._key = key
        self._head = Head(0, "")
        self._kept = [0] * len(self._witnesses)
        self._deaf: set[int] = set()
        self._topic = config.topics.witness
        self._due = 0

    def open(self) -> None:
        """Go on after what the witnesses hold; once the directory is ours."""
        heads = [witness.last() for witness in self._witnesses]
        self._kept = [head.seq for head in heads]
        self._head = max(heads)

    def witnessed(self, outputs: Outputs) -> Outputs:
        """The outputs, with an anchor for ``topics.witness`` where one is due.

        It is committed with the step, so the topic is away only when the log is. The first one of
        a process is due at once: what the topic holds need not be read. So is that of a step
        before a checkpoint, as is the last one of a service that is stopped.
        """
        head = outputs.head
        if self._topic is None or head is None:
            return outputs
        if head.seq < self._due and not outputs.journal.checkpoint:
            return outputs
        self._due = head.seq + self._every
        anchor = NewRecord(self._name.encode(), make_anchor(self._name, head, self._key), 0)
        return msgspec.structs.replace(outputs, anchors=[anchor])

    def committed(self, outputs: Outputs) -> None:
        """A step with these outputs is visible."""
        if outputs.head is not None:
            self._head = outputs.head
            self._tell(self._every)

    def close(self) -> None:
        """Anchor what was committed since."""
        self._tell(1)

    def _tell(self, records: int) -> None:
        """Let each witness know that has not heard of so many records."""
        for i, witness in enumerate(self._witnesses):
            if self._head.seq - self._kept[i] < records:
                continue
            try:
                witness.keep(make_anchor(self._name, self._head, self._key))
                self._kept[i] = self._head.seq
                self._deaf.discard(i)
            except OSError as error:
                # Scoring goes on: the next commit tries again.
                if i not in self._deaf:
                    logger.error("anchor_failed", error=str(error))
                self._deaf.add(i)

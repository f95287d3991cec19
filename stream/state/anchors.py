"""Signed heads of the audit trail, in a file beside the state: what shows that a tail was cut.

The service calls :meth:`Anchors.committed` after each commit, in the commit thread, never the step:
an anchor is no part of the state. A copy of the file, or of its last line, kept on another machine
is what the anchors are for; ``millrace audit verify --anchor`` reads it.
"""

from __future__ import annotations

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from models.base import MillraceError
from monitoring.audit.trail import Head, make_anchor, read_anchor
from stream.contract.outputs import Outputs
from stream.settings.schema import Config

logger = structlog.get_logger()

FILE = "audit-anchors.jsonl"


class Anchors:
    """Appends an anchor whenever ``audit.anchor_every`` records were committed, and at the end."""

    def __init__(self, config: Config, key: Ed25519PrivateKey | None) -> None:
        self._path = config.state_dir / FILE
        self._name = config.name
        self._every = config.audit.anchor_every
        self._key = key
        self._head = self._written = Head(0, "")

    def open(self) -> None:
        """Go on after what the file holds; once the directory is ours."""
        self._head = self._written = self._last()

    def committed(self, outputs: Outputs) -> None:
        """A step with these outputs is visible."""
        if outputs.head is None:
            return
        self._head = outputs.head
        if self._head.seq - self._written.seq >= self._every:
            self._write()

    def close(self) -> None:
        """Anchor what was committed since."""
        if self._head.seq > self._written.seq:
            self._write()

    def _last(self) -> Head:
        lines = self._path.read_bytes().splitlines() if self._path.exists() else []
        for line in reversed(lines):
            try:
                return read_anchor(line)
            except MillraceError:
                # The process died in the middle of this line; the one before is whole.
                logger.warning("anchor_unreadable", path=str(self._path))
        return Head(0, "")

    def _write(self) -> None:
        try:
            with self._path.open("ab") as file:
                torn = file.tell() > 0 and self._path.read_bytes()[-1:] != b"\n"
                file.write(b"\n" * torn + make_anchor(self._name, self._head, self._key) + b"\n")
        except OSError as error:
            # Scoring goes on: the next commit tries again.
            logger.error("anchor_failed", path=str(self._path), error=str(error))
            return
        self._written = self._head

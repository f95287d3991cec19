"""What a replica shows over HTTP: what its service would, but for what takes records in."""

from __future__ import annotations

from typing import Any

from monitoring.show.metrics import ReplicaCollector, registry
from stream.run.front import Front
from stream.run.replica.replica import Replica


class ReplicaFront(Front):
    """The HTTP side of one replica.

    Parameters
    ----------
    replica : Replica
        Not running yet.
    """

    def __init__(self, replica: Replica) -> None:
        super().__init__(replica)
        self._replica = replica
        name, where = replica.config.name, replica.health.where
        self.read_only = f"this is a replica of {name!r}, which reads {where}: send to that service"
        self._registry = registry(ReplicaCollector(name, lambda: replica.progress))

    def telling(self) -> tuple[bool, str]:
        """See :class:`stream.http.api.Backend`: not of a state that differs from the service's."""
        diverged = self._replica.progress.diverged
        return not diverged, diverged

    def ready(self) -> tuple[bool, str]:
        """See :class:`stream.http.api.Backend`."""
        good, sentence = super().ready()
        return good, f"{sentence}; {self._said()}"

    def snapshot(self) -> dict[str, Any]:
        """What the live page shows: of the proved state, and how far behind it is."""
        told = f"A replica, which changes nothing: {self._said()}."
        return super().snapshot() | {"state": "replica", "replica": told}

    def _said(self) -> str:
        now = self._replica.progress
        if now.diverged:
            return now.diverged
        if self._replica.waits_for:
            return f"looks for a newer checkpoint: {self._replica.waits_for}"
        behind = max(now.journal_seq - now.verified_seq, 0)
        return f"proved up to step {now.verified_seq:,}, {behind:,} steps behind"

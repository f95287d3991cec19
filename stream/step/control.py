"""What operators' commands do to an engine."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from models.base import MillraceError
from models.ensemble.ensemble import Ensemble
from monitoring.audit.budgets import AuditEvent
from monitoring.quality.quality import Quality
from stream.contract.commands import Checkpoint, Command, Freeze, Release, SetThreshold


class CommandRefused(MillraceError):
    """A command cannot be applied; the message says what was expected."""


class Done(NamedTuple):
    """What a command did, as its audit record tells it."""

    event: AuditEvent
    target: str
    detail: dict[str, Any]


class Controlled(Protocol):
    """What commands reach of an engine."""

    ensemble: Ensemble
    quality: Quality
    matured: Quality
    threshold: float
    checkpoint_wanted: bool


def apply(command: Command, engine: Controlled) -> Done:
    """Do what an operator asked; raises :class:`CommandRefused` and changes nothing."""
    if isinstance(command, SetThreshold):
        before, engine.threshold = engine.threshold, command.threshold
        engine.quality.set_threshold(command.threshold)
        engine.matured.set_threshold(command.threshold)
        return Done("threshold_set", "ensemble", {"from": before, "to": command.threshold})
    if isinstance(command, Checkpoint):
        engine.checkpoint_wanted = True
        return Done("checkpoint_requested", "service", {})
    if command.member not in engine.ensemble.names:
        known = ", ".join(engine.ensemble.names)
        raise CommandRefused(f"member: expected one of {known}; got {command.member!r}")
    if isinstance(command, Freeze):
        engine.ensemble.freeze(command.member)
        return Done("frozen", command.member, {})
    if isinstance(command, Release):
        engine.ensemble.release(command.member)
        return Done("released", command.member, {})
    raise CommandRefused(f"command: {type(command).__name__} is not known")

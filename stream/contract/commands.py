"""The one table of what an operator can ask for: each command is a struct, and nothing else.

Its fields are what a record of the control topic must hold: HTTP's schema, the options of
``millrace control`` and docs/commands.md are made of them. ``apply`` is what it does to an engine,
live and in a replay alike, ``event`` the audit record that answers it. A subclass of
:class:`Command` in this file is in the table; nothing else names it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple, Protocol, Union

import msgspec

from monitoring.audit.budgets import AuditEvent

if TYPE_CHECKING:
    # Only names of types: the command line reads this table at each start, and these load Numba.
    from models.ensemble.group import Group
    from models.task import Task

NAMES = "names"
"""What a field means to a configuration, in the ``extra`` of its type: a member, or a threshold of
the target."""

Member = Annotated[str, msgspec.Meta(description="a member's name", extra={NAMES: "member"})]

_PRINTED = r"^[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]*$(?!\n)"
"""No control characters: what stands in the trail cannot pass for other lines of it."""
Reason = Annotated[
    str,
    msgspec.Meta(
        max_length=500, pattern=_PRINTED, description="why, for whoever reads the audit trail"
    ),
]
Ticket = Annotated[
    str, msgspec.Meta(max_length=100, pattern=_PRINTED, description="where it was decided")
]


class Controlled(Protocol):
    """What commands reach of an engine."""

    ensemble: Group[Any]
    threshold: float
    checkpoint_wanted: bool


class Done(NamedTuple):
    """What a command did: whom it concerns, and what else its audit record tells."""

    target: str
    detail: dict[str, Any]


class Command(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="command"):
    """What every command has; ``actor`` is who gave it, set by whatever appends the record."""

    event: ClassVar[AuditEvent]
    actor: str = ""
    reason: Reason = ""
    ticket: Ticket = ""

    def apply(self, engine: Controlled) -> Done:
        """Do what was asked, at the place between two events where the record stands."""
        raise TypeError(f"{type(self).__name__}: a command needs a method apply")

    def grounds(self) -> dict[str, str]:
        """The reason and the ticket, as far as they are given."""
        return {name: text for name in GROUNDS if (text := getattr(self, name))}

    def check(self, members: Collection[str], task: Task) -> None:
        """Raise :class:`ValueError` with its path where a field means nothing here."""
        for field in fields(type(self)):
            got, expected = getattr(self, field.name), None
            if names(field) == "member" and got not in members:
                expected = f"one of {', '.join(members)}"
            elif names(field) == "threshold":
                if task.thresholds is None:
                    expected = "no threshold: target.alert names no class that alerts"
                elif not task.thresholds[0] < got < task.thresholds[1]:
                    expected = "above {:g} and below {:g}".format(*task.thresholds)
            if expected is not None:
                told = f"{got!r:.80}"
                raise ValueError(f"Expected {expected}; got {told} - at `$.{field.name}`")


class Freeze(Command, frozen=True, tag="freeze"):
    """The member keeps scoring and stops learning."""

    event = "frozen"
    member: Member

    def apply(self, engine: Controlled) -> Done:
        """See :meth:`Command.apply`."""
        engine.ensemble.freeze(self.member)
        return Done(self.member, {})


class Release(Command, frozen=True, tag="release"):
    """The member learns again; one in quarantine scores again too."""

    event = "released"
    member: Member

    def apply(self, engine: Controlled) -> Done:
        """See :meth:`Command.apply`."""
        engine.ensemble.release(self.member)
        return Done(self.member, {})


class SetThreshold(Command, frozen=True, tag="set_threshold"):
    """Scores at or above the threshold are alerts from here on."""

    event = "threshold_set"
    threshold: Annotated[
        float,
        msgspec.Meta(
            description="above 0, below 1; of a number any",
            examples=[0.4],
            extra={NAMES: "threshold"},
        ),
    ]

    def apply(self, engine: Controlled) -> Done:
        """See :meth:`Command.apply`."""
        before, engine.threshold = engine.threshold, self.threshold
        return Done("ensemble", {"from": before, "to": self.threshold})


class Checkpoint(Command, frozen=True, tag="checkpoint"):
    """Save the state after this step."""

    event = "checkpoint_requested"

    def apply(self, engine: Controlled) -> Done:
        """See :meth:`Command.apply`."""
        engine.checkpoint_wanted = True
        return Done("service", {})


GROUNDS = ("reason", "ticket")
"""The fields of every command that say why it was given."""
COMMANDS: dict[str, type[Command]] = {
    str(kind.__struct_config__.tag): kind for kind in Command.__subclasses__()
}
"""Every command by its name in a record."""
COMMAND: Any = Union[tuple(COMMANDS.values())]  # noqa: UP007 - made of the table
"""The type of a control record, for a decoder."""


def fields(kind: type[Command]) -> list[msgspec.inspect.Field]:
    """What the sender of a command fills in: its own fields, then those of every command."""
    described = msgspec.inspect.type_info(kind)
    assert isinstance(described, msgspec.inspect.StructType)
    given = [field for field in described.fields if field.name != "actor"]
    return sorted(given, key=lambda field: field.name in GROUNDS)


def names(field: msgspec.inspect.Field) -> str | None:
    """What the values of a field must be names of, if anything."""
    kind = field.type
    return (kind.extra or {}).get(NAMES) if isinstance(kind, msgspec.inspect.Metadata) else None

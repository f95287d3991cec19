"""The one table of what an operator can ask for: each command is a struct, and nothing else.

Its fields are what a record of the control topic must hold: HTTP's schema, the options of
``millrace control`` and docs/commands.md are made of them. ``apply`` is what it does to an engine,
live and in a replay alike, ``event`` the audit record that answers it. A subclass of
:class:`Command` in this file is in the table; nothing else names it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Protocol, Union

import msgspec

from monitoring.audit.budgets import AuditEvent

if TYPE_CHECKING:
    # Only names of types: the command line reads this table at each start, and these load Numba.
    from models.ensemble.group import Group
    from models.task import Task
    from stream.settings.schema import MemberSettings

NAMES = "names"
"""What a field means to a configuration, in the ``extra`` of its type: a member, a place (that of
a member, or of all), or a threshold of the target."""
WHOLE = "ensemble"
"""The place of all members and their combiner."""

Member = Annotated[str, msgspec.Meta(description="a member's name", extra={NAMES: "member"})]

Place = Annotated[
    str,
    msgspec.Meta(
        description="a member's name; `ensemble`: all of them and what combines them",
        extra={NAMES: "place"},
    ),
]

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


class CommandRefused(ValueError):
    """A command cannot be followed as things are: its record becomes a dead letter."""


class Controlled(Protocol):
    """What commands reach of an engine; one that ranks has no challengers."""

    ensemble: Group[Any]
    threshold: float
    checkpoint_wanted: bool
    challengers: Any  # of the step, which is above this room

    def version(self, name: str, to: str) -> str:
        """Digest of the kept version that is meant; raises :class:`CommandRefused`."""

    def pin(self, digest: str, until_ms: int) -> None:
        """Keep a version for longer."""

    def admit(self, command: Switch) -> Any:
        """A new engine of another configuration; raises :class:`CommandRefused`."""

    def another(self, name: str, digest: str) -> tuple[Any, Any]:
        """A model with this digest, and its definition; raises :class:`CommandRefused`."""

    def rebuild(self, member: str, accept: bool) -> dict[str, Any]:
        """Ask for a member, or all that are stale, to be rebuilt; may be refused as above."""

    def withdraw(self, member: str) -> None:
        """Do not rebuild the member; raises :class:`CommandRefused` where nobody asked."""

    def awaited(self, member: str) -> None:
        """Raise :class:`CommandRefused` where no trained model is awaited for the member."""

    def retract(self, event_id: str) -> dict[str, Any]:
        """An event's label never was; raises :class:`CommandRefused`."""

    def install(
        self,
        digests: Mapping[str, str],
        cause: Literal["installed", "rolled_back"],
        upto: int = 0,
    ) -> dict[str, dict[str, Any]]:
        """Put models in the places of members; raises :class:`CommandRefused`.

        ``upto`` as of :class:`Install`.
        """


class Done(NamedTuple):
    """What a command did: whom it concerns, what else its audit record tells, and of each member
    in whose place another model stands what that one's record tells; ``digests`` of those models,
    where they are known; what ``further`` audit records of the same tell, each of its own."""

    target: str
    detail: dict[str, Any]
    renewed: Mapping[str, dict[str, Any]] = {}
    digests: Mapping[str, str] = {}
    further: Sequence[dict[str, Any]] = ()


class Command(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="command"):
    """What every command has; ``actor`` is who gave it, set by whatever appends the record."""

    event: ClassVar[AuditEvent]
    actor: str = ""
    reason: Reason = ""
    ticket: Ticket = ""

    def apply(self, engine: Controlled) -> Done:
        """Do what was asked, at the place between two events where the record stands."""
        raise TypeError(f"{type(self).__name__}: a command needs a method apply")

    def models(self, engine: Controlled) -> dict[str, str]:
        """Digests of the models that it puts in, or beside, the places of members; must be had
        before it."""
        return {}

    def grounds(self) -> dict[str, str]:
        """The reason and the ticket, as far as they are given."""
        return {name: text for name in GROUNDS if (text := getattr(self, name))}

    def check(
        self, members: Collection[str], task: Task, configured: Sequence[MemberSettings] = ()
    ) -> None:
        """Raise :class:`ValueError` with its path where a field means nothing here."""
        for field in fields(type(self)):
            got, expected = getattr(self, field.name), None
            given = field.required or got
            if names(field) == "member" and given and got not in members:
                expected = f"one of {', '.join(members)}"
            elif names(field) == "place" and given and got not in (*members, WHOLE):
                expected = f"one of {', '.join((*members, WHOLE))}"
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


class Install(Command, frozen=True, tag="install"):
    """A model that was made elsewhere, or kept, takes the member's place."""

    event = "installed"
    member: Member
    artefact: Annotated[
        str,
        msgspec.Meta(
            pattern=r"^[0-9a-f]{64}$(?!\n)",
            description="digest, as `millrace models list` says it",
            examples=["0123456789abcdef" * 4],
        ),
    ]
    upto: Annotated[
        int,
        msgspec.Meta(
            ge=0,
            description="the step up to which it has learned the history, as corrected by then:"
            " what was learned since it learns at once; 0, or left out: nothing",
        ),
    ] = 0
    due: Annotated[
        int,
        msgspec.Meta(
            ge=0,
            description="the step at which the member fell due, of a model trained for that:"
            " refused where it was answered since; 0, or left out: of any other model",
        ),
    ] = 0

    def models(self, engine: Controlled) -> dict[str, str]:
        """See :meth:`Command.models`."""
        return {self.member: self.artefact}

    def apply(self, engine: Controlled) -> Done:
        """See :meth:`Command.apply`."""
        digests = self.models(engine)
        if self.due:
            engine.awaited(self.member)
        made = engine.install(digests, "installed", self.upto)
        return Done(self.member, made[self.member], made, {} if self.upto else digests)


class Rollback(Command, frozen=True, tag="rollback"):
    """The member, or the ensemble, becomes a version that was kept; windows and rows go on."""

    event = "rolled_back"
    to: Annotated[
        str,
        msgspec.Meta(
            description="`last_good`, a step, or 8 or more digits of a digest",
            pattern=r"^(last_good|[0-9]{1,7}|[0-9a-f]{8,64})$(?!\n)",
            examples=["last_good"],
        ),
    ]
    member: Annotated[
        str,
        msgspec.Meta(
            description="a member's name; without it all of them. `ensemble`: another ensemble,"
            " with members of its own, that made room in a promotion",
            extra={NAMES: "place"},
        ),
    ] = ""

    def models(self, engine: Controlled) -> dict[str, str]:
        """See :meth:`Command.models`."""
        names = [self.member] if self.member else engine.ensemble.names
        return {name: engine.version(name, self.to) for name in names}

    def apply(self, engine: Controlled) -> Done:
        """See :meth:`Command.apply`."""
        digests = self.models(engine)
        if self.member == WHOLE:
            engine.admit(self)
            raise _apart()
        made = engine.install(digests, "rolled_back")
        detail = {"to": self.to, "members": list(made)}
        return Done(self.member or "ensemble", detail, made, digests)


class Pin(Command, frozen=True, tag="pin"):
    """A version is kept for longer, or, until a time that is past, no longer than others."""

    event = "pinned"
    member: Member
    version: Annotated[
        str, msgspec.Meta(description="as `to` of a rollback", examples=["last_good"])
    ]
    until: Annotated[
        datetime,
        msgspec.Meta(
            tz=True,
            description="an event time, as `2027-01-31T00:00:00Z`",
            examples=["2027-01-31T00:00:00Z"],
        ),
    ]

    def apply(self, engine: Controlled) -> Done:
        """See :meth:`Command.apply`."""
        digest = engine.version(self.member, self.version)
        until_ms = int(self.until.timestamp() * 1000)
        engine.pin(digest, until_ms)
        return Done(self.member, {"version": digest, "until_ms": until_ms})


class Retract(Command, frozen=True, tag="retract"):
    """The label of an event never was; another one may come while the event is held."""

    event = "retracted"
    id: Annotated[
        str,
        msgspec.Meta(
            min_length=1, max_length=256, description="the event's id", examples=["p-1017"]
        ),
    ]

    def check(
        self, members: Collection[str], task: Task, configured: Sequence[MemberSettings] = ()
    ) -> None:
        """See :meth:`Command.check`."""
        if task.type == "ranking":
            raise ValueError(
                "Expected an event that was scored; interactions are learned as they come, and"
                " cannot be taken back - at `$.id`"
            )

    def apply(self, engine: Controlled) -> Done:
        """See :meth:`Command.apply`."""
        return Done("ensemble", engine.retract(self.id))


class Configure(Command, frozen=True, tag="configure"):
    """Another configuration holds from here on; `millrace apply` sends it."""

    event = "reconfigured"
    base: Annotated[
        str,
        msgspec.Meta(
            pattern=r"^[0-9a-f]{64}$(?!\n)",
            description="digest of the configuration in force, as it was looked at",
            examples=["0123456789abcdef" * 4],
        ),
    ]
    settings: Annotated[
        str,
        msgspec.Meta(
            description="the whole configuration as JSON, as `millrace check --json` prints it",
            examples=['{"format": 3}'],
        ),
    ]
    accept: Annotated[bool, msgspec.Meta(description="let go of the state of what it changes")] = (
        False
    )

    def tree(self) -> dict[str, Any]:
        """The configuration as plain data."""
        return msgspec.json.decode(self.settings, type=dict[str, Any])

    def check(
        self, members: Collection[str], task: Task, configured: Sequence[MemberSettings] = ()
    ) -> None:
        """See :meth:`Command.check`."""
        try:
            self.tree()
        except msgspec.MsgspecError as error:
            raise ValueError(f"Expected a table as JSON; {error} - at `$.settings`") from error

    def apply(self, engine: Controlled) -> Done:
        """Refuse it: one that can be followed is a step of its own, which no slice is part of."""
        engine.admit(self)
        raise _apart()


_DURATION = msgspec.Meta(
    pattern=r"^(0*[1-9][0-9]{0,5}(ms|s|m|h|d|w))?$(?!\n)",
    description="event time above 0, as `1d`; left out: as configured",
)


class _OfScores(Command, frozen=True):
    """A command about members that score events."""

    member: str

    def check(
        self, members: Collection[str], task: Task, configured: Sequence[MemberSettings] = ()
    ) -> None:
        """See :meth:`Command.check`."""
        super().check(members, task, configured)
        if task.type == "ranking":
            raise ValueError(
                f"Expected a member that scores events; got {self.member!r}, which ranks items"
                " - at `$.member`"
            )


class Challenge(_OfScores, frozen=True, tag="challenge"):
    """Models begin to score and learn beside the member, whose place one of them may take."""

    event = "challenger_started"
    member: Place
    spec: Annotated[
        str,
        msgspec.Meta(
            max_length=10_000,
            description="`type` and parameters as JSON, as in the configuration; else the member's."
            " Of `ensemble`: `combine` and `members`. A list of them: they race",
            examples=['{"type": "logistic"}'],
        ),
    ] = ""
    alpha: Annotated[
        float,
        msgspec.Meta(
            ge=0, lt=1, description="chance to win falsely; 0, or left out: as configured"
        ),
    ] = 0.0
    block: Annotated[str, _DURATION] = ""
    deadline: Annotated[str, _DURATION] = ""
    artefact: Annotated[
        str,
        msgspec.Meta(
            pattern=r"^([0-9a-f]{64})?$(?!\n)",
            description="in place of `spec` the digest of a model, a version or one brought in by"
            " `millrace models import`: it has learned, and is judged from the next event on",
        ),
    ] = ""

    def check(
        self, members: Collection[str], task: Task, configured: Sequence[MemberSettings] = ()
    ) -> None:
        """See :meth:`Command.check`."""
        super().check(members, task, configured)
        whole = self.member == WHOLE
        if self.artefact and (self.spec or whole):
            what = "a member's name" if whole else "no spec"
            raise ValueError(f"Expected {what} beside an artefact - at `$.artefact`")
        if self.spec or whole:
            from stream.settings import specs  # only where one is given: it loads learners

            try:
                several = specs.parsed(self.spec)
            except ValueError as error:
                raise ValueError(f"{error} - at `$.spec`") from error
            for i, spec in enumerate(several):
                try:
                    if whole:
                        specs.check_whole(spec, task.type)
                    else:
                        specs.check(spec, task.type, configured)
                except ValueError as error:
                    which = f"[{i}]" if len(several) > 1 else ""
                    raise ValueError(f"{error} - at `$.spec{which}`") from error

    def apply(self, engine: Controlled) -> Done:
        """See :meth:`Command.apply`."""
        from models.settings import parse_duration
        from stream.settings.specs import parsed

        terms = engine.challengers.terms
        terms = terms._replace(
            alpha=self.alpha or terms.alpha,
            block_ms=parse_duration(self.block) if self.block else terms.block_ms,
            deadline_ms=parse_duration(self.deadline) if self.deadline else terms.deadline_ms,
        )
        if self.artefact:
            model, spec = engine.another(self.member, self.artefact)
            [made] = engine.challengers.begin(self.member, [spec], terms, model)
            return Done(self.member, made | {"artefact": self.artefact})
        several = parsed(self.spec) if self.spec else [None]
        first, *others = engine.challengers.begin(self.member, several, terms)
        return Done(self.member, first, further=others)

    def models(self, engine: Controlled) -> dict[str, str]:
        """See :meth:`Command.models`."""
        return {self.member: self.artefact} if self.artefact else {}


class Rebuild(Command, frozen=True, tag="rebuild"):
    """A member learns the history anew as it is corrected, beside the service, and is installed."""

    event = "rebuild_asked"
    member: Annotated[
        str,
        msgspec.Meta(
            description="a member's name; without it all that have learned what was corrected",
            extra={NAMES: "member"},
        ),
    ] = ""
    accept: Annotated[
        bool,
        msgspec.Meta(
            description="let go of what it has learned otherwise: it knows the history alone then"
        ),
    ] = False

    def check(
        self, members: Collection[str], task: Task, configured: Sequence[MemberSettings] = ()
    ) -> None:
        """See :meth:`Command.check`."""
        super().check(members, task, configured)
        if task.type == "ranking":
            raise ValueError(
                "Expected a member that learns labels; a recommender learns interactions, which"
                " cannot be corrected - at `$.member`"
            )

    def apply(self, engine: Controlled) -> Done:
        """See :meth:`Command.apply`."""
        return Done(self.member or "ensemble", engine.rebuild(self.member, self.accept))


class Withdraw(_OfScores, frozen=True, tag="withdraw"):
    """A rebuild of the member that was asked for does not take place."""

    event = "rebuild_withdrawn"
    member: Member

    def apply(self, engine: Controlled) -> Done:
        """See :meth:`Command.apply`."""
        engine.withdraw(self.member)
        return Done(self.member, {})


class Promote(_OfScores, frozen=True, tag="promote"):
    """The member's challenger takes its place."""

    event = "challenger_promoted"
    member: Place
    number: Annotated[
        int,
        msgspec.Meta(
            ge=0,
            description="of several the one with this number; 0, or left out: the proposed one",
        ),
    ] = 0

    def apply(self, engine: Controlled) -> Done:
        """Do it; refuse a whole ensemble: one that can be followed is a step of its own."""
        if self.member == WHOLE:
            engine.admit(self)
            raise _apart()
        detail, digest = engine.challengers.promote(self.member, self.number)
        return Done(self.member, detail, {self.member: detail}, {self.member: digest})


class Drop(_OfScores, frozen=True, tag="drop"):
    """The member's challengers go."""

    event = "challenger_dropped"
    member: Place
    number: Annotated[
        int, msgspec.Meta(ge=0, description="the one with this number; 0, or left out: all")
    ] = 0

    def apply(self, engine: Controlled) -> Done:
        """See :meth:`Command.apply`."""
        first, *others = engine.challengers.drop(self.member, self.number)
        return Done(self.member, first, further=others)


Switch = Configure | Promote | Rollback
"""What may ask for another configuration, as a step of its own."""


def _apart() -> CommandRefused:
    return CommandRefused("expected a step of its own: nothing else can be taken with it")


def _leaves(kind: type[Command]) -> list[type[Command]]:
    """The kinds below this one that nothing is below, in the order of the file."""
    below = [leaf for sub in kind.__subclasses__() for leaf in _leaves(sub)]
    return below or [kind]


GROUNDS = ("reason", "ticket")
"""The fields of every command that say why it was given."""
COMMANDS: dict[str, type[Command]] = {
    str(kind.__struct_config__.tag): kind for kind in _leaves(Command)
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


def meant_by(error: str, given: Mapping[str, Any]) -> str:
    """A decoder's error of a command with what a field is for, where it names a pattern.

    ``given``: the command as it came.
    """
    at = _PATTERN.match(error)
    if at is None:
        return error
    [field] = [f for f in fields(COMMANDS[given["command"]]) if f.name == at[1]]
    expected = "text without control characters"
    if field.name not in GROUNDS and isinstance(field.type, msgspec.inspect.Metadata):
        expected = (field.type.extra_json_schema or {})["description"]
    return f"Expected {expected}; got {given[field.name]!r:.80} - at `$.{field.name}`"


_PATTERN = re.compile(r"Expected `str` matching regex .* - at `\$\.(\w+)`$")


def names(field: msgspec.inspect.Field) -> str | None:
    """What the values of a field must be names of, if anything."""
    kind = field.type
    return (kind.extra or {}).get(NAMES) if isinstance(kind, msgspec.inspect.Metadata) else None

"""A member's definition that comes in a record, in place of that of a member that is configured.

It means what it means in a configuration, with one difference: who can append a record must not be
able to name code. ``stream/contract/commands.py`` asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from pydantic import ValidationError

from models.members.catalogue import UnknownMember, member_class, names_code
from models.task import TaskType
from stream.settings.problems import lines
from stream.settings.schema import MemberSettings

OWN = frozenset({"name", "features", "learn_every"})
"""What a place has and a challenger for it cannot change."""


def parsed(text: str) -> dict[str, Any]:
    """The table that ``text`` is as JSON; raises :class:`ValueError` where it is none."""
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise ValueError(f"Expected a member's table as JSON; {error}") from error


def check(text: str, task: TaskType, known: Sequence[MemberSettings]) -> None:
    """Raise :class:`ValueError` unless ``text`` defines a member that ``known`` ones vouch for."""
    spec = parsed(text)
    if own := sorted(OWN.intersection(spec)):
        raise ValueError(f"Expected no {', '.join(own)}: that is the place's; got it")
    if not isinstance(spec.get("type"), str):
        raise ValueError("Expected a `type`, as a member of the configuration has it; got none")
    params = {key: value for key, value in spec.items() if key != "type"}
    if names_code(spec["type"], params) and not any(
        member.type == spec["type"] and _same_code(member.params, params) for member in known
    ):
        raise ValueError(
            "Expected code that a member of the configuration names, numbers aside; got "
            f"{spec['type']!r} with other code: configure it as a member"
        )
    try:
        settings = member_class(spec["type"], task).Params
        settings.model_validate(params)
    except UnknownMember as error:
        raise ValueError(f"Expected a known `type`; {error}") from error
    except ValidationError as error:
        raise ValueError("; ".join(lines(error, settings, ()))) from error


def defined(member: MemberSettings, spec: Mapping[str, Any]) -> MemberSettings:
    """The member by another definition, under its name and with what is its place's."""
    own = {key: getattr(member, key) for key in OWN}
    return MemberSettings.model_validate({**spec, **own})


def _same_code(one: Any, other: Any) -> bool:
    """Whether two values are equal but for numbers: text may name code, wherever it stands."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same_code(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same_code, one, other))
    numbers = isinstance(one, int | float) and isinstance(other, int | float)
    return numbers or (type(one) is type(other) and bool(one == other))

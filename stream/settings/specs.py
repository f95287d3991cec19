"""Definitions that come in a record, in place of a configured member's, or of all of them.

It means what it means in a configuration, with one difference: who can append a record must not be
able to name code. ``stream/contract/commands.py`` asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from pydantic import ValidationError

from models.ensemble.combine import COMBINERS
from models.members.catalogue import UnknownMember, digests_state, member_class, names_code
from models.task import TaskType
from stream.settings.checks import check as problems
from stream.settings.problems import lines
from stream.settings.schema import TRAINED, Config, MemberSettings
from stream.settings.upgrade import journaled, settings

OWN = frozenset({"name", "features", "learn_every"})
"""What a place has and a challenger for it cannot change."""
WHOLE = frozenset({"combine", "members"})
"""What defines a whole ensemble."""


def parsed(text: str) -> list[dict[str, Any]]:
    """The tables that ``text`` has as JSON, one or a list; raises :class:`ValueError` of none."""
    try:
        found = msgspec.json.decode(text, type=dict[str, Any] | list[dict[str, Any]])
    except msgspec.MsgspecError as error:
        raise ValueError(f"Expected a member's table as JSON, or a list; {error}") from error
    several = [found] if isinstance(found, dict) else found
    if not several:
        raise ValueError("Expected at least one member's table in the list; got none")
    return several


def check(spec: Mapping[str, Any], task: TaskType, known: Sequence[MemberSettings]) -> None:
    """Raise :class:`ValueError` unless ``spec`` defines a member that ``known`` ones vouch for."""
    if own := sorted(OWN.intersection(spec)):
        raise ValueError(f"Expected no {', '.join(own)}: that is the place's; got it")
    if not isinstance(spec.get("type"), str):
        raise ValueError("Expected a `type`, as a member of the configuration has it; got none")
    if spec["type"] == TRAINED:
        raise ValueError(
            f"Expected a `type` that learns label by label; got {TRAINED!r}, which is trained as a"
            " member of the configuration alone: add one to it (`millrace apply`)"
        )
    params = {key: value for key, value in spec.items() if key != "type"}
    if names_code(spec["type"], params) and not any(
        member.type == spec["type"] and _same_code(member.params, params) for member in known
    ):
        raise ValueError(
            "Expected code that a member of the configuration names, numbers aside; got "
            f"{spec['type']!r} with other code: configure it as a member"
        )
    try:
        kind = member_class(spec["type"], task).Params
        kind.model_validate(params)
    except UnknownMember as error:
        raise ValueError(f"Expected a known `type`; {error}") from error
    except ValidationError as error:
        raise ValueError("; ".join(lines(error, kind, ()))) from error


def check_whole(spec: Mapping[str, Any], task: TaskType) -> None:
    """Raise :class:`ValueError` unless ``spec`` defines a whole ensemble that a record may name."""
    if spec.keys() != WHOLE or not isinstance(spec["members"], list) or not spec["members"]:
        raise ValueError("Expected `combine` and `members`, as the configuration has them")
    combiners = [name for name, tasks in COMBINERS.items() if task in tasks]
    if spec["combine"] not in combiners:
        got = f"{spec['combine']!r:.80}"
        raise ValueError(f"combine: expected one of {', '.join(combiners)}; got {got}")
    for i, table in enumerate(spec["members"]):
        try:
            member = MemberSettings.model_validate(table)
            kept, kind = keeps(member, task), member_class(member.type, task).Params
        except UnknownMember as error:
            raise ValueError(f"members[{i}]: expected a known `type`; {error}") from error
        except ValidationError as error:
            told = "; ".join(lines(error, MemberSettings, ()))
            raise ValueError(f"members[{i}]: {told}") from error
        if not kept or member.type == TRAINED:
            raise ValueError(
                f"members[{i}]: expected a type that learns label by label and names no code; got "
                f"{member.type!r}: configure it as a member (`millrace apply`)"
            )
        try:
            kind.model_validate(member.params)
        except ValidationError as error:
            told = "; ".join(lines(error, kind, ()))
            raise ValueError(f"members[{i}]: {told}") from error


def keeps(member: MemberSettings, task: TaskType) -> bool:
    """Whether a member can be part of an ensemble that is not configured: it names no code, and the
    digest of its state is that of what is saved."""
    return not names_code(member.type, member.params) and digests_state(member.type, task)


def with_ensemble(config: Config, spec: Mapping[str, Any]) -> tuple[dict[str, Any], Config]:
    """The configuration with another ensemble: as the journal holds it, and read.

    Raises :class:`~models.base.MillraceError`, or :class:`ValueError` with what is wrong with it.
    """
    tree = journaled(config)
    tree |= {"members": spec["members"]}
    tree["ensemble"] = tree["ensemble"] | {"combine": spec["combine"]}
    asked = settings(tree, "spec")
    if wrong := [*problems(asked, whole=True)]:
        raise ValueError("; ".join(wrong))
    return journaled(asked), asked


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

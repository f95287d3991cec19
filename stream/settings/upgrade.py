"""Configurations that the journal and the checkpoints carry: written with a format, read from any.

A setting that a later version renames, moves or drops must not make what is already written
unreadable: that version raises :data:`FORMAT` and adds to :data:`STEPS` how a tree of the format
before becomes one of its own. Recovery and the tools read through :func:`recorded`; nobody else
validates a tree that a person did not write.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from copy import deepcopy
from importlib.metadata import version
from typing import Any

import msgspec
from pydantic import ValidationError

from models.base import MillraceError
from stream.settings.checks import members
from stream.settings.problems import lines
from stream.settings.schema import Config

Tree = dict[str, Any]

FORMAT = 3


def _names_to_paths(tree: Tree) -> Tree:
    """Of format 1, where a dot in a name was one: it is a path now, so a pointer to the name."""
    event, label = tree["event"], tree.get("label", {})
    for table, key in [
        *((event, key) for key in ("id", "time")),
        *((label, key) for key in ("event_id", "field", "time")),
        *((field, "path") for field in event["fields"].values() if isinstance(field, dict)),
    ]:
        name = table.get(key)
        if name and ("." in name or name.startswith("/")):
            table[key] = "/" + name.replace("~", "~0").replace("/", "~1")
    return tree


def _swaps_to_challenges(tree: Tree) -> Tree:
    """Of format 2, where an alarm let a challenger be judged by bounds of its own."""
    drift = tree.get("drift", {})
    for key in ("challenger_after", "challenger_until"):
        drift.pop(key, None)
    if drift.get("on_alarm") == "swap":
        drift["on_alarm"] = "challenge"
    return tree


STEPS: Mapping[int, Callable[[Tree], Tree]] = {1: _names_to_paths, 2: _swaps_to_challenges}
"""From each older format to the next one, over the raw tree before it is validated."""


class UnreadableConfig(MillraceError):
    """A configuration that some other version wrote means nothing to this one."""


def plain(config: Config) -> Tree:
    """The configuration without secrets, as a file could hold it."""
    secrets = {"log": {"sasl_password"}, "registry": {"password", "token"}, "audit": {"key"}}
    return config.model_dump(mode="json", exclude=secrets)


def journaled(config: Config) -> Tree:
    """The configuration as plain data, with its format and who wrote it."""
    return {"format": FORMAT, "written_by": f"millrace {version('millrace')}"} | plain(config)


def encoded(tree: Mapping[str, Any]) -> bytes:
    """The bytes of a configuration as plain data: equal for equal ones."""
    return msgspec.json.encode(tree, order="sorted")


def digest(tree: Mapping[str, Any]) -> str:
    """SHA-256 of :func:`encoded`: what the trail and the journal say of a configuration."""
    return hashlib.sha256(encoded(tree)).hexdigest()


def recorded(tree: Mapping[str, Any], where: str) -> Config:
    """The configuration that ``tree`` records; ``where`` it stands is for the error.

    As :func:`settings`, and each member's parameters are validated by its type. That loads what
    they name, and so runs it: only for a tree that the journal or the trail vouches for, or one
    that :func:`is_given`. Whoever can write a checkpoint could run anything else.
    """
    config = settings(tree, where)
    if problems := list(members(config)):
        raise _unreadable(where, tree.get("written_by", _UNKNOWN), problems)
    return config


def settings(tree: Mapping[str, Any], where: str) -> Config:
    """The settings that ``tree`` records, members' parameters unread: nothing named is loaded.

    1. A tree without a format is of format 1.
    2. Each step from its format to :data:`FORMAT`.
    3. Validation.

    Raises :class:`UnreadableConfig`, which says what, where, who wrote it and what to do.
    """
    raw: Tree = {"format": 1, "written_by": _UNKNOWN, **tree}
    found, writer = raw.pop("format"), raw.pop("written_by")
    if found > FORMAT:
        raise _unreadable(where, writer, [f"format: expected at most {FORMAT}, got {found}"])
    raw = deepcopy(raw)
    for number in range(found, FORMAT):
        raw = STEPS[number](raw)
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise _unreadable(where, writer, lines(error, Config)) from None


def is_given(tree: Mapping[str, Any], where: str, given: Config) -> bool:
    """Whether ``tree`` records the very settings that a person has given; loads nothing."""
    return plain(settings(tree, where)) == plain(given)


_UNKNOWN = "an older millrace"


def _unreadable(where: str, writer: str, problems: list[str]) -> UnreadableConfig:
    ours = version("millrace")
    listed = "".join(f"  {problem}\n" for problem in problems)
    return UnreadableConfig(
        f"{where}: its configuration, written by {writer}, cannot be read by millrace {ours}:\n"
        f"{listed}nothing was changed; start the version that wrote it, or begin anew with another "
        "name and an empty state_dir"
    )

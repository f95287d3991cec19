"""Another configuration by a command: whether it may hold from here on, and the engine for it.

The same answer live and in a replay: by the command, the state, and the configuration in force.
``reconfigure.py`` then lets the new engine go on from the old one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from models.base import MillraceError
from stream.contract.commands import WHOLE, CommandRefused, Configure, Promote, Rollback, Switch
from stream.contract.records import Slice
from stream.settings.checks import check
from stream.settings.hot import changed, needing_restart
from stream.settings.schema import Config
from stream.settings.specs import with_ensemble
from stream.settings.upgrade import digest, settings
from stream.step.engine import Engine, Models, usable
from stream.step.reconfigure import compare

WHERE = "settings"


def admitted(
    build: Callable[[Config], Engine], engine: Engine, command: Switch, models: Models
) -> Engine:
    """A new engine of the configuration that ``command`` asks for; nothing has changed yet.

    ``models``: what the command puts in place. Raises
    :class:`~stream.contract.commands.CommandRefused`.
    """
    if isinstance(command, Promote):
        return _other(build, engine, engine.challengers.second(command.number).spec)
    if isinstance(command, Rollback):
        [(name, version)] = command.models(engine).items()
        if not usable(models.get((name, version))):
            raise CommandRefused(f"{name}: version {version} cannot be had, or does not fit")
        return _other(build, engine, engine.spec(name, version))
    tree, now = command.tree(), digest(engine.tree)
    if command.base != now:
        raise CommandRefused(
            f"base: expected {now}, the configuration in force, got {command.base}: it has changed "
            "since. Look at the difference again (`millrace apply`)"
        )
    try:
        asked = settings(tree, WHERE)
        if cold := needing_restart(engine.config, asked):
            raise CommandRefused(f"needs a restart: {'; '.join(cold)}")
        if problems := [*check(asked, whole=True)]:
            raise CommandRefused("; ".join(problems))
        new = build(changed(engine.config, asked))
        new.tree = tree
        lost = compare(engine, new).lost
    except MillraceError as error:
        raise CommandRefused(str(error)) from error
    if lost and not command.accept:
        raise CommandRefused(f"accept: state would be lost: {'; '.join(lost)}")
    return new


def _other(build: Callable[[Config], Engine], engine: Engine, spec: Mapping[str, Any]) -> Engine:
    """A new engine of another ensemble; may be refused as above."""
    try:
        tree, asked = with_ensemble(engine.config, spec)
        new = build(changed(engine.config, asked))
    except (MillraceError, ValueError) as error:
        raise CommandRefused(str(error)) from error
    new.tree = tree
    return new


def configures(engine: Engine, slices: Sequence[Slice]) -> Switch | None:
    """The command among the records of a step, if it asks for another configuration.

    Such a command is a step of its own; so is one that lets a whole ensemble take the place of the
    one that scores, or puts it back.
    """
    if len(slices) != 1 or len(slices[0].records) != 1:
        return None
    if slices[0].range.topic != engine.config.topics.control:
        return None
    command = engine.codec.command(slices[0].records[0])
    if isinstance(command, Promote | Rollback):
        return command if command.member == WHOLE else None
    return command if isinstance(command, Configure) else None

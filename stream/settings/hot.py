"""What of a configuration can change between two steps of a running service, and what cannot.

What the engine alone is made of can. What threads, sockets, files and topics were opened by cannot:
that needs a restart, and so does code that only a new process may load.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from models.members.catalogue import names_code
from stream.settings.schema import Config
from stream.settings.upgrade import plain

SHOWN = 80
"""Characters of a value that is told."""
HOT: Mapping[str, frozenset[str] | None] = {
    "seed": None,
    "event": frozenset({"fields"}),
    "features": None,
    "members": None,
    "ensemble": None,
    "drift": None,
    "challengers": None,
    "guard": None,
    "quality": None,
    "versions": None,
    "history": None,
    "audit": frozenset({"summary_every", "expected_events", "each", "member", "total"}),
}
"""Keys that can change; of a table those named, ``None``: all."""


def needing_restart(running: Config, asked: Config) -> list[str]:
    """Every setting that differs and cannot change while the service runs, by its path."""
    if running.reco is not None or asked.reco is not None:
        return ["target.type: of a shard that ranks nothing changes while it runs"]
    if running.shard.role != "all" or asked.shard.role != "all":
        return [
            "shard.role: of a service of several processes nothing changes while they run: its"
            " members and rows mean something under one file. Stop all, and start all with it"
        ]
    return [*_cold(plain(running), plain(asked)), *_new_code(running, asked)]


def _cold(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    for key in sorted(one.keys() | other.keys()):
        if one.get(key) == other.get(key):
            continue
        hot = HOT.get(key, frozenset())
        if hot is None:
            continue
        before, after = ({} if t.get(key) is None else t[key] for t in (one, other))
        if not isinstance(before, dict) or not isinstance(after, dict):
            yield key
            continue
        for part in sorted(before.keys() | after.keys()):
            if part not in hot and before.get(part) != after.get(part):
                yield f"{key}.{part}"


def told(running: Config, asked: Config) -> list[str]:
    """Every setting that differs, as ``path: before -> after``; tables in lists by their names."""
    return [*_told(plain(running), plain(asked), "")]


def _told(one: Mapping[str, Any], other: Mapping[str, Any], path: str) -> Iterator[str]:
    for key in sorted(one.keys() | other.keys()):
        before, after, where = _named(one.get(key)), _named(other.get(key)), path + str(key)
        if before == after:
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _told(before, after, f"{where}.")
        else:
            yield f"{where}: {_shown(before)} -> {_shown(after)}"


def _named(value: Any) -> Any:
    """A list of tables with names, as a table of them by these."""
    if (
        isinstance(value, list)
        and value
        and all(isinstance(v, dict) and "name" in v for v in value)
    ):
        return {each["name"]: each for each in value}
    return value


def _shown(value: Any) -> str:
    """A value on one line, cut where it is long."""
    return "none" if value is None else msgspec.json.encode(value).decode()[:SHOWN]


def _new_code(running: Config, asked: Config) -> Iterator[str]:
    """Members of code that none of the running ones names: who writes a record names no code."""
    known = [(member.type, member.params) for member in running.members]
    for i, member in enumerate(asked.members):
        named = names_code(member.type, member.params)
        if named and (member.type, member.params) not in known:
            yield f"members[{i}]: {member.name} names code that no running member does"


def changed(running: Config, asked: Config) -> Config:
    """``asked``, with everything that needs a restart as it is ``running``, secrets among it."""
    parts: dict[str, Any] = {}
    for key, hot in HOT.items():
        new = getattr(asked, key)
        parts[key] = (
            new
            if hot is None
            else getattr(running, key).model_copy(update={p: getattr(new, p) for p in hot})
        )
    return running.model_copy(update=parts)

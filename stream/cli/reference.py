"""Renders docs/commands.md from the table of commands; ``make docs`` writes it."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import msgspec

from stream.cli.control import word
from stream.contract.commands import COMMANDS, GROUNDS, Command, fields

INTRO = """\
# Commands

<!-- Written by `make docs` from the table of commands. Do not edit by hand. -->

An operator's command is one record of the control topic. It takes effect at the next step, between the same two records in every replay, and its audit record names who gave it. [HTTP](http.md#commands) appends it in the token's name, whatever the body says; `millrace control` as `os:` and your user's; of another program's record the trail repeats what it says. A command that names what does not exist, or holds another value than its field takes, is refused and nothing is appended: exit status 2, HTTP 422. What depends on what the service holds, such as a version, the step refuses: the record becomes a dead letter `command`. `millrace control` waits for the step (`--wait`, 5 s) and says which one followed it, or why it was refused (exit status 2); of [many processes](scale.md) it waits for none.

Every command also takes {grounds}. They stand in its audit record, for ever: no personal data.

| record | command line | what it does | [audit](audit.md) event |
|---|---|---|---|
"""  # noqa: E501 - Markdown: one line a paragraph


def markdown() -> str:
    """The page."""
    shared = [field for field in fields(Command) if field.name in GROUNDS]
    grounds = " and ".join(f"`{f.name}` (`--{f.name}`: {_description(Command, f)})" for f in shared)
    return INTRO.format(grounds=grounds) + "".join(f"{line}\n" for line in _rows())


def _rows() -> Iterator[str]:
    for name, kind in COMMANDS.items():
        words = ["millrace control", word(name), "CONFIG"]
        words += [
            field.name.upper() if field.required else f"[--{field.name}]" for field in _own(kind)
        ]
        cells = (f"`{name}`{_told(kind)}", f"`{' '.join(words)}`", kind.__doc__, f"`{kind.event}`")
        yield f"| {' | '.join(map(str, cells))} |"


def _told(kind: type[Command]) -> str:
    """The fields of a record, each with what it takes."""
    return "".join(f", `{field.name}`: {_description(kind, field)}" for field in _own(kind))


def _own(kind: type[Command]) -> list[msgspec.inspect.Field]:
    return [field for field in fields(kind) if field.name not in GROUNDS]


def _description(kind: type[Command], field: msgspec.inspect.Field) -> str:
    properties = msgspec.json.schema(kind)["$defs"][kind.__name__]["properties"]
    return str(properties[field.name]["description"])


if __name__ == "__main__":
    sys.stdout.write(markdown())

"""How drafts write what stands in every configuration: its beginning, times, values of TOML."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from stream.tools.draft.columns import shown


def head(path: Path, rows: int) -> list[str]:
    """What a draft begins with, up to the log."""
    name = "m-" + re.sub(r"[^a-zA-Z0-9_-]+", "-", path.name.split(".")[0])
    name = (name[2:] if name[2:3].isascii() and name[2:3].isalpha() else name)[:63]
    return [
        f"# Drafted by `millrace init` from {rows:,} rows of {shown(path.name)}: read it, "
        "correct it,",
        "# then `millrace check` it. Every guess says why.",
        f"name = {quoted(name)}",
        f"state_dir = {quoted(f'state/{name}')}",
        "",
        "[log]",
        'type = "embedded"',
        f"path = {quoted(f'state/{name}/log.db')}",
        "",
    ]


def time_lines(first: Any, time_format: str, zone: str | None) -> list[str]:
    """How times are written; ``first`` is one of them."""
    lines = [f"# such as {shown(first)}", f"time_format = {quoted(time_format)}"]
    if zone is not None:
        if "%d/%m" in time_format or "%m/%d" in time_format:
            lines.insert(0, "# day and month: a guess where both fit")
        lines += ["# a guess: the zone whose clock wrote it", f"time_zone = {quoted(zone)}"]
    return lines


def quoted(text: str) -> str:
    """A TOML string; what does not print is escaped."""
    plain = (c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08X}" for c in text)
    return f'"{"".join(plain)}"'


def key_of(text: str) -> str:
    """A TOML key."""
    return text if re.fullmatch(r"[A-Za-z0-9_-]+", text) else quoted(text)


def toml(value: Any) -> str:
    """A TOML value."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key_of(k)} = {toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return quoted(value) if isinstance(value, str) else json.dumps(value)

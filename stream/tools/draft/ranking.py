"""`millrace init --item`: a ranking drafted from the first rows of a table of interactions."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from models.base import MillraceError
from stream.tools.draft.columns import FEW, Column
from stream.tools.draft.written import head, quoted, time_lines, toml

AGAIN = 0.1
"""Share of rows whose item their user had before, from which on it is shown to him again."""

_USER = re.compile(
    r"user|visitor|customer|client|member|account|person|reader|player|buyer|listener|viewer|guest"
    r"|subscriber",
    re.I,
)
_SESSION = re.compile(r"session|visit(_?id)?$|basket|order", re.I)
_TYPE = re.compile(r"type|event|action|kind|behaviou?r|interaction", re.I)
_VALUE = re.compile(r"rating|stars|score|grade", re.I)
_ITEM = re.compile(r"item|product|sku|article|movie|film|song|track|artist|book|video|page", re.I)


class Found(NamedTuple):
    """What the columns of interactions are; those that are not there are ``None``."""

    item: Column
    user: Column | None
    session: Column | None
    type: Column | None
    value: Column | None


def looks_so(columns: list[Column]) -> Column | None:
    """The column of items, where the rows look like what users do with items."""
    items = [c for c in columns if _ITEM.search(c.name) and len(c.values) == c.rows]
    users = [c for c in columns if _USER.search(c.name) or _SESSION.search(c.name)]
    return items[0] if items and any(c is not items[0] for c in users) else None


def columns_of_interactions(columns: list[Column], time: Column, item: str, has: str) -> Found:
    """Guess what the other columns are, by their names.

    Raises :class:`MillraceError` where there is no such column, or nobody who does anything.
    """
    named = next((c for c in columns if c.name == item), None)
    if named is None or named is time:
        raise MillraceError(f"--item {item}: expected a column beside the time; {has}")
    rest = [c for c in columns if c is not named and c is not time and len(c.place) == 1]

    def take(name: re.Pattern[str], fits: Callable[[Column], bool]) -> Column | None:
        found = next((c for c in rest if name.search(c.name) and c.values and fits(c)), None)
        if found is not None:
            rest.remove(found)
        return found

    user = take(_USER, lambda c: True)
    session = take(_SESSION, lambda c: True)
    if user is None and session is None:
        raise MillraceError(
            f"--item {item}: no column is named as a user or a session is: rename it to 'user' or "
            f"'session'; {has}"
        )
    kind = take(_TYPE, lambda c: len(set(c.texts)) <= FEW)
    value = take(_VALUE, lambda c: c.kind == "number")
    return Found(named, user, session, kind, value)


def ranking(path: Path, found: Found, time: Column, written: tuple[str, str | None]) -> str:
    """The text of the configuration."""
    lines = [
        *head(path, found.item.rows),
        "[event]",
        *time_lines(time.values[0], *written),
        "",
        "[target]",
        'type = "ranking"',
        "",
        "[reco]",
        *_seen(found),
        *_positive(found),
        "",
        "[reco.table]",
        f"# {len(set(found.item.texts)):,} different",
        f"item = {quoted(found.item.name)}",
        f"time = {quoted(time.name)}",
    ]
    for key in ("user", "session", "type", "value"):
        column: Column | None = getattr(found, key)
        if column is not None:
            lines += [f"# a guess by its name; {len(set(column.texts)):,} different"]
            lines += [f"{key} = {quoted(column.name)}"]
    if found.value is not None:
        lines += ["", "# what a user would say of an item is foretold too", "[reco.ratings]"]
    return "\n".join(lines) + "\n"


def _seen(found: Found) -> list[str]:
    """Whether what was taken is shown again, by how often people come back to an item."""
    who = found.user or found.session
    assert who is not None
    whole = len(who.values) == len(found.item.values) == who.rows
    if not whole:
        return [
            "# a guess; rows without a user or an item do not tell whether people come back",
            'seen = "exclude"',
        ]
    again = 1.0 - len(set(zip(who.texts, found.item.texts, strict=True))) / who.rows
    return [
        f"# in {again:.0%} of the rows somebody comes back to an item that he had before",
        f"seen = {quoted('include' if again >= AGAIN else 'exclude')}",
    ]


def _positive(found: Found) -> list[str]:
    """The types of interactions as a comment: which of them count is not guessed."""
    if found.type is None:
        return []
    kinds = dict.fromkeys(sorted(set(found.type.texts)), 1)
    return [
        "# all that users do counts alike; to choose, name what is learned and what it counts for",
        f"# positive = {toml(kinds)}",
    ]

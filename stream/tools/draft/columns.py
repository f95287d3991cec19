"""What the first rows of a file look like, column by column: kinds guessed from values and names.

Knows nothing of a configuration's text. Nothing of the data is executed, and no guess is silent:
each says why.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from models.task import json_text
from stream.decode.coerce import marks_of
from stream.decode.times import BadTime, likely_format, time_rule
from stream.settings.paths import plain_name
from stream.settings.shape import Place

Kind = Literal["number", "boolean", "category", "entity", "text"]
DEEPEST = 8
FEW = 50
"""Different values that a category has at most, if each comes ten times on average."""
_FLAGS = {"y": 1, "n": 0, "yes": 1, "no": 0, "t": 1, "f": 0, "true": 1, "false": 0, "1": 1, "0": 0}
_PATTERNS = tuple(
    f"{day}{clock}"
    for day, between in (
        ("%Y-%m-%d", "T "), ("%d.%m.%Y", " "), ("%m/%d/%Y", " "), ("%d/%m/%Y", " "),
        ("%Y/%m/%d", " "),
    )
    for clock in (
        *(f"{b}{c}" for b in between for c in ("%H:%M:%S", "%H:%M:%S.%f", "%H:%M")), "",
    )
)  # fmt: skip
_KEY = re.compile(
    r"(^|[_.\- ])(id|ids|uuid|key|card|customer|client|user|account|device|merchant|terminal"
    r"|session|item|product|ip|email|phone|iban|pan|hash|num|nr)$|Id$|ID$"
)
_NO_AMOUNT = 10**9
"""Whole numbers from here on count nothing: they are numbers of cards, phones or accounts."""
_PADDED = re.compile(r"[+-]?0\d")
_CODE = re.compile(r"code|type|category|class|mcc|status|kind|channel|country|currency", re.I)


@dataclass(slots=True)
class Column:
    """One place of the rows: its values that are not null, in order, and how many rows there are.

    ``kind``, ``settings`` (beside the kind, as a field has them) and ``why`` are the guess.
    """

    place: Place
    rows: int
    values: list[Any]
    kind: Kind = "text"
    settings: dict[str, Any] = field(default_factory=dict)
    why: str = ""

    @property
    def name(self) -> str:
        """The names with dots between them."""
        return ".".join(map(str, self.place))

    @property
    def texts(self) -> list[str]:
        """The values as text."""
        return [json_text(v) for v in self.values]

    @property
    def unique(self) -> bool:
        """Whether every row has one of its own that can be an id."""
        usable = all(isinstance(v, str | int) and not isinstance(v, bool) for v in self.values)
        texts = self.texts if usable else []
        fits = all(1 <= len(t.encode()) <= 256 for t in texts)
        return len(texts) == self.rows and len(set(texts)) == self.rows and fits

    def tells(self, other: Column) -> bool:
        """Whether each of a few values comes with one value of the other column alone."""
        pairs = set(zip(self.texts, other.texts, strict=False))
        few = len(set(self.texts)) <= min(FEW, self.rows // 10)
        whole = len(self.values) == len(other.values) == self.rows
        return whole and few and len(pairs) == len(set(self.texts)) > 1


def columns_of(rows: Sequence[bytes]) -> tuple[list[Column], list[str]]:
    """The columns of rows that are JSON objects, and sentences about what was left out."""
    found: dict[Place, list[Any]] = {}
    odd: dict[str, None] = {}
    objects = 0
    for row in rows:
        try:
            whole = msgspec.json.decode(row)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            continue
        if isinstance(whole, dict):
            objects += 1
            for place, value in _leaves(whole, (), odd):
                found.setdefault(place, []).append(value)
    arrays = {p for p, values in found.items() if any(isinstance(v, list | dict) for v in values)}
    odd |= dict.fromkeys(
        f"{shown('.'.join(map(str, p)))} holds arrays or objects: name an item of one by its path,"
        " such as items.0.price"
        for p in sorted(arrays, key=str)
    )
    columns = [
        Column(p, objects, [v for v in values if v is not None])
        for p, values in found.items() if p not in arrays
    ]  # fmt: skip
    for column in columns:
        _guess(column)
    return columns, list(odd)


def _leaves(
    node: dict[str, Any], above: Place, odd: dict[str, None]
) -> Iterator[tuple[Place, Any]]:
    for name, value in node.items():
        place = (*above, name)
        try:
            plain_name(name)
        except ValueError:
            odd[f"{shown(name)} has a name that the decoder cannot look for"] = None
            continue
        if above and name.isdecimal():
            odd[f"{shown('.'.join(map(str, place)))} has digits for a name: they mean an index"] = (
                None
            )
        elif isinstance(value, dict) and value and len(place) < DEEPEST:
            yield from _leaves(value, place, odd)
        elif not (isinstance(value, dict) and not value):
            yield place, value


def shown(text: object) -> str:
    """Any value in one line of plain characters, cut."""
    quoted = ascii(text)
    return quoted if len(quoted) <= 60 else quoted[:57] + "..."


def _guess(column: Column) -> None:
    """Kind, settings and why, from the first that fits."""
    values = column.values
    different = len(set(column.texts))
    if not values:
        column.why = "always empty"
    elif all(isinstance(v, bool) for v in values):
        column.kind, column.why = "boolean", "true and false"
    elif all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        _guess_number(column, different)
    elif all(isinstance(v, str) for v in values):
        _guess_text(column, different)
    else:
        column.why = "values of several types"
    if len(values) < column.rows and column.kind != "text":
        column.settings["required"] = False


def _guess_number(column: Column, different: int) -> None:
    whole = all(isinstance(v, int) for v in column.values)
    if whole and _KEY.search(column.name):
        column.kind, column.why = (
            "entity",
            f"whole numbers, {different:,} different, named as a key",
        )
    elif whole and min(column.values) >= _NO_AMOUNT:
        column.kind, column.why = (
            "entity",
            f"whole numbers such as {column.values[0]}, {different:,} different: a key",
        )
    elif whole and different <= FEW and _CODE.search(column.name):
        column.kind, column.why = (
            "category",
            f"whole numbers, {different:,} different, named as a code",
        )
    else:
        column.kind, column.why = (
            "number",
            f"numbers from {min(column.values)} to {max(column.values)}",
        )


def _guess_text(column: Column, different: int) -> None:
    values, n = column.values, len(column.values)
    lower = {v.lower() for v in values}
    # 04109 is a code.
    marks = None if any(_PADDED.match(v) for v in values) else marks_of(values)
    if lower <= _FLAGS.keys() and {_FLAGS[v] for v in lower} == {0, 1}:
        column.kind, column.why = "boolean", f"text: {', '.join(sorted(map(shown, set(values))))}"
        column.settings["values"] = {v: bool(_FLAGS[v.lower()]) for v in sorted(set(values))}
    elif marks and not _KEY.search(column.name) and not _CODE.search(column.name):
        decimal, thousands = marks
        column.kind, column.why = "number", f"numbers in text such as {shown(values[0])}"
        column.settings |= {"decimal": decimal} | ({"thousands": thousands} if thousands else {})
    elif (
        different <= FEW and (n >= 10 * different or not _KEY.search(column.name)) and n > different
    ):
        column.kind, column.why = "category", f"text, {different:,} different of {n:,}"
    elif sum(map(len, values)) > 64 * n or (different == n and not _KEY.search(column.name)):
        column.why = f"text, {different:,} different of {n:,}: nothing to count by"
    else:
        column.kind, column.why = "entity", f"text, {different:,} different of {n:,}: a key"


def moments(column: Column) -> tuple[str, str | None] | None:
    """Format and zone in which all values are moments after 1980; the zone of a pattern is UTC."""
    if not column.values:
        return None
    formats = Counter(likely_format(msgspec.json.encode(v)) for v in column.values)
    if len(formats) == 1 and (name := next(iter(formats))) is not None:
        rule = time_rule(name, None)
        first = rule.read(msgspec.json.encode(column.values[0]))
        return (name, None) if 315_532_800_000 < first < 4_102_444_800_000 else None
    if all(isinstance(v, str) for v in column.values):
        for pattern in _PATTERNS:
            if all(_fits(pattern, v) for v in column.values):
                return pattern, "UTC"
    return None


def _fits(pattern: str, text: str) -> bool:
    try:
        time_rule(pattern, "UTC").to_ms(text)
    except BadTime:
        return False
    return True

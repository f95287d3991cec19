"""Values as a team's systems write them: numbers in text, flags, aliases; each as declared.

Nothing is guessed: what a field's settings do not name is refused, or stays as it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from models.task import json_text
from stream.settings.schema import FieldSettings

Marks = tuple[str, str | None]
"""The decimal mark of a number in text, and what stands between groups of three digits."""
_USUAL: tuple[Marks, ...] = (
    *((".", None), (".", ","), (",", ".")),
    *((",", " "), (".", "'"), (".", " ")),
)
_SHOWN = 40


class BadValue(ValueError):
    """A value that its field does not take."""


def json_values(texts: Iterable[str]) -> list[Any]:
    """The JSON values whose text is one of these, in their order."""
    found: list[Any] = []
    for text in texts:
        if text in ("true", "false"):
            found.append(text == "true")
        if text.removeprefix("-").isdecimal() and str(int(text)) == text:
            found.append(int(text))
        found.append(text)
    return found


def number_pattern(decimal: str, thousands: str | None) -> str:
    """What a number in text looks like, as a regular expression of JSON Schema too.

    A sign, digits in one run or in groups of three, decimals, an exponent.
    """
    whole = "[0-9]+"
    if thousands is not None:
        whole = f"(?:[0-9]{{1,3}}(?:{re.escape(thousands)}[0-9]{{3}})+|[0-9]+)"
    return f"[+-]?{whole}(?:{re.escape(decimal)}[0-9]+)?(?:[eE][+-]?[0-9]+)?"


def marks_of(texts: Collection[str]) -> Marks | None:
    """The first of the usual marks by which each of these is a number; ``None``: none is.

    >>> marks_of(["1.234,5", "7"]), marks_of(["7", "$8"])
    ((',', '.'), None)
    """
    for marks in _USUAL:
        fits = re.compile(number_pattern(*marks)).fullmatch
        if all(map(fits, texts)):
            return marks
    return None


def coercion(field: FieldSettings) -> Callable[[Any], Any] | None:
    """What makes of a field's JSON value the number, boolean or text it stands for.

    ``None`` where it is that already. It raises :class:`BadValue`.

    >>> field = FieldSettings(kind="number", decimal=",", thousands=".")
    >>> read = coercion(field)
    >>> read("1.234,5"), read(7)
    (1234.5, 7)
    """
    if field.kind == "number" and field.decimal is not None:
        return number_in_text(field.decimal, field.thousands)
    if field.values is None:
        return None
    return _flag(field.values) if field.kind == "boolean" else _alias(field.values)


def number_in_text(decimal: str, thousands: str | None) -> Callable[[Any], Any]:
    """What makes a number of a text with these marks; anything else stays as it is."""
    fits = re.compile(number_pattern(decimal, thousands)).fullmatch
    shown = f"1{thousands or ''}234{decimal}5"

    def read(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if fits(value):
            plain = value.replace(thousands, "") if thousands else value
            number = float(plain.replace(decimal, "."))
            if math.isfinite(number):
                return number
        raise BadValue(f"expected a number such as {shown!r}, got {value[:_SHOWN]!r}")

    return read


def _flag(values: Mapping[str, Any]) -> Callable[[Any], bool]:
    flags = {text: bool(flag) for text, flag in values.items()}

    def read(value: Any) -> bool:
        text = json_text(value)
        if text not in flags:
            raise BadValue(f"expected one of {', '.join(flags)}; got {text[:_SHOWN]!r}")
        return flags[text]

    return read


def _alias(values: Mapping[str, Any]) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        text = json_text(value)
        return str(values.get(text, text))

    return read

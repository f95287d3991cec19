"""Fields of requests, items and users, as the members of a ranking see them: numbers, and hashes.

What a record tells of a field that is not configured is passed over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from stream.contract.hashing import hash_text
from stream.decode.coerce import BadValue, coercion
from stream.settings.schema import FieldSettings

NUMBERS = ("number", "boolean")
"""Kinds of fields that are numbers; the others are hashes."""

Told = Mapping[str, float | int | None]
"""Fields by name: float64 of a number, xxh3-64 of a text, ``None`` where a record says null."""


class RowFields:
    """Reads them.

    Parameters
    ----------
    fields : mapping of str to FieldSettings
        :attr:`stream.settings.schema.Config.row_fields`.

    Attributes
    ----------
    missing : dict
        What counts where nobody tells a field: its default, else ``nan`` or 0.

    Examples
    --------
    >>> RowFields({"price": FieldSettings(kind="number")}).read({"price": 3, "colour": "red"})
    {'price': 3.0}
    """

    def __init__(self, fields: Mapping[str, FieldSettings]) -> None:
        read = {name: _reader(f) for name, f in fields.items() if f.kind != "text"}
        self._read: dict[str, Callable[[Any], float | int]] = read
        self.kinds = {name: fields[name].kind for name in read}
        self.missing = {name: _missing(fields[name]) for name in read}

    def read(self, told: Mapping[str, Any]) -> dict[str, float | int | None]:
        """What a record tells; raises :class:`~stream.decode.coerce.BadValue`."""
        found: dict[str, float | int | None] = {}
        for name in self._read.keys() & told.keys():
            value = told[name]
            if isinstance(value, list):
                value = value[0] if value else None
            try:
                found[name] = None if value is None else self._read[name](value)
            except BadValue as error:
                raise BadValue(f"{error} - at `$.fields.{name}`") from error
        return found


def _reader(field: FieldSettings) -> Callable[[Any], float | int]:
    meant = coercion(field) or (lambda value: value)

    def number(value: Any) -> float:
        found = meant(value)
        if isinstance(found, bool) != (field.kind == "boolean") or isinstance(found, str):
            raise BadValue(f"expected a {field.kind}, got {value!r:.80}")
        if not math.isfinite(found):
            raise BadValue(f"expected a number that is finite, got {value!r}")
        return float(found)

    def text(value: Any) -> int:
        # JSON's whole numbers are decoded as those with a fraction here.
        plain = int(value) if isinstance(value, float) and value.is_integer() else value
        found = meant(plain)
        if isinstance(found, bool | float):
            raise BadValue(f"expected text or a whole number, got {value!r:.80}")
        return hash_text(str(found))

    return number if field.kind in NUMBERS else text


def _missing(field: FieldSettings) -> float | int:
    if field.kind in NUMBERS:
        return math.nan if field.default is None else float(field.default)
    return 0 if field.default is None else hash_text(str(field.default))

"""Where a value stands in a JSON object: the paths that settings write, as places.

Knows no event: what stands there is the decoder's to read.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from stream.settings.shape import Place

ITEMS = 100
"""Items of an array that a path can reach: the decoder steps over those before one by one."""
DEEPEST = 32
"""Names and indices in one path."""


def place(path: str) -> Place:
    """The names and indices of a path.

    Names with dots between them, or a JSON pointer (RFC 6901), which begins with a slash and can
    write any name. Digits below the root are an index into an array. Raises ``ValueError``.

    >>> place("items.0.price"), place("/a~1b/c.d")
    (('items', 0, 'price'), ('a/b', 'c.d'))
    """
    pointer = path.startswith("/")
    parts = path[1:].split("/") if pointer else path.split(".")
    if pointer:
        if re.search(r"~(?![01])", path):
            raise ValueError("expected `~0` for a tilde and `~1` for a slash in a JSON pointer")
        parts = [part.replace("~1", "/").replace("~0", "~") for part in parts]
    elif "" in parts:
        raise ValueError("expected names with single dots between them, or a JSON pointer")
    if len(parts) > DEEPEST:
        raise ValueError(f"expected at most {DEEPEST} names")
    return (plain_name(parts[0]), *map(_part, parts[1:]))


def _part(part: str) -> str | int:
    if not re.fullmatch(r"0|[1-9][0-9]*", part):
        return plain_name(part)
    if int(part[:9]) >= ITEMS or len(part) > 9:
        raise ValueError(f"expected an index below {ITEMS}")
    return int(part)


def plain_name(name: str) -> str:
    """The name of a JSON field, if the decoder can look for it; raises ``ValueError``."""
    if re.search(r'["\\\x00-\x1f]', name):
        raise ValueError("expected a name without quotes, backslashes and control characters")
    return name


def _readable(path: str) -> str:
    place(path)
    return path


JsonPath = Annotated[str, AfterValidator(_readable)]
"""A path such as ``customer.id``, ``items.0.price`` or ``/a~1b/c``."""
FieldName = Annotated[str, AfterValidator(plain_name)]
"""The name of a field at the root."""


def pointed(where: Place) -> str:
    """A place as messages of the decoder write it.

    >>> pointed(("items", 0, "price"))
    '$.items[0].price'
    """
    return "$" + "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in where)

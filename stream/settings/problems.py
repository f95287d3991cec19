"""Pydantic's errors as lines for people: ``path: expected ..., got ...``."""

from __future__ import annotations

import difflib
import re
from typing import Any

from pydantic import BaseModel, ValidationError

from stream.settings.shape import Place, locate, models, secrets, tag, written

SHOWN = 60
"""Characters of a wrong value that a line shows."""
_EXPECTED = {
    "tuple_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "string_type": "text",
    "path_type": "a path",
}


def lines(error: ValidationError, root: Any, above: Place = ()) -> list[str]:
    """One line for each mistake in what stands at ``above`` and should be a ``root``."""
    errors = error.errors(include_url=False)
    below = {e["loc"][:n] for e in errors for n in range(len(e["loc"]))}
    # A list is also called too short where its items are wrong.
    told = [e for e in errors if not (e["type"] == "too_short" and e["loc"] in below)]
    return [_line(e, root, above) for e in told]


def _line(error: Any, root: Any, above: Place) -> str:
    kind, loc = error["type"], error["loc"]
    if kind == "extra_forbidden":
        place, node = locate(root, loc[:-1])
        return f"{written((*above, *place, loc[-1]))}: unknown key{_meant(loc[-1], node)}"
    place, node = locate(root, loc)
    path = written((*above, *place))
    if kind == "missing":
        return f"{path}: expected a value, got none; this key is required"
    if kind.startswith("union_tag"):
        known = ", ".join(repr(tag(c)) for c in models(node))
        return f"{path}.type: expected one of {known}, got {_got(error['input'].get('type'))}"
    if kind in _EXPECTED:
        message = f"expected {_EXPECTED[kind]}"
    else:
        message = error["msg"].removeprefix("Value error, ")
        message = re.sub(r"^[A-Z]\w+ should be ", "expected ", message)
        message = re.sub(r"^[A-Z]\w+ should ", "expected to ", message)
        message = re.sub(r" after validation, not \d+$", "", message)
        message = message[0].lower() + message[1:]
    if secrets(root) & {*loc, *secrets(node)}:
        return f"{path}: {message}"  # somebody may have put a secret there
    return f"{path}: {message}, got {_got(error['input'])}"


def _got(value: object) -> str:
    text = "none" if value is None else repr(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def _meant(key: object, node: Any) -> str:
    known = node.model_fields if isinstance(node, type) and issubclass(node, BaseModel) else {}
    close = difflib.get_close_matches(str(key), list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""

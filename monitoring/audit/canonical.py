"""The one byte form of an audit record: RFC 8785 over the types a record may hold.

``trail.py`` hashes and signs these bytes. ``json.dumps`` cannot give them: it sorts keys by code
point instead of by UTF-16 unit and writes ``1e+16`` and ``-0.0``. Never reads JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from models.base import MillraceError

EXACT_INT = 1 << 53
"""Integers beyond this are written as text: a JSON reader with doubles would change them."""


class CanonicalError(MillraceError):
    """A value has no canonical form; the message names its path."""


def canonical(value: Any) -> bytes:
    """The canonical JSON of ``value`` in UTF-8.

    Objects have their keys sorted by UTF-16 code unit (RFC 8785, 3.2.3) and no white space. A float
    is written as the text of ``float.hex()``, so no reader can round it; an integer over 2^53 as
    decimal text.

    Parameters
    ----------
    value : tree of mapping (text keys), list, tuple, str, int, float, bool, None

    Raises
    ------
    CanonicalError
        For any other type, a key that is no text, or text with a lone surrogate.

    >>> canonical({"b": 0.1, "a": [True, None, 2**60]})
    b'{"a":[true,null,"1152921504606846976"],"b":"0x1.999999999999ap-4"}'
    """
    parts: list[str] = []
    _write(value, "record", parts)
    try:
        return "".join(parts).encode()
    except UnicodeEncodeError as error:
        raise CanonicalError(
            f"record: expected Unicode text, got a lone surrogate: {error}"
        ) from error


def _write(value: Any, path: str, parts: list[str]) -> None:
    if value is None:
        parts.append("null")
    elif isinstance(value, bool):
        parts.append("true" if value else "false")
    elif isinstance(value, str):
        parts.append(_text(value))
    elif isinstance(value, int):
        parts.append(str(value) if abs(value) <= EXACT_INT else f'"{value}"')
    elif isinstance(value, float):
        parts.append(f'"{float(value).hex()}"')
    elif isinstance(value, Mapping):
        _write_object(value, path, parts)
    elif isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        for i, item in enumerate(value):
            parts.append("," if i else "[")
            _write(item, f"{path}[{i}]", parts)
        parts.append("]" if value else "[]")
    else:
        raise CanonicalError(
            f"{path}: expected text, a number, true, false, null, a list or a mapping, "
            f"got {type(value).__name__}"
        )


def _write_object(value: Mapping[Any, Any], path: str, parts: list[str]) -> None:
    for key in value:
        if not isinstance(key, str):
            raise CanonicalError(f"{path}: expected text as a key, got {key!r}")
    # UTF-16 big endian bytes sort as the code units do.
    ordered = sorted(value, key=lambda k: k.encode("utf-16-be", "surrogatepass"))
    for i, key in enumerate(ordered):
        parts.append("," if i else "{")
        parts.append(_text(key) + ":")
        _write(value[key], f"{path}.{key}", parts)
    parts.append("}" if value else "{}")


def _text(text: str) -> str:
    # Python escapes exactly what RFC 8785, 3.2.2.2, asks for: quote, backslash and controls, the
    # short forms where they exist, lower-case \u00xx elsewhere.
    return json.dumps(text, ensure_ascii=False)

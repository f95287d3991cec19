"""What reaches a terminal: every text as the text that it is, whoever wrote it.

Names, keys and values of records, files and models are written by others. None of them is read as
markup, moves the cursor, hides or reorders what stands beside it, or begins a line of its own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def plain(value: object) -> str:
    r"""A value's text in one line of characters that show themselves; others as escapes.

    >>> plain("a\x1b[2J\n\u202eb")
    'a\\u001b[2J\\n\\u202eb'
    """
    text = str(value)
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    code = ord(character)
    return _SHORT.get(character) or (f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")


def styled(value: object, style: str) -> Text:
    """The same in a style of rich's, such as ``"bold red"``."""
    return Text(plain(value), style)


def in_json(value: object) -> str:
    """One JSON document in ASCII; what is no finite number is null, as JSON has none.

    >>> in_json([float("nan"), 0.5]).split()
    ['[', 'null,', '0.5', ']']
    """
    return json.dumps(_finite(value), indent=2, allow_nan=False).replace("\x7f", "\\u007f")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Terminal(Console):
    """A console on which text is no markup: rich asks :meth:`render_str` about each.

    A line of output is one ``print``: a line break in a text is shown, not made.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, soft_wrap=True, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """The text, :func:`plain`."""
        return super().render_str(plain(text), **(options | {"markup": False, "emoji": False}))

"""What a training came to, as its process says it."""

from __future__ import annotations

import msgspec


class Answer(msgspec.Struct):
    """A digest with what speaks for it, or why there is none."""

    digest: str = ""
    figures: dict[str, float] = {}
    refused: str = ""

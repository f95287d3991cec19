"""What a training, or a rebuild, came to, as its process says it."""

from __future__ import annotations

import msgspec


class Answer(msgspec.Struct):
    """A digest with what speaks for it, or why there is none.

    ``upto``: the step up to which the model has learned the history, as of ``Install``.
    """

    digest: str = ""
    figures: dict[str, float] = {}
    refused: str = ""
    upto: int = 0

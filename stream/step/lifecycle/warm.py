"""Members that are new learn what was learned before them, from the history, at the step they come.

In order, as they would have learned it had they been there; what they would have said then nobody
knows, so the combiner learns nothing of it. How much is bounded by rows, never by a clock: the same
in every replay.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from models.base import FeatureBatch, FeatureSchema
from models.ensemble.ensemble import Ensemble, MemberError
from stream.step.lifecycle.history import History, Learned

ROWS = 16_384
"""The newest so many. Nothing is scored meanwhile: forest and boosting took 90 ms of a core over 21
columns, a linear model 5."""
SLOW_ROWS = 256
"""Of members in Python, which share them: River's adaptive forest took .42 ms of a core a row."""


def warmed(
    ensemble: Ensemble, schema: FeatureSchema, history: History, names: Collection[str]
) -> dict[str, dict[str, Any]]:
    """Teach these members the newest :data:`ROWS` of the history; says what each has learned.

    Those in Python share :data:`SLOW_ROWS`. One that fails begins as if there were no history.
    """
    told: dict[str, dict[str, Any]] = {}
    slow = [name for name in names if not ensemble.members[name].unlocked_us]
    for name in names:
        rows = max(1, SLOW_ROWS // len(slow)) if name in slow else ROWS
        if not (parts := newest(history, rows)):
            break
        number = 0
        try:
            for part in parts:
                x = FeatureBatch(
                    schema,
                    np.ascontiguousarray(part.rows["dense"]),
                    np.ascontiguousarray(part.rows["hashed"]),
                )
                y, w = np.ascontiguousarray(part.y), np.ascontiguousarray(part.w)
                number += ensemble.warm(name, number, x, y, w)
        except MemberError:
            ensemble.renew(name, 0)
            continue
        told[name] = {"rows": number, "first": int(parts[0].seq[0]), "last": int(parts[-1].seq[-1])}
    return told


def newest(history: History, rows: int) -> list[Learned]:
    """The newest rows of a history, at most so many, oldest first."""
    found: list[Learned] = []
    for part in reversed(list(history.learned())):
        at = max(0, len(part.seq) - rows)
        found.append(Learned(part.members, part.rows[at:], part.y[at:], part.w[at:], part.seq[at:]))
        rows -= len(part.seq) - at
        if not rows:
            break
    return found[::-1]

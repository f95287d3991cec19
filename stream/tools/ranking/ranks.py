"""What a run of rankings leaves: the rank of each item that was taken, and its course."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.base import BOOL, I64

WARM = 0.1
"""Share of the positives that comes before the first that is scored."""


class Course(NamedTuple):
    """Where a run stood: positives so far, the stack's weights, seconds since it began."""

    positives: int
    weights: dict[str, float]
    seconds: float


class Ranks(NamedTuple):
    """The positives of a run in order: columns are the ranking's, then the members'."""

    names: tuple[str, ...]
    row: I64
    time_ms: I64
    ranks: NDArray[Any]
    history: NDArray[Any]

    @property
    def scored(self) -> BOOL:
        """Which of them count."""
        late = np.arange(len(self.row)) >= len(self.row) * WARM
        found: BOOL = late & (self.history > 0)
        return found

"""What a run leaves of ratings: each as it was given, and as it had been foretold."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from models.base import BOOL, F64
from monitoring.quality.rated import METRICS
from stream.tools.ranking.ranks import WARM


class Foretold(NamedTuple):
    """The ratings of a run in order: ``value`` ``(n,)``, and what each of ``names`` had said of
    them, ``rated`` ``(n, 1 + m)``, the rating that is shown first."""

    names: tuple[str, ...]
    value: F64
    rated: F64

    @property
    def late(self) -> BOOL:
        """Which of them count, whoever gave them: those from a tenth on that were foretold."""
        late = np.arange(len(self.value)) >= len(self.value) * WARM
        found: BOOL = late & np.isfinite(self.rated).all(axis=1)
        return found

    @property
    def scored(self) -> int:
        """How many count."""
        return int(self.late.sum())


def errors(found: Foretold) -> dict[str, dict[str, float | None]]:
    """Each one's root mean squared and mean absolute error over the ratings that count."""
    off = (found.rated - found.value[:, None])[found.late]
    if not len(off):
        return {name: dict.fromkeys(METRICS) for name in found.names}
    values = zip(np.sqrt(np.square(off).mean(0)), np.abs(off).mean(0), strict=True)
    return {
        name: dict(zip(METRICS, (round(float(v), 6) for v in pair), strict=True))
        for name, pair in zip(found.names, values, strict=True)
    }

"""How good foretold ratings are, beside how good rankings are.

Each rating was foretold before it was learned. Errors are kept as those of any numbers
(``numbers.py``); two of their metrics are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.base import F64
from models.task import Number
from monitoring.quality.numbers import NumberQuality, NumberSnapshot
from monitoring.quality.ranks import Figures, RankQuality, RankSnapshot

METRICS = ("rmse", "mae")
"""In the order in which they are shown."""
_SHOWN = (*METRICS, "effective_samples")


class RatingQuality(NumberQuality):
    """Errors of the ratings and of the members that foretell them.

    Parameters
    ----------
    names : sequence of str
        The rating that is shown, then the members.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(names, Number())

    def judge(self, foretold: F64, value: F64) -> None:
        """Take what was foretold, ``(n, 1 + m)``, and given, ``(n,)``; ``nan``: nothing was."""
        both = np.isfinite(value) & np.isfinite(foretold[:, 0])
        said, truth = foretold[both], value[both]
        self.update(said[:, :, None], truth, np.zeros(len(truth), np.bool_))


class RankedAndRated:
    """Both qualities of a shard, as one for who reads: ratings' scorers stand behind rankings'."""

    def __init__(self, ranked: RankQuality, rated: RatingQuality) -> None:
        self._ranked, self._rated = ranked, rated

    def snapshot(self) -> BothSnapshot:
        """A copy that another thread may keep and read."""
        return BothSnapshot(self._ranked.snapshot(), self._rated.snapshot())

    def report(self) -> Figures:
        """Every metric of every window."""
        return self.snapshot().report()


@dataclass(frozen=True, slots=True)
class BothSnapshot:
    """What both qualities held at one moment."""

    ranked: RankSnapshot
    rated: NumberSnapshot

    @property
    def names(self) -> tuple[str, ...]:
        """The rankings' scorers, then the ratings'."""
        return (*self.ranked.names, *self.rated.names)

    def report(self) -> Figures:
        """Every metric of every window."""
        return self.ranked.report() | {
            name: {window: _shown(found) for window, found in windows.items()}
            for name, windows in self.rated.report().items()
        }

    def fading(self, name: str) -> dict[str, float]:
        """See :meth:`monitoring.quality.tasks.Snapshot.fading`."""
        if name in self.rated.names:
            return _shown(self.rated.fading(name))
        return self.ranked.fading(name)

    def outcomes(self) -> dict[str, int]:
        """How many interactions were ranked and judged since the start."""
        return self.ranked.outcomes()

    def precision_at_budget(self, budget: float) -> dict[str, float]:
        """Nothing alerts."""
        return {}


def _shown(found: dict[str, float]) -> dict[str, float]:
    return {metric: found[metric] for metric in _SHOWN}

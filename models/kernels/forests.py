"""Trees of a forest under watch: on a warning a background tree, on a drift that in its place.

Gomes et al. (2017, "Adaptive random forests for evolving data stream classification"). A forest of
``t`` trees has ``2t`` roots, the background trees behind the trees, -1 where there is none; and
``2t`` detectors, the warning at ``2i`` and the drift at ``2i + 1``. Nothing here is allocated.
"""

from __future__ import annotations

from numba import njit

from models.base import F64, I64
from models.kernels.adwin import Adwins, adwin_reset, adwin_update
from models.kernels.common import HELPER, RARE
from models.kernels.trees import Trees, free_tree, leaves_left, new_tree

WARNINGS, DRIFTS = range(2)


@njit(**RARE)
def _begin_background(i: int, root: I64, t: Trees) -> None:
    behind = len(root) // 2 + i
    if root[behind] >= 0:
        free_tree(root[behind], t)
    root[behind] = new_tree(t) if leaves_left(t) > 0 else -1


@njit(**RARE)
def _replace(i: int, root: I64, adwin: Adwins, t: Trees) -> None:
    behind = len(root) // 2 + i
    free_tree(root[i], t)
    root[i] = root[behind] if root[behind] >= 0 else new_tree(t)
    root[behind] = -1
    adwin_reset(2 * i, adwin)


@njit(**HELPER)
def watch(
    i: int, error: float, falls: bool, deltas: F64, root: I64, events: I64, adwin: Adwins, t: Trees
) -> bool:
    """Show tree ``i``'s error, 0 to 1, to its detectors; whether another tree took its place.

    A rise of the error is a change; a fall is one if ``falls``.
    """
    change = adwin_update(2 * i, error, deltas[WARNINGS], 0.0, adwin)
    if change > 0 or (falls and change < 0):
        events[WARNINGS] += 1
        _begin_background(i, root, t)
    change = adwin_update(2 * i + 1, error, deltas[DRIFTS], 0.0, adwin)
    if change > 0 or (falls and change < 0):
        events[DRIFTS] += 1
        _replace(i, root, adwin, t)
        return True
    return False

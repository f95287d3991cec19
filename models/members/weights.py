"""A number for each class of a target, as settings give it: by the label's value."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from models.base import F64, MillraceError
from models.task import Task


class WeightsError(MillraceError):
    """A setting names what is no class of the target."""


def by_class(key: str, given: Mapping[str, float], task: Task) -> F64:
    """The number of each class, by its truth; 1 where none is given. ``key``: of the setting.

    A class that may come to an open target has 1 until it does.
    """
    numbers = np.ones(max(task.k, 2))
    for name, number in given.items():
        y = task.truth(name)
        if not np.isnan(y):
            numbers[int(y)] = number
        elif task.newcomer(name) is None:
            raise WeightsError(f"{key}: expected {task.expected}; got {name!r}")
    return numbers

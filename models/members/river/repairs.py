"""Two habits of River that a replay cannot live with, mended when this module is imported.

1. A set of text is walked in an order that depends on its history, and a restored set has another
   history, even under one ``PYTHONHASHSEED``. ``compose.Select`` hands on its columns in that order
   and a tree breaks the tie between two categories by it. Both get a set that keeps the order of
   arrival.
2. Every distribution (each leaf of a tree and each feature of a naive Bayes has some) holds a
   generator of its own, unseeded and never drawn from: 2.5 kB each, other bits in every run. It is
   made only when somebody draws.

Results of River's estimators stay what they are, but for the ties.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, MutableSet
from types import SimpleNamespace
from typing import Any

import river.compose.select
import river.proba.base
import river.tree.splitter.nominal_splitter_classif


class OrderedSet(MutableSet[Any]):
    """A set that is walked in the order of arrival, also after a save and a restore."""

    def __init__(self, items: Iterable[Any] = ()) -> None:
        self._items = dict.fromkeys(items)

    def __contains__(self, item: object) -> bool:
        return item in self._items

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def add(self, value: Any) -> None:
        """Add at the end, unless it is there."""
        self._items[value] = None

    def discard(self, value: Any) -> None:
        """Take away if it is there."""
        self._items.pop(value, None)


class Unseeded:
    """Stands for ``random.Random()`` and holds nothing: every draw comes from the system."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(random.SystemRandom(), name)


def _generator(seed: Any = None) -> random.Random | Unseeded:
    return Unseeded() if seed is None else random.Random(seed)


# River looks these names up in its modules when it runs: a name of the module hides the builtin.
for _module in (river.compose.select, river.tree.splitter.nominal_splitter_classif):
    vars(_module)["set"] = OrderedSet
vars(river.proba.base)["random"] = SimpleNamespace(Random=_generator)

"""The stack of a ranking: its weights beside a plain reading, and what it is worth."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.ranking.__main__ import TASTES
from benchmarks.ranking.guard import NOISE, beside
from models.base import F64
from models.kernels.reco.stack import (
    AS_IT_IS,
    BY_GAP,
    BY_SIZE,
    CONTEXTS,
    DRIFT,
    OWN_DRIFT,
    OWN_SPREAD,
    SPREAD,
    combine,
    learn_stack,
    stack,
)

ROWS, ITEMS = 3, 12


class Plain:
    """Weights by the extended Kalman filter, whole matrices, a block for each context."""

    def __init__(self) -> None:
        self.weights = np.zeros((1 + CONTEXTS, ROWS))
        self.weights[0, :2] = 0.5
        self._most = np.repeat([SPREAD, OWN_SPREAD], [ROWS, CONTEXTS * ROWS])
        self._drift = np.repeat([DRIFT, OWN_DRIFT], [ROWS, CONTEXTS * ROWS])
        self.spread = np.diag(self._most)

    def utility(self, said: F64, context: tuple[int, int]) -> F64:
        """``said`` ``(items, rows)``."""
        found: F64 = said @ self.weights[[0, 1 + context[0], 1 + context[1]]].sum(0)
        return found

    def learn(self, said: F64, context: tuple[int, int], chosen: int, weight: float) -> None:
        """A choice."""
        here = np.zeros(1 + CONTEXTS)
        here[[0, 1 + context[0], 1 + context[1]]] = 1.0
        likely = np.exp(self.utility(said, context))
        slope = np.kron(here, likely / likely.sum() @ said - said[chosen])
        moved = np.repeat(here, ROWS)
        fresh = np.minimum(np.diag(self.spread) + self._drift, self._most)
        np.fill_diagonal(self.spread, np.where(moved, fresh, np.diag(self.spread)))
        known = np.linalg.inv(self.spread) + weight * np.outer(slope, slope)
        self.spread = np.linalg.inv(known)
        self.weights -= (self.spread @ (weight * slope)).reshape(self.weights.shape)


def test_a_choice_moves_the_weights_as_a_kalman_filter_does() -> None:
    """Of choices by weights that differ by context, learned with different weights of rows."""
    rng = np.random.default_rng(5)
    a, plain = stack([0, 1], [AS_IT_IS] * ROWS, ITEMS), Plain()
    a.candidates[:] = np.arange(ITEMS)
    truth = np.array([1.0, -0.5, 0.3])
    for _ in range(300):
        said = rng.normal(size=(ITEMS, ROWS)).astype(np.float32).astype(np.float64)
        context = (int(rng.integers(BY_SIZE)), BY_SIZE + int(rng.integers(BY_GAP)))
        chosen = int(np.argmax(said @ (truth + 0.1 * context[0]) + rng.gumbel(size=ITEMS)))
        weight = float(rng.choice([0.5, 1.0, 3.0]))
        a.scores[:] = said.T
        combine(a, context, ITEMS)
        np.testing.assert_allclose(a.utility, plain.utility(said, context), atol=2e-4)
        learn_stack(a, context, ITEMS, chosen, weight)
        plain.learn(said, context, chosen, weight)
    np.testing.assert_allclose(a.shared, plain.weights[0], atol=1e-4)
    np.testing.assert_allclose(a.own, plain.weights[1:], atol=1e-4)
    np.testing.assert_allclose(a.spread, plain.spread, atol=1e-5)
    assert np.abs(plain.weights[0] - truth).max() < 0.5


def test_a_row_that_says_nothing_stays_as_uncertain_as_it_was() -> None:
    """However many choices pass: else it would take over when it first says something."""
    a = stack([0, 1], [AS_IT_IS] * ROWS, ITEMS)
    a.candidates[:] = np.arange(ITEMS)
    a.scores[0] = np.arange(ITEMS)
    for i in range(200_000):
        combine(a, (0, BY_SIZE), ITEMS)
        learn_stack(a, (0, BY_SIZE), ITEMS, i % ITEMS, 1.0)
    assert a.spread[1, 1] == SPREAD
    assert (a.shared[1], a.own[0, 1]) == (0.5, 0.0)


@pytest.mark.parametrize("shape", ["popularity", "sparse", "trend", "chain"])
def test_the_stack_is_not_worse_than_its_best_member(shape: str) -> None:
    """Also of one that only popularity drives, where two members know little.

    The best is known once all is over: where several are as good it is ahead by chance.
    """
    members = NOISE if shape == "popularity" else TASTES
    gained = [beside(shape, seed, 6_000, members)["hit_10"] for seed in (21, 22, 23)]
    assert np.mean(gained) > (-0.001 if shape == "popularity" else 0.005), gained

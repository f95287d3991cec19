"""Lists that are drawn: how often each comes, and what their propensities say of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import permutations
from math import exp, prod

import numpy as np
import pytest

from models.reco.explore import best, drafted, explored
from models.reco.settings import ExploreSettings

LOGITS = np.array([1.2, 0.3, 0.0, -1.0])
DRAWS = 6000


def by_epsilon(order: tuple[int, ...]) -> list[float]:
    """The propensities of a list, one place at a time, at an epsilon of .4."""
    left, found = [0, 1, 2, 3], []
    for item in order:
        found.append(0.6 * (item == left[0]) + 0.4 / len(left))
        left.remove(item)
    return found


def by_temperature(order: tuple[int, ...]) -> list[float]:
    """The same of Plackett and Luce's choices, at a temperature of 2."""
    left, found = {0, 1, 2, 3}, []
    for item in order:
        found.append(exp(LOGITS[item] / 2) / sum(exp(LOGITS[j] / 2) for j in left))
        left.remove(item)
    return found


@pytest.mark.parametrize(
    ("explore", "plain"),
    [
        (ExploreSettings(epsilon=0.4), by_epsilon),
        (ExploreSettings(temperature=2.0), by_temperature),
    ],
)
@pytest.mark.parametrize("k", [1, 2, 4])
def test_lists_come_as_often_as_their_propensities_say(
    explore: ExploreSettings, plain: Callable[[tuple[int, ...]], list[float]], k: int
) -> None:
    """Each of all the lists there are: its places' propensities multiply to its probability."""
    came: Counter[tuple[int, ...]] = Counter()
    for seed in range(DRAWS):
        drawn = explored(explore, LOGITS, k, seed * 7919)
        order = tuple(drawn.order.tolist())
        came[order] += 1
        np.testing.assert_allclose(drawn.propensity, plain(order), rtol=1e-12)
    every = list(permutations(range(4), k))
    chances = np.array([prod(plain(order)) for order in every])
    assert chances.sum() == pytest.approx(1.0)
    shares = np.array([came[order] for order in every]) / DRAWS
    error = np.sqrt(chances * (1 - chances) / DRAWS)
    assert np.all(np.abs(shares - chances) < 4 * error)


OTHER = np.array([-0.5, 0.9, 0.8, 0.1])
"""Of a second ranking: 1, 2, 3, 0."""


def next_by(explore: ExploreSettings | None, logits: np.ndarray, left: list[int]) -> list[float]:
    """How likely a ranking fills its next place by each of those that are left."""
    if explore is not None and explore.temperature is not None:
        weights = [exp(logits[j] / explore.temperature) for j in left]
        return [weight / sum(weights) for weight in weights]
    epsilon = 0.0 if explore is None or explore.epsilon is None else explore.epsilon
    best = max(left, key=lambda j: logits[j])
    return [(1 - epsilon) * (j == best) + epsilon / len(left) for j in left]


@pytest.mark.parametrize(
    "explore", [None, ExploreSettings(epsilon=0.4), ExploreSettings(temperature=2.0)]
)
def test_two_rankings_fill_places_by_a_coin(explore: ExploreSettings | None) -> None:
    """Lists come as often as their propensities say, and each place tells whose it rather is."""
    came: Counter[tuple[int, ...]] = Counter()
    chances: dict[tuple[int, ...], float] = {}
    for seed in range(DRAWS):
        drawn = drafted(explore, np.column_stack([LOGITS, OTHER]), 3, seed * 7919)
        order, left, found = tuple(drawn.order.tolist()), [0, 1, 2, 3], []
        came[order] += 1
        for item in order:
            a, b = (next_by(explore, of, left)[left.index(item)] for of in (LOGITS, OTHER))
            found.append(((a + b) / 2, (b - a) / (a + b)))
            left.remove(item)
        np.testing.assert_allclose(np.stack([drawn.propensity, drawn.side], axis=1), found)
        chances[order] = prod(chance for chance, _ in found)
    assert sum(chances.values()) == pytest.approx(1.0)
    for order, chance in chances.items():
        error = np.sqrt(chance * (1 - chance) / DRAWS)
        assert abs(came[order] / DRAWS - chance) < 5 * error


def test_one_seed_draws_one_list() -> None:
    """However long: a shorter one is its beginning."""
    for explore in (ExploreSettings(epsilon=0.5), ExploreSettings(temperature=1.0)):
        whole = explored(explore, LOGITS, 4, 5)
        short = explored(explore, LOGITS, 2, 5)
        assert whole.order[:2].tolist() == short.order.tolist()
        assert whole.propensity[:2].tolist() == short.propensity.tolist()


def test_a_low_temperature_draws_the_best() -> None:
    """With propensities near 1, and no overflow however far the logits lie apart."""
    low, far = ExploreSettings(temperature=1e-3), np.array([3e4, 0.0, -3e4])
    both = drafted(low, np.column_stack([far, far]), 3, 1)
    assert (both.order.tolist(), both.side.tolist()) == ([0, 1, 2], [0.0, 0.0, 0.0])
    drawn = explored(low, far, 3, 1)
    assert drawn.order.tolist() == [0, 1, 2]
    assert drawn.propensity.tolist() == [1.0, 1.0, 1.0]


def test_of_no_candidates_nothing_is_drawn() -> None:
    """Nor of fewer than there are places more than there are."""
    for explore in (ExploreSettings(epsilon=1.0), ExploreSettings(temperature=1.0)):
        assert len(explored(explore, np.zeros(0), 5, 1).order) == 0
        assert sorted(explored(explore, np.zeros(3), 5, 1).order.tolist()) == [0, 1, 2]
    assert best(3, 5).order.tolist() == [0, 1, 2]


@pytest.mark.parametrize("given", [{}, {"epsilon": 0.1, "temperature": 1.0}])
def test_one_way_of_drawing_is_said(given: dict[str, float]) -> None:
    """None, or both, is a mistake."""
    with pytest.raises(ValueError, match="expected one of epsilon and temperature"):
        ExploreSettings(**given)

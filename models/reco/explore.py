"""Exploration: lists that are drawn, and the probability with which each place was filled as it is.

Places are filled one after the other from what is left, so that the probabilities of a list's
places multiply to that of the list. What is drawn follows from the seed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.base import F64, I64
from models.kernels.common import numbers
from models.reco.settings import ExploreSettings


class Drawn(NamedTuple):
    """The candidates of a list's places, int64 ``(k,)``, and their propensities, float64 ``(k,)``:
    the probability that the candidate stands at its place, given those above it."""

    order: I64
    propensity: F64


def best(n: int, k: int) -> Drawn:
    """The first ``k`` of ``n`` candidates, as they stand: nothing is drawn."""
    return Drawn(np.arange(min(n, k)), np.ones(min(n, k)))


def explored(settings: ExploreSettings, logits: F64, k: int, seed: int) -> Drawn:
    """Draw a list of ``k`` of the candidates, which stand best first.

    With ``epsilon`` a place is filled by the best that is left, but with this probability by any
    of those left, each as likely. With ``temperature`` by one of those left as likely as
    ``exp(logit / temperature)`` says: Plackett [1]_ and Luce, drawn at once by adding Gumbel's
    noise.

    Parameters
    ----------
    settings : ExploreSettings
    logits : (n,) float64
        Logarithms of how likely each candidate is to be taken, up to a constant.
    k : int
        Places, at most.
    seed : int
        Of what is drawn, a uint64.

    References
    ----------
    .. [1] R. L. Plackett, "The analysis of permutations", Applied Statistics 24(2), 1975.
    """
    if settings.temperature is not None:
        return _by_logits(logits / settings.temperature, k, seed)
    assert settings.epsilon is not None
    return _by_epsilon(settings.epsilon, len(logits), k, seed)


class Drafted(NamedTuple):
    """As :class:`Drawn`; ``side`` float64 ``(k,)``: how much rather the second ranking fills the
    place so than the first does, within -1 and 1."""

    order: I64
    propensity: F64
    side: F64


def drafted(settings: ExploreSettings | None, logits: F64, k: int, seed: int) -> Drafted:
    """Fill ``k`` places in turn by one of two rankings, whichever a coin says.

    Whose items are taken more often is the better one, whatever users look at: each has the same
    chance at each place (interleaving [1]_, with the probabilistic credit of [2]_). Without
    ``settings`` a ranking fills a place by its best that is left.

    Parameters
    ----------
    settings : ExploreSettings or None
    logits : (n, 2) float64
        Of both rankings; of equals the first stands first.
    k, seed
        As of :func:`explored`.

    References
    ----------
    .. [1] F. Radlinski, M. Kurup and T. Joachims, "How does clickthrough data reflect retrieval
       quality?", CIKM 2008.
    .. [2] K. Hofmann, S. Whiteson and M. de Rijke, "A probabilistic method for inferring
       preferences from clicks", CIKM 2011.
    """
    left = np.arange(len(logits))
    order, propensity, side = [], [], []
    for coin in _uniform(seed, min(k, len(left))).tolist():
        first, second = (_chances(settings, of[left]) for of in logits.T)
        both = 0.5 * (first + second)
        upto = np.cumsum(both)
        at = int(np.searchsorted(upto, coin * upto[-1], side="right"))
        order.append(left[at])
        propensity.append(both[at])
        side.append(0.5 * (second[at] - first[at]) / both[at])
        left = np.delete(left, at)
    return Drafted(np.array(order, np.int64), np.array(propensity), np.array(side))


def _chances(settings: ExploreSettings | None, logits: F64) -> F64:
    """How likely each of these is the next that a ranking shows."""
    if settings is not None and settings.temperature is not None:
        tempered = logits / settings.temperature
        chances: F64 = np.exp(tempered - np.logaddexp.reduce(tempered))
        return chances
    epsilon = 0.0 if settings is None or settings.epsilon is None else settings.epsilon
    chances = np.full(len(logits), epsilon / len(logits))
    chances[logits.argmax()] += 1.0 - epsilon
    return chances


def _by_logits(logits: F64, k: int, seed: int) -> Drawn:
    gumbel = -np.log(-np.log(_uniform(seed, len(logits))))
    order = np.argsort(-(logits + gumbel), kind="stable")
    drawn = logits[order]
    left = np.logaddexp.accumulate(drawn[::-1])[::-1]
    return Drawn(order[:k], np.exp(np.minimum(drawn - left, 0.0))[:k])


def _by_epsilon(epsilon: float, n: int, k: int, seed: int) -> Drawn:
    k = min(n, k)
    uniform = _uniform(seed, 2 * k).reshape(k, 2).tolist()
    left, order, propensity = list(range(n)), [], []
    for whether, which in uniform:
        at = int(which * len(left)) if whether < epsilon else 0
        propensity.append((1.0 - epsilon) * (at == 0) + epsilon / len(left))
        order.append(left.pop(at))
    return Drawn(np.array(order, np.int64), np.array(propensity))


def _uniform(seed: int, n: int) -> NDArray[np.float64]:
    """``n`` numbers within 0 and 1, neither of them among these."""
    drawn: F64 = ((numbers(seed, n) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return drawn

"""Which items of a large catalogue are candidates, against sorting all of them."""

from __future__ import annotations

import numpy as np
import pytest

from models.base import F32
from models.kernels.reco.stack import AS_IT_IS, SHARE, TOP, add_best, stack

RNG = np.random.default_rng(5)
N = 5_003
SCORES = {
    "all differ": RNG.standard_normal(N),
    "many tie": RNG.integers(0, 6, N),
    "all tie": np.ones(N),
    "few count": np.where(RNG.random(N) < 0.01, RNG.random(N), 0.0),
    "the best come last": np.arange(N),
    "the best come first": -np.arange(N),
    "nothing counts": np.zeros(N),
}


@pytest.mark.parametrize("kind", [SHARE, AS_IT_IS])
@pytest.mark.parametrize("share", [1.0, 0.5, 0.02])
@pytest.mark.parametrize("scores", SCORES.values(), ids=SCORES)
def test_the_best_of_what_is_shown_are_candidates(scores: F32, share: float, kind: int) -> None:
    """In the order of the items, of equals the first, each once; of shares only what has one."""
    a = stack([0], [kind], N)
    a.scores[0] = scores
    shown = (np.random.default_rng(6).random(N) < share).astype(np.uint8)
    shown[3] = 2 * shown[3]  # a candidate already
    able = np.flatnonzero((shown > 0) & ((a.scores[0] > 0.0) | (kind != SHARE)))
    best = np.sort(able[np.argsort(-a.scores[0][able], kind="stable")[:TOP]])
    expected = best[shown[best] == 1]
    n = add_best(a, 0, shown, N, 0)
    assert a.candidates[:n].tolist() == expected.tolist()
    assert (shown[best] == 2).all()

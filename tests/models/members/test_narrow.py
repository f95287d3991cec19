"""A member that sees some of the columns."""

from __future__ import annotations

import numpy as np
import pytest

from models.base import FeatureBatch, FeatureSchema, HashedColumn
from models.members import catalogue
from models.members.narrow import Narrow
from monitoring.parameters.count import count

WHOLE = FeatureSchema(("a", "b", "c"), (HashedColumn("k", 8), HashedColumn("l", 16)))
OWN = FeatureSchema(("c", "a"), (HashedColumn("l", 16),))


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("logistic", {}),
        ("crossed", {}),
        ("forest", {}),
        ("forest", {"arenas": 3}),
        ("boosting", {}),
    ],
)
def test_it_is_the_member_over_its_own_columns(name: str, params: dict[str, int]) -> None:
    """Scores, state, parameters and digest are those of the member that was given nothing else."""
    rng = np.random.default_rng(3)
    alone, seeing = (catalogue.build(name, params, OWN, 7) for _ in range(2))
    narrow = Narrow(seeing, OWN, WHOLE)
    for _ in range(4):
        dense = rng.normal(size=(50, 3)).astype(np.float32)
        hashed = rng.integers(0, 8, (50, 2)).astype(np.uint32)
        own = FeatureBatch(OWN, dense[:, [2, 0]].copy(), hashed[:, 1:].copy())
        whole, y = FeatureBatch(WHOLE, dense, hashed), (dense[:, 0] > 0).astype(np.float64)
        assert np.array_equal(narrow.score(whole), alone.score(own))
        parts = narrow.parts()
        assert np.array_equal(narrow.joined([p.score(whole) for p in parts]), alone.score(own))
        for part in parts:
            part.learn(whole, y, np.ones(50))
        alone.learn(own, y, np.ones(50))
    assert narrow.digest() == alone.digest()
    assert count(narrow).totals == count(alone).totals
    assert narrow.parameters() == alone.parameters()
    assert narrow.skipped == alone.skipped
    again = Narrow(catalogue.build(name, params, OWN, 7), OWN, WHOLE)
    again.restore(narrow.state())
    assert again.digest() == narrow.digest()

"""What scoring needs of a member, apart from what learning does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from models.base import FeatureBatch, FeatureSchema, HashedColumn, state_digest
from models.members import catalogue
from models.task import Binary, Classes, Number, Task

SCHEMA = FeatureSchema(("a", "b", "c"), (HashedColumn("k", 8),))
TASKS: dict[str, Task] = {
    "binary": Binary(),
    "classes": Classes(("x", "y", "z")),
    "number": Number(),
}


def rows(rng: np.random.Generator, n: int) -> FeatureBatch:
    """Rows of three numbers and a code."""
    dense = rng.normal(size=(n, 3)).astype(np.float32)
    return FeatureBatch(SCHEMA, dense, rng.integers(0, 8, (n, 1)).astype(np.uint32))


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize(
    ("name", "params"),
    [(name, {}) for name in ("logistic", "crossed", "forest", "boosting", "constant")]
    + [("forest", {"arenas": 2})],
)
def test_who_takes_a_view_over_scores_as_who_gave_it(
    name: str, params: dict[str, Any], kind: str
) -> None:
    """Bit for bit, again and again, while the one who gives it learns through a change."""
    rng, task = np.random.default_rng(5), TASKS[kind]
    giver, taker = (catalogue.build(name, params, SCHEMA, 7, task) for _ in range(2))
    told = catalogue.build(name, params, SCHEMA, 7, task)
    for i in range(6):
        x = rows(rng, 800)
        shown = x.dense[:, 0] + x.dense[:, 1] * (x.hashed[:, 0] > 3) * (1 if i < 4 else -1)
        y = {
            "binary": shown > 0,
            "classes": np.digitize(shown, [-0.5, 0.5]),
            "number": 100 + 30 * shown,
        }[kind].astype(np.float64)
        giver.learn(x, y, np.ones(len(x)))
        view, fresh = giver.view(), rows(rng, 100)
        taker.restore_view(view)
        assert np.array_equal(taker.score(fresh), giver.score(fresh))
        assert state_digest(taker.view()) == state_digest(view)
        # And from a checkpoint of who took it over.
        told.restore(taker.state())
        assert np.array_equal(told.score(fresh), giver.score(fresh))
    assert len(state_bytes(view)) <= len(state_bytes(giver.state()))


def state_bytes(state: object) -> bytes:
    """All arrays of a state, one after another."""
    if isinstance(state, dict):
        return b"".join(state_bytes(value) for value in state.values())
    if isinstance(state, list):
        return b"".join(map(state_bytes, state))
    return state.tobytes() if isinstance(state, np.ndarray) else b""

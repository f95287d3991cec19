"""The member that always says the same, for each type of target."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from models.base import FeatureBatch, FeatureSchema, StateError
from models.members.catalogue import build
from models.members.weights import WeightsError
from models.task import BINARY, Classes, Number, Task

SCHEMA = FeatureSchema(("a",))
ROWS = FeatureBatch(SCHEMA, np.zeros((3, 1), np.float32), np.zeros((3, 0), np.uint32))
TASK = Classes(["red", "green", "blue"])


@pytest.mark.parametrize(
    ("task", "params", "said"),
    [
        (BINARY, {"probability": 0.2}, [0.2]),
        (TASK, {"shares": {"red": 6.0, "blue": 3.0}}, [0.6, 0.1, 0.3]),
        (Number(), {"value": 42.5}, [42.5]),
    ],
    ids=lambda v: v.type if isinstance(v, Task) else "",
)
def test_it_says_what_its_parameters_say(
    task: Task, params: dict[str, Any], said: list[float]
) -> None:
    """Of every event, whatever it was taught."""
    model = build("constant", params, SCHEMA, 0, task)
    model.learn(ROWS, np.ones(3), np.ones(3))
    assert task.output(model.score(ROWS)) == pytest.approx(np.array([said] * 3))
    assert [p.count for p in model.parameters()] == [task.k]
    other = build("constant", params, SCHEMA, 0, task)
    other.restore(model.state())
    assert other.digest() == model.digest()


def test_what_does_not_fit_is_refused() -> None:
    """A share of what is no class, and the state of other classes."""
    with pytest.raises(WeightsError, match="shares: expected one of red, green, blue; got 'grey'"):
        build("constant", {"shares": {"grey": 1.0}}, SCHEMA, 0, TASK)
    with pytest.raises(StateError, match="link"):
        build("constant", {}, SCHEMA, 0).restore(build("constant", {}, SCHEMA, 0, TASK).state())

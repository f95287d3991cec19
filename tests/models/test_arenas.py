"""A forest in arenas: several forests that are one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from models.base import F64, FeatureBatch, FeatureSchema, HashedColumn, StateError
from models.ensemble.ensemble import SIDE_BY_SIDE, Ensemble
from models.members import catalogue
from models.task import Binary, Classes, Number, Task

SCHEMA = FeatureSchema(("a", "b", "c"), (HashedColumn("k", 8),))
TASKS: dict[str, Task] = {
    "binary": Binary(),
    "classes": Classes(("x", "y", "z")),
    "number": Number(),
}
KINDS = pytest.mark.parametrize("kind", TASKS)


def rows(n: int, seed: int, kind: str) -> tuple[FeatureBatch, F64, F64]:
    """Three numbers and a code, and what is to be learned of them."""
    rng = np.random.default_rng(seed)
    dense = rng.normal(size=(n, 3)).astype(np.float32)
    x = FeatureBatch(SCHEMA, dense, rng.integers(0, 8, (n, 1)).astype(np.uint32))
    shown = dense[:, 0] + dense[:, 1] * (x.hashed[:, 0] > 3)
    y = {
        "binary": shown > 0,
        "classes": np.digitize(shown, [-0.5, 0.5]),
        "number": 100 + 30 * shown,
    }[kind]
    return x, y.astype(np.float64), np.ones(n)


def forest(kind: str, **params: Any) -> Any:
    """A forest by its parameters."""
    return catalogue.build("forest", params, SCHEMA, 7, TASKS[kind])


@KINDS
def test_it_says_what_its_trees_say_on_average(kind: str) -> None:
    """Of trees and leaves each arena has its share; what it says counts by its trees."""
    whole, task = forest(kind, trees=7, max_leaves=1000, arenas=3), TASKS[kind]
    parts = whole.parts()
    assert [len(part._arrays.root) // 2 for part in parts] == [3, 2, 2]
    assert {len(part._arrays.trees.free_leaf) for part in parts} == {334}
    whole.learn(*rows(3000, 1, kind))
    x = rows(200, 2, kind)[0]
    said = [task.output(part.score(x)) for part in parts]
    assert not np.array_equal(said[0], said[1])
    mean = (3 * said[0] + 2 * said[1] + 2 * said[2]) / 7
    assert np.allclose(task.output(whole.score(x)), mean, rtol=1e-12)


@KINDS
def test_one_arena_is_the_forest_itself(kind: str) -> None:
    """Nothing stands between: the same state, bit for bit."""
    one, plain = forest(kind, arenas=1), forest(kind)
    assert type(one) is type(plain)
    for model in (one, plain):
        model.learn(*rows(500, 3, kind))
    assert one.digest() == plain.digest()


@KINDS
def test_in_how_many_threads_they_run_moves_no_bit(kind: str) -> None:
    """An ensemble lets arenas score and learn side by side; alone they do it in turn."""
    alone = forest(kind, arenas=4)
    sides = [
        Ensemble({"f": forest(kind, arenas=4)}, "stack", 0, task=TASKS[kind], threads=n)
        for n in (1, 2, 5)
    ]
    for seed in range(4):
        x, y, w = rows(2 * SIDE_BY_SIDE, seed, kind)
        links = alone.score(x)
        alone.learn(x, y, w)
        for ensemble in sides:
            made, _ = ensemble.score(x)
            assert np.array_equal(made[:, 0], links)
            ensemble.learn(x, made, y, w)
    assert {e.members["f"].digest() for e in sides} == {alone.digest()}


@KINDS
def test_a_state_restores_it(kind: str) -> None:
    """It goes on as the one whose state it was, replaced trees and table of parameters too."""
    first, second = forest(kind, arenas=2), forest(kind, arenas=2)
    first.learn(*rows(2000, 4, kind))
    second.restore(first.state())
    for model in (first, second):
        model.learn(*rows(500, 5, kind))
    assert first.digest() == second.digest()
    assert first.parameters() == second.parameters()
    assert first.replaced() == second.replaced()
    paths = [row.path for row in first.parameters()]
    assert paths[: len(paths) // 2] == [p.replace("1.", "0.", 1) for p in paths[len(paths) // 2 :]]


@pytest.mark.parametrize(("has", "gets"), [(2, 1), (1, 2), (2, 3)])
def test_another_number_of_arenas_is_another_forest(has: int, gets: int) -> None:
    """A state of as many others is refused, and nothing is taken over."""
    made = forest("binary", arenas=has)
    before = made.digest()
    with pytest.raises(StateError):
        made.restore(forest("binary", arenas=gets).state())
    assert made.digest() == before


def test_trees_in_arenas_learn_as_well() -> None:
    """On average over seeds, as those that share one do."""
    right = {}
    for arenas in (1, 2):
        found = []
        for seed in range(5):
            model = catalogue.build("forest", {"arenas": arenas}, SCHEMA, seed)
            model.learn(*rows(3000, seed, "binary"))
            x, y, _ = rows(2000, seed + 100, "binary")
            found.append(np.mean((model.score(x)[:, 0] > 0.0) == (y > 0.5)))
        right[arenas] = np.mean(found)
    assert right[1] > 0.85
    assert right[2] > right[1] - 0.01


def test_more_arenas_than_trees_are_refused() -> None:
    """Each has one at least."""
    with pytest.raises(ValueError, match="at most trees = 3, got 4"):
        forest("binary", trees=3, arenas=4)


def test_an_arena_that_fails_is_its_members_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """The member is named once; the others have learned in full."""
    broken, whole = forest("binary", arenas=3), forest("binary", arenas=3)
    ensemble = Ensemble({"broken": broken, "whole": whole}, "stack", 0, threads=2)

    def fail(*_: Any) -> None:
        raise RuntimeError("no room")

    for part in broken.parts()[1:]:
        monkeypatch.setattr(part, "learn", fail)
    x, y, w = rows(2 * SIDE_BY_SIDE, 6, "binary")
    [error] = ensemble.learn(x, ensemble.score(x)[0], y, w)
    assert (error.member, error.kind) == ("broken", "learn_raised")
    alone = forest("binary", arenas=3)
    alone.learn(x, y, w)
    assert whole.digest() == alone.digest()

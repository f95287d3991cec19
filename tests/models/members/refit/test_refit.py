"""Trees trained by LightGBM and scored by our walk: the library's own bits, or refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest

from models.base import F64, FeatureBatch, FeatureSchema, HashedColumn, StateError
from models.members import catalogue
from models.members.refit.fit import Refused, Rows, fit
from models.members.refit.model import RefitModel, RefitParams
from models.members.refit.text import UnreadableModel, trees_of

SCHEMA = FeatureSchema(("a", "b", "c"), (HashedColumn("k", 40), HashedColumn("l", 1 << 20)))
N = 4_000
SMALL = {"trees": 30, "leaves": 8, "least": 20, "positives": 100}


def rows(n: int = N, seed: int = 0) -> Rows:
    """Numbers with zeros and repeats, codes, and truths that follow from both."""
    rng = np.random.default_rng(seed)
    dense = rng.normal(size=(n, 3)).astype(np.float32)
    dense[rng.random(n) < 0.3, 1] = 0.0
    dense[:, 2] = np.round(dense[:, 2])
    hashed = np.column_stack([rng.integers(0, 40, n), rng.integers(0, 1 << 20, n) % 37])
    odds = dense[:, 0] + dense[:, 1] * dense[:, 2] + (hashed[:, 0] % 3 == 0) * 1.5 - 2
    y = (rng.random(n) < 1 / (1 + np.exp(-odds))).astype(np.float64)
    x = FeatureBatch(SCHEMA, dense, hashed.astype(np.uint32))
    return Rows(x, y, np.ones(n), np.arange(n), np.full(n, np.nan))


def member(**params: Any) -> RefitModel:
    """A fresh one over the schema."""
    return RefitModel(RefitParams.model_validate(SMALL | params), SCHEMA, 7)


def matrix(x: FeatureBatch) -> F64:
    return np.concatenate([x.dense.astype(np.float64), x.hashed.astype(np.float64)], axis=1)


def booster(given: Rows, **settings: Any) -> Any:
    data = lightgbm.Dataset(matrix(given.x), given.y, categorical_feature=[3, 4])
    base = {"objective": "binary", "verbosity": -1, "num_threads": 1, "min_data_in_leaf": 5}
    return lightgbm.train(base | settings, data, 20)


SETTINGS: list[dict[str, Any]] = [
    {},
    {"num_leaves": 2},
    {"num_leaves": 200, "min_data_per_group": 5, "cat_smooth": 1.0},
    {"max_cat_to_onehot": 100},
    {"boosting": "dart"},
    {"min_data_in_leaf": N},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_walk_gives_the_librarys_bits(settings: dict[str, Any]) -> None:
    """Numbers, zeros, sets of codes, codes that no training saw, trees of one leaf."""
    made, other = booster(rows(), **settings), rows(2_000, 1)
    other.x.hashed[::7] = 1_000_003
    model = member()
    model.trees = trees_of(made.model_to_string(), 3, 2)
    expected = made.predict(matrix(other.x), raw_score=True, num_threads=1)
    np.testing.assert_array_equal(model.score(other.x)[:, 0], expected)
    again = member()
    again.restore(model.state())
    assert again.digest() == model.digest()
    np.testing.assert_array_equal(again.score(other.x), model.score(other.x))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "linear": ({"linear_tree": True}, "constant leaves"),
    "zeros": ({"zero_as_missing": True}, "zeros that are numbers"),
    "mean": ({"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5}, "got their mean"),
    "objective": ({"objective": "regression"}, "objective: expected binary"),
    "classes": ({"objective": "multiclass", "num_class": 2}, "num_class: expected 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_be_scored_otherwise_is_refused(case: str) -> None:
    """With what was expected."""
    settings, error = REFUSED[case]
    with pytest.raises(UnreadableModel, match=error):
        trees_of(booster(rows(), **settings).model_to_string(), 3, 2)


def test_other_columns_are_refused() -> None:
    """A set where a number is expected, and the other way round."""
    text = booster(rows()).model_to_string()
    with pytest.raises(UnreadableModel, match="max_feature_idx: expected 3"):
        trees_of(text, 3, 1)
    with pytest.raises(UnreadableModel, match="sets of hashed columns"):
        trees_of(text, 4, 1)


# ---------------------------------------------------------------------- training


def test_a_training_makes_a_better_model_and_says_how_good() -> None:
    """The same rows give the same model; the losses are those of the newest tenth."""
    one, other = fit(member(), rows()), fit(member(), rows())
    np.testing.assert_equal(one.state, other.state)
    assert one.figures["loss"] < one.figures["loss_of_share"]
    assert one.figures["rows"] == N
    made = member()
    made.restore(one.state)
    assert len(made.trees.root) == one.figures["trees"]


def test_negatives_that_are_left_out_weigh_in_others() -> None:
    """With a fifth of them the mean probability stays what it was."""
    given = rows(20_000)
    means = []
    for share in (1.0, 0.2):
        made = member(negatives=share)
        made.restore(fit(made, given).state)
        means.append((1 / (1 + np.exp(-made.score(given.x)))).mean())
    assert means == pytest.approx([given.y.mean()] * 2, rel=0.05)


def test_gates_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too few rows of either truth; nothing to learn; worse than the member was; other bits."""
    given = rows()
    with pytest.raises(Refused, match="expected 5000 positives at least, got"):
        fit(member(positives=5_000), given)
    with pytest.raises(Refused, match="expected negatives too"):
        fit(member(), given._replace(y=np.ones(len(given.y))))
    with pytest.raises(Refused, match="expected 10 rows at least, to hold"):
        fit(member(positives=1), given.take(np.argsort(given.y, kind="stable")[[0, 1, -2, -1]]))
    noise = given._replace(y=np.random.default_rng(1).permutation(given.y))
    with pytest.raises(Refused, match="hold-out: expected a loss of"):
        fit(member(learning_rate=1.0, trees=1), noise)
    present = member()
    present.restore(fit(present, given).state)
    known = given._replace(said=np.where(given.y > 0, 9.0, -9.0))
    with pytest.raises(Refused, match="hold-out: expected a loss of"):
        fit(present, known)
    monkeypatch.setattr("models.members.refit.fit.links", lambda _, x: np.zeros(len(x)))
    with pytest.raises(Refused, match="bit for bit"):
        fit(member(), given)


def test_a_library_that_does_not_load_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a slim system: the training is refused, it does not die again and again."""
    (tmp_path / "lightgbm.py").write_text("raise OSError('libgomp.so.1: cannot open it')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "lightgbm")
    with pytest.raises(Refused, match=r"libgomp\.so\.1: cannot open it.*apt-get install libgomp1"):
        fit(member(), rows())


# ---------------------------------------------------------------------- the member


def test_before_its_first_model_it_says_the_share_of_positives() -> None:
    """And learns nothing more once there are trees."""
    model, given = member(), rows(200)
    model.learn(given.x, given.y, np.full(200, 2.0))
    share = (2 * given.y.sum() + 0.5) / (2 * (1 - given.y).sum() + 0.5)
    assert model.score(given.x)[:, 0] == pytest.approx(np.full(200, np.log(share)))
    model.restore(fit(member(), rows()).state)
    before = model.digest()
    model.learn(given.x, given.y, given.w)
    assert model.digest() == before


def test_a_state_in_which_a_walk_would_not_end_is_refused() -> None:
    """Each array that points elsewhere, or has another length or type, is named."""
    state = fit(member(), rows()).state
    bad: dict[str, Any] = {
        "column": np.full_like(state["column"], 5),
        "threshold": state["threshold"][:-1],
        "left": np.zeros_like(state["left"]),
        "right": state["right"] - 10_000,
        "root": np.full_like(state["root"], len(state["left"])),
        "value": np.full_like(state["value"], np.nan),
        "bounds": state["bounds"][:-1],
        "words": state["words"].astype(np.int64),
        "seen": np.zeros(3),
    }
    for name, array in bad.items():
        with pytest.raises(StateError, match=f"RefitModel.{name}: expected"):
            member().restore(state | {name: array})
    with pytest.raises(StateError, match="expected state version 1, got 9"):
        member().restore(state | {"version": 9})


def test_other_targets_cannot_be_learned() -> None:
    """The error says which can."""
    with pytest.raises(catalogue.UnknownMember, match="'refit' learns binary"):
        catalogue.member_class("refit", "number")

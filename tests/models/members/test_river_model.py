"""The River member: equal to River itself, replayable to the bit, strict about its parameters."""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from river import compose, linear_model, preprocessing, tree

from models.base import FeatureBatch, FeatureSchema, StateError
from models.members.river.model import MAX_LINK, VOTE_LINK, RiverError, RiverModel, RiverParams
from models.members.river.object_digest import object_digest
from models.members.river.unpickle import loads
from stream.settings.load import ConfigError, parse
from tests.support.river_families import (
    FAMILIES,
    LOGISTIC,
    SCALED,
    SCHEMA,
    build,
    part,
    pipe,
    stream,
)

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def processes() -> dict[str, dict[str, list[str]]]:
    """Every family trained in two processes with different hash seeds, one of them interrupted."""
    running = {
        way: subprocess.Popen(
            [sys.executable, "-m", "tests.support.river_families", way],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for way, seed in (("straight", "1"), ("saved", "2"))
    }
    out = {way: process.communicate()[0] for way, process in running.items()}
    assert all(process.returncode == 0 for process in running.values())
    return {way: json.loads(text) for way, text in out.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_and_restored_equals_never_saved(family: str, processes: Any) -> None:
    """300 rows, save, restore, 300 more: the scores and the digest of a run never stopped, in
    another process and under another hash seed."""
    assert processes["saved"][family] == processes["straight"][family]


NOTES_AT_SCORING = {"ffm", "fwfm", "polynomial", "bagging", "leveraging_bagging", "nominal_arf"}
"""Known to note keys when they predict: crosses of two keys that never met, keys that one model of
a bag never drew, classes that a nominal attribute never met."""


@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in NOTES_AT_SCORING])
def test_scoring_changes_no_state(family: str) -> None:
    """Rows with categories never learned leave the digest as it is, before and after learning."""
    model = build(family)
    x, y = stream(60)
    rare = x.take(x.hashed[:, 0] < 6)
    before = model.digest()
    model.score(x)
    assert model.digest() == before
    model.learn(rare, y[x.hashed[:, 0] < 6], np.ones(len(rare)))
    before = model.digest()
    model.score(x)
    assert model.digest() == before


def rows_of(x: FeatureBatch) -> list[dict[str, float]]:
    """The dicts that River should get, one-hot."""
    return [
        {**dict(zip("abc", d, strict=True)), f"cat={h[0]}": 1.0, f"dev={h[1]}": 1.0}
        for d, h in zip(x.dense.tolist(), x.hashed.tolist(), strict=True)
    ]


def test_scores_are_rivers_own() -> None:
    """The logit of what River's pipeline predicts, row by row."""
    x, y = stream(400)
    model = RiverModel(RiverParams.model_validate(SCALED), SCHEMA, 0)
    river = compose.Pipeline(preprocessing.StandardScaler(), linear_model.LogisticRegression())
    for i, row in enumerate(rows_of(x)):
        p = river.predict_proba_one(row)[True]
        got = model.score(x.take(slice(i, i + 1)))
        assert got.shape == (1, 1)
        assert got[0, 0] == pytest.approx(math.log(p / (1 - p)), abs=1e-12)
        river.learn_one(row, bool(y[i]))
        model.learn(x.take(slice(i, i + 1)), y[i : i + 1], np.ones(1))


def test_nominal_categories_reach_trees_as_text() -> None:
    """``nominal`` gives a tree ``{"cat": "3"}``, and it splits on it as River's own does."""
    x, y = stream(600)
    settings = {**part("tree.HoeffdingTreeClassifier", grace_period=50, delta=0.1)}
    model = RiverModel(RiverParams.model_validate({**settings, "categories": "nominal"}), SCHEMA, 0)
    river = tree.HoeffdingTreeClassifier(grace_period=50, delta=0.1)
    for d, h, truth in zip(x.dense.tolist(), x.hashed.tolist(), y, strict=True):
        row = {**dict(zip("abc", d, strict=True)), "cat": str(h[0]), "dev": str(h[1])}
        river.learn_one(row, bool(truth))
    model.learn(x, y, np.ones(600))
    assert "cat" in {branch.feature for branch in river._root.iter_branches()}
    p = np.array(
        [
            river.predict_proba_one(
                {**dict(zip("abc", d, strict=True)), "cat": str(h[0]), "dev": str(h[1])}
            )[True]
            for d, h in zip(x.dense.tolist(), x.hashed.tolist(), strict=True)
        ]
    )
    expected = np.clip(p, 1e-6, 1 - 1e-6)
    assert np.allclose(model.score(x)[:, 0], np.log(expected / (1 - expected)), atol=1e-9)


def member(spec: dict[str, Any], schema: FeatureSchema = SCHEMA, seed: int = 0) -> RiverModel:
    """A member from the plain description."""
    return RiverModel(RiverParams.model_validate(spec), schema, seed)


def test_probabilities_of_0_and_1_become_the_stated_logits() -> None:
    """A classifier that has seen one class only is as sure as the clip allows, no more."""
    x, _ = stream(5)
    model = member(part("dummy.PriorClassifier"))
    assert (model.score(x) == 0.0).all()
    model.learn(x, np.zeros(5), np.ones(5))
    assert np.allclose(model.score(x), -MAX_LINK)


def test_an_estimator_without_probabilities_votes() -> None:
    """Only ``predict_one``: plus or minus the stated logit."""
    x, y = stream(200)
    spec = part("ensemble.VotingClassifier", models=[LOGISTIC, part("naive_bayes.GaussianNB")])
    model = member(spec)
    model.learn(x, y, np.ones(200))
    assert set(np.abs(model.score(x)[:, 0]).tolist()) == {VOTE_LINK}


def test_a_nan_is_an_error_that_names_the_model(tmp_path: Path) -> None:
    """A probability that is no number raises instead of spreading."""
    file = tmp_path / "river_nan.py"
    file.write_text(
        "class Broken:\n"
        "    def learn_one(self, x, y): pass\n"
        "    def predict_proba_one(self, x): return {True: float('nan'), False: 1.0}\n"
    )
    model = member({"model": f"{file}:Broken"})
    with pytest.raises(RiverError, match="Broken predicted nan"):
        model.score(stream(1)[0])


def test_weights_reach_estimators_that_take_them() -> None:
    """``w=2`` of the logistic regression differs from learning twice, and equals River's."""
    x, y = stream(50)
    model = member(LOGISTIC)
    model.learn(x, y, np.full(50, 2.0))
    river = linear_model.LogisticRegression()
    for row, truth in zip(rows_of(x), y, strict=True):
        river.learn_one(row, bool(truth), w=2.0)
    p = np.array([river.predict_proba_one(row)[True] for row in rows_of(x)])
    assert np.allclose(model.score(x)[:, 0], np.log(p / (1 - p)), atol=1e-9)


def test_weights_are_repetitions_elsewhere() -> None:
    """Without ``w`` in ``learn_one`` a weight of 2 is the row twice, 0 not at all.

    Of rows of 1/2 every second one of its class is learned, also after a restore between them.
    """
    x, y = stream(30)
    spec = part("linear_model.PAClassifier")
    weighted, repeated = member(spec), member(spec)
    weighted.learn(x, y, np.tile([0.0, 1.0, 2.0], 10))
    order = np.repeat(np.arange(30), np.tile([0, 1, 2], 10))
    repeated.learn(x.take(order), y[order], np.ones(30))
    assert weighted.digest() == repeated.digest()
    halves, every_second, y = member(spec), member(spec), np.tile([0.0, 1.0], 15)
    halves.learn(x.take(slice(0, 9)), y[:9], np.full(9, 0.5))
    again = member(spec)
    again.restore(halves.state())
    assert again.digest() == halves.digest()
    again.learn(x.take(slice(9, 30)), y[9:], np.full(21, 0.5))
    seconds = np.flatnonzero(np.arange(30) % 4 >= 2)
    every_second.learn(x.take(seconds), y[seconds], np.ones(len(seconds)))
    assert object_digest(again._estimator) == object_digest(every_second._estimator)


def test_a_seed_left_open_comes_from_the_member() -> None:
    """Nested estimators too: one seed, one model; another seed, another model."""
    spec = pipe(part("feature_extraction.RBFSampler", n_components=5), LOGISTIC)
    x, y = stream(100)
    digests = []
    for seed in (1, 1, 2):
        model = member(spec, seed=seed)
        model.learn(x, y, np.ones(100))
        digests.append(model.digest())
    assert digests[0] == digests[1] != digests[2]


def test_randomness_without_a_seed_is_refused(tmp_path: Path) -> None:
    """A factory that draws on its own would differ in every replay."""
    file = tmp_path / "river_random.py"
    file.write_text(
        "import random\n"
        "class Noise:\n"
        "    def __init__(self): self.rng = random.Random()\n"
        "    def learn_one(self, x, y): pass\n"
        "    def predict_one(self, x): return self.rng.random() < 0.5\n"
    )
    with pytest.raises(RiverError, match="two builds with one seed differ"):
        member({"model": f"{file}:Noise"})


@pytest.mark.parametrize(
    ("spec", "place", "message"),
    [
        ({"model": "sklearn.linear_model.LogisticRegression"}, "model", "expected a path such as"),
        ({"model": "river.linear_model.LogisticRegresion"}, "model", "did you mean 'Logistic"),
        ({"model": "river.no_such.Thing"}, "model", "expected a name of river"),
        ({"model": "river.linear_model.LinearRegression"}, "model", "expected a classifier"),
        ({"model": "river.preprocessing.StandardScaler"}, "model", "expected a classifier"),
        ({**LOGISTIC, "optimiser": 1}, "optimiser", "did you mean 'optimizer'"),
        ({**LOGISTIC, "l3": 1.0}, "l3", "accepted: optimizer, loss, l2"),
        (
            pipe({"model": "river.optim.SGD", "lrr": 1}, LOGISTIC),
            "steps.0.lrr",
            "did you mean 'lr'",
        ),
        ({**LOGISTIC, "l1": 1.0, "l2": 1.0}, "model", "cannot be built: NotImplementedError"),
        (
            pipe({**LOGISTIC, "optimizer": {"model": "river.optim.Sgd"}}),
            "steps.0.optimizer.model",
            "did you mean 'SGD'",
        ),
        ({"model": "river.neighbors.KNNClassifier"}, "model", "SWINN is not supported"),
        ({"model": "river.linear_model"}, "model", "expected a class or a function"),
        ({"model": "nowhere/at_all.py:make"}, "model", "does not exist"),
    ],
)
def test_mistakes_are_found_when_the_configuration_is_read(
    spec: dict[str, Any], place: str, message: str
) -> None:
    """Each error names the place within the member and what would be right."""
    with pytest.raises(ValidationError) as caught:
        RiverParams.model_validate(spec)
    (error,) = caught.value.errors()
    assert ".".join(map(str, error["loc"])) == place
    assert message in error["msg"]


def test_the_configuration_names_the_place_of_a_mistake() -> None:
    """Through the whole configuration: ``members[0].steps[1].lr: ...``."""
    raw = {
        "log": {"type": "embedded"},
        "event": {"fields": {"a": "number"}},
        "features": [{"name": "a", "type": "number", "field": "a"}],
        "members": [{"name": "m", "type": "river", **pipe({"model": SCALED["steps"][0]["model"]})}],
    }
    raw["members"][0]["steps"].append({**LOGISTIC, "optimiser": 1})
    with pytest.raises(ConfigError, match=r"members\[0\]\.steps\[1\]\.optimiser: unknown param"):
        parse(raw, "test")


def test_a_factory_in_a_file_is_a_member_like_any_other(tmp_path: Path) -> None:
    """A user's own class trains, saves and restores; it gets the seed it asks for."""
    file = tmp_path / "river_own.py"
    file.write_text(
        "class Rate:\n"
        "    def __init__(self, start, seed=None):\n"
        "        self.n, self.positives, self.seed = 2 * start, start, seed\n"
        "    def learn_one(self, x, y):\n"
        "        self.n += 1\n"
        "        self.positives += y\n"
        "    def predict_proba_one(self, x):\n"
        "        p = self.positives / self.n\n"
        "        return {False: 1 - p, True: p}\n"
        "def make(start=1, seed=None): return Rate(start, seed)\n"
    )
    x, y = stream(20)
    spec = {"model": f"{file}:make", "start": 3}
    model, twin = member(spec, seed=5), member(spec, seed=5)
    model.learn(x, y, np.ones(20))
    twin.restore(model.state())
    assert twin.digest() == model.digest()
    p = (3 + y.sum()) / 26
    assert np.allclose(twin.score(x), math.log(p / (1 - p)))
    assert model._estimator.seed is not None


def test_what_could_not_be_restored_is_refused_at_the_start(tmp_path: Path) -> None:
    """An estimator that holds a foreign object is no member, before it has learned anything."""
    file = tmp_path / "river_foreign.py"
    file.write_text(
        "import pathlib\n"
        "class Foreign:\n"
        "    def __init__(self): self.path = pathlib.PurePosixPath('a')\n"
        "    def learn_one(self, x, y): pass\n"
        "    def predict_one(self, x): return True\n"
    )
    with pytest.raises(RiverError, match=r"cannot be a member.*pathlib"):
        member({"model": f"{file}:Foreign"})


def test_a_state_of_other_parameters_or_of_another_river_is_refused() -> None:
    """Format, parameters and River's minor version must be the member's own."""
    model, other = member(LOGISTIC), member({**LOGISTIC, "l2": 0.1})
    with pytest.raises(StateError, match="of these parameters"):
        model.restore(other.state())
    with pytest.raises(StateError, match=r"saved by river 0\.1\.2"):
        model.restore({**model.state(), "river": "0.1.2"})
    with pytest.raises(StateError, match="expected a saved LogisticRegression, got Counter"):
        model.restore({**model.state(), "pickle": pickle.dumps(Counter(), 4)})
    with pytest.raises(StateError, match="allow-list"):
        model.restore({**model.state(), "pickle": pickle.dumps(os.system, 4)})


def test_the_state_is_a_copy() -> None:
    """Learning after ``state()`` does not reach into it."""
    x, y = stream(50)
    model, twin = member(SCALED), member(SCALED)
    model.learn(x, y, np.ones(50))
    state, digest = model.state(), model.digest()
    model.learn(x, y, np.ones(50))
    twin.restore(state)
    assert twin.digest() == digest != model.digest()


def test_linear_steps_count_their_weights_and_others_are_opaque() -> None:
    """The parameter table has a row for weights and intercept, and one for the scaler."""
    x, y = stream(300)
    model = member(SCALED)
    model.learn(x, y, np.ones(300))
    table = {row.path: row for row in model.parameters()}
    assert list(table) == [
        "StandardScaler",
        "LogisticRegression.weights",
        "LogisticRegression.intercept",
    ]
    assert table["LogisticRegression.weights"].count == 3 + 8 + 16
    assert table["StandardScaler"].role == "opaque"
    assert table["StandardScaler"].count >= 2 * 27


def test_forests_are_small_and_hold_no_unseeded_generator() -> None:
    """Each distribution of a tree would hold 2.5 kB of random bits that nobody draws from."""
    model = build("arf")
    x, y = stream(300)
    model.learn(x, y, np.ones(300))
    raw = model.state()["pickle"]
    leaves = loads(raw)
    assert raw.count(b"Unseeded") == 1
    assert len(raw) < 200_000
    assert leaves is not None

"""River model families for the tests, and a program that trains them in a process of its own.

``python -m tests.support.river_families straight`` (or ``saved``: through a save and a restore
halfway) prints one JSON object: family to the digest of the model and of all scores it gave.
"""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any

import numpy as np

from models.base import F64, FeatureBatch, FeatureSchema, HashedColumn
from models.members.river.model import RiverModel, RiverParams

SCHEMA = FeatureSchema(("a", "b", "c"), (HashedColumn("cat", 8), HashedColumn("dev", 16)))

Spec = dict[str, Any]


def part(path: str, **parameters: Any) -> Spec:
    """The description of one estimator."""
    return {"model": f"river.{path}", **parameters}


def pipe(*steps: Spec) -> Spec:
    """The description of a pipeline."""
    return part("compose.Pipeline", steps=list(steps))


def around(path: str, model: Spec, **parameters: Any) -> Spec:
    """The description of an ensemble of one model."""
    return part(path, parameters={"model": model}, **parameters)


LOGISTIC = part("linear_model.LogisticRegression")
SCALE = part("preprocessing.StandardScaler")
SCALED = pipe(SCALE, LOGISTIC)
MIN_MAX = part("preprocessing.MinMaxScaler")
TREE = part("tree.HoeffdingTreeClassifier", grace_period=50, delta=0.1)
ADAPTIVE_TREE = part("tree.HoeffdingAdaptiveTreeClassifier", grace_period=50)
FAST_TREE = part("tree.ExtremelyFastDecisionTreeClassifier", grace_period=50, delta=0.1)
FOREST = part("forest.ARFClassifier", n_models=3, grace_period=30)
PATCHES = part("ensemble.SRPClassifier", n_models=3)
GRADIENT_TREE = part("tree.SGTClassifier", grace_period=50)

ONE_HOT: dict[str, Spec] = {
    "logistic": SCALED,
    "logistic_adam": pipe(SCALE, {**LOGISTIC, "optimizer": part("optim.Adam", lr=0.01)}),
    "passive_aggressive": part("linear_model.PAClassifier"),
    "alma": part("linear_model.ALMAClassifier"),
    "perceptron": part("linear_model.Perceptron"),
    "softmax": part("linear_model.SoftmaxRegression"),
    "fm": part("facto.FMClassifier", n_factors=3),
    "ffm": part("facto.FFMClassifier", n_factors=3),
    "fwfm": part("facto.FwFMClassifier", n_factors=3),
    "hofm": part("facto.HOFMClassifier", n_factors=3),
    "gaussian_bayes": part("naive_bayes.GaussianNB"),
    "bernoulli_bayes": part("naive_bayes.BernoulliNB"),
    "multinomial_bayes": pipe(MIN_MAX, part("naive_bayes.MultinomialNB")),
    "complement_bayes": pipe(MIN_MAX, part("naive_bayes.ComplementNB")),
    "hoeffding_tree": TREE,
    "hat": ADAPTIVE_TREE,
    "efdt": FAST_TREE,
    "sgt": GRADIENT_TREE,
    "last": part("tree.LASTClassifier"),
    "arf": FOREST,
    "amf": part("forest.AMFClassifier", n_estimators=2),
    "srp": PATCHES,
    "leveraging_bagging": around("ensemble.LeveragingBaggingClassifier", SCALED, n_models=3),
    "adwin_bagging": around("ensemble.ADWINBaggingClassifier", TREE, n_models=3),
    "bagging": around("ensemble.BaggingClassifier", SCALED, n_models=3),
    "adaboost": around("ensemble.AdaBoostClassifier", TREE, n_models=3),
    "adwin_boosting": around("ensemble.ADWINBoostingClassifier", TREE, n_models=3),
    "bole": around("ensemble.BOLEClassifier", TREE, n_models=3),
    "stacking": part(
        "ensemble.StackingClassifier",
        models=[LOGISTIC, part("linear_model.PAClassifier")],
        meta_classifier=LOGISTIC,
    ),
    "voting": part("ensemble.VotingClassifier", models=[LOGISTIC, part("naive_bayes.GaussianNB")]),
    "knn": part("neighbors.KNNClassifier", engine=part("neighbors.LazySearch", window_size=100)),
    "undersampler": part(
        "imblearn.RandomUnderSampler", classifier=LOGISTIC, desired_dist={"0": 0.5, "1": 0.5}
    ),
    "hard_sampling": part("imblearn.HardSamplingClassifier", classifier=LOGISTIC, p=0.1, size=40),
    "one_vs_rest": part("multiclass.OneVsRestClassifier", classifier=LOGISTIC),
    "prior": part("dummy.PriorClassifier"),
    "robust_scaler": pipe(part("preprocessing.RobustScaler"), LOGISTIC),
    "adaptive_scaler": pipe(part("preprocessing.AdaptiveStandardScaler"), LOGISTIC),
    "min_max": pipe(MIN_MAX, LOGISTIC),
    "rbf": pipe(part("feature_extraction.RBFSampler", n_components=20), LOGISTIC),
    "projection": pipe(part("preprocessing.GaussianRandomProjector"), LOGISTIC),
    "polynomial": pipe(part("feature_extraction.PolynomialExtender"), SCALED),
    "hasher": pipe(part("preprocessing.FeatureHasher", n_features=8), LOGISTIC),
    "union": pipe(
        part(
            "compose.TransformerUnion",
            transformers=[
                pipe(part("compose.Select", keys=["a", "b", "c"]), SCALE),
                part("compose.Discard", keys=["a"]),
            ],
        ),
        LOGISTIC,
    ),
}
"""Families over one-hot categories."""

NOMINAL: dict[str, Spec] = {
    "nominal_tree": TREE,
    "nominal_binary_tree": {**TREE, "binary_split": True},
    "nominal_hat": ADAPTIVE_TREE,
    "nominal_efdt": FAST_TREE,
    "nominal_arf": FOREST,
    "nominal_srp": PATCHES,
    "nominal_sgt": {**GRADIENT_TREE, "nominal_attributes": ["cat", "dev"]},
    "nominal_one_hot": pipe(part("preprocessing.OneHotEncoder"), LOGISTIC),
}
"""Families over nominal categories."""

FAMILIES = (*ONE_HOT, *NOMINAL)


def params(family: str) -> RiverParams:
    """The validated settings of a family."""
    if family in NOMINAL:
        return RiverParams.model_validate({**NOMINAL[family], "categories": "nominal"})
    return RiverParams.model_validate(ONE_HOT[family])


def build(family: str, seed: int = 3) -> RiverModel:
    """A new member of a family."""
    return RiverModel(params(family), SCHEMA, seed)


def stream(n: int, seed: int = 1) -> tuple[FeatureBatch, F64]:
    """``n`` rows whose truth depends on ``a``, ``b`` and ``cat``."""
    rng = np.random.default_rng(seed)
    dense = rng.normal(size=(n, 3)).astype(np.float32)
    hashed = np.stack([rng.integers(0, 8, n), rng.integers(0, 16, n)], axis=1).astype(np.uint32)
    z = dense[:, 0] + 0.5 * dense[:, 1] + (hashed[:, 0] % 2) * 1.5 - 1
    y = (rng.random(n) < 1 / (1 + np.exp(-2 * z))).astype(np.float64)
    return FeatureBatch(SCHEMA, dense, hashed), y


def train(family: str, save: bool, n: int = 600, batch: int = 30) -> tuple[RiverModel, F64]:
    """Score, then learn, batch by batch; with ``save`` through a save and a restore halfway."""
    x, y = stream(n)
    model = build(family)
    scores = []
    for i in range(0, n, batch):
        rows = slice(i, i + batch)
        scores.append(model.score(x.take(rows)))
        model.learn(x.take(rows), y[rows], np.ones(len(y[rows])))
        if save and i + batch == n // 2:
            state = model.state()
            model = build(family)
            model.restore(state)
    return model, np.concatenate(scores)


def main(way: str) -> None:
    """Train every family and print its digests."""
    found = {}
    for family in FAMILIES:
        model, scores = train(family, save=way == "saved")
        found[family] = [model.digest(), hashlib.sha256(scores.tobytes()).hexdigest()]
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])

"""Counting scikit-learn estimators and boosters, against counts made by hand."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
import xgboost
from rich.console import Console
from sklearn import (
    calibration,
    cluster,
    compose,
    decomposition,
    discriminant_analysis,
    dummy,
    ensemble,
    frozen,
    impute,
    isotonic,
    linear_model,
    mixture,
    model_selection,
    multiclass,
    multioutput,
    naive_bayes,
    neighbors,
    neural_network,
    pipeline,
    preprocessing,
    svm,
    tree,
)
from sklearn.base import BaseEstimator

from monitoring.parameters import ParameterError, count
from monitoring.parameters.command import params_command

GENERATOR = np.random.default_rng(7)
X = GENERATOR.normal(size=(120, 4))
TWO = (X.sum(axis=1) > 0).astype(int)
THREE = np.arange(120) % 3
REAL = X @ [1.0, -2.0, 0.5, 0.0] + GENERATOR.normal(size=120)
PAIR = np.stack([REAL, X[:, 0]], axis=1)
STUMP = tree.DecisionTreeClassifier(max_depth=1)
LOGISTIC = linear_model.LogisticRegression()
# A logistic regression of four features: a weight each and the intercept.
FIVE = 4 + 1


def fit(model: Any, y: Any = TWO, x: Any = X) -> Any:
    """The model after one fit; a few iterations are enough to have all its numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(x, y)


BY_HAND: dict[str, tuple[Callable[[], Any], int]] = {
    # Linear models: a weight per feature and output, an intercept per output.
    "logistic regression": (lambda: fit(LOGISTIC), FIVE),
    "logistic regression, 3 classes": (
        lambda: fit(linear_model.LogisticRegression(), THREE),
        3 * FIVE,
    ),
    "linear regression": (lambda: fit(linear_model.LinearRegression(), REAL), FIVE),
    "linear regression, 2 targets": (
        lambda: fit(linear_model.LinearRegression(), PAIR),
        2 * FIVE,
    ),
    "ridge without intercept": (lambda: fit(linear_model.Ridge(fit_intercept=False), REAL), 4),
    "ridge classifier": (lambda: fit(linear_model.RidgeClassifier()), FIVE),
    "lasso": (lambda: fit(linear_model.Lasso(), REAL), FIVE),
    "gradient descent": (lambda: fit(linear_model.SGDClassifier(), THREE), 3 * FIVE),
    "averaged gradient descent": (lambda: fit(linear_model.SGDRegressor(average=True), REAL), FIVE),
    "perceptron": (lambda: fit(linear_model.Perceptron()), FIVE),
    "linear support vectors": (lambda: fit(svm.LinearSVC()), FIVE),
    "poisson regression": (lambda: fit(linear_model.PoissonRegressor(), np.abs(REAL)), FIVE),
    "linear discriminant": (
        lambda: fit(discriminant_analysis.LinearDiscriminantAnalysis(), THREE),
        3 * FIVE,
    ),
    # Networks: 4->10, 10->1; and 4->8, 8->3, 3->3.
    "MLP": (lambda: fit(neural_network.MLPClassifier((10,), max_iter=3)), 50 + 11),
    "MLP, 2 hidden layers": (
        lambda: fit(neural_network.MLPClassifier((8, 3), max_iter=3), THREE),
        40 + 27 + 12,
    ),
    # Mean and variance of each feature in each class, and the classes' shares.
    "gaussian NB": (lambda: fit(naive_bayes.GaussianNB()), 2 * 2 * 4 + 2),
    "multinomial NB": (lambda: fit(naive_bayes.MultinomialNB(), x=np.abs(X)), 2 * 4 + 2),
    "complement NB": (lambda: fit(naive_bayes.ComplementNB(), x=np.abs(X)), 2 * 4 + 2),
    "bernoulli NB": (lambda: fit(naive_bayes.BernoulliNB(), THREE), 3 * 4 + 3),
    # Five categories of each feature, seen in both classes.
    "categorical NB": (
        lambda: fit(naive_bayes.CategoricalNB(min_categories=5), x=np.abs(X).astype(int)),
        2 * 4 * 5 + 2,
    ),
    # A stump: one threshold, two leaves of two classes.
    "decision tree": (lambda: fit(STUMP), 1 + 2 * 2),
    "regression tree": (lambda: fit(tree.DecisionTreeRegressor(max_depth=1), REAL), 1 + 2),
    "tree of 2 targets": (lambda: fit(tree.DecisionTreeRegressor(max_depth=1), PAIR), 1 + 2 * 2),
    "random forest": (
        lambda: fit(ensemble.RandomForestClassifier(5, max_depth=1), THREE),
        5 * (1 + 2 * 3),
    ),
    "extra trees": (lambda: fit(ensemble.ExtraTreesRegressor(3, max_depth=1), REAL), 3 * (1 + 2)),
    # And the shares of the two classes that boosting starts from.
    "gradient boosting": (
        lambda: fit(ensemble.GradientBoostingClassifier(n_estimators=4, max_depth=1)),
        4 * (1 + 2) + 2,
    ),
    "gradient boosting, 3 classes": (
        lambda: fit(ensemble.GradientBoostingClassifier(n_estimators=4, max_depth=1), THREE),
        3 * 4 * (1 + 2) + 3,
    ),
    # Trees of two leaves, and the score that boosting starts from.
    "histogram boosting": (
        lambda: fit(ensemble.HistGradientBoostingRegressor(max_iter=4, max_leaf_nodes=2), REAL),
        4 * (1 + 2) + 1,
    ),
    # A weight per member.
    "AdaBoost": (
        lambda: fit(ensemble.AdaBoostClassifier(STUMP, n_estimators=3)),
        3 * 5 + 3,
    ),
    "bagging": (lambda: fit(ensemble.BaggingClassifier(LOGISTIC, n_estimators=3)), 3 * FIVE),
    "nearest neighbours": (lambda: fit(neighbors.KNeighborsClassifier()), 0),
    "pipeline": (
        # Mean and scale of each feature.
        lambda: fit(pipeline.make_pipeline(preprocessing.StandardScaler(), LOGISTIC)),
        2 * 4 + FIVE,
    ),
    "columns": (
        lambda: fit(
            compose.ColumnTransformer(
                [("a", preprocessing.MinMaxScaler(), [0, 1]), ("b", "drop", [2])],
                remainder="passthrough",
            )
        ),
        2 * 2,
    ),
    "union": (
        lambda: fit(
            pipeline.make_union(preprocessing.MaxAbsScaler(), decomposition.PCA(n_components=2))
        ),
        4 + 2 * 4 + 4,
    ),
    "imputer": (lambda: fit(impute.SimpleImputer()), 4),
    "voting": (
        lambda: fit(ensemble.VotingClassifier([("a", LOGISTIC), ("b", naive_bayes.GaussianNB())])),
        FIVE + 18,
    ),
    # The last one takes a probability from each of two.
    "stacking": (
        lambda: fit(ensemble.StackingClassifier([("a", LOGISTIC), ("b", STUMP)])),
        FIVE + 5 + 2 + 1,
    ),
    "one against the rest": (
        lambda: fit(multiclass.OneVsRestClassifier(LOGISTIC), THREE),
        3 * FIVE,
    ),
    "one against one": (lambda: fit(multiclass.OneVsOneClassifier(LOGISTIC), THREE), 3 * FIVE),
    # One of the code's four columns is the same for all classes: a constant.
    "output code": (
        lambda: fit(multiclass.OutputCodeClassifier(LOGISTIC, random_state=0), THREE),
        3 * FIVE + 1,
    ),
    "several outputs": (
        lambda: fit(multioutput.MultiOutputRegressor(linear_model.Ridge()), PAIR),
        2 * FIVE,
    ),
    # The second of a chain also takes what the first said.
    "chain": (
        lambda: fit(multioutput.RegressorChain(linear_model.Ridge()), PAIR),
        FIVE + FIVE + 1,
    ),
    # A slope and an offset for each of two folds.
    "calibrated": (
        lambda: fit(calibration.CalibratedClassifierCV(LOGISTIC, cv=2)),
        2 * (FIVE + 2),
    ),
    "calibrated by temperature": (
        lambda: fit(calibration.CalibratedClassifierCV(LOGISTIC, method="temperature", cv=2)),
        2 * (FIVE + 1),
    ),
    "grid search": (
        lambda: fit(model_selection.GridSearchCV(LOGISTIC, {"C": [0.1, 1]}, cv=2)),
        FIVE,
    ),
    "frozen": (lambda: frozen.FrozenEstimator(fit(linear_model.LogisticRegression())), FIVE),
    "transformed target": (
        lambda: fit(
            compose.TransformedTargetRegressor(
                linear_model.Ridge(), transformer=preprocessing.StandardScaler()
            ),
            REAL,
        ),
        FIVE + 2,
    ),
    # Weights, their covariance and the noise.
    "bayesian ridge": (lambda: fit(linear_model.BayesianRidge(), REAL), FIVE + 4 * 4 + 1),
    # Two centres below each of two splits.
    "bisecting k-means": (lambda: fit(cluster.BisectingKMeans(3)), 4 * 4),
    # Two trees of one threshold, and four leaves as categories.
    "random trees embedding": (
        lambda: fit(ensemble.RandomTreesEmbedding(2, max_depth=1, random_state=1)),
        2 + 4,
    ),
    "k-means": (lambda: fit(cluster.KMeans(3, n_init=1)), 3 * 4),
    # Weight, mean and Cholesky factor of each component.
    "gaussian mixture": (lambda: fit(mixture.GaussianMixture(2)), 2 + 2 * 4 + 2 * 4 * 4),
    "dummy": (lambda: fit(dummy.DummyClassifier(), THREE), 3),
    "stateless": (lambda: preprocessing.Normalizer(), 0),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_a_family_counts_as_by_hand(name: str) -> None:
    """Held equals the hand count, formula equals held, and no fallback was used."""
    build, expected = BY_HAND[name]
    totals = count(build()).totals
    assert (totals.held, totals.formula, totals.verdict) == (expected, expected, "match")
    assert totals.exact


FILE = """
import numpy as np
from lightgbm import LGBMClassifier
from sklearn.ensemble import *
from sklearn.linear_model import *
from sklearn.naive_bayes import *
from sklearn.neighbors import *
from sklearn.neural_network import *
from sklearn.svm import *
from sklearn.tree import *
from xgboost import XGBClassifier

X = np.random.default_rng(7).normal(size=(120, 4))
Y = (X.sum(axis=1) > 0).astype(int)

"""
DOCUMENTED: dict[str, int] = {
    "LogisticRegression()": 5,
    "LinearRegression()": 5,
    "MLPClassifier((10,), max_iter=500)": 61,
    "GaussianNB()": 18,
    "BernoulliNB()": 10,
    "DecisionTreeClassifier(max_depth=1)": 5,
    "RandomForestClassifier(5, max_depth=1)": 25,
    "GradientBoostingClassifier(n_estimators=4, max_depth=1)": 14,
    "HistGradientBoostingClassifier(max_iter=4, max_leaf_nodes=2)": 13,
    "AdaBoostClassifier(n_estimators=3)": 18,
    "KNeighborsClassifier()": 0,
    "XGBClassifier(n_estimators=2, max_depth=1)": 7,
    "LGBMClassifier(n_estimators=2, num_leaves=2, verbose=-1)": 6,
}


@pytest.mark.filterwarnings("ignore")
def test_the_command_says_what_the_documentation_says(tmp_path: Path) -> None:
    """Every row of the table in docs/parameters.md, through a file that fits the models."""
    path = tmp_path / f"families_{tmp_path.name.replace('-', '_')}.py"
    path.write_text(FILE + "".join(f"m{i} = {m}.fit(X, Y)\n" for i, m in enumerate(DOCUMENTED)))
    found = {}
    for i, model in enumerate(DOCUMENTED):
        out, err = io.StringIO(), io.StringIO()
        code = params_command(f"{path}:m{i}", True, Console(file=out), Console(file=err))
        totals = json.loads(out.getvalue())["totals"]
        assert (code, totals["verdict"], totals["exact"]) == (0, "match", True), model
        found[model] = totals["held"]
    assert found == DOCUMENTED


def test_a_support_vector_is_a_stored_event_and_its_weight_is_learned() -> None:
    """Three classes: two weights a support vector and three intercepts."""
    model = fit(svm.SVC(), THREE)
    n = len(model.support_)
    totals = count(model).totals
    assert (totals.held, totals.roles["raw_sample"]) == (2 * n + 3, n)


def test_isotonic_regression_holds_its_steps() -> None:
    """Both coordinates of each."""
    model = isotonic.IsotonicRegression().fit(X[:, 0], REAL)
    assert count(model).totals.held == 2 * len(model.X_thresholds_)


def test_neighbours_are_raw_samples() -> None:
    """120 events of 4 features as float64, and no parameter."""
    totals = count(fit(neighbors.KNeighborsClassifier())).totals
    assert (totals.roles, totals.bytes) == ({"raw_sample": 120}, 120 * 4 * 8)


def test_an_isolation_forest_reads_path_lengths_and_no_leaf_values() -> None:
    """A threshold per split, two lengths per node, one offset."""
    model = fit(ensemble.IsolationForest(n_estimators=3, random_state=1))
    nodes = sum(member.tree_.node_count for member in model.estimators_)
    splits = sum(member.tree_.node_count // 2 for member in model.estimators_)
    assert count(model).totals.held == splits + 2 * nodes + 1


def test_the_optimizer_of_a_perceptron_is_apart() -> None:
    """Adam keeps two moments of each of 81 parameters and a counter."""
    model = fit(
        neural_network.MLPRegressor(hidden_layer_sizes=(10,), max_iter=3),
        REAL,
        np.hstack([X, X[:, :2]]),
    )
    totals = count(model).totals
    assert (totals.held, totals.trainable, totals.optimizer) == (81, 81, 2 * 81 + 1)


def test_a_forest_is_three_rows() -> None:
    """Nodes, thresholds and leaf values, each under a unit of its own, as the trees say."""
    model = fit(ensemble.RandomForestClassifier(7, random_state=1), THREE)
    report = count(model)
    trees = [member.tree_ for member in model.estimators_]
    leaves = sum(tree.n_leaves for tree in trees)
    assert report.totals.units == {
        "node": sum(tree.node_count for tree in trees),
        "threshold": leaves - 7,
        "leaf_value": 3 * leaves,
    }
    assert len(report.rows) == 3


def test_sparse_weights_say_stored_and_dense() -> None:
    """What sparsify leaves out is not held, and the row says both numbers."""
    model = fit(
        linear_model.SGDClassifier(penalty="l1", alpha=0.1, random_state=1), REAL > 0
    ).sparsify()
    stored = model.coef_.nnz
    assert 0 < stored < 4
    row = count(model).rows[0]
    assert (row.held, row.verdict) == (stored, "match")
    assert f"{stored} stored of 4" in row.note


def test_an_estimator_that_was_never_fitted_is_undetermined() -> None:
    """No number is invented for a model without sizes."""
    for model in (
        linear_model.LogisticRegression(),
        neighbors.KNeighborsClassifier(),
        ensemble.RandomForestClassifier(),
        pipeline.make_pipeline(preprocessing.StandardScaler(), svm.SVC()),
        xgboost.XGBClassifier(),
        lightgbm.LGBMRegressor(),
        neighbors.KernelDensity(),
        model_selection.GridSearchCV(LOGISTIC, {}),
    ):
        totals = count(model).totals
        assert (totals.held, totals.verdict) == (0, "undetermined"), model


def test_an_estimator_of_no_known_family_is_walked_and_marked() -> None:
    """And the estimators inside it are still counted by their own adapters."""

    class Twice(BaseEstimator):  # type: ignore[misc]
        def fit(self, x: Any, y: Any) -> Any:
            self.first_ = fit(linear_model.LogisticRegression())
            self.others_ = [fit(naive_bayes.GaussianNB())]
            return self

    report = count(Twice().fit(X, TWO))
    assert (report.totals.held, report.exact) == (FIVE + 18, False)
    assert {row.path for row in report.rows} >= {"first_.coef_", "others_[0].theta_"}


def test_a_model_that_lost_an_attribute_is_refused() -> None:
    """Where a family's attributes are not what they were, no number is guessed."""
    model = fit(naive_bayes.GaussianNB())
    del model.var_
    with pytest.raises(ParameterError, match="var_"):
        count(model)


def leaves_of(dump: dict[str, Any]) -> int:
    """Leaves below one node of XGBoost's own JSON dump."""
    return sum(map(leaves_of, dump["children"])) if "children" in dump else 1


@pytest.mark.parametrize("booster", ["gbtree", "dart"])
def test_xgboost_by_its_nodes_and_leaves(booster: str) -> None:
    """A threshold per split, a value per leaf, the base score; of dart also a weight per tree."""
    model = fit(
        xgboost.XGBClassifier(n_estimators=4, max_depth=3, booster=booster, n_jobs=1), THREE
    )
    dumps = model.get_booster().get_dump(dump_format="json")
    leaves = sum(leaves_of(json.loads(text)) for text in dumps)
    totals = count(model).totals
    assert totals.units["node"] == 2 * leaves - 12
    assert (totals.units["threshold"], totals.units["leaf_value"]) == (leaves - 12, leaves)
    weights = 12 if booster == "dart" else 0
    assert totals.units["scalar"] == 3 + weights
    assert (totals.verdict, totals.exact) == ("match", True)


def test_an_xgboost_stump_by_hand() -> None:
    """Two trees of one split: 2 thresholds, 4 leaves, 1 base score; trees that were pruned too."""
    stumps = xgboost.train(
        {"max_depth": 1, "nthread": 1}, xgboost.DMatrix(X, REAL), num_boost_round=2
    )
    assert count(stumps).totals.held == 2 + 4 + 1
    pruned = xgboost.train(
        {"max_depth": 4, "gamma": 20.0, "tree_method": "exact", "nthread": 1},
        xgboost.DMatrix(X, REAL),
        num_boost_round=2,
    )
    assert count(pruned).totals.verdict == "match"


def test_a_linear_xgboost() -> None:
    """A weight per feature and a bias, and the base score."""
    model = fit(xgboost.XGBRegressor(booster="gblinear", n_estimators=3, n_jobs=1), REAL)
    assert count(model).totals.held == FIVE + 1


def test_lightgbm_by_its_nodes_and_leaves() -> None:
    """Every tree that was trained, also those after the best iteration."""
    model = fit(lightgbm.LGBMClassifier(n_estimators=5, num_leaves=4, n_jobs=1, verbose=-1), THREE)
    trees = model.booster_.trees_to_dataframe()
    leaves = int(trees["left_child"].isna().sum())
    totals = count(model).totals
    assert totals.units == {"node": len(trees), "threshold": leaves - 15, "leaf_value": leaves}
    assert totals.held == 2 * leaves - 15
    assert (totals.verdict, totals.exact) == ("match", True)


def test_categorical_splits_hold_categories_and_no_threshold() -> None:
    """In LightGBM, XGBoost and scikit-learn's histograms."""
    import pandas as pd

    kinds = np.arange(120) % 6
    x = pd.DataFrame({"kind": pd.Categorical(kinds), "x": X[:, 0]})
    y = np.isin(kinds, (1, 4)).astype(float) * 3
    for model in (
        lightgbm.LGBMRegressor(
            n_estimators=1, num_leaves=2, verbose=-1, min_child_samples=1, min_data_per_group=1
        ),
        xgboost.XGBRegressor(n_estimators=1, max_depth=1, enable_categorical=True, n_jobs=1),
        ensemble.HistGradientBoostingRegressor(max_iter=1, max_leaf_nodes=2),
    ):
        totals = count(fit(model, y, x)).totals
        assert "threshold" not in totals.units, model
        assert totals.units["leaf_value"] == 2
        assert totals.units.get("category") or totals.units.get("word")
        assert totals.verdict == "match"

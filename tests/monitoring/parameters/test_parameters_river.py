"""Counting River estimators, against counts made by hand."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import river
from river import (
    active,
    anomaly,
    base,
    compat,
    conf,
    drift,
    dummy,
    ensemble,
    facto,
    forest,
    imblearn,
    linear_model,
    multiclass,
    multioutput,
    naive_bayes,
    neighbors,
    optim,
    preprocessing,
    reco,
    time_series,
    tree,
)
from sklearn import linear_model as sklearn_linear

from monitoring.parameters import count


def stream(n: int, d: int, classes: int = 2) -> Iterator[tuple[dict[str, float], Any]]:
    """Seeded events of d normal features and a label."""
    generator = random.Random(7)
    for i in range(n):
        x = {f"f{j}": generator.gauss(0, 1) for j in range(d)}
        label = i % classes if classes > 2 or i < 2 else int(sum(x.values()) > 0)
        yield x, bool(label) if classes == 2 else label


def fit(model: Any, d: int = 5, n: int = 60, classes: int = 2) -> Any:
    """The model after n events of d features."""
    for x, y in stream(n, d, classes):
        model.learn_one(x, y)
    return model


def scaled(model: Any, d: int) -> Any:
    """A model that learns without labels."""
    for x, _ in stream(20, d):
        model.learn_one(x)
    return model


def counts(model: Any) -> Any:
    """Naive Bayes over counts: positive numbers only."""
    for x, y in stream(20, 4):
        model.learn_one({k: abs(v) for k, v in x.items()}, y)
    return model


def rated(model: Any) -> Any:
    """A recommender that knows three users and two items."""
    for user, item, y in (("a", "x", 1.0), ("b", "x", 2.0), ("a", "y", 3.0), ("c", "x", 1.0)):
        model.learn_one(user, item, y)
    return model


BY_HAND: dict[str, tuple[Callable[[], Any], int]] = {
    # A weight per feature and the intercept.
    "linear regression": (lambda: fit(linear_model.LinearRegression(), 7), 7 + 1),
    "logistic regression": (lambda: fit(linear_model.LogisticRegression(), 5), 5 + 1),
    "perceptron": (lambda: fit(linear_model.Perceptron(), 4), 4 + 1),
    "passive aggressive": (lambda: fit(linear_model.PAClassifier(), 5), 5 + 1),
    "ALMA": (lambda: fit(linear_model.ALMAClassifier(), 5), 5),
    "softmax": (lambda: fit(linear_model.SoftmaxRegression(), 4, classes=3), 3 * 4),
    "bayesian linear": (lambda: fit(linear_model.BayesianLinearRegression(), 5), 5 * 5 + 5),
    # Mean and variance of each weight and of the bias.
    "AdPredictor": (lambda: fit(linear_model.AdPredictor(), 5), 2 * 6),
    "FM": (lambda: fit(facto.FMClassifier(n_factors=4, seed=1), 5), 1 + 5 + 5 * 4),
    # A vector for each feature towards each other field.
    "FFM": (lambda: fit(facto.FFMClassifier(n_factors=4, seed=1), 5), 1 + 5 + 5 * 4 * 4),
    # And a weight for each ordered pair of fields: River keeps "ab", "ba" and "aa".
    "FwFM": (lambda: fit(facto.FwFMClassifier(n_factors=4, seed=1), 5), 1 + 5 + 5 * 4 + 5 * 5),
    # A vector for each feature and each degree, 2 and 3.
    "HOFM": (lambda: fit(facto.HOFMClassifier(n_factors=4, seed=1), 5), 1 + 5 + 5 * 2 * 4),
    # Count, mean and sum of squares per class and feature, and the class counts.
    "gaussian NB": (lambda: fit(naive_bayes.GaussianNB(), 4), 2 * 4 * 3 + 2),
    "multinomial NB": (lambda: counts(naive_bayes.MultinomialNB()), 2 * 4 + 2 + 2),
    "complement NB": (lambda: counts(naive_bayes.ComplementNB()), 2 * 4 + 2 + 2 + 4),
    "bernoulli NB": (lambda: counts(naive_bayes.BernoulliNB()), 2 * 4 + 2),
    "standard scaler": (lambda: scaled(preprocessing.StandardScaler(), 5), 3 * 5),
    "min-max scaler": (lambda: scaled(preprocessing.MinMaxScaler(), 5), 2 * 5),
    "max-abs scaler": (lambda: scaled(preprocessing.MaxAbsScaler(), 5), 5),
    "pipeline": (
        lambda: fit(preprocessing.StandardScaler() | linear_model.LogisticRegression(), 5),
        15 + 6,
    ),
    "bagging": (
        lambda: fit(ensemble.BaggingClassifier(linear_model.LogisticRegression(), 3, seed=1), 5),
        3 * 6,
    ),
    # Three members and two vote weights each.
    "AdaBoost": (
        lambda: fit(ensemble.AdaBoostClassifier(linear_model.LogisticRegression(), 3, seed=1), 5),
        3 * 6 + 2 * 3,
    ),
    "one against the rest": (
        lambda: fit(
            multiclass.OneVsRestClassifier(linear_model.LogisticRegression()), 4, classes=3
        ),
        3 * 5,
    ),
    # Three users, two items: biases, vectors, and the mean's two scalars.
    "baseline": (lambda: rated(reco.Baseline()), 3 + 2 + 2),
    "FunkMF": (lambda: rated(reco.FunkMF(n_factors=4, seed=1)), 5 * 4),
    "BiasedMF": (lambda: rated(reco.BiasedMF(n_factors=4, seed=1)), 5 * 4 + 5 + 2),
    "nearest neighbours": (lambda: fit(neighbors.KNNClassifier()), 0),
}


# Two weights and the intercept.
LOGISTIC, LINEAR = linear_model.LogisticRegression, linear_model.LinearRegression
THREE = 2 + 1


def taught(model: Any, label: Callable[[int], Any] = lambda i: i % 3) -> Any:
    """The model after thirty events of two features and labels of three classes."""
    for i in range(30):
        model.learn_one({"a": float(i % 7), "b": float(i % 5)}, label(i))
    return model


def forecaster() -> Any:
    """Two lags and one error, of differences of first order."""
    model = time_series.SNARIMAX(p=2, d=1, q=1, regressor=LINEAR())
    for i in range(30):
        model.learn_one(float(i % 7))
    return model


def real(i: int) -> float:
    """A number to regress."""
    return float(i % 4)


def pair(i: int) -> dict[str, float]:
    """Two numbers to regress."""
    return {"u": real(i), "v": -real(i)}


def both(i: int) -> dict[str, bool]:
    """Two labels at once."""
    return {"u": i % 2 == 0, "v": i % 3 == 0}


def filtered() -> Any:
    """An anomaly detector of two trees of height 2 behind a filter."""
    model = anomaly.QuantileFilter(
        anomaly.HalfSpaceTrees(n_trees=2, height=2, seed=1), q=0.95, protect_anomaly_detector=False
    )
    for i in range(30):
        model.learn_one({"a": i % 7 / 7})
    return model


def from_sklearn() -> Any:
    """A perceptron of scikit-learn that River teaches."""
    inner = sklearn_linear.SGDClassifier(random_state=1)
    return taught(compat.SKL2RiverClassifier(inner, classes=[0, 1, 2]))


WRAPPED: dict[str, tuple[Callable[[], Any], int]] = {
    "EntropySampler": (lambda: taught(active.EntropySampler(LOGISTIC()), lambda i: i % 2), THREE),
    "HardSampling": (
        lambda: taught(
            imblearn.HardSamplingClassifier(LOGISTIC(), size=5, p=0.5, seed=1), lambda i: i % 2 == 0
        ),
        THREE,
    ),
    "RandomOverSampler": (
        lambda: taught(
            imblearn.RandomOverSampler(LOGISTIC(), {False: 0.5, True: 0.5}, seed=1),
            lambda i: i % 2 == 0,
        ),
        THREE,
    ),
    "ChebyshevUnderSampler": (
        lambda: taught(imblearn.ChebyshevUnderSampler(LINEAR()), real),
        THREE,
    ),
    "ChebyshevOverSampler": (lambda: taught(imblearn.ChebyshevOverSampler(LINEAR()), real), THREE),
    "DriftRetraining": (
        lambda: taught(
            drift.DriftRetrainingClassifier(LOGISTIC(), drift_detector=drift.binary.DDM()),
            lambda i: i % 2 == 0,
        ),
        THREE,
    ),
    # A classifier for each pair of three classes, or for each of four bits.
    "OneVsOne": (lambda: taught(multiclass.OneVsOneClassifier(LOGISTIC())), 3 * THREE),
    "OutputCode": (
        lambda: taught(
            multiclass.OutputCodeClassifier(LOGISTIC(), code_size=4, coding_method="random", seed=1)
        ),
        4 * THREE,
    ),
    # The second of a chain also takes what the first said.
    "ClassifierChain": (
        lambda: taught(multioutput.ClassifierChain(LOGISTIC()), both),
        2 * THREE + 1,
    ),
    "RegressorChain": (lambda: taught(multioutput.RegressorChain(LINEAR()), pair), 2 * THREE + 1),
    "PerOutput": (lambda: taught(multioutput.PerOutputRegressor(LINEAR()), pair), 2 * THREE),
    "MultiClassEncoder": (
        # Four combinations of two labels: naive Bayes counts, and the combinations themselves.
        lambda: taught(multioutput.MultiClassEncoder(naive_bayes.GaussianNB()), both),
        4 * 2 * 3 + 4 + 4,
    ),
    "PredClipper": (lambda: taught(preprocessing.PredClipper(LINEAR(), 0, 1), real), THREE),
    "RegressionJackknife": (lambda: taught(conf.RegressionJackknife(LINEAR()), real), THREE),
    # Two lags, one error and the intercept; what they are made of: two differences and an error.
    "SNARIMAX": (forecaster, 4 + 3),
    # Two masses in each of seven nodes of two trees.
    "AnomalyFilter": (filtered, 2 * 2 * 7),
    "River2SKL": (
        lambda: compat.convert_river_to_sklearn(LOGISTIC()).fit(
            [[0.0, 1.0], [1.0, 0.0]], [False, True]
        ),
        THREE,
    ),
    # Three classes of two features.
    "SKL2River": (from_sklearn, 3 * THREE),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_what_trains_others_counts_what_they_learned(name: str) -> None:
    """By their own formulas, and exactly."""
    build, expected = WRAPPED[name]
    model = build()
    totals = count(model).totals
    assert (totals.held, totals.formula, totals.verdict) == (expected, expected, "match")
    assert totals.exact


def test_an_estimator_that_holds_nothing_yet_says_so() -> None:
    """A row of nothing, of known families and of others: a new member is no error."""
    for model in (multiclass.OneVsRestClassifier(LOGISTIC()), dummy.NoChangeClassifier()):
        report = count(model)
        assert [row.held for row in report.rows] == [0]
        assert report.rows[0].note


def wrappers() -> list[type[Any]]:
    """Every class of River that trains another, whatever it is called."""
    found = set()
    for module in pkgutil.iter_modules(river.__path__, "river."):
        names = vars(importlib.import_module(module.name)).values()
        found |= {c for c in names if inspect.isclass(c) and issubclass(c, base.Wrapper)}
    return sorted((c for c in found if not inspect.isabstract(c)), key=lambda c: c.__name__)


def test_every_wrapper_of_river_has_an_adapter() -> None:
    """None is walked by its attributes, so that none calls what it trained a hyper-parameter."""
    notes = {}
    for cls in wrappers():
        # River gives no arguments for its samplers and those for scikit-learn.
        for parameters in filter(None, getattr(cls, "_unit_test_params", lambda: [])()):
            notes[cls.__name__] = count(cls(**parameters)).notes
    assert len(notes) > 20
    assert {n for n, said in notes.items() if f"walked generically: {n}" in said} == set()


@pytest.mark.parametrize("name", BY_HAND)
def test_a_family_counts_as_by_hand(name: str) -> None:
    """Held equals the hand count, formula equals held, and no fallback was used."""
    build, expected = BY_HAND[name]
    totals = count(build()).totals
    assert (totals.held, totals.formula, totals.verdict) == (expected, expected, "match")
    assert totals.exact


def test_optimizer_state_is_apart() -> None:
    """Adam keeps two moments per weight and a step counter; weights stay d + 1."""
    totals = count(fit(linear_model.LogisticRegression(optim.Adam()), 5)).totals
    assert (totals.held, totals.trainable, totals.optimizer) == (6, 6, 11)


def test_statistics_are_not_gradient_parameters() -> None:
    """A scaler's means are held and read, and nothing trains them."""
    totals = count(fit(preprocessing.StandardScaler() | linear_model.LogisticRegression())).totals
    assert (totals.held, totals.trainable) == (21, 6)
    assert totals.roles == {"statistic": 15, "learned": 6, "optimizer": 1}


def walk(node: Any) -> Iterator[Any]:
    """A node and every node below it."""
    yield node
    for child in getattr(node, "children", ()):
        yield from walk(child)


def test_a_hoeffding_tree_by_its_nodes() -> None:
    """Nodes, thresholds and leaf statistics each under their own unit."""
    model = fit(
        tree.HoeffdingTreeClassifier(grace_period=20, delta=0.1, tau=0.5, leaf_prediction="mc"),
        n=400,
    )
    report = count(model)
    nodes = list(walk(model._root))
    branches = [n for n in nodes if hasattr(n, "children")]
    assert len(branches) > 3
    assert report.totals.units["node"] == len(nodes) == 2 * len(branches) + 1
    assert report.totals.units["threshold"] == len(branches)
    leaves = [n for n in nodes if not hasattr(n, "children")]
    assert report.totals.units["leaf_statistic"] == sum(len(n.stats) for n in leaves)
    assert report.totals.trainable == 0


def test_a_naive_bayes_leaf_predicts_with_its_gaussians() -> None:
    """One leaf, four features, two classes: counts, two weights and 3 scalars per pair."""
    model = fit(tree.HoeffdingTreeClassifier(grace_period=10_000), d=4, n=50)
    totals = count(model).totals
    assert totals.units["leaf_statistic"] == 2 + 2 + 3 * 4 * 2
    # Their minima and maxima only serve split attempts.
    assert totals.roles["control"] == 1 + 2 * 4 * 2


def test_the_shared_splitter_prototype_counts_nothing() -> None:
    """Every leaf points to the same unused splitter."""
    model = fit(tree.HoeffdingTreeClassifier(grace_period=20, delta=0.1, tau=0.5), n=400)
    leaves = [n for n in walk(model._root) if not hasattr(n, "children")]
    assert len({id(leaf.splitter) for leaf in leaves}) == 1
    observed = sum(len(s._att_dist_per_class) for n in leaves for s in n.splitters.values())
    report = count(model)
    row = next(r for r in report.rows if r.path == "observers")
    assert row.held == 3 * observed


def test_a_mondrian_forest_with_its_parent_pointers() -> None:
    """Two trees of one node, then grown ones: the walk goes down only and ends."""
    young = fit(forest.AMFClassifier(n_estimators=2, seed=1), d=3, n=1)
    # A leaf: 2 x 3 ranges, time, weight, log weight, samples, and one class count.
    assert count(young).totals.held == 2 * (6 + 4 + 1)
    report = count(fit(forest.AMFClassifier(n_estimators=2, seed=1), d=3, n=80))
    assert report.totals.verdict == "match"
    assert report.totals.units["node"] > 20


def test_background_trees_of_a_random_forest_are_not_read_by_scoring() -> None:
    """They learn beside the others and count as control, not as parameters."""
    model = fit(forest.ARFClassifier(n_models=2, seed=1), n=40)
    before = count(model).totals
    model._background[0] = model.data[0].clone()
    for x, y in stream(10, 5):
        model._background[0].learn_one(x, y)
    after = count(model).totals
    assert after.held == before.held
    assert after.roles["control"] > before.roles["control"]


def test_a_half_space_tree_counts_masses_and_drawn_thresholds() -> None:
    """Height 3: 7 branches and 8 leaves a tree, two masses each; thresholds are never learned."""
    model = scaled(anomaly.HalfSpaceTrees(n_trees=2, height=3, seed=1), 3)
    totals = count(model).totals
    assert totals.held == 2 * 2 * 15
    assert totals.roles["hyper"] == 2 * 7


def test_stored_samples_are_data_and_no_parameters() -> None:
    """Nearest neighbours keep events."""
    assert count(fit(neighbors.KNNClassifier(), n=30)).totals.roles == {"raw_sample": 30}


def test_an_estimator_in_two_places_counts_once() -> None:
    """Aliases are listed and the second adds nothing."""
    shared = fit(linear_model.LogisticRegression(), 5)
    voting = ensemble.VotingClassifier([shared, shared])
    report = count(voting)
    assert report.totals.held == 6
    assert report.aliases == {"[1]": "[0]"}


def test_counting_does_not_grow_a_model_but_predicting_does() -> None:
    """A factorisation machine adds what it has not seen; the count must not."""
    model = fit(facto.FMClassifier(n_factors=2, seed=1), 3)
    assert count(model).totals.held == count(model).totals.held == 1 + 3 + 6
    model.predict_one({"unseen": 1.0, "new": 2.0})
    assert count(model).totals.held > 10


def test_rust_weights_are_seen() -> None:
    """River's own memory usage is the same for ten weights as for a thousand."""
    sizes = []
    for d in (10, 1000):
        model = linear_model.LinearRegression()
        model.learn_one({f"f{i}": 1.0 for i in range(d)}, 1.0)
        sizes.append((count(model).totals.held, model._raw_memory_usage))
    assert [held for held, _ in sizes] == [11, 1001]
    assert sizes[0][1] == sizes[1][1]


def test_an_unknown_estimator_is_walked_and_marked() -> None:
    """The fallback says that it is one."""
    report = count(fit(dummy.PriorClassifier()))
    assert not report.totals.exact
    assert report.totals.verdict == "no_formula"
    assert "PriorClassifier" in report.notes[0]


def test_an_object_of_no_known_kind_is_walked_and_marked() -> None:
    """Numbers found in attributes, arguments of the constructor apart."""

    class Thing:
        def __init__(self, rate: float = 0.5) -> None:
            self.rate = rate
            self.weights = [1.0, 2.0, {"a": 3.0}]
            self.me = self

    report = count(Thing())
    assert (report.kind, report.totals.held, report.totals.exact) == ("object", 3, False)
    assert report.totals.roles == {"hyper": 1, "statistic": 3}


def test_the_same_model_gives_the_same_report() -> None:
    """Counting is a pure reading."""
    model = fit(forest.ARFClassifier(n_models=2, seed=1), n=100)
    assert count(model).to_dict() == count(model).to_dict()

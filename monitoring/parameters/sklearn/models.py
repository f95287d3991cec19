"""Adapters for scikit-learn's linear models, perceptrons, naive Bayes, machines, scalers, clusters.

Each yields a row per array that ``fit`` writes and ``predict`` or ``transform`` reads, with a
formula in d features, c classes, r outputs and k components. What only ``partial_fit`` reads is
``control`` or ``optimizer``; what the constructor was given is not counted.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from models.base import Role
from monitoring.parameters.counted import Row
from monitoring.parameters.formula import formula
from monitoring.parameters.tables import Adapter, Part, array, table


def _outputs(m: Any) -> int:
    """Rows of a linear model: two classes need one, a regression one per target."""
    if not hasattr(m, "classes_"):
        return int(m.coef_.shape[0]) if np.ndim(m.coef_) == 2 else 1
    binarizer = getattr(m, "_label_binarizer", None)
    multilabel = str(getattr(binarizer, "y_type_", "")).startswith("multilabel")
    return 1 if len(m.classes_) == 2 and not multilabel else len(m.classes_)


def _components(m: Any) -> int:
    names = ("n_components_", "n_clusters", "n_components")
    return next(getattr(m, name) for name in names if hasattr(m, name))


_SIZES: dict[str, Callable[[Any], int]] = {
    "d": lambda m: m.n_features_in_,
    "c": lambda m: len(m.classes_),
    "r": _outputs,
    "k": _components,
    "n": lambda m: m.n_samples_fit_,
}


def _arrays(*specs: tuple[str, str, Role]) -> Adapter:
    """An adapter of plain arrays: attribute, formula, role; ``None`` was not asked for."""

    def adapter(m: Any) -> Iterator[Row | Part]:
        for name, text, role in specs:
            value = getattr(m, name)
            if value is not None:
                sizes = {size: _SIZES[size](m) for size in re.findall("[a-z]", text)}
                yield array(name, value, formula(text, **sizes), role)

    return adapter


def _linear(m: Any) -> Iterator[Row | Part]:
    r, d = _outputs(m), m.n_features_in_
    yield array("coef_", m.coef_, formula("r*d", r=r, d=d))
    if getattr(m, "fit_intercept", True):
        name = "intercept_" if hasattr(m, "intercept_") else "offset_"
        yield array(name, getattr(m, name), formula("r", r=r))
    if getattr(m, "average", 0):
        # Averaged descent keeps the last weights beside their mean; one of them scores.
        scores = m.coef_ is m._average_coef
        kept = "_standard" if scores else "_average"
        held = np.size(getattr(m, f"{kept}_coef")) + np.size(getattr(m, f"{kept}_intercept"))
        yield table(kept, held, formula("r*d + r", r=r, d=d), role="optimizer")
    if hasattr(m, "t_"):
        yield table("t_", 1, formula("1"), role="optimizer")


def _bayesian(m: Any) -> Iterator[Row | Part]:
    """And what the deviation of a prediction is made of: the weights' covariance, the noise."""
    yield from _linear(m)
    # Automatic relevance drops features, and keeps a covariance of the others.
    kept = m.lambda_ < m.threshold_lambda if hasattr(m, "threshold_lambda") else m.coef_
    n = int(np.sum(kept)) if kept is not m.coef_ else m.n_features_in_
    yield array("sigma_", m.sigma_, formula("n*n", n=n), "statistic")
    yield array("alpha_", m.alpha_, formula("1"), "statistic")


def _bisecting(m: Any) -> Iterator[Row | Part]:
    """A prediction goes down a tree of centres: two below each of k - 1 splits."""
    held, stack = 0, [m._bisecting_tree]
    while stack:
        below = [node for node in (stack.pop(),) if node.left is not None]
        children = [child for node in below for child in (node.left, node.right)]
        held += sum(np.size(child.center) for child in children)
        stack += children
    yield table("centers", held, formula("(2*k - 2)*d", k=m.n_clusters, d=m.n_features_in_))


def _perceptron(m: Any) -> Iterator[Row | Part]:
    hidden = np.atleast_1d(m.hidden_layer_sizes).tolist()
    widths = [m.n_features_in_, *hidden, m.n_outputs_]
    for i, (weights, biases) in enumerate(zip(m.coefs_, m.intercepts_, strict=True)):
        expected = formula("i*o + o", i=widths[i], o=widths[i + 1])
        row = array(f"layers[{i}]", weights, expected)
        held = row.held + np.size(biases)
        yield dataclasses.replace(
            row,
            config=f"{widths[i]}->{widths[i + 1]}",
            held=held,
            trainable=held,
            bytes=row.bytes + biases.nbytes,
            verdict="match" if held == expected.value else "mismatch",
        )
    yield from _descent(m)


def _descent(m: Any) -> Iterator[Row | Part]:
    """The moments of a perceptron's optimizer; lbfgs leaves none behind."""
    optimizer = getattr(m, "_optimizer", None)
    if optimizer is None:
        return
    p = sum(w.size for w in (*m.coefs_, *m.intercepts_))
    adam = hasattr(optimizer, "ms")
    moments = [*optimizer.ms, *optimizer.vs] if adam else optimizer.velocities
    held = sum(np.size(moment) for moment in moments) + adam
    yield table("optimizer", held, formula("2*p + 1" if adam else "p", p=p), role="optimizer")


def _categorical_nb(m: Any) -> Iterator[Row | Part]:
    c, categories = len(m.classes_), int(np.sum(m.n_categories_))
    held = sum(table.size for table in m.feature_log_prob_)
    expected = formula("c*categories", c=c, categories=categories)
    yield table("feature_log_prob_", held, expected, role="statistic")
    yield array("class_log_prior_", m.class_log_prior_, formula("c", c=c), "statistic")


def _machine(m: Any) -> Iterator[Row | Part]:
    """Support vectors are stored events; what weighs them is learned."""
    n = len(m.support_)
    yield table(
        "support_vectors_", n, formula("n", n=n), role="raw_sample", unit="sample",
        config=f"{n} of {m.n_features_in_} features",
    )  # fmt: skip
    c = len(m.classes_) if hasattr(m, "classes_") else 2
    yield array("dual_coef_", m._dual_coef_, formula("(c - 1)*n", c=c, n=n))
    yield array("intercept_", m._intercept_, formula("c*(c - 1)/2", c=c))
    if np.size(m._probA):
        for name in ("_probA", "_probB"):
            held = np.size(getattr(m, name))
            if held:
                yield array(name, getattr(m, name), formula("c*(c - 1)/2", c=c))


def _neighbours(m: Any) -> Iterator[Row | Part]:
    """Stored events are data, not parameters."""
    n = int(np.shape(m._fit_X)[0])
    row = table(
        "samples", n, formula("n", n=m.n_samples_fit_), role="raw_sample", unit="sample",
        config=f"{n} of {m.n_features_in_} features",
    )  # fmt: skip
    yield dataclasses.replace(row, bytes=array("", m._fit_X, formula("0")).bytes)


def _outlier_factor(m: Any) -> Iterator[Row | Part]:
    yield from _neighbours(m)
    n, k = m.n_samples_fit_, m.n_neighbors_
    yield array("distances", m._distances_fit_X_, formula("n*k", n=n, k=k), "statistic")
    yield array("densities", m._lrd, formula("n", n=n), "statistic")
    yield array("offset_", m.offset_, formula("1"))


def _mixture(m: Any) -> Iterator[Row | Part]:
    k, d = m.n_components, m.n_features_in_
    text = {"full": "k*d*d", "tied": "d*d", "diag": "k*d", "spherical": "k"}[m.covariance_type]
    yield array("weights_", m.weights_, formula("k", k=k), "statistic")
    yield array("means_", m.means_, formula("k*d", k=k, d=d), "statistic")
    sizes = {"k": k, "d": d}
    yield array("precisions_cholesky_", m.precisions_cholesky_, formula(text, **sizes), "statistic")
    # The same covariances in two other forms: scoring reads neither.
    held = np.size(m.covariances_) + np.size(m.precisions_)
    yield table("covariances_", held, formula(f"2*{text}", **sizes), role="control")


def _pca(m: Any) -> Iterator[Row | Part]:
    yield from _arrays(("components_", "k*d", "learned"), ("mean_", "d", "statistic"))(m)
    if m.whiten:
        yield from _arrays(("explained_variance_", "k", "statistic"))(m)


def _categories(m: Any) -> Iterator[Row | Part]:
    seen = sum(len(values) for values in m.categories_)
    yield table("categories_", seen, formula("seen", seen=seen), role="statistic", unit="category")


def _isotonic(m: Any) -> Iterator[Row | Part]:
    n = len(m.X_thresholds_)
    yield array("X_thresholds_", m.X_thresholds_, formula("n", n=n))
    yield array("y_thresholds_", m.y_thresholds_, formula("n", n=n))


def _dummy(m: Any) -> Iterator[Row | Part]:
    if hasattr(m, "classes_"):
        yield array("class_prior_", m.class_prior_, formula("c", c=len(m.classes_)), "statistic")
    else:
        yield array("constant_", m.constant_, formula("r", r=m.n_outputs_), "statistic")


def _stateless(m: Any) -> Iterator[Row | Part]:
    yield table("", 0, formula("0"))


_COUNTS_NB = _arrays(
    ("feature_log_prob_", "c*d", "statistic"),
    ("class_log_prior_", "c", "statistic"),
    ("feature_count_", "c*d", "control"),
    ("class_count_", "c", "control"),
)

STATELESS = (
    *("Normalizer", "Binarizer", "PolynomialFeatures", "FunctionTransformer"),
    *("FeatureHasher", "HashingVectorizer"),
)
"""Transformers that learn nothing: zero is their count, fitted or not."""

MODELS: dict[str, Adapter] = {
    **dict.fromkeys(("LinearClassifierMixin", "LinearModel", "BaseSGD"), _linear),
    **dict.fromkeys(("_GeneralizedLinearRegressor", "QuantileRegressor"), _linear),
    **dict.fromkeys(("BayesianRidge", "ARDRegression"), _bayesian),
    "BaseMultilayerPerceptron": _perceptron,
    "GaussianNB": _arrays(
        ("theta_", "c*d", "statistic"),
        ("var_", "c*d", "statistic"),
        ("class_prior_", "c", "statistic"),
        ("class_count_", "c", "control"),
    ),
    **dict.fromkeys(("MultinomialNB", "ComplementNB", "BernoulliNB"), _COUNTS_NB),
    "CategoricalNB": _categorical_nb,
    "BaseLibSVM": _machine,
    "NeighborsBase": _neighbours,
    "LocalOutlierFactor": _outlier_factor,
    "NearestCentroid": _arrays(("centroids_", "c*d", "statistic")),
    "BisectingKMeans": _bisecting,
    "_BaseKMeans": _arrays(("cluster_centers_", "k*d", "learned")),
    "GaussianMixture": _mixture,
    "_BasePCA": _pca,
    "TruncatedSVD": _arrays(("components_", "k*d", "learned")),
    "_BaseNMF": _arrays(("components_", "k*d", "learned")),
    "StandardScaler": _arrays(("mean_", "d", "statistic"), ("scale_", "d", "statistic")),
    "MinMaxScaler": _arrays(("min_", "d", "statistic"), ("scale_", "d", "statistic")),
    "MaxAbsScaler": _arrays(("scale_", "d", "statistic")),
    "RobustScaler": _arrays(("center_", "d", "statistic"), ("scale_", "d", "statistic")),
    "SimpleImputer": _arrays(("statistics_", "d", "statistic")),
    "OneHotEncoder": _categories,
    "OrdinalEncoder": _categories,
    "IsotonicRegression": _isotonic,
    "DummyClassifier": _dummy,
    "DummyRegressor": _dummy,
    **dict.fromkeys(STATELESS, _stateless),
}
"""Adapters by the name of the class or of a base class."""

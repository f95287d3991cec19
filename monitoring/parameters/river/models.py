"""Adapters for River's linear and factorisation models, naive Bayes, scalers and recommenders.

Each yields rows with a formula in d features, c classes, k factors, u users and i items. Nothing
here indexes a ``defaultdict``: reading an unseen key would add it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from monitoring.parameters.counted import Row
from monitoring.parameters.formula import formula
from monitoring.parameters.tables import Adapter, Part, scalars, table

_RULES = frozenset({"lr", "n_iterations", "optimizer", "_idx"})


def _optimizer(optimizer: Any, path: str) -> Iterator[Row | Part]:
    """The optimizer's own arrays (moments, sums of squares) and its step counter."""
    if optimizer is None:
        return
    containers = {
        name: value
        for name, value in vars(optimizer).items()
        if name not in _RULES
        and (isinstance(value, Mapping | np.ndarray) or type(value).__name__ == "VectorDict")
    }
    sizes = {name.strip("_"): scalars(value) for name, value in containers.items()}
    steps = 1 if hasattr(optimizer, "n_iterations") else 0
    held = sum(sizes.values()) + steps
    text = " + ".join([*sizes, *(["1"] if steps else [])]) or "0"
    row = table(path, held, formula(text, **sizes), role="optimizer")
    yield row
    inner = getattr(optimizer, "optimizer", None)
    if inner is not None:
        yield from _optimizer(inner, f"{path}.optimizer")


def _glm(m: Any) -> Iterator[Row | Part]:
    d = len(m._weights)
    yield table("weights", scalars(m._weights) + 1, formula("d + 1", d=d), config=f"{d} features")
    if m.l1:
        held = scalars(m.cum_l1) + 1
        yield table("l1", held, formula("d + 1", d=len(m.cum_l1)), role="control")
    yield from _optimizer(m.optimizer, "optimizer")


def _passive_aggressive(m: Any) -> Iterator[Row | Part]:
    held = scalars(m.weights) + 1
    yield table("weights", held, formula("d + 1", d=len(m.weights)))


def _alma(m: Any) -> Iterator[Row | Part]:
    yield table("weights", scalars(m.w), formula("d", d=len(m.w)))
    yield table("k", 1, formula("1"), role="control")


def _softmax(m: Any) -> Iterator[Row | Part]:
    rows = list(m.weights.values())
    d = max((len(row) for row in rows), default=0)
    config = f"{len(rows)} classes, {d} features"
    yield table("weights", scalars(m.weights), formula("c*d", c=len(rows), d=d), config=config)
    for label, optimizer in m.optimizers.items():
        yield from _optimizer(optimizer, f"optimizers[{label!r}]")


def _ad_predictor(m: Any) -> Iterator[Row | Part]:
    held = scalars(m.means) + scalars(m.variances)
    yield table("weights", held, formula("2*(d + 1)", d=max(len(m.means) - 1, 0)))


def _bayesian(m: Any) -> Iterator[Row | Part]:
    d = len(m._idx)
    used = m._ss_inv_arr[:d, :d].size + m._eta_arr[:d].size
    note = f"room for {m._cap} features is allocated"
    yield table("posterior", used, formula("d*d + d", d=d), note=note)
    yield table("precision", m._ss_arr[:d, :d].size, formula("d*d", d=d), role="optimizer")


def _fm(m: Any) -> Iterator[Row | Part]:
    """Factorisation machines: d + 1 weights, and latent vectors of k factors."""
    d, k = len(m.weights), m.n_factors
    yield table("weights", scalars(m.weights) + 1, formula("d + 1", d=d))
    nested = [v for v in m.latents.values() if isinstance(v, Mapping)]
    vectors = sum(map(len, nested)) if nested else len(m.latents)
    config = f"{vectors} vectors of {k}"
    expected = formula("v*k", v=vectors, k=k)
    yield table("latents", scalars(m.latents), expected, config=config)
    pairs = getattr(m, "int_weights", getattr(m, "interaction_weights", None))
    if pairs is not None:
        # River keeps the same dictionary under two names.
        yield table("interactions", scalars(pairs), formula("pairs", pairs=len(pairs)))
    for name in ("weight_optimizer", "latent_optimizer", "int_weight_optimizer"):
        yield from _optimizer(getattr(m, name, None), name)


def _gaussian_nb(m: Any) -> Iterator[Row | Part]:
    c = len(m.class_counts)
    pairs = sum(len(features) for features in m.gaussians.values())
    held = scalars(m.class_counts) + scalars(m.gaussians)
    expected = formula("c + 3*pairs", c=c, pairs=pairs)
    config = f"{c} classes, {pairs} class-feature pairs"
    yield table("statistics", held, expected, role="statistic", config=config)


def _counts_nb(m: Any) -> Iterator[Row | Part]:
    c = len(m.class_counts)
    pairs = sum(len(classes) for classes in m.feature_counts.values())
    text, sizes = "c + pairs", {"c": c, "pairs": pairs}
    held = _numbers(m.class_counts) + sum(map(_numbers, m.feature_counts.values()))
    if hasattr(m, "class_totals"):
        text, held = f"{text} + totals", held + _numbers(m.class_totals)
        sizes["totals"] = len(m.class_totals)
    if hasattr(m, "feature_totals"):
        text, held = f"{text} + d", held + _numbers(m.feature_totals)
        sizes["d"] = len(m.feature_totals)
    yield table("counts", held, formula(text, **sizes), role="statistic")


def _numbers(counts: Mapping[Any, Any]) -> int:
    # Bernoulli naive Bayes starts a count with a bool.
    return sum(isinstance(value, int | float | np.generic) for value in counts.values())


def _running(*names: str) -> Adapter:
    """A transformer that keeps one running statistic per feature under each of these names."""

    def adapter(m: Any) -> Iterator[Row | Part]:
        text, sizes, held = "0", {}, 0
        for name in names:
            value = getattr(m, name)
            first = next(iter(value.values()), None)
            each = scalars(first) or 1
            term = name if each == 1 else f"{each}*{name}"
            text = term if text == "0" else f"{text} + {term}"
            sizes[name] = len(value)
            held += sum(scalars(item) for item in value.values())
        yield table("statistics", held, formula(text, **sizes), role="statistic")

    return adapter


def _one_hot(m: Any) -> Iterator[Row | Part]:
    seen = sum(len(values) for values in m.values.values())
    yield table("categories", seen, formula("seen", seen=seen), role="statistic", unit="category")


def _imputer(m: Any) -> Iterator[Row | Part]:
    held = scalars(m.stats)
    yield table("statistics", held, formula("held", held=held), role="statistic")


def _stateless(m: Any) -> Iterator[Row | Part]:
    yield table("", 0, formula("0"))


def _baseline(m: Any) -> Iterator[Row | Part]:
    u, i = len(m.u_biases), len(m.i_biases)
    yield table("mean", scalars(m.global_mean), formula("2"), role="statistic")
    held = scalars(m.u_biases) + scalars(m.i_biases)
    yield table("biases", held, formula("u + i", u=u, i=i), config=f"{u} users, {i} items")
    for name in ("u_optimizer", "i_optimizer", "u_bias_optimizer", "i_bias_optimizer"):
        yield from _optimizer(getattr(m, name, None), name)


def _funk(m: Any) -> Iterator[Row | Part]:
    u, i, k = len(m.u_latents), len(m.i_latents), m.n_factors
    held = scalars(m.u_latents) + scalars(m.i_latents)
    config = f"{u} users, {i} items, {k} factors"
    yield table("latents", held, formula("(u + i)*k", u=u, i=i, k=k), config=config)
    names = ("u_latent_optimizer", "i_latent_optimizer")
    if not hasattr(m, "u_latent_optimizer"):
        names = ("u_optimizer", "i_optimizer")
    for name in names:
        yield from _optimizer(getattr(m, name), name)


def _biased(m: Any) -> Iterator[Row | Part]:
    yield from _baseline(m)
    yield from _funk(m)


def _neighbours(m: Any) -> Iterator[Row | Part]:
    """Stored events are data, not parameters."""
    engine = getattr(m, "_nn", None) or m.engine
    # SWINN keeps its points in _data, a plain search in window.
    kept = len(engine._data) if hasattr(engine, "_data") else len(engine.window)
    yield table("samples", kept, formula("kept", kept=kept), role="raw_sample", unit="sample")


MODELS: dict[str, Adapter] = {
    "GLM": _glm,
    "BasePA": _passive_aggressive,
    "ALMAClassifier": _alma,
    "SoftmaxRegression": _softmax,
    "AdPredictor": _ad_predictor,
    "BayesianLinearRegression": _bayesian,
    "BaseFM": _fm,
    "GaussianNB": _gaussian_nb,
    "BernoulliNB": _counts_nb,
    "MultinomialNB": _counts_nb,
    "ComplementNB": _counts_nb,
    "StandardScaler": _running("counts", "means", "vars"),
    "MinMaxScaler": _running("min", "max"),
    "MaxAbsScaler": _running("abs_max"),
    "AdaptiveStandardScaler": _running("means", "vars"),
    "OneHotEncoder": _one_hot,
    "OrdinalEncoder": _one_hot,
    "StatImputer": _imputer,
    **dict.fromkeys(
        (
            "Normalizer",
            "Binarizer",
            "FeatureHasher",
            "Select",
            "Discard",
            "SelectType",
            "Prefixer",
            "Suffixer",
            "Renamer",
            "FuncTransformer",
            "PolynomialExtender",
        ),
        _stateless,
    ),
    "Baseline": _baseline,
    "FunkMF": _funk,
    "BiasedMF": _biased,
    "KNNClassifier": _neighbours,
    "KNNRegressor": _neighbours,
}
"""Adapters by the name of the class or of a base class."""

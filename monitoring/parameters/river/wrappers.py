"""Adapters for River estimators that train one other, or one per class, target or code.

The prototype that copies are made of never learns and is no part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from monitoring.parameters.counted import Row
from monitoring.parameters.formula import formula
from monitoring.parameters.river.composites import detector_row
from monitoring.parameters.tables import Adapter, Part, scalars, table


def _one(name: str, *extras: Callable[[Any], Iterator[Row | Part]]) -> Adapter:
    """The estimator in one attribute, and the rows of what the wrapper itself keeps."""

    def adapter(m: Any) -> Iterator[Row | Part]:
        yield Part(name, getattr(m, name))
        for extra in extras:
            yield from extra(m)

    return adapter


def _many(models: Callable[[Any], Mapping[Any, Any]], *extras: Adapter) -> Adapter:
    """An estimator per key."""

    def adapter(m: Any) -> Iterator[Row | Part]:
        for key, model in models(m).items():
            yield Part(f"[{key!r}]", model)
        for extra in extras:
            yield from extra(m)

    return adapter


def _buffer(m: Any) -> Iterator[Row | Part]:
    """The hardest events so far, to be learned again."""
    kept = len(m.buffer)
    yield table("buffer", kept, formula("kept", kept=kept), role="raw_sample", unit="sample")


def _background(m: Any) -> Iterator[Row | Part]:
    """What learns beside the model until a drift puts it in its place."""
    yield detector_row(1)
    if m.train_in_background:
        yield Part("bkg_model", m.bkg_model, "control")


def _rarity(m: Any) -> Iterator[Row | Part]:
    """How rare a target is decides what is learned; no prediction reads it."""
    counters = [name for name in ("_freq_c", "_rare_c") if hasattr(m, name)]
    held = scalars(m._var) + len(counters)
    yield table("rarity", held, formula("3 + n", n=len(counters)), role="control")


def _residuals(m: Any) -> Iterator[Row | Part]:
    """Rolling quantiles of the residuals, kept where only River can look."""
    yield table("quantiles", 2, formula("2"), role="opaque", unit="quantile")


def _quantile(m: Any) -> Iterator[Row | Part]:
    if hasattr(m, "quantile"):
        yield table("quantile", 1, formula("1"), role="opaque", unit="quantile")


def _errors(m: Any) -> Iterator[Row | Part]:
    """Mean and variance of the errors, which the score is measured by."""
    held = scalars(m.dynamic_mae) + scalars(m.dynamic_se_variance)
    yield table("errors", held, formula("2 + 3"), role="statistic")


def _codes(m: Any) -> Iterator[Row | Part]:
    """Codes are drawn, or numbered, when a class is first met; none is learned."""
    bits = sum(map(len, m.code_book.values()))
    expected = formula("c*n", c=len(m.code_book), n=len(m.classifiers))
    yield table("code_book", bits, expected, role="hyper")


def _label_sets(m: Any) -> Iterator[Row | Part]:
    n = len(m._label_map)
    yield table("label_sets", n, formula("n", n=n), role="statistic", unit="category")


def _lags(m: Any) -> Iterator[Row | Part]:
    """Differenced targets and errors that the next forecast regresses on, and raw targets."""
    for name, role in (("y_diff", "statistic"), ("errors", "statistic"), ("y_hist", "raw_sample")):
        kept = getattr(m, name)
        yield table(name, scalars(kept), formula("n", n=len(kept)), role=role)  # type: ignore[arg-type]


def _to_sklearn(m: Any) -> Iterator[Row | Part]:
    """A fit teaches a copy."""
    fitted = hasattr(m, "instance_")
    yield Part(
        "instance_" if fitted else "river_estimator", getattr(m, "instance_", m.river_estimator)
    )


WRAPPERS: dict[str, Adapter] = {
    "ActiveLearningClassifier": _one("classifier"),
    "HardSampling": _one("model", _buffer),
    "DriftRetrainingClassifier": _one("model", _background),
    "ChebyshevUnderSampler": _one("regressor", _rarity),
    "ChebyshevOverSampler": _one("regressor", _rarity),
    "PredClipper": _one("regressor"),
    "RegressionJackknife": _one("regressor", _residuals),
    "AnomalyFilter": _one("anomaly_detector", _quantile),
    "PredictiveAnomalyDetection": _one("predictive_model", _errors),
    "MultiClassEncoder": _one("model", _label_sets),
    "SKL2RiverBase": _one("estimator"),
    "River2SKLBase": _to_sklearn,
    "SNARIMAX": _one("regressor", _lags),
    "OneVsOneClassifier": _many(lambda m: m.classifiers),
    "OutputCodeClassifier": _many(lambda m: m.classifiers, _codes),
    "BaseChain": _many(lambda m: m.data),
    "PerOutputRegressor": _many(lambda m: m.data),
    "PerOutputClassifier": _many(lambda m: m.data),
}
"""Adapters by the name of the class or of a base class."""

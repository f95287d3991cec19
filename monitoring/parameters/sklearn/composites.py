"""Adapters for scikit-learn estimators that hold others: pipelines, votes, stacks, searches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from monitoring.parameters.counted import Row
from monitoring.parameters.formula import formula
from monitoring.parameters.sklearn.trees import members
from monitoring.parameters.tables import Adapter, Part, array, table


def _named(steps: Callable[[Any], Any]) -> Adapter:
    """Parts under names of their own; "drop" and "passthrough" hold nothing."""

    def adapter(m: Any) -> Iterator[Row | Part]:
        for name, step, *_ in steps(m):
            if step is not None and not isinstance(step, str):
                yield Part(str(name), step)

    return adapter


def _attributes(*names: str) -> Adapter:
    """Parts under the names of the attributes that hold them."""

    def adapter(m: Any) -> Iterator[Row | Part]:
        for name in names:
            yield Part(name, getattr(m, name))

    return adapter


def _members(m: Any) -> Iterator[Row | Part]:
    yield from members([step for step in m.estimators_ if not isinstance(step, str)])


def _stack(m: Any) -> Iterator[Row | Part]:
    yield from _members(m)
    yield Part("final_estimator_", m.final_estimator_)


def _bagging(m: Any) -> Iterator[Row | Part]:
    yield from members(m.estimators_)
    subsets = sum(np.size(features) for features in m.estimators_features_)
    expected = formula("n*s", n=len(m.estimators_), s=len(m.estimators_features_[0]))
    yield table("features", subsets, expected, role="hyper", note="which features a member sees")


def _output_code(m: Any) -> Iterator[Row | Part]:
    yield from members(m.estimators_)
    expected = formula("c*n", c=len(m.classes_), n=len(m.estimators_))
    yield array("code_book_", m.code_book_, expected, "hyper")


def _calibrated(m: Any) -> Iterator[Row | Part]:
    for i, one in enumerate(m.calibrated_classifiers_):
        yield Part(f"[{i}]", one.estimator)
        for j, calibrator in enumerate(one.calibrators):
            yield Part(f"[{i}].calibrators[{j}]", calibrator)


def _sigmoid(m: Any) -> Iterator[Row | Part]:
    yield table("a_, b_", np.size(m.a_) + np.size(m.b_), formula("2"))


def _threshold(m: Any) -> Iterator[Row | Part]:
    yield Part("estimator_", m.estimator_)
    yield array("best_threshold_", m.best_threshold_, formula("1"))


COMPOSITES: dict[str, Adapter] = {
    "Pipeline": _named(lambda m: m.steps),
    "FeatureUnion": _named(lambda m: m.transformer_list),
    "ColumnTransformer": _named(lambda m: m.transformers_),
    "_BaseVoting": _members,
    "_BaseStacking": _stack,
    "BaseBagging": _bagging,
    "OneVsRestClassifier": _members,
    "OneVsOneClassifier": _members,
    # What stands in for a classifier where all labels are one class.
    "_ConstantPredictor": lambda m: iter([table("y_", np.size(m.y_), formula("1"))]),
    "OutputCodeClassifier": _output_code,
    "_MultiOutputEstimator": _members,
    "_BaseChain": _members,
    "CalibratedClassifierCV": _calibrated,
    "_SigmoidCalibration": _sigmoid,
    "_TemperatureScaling": lambda m: iter([table("beta_", np.size(m.beta_), formula("1"))]),
    "TunedThresholdClassifierCV": _threshold,
    "TransformedTargetRegressor": _attributes("regressor_", "transformer_"),
    "RANSACRegressor": _attributes("estimator_"),
    "SelfTrainingClassifier": _attributes("estimator_"),
    "BaseSearchCV": _attributes("best_estimator_"),
    "FrozenEstimator": _attributes("estimator"),
}
"""Adapters by the name of the class or of a base class."""

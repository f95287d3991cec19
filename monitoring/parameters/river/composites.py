"""Adapters for River estimators that hold others: pipelines, unions, ensembles, wrappers.

Each yields the parts to descend into; what is the same object in two places is counted once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from monitoring.parameters.counted import Row
from monitoring.parameters.formula import formula
from monitoring.parameters.tables import Adapter, Part, scalars, table


def _pipeline(m: Any) -> Iterator[Row | Part]:
    for name, step in m.steps.items():
        yield Part(str(name), step)


def _union(m: Any) -> Iterator[Row | Part]:
    for name, step in m.transformers.items():
        yield Part(str(name), step)


def _grouper(m: Any) -> Iterator[Row | Part]:
    # m.transformer is only the pattern the groups are cloned from: it learns nothing.
    for key, step in m.transformers.items():
        yield Part(f"[{key!r}]", step)


def _target_transform(m: Any) -> Iterator[Row | Part]:
    for name in ("var", "max", "min"):
        statistic = getattr(m, name, None)
        if statistic is not None:
            held = scalars(statistic)
            yield table(name, held, formula("s", s=held), role="statistic")
    yield Part("regressor", m.regressor)


def _ensemble(m: Any) -> Iterator[Row | Part]:
    for i, member in enumerate(m):
        # Random patches wrap each member in an object of their own.
        wrapped = hasattr(member, "_background_learner")
        yield Part(f"[{i}]", member.model if wrapped else member)
        background = getattr(member, "_background_learner", None)
        if background is not None:
            yield Part(f"background[{i}]", background.model, "control")
    yield from _votes(m)


def _votes(m: Any) -> Iterator[Row | Part]:
    """What weighs the members' votes."""
    for name, role in (
        ("correct_weight", "statistic"),
        ("wrong_weight", "statistic"),
        ("weights", "learned"),
    ):
        value = getattr(m, name, None)
        if value is not None:
            held = scalars(value)
            yield table(name, held, formula("n", n=len(value)), role=role)  # type: ignore[arg-type]
    meta = getattr(m, "meta_classifier", None)
    if meta is not None:
        yield Part("meta", meta)
    detectors = getattr(m, "_drift_detectors", None)
    if detectors:
        yield detector_row(len(detectors))


def _one_vs_rest(m: Any) -> Iterator[Row | Part]:
    for label, classifier in m.classifiers.items():
        yield Part(f"[{label!r}]", classifier)


def _sampler(m: Any) -> Iterator[Row | Part]:
    yield Part("classifier", getattr(m, "classifier", None) or m.regressor)


def detector_row(count: int) -> Row:
    """Drift detectors: they steer learning, scoring never reads them."""
    return table("detectors", count, formula("n", n=count), role="control", unit="detector")


COMPOSITES: dict[str, Adapter] = {
    "Pipeline": _pipeline,
    "TransformerUnion": _union,
    "TransformerProduct": _union,
    "Grouper": _grouper,
    "TargetTransformRegressor": _target_transform,
    "TargetStandardScaler": _target_transform,
    "TargetMinMaxScaler": _target_transform,
    "Ensemble": _ensemble,
    "OneVsRestClassifier": _one_vs_rest,
    "ClassificationSampler": _sampler,
}

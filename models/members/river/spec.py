"""River estimators from configuration: dotted paths and parameters, checked when they are read.

A table with ``model`` is an estimator, its other keys are that estimator's parameters, and so on
within. Learns nothing itself.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
from collections.abc import Iterable, Iterator
from typing import Any, Literal, Self

import river.base
from pydantic import ConfigDict, Field, model_validator

import models.members.river.repairs  # noqa: F401 mends River before anything is built
from models.loading import LoadError, is_file_reference, load_attribute
from models.settings import Settings, refused

Place = tuple[str | int, ...]
"""Where in the configuration: ``("steps", 1, "optimizer")``."""

UNSUPPORTED = {
    ("river.neighbors.ann.swinn", "SWINN"): "keeps state in a class variable, which no checkpoint"
    ' can hold; use engine = { model = "river.neighbors.LazySearch" }',
    ("river.feature_extraction.kernel_approx", "RandomTreesEmbedding"): "keys its leaves by their"
    " address in memory, which changes with a restart",
}


class SpecError(ValueError):
    """One mistake in an estimator's description, and its place."""

    def __init__(self, place: Place, message: str, got: object) -> None:
        self.place = place
        self.got = got
        super().__init__(message)


class RiverParams(Settings):
    """Parameters of ``type = "river"``; the estimator's own stand beside them."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(
        description="`river.module.Class`, `package.module:attr` or `path/to/file.py:attr`"
    )
    categories: Literal["one_hot", "nominal"] = Field(
        "one_hot",
        description="`one_hot`: a category is `{name=code: 1.0}`; `nominal`: `{name: code}` with"
        " the code as text, for trees",
    )
    parameters: dict[str, Any] = Field(
        {}, description="parameters of the estimator whose names are taken here, such as `model`"
    )

    def _check_kind(self, estimator: Any) -> None:
        _check_classifier(estimator, self.model)

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            estimator = build_estimator(self, seed=0)
            self._check_kind(estimator)
        except SpecError as error:
            raise refused(error.place, str(error), error.got) from error
        return self


def build_estimator(params: RiverParams, seed: int) -> Any:
    """A new estimator. Raises :class:`SpecError` with the place of the mistake.

    Every estimator in it that has a ``seed`` parameter, not given, gets one drawn from ``seed`` and
    its place.
    """
    spec = {"model": params.model, "parameters": params.parameters, **(params.model_extra or {})}
    return _Builder(seed).build(spec, ())


def own_modules(params: RiverParams) -> frozenset[str]:
    """Modules outside River that the description names: what a saved estimator may hold besides."""
    names = set()
    for reference in _references(params.model_dump()):
        if is_file_reference(reference) or not reference.startswith("river."):
            names.add(load_attribute(reference).__module__)
    return frozenset(names)


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("model"), str):
            yield value["model"]
        for item in value.values():
            yield from _references(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _references(item)


class _Builder:
    """Builds nested estimators from plain data."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def build(self, spec: dict[str, Any], place: Place) -> Any:
        """The estimator that a table with ``model`` describes."""
        reference = spec["model"]
        factory = _factory(reference, (*place, "model"))
        beside = {k: v for k, v in spec.items() if k not in ("model", "parameters")}
        given = {k: self._value(v, (*place, k)) for k, v in beside.items()}
        for k, v in (spec.get("parameters") or {}).items():
            given[k] = self._value(v, (*place, "parameters", k))
        accepted = _parameters(factory)
        spread = _spread(accepted)
        for name in given:
            if accepted is not None and name not in accepted:
                raise SpecError((*place, name), _unknown(name, reference, accepted), given[name])
        if accepted is not None and "seed" in accepted and given.get("seed") is None:
            given["seed"] = self._seed_for(place)
        positional = given.pop(spread, ()) if spread else ()
        try:
            estimator = factory(*positional, **given)
        except Exception as error:  # an estimator may refuse its parameters by any error
            problem = f"{reference} cannot be built: {type(error).__name__}: {error}"
            raise SpecError((*place, "model"), problem, reference) from error
        _check_supported(estimator, (*place, "model"), reference)
        return estimator

    def _value(self, value: Any, place: Place) -> Any:
        if isinstance(value, dict) and isinstance(value.get("model"), str):
            return self.build(value, place)
        if isinstance(value, dict):
            built = {k: self._value(v, (*place, k)) for k, v in value.items()}
            # TOML has no keys but text; River's classes are booleans, and others are numbers.
            keys = [_class_of(k) for k in built]
            if not built or None in keys:
                return built
            return dict(zip(keys, built.values(), strict=True))
        if isinstance(value, list | tuple):
            return [self._value(v, (*place, i)) for i, v in enumerate(value)]
        return value

    def _seed_for(self, place: Place) -> int:
        text = f"{self._seed}:{'.'.join(map(str, place))}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little")


def _class_of(key: str) -> bool | int | None:
    """The class that a key names; ``None`` if it is another name."""
    if key.lower() in ("true", "false"):
        return key.lower() == "true"
    return int(key) if key.isdecimal() else None


def _factory(reference: str, place: Place) -> Any:
    if not (reference.startswith("river.") or is_file_reference(reference) or ":" in reference):
        problem = (
            "expected a path such as river.linear_model.LogisticRegression, package.module:attr"
            " or path/to/file.py:attr"
        )
        raise SpecError(place, problem, reference)
    try:
        factory = load_attribute(reference)
    except LoadError as error:
        raise SpecError(place, str(error), reference) from error
    if not callable(factory):
        kind = type(factory).__name__
        raise SpecError(place, f"expected a class or a function, got a {kind}", reference)
    return factory


def _parameters(factory: Any) -> dict[str, inspect.Parameter] | None:
    """What a class or factory accepts; ``None`` if anything."""
    parameters = dict(inspect.signature(factory).parameters)
    anything = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    return None if anything else parameters


def _spread(accepted: dict[str, inspect.Parameter] | None) -> str | None:
    """The name of a ``*steps`` parameter: its list is given as positional arguments."""
    for name, parameter in (accepted or {}).items():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            return name
    return None


def _unknown(name: str, reference: str, accepted: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(accepted), n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    known = ", ".join(accepted) or "none"
    return f"unknown parameter of {reference}{hint} (accepted: {known})"


def _check_supported(estimator: Any, place: Place, reference: str) -> None:
    for part in (estimator, *getattr(estimator, "__dict__", {}).values()):
        reason = UNSUPPORTED.get((type(part).__module__, type(part).__name__))
        if reason is not None:
            problem = f"{type(part).__name__} is not supported: it {reason}"
            raise SpecError(place, problem, reference)


def _check_classifier(estimator: Any, reference: str) -> None:
    last = last_step(estimator)
    if type(last).__module__.startswith("river."):
        fits = isinstance(last, river.base.Classifier)
    else:
        predicts = hasattr(last, "predict_proba_one") or hasattr(last, "predict_one")
        fits = predicts and hasattr(last, "learn_one")
    if not fits:
        problem = (
            "expected a classifier (learn_one and predict_proba_one or predict_one),"
            f" {type(last).__name__} is none"
        )
        raise SpecError(("model",), problem, reference)


class RiverNumberParams(RiverParams):
    """Parameters of ``type = "river"`` for a number; the estimator's own stand beside them."""

    def _check_kind(self, estimator: Any) -> None:
        last = last_step(estimator)
        if type(last).__module__.startswith("river."):
            fits = isinstance(last, river.base.Regressor)
        else:
            fits = hasattr(last, "predict_one") and hasattr(last, "learn_one")
        if not fits:
            name = type(last).__name__
            problem = f"expected a regressor (learn_one and predict_one), {name} is none"
            raise SpecError(("model",), problem, self.model)


def last_step(estimator: Any) -> Any:
    """The last step of a pipeline; any other estimator itself."""
    steps = getattr(estimator, "steps", None)
    return list(steps.values())[-1] if isinstance(steps, dict) and steps else estimator

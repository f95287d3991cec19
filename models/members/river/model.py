"""Any River classifier as a member: a row becomes the dict that River reads.

Built from the configuration by dotted path and parameters (``models/members/river/spec.py``). Never
reads or writes a file; its saved form goes through ``models/members/river/unpickle.py``.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.base import (
    F64,
    FeatureBatch,
    FeatureSchema,
    MillraceError,
    Model,
    OtherVersion,
    Parameter,
    State,
    StateError,
    state_digest,
)
from models.members.river.object_digest import count_numbers, object_digest
from models.members.river.spec import (
    RiverNumberParams,
    RiverParams,
    build_estimator,
    last_step,
    own_modules,
)
from models.members.river.unpickle import dumps, functions_in, loads
from models.task import BINARY, Task

MIN_P = 1e-6
"""Probabilities are clipped to ``MIN_P .. 1 - MIN_P``: logits to -13.8 .. 13.8."""

MAX_LINK = math.log((1 - MIN_P) / MIN_P)

VOTE_LINK = math.log(9.0)
"""The logit of a class named without a probability: as sure as 0.9 (or 0.1)."""


class RiverError(MillraceError):
    """A River estimator cannot do what a member must do."""


class RiverModel(Model):
    """One River classifier.

    River gets dense columns as ``{name: float}``; a hashed column as ``{"name=code": 1.0}``
    (``one_hot``) or ``{name: "code"}`` (``nominal``); the truth as ``bool``. A score is the logit
    of ``predict_proba_one(x)[True]``. An estimator that gives no probability at all (nothing
    learned yet) scores 0; one that has only ``predict_one`` scores plus or minus
    :data:`VOTE_LINK`.

    Weights reach estimators whose ``learn_one`` takes ``w``. Others learn a row as often as the
    weights of its class, added up, pass another whole number with it: a whole weight ``w`` means
    ``w`` times, and of rows with weight 1/2 every second one is learned.

    Some estimators grow when they predict on a key they never saw (``StandardScaler``, the
    factorization machines, ``RBFSampler``). They score 0 until the first label, and a one-hot key
    that was never learned is left out of their rows: scoring changes no state.
    """

    Params = RiverParams

    def __init__(
        self, params: RiverParams, schema: FeatureSchema, seed: int, task: Task = BINARY
    ) -> None:
        self._params = params
        self._modules = own_modules(params)
        self._spec = state_digest(params.model_dump(mode="json"))
        self._estimator = build_estimator(params, seed)
        self._weighted = _takes_weights(self._estimator)
        self._known: set[str] = set()
        self._task = task
        # By class: the fraction of a row that is not learned yet.
        self._owed = [0.0] * self._slots()
        self._try_out(build_estimator(params, seed), schema)

    def _try_out(self, twin: Any, schema: FeatureSchema) -> None:
        """Find out, on a twin, what could only go wrong later.

        1. Whether two builds are equal: if not, something in it is random and has no seed.
        2. Whether it can be saved and restored.
        3. Whether it gives probabilities, and whether predicting changes it.
        """
        before = object_digest(twin)
        if object_digest(self._estimator) != before:
            raise RiverError(
                f"{self._params.model}: two builds with one seed differ; give every random part"
                " of it a `seed`"
            )
        try:
            self._functions = functions_in(twin, self._modules)
            loads(dumps(twin), self._modules, self._functions)
        except StateError as error:
            raise RiverError(f"{self._params.model} cannot be a member: {error}") from error
        hashed = np.zeros((1, len(schema.hashed)), np.uint32)
        x = FeatureBatch(schema, np.ones((1, len(schema.dense)), np.float32), hashed)
        row = next(self._rows(x))
        self._votes = False
        try:
            twin.predict_proba_one(row)
        except (NotImplementedError, AttributeError):
            self._votes = True
            twin.predict_one(row)
        self._grows = object_digest(twin) != before

    def score(self, x: FeatureBatch) -> F64:
        """See :meth:`models.base.Model.score`; raises :class:`RiverError` for a nan."""
        out = np.zeros((len(x), self._task.k))
        if self._grows and not self._known:
            return out
        predict = self._vote if self._votes else self._link
        for i, row in enumerate(self._rows(x)):
            if self._grows and not self._known.issuperset(row):
                row = {key: value for key, value in row.items() if key in self._known}
            out[i] = predict(row)
        return out

    def _slots(self) -> int:
        """How many classes there are to owe rows to."""
        return 2

    def _told(self, y: float) -> tuple[Any, int]:
        """The truth as River gets it, and the slot of its class."""
        return y > 0.5, int(y > 0.5)

    def _link(self, row: dict[str, Any]) -> float | F64:
        proba = self._estimator.predict_proba_one(row)
        p = float(proba.get(True, 0.0)) if proba else 0.5
        if p <= 0.0 and not any(proba.values()):
            p = 0.5  # every class at 0: the estimator has no opinion
        if p != p:
            raise RiverError(
                f"{self._params.model} predicted {p}; its inputs may need a scaler before it"
            )
        p = min(max(p, MIN_P), 1 - MIN_P)
        return math.log(p / (1 - p))

    def _vote(self, row: dict[str, Any]) -> float | F64:
        label = self._estimator.predict_one(row)
        return 0.0 if label is None else VOTE_LINK if label else -VOTE_LINK

    def learn(self, x: FeatureBatch, y: F64, w: F64) -> None:
        """See :meth:`models.base.Model.learn`."""
        learn = self._estimator.learn_one
        for row, told, weight in zip(self._rows(x), y.tolist(), w.tolist(), strict=True):
            times, (truth, slot) = 1, self._told(told)
            if not self._weighted:
                due = self._owed[slot] + weight
                times = int(due)
                self._owed[slot] = due - times
            if weight == 0.0 or not times:
                continue
            if self._grows:
                self._known.update(row)
            if self._weighted:
                learn(row, truth, w=weight)
                continue
            for _ in range(times):
                learn(row, truth)

    def _rows(self, x: FeatureBatch) -> Iterator[dict[str, Any]]:
        """One new dict for each row; River may keep what it is given."""
        names = x.schema.dense
        hashed = [column.name for column in x.schema.hashed]
        nominal = self._params.categories == "nominal"
        for numbers, codes in zip(x.dense.tolist(), x.hashed.tolist(), strict=True):
            row: dict[str, Any] = dict(zip(names, numbers, strict=True))
            for name, code in zip(hashed, codes, strict=True):
                if nominal:
                    row[name] = str(code)
                else:
                    row[f"{name}={code}"] = 1.0
            yield row

    def parameters(self) -> Sequence[Parameter]:
        """Weights of linear steps by step; any other step as one opaque row.

        ``count`` of an opaque row is the number of floats and array elements within it.
        """
        return [row for name, step in self._steps() for row in _table(name, step)]

    def _steps(self) -> list[tuple[str, Any]]:
        steps = getattr(self._estimator, "steps", None)
        named = steps.items() if isinstance(steps, dict) else [("estimator", self._estimator)]
        return [(str(name), step) for name, step in named]

    def tensors(self) -> dict[str, NDArray[Any]]:
        """See :meth:`models.base.Model.tensors`: weights of linear steps, copied."""
        return {
            f"{name}.weights": np.array([*map(float, step.weights.values()), step.intercept])
            for name, step in self._steps()
            if _is_linear(step)
        }

    def replaced(self) -> int:
        """See :meth:`models.base.Model.replaced`: drifts that the estimator counts, if it does."""
        drifts = getattr(last_step(self._estimator), "n_drifts_detected", None)
        return int(drifts()) if callable(drifts) else 0

    def counted(self) -> Any:
        """See :meth:`models.base.Model.counted`: the estimator."""
        return self._estimator

    def state(self) -> State:
        """The estimator as a pickle, with what must fit when it is restored."""
        return {
            "format": 1,
            "river": version("river"),
            "spec": self._spec,
            "known": sorted(self._known),
            "owed": list(self._owed),
            "pickle": dumps(self._estimator),
        }

    def restore(self, state: State) -> None:
        """See :meth:`models.base.Model.restore`; the pickle is read under an allow-list."""
        if state.get("format") != 1 or state.get("spec") != self._spec:
            raise StateError(
                f"{self._params.model}: expected a state of format 1 and of these parameters, got"
                f" format {state.get('format')!r}; a member with changed parameters starts new"
            )
        ours, theirs = version("river"), str(state.get("river"))
        if ours.split(".")[:2] != theirs.split(".")[:2]:
            raise OtherVersion(
                f"{self._params.model}: saved by river {theirs}, this is {ours}; install"
                f" river {theirs}, or start the member new"
            )
        estimator = loads(state["pickle"], self._modules, self._functions)
        if type(estimator) is not type(self._estimator):
            raise StateError(
                f"expected a saved {type(self._estimator).__name__}, got {type(estimator).__name__}"
            )
        self._estimator = estimator
        self._known = set(state["known"])
        self._owed = list(state["owed"])

    def digest(self) -> str:
        """See :meth:`models.base.Model.digest`: over the objects, not the pickle's bytes."""
        return state_digest(
            [self._spec, sorted(self._known), self._owed, object_digest(self._estimator)]
        )


class RiverClassModel(RiverModel):
    """One River classifier of several classes.

    River gets the class's name as truth; a score is the logarithm of the probabilities, each at
    least 1e-6. An estimator that gives none (nothing learned yet) scores 0 for every class; one
    that has only ``predict_one`` scores the class it names as sure as 0.9 against any other.
    """

    def _slots(self) -> int:
        return self._task.k

    def _told(self, y: float) -> tuple[str, int]:
        return self._task.names[int(y)], int(y)

    def _link(self, row: dict[str, Any]) -> F64:
        proba = self._estimator.predict_proba_one(row)
        p = np.zeros(self._task.k)
        p[: len(self._task.names)] = [float(proba.get(name, 0.0)) for name in self._task.names]
        if np.isnan(p).any():
            raise RiverError(
                f"{self._params.model} predicted nan; its inputs may need a scaler before it"
            )
        return np.log(np.maximum(p, MIN_P)) if p.any() else p

    def _vote(self, row: dict[str, Any]) -> F64:
        label = self._estimator.predict_one(row)
        votes = np.zeros(self._task.k)
        votes[: len(self._task.names)] = [VOTE_LINK * (n == label) for n in self._task.names]
        return votes


class RiverNumberModel(RiverModel):
    """One River regressor: a score is what ``predict_one`` gives, 0 where that is nothing."""

    Params = RiverNumberParams

    def _slots(self) -> int:
        return 1

    def _told(self, y: float) -> tuple[float, int]:
        return y, 0

    def _link(self, row: dict[str, Any]) -> float:
        return self._vote(row)

    def _vote(self, row: dict[str, Any]) -> float:
        said = self._estimator.predict_one(row)
        number = 0.0 if said is None else float(said)
        if not math.isfinite(number):
            raise RiverError(
                f"{self._params.model} predicted {number}; its inputs may need a scaler before it"
            )
        return number


def _takes_weights(estimator: Any) -> bool:
    """Whether ``learn_one`` takes ``w``; a pipeline passes it on to its last step."""
    return "w" in inspect.signature(last_step(estimator).learn_one).parameters


def _is_linear(step: Any) -> bool:
    linear = isinstance(getattr(step, "intercept", None), float)
    return linear and hasattr(getattr(step, "weights", None), "keys")


def _table(name: str, step: Any) -> Iterator[Parameter]:
    if _is_linear(step):
        n = len(step.weights)
        yield Parameter(f"{name}.weights", "learned", (n,), "float64", n, 8 * n)
        yield Parameter(f"{name}.intercept", "learned", (), "float64", 1, 8)
    else:
        n = count_numbers(step)
        yield Parameter(name, "opaque", (), "object", n, 0)

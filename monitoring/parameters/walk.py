"""Walks what is to be counted: modules, tensors, estimators, and whatever holds some of them.

A parameter is a scalar that learning writes and scoring reads; what only learning reads has a role
of its own. Each kind has its adapter, and classes are known by name, so no library is imported. An
object of no known kind is walked by its attributes and marked. Reads attributes only: predicting
would grow some models by a key.

River's own ``_raw_memory_usage`` cannot tell: a ``VectorDict`` lives in Rust, outside what ``gc``
sees, and 100,000 weights report as few bytes as ten.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from models.base import Learner, Role
from monitoring.parameters.counted import COUNTED_ROLES, Counted, Kind, ParameterError, Row
from monitoring.parameters.files.onnx import ONNX
from monitoring.parameters.formula import NOTHING
from monitoring.parameters.members import count_member
from monitoring.parameters.river.composites import COMPOSITES
from monitoring.parameters.river.models import MODELS
from monitoring.parameters.river.trees import TREES
from monitoring.parameters.river.wrappers import WRAPPERS
from monitoring.parameters.sklearn import boosters, composites, models, trees
from monitoring.parameters.tables import BUFFERS, Adapter, Part, loose, scalars

_ADAPTERS: dict[Kind, Mapping[str, Adapter]] = {
    "river": {**MODELS, **TREES, **COMPOSITES, **WRAPPERS},
    "sklearn": {**models.MODELS, **trees.TREES, **composites.COMPOSITES},
    "xgboost": boosters.XGBOOST,
    "lightgbm": boosters.LIGHTGBM,
    "onnx": ONNX,
}
"""Adapters by library and by the name of a class or of one of its bases."""
_CONTAINERS = (Mapping, list, tuple, deque)
_OPTIMIZER_STATE = {"state", "param_groups"}


class Walk:
    """Adds up the rows of one model; :meth:`report` gives them.

    ``optimizer`` is that of a torch module: its state is counted beside its parameters.
    """

    def __init__(self, optimizer: Any = None) -> None:
        self._rows: list[Row] = []
        self._aliases: dict[str, str] = {}
        self._unknown: list[str] = []
        self._notes: list[str] = []
        # With each path the object itself: an id may be given again once its object is gone.
        self._seen: dict[int, tuple[str, Any]] = {}
        self._optimizer = optimizer

    def report(self, model: Any, target: str) -> Counted:
        """Walk ``model`` and report it."""
        self.visit(Part("", model))
        notes = [f"walked generically: {name}" for name in dict.fromkeys(self._unknown)]
        if "_modules" in vars(self):
            self._modules.count_unregistered()
            notes += self._modules.notes()
        if not self._rows:
            raise ParameterError(
                f"{target}: expected a model, got {type(model).__name__} in which nothing that can "
                "be counted was found"
            )
        exact = not self._unknown
        notes += self._notes
        return Counted(target, kind_of(model), self._rows, self._aliases, exact, tuple(notes))

    @functools.cached_property
    def _modules(self) -> Any:
        """The walk of torch modules, made when the first is met."""
        from monitoring.parameters.torch.modules import ModuleWalk

        return ModuleWalk(self._rows, self._aliases, self._optimizer)

    def visit(self, part: Part) -> None:
        """Add the rows of one part and of those inside it, each object once."""
        path, model, role = part
        if is_module(model):
            before = len(self._rows)
            self._modules.visit(model, path)
            if len(self._rows) == before:
                kind = type(model).__name__
                self._rows.append(Row(path, kind, formula=NOTHING, note="holds no tensor"))
            return
        if is_tensor(model):
            buffer = path.endswith(BUFFERS)
            self._modules.tensor(model, path, buffer, role or "learned")
            return
        first = self._seen.get(id(model))
        if first is not None:
            self._aliases[path] = first[0]
            name = type(model).__name__
            row = Row(path, name, formula=NOTHING, alias_of=first[:1], note="counted there")
            self._rows.append(row)
            return
        self._seen[id(model)] = (path or "the model itself", model)
        if isinstance(model, np.ndarray) and model.dtype != object:
            kind = type(model).__name__
            self._rows.append(loose(path, kind, model.shape, model.dtype.name, role or "learned"))
        elif isinstance(model, Learner):
            self._member(part)
        elif _is_optimizer(model):
            self._container(Part(path, list(model.state.values()), "optimizer"))
        elif kind_of(model) == "object" and isinstance(model, _CONTAINERS):
            self._container(part)
        else:
            self._estimator(part)

    def _member(self, part: Part) -> None:
        inside = part.model.counted()
        inner = None if inside is part.model else Walk().report(inside, part.path)
        found = count_member(part.model, part.path, inner)
        for row in found.rows:
            self._rows.append(dataclasses.replace(row, path=_join(part.path, row.path)))
        if not found.rows:
            kind, note = type(part.model).__name__, "its own table of parameters is empty"
            self._rows.append(Row(part.path, kind, formula=NOTHING, note=note))
        self._aliases |= {
            _join(part.path, path): _join(part.path, owner) for path, owner in found.aliases.items()
        }
        self._notes += found.notes

    def _container(self, part: Part) -> None:
        """What stands in a list or a mapping; plain numbers there are counted and not judged."""
        path, model, role = part
        if isinstance(model, Mapping):
            items = [(_key(k, i), item) for i, (k, item) in enumerate(model.items())]
            if set(model) == _OPTIMIZER_STATE:
                role = "optimizer"
        else:
            items = [(f"[{i}]", item) for i, item in enumerate(model)]
        numbers = 0
        for name, item in items:
            if isinstance(item, bool | str | bytes) or item is None:
                continue
            if isinstance(item, int | float | complex | np.generic):
                numbers += 1
            elif _why_not(item):
                self._notes.append(f"not counted: {_join(path, name)}: {_why_not(item)}")
            else:
                self.visit(Part(_join(path, name), item, role))
        if numbers:
            kind = type(model).__name__
            note = "plain numbers: nothing says what they are for"
            row = Row(path, kind, held=numbers, verdict="no_formula", role="opaque", note=note)
            self._rows.append(row)

    def _estimator(self, part: Part) -> None:
        name = type(part.model).__name__
        adapter = _adapter(type(part.model))
        if adapter is None:
            why = _why_not(part.model)
            if why:
                raise ParameterError(f"{part.path or 'target'}: {why}")
            self._unknown.append(name)
        items = self._items(part, adapter or _generic)
        if not items and adapter is not None:
            items = [Row("", "", formula=NOTHING, note="holds nothing yet")]
        elif not items and kind_of(part.model) != "object":
            note = "nothing found by walking attributes"
            items = [Row("", "", verdict="no_formula", note=note)]
        for item in items:
            path = _join(part.path, item.path)
            if isinstance(item, Part):
                self.visit(Part(path, item.model, part.role or item.role))
                continue
            row = dataclasses.replace(item, path=path, type=item.type or name)
            if part.role is not None and row.role in COUNTED_ROLES:
                row = dataclasses.replace(row, role=part.role, trainable=0)
            self._rows.append(row)

    def _items(self, part: Part, adapter: Adapter) -> list[Row | Part]:
        """What an adapter finds; an estimator that was never fitted has no sizes yet."""
        library, where = kind_of(part.model), part.path or type(part.model).__name__
        unfitted = Row("", "", verdict="undetermined", note="not fitted: no sizes yet")
        if adapter is _generic and library == "sklearn" and not _is_fitted(part.model):
            return [unfitted]
        try:
            return list(adapter(part.model))
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            if library not in ("river", "object") and not _is_fitted(part.model):
                return [unfitted]
            raise ParameterError(
                f"{where}: expected the attributes of a {library} model, got "
                f"{type(error).__name__}: {error}; this version of it is not known"
            ) from error


def is_module(value: Any) -> bool:
    """Whether ``value`` is a torch module; torch is not imported, its objects come from who did."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def is_tensor(value: Any) -> bool:
    """Whether ``value`` is a torch tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _is_optimizer(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.optim.Optimizer)


def kind_of(model: Any) -> Kind:
    """What a report calls a model: the library that its class or the nearest base comes from."""
    if is_module(model):
        return "torch"
    if isinstance(model, Learner):
        return "member"
    libraries = (_library(base) for base in type(model).__mro__)
    return next((library for library in libraries if library is not None), "object")


def _library(cls: type) -> Kind | None:
    root = cls.__module__.partition(".")[0]
    return next((library for library in _ADAPTERS if library == root), None)


def _key(key: Any, i: int) -> str:
    """How a path names an entry: by its key, or its place where the key is an object."""
    if isinstance(key, str):
        return key
    return f"[{key!r}]" if isinstance(key, int | float | tuple | bytes) else f"[{i}]"


def _join(path: str, name: str) -> str:
    return path + name if name.startswith("[") else ".".join(filter(None, (path, name)))


def _adapter(cls: type) -> Adapter | None:
    for base in cls.__mro__:
        library = _library(base)
        if library is not None and base.__name__ in _ADAPTERS[library]:
            return _ADAPTERS[library][base.__name__]
    return None


def _is_fitted(model: Any) -> bool:
    """By scikit-learn's own convention: ``fit`` writes attributes that end in an underscore."""
    return any(name.endswith("_") and name[0] != "_" for name in getattr(model, "__dict__", {}))


def _why_not(model: Any) -> str:
    """Why something cannot be counted; empty if it can be tried."""
    if model is None or isinstance(model, bool | int | float | complex | str | bytes):
        return f"expected a model, got {model!r:.40}"
    if isinstance(model, functools.partial):
        return "expected a model, got a partial; call it and count what it makes"
    if isinstance(model, Iterator):
        return (
            f"expected a model, got a {type(model).__name__}, which can be read once; make a list"
        )
    if isinstance(model, type) or inspect.isroutine(model):
        return f"expected a model, got {model!r:.60}; call it and count what it makes"
    return ""


def _generic(model: Any) -> Iterator[Row | Part]:
    """One row per attribute that holds numbers; constructor arguments are hyper-parameters.

    What has an adapter of its own is a part, also inside a list, a mapping or another object.
    """
    arguments, seen = _arguments(type(model)), {id(model)}
    for name, value in sorted(getattr(model, "__dict__", {}).items()):
        if isinstance(value, bool | str):
            continue
        if _holds_models(value, {id(model)}):
            yield Part(name, value)
            continue
        count = scalars(value, True, seen)
        if count:
            role: Role = "hyper" if name in arguments else "statistic"
            note = "found by walking attributes"
            yield Row(
                name, "", held=count, role=role, bytes=8 * count, verdict="no_formula", note=note
            )


def _holds_models(value: Any, seen: set[int]) -> bool:
    """Whether ``value`` is, or holds at any depth, something that learns and is counted alone."""
    if isinstance(value, bool | int | float | str | bytes | np.ndarray | type) or id(value) in seen:
        return False
    seen.add(id(value))
    if is_module(value) or is_tensor(value) or _is_optimizer(value) or isinstance(value, Learner):
        return True
    if kind_of(value) != "object":
        return any(hasattr(value, name) for name in ("learn_one", "fit", "save_raw", "dump_model"))
    if isinstance(value, Mapping):
        return any(_holds_models(item, seen) for item in value.values())
    if isinstance(value, _CONTAINERS):
        return any(_holds_models(item, seen) for item in value)
    if callable(value):
        return False
    return any(_holds_models(item, seen) for item in getattr(value, "__dict__", {}).values())


def _arguments(cls: type) -> frozenset[str]:
    try:
        return frozenset(inspect.signature(cls).parameters)
    except (TypeError, ValueError):
        # A class written in C may not tell its arguments: nothing is a hyper-parameter then.
        return frozenset()

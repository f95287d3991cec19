"""Finds tensors and layers that a torch module holds where torch does not look for them.

Plain attributes, containers of any kind, objects, partials and closures, four steps deep.

``state_dict()``, ``parameters()`` and the optimizer do not see them, so a count that trusts those
misses them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache, partial
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

_DEPTH = 4


def candidates(module: Any, path: str) -> list[tuple[str, Any]]:
    """Tensors and modules that ``module``'s plain attributes lead to, each with its path.

    What a hook computed (the ``weight`` of a pruned or weight-normed layer) is left out. Whether a
    candidate is registered elsewhere after all is for the caller to see by its memory.
    """
    found: list[tuple[str, Any]] = []
    seen = {id(module)}
    for name, value in vars(module).items():
        if name not in _module_attributes() and not _computed(module, name):
            where = f"{path}.{name}" if path else name
            found.extend(_search(value, where, _DEPTH, seen))
    return found


@lru_cache(maxsize=1)
def _module_attributes() -> frozenset[str]:
    from torch import nn

    return frozenset(vars(nn.Module()))


def _computed(module: Any, name: str) -> bool:
    return any(f"{name}{suffix}" in module._parameters for suffix in ("_orig", "_g"))


def _search(value: Any, path: str, depth: int, seen: set[int]) -> Iterator[tuple[str, Any]]:
    if id(value) in seen:
        return
    seen.add(id(value))
    if hasattr(type(value), "untyped_storage"):
        # A result of a computation belongs to whatever it was computed from.
        if value.grad_fn is None:
            yield path, value
    elif hasattr(type(value), "named_parameters"):
        yield path, value
    elif depth:
        for name, item in _inside(value):
            yield from _search(item, f"{path}{name}", depth - 1, seen)


def _inside(value: Any) -> Iterator[tuple[str, Any]]:
    """What a container, an object or a function holds, each with how to reach it."""
    if isinstance(value, str | bytes | type | ModuleType) or hasattr(value, "param_groups"):
        # An optimizer holds the parameters that it moves, and what it keeps for them.
        return
    if isinstance(value, Mapping):
        yield from ((f"[{key!r}]", item) for key, item in value.items())
    elif isinstance(value, list | tuple | set | frozenset | deque):
        yield from ((f"[{i}]", item) for i, item in enumerate(value))
    elif isinstance(value, np.ndarray) and value.dtype.hasobject:
        yield from ((f"[{i}]", item) for i, item in enumerate(value.ravel().tolist()))
    elif isinstance(value, partial):
        yield from ((f".args[{i}]", item) for i, item in enumerate(value.args))
        yield from ((f".keywords[{key!r}]", item) for key, item in value.keywords.items())
    elif isinstance(value, FunctionType):
        names = value.__code__.co_freevars
        for name, cell in zip(names, value.__closure__ or (), strict=True):
            # A cell may still be empty.
            yield from (
                (f".{name}", found)
                for found in stored_attributes(cell, ("cell_contents",)).values()
            )
    yield from (
        (f".{name}", item) for name, item in stored_attributes(value, _slots(type(value))).items()
    )


def stored_attributes(value: Any, slots: Iterable[str]) -> dict[str, Any]:
    """Attributes of an object that are stored, not computed; slots that were never set are not."""
    found = dict(getattr(value, "__dict__", {}))
    for name in slots:
        try:
            found[name] = getattr(value, name)
        except (AttributeError, ValueError):
            continue
    return found


def _slots(cls: type) -> Iterator[str]:
    for base in cls.__mro__:
        slots = base.__dict__.get("__slots__", ())
        yield from (
            name for name in ([slots] if isinstance(slots, str) else slots) if name[:2] != "__"
        )

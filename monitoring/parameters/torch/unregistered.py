"""Finds tensors and layers that a torch module holds in plain attributes, lists or dicts.

``state_dict()``, ``parameters()`` and the optimizer do not see them, so a count that trusts those
misses them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

_DEPTH = 4


def candidates(module: Any, path: str) -> list[tuple[str, Any]]:
    """Tensors and modules in ``module``'s plain attributes, each with its path.

    What a hook computed (the ``weight`` of a pruned or weight-normed layer) is left out. Whether a
    candidate is registered elsewhere after all is for the caller to see by its memory.
    """
    found: list[tuple[str, Any]] = []
    for name, value in vars(module).items():
        if name not in _module_attributes() and not _computed(module, name):
            where = f"{path}.{name}" if path else name
            found.extend(_search(value, where, _DEPTH))
    return found


@lru_cache(maxsize=1)
def _module_attributes() -> frozenset[str]:
    from torch import nn

    return frozenset(vars(nn.Module()))


def _computed(module: Any, name: str) -> bool:
    return any(f"{name}{suffix}" in module._parameters for suffix in ("_orig", "_g"))


def _search(value: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
    if hasattr(type(value), "untyped_storage"):
        # A result of a computation belongs to whatever it was computed from.
        if value.grad_fn is None:
            yield path, value
    elif hasattr(type(value), "named_parameters"):
        yield path, value
    elif depth and isinstance(value, Mapping):
        for key, item in value.items():
            yield from _search(item, f"{path}[{key!r}]", depth - 1)
    elif depth and isinstance(value, list | tuple | set | frozenset):
        for i, item in enumerate(value):
            yield from _search(item, f"{path}[{i}]", depth - 1)

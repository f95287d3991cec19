"""How many parameters a training step is expected to use under dropout.

Dropout never changes a count: every parameter is there and trained in some steps. What it changes
is how many take part in one step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_CHANNEL_DROPOUT = frozenset({"Dropout1d", "Dropout2d", "Dropout3d", "FeatureAlphaDropout"})
_DROPOUT = _CHANNEL_DROPOUT | {"Dropout", "AlphaDropout"}
_CHANGE_UNITS = frozenset({"MultiheadAttention", "GLU"})


def expected_active(weights: int, biases: int, p_in: float, p_out: float) -> float:
    """``n*m*(1 - p_in)*(1 - p_out) + m*(1 - p_out)``: a weight needs both its ends, a bias one.

    Parameters
    ----------
    weights, biases : int
        ``n*m`` and ``m`` (0 without a bias).
    p_in, p_out : float
        Chance, 0 to 1, that an input or an output unit is dropped, independently.

    >>> expected_active(256 * 128, 128, 0.0, 0.5)
    16448.0
    """
    return weights * (1 - p_in) * (1 - p_out) + biases * (1 - p_out)


def rates(sequence: Any) -> dict[int, tuple[float, float]]:
    """``(p_in, p_out)`` of the linear and convolution layers of a ``Sequential``, by module id.

    Activations, normalisation and flattening between a layer and its dropout keep the units apart
    and are looked through. A convolution is only dropped by whole channels: element-wise dropout
    behind it leaves every weight in use at some position.
    """
    layers = list(_flatten(sequence))
    found: dict[int, tuple[float, float]] = {}
    for i, layer in enumerate(layers):
        kind = type(layer).__name__
        kinds = _DROPOUT if kind == "Linear" else _CHANNEL_DROPOUT
        if kind == "Linear" or kind in ("Conv1d", "Conv2d", "Conv3d"):
            p_in = _dropped(layers[:i][::-1], kinds)
            p_out = _dropped(layers[i + 1 :], kinds)
            if p_in or p_out:
                found.setdefault(id(layer), (p_in, p_out))
    return found


def _flatten(sequence: Any, above: tuple[int, ...] = ()) -> list[Any]:
    above = (*above, id(sequence))
    layers: list[Any] = []
    for child in sequence._modules.values():
        nested = type(child).__name__ == "Sequential" and id(child) not in above
        layers += _flatten(child, above) if nested else [child]
    return layers


def _dropped(neighbours: Sequence[Any], kinds: frozenset[str]) -> float:
    kept = 1.0
    for layer in neighbours:
        name = type(layer).__name__
        if name in kinds:
            kept *= 1 - layer.p
        elif not _keeps_units(layer, name):
            break
    return 1 - kept


def _keeps_units(layer: Any, name: str) -> bool:
    module = type(layer).__module__
    if name in ("Identity", "Flatten") or name in _DROPOUT:
        return True
    elementwise = ("modules.activation", "modules.batchnorm", "modules.normalization")
    return module.endswith(elementwise) and name not in _CHANGE_UNITS

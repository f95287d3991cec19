"""How many parameters a model has, layer by layer, beside what the formula says it should have.

``count`` takes what exists (a torch module, a River estimator, a member of the ensemble),
``estimate`` a description of what does not exist yet. Called by the trail at every change of a
member and by ``millrace params``. Counting changes nothing: no forward pass, no random number, no
hook, no write. torch is not imported here: an object of it can only come from who did.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from models.base import Model
from monitoring.parameters.estimate import Layer, estimate_layers
from monitoring.parameters.estimators import count_estimator
from monitoring.parameters.fingerprint import (
    content_digests,
    content_root,
    signature,
    structure_digest,
)
from monitoring.parameters.members import count_member
from monitoring.parameters.render import render
from monitoring.parameters.report import ParameterError, Report, Row, Totals, Verdict
from monitoring.parameters.resolve import resolve

__all__ = [
    "ParameterError",
    "Report",
    "Row",
    "Totals",
    "Verdict",
    "content_digests",
    "content_root",
    "count",
    "estimate",
    "render",
    "resolve",
    "signature",
    "structure_digest",
]


def count(model: Any, optimizer: Any = None, target: str = "") -> Report:
    """Count what ``model`` holds.

    Parameters
    ----------
    model : torch.nn.Module, River estimator, models.base.Model, or any other object
        An object of no known kind is walked generically and marked ``exact: false``.
    optimizer : torch.optim.Optimizer, optional
        Its state is counted beside the parameters it belongs to (torch modules only).
    target : str
        What the report calls the model; the class name if empty.

    Examples
    --------
    >>> from torch import nn
    >>> count(nn.Linear(256, 128)).totals.held
    32896
    """
    name = target or type(model).__name__
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module):
        from monitoring.parameters.modules import count_module

        return count_module(model, name, optimizer)
    if optimizer is not None:
        raise ParameterError(
            f"optimizer: only a torch module's can be counted beside it, got {type(model).__name__}"
        )
    if isinstance(model, Model):
        counted = model.counted()
        return count_member(model, name, None if counted is model else count(counted))
    return count_estimator(model, name)


def estimate(layers: str | Iterable[Layer], target: str = "") -> Report:
    """Count layers that were never built, by formula alone.

    Parameters
    ----------
    layers : str, or descriptions and tables in order
        Text such as ``"conv2d:3->64,k3; relu; linear:1024x10"``, or what a TOML file's ``layers``
        holds. ``docs/parameters.md`` lists the families.
    target : str
        What the report calls it; the text itself if empty.

    Raises
    ------
    ParameterError
        Names the layer, what was expected and what was got.

    Examples
    --------
    >>> estimate("lstm:10->20").totals.held, estimate("lstm:10->20").totals.keras
    (2560, 2480)
    """
    if not target:
        target = layers if isinstance(layers, str) else "layers"
    return estimate_layers(layers, target)

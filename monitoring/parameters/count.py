"""Counts what exists: a torch module, a River estimator, a member of the ensemble.

Counting changes nothing: no forward pass, no random number, no hook, no write. torch is not
imported here: an object of it can only come from who did.
"""

from __future__ import annotations

import sys
from typing import Any

from models.base import Model
from monitoring.parameters.counted import Counted, ParameterError
from monitoring.parameters.members import count_member
from monitoring.parameters.river.estimators import count_estimator


def count(model: Any, optimizer: Any = None, target: str = "") -> Counted:
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
        from monitoring.parameters.torch.modules import count_module

        return count_module(model, name, optimizer)
    if optimizer is not None:
        raise ParameterError(
            f"optimizer: only a torch module's can be counted beside it, got {type(model).__name__}"
        )
    if isinstance(model, Model):
        counted = model.counted()
        return count_member(model, name, None if counted is model else count(counted))
    return count_estimator(model, name)

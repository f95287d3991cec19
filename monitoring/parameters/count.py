"""Counts what exists: a torch module, an estimator, a booster, tensors, a member of the ensemble.

Counting changes nothing: no forward pass, no random number, no hook, no write.
"""

from __future__ import annotations

from typing import Any

from monitoring.parameters.counted import Counted, ParameterError
from monitoring.parameters.walk import Walk, is_module


def count(model: Any, optimizer: Any = None, target: str = "") -> Counted:
    """Count what ``model`` holds.

    Parameters
    ----------
    model : object
        A torch module or tensor; an estimator of River or scikit-learn; a booster of XGBoost or
        LightGBM; a member of the ensemble; an array; a list or mapping of any of these. An object
        of no known kind is walked by its attributes and marked ``exact: false``.
    optimizer : torch.optim.Optimizer, optional
        Its state is counted beside the parameters it belongs to (torch modules only).
    target : str
        What the report calls the model; the class name if empty.

    Raises
    ------
    ParameterError
        Nothing that can be counted was found, or it cannot be counted; never a count of zero for
        what was not looked at.

    Examples
    --------
    >>> from torch import nn
    >>> count(nn.Linear(256, 128)).totals.held
    32896
    """
    name = target or type(model).__name__
    if optimizer is not None and not is_module(model):
        raise ParameterError(
            f"optimizer: only a torch module's can be counted beside it, got {type(model).__name__}"
        )
    try:
        return Walk(optimizer).report(model, name)
    except RecursionError:
        raise ParameterError(
            f"{name}: expected layers nested less deeply than Python's stack, which ended"
        ) from None

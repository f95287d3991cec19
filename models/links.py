"""Between links and probabilities: sigmoid, logit, softmax."""

from __future__ import annotations

import numpy as np

from models.base import F64

MAX_LINK = 30.0
"""Logits are clipped to this: beyond it a probability is 0 or 1 in float64."""


def sigmoid(z: F64) -> F64:
    """``1 / (1 + exp(-z))`` without overflow."""
    e: F64 = np.exp(-np.abs(z))
    return np.where(z >= 0, 1.0, e) / (1.0 + e)


def logit(p: F64) -> F64:
    """``log(p / (1 - p))``, within ``-MAX_LINK .. MAX_LINK``."""
    with np.errstate(divide="ignore"):
        return np.clip(np.log(p) - np.log1p(-p), -MAX_LINK, MAX_LINK)


def softmax(z: F64) -> F64:
    """``exp(z_c) / sum_c exp(z_c)`` over the last axis, without overflow.

    A link of ``-inf`` has no probability; where all are, none has any.

    >>> softmax(np.array([0.0, 0.0])).tolist()
    [0.5, 0.5]
    """
    top = z.max(axis=-1, keepdims=True)
    e: F64 = np.exp(z - np.where(np.isneginf(top), 0.0, top))
    return e / np.maximum(e.sum(axis=-1, keepdims=True), 1.0)  # the likeliest alone adds 1

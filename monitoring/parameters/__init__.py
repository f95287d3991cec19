"""How many parameters a model has, layer by layer, beside what the formula says it should have.

``count`` takes what exists (a module, an estimator, a booster, tensors, a member of the ensemble),
``estimate`` a description of what does not exist yet, ``resolve`` what somebody typed. Counting
changes nothing: no forward pass, no random number, no hook, no write.
"""

from __future__ import annotations

from monitoring.parameters.count import count
from monitoring.parameters.counted import Counted, ParameterError, Row, Totals, Verdict
from monitoring.parameters.describe.estimate import estimate
from monitoring.parameters.digests import (
    content_digests,
    content_root,
    signature,
    structure_digest,
)
from monitoring.parameters.render import render
from monitoring.parameters.resolve import resolve

__all__ = [
    "Counted",
    "ParameterError",
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

"""Counts a member of the ensemble by the parameter table it gives about itself.

The formula of a row is the product of its shape, the bytes are checked against
the dtype where numpy knows it. A member that wraps a torch module or a River estimator and gives it
as ``counted()`` is counted by that one's own formulas. Reads only.
"""

from __future__ import annotations

import numpy as np

from models.base import Learner, Parameter
from monitoring.parameters.counted import COUNTED_ROLES, Counted, Row, Verdict
from monitoring.parameters.formula import formula


def count_member(model: Learner, target: str, inner: Counted | None = None) -> Counted:
    """The report of one member; its rows are the member's own table, in its order.

    ``inner`` is the report of what the member wraps: its rows stand in place of the table's for the
    same scalars. A River estimator is the whole of its member; a torch module has beside it what
    the member keeps (optimizer, standardiser, generator).
    """
    kind = type(model).__name__
    if inner is None:
        return Counted(target, "member", [_row(p, kind) for p in model.parameters()])
    rows = list(inner.rows)
    if inner.kind == "torch":
        from monitoring.parameters.torch.tensors import named_tensors

        names = {name for name, _, _ in named_tensors(model.counted())}
        rows += [_row(p, kind) for p in model.parameters() if p.path not in names]
    return Counted(target, "member", rows, inner.aliases, inner.exact, inner.notes)


def _row(p: Parameter, kind: str) -> Row:
    expected = formula("size", size=p.shape)
    return Row(
        p.path,
        kind,
        config="x".join(map(str, p.shape)),
        held=p.count,
        formula=expected,
        verdict=_verdict(p, expected.value),
        role=p.role,
        trainable=p.count if p.trainable and p.role == "learned" else 0,
        frozen=p.count if not p.trainable and p.role in COUNTED_ROLES else 0,
        bytes=p.nbytes,
        dtype=p.dtype,
    )


def _verdict(p: Parameter, expected: int) -> Verdict:
    if p.count != expected:
        return "mismatch"
    try:
        itemsize = np.dtype(p.dtype).itemsize
    except TypeError:
        # A dtype that numpy has no name for (bfloat16): the bytes cannot be checked.
        return "match"
    return "match" if p.nbytes in (0, p.count * itemsize) else "mismatch"

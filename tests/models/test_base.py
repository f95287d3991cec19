"""What the contract between features and members does by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from models.base import contiguous


def test_what_is_packed_already_stays_itself() -> None:
    """No copy of what kernels can take."""
    for values in (np.arange(6.0).reshape(2, 3), np.empty(0), np.arange(4.0)[1:3]):
        assert contiguous(values, np.float64) is values


def _read_only() -> Any:
    values = np.arange(6.0)
    values.flags.writeable = False
    return values


@pytest.mark.parametrize(
    "values",
    [
        [1, 2, 3],
        np.arange(6),
        np.arange(6.0)[::2],
        np.arange(6.0).reshape(2, 3).T,
        np.arange(6.0).astype(">f8"),
        np.frombuffer(b"\0" * 17, np.uint8)[1:].view(np.float64),
        _read_only(),
    ],
)
def test_anything_else_is_made_so(values: Any) -> None:
    """As ``numpy.require`` makes it: equal values in memory of its own."""
    made = contiguous(values, np.float64)
    assert made.dtype == np.float64
    assert made.flags.carray
    assert not np.shares_memory(made, values)
    assert np.array_equal(made, np.asarray(values))

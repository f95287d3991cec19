"""Whether two ways of reading gave the same events."""

from __future__ import annotations

import numpy as np

from stream.decode.codec import Events


def same(one: Events, other: Events) -> None:
    """Fail unless ids, times and every column are equal."""
    assert one.ids == other.ids
    assert (one.columns.event_time_ms == other.columns.event_time_ms).all()
    for kind in ("numbers", "categories", "entities"):
        left, right = getattr(one.columns, kind), getattr(other.columns, kind)
        assert left.keys() == right.keys()
        for name in left:
            np.testing.assert_array_equal(left[name], right[name])

"""Time zones by the tz database of the ``tzdata`` package, never by the machine's own.

A machine's database changes with its updates, and what an event's local time was would change with
it: replays would differ. The package's version is part of the platform's fingerprint.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import cache
from importlib.resources import files
from zoneinfo import ZoneInfo

import numpy as np

from models.base import I64

_DAY_S = 86_400
_CYCLE_MS = 146_097 * _DAY_S * 1000
"""400 years: the calendar repeats, weekdays included (146,097 days are 20,871 weeks)."""
_FIRST_REPEATED_MS = 4_102_444_800_000
"""2100: from there on every zone follows its rule for all years to come (RFC 9636, section 3.3)."""
_STRIDE_S = 3 * _DAY_S
"""Less than what ever lay between two changes of a zone since 1970: 167 hours."""


@cache
def names() -> frozenset[str]:
    """Every zone's name."""
    return frozenset(files("tzdata").joinpath("zones").read_text(encoding="utf-8").split())


@cache
def zone(name: str) -> ZoneInfo:
    """The zone of that name, one of :func:`names`."""
    with files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, key=name)


class LocalClock:
    """Local time in one zone, of any moment of the years 1970 to 9999.

    Two arrays, by binary search: the moments at which the offset to UTC changes, up to where 400
    years have followed the zone's last rule, and the offsets.

    >>> paris = LocalClock("Europe/Paris")
    >>> (paris.local_ms(np.array([1_782_000_000_000])) - 1_782_000_000_000) // 3_600_000
    array([2])
    """

    def __init__(self, name: str) -> None:
        self._changes_ms, self._offsets_ms = _offsets(name)

    def local_ms(self, event_time_ms: I64) -> I64:
        """Milliseconds since 1970-01-01 00:00 local time, ``(n,)``, of UTC milliseconds."""
        ms = event_time_ms
        beyond = ms >= _FIRST_REPEATED_MS + _CYCLE_MS
        if beyond.any():
            ms = np.where(beyond, (ms - _FIRST_REPEATED_MS) % _CYCLE_MS + _FIRST_REPEATED_MS, ms)
        at = np.searchsorted(self._changes_ms, ms, side="right")
        local: I64 = event_time_ms + self._offsets_ms[at]
        return local


@cache
def _offsets(name: str) -> tuple[I64, I64]:
    """When the offset changes, ``(n,)``, and what it was before and is then, ``(n + 1,)``, in ms.

    Strides whose ends differ are halved down to the second of the change: 0.2 s once a zone.
    """
    tz = zone(name)

    def offset_s(at_s: int) -> int:
        local = datetime.fromtimestamp(at_s, tz)
        return (local.utcoffset() or timedelta()) // timedelta(seconds=1)

    changes, offsets = list[int](), [offset_s(0)]
    for start in range(0, (_FIRST_REPEATED_MS + _CYCLE_MS) // 1000, _STRIDE_S):
        if (after := offset_s(start + _STRIDE_S)) == offsets[-1]:
            continue
        before, low, high = offsets[-1], start, start + _STRIDE_S
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if offset_s(middle) == before else (low, middle)
        changes.append(high)
        offsets.append(after)
    return np.array(changes, np.int64) * 1000, np.array(offsets, np.int64) * 1000

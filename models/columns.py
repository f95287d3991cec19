"""Stateless and running columns: numbers, categories and the calendar.

Called by ``models/features.py`` only. Results never depend on how events are cut into batches.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import xxhash
from numba import njit

from models.base import F64, I64, U32, U64

F32_MAX = float(np.finfo(np.float32).max)
DAY_MS = 86_400_000
_MEAN, _M2, _COUNT, MISSING = range(4)  # places in a number column's statistics
STATS = 4


def calendar(part: str, event_time_ms: I64, utc_offset_min: int) -> F64:
    """One part of the calendar, ``(n,)``; see :class:`~models.settings.CalendarFeature`.

    ``hour`` and ``weekday`` (Monday 0) are whole numbers; the hour's sine and cosine follow the
    minute of the day, the weekday's the whole day.
    """
    local = event_time_ms + utc_offset_min * 60_000
    hour = local // 3_600_000 % 24
    weekday = (local // DAY_MS + 3) % 7  # 1970-01-01 was a Thursday
    if part in ("hour_sin", "hour_cos"):
        return _CIRCLE[part[5:]][1440][local // 60_000 % 1440]
    if part in ("weekday_sin", "weekday_cos"):
        return _CIRCLE[part[8:]][7][weekday]
    plain = {"hour": hour, "night": hour <= 6, "weekday": weekday, "weekend": weekday >= 5}
    return plain[part].astype(np.float64)


# Looked up rather than computed: numpy's vector sine may differ in the last bit by batch length.
_CIRCLE = {
    name: {n: np.array([f(2 * math.pi * i / n) for i in range(n)]) for n in (7, 1440)}
    for name, f in (("sin", math.sin), ("cos", math.cos))
}


def codes(name: str, buckets: int, hashes: U64) -> U32:
    """A category's codes, ``(n,)``: ``mix(hash ^ salt) mod buckets``.

    The salt is the name's own hash, so that two features of one field collide differently; the mix
    is SplitMix64's (Steele, Lea, Flood 2014).
    """
    x = hashes ^ np.uint64(xxhash.xxh3_64_intdigest(name.encode()))
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) % np.uint64(buckets)).astype(np.uint32)


_V = numba.types.Array(numba.f8, 1, "C")


@njit(numba.void(_V, _V, numba.b1, numba.b1, _V), nogil=True, cache=True)
def number(values: F64, stats: F64, log: bool, scale: bool, out: F64) -> None:
    """Transform, learn and scale one number column in order; ``stats`` changes.

    1. ``log``: ``sign(v) * log(1 + |v|)``; then ``v`` is clipped to float32's range.
    2. Mean and squared deviations take ``v`` in (Welford 1962).
    3. ``scale``: ``(v - mean) / sqrt(m2 / count)``, so with ``v`` itself counted; 0 without spread.

    ``nan`` gives the mean so far, which is 0 when scaled, and is counted.
    """
    for i in range(len(values)):
        v = values[i]
        if math.isnan(v):
            stats[MISSING] += 1.0
            out[i] = 0.0 if scale else stats[_MEAN]
            continue
        if log:
            v = math.copysign(math.log1p(min(abs(v), 1.7976931348623157e308)), v)
        v = min(max(v, -F32_MAX), F32_MAX)
        stats[_COUNT] += 1.0
        step = v - stats[_MEAN]
        stats[_MEAN] += step / stats[_COUNT]
        stats[_M2] += step * (v - stats[_MEAN])
        if scale:
            variance = stats[_M2] / stats[_COUNT]
            v = (v - stats[_MEAN]) / math.sqrt(variance) if variance > 0.0 else 0.0
        out[i] = v

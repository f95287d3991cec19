"""Stateless and running columns: numbers, categories and the calendar.

Results never depend on how events are cut into batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numba
import numpy as np
import xxhash
from numba import njit

from models.base import F64, I64, U32, U64
from models.kernels.common import F32_MAX, HELPER, mix_all
from models.kernels.entry import entry

DAY_MIN = 24 * 60
WEEK_MIN = 7 * DAY_MIN
_MEAN, _M2, _COUNT, MISSING = range(4)  # places in a number column's statistics
STATS = 4


def calendar_table(parts: Sequence[str], utc_offset_min: int) -> F64:
    """The parts of the calendar by minute of the UTC week, ``(10080, len(parts))``.

    ``hour`` and ``weekday`` (Monday 0) are whole numbers; the hour's sine and cosine follow the
    minute of the day, the weekday's the whole day. See :class:`~models.settings.CalendarFeature`.
    """
    table = np.empty((WEEK_MIN, len(parts)))
    for minute in range(WEEK_MIN):
        weekday, of_day = divmod((minute + utc_offset_min) % WEEK_MIN, DAY_MIN)
        day_angle, week_angle = 2 * math.pi * of_day / DAY_MIN, 2 * math.pi * weekday / 7
        values = {
            "hour": of_day // 60,
            "hour_sin": math.sin(day_angle),
            "hour_cos": math.cos(day_angle),
            "night": of_day // 60 <= 6,
            "weekday": weekday,
            "weekday_sin": math.sin(week_angle),
            "weekday_cos": math.cos(week_angle),
            "weekend": weekday >= 5,
        }
        table[minute] = [values[part] for part in parts]
    return table


def minute_of_week(event_time_ms: I64) -> I64:
    """Minutes since Monday 00:00 UTC, ``(n,)``; the epoch was a Thursday."""
    return (event_time_ms // 60_000 + 3 * DAY_MIN) % WEEK_MIN


def codes(name: str, buckets: int, hashes: U64) -> U32:
    """A category's codes, ``(n,)``: ``mix(hash ^ salt) mod buckets``.

    The salt is the name's own hash, so that two features of one field collide differently.
    """
    salt = np.uint64(xxhash.xxh3_64_intdigest(name.encode()))
    return (mix_all(hashes ^ salt) % np.uint64(buckets)).astype(np.uint32)


_V = numba.types.Array(numba.f8, 1, "C")


@njit(**HELPER)
def _number(v: float, stats: F64, log: bool, scale: bool) -> float:
    """One number, transformed, learned and scaled."""
    if math.isnan(v):
        stats[MISSING] += 1.0
        return 0.0 if scale else stats[_MEAN]
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
    return v


@entry(numba.void(_V, _V, numba.b1, numba.b1, _V))
def number(values: F64, stats: F64, log: bool, scale: bool, out: F64) -> None:
    """Transform, learn and scale one number column in order; ``stats`` changes.

    1. ``log``: ``sign(v) * log(1 + |v|)``; then ``v`` is clipped to float32's range.
    2. Mean and squared deviations take ``v`` in (Welford 1962).
    3. ``scale``: ``(v - mean) / sqrt(m2 / count)``, so with ``v`` itself counted; 0 without spread.

    ``nan`` gives the mean so far, which is 0 when scaled, and is counted.
    """
    for i in range(len(values)):
        out[i] = _number(values[i], stats, log, scale)


@entry(numba.void(_V, _V, numba.b1, numba.b1, _V, _V))
def look_number(values: F64, stats: F64, log: bool, scale: bool, own: F64, out: F64) -> None:
    """What :func:`number` would give for each value as the next one; ``own`` is scratch."""
    for i in range(len(values)):
        for j in range(STATS):
            own[j] = stats[j]
        out[i] = _number(values[i], own, log, scale)

"""Moments as events and labels write them: one rule for each ``event.time_format``.

Whatever reads, writes or describes moments does it by these rules. Inside a moment is whole UTC
milliseconds since 1970, the nearest; nothing here knows a clock.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
import numpy as np

from models.base import F64, I64
from models.zones import zone
from stream.settings.schema import Config, TimeFormat

LATEST_MS = 253_402_300_799_999
"""The end of the year 9999: later moments RFC 3339 cannot write."""


YEARS = "of the years 1970 to 9999, in UTC"

LIKELY = ("1980-01-01T00:00:00.000Z", "2200-01-01T00:00:00.000Z")
"""Seconds that are read as milliseconds lie weeks after 1970, what is read the other way round
thousands of years away."""


class BadTime(ValueError):
    """A value that is no moment of the years 1970 to 9999."""


class TimeRule:
    """How one format writes a moment.

    Attributes
    ----------
    kind : type
        What a decoder must take: msgspec refuses all else, booleans and numbers that no double
        holds included.
    to_ms : callable
        Such a value as UTC milliseconds; raises :class:`BadTime`.
    schema : dict
        The format in JSON Schema.
    example : object
        A value that fits.
    """

    def __init__(
        self,
        kind: Any,
        to_ms: Callable[[Any], int],
        schema: dict[str, Any],
        example: object,
        numbers: Callable[[F64 | I64], F64 | I64] | None = None,
    ) -> None:
        self.kind = kind
        self.to_ms = to_ms
        self.schema = schema
        self.example = example
        self._numbers = numbers
        self._decoder = msgspec.json.Decoder(kind)

    def all_ms(self, values: list[Any]) -> I64:
        """:attr:`to_ms` of each, int64 ``(n,)``; at once where all are numbers.

        >>> TIME_RULES["s"].all_ms([0.0015, 0.0025]).tolist()
        [2, 2]
        """
        if self._numbers is not None and {*map(type, values)} in ({float}, {int}):
            return self._numbers(np.array(values)).astype(np.int64)
        return np.array(list(map(self.to_ms, values)), np.int64)

    def read(self, text: bytes | msgspec.Raw) -> int:
        """UTC milliseconds of a JSON value; raises :class:`BadTime`, also for what is no JSON.

        >>> TIME_RULES["rfc3339"].read(b'"1970-01-01t01:00:00.0005+01:00"')
        1
        """
        try:
            return self.to_ms(self._decoder.decode(text))
        except msgspec.DecodeError as error:
            raise BadTime(str(error)) from error


def _from_s(value: float | str) -> int:
    return round(float(value) * 1000)


def _from_us(value: int | str) -> int:
    return (int(value) + 500) // 1000


def _from_ns(value: int | str) -> int:
    return (int(value) + 500_000) // 1_000_000


_MS = timedelta(milliseconds=1)
_ROUNDED = datetime(1970, 1, 1, tzinfo=UTC) - _MS / 2
"""Half a millisecond before 1970: whole milliseconds since then are the nearest since 1970."""


def _from_datetime(value: datetime) -> int:
    ms = (value - _ROUNDED) // _MS
    if not 0 <= ms <= LATEST_MS:
        raise BadTime(f"expected a time in the years 1970 to 9999, got {value.isoformat()}")
    return ms


_DIGITS = re.compile(r"`str` matching regex '.*'")


def plainly(error: Exception) -> str:
    """What a decoder says of a value, without the pattern of a count's digits.

    >>> plainly(ValueError("Expected `str` matching regex '^[0-9]+' - at `$.time`"))
    'Expected a number or digits since 1970, as time_format says - at `$.time`'
    """
    return _DIGITS.sub("a number or digits since 1970, as time_format says", str(error))


def _epoch(
    number: Any,
    schema: dict[str, Any],
    digits: str,
    to_ms: Callable[[Any], int],
    example: float,
    numbers: Callable[[Any], Any] | None = None,
) -> TimeRule:
    """A count since 1970: a number, or its digits in text as far as fixed lengths reach."""
    kind = number | Annotated[str, msgspec.Meta(pattern=rf"^(?:{digits})\Z")]
    schema = schema | {"type": [schema["type"], "string"], "pattern": f"^(?:{digits})$"}
    return TimeRule(kind, to_ms, schema, example, numbers)


def _whole(most: int) -> tuple[Any, dict[str, Any]]:
    number = Annotated[int, msgspec.Meta(ge=0, le=most)]
    return number, {"type": "integer", "minimum": 0, "maximum": most}


# The bounds of numbers are the decoder's. A double holds every whole number up to LATEST_MS, which
# is far below 2^53; what is finer is read as integers.
TIME_RULES: dict[str, TimeRule] = {
    "s": _epoch(
        Annotated[float, msgspec.Meta(ge=0, le=LATEST_MS / 1000)],
        {"type": "number", "minimum": 0, "maximum": LATEST_MS / 1000},
        r"[0-9]{1,11}(?:\.[0-9]{1,9})?",
        _from_s,
        1767225600.25,
        lambda s: np.rint(s * 1000),
    ),
    "ms": _epoch(
        Annotated[float, msgspec.Meta(ge=0, le=LATEST_MS, multiple_of=1)],
        {"type": "integer", "minimum": 0, "maximum": LATEST_MS},
        "[0-9]{1,14}",
        int,
        1767225600250,
        lambda ms: ms,
    ),
    "us": _epoch(
        *_whole(LATEST_MS * 1000),
        "[0-9]{1,17}",
        _from_us,
        1767225600250000,
        lambda us: (us + 500) // 1000,
    ),
    "ns": _epoch(
        *_whole(2**63 - 1),
        "[0-9]{1,18}|[1-8][0-9]{18}",
        _from_ns,
        1767225600250000000,
        lambda ns: (ns.astype(np.uint64) + 500_000) // 1_000_000,
    ),
    "rfc3339": TimeRule(
        Annotated[datetime, msgspec.Meta(tz=True)],
        _from_datetime,
        {
            "type": "string",
            "format": "date-time",
            "pattern": "^(?:19[7-9]|[2-9][0-9]{2})[0-9]",
            "description": YEARS,
        },
        "2026-01-01T00:00:00.250Z",
    ),
}
"""The rules of the formats with a name."""


def time_rule(time_format: TimeFormat, time_zone: str | None) -> TimeRule:
    """The rule of a format; ``time_zone`` is that of a pattern without ``%z``, else ``None``.

    An hour that comes twice counts as the first of the two, one that is skipped by the offset
    before it (PEP 495, ``fold=0``).

    >>> time_rule("%d.%m.%Y %H:%M", "Europe/Berlin").read(b'"01.01.1970 01:00"')
    0
    """
    return TIME_RULES.get(time_format) or _pattern(time_format, time_zone)


def in_pattern(ms: int, pattern: str, time_zone: str | None) -> str:
    """A moment as a pattern writes it; what is finer is lost."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + ms * _MS
    return moment.astimezone(UTC if time_zone is None else zone(time_zone)).strftime(pattern)


def _pattern(pattern: str, time_zone: str | None) -> TimeRule:
    tz = None if time_zone is None or "%z" in pattern else zone(time_zone)
    example = in_pattern(1_767_225_600_250, pattern, time_zone)

    def to_ms(text: str) -> int:
        try:
            moment = datetime.strptime(text, pattern)
            return _from_datetime(moment if tz is None else moment.replace(tzinfo=tz))
        except BadTime:
            raise
        except (ValueError, OverflowError) as error:
            raise BadTime(f"expected a time such as {example!r}, got {text[:40]!r}") from error

    where = "" if tz is None else f", the clock of {time_zone}"
    schema = {"type": "string", "description": f"strptime {pattern}{where}; {YEARS}"}
    return TimeRule(str, to_ms, schema, example)


def label_times(config: Config) -> TimeRule:
    """How labels write theirs."""
    return time_rule(config.label_time_format, config.event.time_zone)


def event_times(config: Config) -> TimeRule:
    """How events write their time."""
    return time_rule(config.event.time_format, config.event.time_zone)


def utc(ms: int) -> str:
    """A moment in UTC.

    >>> utc(1_700_000_000_000)
    '2023-11-14T22:13:20.000Z'
    """
    return np.datetime_as_string(np.datetime64(ms, "ms"), timezone="UTC")


def period_of(times_ms: I64) -> list[str] | None:
    """The first and the last moment; ``None`` where there is none."""
    return [utc(int(times_ms.min())), utc(int(times_ms.max()))] if len(times_ms) else None


def misread(period: list[str] | None, time_format: TimeFormat) -> Iterator[str]:
    """What is to be told where none of the event times of a period is likely.

    >>> list(misread(["2023-11-14T22:13:20.000Z", "2023-11-15T00:00:00.000Z"], "s"))
    []
    """
    if period and (period[1] < LIKELY[0] or period[0] > LIKELY[1]):
        first, last = period
        where = f"between {first} and {last}" if first < last else f"at {last}"
        told = f"are they written as event.time_format = {time_format!r} says?"
        yield f"event times lie {where}: {told}"


def likely_format(value: bytes | msgspec.Raw) -> str | None:
    """The named format in which a JSON value is a moment, if any.

    A count since 1970 tells its unit by its digits: one of the years 1973 to 2286 by ten of seconds
    at most, three more for each finer unit.

    >>> likely_format(b"1767225600"), likely_format(b'"1767225600250"'), likely_format(b'"soon"')
    ('s', 'ms', None)
    """
    digits = len(bytes(value).strip(b'"').partition(b".")[0])
    unit = ("s", "ms", "us", "ns")[min(max(digits - 9, 0) // 3, 3)]
    for name in (unit, "rfc3339"):
        try:
            TIME_RULES[name].read(value)
        except BadTime:
            continue
        return name
    return None

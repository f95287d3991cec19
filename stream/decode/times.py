"""Moments as events and labels write them: one rule for each ``event.time_format``.

The codec reads with it, ``evaluate`` releases labels by it, the API's description shows it. Inside
a moment is whole UTC milliseconds since 1970, the nearest; nothing here knows a clock.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec

from stream.settings.schema import TimeFormat

LATEST_MS = 253_402_300_799_999
"""The end of the year 9999: later moments RFC 3339 cannot write."""


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
        self, kind: Any, to_ms: Callable[[Any], int], schema: dict[str, Any], example: object
    ) -> None:
        self.kind = kind
        self.to_ms = to_ms
        self.schema = schema
        self.example = example
        self._decoder = msgspec.json.Decoder(kind)

    def read(self, text: bytes | msgspec.Raw) -> int:
        """UTC milliseconds of a JSON value; raises :class:`BadTime`, also for what is no JSON.

        >>> TIME_RULES["rfc3339"].read(b'"1970-01-01t01:00:00.0005+01:00"')
        1
        """
        try:
            return self.to_ms(self._decoder.decode(text))
        except msgspec.DecodeError as error:
            raise BadTime(str(error)) from error


def _from_s(value: float) -> int:
    return round(value * 1000)


_MS = timedelta(milliseconds=1)
_ROUNDED = datetime(1970, 1, 1, tzinfo=UTC) - _MS / 2
"""Half a millisecond before 1970: whole milliseconds since then are the nearest since 1970."""


def _from_datetime(value: datetime) -> int:
    ms = (value - _ROUNDED) // _MS
    if not 0 <= ms <= LATEST_MS:
        raise BadTime(f"expected a time in the years 1970 to 9999, got {value.isoformat()}")
    return ms


# The bounds of numbers are the decoder's. A double holds every whole number up to LATEST_MS, which
# is far below 2^53.
TIME_RULES: dict[TimeFormat, TimeRule] = {
    "s": TimeRule(
        Annotated[float, msgspec.Meta(ge=0, le=LATEST_MS / 1000)],
        _from_s,
        {"type": "number", "minimum": 0, "maximum": LATEST_MS / 1000},
        1767225600.25,
    ),
    "ms": TimeRule(
        Annotated[float, msgspec.Meta(ge=0, le=LATEST_MS, multiple_of=1)],
        int,
        {"type": "integer", "minimum": 0, "maximum": LATEST_MS},
        1767225600250,
    ),
    "rfc3339": TimeRule(
        Annotated[datetime, msgspec.Meta(tz=True)],
        _from_datetime,
        {"type": "string", "format": "date-time"},
        "2026-01-01T00:00:00.250Z",
    ),
}
"""Every format's rule."""

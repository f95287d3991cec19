"""Settings of features and members: strict pydantic models, durations, dotted paths.

``stream/settings/load.py`` builds the whole configuration out of these; each part keeps its own
settings beside its code. Nothing here reads a file or the environment.
"""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from models.zones import names

_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}


def parse_duration(value: object) -> int:
    """Milliseconds in a duration such as ``"250ms"``, ``"1.5h"`` or ``"7d"``.

    Raises ``ValueError`` with what was expected.

    >>> parse_duration("7d")
    604800000
    """
    if isinstance(value, str):
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)", value.strip())
        if found:
            return round(float(found[1]) * _UNITS_MS[found[2]])
    raise ValueError('expected a duration such as "250ms", "30s", "12h" or "7d"')


def format_duration(ms: int) -> str:
    """The shortest exact form of a duration: ``604800000`` is ``"1w"``, ``90000`` is ``"90s"``."""
    for unit in ("w", "d", "h", "m", "s"):
        if ms and ms % _UNITS_MS[unit] == 0:
            return f"{ms // _UNITS_MS[unit]}{unit}"
    return f"{ms}ms"


def _duration(value: object) -> int:
    # A validated settings object may be validated again: whole milliseconds then.
    return value if type(value) is int else parse_duration(value)


Duration = Annotated[int, BeforeValidator(_duration)]
"""A duration in milliseconds, written as text such as ``"7d"``."""


def parse_size(text: str) -> int:
    """Bytes from text such as ``"20GB"``, in powers of 1,000; raises ``ValueError``."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMGT]?B)", text)
    if found is None:
        raise ValueError('expected a size such as "500MB" or "20GB"')
    return int(float(found[1]) * 1000 ** ("B", "kB", "MB", "GB", "TB").index(found[2]))


def _size(value: object) -> int:
    return value if type(value) is int else parse_size(str(value))


Size = Annotated[int, BeforeValidator(_size)]
"""Bytes, written as text such as ``"500MB"``."""


def format_size(size: int) -> str:
    """The shortest exact form of a size: ``256000000`` is ``"256MB"``."""
    for power, unit in ((4, "TB"), (3, "GB"), (2, "MB"), (1, "kB")):
        if size and size % 1000**power == 0:
            return f"{size // 1000**power}{unit}"
    return f"{size}B"


Name = Annotated[
    str, Field(pattern=r"^[a-zA-Z][a-zA-Z0-9_-]{0,62}$", description="a name of its own")
]
"""A name: a letter, then up to 62 letters, digits, ``_`` or ``-``."""


class Settings(BaseModel):
    """Base of every settings class: unknown keys are errors, values do not change."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, validate_default=True
    )


def refused(place: tuple[str | int, ...], problem: str, got: object) -> ValidationError:
    """What a validator of several keys raises to name the one at ``place``, below its own."""
    kind = PydanticCustomError("refused", "{problem}", {"problem": problem})
    detail = InitErrorDetails(type=kind, loc=place, input=got)
    return ValidationError.from_exception_data("settings", [detail])


def _zone(name: str) -> str:
    if name not in names():
        close = difflib.get_close_matches(name, names(), n=1)
        meant = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f'expected a time zone such as "Europe/Berlin" or "UTC"{meant}')
    return name


Zone = Annotated[str, AfterValidator(_zone)]
"""The name of a time zone in the tz database."""


class NumberFeature(Settings):
    """A number or boolean field as one dense column."""

    name: Name
    type: Literal["number"]
    field: str = Field(description="a number or boolean field of the event")
    transform: Literal["none", "log1p"] = Field(
        "none", description="`log1p`: sign(v) * log(1 + |v|), for heavy tails"
    )
    scale: Literal["none", "standard"] = Field(
        "none", description="`standard`: (v - running mean) / running deviation"
    )


class CategoryFeature(Settings):
    """A category field as one hashed column."""

    name: Name
    type: Literal["category"]
    field: str = Field(description="a category field of the event")
    buckets: int = Field(1024, ge=2, le=1 << 24, description="size of the hash table")


class CalendarFeature(Settings):
    """Time of day and weekday of the event time, as dense columns."""

    name: Name
    type: Literal["calendar"]
    parts: tuple[
        Literal[
            "hour",
            "hour_sin",
            "hour_cos",
            "night",
            "weekday",
            "weekday_sin",
            "weekday_cos",
            "weekend",
        ],
        ...,
    ] = Field(
        ("hour_sin", "hour_cos", "night", "weekend"),
        min_length=1,
        description="`night` is 1 up to and including hour 6, `weekend` 1 on Saturday and Sunday",
    )
    utc_offset: Annotated[int, Field(ge=-720, le=840)] = Field(
        0, description="minutes to add to UTC before the calendar is read"
    )
    zone: Zone | None = Field(
        None, description="a time zone in place of `utc_offset`, with its daylight saving"
    )

    @model_validator(mode="after")
    def _has_one_clock(self) -> Self:
        if self.zone is not None and self.utc_offset:
            raise refused(("zone",), "expected no zone beside utc_offset", self.zone)
        return self


def _distinct(windows: tuple[int, ...]) -> tuple[int, ...]:
    if 0 in windows or len(set(windows)) < len(windows):
        raise ValueError("expected different lengths above 0")
    return windows


Windows = Annotated[
    tuple[Duration, ...], Field(min_length=1, max_length=8), AfterValidator(_distinct)
]


VALUE_STATS = frozenset({"sum", "mean", "min", "max", "ratio"})
"""Statistics of a window feature that need its ``value``."""


class WindowFeature(Settings):
    """Statistics of one entity's past events over event-time windows, this event included."""

    name: Name
    type: Literal["window"]
    entity: str = Field(description="an entity field of the event")
    value: str | None = Field(
        None, description="a number field; needed for every statistic but count and since_last"
    )
    windows: Windows = Field(description='different lengths of windows, such as ["1d", "7d"]')
    stats: tuple[Literal["count", "sum", "mean", "min", "max", "ratio", "since_last"], ...] = Field(
        ("count",),
        min_length=1,
        description="`ratio`: value / window mean; `since_last`: seconds since the entity's last"
        " event, at most the longest window; `min` and `max` read the whole window each time",
    )
    max_entities: int = Field(
        1_000_000, ge=1, description="entities kept; the longest idle goes first"
    )

    @model_validator(mode="after")
    def _has_its_value(self) -> Self:
        lacking = [s for s in self.stats if s in VALUE_STATS]
        if lacking and self.value is None:
            raise refused(("value",), f"expected a number field for {lacking[0]}", None)
        return self


class RiskFeature(Settings):
    """Share of known positives among one entity's events, over windows that end ``delay`` ago."""

    name: Name
    type: Literal["risk"]
    entity: str = Field(description="an entity field of the event")
    delay: Duration = Field(description="how old an event must be before it counts")
    windows: Windows = Field(description="different lengths of windows")
    stats: tuple[Literal["count", "risk", "since_first_known"], ...] = Field(
        ("count", "risk"),
        min_length=1,
        description="`since_first_known`: seconds since the entity's earliest known positive, at"
        " most the delay and the longest window",
    )
    max_entities: int = Field(
        1_000_000, ge=1, description="entities kept; the longest idle goes first"
    )


Feature = Annotated[
    NumberFeature | CategoryFeature | CalendarFeature | WindowFeature | RiskFeature,
    Field(discriminator="type"),
]


def feature_fields(feature: Any) -> list[tuple[str, str]]:
    """The event fields that a feature reads, each with the kind it must have.

    >>> feature_fields(CategoryFeature(name="c", type="category", field="mcc"))
    [('mcc', 'category')]
    """
    needs: list[tuple[str, str]] = []
    if isinstance(feature, NumberFeature):
        needs.append((feature.field, "number"))
    elif isinstance(feature, CategoryFeature):
        needs.append((feature.field, "category"))
    elif isinstance(feature, WindowFeature | RiskFeature):
        needs.append((feature.entity, "entity"))
        if isinstance(feature, WindowFeature) and feature.value is not None:
            needs.append((feature.value, "number"))
    return needs


SINCE = ("since_last", "since_first_known")
"""Statistics of which there is one whatever the windows."""


def column_names(feature: Any) -> list[str]:
    """The columns that a feature makes, in order.

    >>> column_names(WindowFeature(name="c", type="window", entity="e", windows=["1w"]))
    ['c_count_7d']
    """
    if isinstance(feature, CalendarFeature):
        return [f"{feature.name}_{part}" for part in feature.parts]
    if not isinstance(feature, WindowFeature | RiskFeature):
        return [feature.name]
    found: list[str] = []
    for stat in feature.stats:
        ends = [""] if stat in SINCE else [f"_{_window_name(w)}" for w in feature.windows]
        found += [f"{feature.name}_{stat}{end}" for end in ends]
    return found


def _window_name(ms: int) -> str:
    """The shortest exact form with days at most: ``7d``, not ``1w``, as settings are written."""
    for unit in ("d", "h", "m", "s"):
        if ms % _UNITS_MS[unit] == 0:
            return f"{ms // _UNITS_MS[unit]}{unit}"
    return f"{ms}ms"

"""The feature stage: decoded event columns in, a :class:`~models.base.FeatureBatch` out.

The engine calls ``transform`` once a batch, in event order, and ``label`` for every change of what
is known about an event. Nothing here reads bytes, a clock or a label's meaning. Every result is the
same whether events come one at a time or in large batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.base import (
    BOOL,
    F64,
    I64,
    U64,
    EventColumns,
    FeatureBatch,
    FeatureSchema,
    HashedColumn,
    MillraceError,
    State,
    contiguous,
    state_digest,
)
from models.carry import fill, shared
from models.features.columns import (
    MISSING,
    STATS,
    calendar_table,
    codes,
    look_number,
    minute_of_week,
    number,
)
from models.features.windows import EntityWindows
from models.kernels.common import F32_MAX
from models.settings import (
    SINCE,
    CalendarFeature,
    CategoryFeature,
    Feature,
    NumberFeature,
    RiskFeature,
    WindowFeature,
    column_names,
)
from models.zones import LocalClock

SLACK_MS = 86_400_000
"""Of a table that several processes fill, so much more is remembered at least: those who are behind
find in it what they would have found."""


class FeatureError(MillraceError):
    """The features' settings contradict each other."""


@dataclass(slots=True)
class _Table:
    """A table of entities, shared by features with the same entity, value, delay and bound."""

    name: str
    entity: str
    value: str | None
    delay_ms: int
    risk: bool
    max_entities: int
    windows: set[int] = field(default_factory=set)
    extremes: bool = False
    shared: bool = False
    homes: bool = False
    held: EntityWindows = field(init=False)

    @property
    def kind(self) -> str:
        """All that decides what it remembers; how many entities it may hold does not."""
        windows = ",".join(str(w) for w in sorted(self.windows))
        what = "risk" if self.risk else f"window of {self.value!r}"
        return f"{what} by {self.entity!r} over {windows} ms, {self.delay_ms} ms ago"

    @property
    def slack_ms(self) -> int:
        """By how much later than an event others may be that are known here."""
        return max(self.delay_ms, SLACK_MS) if self.shared else 0

    def build(self) -> None:
        if self.shared:  # a window that no feature asks for: what is in it is remembered
            self.windows.add(max(self.windows) + self.slack_ms)
        self.held = EntityWindows(
            sorted(self.windows),
            delay_ms=self.delay_ms,
            own_event=not self.risk,
            max_entities=self.max_entities,
            extremes=self.extremes,
            homes=self.homes,
        )

    def statistics(self, events: EventColumns, take: _Take) -> F64:
        keys = events.entities[self.entity]
        values = np.zeros(len(events)) if self.value is None else events.numbers[self.value]
        return take(self.held, keys, events.event_time_ms, values)


_Take = Callable[[EntityWindows, U64, I64, F64], F64]
"""The method of the windows by which they take events; with ``update`` all else learns too."""
_Block = Callable[[EventColumns, Mapping[str, F64], bool], F64]
"""Makes a feature's dense columns, ``(n, width)``, from the events and the tables' statistics, and
learns from them if so told."""


class FeatureStage:
    """All features of one configuration, with their state.

    Dense columns are named ``NAME`` (number), ``NAME_PART`` (calendar), ``NAME_STAT_WINDOW`` such
    as ``customer_mean_7d``, and ``NAME_since_last``, ``NAME_since_first_known``; the hashed column
    of a category is named ``NAME``. ``entity_fields`` names the entity fields whose hashed keys a
    label must bring back, in order.

    * number: the transform, then clipped to float32's range, then ``(v - mean) / deviation`` if
      scaled, with population statistics that include ``v`` itself (Welford 1962); a deviation of 0
      gives 0. ``nan`` gives the running mean (0 if scaled) and is counted.
    * window and risk: see :class:`~models.features.windows.EntityWindows`. Statistics of an empty
      window are 0; ``ratio`` is the value over the window's mean, 1 where either is missing or
      the mean is 0. ``since_last`` is the longest window for an entity's first event and at most
      that; ``since_first_known`` is the delay plus the longest window where none is known.

    Parameters
    ----------
    features : sequence of Feature
    shared : sequence of str
        Entity fields whose events are also taken in by other stages. Their tables of risk hold all
        of them, by :meth:`absorb`, and are exact for an event of time ``t`` that finds in them what
        happened up to ``t - delay_ms``, and nothing after ``t + slack_ms``.
    spread : sequence of str
        Entity fields by which events are spread over stages: of their entities is noted where they
        came from (:meth:`note`), so that they can move to another stage.

    Raises
    ------
    FeatureError
        A column name comes twice.
    """

    def __init__(
        self,
        features: Sequence[Feature],
        shared: Sequence[str] = (),
        spread: Sequence[str] = (),
    ) -> None:
        self._features = tuple(features)
        self._numbers = [f for f in features if isinstance(f, NumberFeature)]
        self._categories = [f for f in features if isinstance(f, CategoryFeature)]
        self._number_stats = np.zeros((len(self._numbers), STATS))
        self._tables = _share_tables(features, shared, spread)
        dense = [f for f in features if not isinstance(f, CategoryFeature)]
        self._blocks = [(len(column_names(f)), self._block(f)) for f in dense]
        self.schema = FeatureSchema(
            tuple(name for f in dense for name in column_names(f)),
            tuple(HashedColumn(f.name, f.buckets) for f in self._categories),
        )
        names = [*self.schema.dense, *(c.name for c in self.schema.hashed)]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise FeatureError(
                f"features: expected different column names, got {', '.join(twice)} twice;"
                " rename a feature or drop a window"
            )
        self.entity_fields = tuple(dict.fromkeys(t.entity for t in self._tables if t.risk))
        self.shared = tuple(e for e in self.entity_fields if e in shared)
        tables = [t for t in self._tables if t.shared]
        self.delay_ms = min((t.delay_ms for t in tables), default=0)
        self.slack_ms = min((t.slack_ms for t in tables), default=0)

    def transform(self, events: EventColumns) -> FeatureBatch:
        """The features of ``n`` events in order, each seeing those before it; changes the state."""
        return self._features_of(events, EntityWindows.update)

    def look(self, events: EventColumns) -> FeatureBatch:
        """The features of each event as if it were the next one; changes nothing."""
        return self._features_of(events, EntityWindows.look)

    def foresee(self, events: EventColumns) -> FeatureBatch:
        """What :meth:`transform` would make of each event as the next one; changes nothing.

        Of late events and full rings too, which :meth:`look` is not exact about, for a copy of
        each event's entities.
        """
        return self._features_of(events, EntityWindows.foresee)

    def _features_of(self, events: EventColumns, take: _Take) -> FeatureBatch:
        seen = {table.name: table.statistics(events, take) for table in self._tables}
        wide, at = np.empty((len(events), len(self.schema.dense))), 0
        for width, block in self._blocks:
            wide[:, at : at + width] = block(events, seen, take == EntityWindows.update)
            at += width
        dense = np.clip(wide, -F32_MAX, F32_MAX).astype(np.float32)
        hashed = np.empty((len(events), len(self._categories)), np.uint32)
        for i, feature in enumerate(self._categories):
            hashed[:, i] = codes(feature.name, feature.buckets, events.categories[feature.field])
        return FeatureBatch(self.schema, dense, hashed)

    def label(self, keys: U64, event_time_ms: I64, delta: NDArray[np.int8]) -> None:
        """Tell the risk features what became known, in order.

        Parameters
        ----------
        keys : uint64 array ``(n, len(entity_fields))``
            The events' hashed entity keys, in the order of ``entity_fields``; 0 where missing.
        event_time_ms : int64 array ``(n,)``
            The events' own times.
        delta : int8 array ``(n,)``
            +1: the event is now known positive; -1: that is taken back.
        """
        if keys.shape != (len(event_time_ms), len(self.entity_fields)):
            expected = (len(event_time_ms), len(self.entity_fields))
            raise ValueError(f"keys: expected shape {expected}, got {keys.shape}")
        for table in self._tables:
            if table.risk:
                column = keys[:, self.entity_fields.index(table.entity)]
                table.held.mark(column, event_time_ms, delta)

    def absorb(self, keys: U64, event_time_ms: I64, positive: BOOL) -> None:
        """Tell the risk features of ``shared`` what other stages have taken in, or were told.

        Parameters
        ----------
        keys : uint64 array ``(n, len(shared))``
            The events' hashed entity keys, in the order of ``shared``; 0 where missing.
        event_time_ms : int64 array ``(n,)``
            The events' own times.
        positive : bool array ``(n,)``
            Whether an event is now known to be positive, which was told of before, or is here; else
            it is new.
        """
        known = np.ones(int(positive.sum()), np.int8)
        for table in (t for t in self._tables if t.shared):
            column = keys[:, self.shared.index(table.entity)]
            table.held.absorb(column[~positive], event_time_ms[~positive])
            table.held.mark(column[positive], event_time_ms[positive], known)

    def note(self, events: EventColumns, home: int) -> None:
        """These events, taken in just now, came from ``home``."""
        for table in self._tables:
            if table.homes:
                table.held.note(events.entities[table.entity], home)

    def homes(self) -> list[NDArray[np.int32]]:
        """Of each table of entities by which events are spread, where its entities came from."""
        return [table.held.homes() for table in self._tables if table.homes]

    def gather(self, parts: Sequence[FeatureStage], homes: Sequence[int]) -> None:
        """Take over from other stages of the same features what came from ``homes``.

        Tables that all of them fill are those of the first one, which must know all. What was
        counted of missing numbers and of losses begins anew.
        """
        for i, table in enumerate(self._tables):
            held = [part._tables[i].held for part in parts]
            if table.homes:
                table.held.gather(held, homes)
            else:
                table.held.restore(held[0].state())

    def state(self) -> State:
        """See :meth:`models.base.Model.state`."""
        return {
            "numbers": self._number_stats.copy(),
            "number_kinds": [_number_kind(f) for f in self._numbers],
            "tables": {table.name: table.held.state() for table in self._tables},
            "table_kinds": {table.name: table.kind for table in self._tables},
        }

    def restore(self, state: State) -> None:
        """Take over what ``state`` tells of numbers and tables of the same kind, however named.

        The others start new.
        """
        places = shared([_number_kind(f) for f in self._numbers], state["number_kinds"])
        self._number_stats[:] = 0.0
        fill({"numbers": self._number_stats}, state, "features", {"numbers": 0}, places)
        kinds = state["table_kinds"]
        for table in self._tables:
            # By its own name first: two tables of one kind may differ in how much they may hold.
            same = [name for name in (table.name, *kinds) if kinds.get(name) == table.kind]
            if same:
                table.held.restore(state["tables"][same[0]])

    def memories(self) -> dict[str, str]:
        """By feature that remembers anything, the kind of its memory: equal kinds carry over."""
        kinds: dict[str, str] = {}
        for f in self._features:
            if isinstance(f, NumberFeature):
                kinds[f.name] = _number_kind(f)
            elif isinstance(f, WindowFeature | RiskFeature):
                kinds[f.name] = self._table(f).kind
        return kinds

    def digest(self) -> str:
        """Hex digest of the state; equal for equal histories, also across a save and a restore."""
        return state_digest(self.state())

    def gauges(self) -> dict[str, float]:
        """``NAME.missing`` of numbers; ``NAME.entities``, ``.evicted``, ``.expired``, ``.late``,
        ``.truncated``, ``.unmatched`` and ``.bytes`` of tables, by their first feature's name.
        """
        found = {
            f"{f.name}.missing": float(self._number_stats[i, MISSING])
            for i, f in enumerate(self._numbers)
        }
        for table in self._tables:
            for gauge, value in table.held.gauges().items():
                found[f"{table.name}.{gauge}"] = value
        return found

    def _block(self, feature: Feature) -> _Block:
        """The maker of a feature's dense columns."""
        if isinstance(feature, NumberFeature):
            return self._number_block(feature)
        if isinstance(feature, CalendarFeature):
            return _calendar_block(feature)
        if isinstance(feature, WindowFeature | RiskFeature):
            return _window_block(feature, self._table(feature))
        raise FeatureError(f"feature {feature.name}: expected a type with dense columns")

    def _table(self, feature: WindowFeature | RiskFeature) -> _Table:
        return next(t for t in self._tables if _table_key(t) == _feature_key(feature))

    def _number_block(self, feature: NumberFeature) -> _Block:
        stats = self._number_stats[self._numbers.index(feature)]
        log, scale = feature.transform == "log1p", feature.scale == "standard"

        def block(events: EventColumns, seen: Mapping[str, F64], learn: bool) -> F64:
            out = np.empty((len(events), 1))
            values = contiguous(events.numbers[feature.field], np.float64)
            if learn:
                number(values, stats, log, scale, out[:, 0])
            else:
                look_number(values, stats, log, scale, np.empty(STATS), out[:, 0])
            return out

        return block


def _number_kind(f: NumberFeature) -> str:
    return f"{f.transform} of {f.field!r}"


def _feature_key(f: WindowFeature | RiskFeature) -> tuple[object, ...]:
    if isinstance(f, RiskFeature):
        return (True, f.entity, None, f.delay, f.max_entities)
    return (False, f.entity, f.value, 0, f.max_entities)


def _table_key(t: _Table) -> tuple[object, ...]:
    return (t.risk, t.entity, t.value, t.delay_ms, t.max_entities)


def _share_tables(
    features: Sequence[Feature], shared: Sequence[str], spread: Sequence[str]
) -> list[_Table]:
    """One table for each entity, value, delay and bound; its windows are the features' together."""
    tables: dict[tuple[object, ...], _Table] = {}
    for f in features:
        if not isinstance(f, WindowFeature | RiskFeature):
            continue
        risk = isinstance(f, RiskFeature)
        value = f.value if isinstance(f, WindowFeature) else None
        delay = f.delay if isinstance(f, RiskFeature) else 0
        fresh = _Table(f.name, f.entity, value, delay, risk, f.max_entities)
        table = tables.setdefault(_feature_key(f), fresh)
        table.windows.update(f.windows)
        table.extremes |= not {"min", "max"}.isdisjoint(f.stats)
        table.shared = risk and f.entity in shared
        table.homes = f.entity in spread
    for table in tables.values():
        table.build()
    return list(tables.values())


def _calendar_block(feature: CalendarFeature) -> _Block:
    if feature.zone is None:
        table = calendar_table(feature.parts, feature.utc_offset)
        return lambda events, seen, learn: table[minute_of_week(events.event_time_ms)]
    local, clock = calendar_table(feature.parts, 0), LocalClock(feature.zone)
    return lambda events, seen, learn: local[minute_of_week(clock.local_ms(events.event_time_ms))]


def _window_block(feature: WindowFeature | RiskFeature, table: _Table) -> _Block:
    """Picks the feature's columns out of its table's.

    ``risk`` is the mean, for known positives have the value 1. Seconds are cut at the feature's own
    reach, as a shared table may reach further.
    """
    n, most = len(table.held.windows), (table.delay_ms + max(feature.windows)) / 1000.0
    first = {"count": 0, "sum": n, "mean": 2 * n, "risk": 2 * n, "ratio": 2 * n}
    first |= {"min": 3 * n + 2, "max": 4 * n + 2}
    picks: list[int] = []
    caps: list[float] = []
    ratios: list[int] = []
    for stat in feature.stats:
        if stat in SINCE:
            picks.append(3 * n + SINCE.index(stat))
            caps.append(most)
            continue
        if stat == "ratio":
            ratios += range(len(picks), len(picks) + len(feature.windows))
        picks += [first[stat] + table.held.windows.index(w) for w in feature.windows]
        caps += [np.inf] * len(feature.windows)

    def block(events: EventColumns, seen: Mapping[str, F64], learn: bool) -> F64:
        out = seen[table.name].take(picks, axis=1)
        np.minimum(out, caps, out=out)
        for i in ratios:
            out[:, i] = _ratio(events.numbers[str(table.value)], out[:, i])
        return out

    return block


def _ratio(values: F64, means: F64) -> F64:
    """Value over mean; 1 where either is missing or the mean is 0."""
    values = np.clip(values, -F32_MAX, F32_MAX)
    known = (means != 0.0) & ~np.isnan(values)
    # A mean may be far below the value when signs differ: the quotient may overflow.
    with np.errstate(over="ignore"):
        return np.divide(values, means, out=np.ones(len(values)), where=known)

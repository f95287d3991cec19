"""Statistics of entities over event-time windows: the owner of the compiled tables.

It makes room, calls the kernels
in ``models/kernels/`` and copies state; it computes no statistic itself and knows no settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.base import F64, I64, U64, MillraceError, State, StateError, contiguous
from models.carry import fill
from models.kernels.windows import looks, moves, updates
from models.kernels.windows.entities import (
    ARENA,
    ENTITIES,
    EVICTED,
    EXPIRED,
    LATE,
    NEWEST,
    NEXT,
    OLDEST,
    PREV,
    SCALARS,
    SLOTS,
    TRUNCATED,
    UNMATCHED,
    Arrays,
)

RING_CAP = 1 << 16
"""Events kept of one entity; beyond it the oldest goes and is counted as truncated."""

_FIRST_SLOTS = 1024
_FIRST_PLACES = 4096


class TableFull(MillraceError):
    """The rings of one table need more than 2**31 places together."""


class EntityWindows:
    """Count, sum and mean of each entity's events over several windows that end ``delay_ms`` ago.

    A window of length ``w`` covers event times in ``(t - delay - w, t - delay]``: open at the old
    end. An entity remembers its events in ``(T - R, T]``, where ``T`` is its newest event time and
    ``R`` the reach: the delay plus the longest window.

    * An event with ``t >= T`` (equal times in order of arrival) gets exact statistics.
    * A late event, ``T - R < t < T``, is put at its place and gets the statistics as of its own
      time over what is remembered; later events see it.
    * An event with ``t <= T - R`` is too late: counted, not kept, seen alone.
    * Key 0 is a missing entity: statistics 0, nothing kept.
    * A new entity pushes out up to two of the longest idle (by arrival) that remember nothing
      younger than ``t - R``; no event after ``t`` can tell. If ``max_entities`` are still held, the
      longest idle goes and is counted as evicted.
    * ``nan`` values count as events but not in sum and mean; others are clipped to float32's range.

    Parameters
    ----------
    windows_ms : lengths, at least 1 ms each; kept sorted and distinct in ``windows``.
    delay_ms : how long ago the windows end, >= 0.
    own_event : whether an event is part of its own statistics; needs ``delay_ms == 0``.
    max_entities : entities held at most.
    ring_cap : events held of one entity at most, a power of two >= 2.
    extremes : whether to give least and greatest values too; each event then costs time in
        proportion to its entity's events in the longest window.
    homes : whether to note of each entity where its newest event came from (:meth:`note`).
    """

    def __init__(
        self,
        windows_ms: Sequence[int],
        *,
        delay_ms: int = 0,
        own_event: bool = True,
        max_entities: int = 1_000_000,
        ring_cap: int = RING_CAP,
        extremes: bool = False,
        homes: bool = False,
    ) -> None:
        if not windows_ms or min(windows_ms) < 1 or max(windows_ms) > updates.LARGEST_MS:
            raise ValueError(f"windows_ms: expected lengths of 1 .. 2**60 ms, got {windows_ms}")
        if not 0 <= delay_ms <= (0 if own_event else updates.LARGEST_MS):
            raise ValueError(f"delay_ms: expected 0 (or own_event=False), got {delay_ms}")
        if ring_cap < 2 or ring_cap & (ring_cap - 1):
            raise ValueError(f"ring_cap: expected a power of two from 2 on, got {ring_cap}")
        if max_entities < 1:
            raise ValueError(f"max_entities: expected 1 or more, got {max_entities}")
        self.windows = tuple(sorted(set(windows_ms)))
        self.delay_ms = delay_ms
        self.own_event = own_event
        self.max_entities = max_entities
        self.ring_cap = ring_cap
        self.extremes = extremes
        self._windows = np.array(self.windows, np.int64)
        self._homes = np.zeros(0, np.int32) if homes else None  # (S,), by slot
        self._arrays = self._fresh(0, 0)

    def update(self, keys: U64, times_ms: I64, values: F64) -> F64:
        """Take ``n`` events in order; statistics of each as it came, float64 ``(n, 3 W + 2)``.

        Columns: ``W`` counts, ``W`` sums, ``W`` means (windows ascending), seconds since the
        entity's event before (the reach for the first one), seconds since its earliest known
        positive that is not after ``t`` (the reach for none, and at most the reach). With
        ``extremes``, ``W`` least and ``W`` greatest values follow.

        >>> table = EntityWindows([10_000])
        >>> one = np.ones(2, np.uint64), np.array([0, 4_000]), np.array([1.0, 3.0])
        >>> table.update(*one)[:, :4].tolist()
        [[1.0, 1.0, 1.0, 10.0], [2.0, 4.0, 2.0, 4.0]]
        """
        n = len(keys)
        if not n == len(times_ms) == len(values):
            raise ValueError(f"expected columns of {n}, got {len(times_ms)} and {len(values)}")
        out = np.empty((n, (5 if self.extremes else 3) * len(self.windows) + 2))
        keys = contiguous(keys, np.uint64)
        times = contiguous(times_ms, np.int64)
        values = contiguous(values, np.float64)
        self._grow_slots(n)
        done = 0
        while True:
            done = updates.update(
                self._arrays, self._windows, self.delay_ms, self.own_event, self.ring_cap,
                self.max_entities, done, keys, times, values, out,
            )  # fmt: skip
            if done == n:
                return out
            self._grow_arena()

    def absorb(self, keys: U64, times_ms: I64) -> None:
        """Take ``n`` events of value 0, which count from ``delay_ms`` on, in any order.

        As :meth:`update` does, without telling of them. Only where ``own_event`` is false.
        """
        keys = contiguous(keys, np.uint64)
        times = contiguous(times_ms, np.int64)
        self._grow_slots(len(keys))
        done = 0
        while True:
            done = updates.absorb(
                *(self._arrays, self._windows, self.delay_ms, self.ring_cap, self.max_entities),
                *(done, keys, times),
            )
            if done == len(keys):
                return
            self._grow_arena()

    def look(self, keys: U64, times_ms: I64, values: F64) -> F64:
        """What :meth:`update` would give for each event as the next one; keeps nothing.

        An event older than its entity's newest is looked at as of that one.

        >>> table = EntityWindows([10_000])
        >>> one = np.ones(2, np.uint64), np.array([0, 4_000]), np.array([1.0, 3.0])
        >>> table.look(*one)[:, :3].tolist()
        [[1.0, 1.0, 1.0], [1.0, 3.0, 3.0]]
        """
        out = np.empty((len(keys), (5 if self.extremes else 3) * len(self.windows) + 2))
        looks.look(
            *(self._arrays, self._windows, self.delay_ms, self.own_event),
            contiguous(keys, np.uint64),
            contiguous(times_ms, np.int64),
            contiguous(values, np.float64),
            *(np.empty(3), out),
        )
        return out

    def foresee(self, keys: U64, times_ms: I64, values: F64) -> F64:
        """What :meth:`update` would give for each event as the next one, however late it is.

        Keeps nothing; slower than :meth:`look`: each event is taken by a copy of its entity.

        >>> table = EntityWindows([10_000])
        >>> one = np.ones(2, np.uint64), np.array([0, 4_000]), np.array([1.0, 3.0])
        >>> _ = table.update(*one)
        >>> table.foresee(np.ones(1, np.uint64), np.array([2_000]), np.array([5.0]))[:, :2].tolist()
        [[2.0, 6.0]]
        """
        rows = [slice(i, i + 1) for i in range(len(keys))]
        seen = [self._alone(keys[i]).update(keys[i], times_ms[i], values[i]) for i in rows]
        width = (5 if self.extremes else 3) * len(self.windows) + 2
        return np.concatenate(seen) if seen else np.empty((0, width))

    def _alone(self, key: U64) -> EntityWindows:
        """A table with a copy of this one entity ``(1,)``."""
        alone = EntityWindows(
            self.windows,
            delay_ms=self.delay_ms,
            own_event=self.own_event,
            max_entities=1,
            ring_cap=self.ring_cap,
            extremes=self.extremes,
        )
        # Room for the largest block: whatever the entity has, and what comes with one event.
        alone._arrays = alone._fresh(1, self.ring_cap)
        looks.copy(self._arrays, contiguous(key, np.uint64), alone._arrays)
        return alone

    def mark(self, keys: U64, times_ms: I64, delta: NDArray[np.int8]) -> None:
        """Mark (+1) an event at that time of that entity as positive, or take a mark back (-1).

        Of several events at the same time the first that fits is taken. Where none fits, because
        the event is forgotten, the call changes nothing but the count ``unmatched``. For tables fed
        with zeros as values: a marked event's value is 1.
        """
        if not len(keys) == len(times_ms) == len(delta):
            raise ValueError(f"expected columns of {len(keys)}, got {len(times_ms)}, {len(delta)}")
        if not np.all(np.abs(delta) == 1):
            raise ValueError(f"delta: expected +1 or -1, got {sorted(set(delta.tolist()))}")
        updates.mark(
            self._arrays,
            self._windows,
            contiguous(keys, np.uint64),
            contiguous(times_ms, np.int64),
            np.asarray(delta, np.int64).copy(),
        )

    def note(self, keys: U64, home: int) -> None:
        """The newest events of these entities, ``(n,)``, came from ``home``."""
        if self._homes is None:
            raise ValueError("homes: expected a table that notes them")
        if len(self._homes) < len(self._arrays.keys):
            self._homes = _longer(self._homes, len(self._arrays.keys))
        found = np.empty(len(keys), np.int64)
        moves.slots(self._arrays, contiguous(keys, np.uint64), found)
        self._homes[found[found >= 0]] = home

    def homes(self) -> NDArray[np.int32]:
        """Where the newest event of each entity came from, the longest idle first."""
        return self._at_home(self._idle()[0])

    def _at_home(self, slots: I64) -> NDArray[np.int32]:
        if self._homes is None:
            raise ValueError("homes: expected a table that notes them")
        return self._homes[slots]

    def _idle(self) -> tuple[I64, I64, I64]:
        n = int(self._arrays.scalars[ENTITIES])
        found = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.int64)
        moves.idle(self._arrays, *found)
        return found

    def gather(self, parts: Sequence[EntityWindows], homes: Sequence[int]) -> None:
        """Hold those entities of other tables that came from ``homes``, and nothing else.

        Each with all it remembers, so that what is said of it goes on bit for bit. Of several
        tables the longest idle by event time leave first, of one as they would have left there.
        Losses are counted anew.
        """
        found = [(part, *part._idle()) for part in parts]
        here = [np.isin(part._at_home(slots), homes) for part, slots, _, _ in found]
        rows = sum(int(keep.sum()) for keep in here)
        room = sum(int(places[keep].sum()) for (*_, places), keep in zip(found, here, strict=True))
        arrays, noted, times = self._fresh(rows, room), [], []
        for (part, slots, newest, _), keep in zip(found, here, strict=True):
            moves.copy_all(part._arrays, slots[keep], arrays)
            noted.append(part._at_home(slots[keep]))
            times.append(newest[keep])
        if rows and len(parts) > 1:
            order = np.argsort(np.concatenate(times), kind="stable")
            arrays.ints[order, PREV] = np.append(-1, order[:-1])
            arrays.ints[order, NEXT] = np.append(order[1:], -1)
            arrays.scalars[OLDEST], arrays.scalars[NEWEST] = order[0], order[-1]
        self._arrays = arrays
        self._homes = _longer(np.concatenate(noted), len(arrays.keys))

    def gauges(self) -> dict[str, float]:
        """Entities held, losses since the start by kind, and bytes allocated."""
        counts = {
            "entities": ENTITIES,
            "evicted": EVICTED,
            "expired": EXPIRED,
            "late": LATE,
            "truncated": TRUNCATED,
            "unmatched": UNMATCHED,
        }
        found = {name: float(self._arrays.scalars[at]) for name, at in counts.items()}
        return found | {"bytes": float(sum(x.nbytes for x in self._arrays))}

    @property
    def shape(self) -> State:
        """All that decides whether a state fits; how many entities may be held does not."""
        return {
            "windows_ms": list(self.windows),
            "delay_ms": self.delay_ms,
            "own_event": self.own_event,
            "ring_cap": self.ring_cap,
        }

    def state(self) -> State:
        """Copies of the used parts of every array; the hash index is made anew on restore."""
        a = self._arrays
        return {
            "shape": self.shape,
            "scalars": a.scalars.copy(),
            **{name: used.copy() for name, used in _used(a).items()},
            **({} if self._homes is None else {"homes": self._homes[: a.scalars[SLOTS]].copy()}),
        }

    def restore(self, state: State) -> None:
        """Become the table that gave ``state``; :class:`StateError` if it has another shape.

        Of more entities than ``max_entities`` the longest idle go when the next new one comes.
        """
        if state.get("shape") != self.shape:
            raise StateError(
                f"windows: expected a state of {self.shape}, got {state.get('shape')};"
                " it belongs to another configuration"
            )
        scalars = np.zeros(SCALARS, np.int64)
        fill({"scalars": scalars}, state, "windows")
        arrays = self._fresh(int(scalars[SLOTS]), int(scalars[ARENA]))
        arrays.scalars[:] = scalars
        fill(_used(arrays), state, "windows")
        updates.refill(arrays)
        self._arrays = arrays
        if self._homes is not None:
            homes = np.zeros(int(scalars[SLOTS]), np.int32)
            fill({"homes": homes}, state, "windows")
            self._homes = homes

    def _fresh(self, slots: int, places: int) -> Arrays:
        return updates.empty_arrays(
            len(self.windows),
            max(slots, min(self.max_entities, _FIRST_SLOTS)),
            max(places, _FIRST_PLACES) + self.ring_cap,
        )

    def _grow_slots(self, n: int) -> None:
        """Room for ``n`` new entities, doubling."""
        a = self._arrays
        need = min(self.max_entities, int(a.scalars[SLOTS]) + n)
        if need <= len(a.keys):
            return
        slots = min(self.max_entities, max(need, 2 * len(a.keys)))
        a = a._replace(
            lookup=np.full(updates.lookup_length(slots), -1, np.int32),
            **{k: _longer(getattr(a, k), slots) for k in ("keys", "first", "ints", "sums")},
        )
        updates.refill(a)
        self._arrays = a

    def _grow_arena(self) -> None:
        """Half as much again, and room for one more block of the largest size."""
        a = self._arrays
        places = len(a.times) * 3 // 2 + self.ring_cap
        if places >= 1 << 31:
            raise TableFull(
                f"windows {self.windows}: expected fewer than 2**31 events held, got {places};"
                " lower max_entities or shorten the windows"
            )
        self._arrays = a._replace(times=_longer(a.times, places), values=_longer(a.values, places))


def _longer(array: NDArray[Any], n: int) -> NDArray[Any]:
    grown = np.zeros((n, *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return grown


def _used(a: Arrays) -> dict[str, NDArray[Any]]:
    """What is in use of the arrays by slot and by place; views."""
    slots, places = a.scalars[SLOTS], a.scalars[ARENA]
    return {
        **{name: getattr(a, name)[:slots] for name in ("keys", "first", "ints", "sums")},
        **{name: getattr(a, name)[:places] for name in ("times", "values")},
    }

"""The documented rules of the entity windows over plain lists: slow, short enough to believe."""

from __future__ import annotations

import math


class Oracle:
    """The documented rules of `EntityWindows`, event by event, over plain lists."""

    def __init__(
        self,
        windows: list[int],
        delay: int,
        own: bool,
        most: int,
        cap: int,
        extremes: bool = False,
    ) -> None:
        self.windows, self.delay, self.own = sorted(set(windows)), delay, own
        self.most, self.cap, self.extremes = most, cap, extremes
        self.reach = delay + max(windows)
        self.entities: dict[int, list[list[float]]] = {}  # insertion order = idleness
        self.first: dict[int, list[float]] = {}
        self.lost = dict.fromkeys(("evicted", "expired", "late", "truncated", "unmatched"), 0)

    def update(self, key: int, t: int, v: float) -> list[float]:
        n = len(self.windows)
        if key == 0:
            return [0.0] * ((5 if self.extremes else 3) * n + 2)
        events = self.entities.pop(key, None)
        if events is None:
            self._make_room(t)
            events = []
        self.entities[key] = events
        newest = max((e[0] for e in events), default=t)
        if events and t <= newest - self.reach:
            self.lost["late"] += 1
            seen = [[t, v]]
            inside = [seen if self.own else [] for _ in self.windows]
            since = self.reach
        else:
            newest = max(newest, t)
            events[:] = [e for e in events if e[0] > newest - self.reach]
            since = min((t - e[0] for e in events if e[0] <= t), default=self.reach)
            if self.own:
                self._keep(events, t, v)
            end = t - self.delay
            # A full ring lets its oldest go as an event is kept: for a late one before it is told.
            late = t < newest
            if not self.own and late:
                self._keep(events, t, v)
                mine = max(i for i, e in enumerate(events) if e[0] == t)
                known = [e for i, e in enumerate(events) if i != mine]
            else:
                known = list(events)
            inside = [[e for e in known if end - w < e[0] <= end] for w in self.windows]
            if late:
                earlier = [e for e in events if e[0] <= t]
                since = t - earlier[-2][0] if len(earlier) > 1 else self.reach
            if not self.own and not late:
                self._keep(events, t, v)
        values = [[e[1] for e in found if not math.isnan(e[1])] for found in inside]
        totals = [math.fsum(x) for x in values]
        row = [float(len(found)) for found in inside] + totals
        row += [s / len(x) if x else 0.0 for s, x in zip(totals, values, strict=True)]
        known_at = self.first.get(key, math.inf)
        first = min(t - known_at, self.reach) if known_at <= t else self.reach
        row += [since / 1000, first / 1000]
        if self.extremes:
            row += [min(x, default=0.0) for x in values] + [max(x, default=0.0) for x in values]
        return row

    def _make_room(self, t: int) -> None:
        for _ in range(2):
            oldest = next(iter(self.entities), None)
            if oldest is None or max(e[0] for e in self.entities[oldest]) > t - self.reach:
                break
            self._forget(oldest)
            self.lost["expired"] += 1
        while len(self.entities) >= self.most:
            self._forget(next(iter(self.entities)))
            self.lost["evicted"] += 1

    def _forget(self, key: int) -> None:
        del self.entities[key]
        self.first.pop(key, None)

    def _keep(self, events: list[list[float]], t: int, v: float) -> None:
        if len(events) >= self.cap:
            del events[0]
            self.lost["truncated"] += 1
        at = sum(e[0] <= t for e in events)
        events.insert(at, [t, v])

    def mark(self, key: int, t: int, delta: int) -> None:
        if key == 0:
            return
        wanted = 0.0 if delta > 0 else 1.0
        events = self.entities.get(key, [])
        for e in events:
            if e[0] == t and e[1] == wanted:
                e[1] = 1.0 - wanted
                if delta > 0:
                    self.first[key] = min(t, self.first.get(key, t))
                elif self.first.get(key) == t:
                    self.first[key] = min((x[0] for x in events if x[1] > 0), default=math.inf)
                return
        self.lost["unmatched"] += 1

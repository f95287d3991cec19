"""The clock of a file: how far its stream had come when each event was read.

A log's clock is the wall's; a file has only its events. The course is the latest event time so
far, but for events from the future: one that is more than ``limits.ahead`` later than the course
moves it only if the stream goes on from there.
"""

from __future__ import annotations

from models.base import I64

NEAR, FOLLOWERS = 8, 64
"""Later events that are asked whether the stream goes on from an event that leaps ahead: the next
few tell one stray event even where the stream soon comes by, many tell a handful of them."""


class Course:
    """Takes event times in file order.

    Parameters
    ----------
    ahead_ms : int
        ``limits.ahead``.
    horizon_ms : int
        ``label.horizon``: where fewer than :data:`FOLLOWERS` events follow, a longer leap than this
        is not believed either, for it would let everything pass its horizon.

    Attributes
    ----------
    now_ms : int
        The course after the last event taken; -1 before the first.
    """

    def __init__(self, ahead_ms: int, horizon_ms: int) -> None:
        self.now_ms = -1
        self._ahead_ms = ahead_ms
        self._horizon_ms = horizon_ms

    def take(self, times_ms: I64, following_ms: I64) -> list[int]:
        """The course after each of ``times_ms``; ``following_ms`` are those that come after them.

        An event whose time is more than ``ahead_ms`` later than its course is from the future.
        """
        times, later = times_ms.tolist(), following_ms[:FOLLOWERS].tolist()
        course = []
        now = self.now_ms
        for i, at in enumerate(times):
            if at > now:
                if now >= 0 and at <= now + self._ahead_ms:
                    now = at
                else:
                    rest = (times[i + 1 : i + 1 + FOLLOWERS] + later)[:FOLLOWERS]
                    if self._believed(at, now, rest):
                        now = at
            course.append(now)
        self.now_ms = now
        return course

    def _believed(self, at: int, now: int, following: list[int]) -> bool:
        """Whether the stream goes on from a leap to ``at``: most that follow are no earlier."""
        earlier = [later < at - self._ahead_ms for later in following]
        if any(2 * sum(asked) > len(asked) for asked in (earlier[:NEAR], earlier)):
            return False
        return len(following) == FOLLOWERS or now < 0 or at - now <= self._horizon_ms

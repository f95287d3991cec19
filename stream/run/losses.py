"""What a service loses of its input, told in the log; and the stop when that is most of a topic.

Dead letters, events that are let go before their horizon, updates that budgets undo, and event
times that no stream has. Reads each step before its commit (loop thread), never a payload into the
log.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping

import numpy as np
import structlog

from models.base import MillraceError
from stream.contract.letters import DeadLetter, Reason
from stream.contract.outputs import Outputs
from stream.decode.times import misread, period_of
from stream.settings.schema import Config, TimeFormat

logger = structlog.get_logger()

BREAKER_RECORDS = 1_000
"""The breaker looks at the latest records of a topic, at least so many."""
SUMMARY_S = 60.0
"""How often the log tells of losses; the first of each kind it tells at once."""

REFUSED = 10
"""So many updates of a member undone in a row are told: it learns nothing any more."""

_READ: frozenset[Reason] = frozenset(
    {"duplicate_event", "label_duplicate", "label_conflict", "label_orphan"}
)
"""Reasons of records that were understood: they say nothing against the schema or a clock."""


class BreakerOpen(MillraceError):
    """Too large a share of the latest records is unusable: somebody changed what they mean."""


class Losses:
    """Those of one service."""

    def __init__(self, config: Config) -> None:
        self._notices = _Notices()
        self._let_go = _LetGo()
        self._breaker = Breaker(config.limits.dead_letter_share)
        self._unscored = Unscored(config.topics.events, config.reco is not None)
        self._dated = Dated(config.event.time_format)
        self._refused: set[str] = set()

    def taken(self, outputs: Outputs, let_go: int, newest_ms: int) -> str:
        """A step was done, not yet committed; what is amiss with the events, if anything.

        ``let_go`` events in all have left unlearned for lack of room, ``newest_ms`` is the newest
        event time, 0 before the first. Raises :class:`BreakerOpen`.
        """
        self._let_go.taken(let_go)
        self._notices.taken(outputs)
        self._breaker.check(outputs)
        amiss = (self._unscored.taken(outputs), self._dated.taken(newest_ms))
        return "; ".join(filter(None, amiss))

    def refused(self, updates: Mapping[str, int]) -> None:
        """Log the members that just came to :data:`REFUSED` updates undone in a row."""
        stuck = {name for name, n in updates.items() if n >= REFUSED}
        for name in sorted(stuck - self._refused):
            logger.warning(
                "updates_refused",
                member=name,
                in_a_row=updates[name],
                next_step="the audit trail names budget, measure and inputs; raise the budget if"
                " the inputs are sound: the member learns nothing",
            )
        self._refused = stuck

    def tell(self) -> None:
        """Log what came since the last time, each :data:`SUMMARY_S`."""
        self._notices.tell()
        self._let_go.tell()


class Breaker:
    """Counts unusable records among the latest of each topic; opens above ``limit``, in 0..1."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._recent: dict[str, deque[tuple[int, int]]] = {}

    def check(self, outputs: Outputs) -> None:
        """Take a step; called BEFORE its commit, so that nothing is drained.

        Raises :class:`BreakerOpen` with the topic and the last reason.
        """
        taken = Counter[str]()
        for r in outputs.journal.ranges:
            taken[r.topic] += r.count
        bad: dict[str, list[DeadLetter]] = {}
        for letter in outputs.dead_letters:
            if letter.reason not in _READ:
                bad.setdefault(letter.record.topic, []).append(letter)
            elif letter.reason == "duplicate_event":  # a repeat is neither good nor bad
                taken[letter.record.topic] -= 1
        for topic, records in taken.items():
            self._count(topic, records, bad.get(topic, []))

    def _count(self, topic: str, records: int, bad: list[DeadLetter]) -> None:
        recent = self._recent.setdefault(topic, deque())
        recent.append((records, len(bad)))
        total = sum(n for n, _ in recent)
        while total - recent[0][0] >= BREAKER_RECORDS:
            total -= recent.popleft()[0]
        share = sum(b for _, b in recent) / max(total, 1)
        if total >= BREAKER_RECORDS and share > self._limit:
            last = f"{bad[-1].reason}: {bad[-1].error}" if bad else "none in this step"
            raise BreakerOpen(
                f"limits.dead_letter_share: expected at most {self._limit:g} of the last {total} "
                f"records of topic {topic!r} to be unusable, got {share:.3f}; the last one: {last}."
                " This step was not committed. Mend the producer or the schema, or raise the "
                "limit; then start"
            )


class Unscored:
    """Events that came since the last one that was scored, by what became of them.

    Where items are ranked, since the last that was taken in: most of them ask for no list.
    """

    def __init__(self, topic: str, ranks: bool = False) -> None:
        self._topic = topic
        self._ranks = ranks
        self._events = 0
        self._reasons = Counter[Reason]()

    def taken(self, outputs: Outputs) -> str:
        """A step was taken; what there is to say, empty where events are scored."""
        came = sum(r.count for r in outputs.journal.ranges if r.topic == self._topic)
        bad = [d.reason for d in outputs.dead_letters if d.record.topic == self._topic]
        if outputs.scores or (self._ranks and came > len(bad)):
            self._events = 0
            self._reasons.clear()
        else:
            self._events += came
            self._reasons.update(bad)
        if not self._events:
            return ""
        why = ", ".join(f"{reason} {n:,}" for reason, n in self._reasons.most_common())
        done = "taken in" if self._ranks else "scored"
        return f"no event was {done} of the last {self._events:,}: {why}"


class Dated:
    """Whether the newest event time is one that streams have; one that is not is logged once."""

    def __init__(self, time_format: TimeFormat) -> None:
        self._time_format = time_format
        self._told = False

    def taken(self, newest_ms: int) -> str:
        """What there is to say once the newest event is from then; 0: there is none yet."""
        period = period_of(np.array([newest_ms][: newest_ms > 0], np.int64))
        odd = "".join(misread(period, self._time_format))
        if odd and not self._told:
            logger.warning("event_times_unlikely", newest=period and period[1], next_step=odd)
        self._told = bool(odd)
        return odd


class _Notices:
    def __init__(self) -> None:
        self._counts: dict[tuple[str, Reason], int] = {}
        self._last: dict[tuple[str, Reason], DeadLetter] = {}
        self._told_s = time.monotonic()

    def taken(self, outputs: Outputs) -> None:
        for letter in outputs.dead_letters:
            kind = (letter.record.topic, letter.reason)
            if kind not in self._counts:
                self._counts[kind] = 0
                _log("dead_letter", letter)
            else:
                self._counts[kind] += 1
                self._last[kind] = letter

    def tell(self) -> None:
        if self._last and time.monotonic() - self._told_s >= SUMMARY_S:
            for kind, letter in self._last.items():
                _log("dead_letters", letter, count=self._counts[kind])
                self._counts[kind] = 0
            self._last.clear()
            self._told_s = time.monotonic()


class _LetGo:
    def __init__(self) -> None:
        self._told: int | None = None  # before the first step: what a restart has told already
        self._total = 0
        self._told_s = float("-inf")

    def taken(self, total: int) -> None:
        self._total = total
        if self._told is None:
            self._told = total
        self.tell()

    def tell(self) -> None:
        now = time.monotonic()
        if self._told is not None and self._total > self._told and now - self._told_s >= SUMMARY_S:
            logger.warning(
                "events_let_go",
                count=self._total - self._told,
                next_step="raise limits.pending, or lower label.horizon: what is let go is not"
                " learned, and its label becomes an orphan",
            )
            self._told, self._told_s = self._total, now


def _log(event: str, letter: DeadLetter, **more: int) -> None:
    told = letter.told()
    del told["error"]  # it may quote the record
    logger.warning(event, **more, **told)

"""The demo's story: what people do around a shard whose stream drifts, and whose labels go wrong.

Drift alarms let models as new challenge the members (``drift.on_alarm``). The operator here
promotes the first that is proposed. A week later a new source of labels says the contrary of the
truth for a week; when it is found out every member goes back to where it was before. Then two
models race for the place of the worst, and the first that is better takes it. Each deed is a
command on the control topic with its reason, as from anybody.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from stream.contract.commands import Challenge, Checkpoint, Command, Promote, Rollback
from stream.contract.outputs import Outputs
from stream.contract.records import NewRecord
from stream.demo.player import PAYMENTS, Writing
from stream.demo.simulator import DAY_MS, GENUINE, LARGE, Payments
from stream.run.service import Listener

SETTINGS = {"drift": {"on_alarm": "challenge"}}
"""What the example is changed by."""
QUIET_DAYS, WRONG_DAYS = 7, 7
"""From the promotion to the new source of labels, and to when it is found out."""
RACED, ALPHA = "bayes", 0.2
"""Whose place the race is for, and the chance to win falsely: the story lasts weeks, not months."""
RACERS: tuple[dict[str, Any], ...] = (
    {"type": "crossed", "table_bits": 16},
    {"type": "boosting"},
)
SHOWN = {
    "drift": "{model}: drift alarm",
    "challenger_started": "{model}: a model as new begins to challenge it",
    "challenger_proposed": "{model}: the challenger is better, its promotion is proposed",
    "challenger_promoted": "{model}: the challenger takes its place",
    "challenger_dropped": "{model}: the challenger is dropped ({reason})",
    "rolled_back": "all members go back to before",
}
"""Audit events that are told, and how."""
RACING = "{model}: two models begin to race for its place"
ALARMS_TOLD = 3
"""Drift alarms that are told, of each part of the story."""


class Operator(Listener):
    """Follows what the service commits, and answers with commands.

    Parameters
    ----------
    append : callable ``(topic, records)``
        Usually ``Log.append``.
    topic : str
        The control topic.

    Attributes
    ----------
    writing : Writing
        How the payments are written, with the week of wrong labels.
    told : list of str
        What happened, each with its date in event time.
    """

    def __init__(self, append: Callable[[str, Sequence[NewRecord]], object], topic: str) -> None:
        self.writing = Writing(PAYMENTS.events, self._labels, PAYMENTS.lines, PAYMENTS.spoilt)
        self.told: list[str] = []
        self._append = append
        self._topic = topic
        self._now_ms = 0
        self._reported_ms = 0
        self._racing = False
        self._promoting = False
        self._wrong_ms: range | None = None
        self._before: int | None = None
        self._back = False
        self._alarms = 0

    def committed(self, outputs: Outputs, seconds: float) -> None:
        """See :class:`Listener`."""
        for scored in outputs.scored:
            self._now_ms = max(self._now_ms, int(scored.event_time_ms.max(initial=0)))
        for record in outputs.audit:
            self._heard(msgspec.json.decode(record.value or b"{}"), outputs.journal.seq)
        if self._wrong_ms and self._before is None and self._now_ms >= self._wrong_ms.start:
            self._before = outputs.journal.seq
            self._alarms = 0
            self._tell("a new source of labels: it says the contrary of the truth, as yet unknown")
            self._send(Checkpoint(reason="before the new source of labels"))
        if self._wrong_ms and not self._back and self._now_ms >= self._wrong_ms.stop:
            self._back = True
            self._tell("the labels of a week were wrong; their source is mended")
            why = "labels of a week were wrong"
            self._send(Rollback(to=str(self._before), reason=why, ticket="OPS-7"))
            self._racing = True
            spec = msgspec.json.encode(RACERS).decode()
            why = "the worst of all: which would be best in its place?"
            self._send(Challenge(member=RACED, spec=spec, alpha=ALPHA, reason=why))

    def _heard(self, event: dict[str, Any], seq: int) -> None:
        name = event["event"]
        if name == "drift":
            self._alarms += 1
        # A command about all members has a record of each of them, too.
        many = self._alarms > ALARMS_TOLD if name == "drift" else event["model"] != "ensemble"
        raced = event["model"] == RACED and self._racing
        if name in SHOWN and not (many and name in {"drift", "rolled_back"}):
            own = name == "challenger_started" and event["cause"] == "command"
            self._tell((RACING if own else SHOWN[name]).format_map(event))
        if name == "checkpoint_requested":
            self._before = seq
        if name == "challenger_proposed" and (raced or not self._promoting):
            self._promoting = self._promoting or not raced
            self._send(Promote(member=event["model"], reason="better on labels as they came"))
        if name == "challenger_promoted" and self._wrong_ms is None:
            # Of labels that are not written yet, however far behind the service is.
            first = max(self._now_ms, self._reported_ms) + QUIET_DAYS * DAY_MS
            self._wrong_ms = range(first, first + WRONG_DAYS * DAY_MS)

    def _tell(self, what: str) -> None:
        date = datetime.fromtimestamp(self._now_ms / 1000, UTC).date()
        line = f"{date}  {what}"
        if line not in self.told[-1:]:
            self.told.append(line)

    def _send(self, command: Command) -> None:
        value = msgspec.json.encode(msgspec.structs.replace(command, actor="os:demo"))
        self._append(self._topic, [NewRecord(None, value)])

    def _labels(self, payments: Payments, seed: int) -> list[NewRecord]:
        """The truth, or in the week of wrong labels the contrary."""
        self._reported_ms = max(self._reported_ms, int(payments["reported_at_ms"].max()))
        if self._wrong_ms:
            at, known = self._wrong_ms, payments["reported_at_ms"]
            wrong = (known >= at.start) & (known < at.stop)
            payments = payments.copy()
            fraud = payments["scenario"] != GENUINE
            payments["scenario"][wrong & fraud] = GENUINE
            payments["scenario"][wrong & ~fraud] = LARGE
        return PAYMENTS.labels(payments, seed)

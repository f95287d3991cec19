"""What a drift alarm sets off, by ``[drift] on_alarm``: forget weights, begin anew, challenge.

The engine calls :meth:`Reactions.alarm` for each alarm before the labels that raised it are
learned, :meth:`Reactions.judge` before and :meth:`Reactions.learned` after every learning. Part of
the engine's state: no clock, no I/O, and fresh members come with a seed counted from the
configuration's. ``docs/drift.md`` says what each reaction does to the scores.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

import numpy as np

from models.base import F64, FeatureBatch, State
from models.ensemble.ensemble import Ensemble, MemberError
from monitoring.audit.auditor import Auditor
from monitoring.audit.budgets import Reaction
from monitoring.drift.monitor import WARM_UP, Alarm
from monitoring.drift.settings import DriftSettings

_CAUSE = "drift"
"""The cause of what an alarm sets off, in the trail."""


class Reactions:
    """Acts on alarms of one engine.

    Parameters
    ----------
    settings : DriftSettings
    ensemble : Ensemble
        Can build its members anew.
    auditor : Auditor

    Attributes
    ----------
    counts : Counter
        Reactions by ``"reaction/member"``; weights are the member ``ensemble``'s.
    """

    def __init__(self, settings: DriftSettings, ensemble: Ensemble, auditor: Auditor) -> None:
        self.counts: Counter[str] = Counter()
        self._settings = settings
        self._ensemble = ensemble
        self._auditor = auditor
        self._births: Counter[str] = Counter()  # models built anew, by member
        self._unripe: dict[str, int] = {}  # labels until what began anew is ripe
        self._ripe_ms: dict[str, int] = {}  # newest event scored by then, or by an older model
        self._judged: dict[str, list[float]] = {}  # labels, sum of losses, of the challenger's

    def alarm(self, alarm: Alarm, event_time_ms: int) -> None:
        """Act on an alarm that the score of an event of this time raised, if it is to be acted on.

        Not acted on: an alarm of a member that does not learn, or one about scores that an older
        model made, or a newer one before it had learned
        :data:`~monitoring.drift.monitor.WARM_UP` labels: fresh models score badly, and late labels
        tell so much later.
        """
        reaction = self._settings.on_alarm
        if reaction == "none":
            return
        name = alarm.signal
        if reaction == "weights" or (reaction == "reset" and name == "ensemble"):
            if self._ripe("ensemble", event_time_ms):
                self._forget(name)
        elif name != "ensemble" and self._learns(name) and self._ripe(name, event_time_ms):
            if reaction == "reset":
                self._reset(name)
            elif name not in self._ensemble.challengers:
                self._challenge(name)

    def _learns(self, name: str) -> bool:
        return name not in self._ensemble.frozen | self._ensemble.quarantined

    def _ripe(self, name: str, event_time_ms: int) -> bool:
        return name not in self._unripe and event_time_ms > self._ripe_ms.get(name, -1)

    def _began(self, name: str) -> None:
        self._unripe[name] = WARM_UP

    def _forget(self, signal: str) -> None:
        """The combiner begins anew, unless it is one that learns nothing."""
        if self._ensemble.combiner.parameters():
            before = self._ensemble.weights().tolist()
            self._ensemble.forget()
            self._began("ensemble")
            self._tell("weights_reset", "ensemble", {"alarm": signal, "weights": before})

    def _reset(self, name: str) -> None:
        self._births[name] += 1
        self._ensemble.renew(name, self._births[name])
        self._began(name)
        self.counts[f"member_reset/{name}"] += 1
        self._auditor.renewed(name, "member_reset", _CAUSE, {"number": self._births[name]})

    # ------------------------------------------------------------------ challengers

    def _challenge(self, name: str) -> None:
        self._births[name] += 1
        self._ensemble.challenge(name, self._births[name])
        self._judged[name] = [0.0, 0.0, 0.0]
        self._tell("challenger_started", name, {"number": self._births[name]})

    def judge(self, x: FeatureBatch, y: F64, w: F64) -> None:
        """Score the rows that are about to be learned with each challenger and its member.

        Both score the same rows by what they know now: the member's score from when the event came
        may be a week old, the challenger has none.
        """
        for name in list(self._ensemble.challengers):
            if not self._learns(name):
                self._drop(name, {"reason": "the member does not learn"})
                continue
            try:
                links = self._ensemble.compare(name, x)
            except MemberError as error:
                self._drop(name, {"reason": str(error)[:500]})
                continue
            judged = self._judged[name]
            judged[0] += float(w.sum())
            for i, link in enumerate(links, 1):
                # Added up in order: no processor sums in another.
                losses = w * self._ensemble.task.cost(link, y)
                judged[i] = float(np.add.accumulate(np.append(judged[i], losses))[-1])

    def learned(self, x: FeatureBatch, y: F64, w: F64, watermark_ms: int) -> None:
        """The members have learned these rows: the challengers do, and some are decided.

        ``watermark_ms`` is the newest event time scored.
        """
        for name in list(self._unripe):
            self._unripe[name] -= len(y)
            if self._unripe[name] <= 0:
                del self._unripe[name]
                self._ripe_ms[name] = watermark_ms
        for name in list(self._ensemble.challengers):
            try:
                self._ensemble.learn_beside(name, x, y, w)
            except MemberError as error:
                self._drop(name, {"reason": str(error)[:500]})
                continue
            self._decide(name, watermark_ms)

    def _decide(self, name: str, watermark_ms: int) -> None:
        """Promote or drop a challenger that was judged for long enough."""
        n, ours, theirs = self._judged[name]
        if n < self._settings.challenger_after:
            return
        detail = {"labels": int(n), "log_loss": ours / n, "challenger_log_loss": theirs / n}
        if theirs < ours:
            self._ensemble.promote(name)
            del self._judged[name]
            self._ripe_ms[name] = watermark_ms
            self.counts[f"challenger_promoted/{name}"] += 1
            self._auditor.renewed(name, "challenger_promoted", "challenge", detail)
        elif n >= self._settings.challenger_until:
            self._drop(name, detail | {"reason": "not better"})

    def _drop(self, name: str, detail: dict[str, Any], cause: str = "challenge") -> None:
        del self._ensemble.challengers[name]
        del self._judged[name]
        self._tell("challenger_dropped", name, detail, cause)

    def _tell(
        self, reaction: Reaction, target: str, detail: dict[str, Any], cause: str = _CAUSE
    ) -> None:
        self.counts[f"{reaction}/{target}"] += 1
        self._auditor.record(reaction, cause, target, detail)

    def replaced(self, name: str) -> None:
        """By command another model stands in the member's place: forget the old one."""
        self._judged.pop(name, None)
        self._began(name)

    # ------------------------------------------------------------------ state

    def reconfigured(self, combiner_is_new: bool) -> None:
        """The settings are others since this state was made: what they no longer allow ends.

        Challengers go on only where alarms still set off a challenge. A new combiner's first
        scores set nothing off.
        """
        if combiner_is_new:
            self._began("ensemble")
        if self._settings.on_alarm != "swap":
            for name in list(self._ensemble.challengers):
                self._drop(name, {"reason": "on_alarm"}, "configuration")

    def state(self) -> State:
        """See :meth:`models.base.Model.state`; the challengers are part of the ensemble's."""
        return {
            "counts": dict(self.counts),
            "births": dict(self._births),
            "unripe": dict(self._unripe),
            "ripe_ms": dict(self._ripe_ms),
            "judged": {name: list(figures) for name, figures in self._judged.items()},
        }

    def restore(self, state: State) -> None:
        """Take over what ``state`` tells of these members; call after the ensemble's."""

        def known(key: str, names: Collection[str]) -> dict[str, Any]:
            return {name: v for name, v in state[key].items() if name in names}

        signals = ("ensemble", *self._ensemble.names)
        self.counts = Counter(state["counts"])
        self._births = Counter(known("births", signals))
        self._unripe = known("unripe", signals)
        self._ripe_ms = known("ripe_ms", signals)
        judged = known("judged", self._ensemble.challengers)
        self._judged = {name: list(figures) for name, figures in judged.items()}

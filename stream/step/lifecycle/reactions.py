"""What a drift alarm sets off, by ``[drift] on_alarm``: forget weights, begin anew, challenge.

The engine calls :meth:`Reactions.alarm` for each alarm before the labels that raised it are
learned, and :meth:`Reactions.learned` after every learning. Part of the engine's state: no clock,
no I/O, and fresh members come with a seed counted from the configuration's. ``docs/drift.md`` says
what each reaction does to the scores.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

from models.base import State
from models.ensemble.ensemble import Ensemble
from monitoring.audit.auditor import Auditor
from monitoring.drift.monitor import WARM_UP, Alarm
from monitoring.drift.settings import DriftSettings
from stream.step.lifecycle.challengers import Challengers

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
    challengers : Challengers or None
        ``None``: an alarm challenges nobody.
    began : callable, optional
        Told of each member that began anew.

    Attributes
    ----------
    counts : Counter
        Reactions by ``"reaction/member"``; weights are the member ``ensemble``'s.
    """

    def __init__(
        self,
        settings: DriftSettings,
        ensemble: Ensemble,
        auditor: Auditor,
        challengers: Challengers | None,
        began: Callable[[str], None] | None = None,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._settings = settings
        self._ensemble = ensemble
        self._auditor = auditor
        self._challengers = challengers
        self._told = began
        self._births: Counter[str] = Counter()  # models built anew, by member
        self._unripe: dict[str, int] = {}  # labels until what began anew is ripe
        self._ripe_ms: dict[str, int] = {}  # newest event scored by then, or by an older model

    def alarm(self, alarm: Alarm, event_time_ms: int) -> None:
        """Act on an alarm that the score of an event of this time raised, if it is to be acted on.

        Not acted on: an alarm of a member that labels teach nothing, or one about scores that an
        older model made, or a newer one before it had learned
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
            elif self._challengers is not None and not self._challengers.of(name):
                [detail] = self._challengers.begin(name)
                self._auditor.record("challenger_started", _CAUSE, name, detail)

    def _learns(self, name: str) -> bool:
        out = self._ensemble.frozen | self._ensemble.quarantined
        return name not in out and not self._ensemble.members[name].trained

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
            self.counts["weights_reset/ensemble"] += 1
            detail = {"alarm": signal, "weights": before}
            self._auditor.record("weights_reset", _CAUSE, "ensemble", detail)

    def _reset(self, name: str) -> None:
        self._births[name] += 1
        self._ensemble.renew(name, self._births[name])
        self._began(name)
        if self._told is not None:
            self._told(name)
        self.counts[f"member_reset/{name}"] += 1
        self._auditor.renewed(name, "member_reset", _CAUSE, {"number": self._births[name]})

    def learned(self, n: int, watermark_ms: int) -> None:
        """The members have learned ``n`` rows; ``watermark_ms`` is the newest event time scored."""
        for name in list(self._unripe):
            self._unripe[name] -= n
            if self._unripe[name] <= 0:
                del self._unripe[name]
                self._ripe_ms[name] = watermark_ms

    def replaced(self, name: str) -> None:
        """By command another model stands in the member's place: forget the old one."""
        self._began(name)

    # ------------------------------------------------------------------ state

    def reconfigured(self, combiner_is_new: bool) -> None:
        """A new combiner's first scores set nothing off."""
        if combiner_is_new:
            self._began("ensemble")

    def state(self) -> State:
        """See :meth:`models.base.Model.state`."""
        return {
            "counts": dict(self.counts),
            "births": dict(self._births),
            "unripe": dict(self._unripe),
            "ripe_ms": dict(self._ripe_ms),
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

"""What models do: score; what labels do: judge the scores, then teach everything that learns.

In this order: quality, drift detectors and their reactions, the combiner, the members; the auditor
looks before and after. Windows of risk take each label as it comes.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.base import F64, I64, FeatureBatch
from models.ensemble.conformal import PROMISE
from models.ensemble.ensemble import Ensemble, MemberError
from models.features.stage import FeatureStage
from models.task import Task
from monitoring.audit.auditor import Auditor
from monitoring.drift.monitor import Alarm, DriftMonitor
from monitoring.quality.tasks import Judge
from stream.step.lifecycle.challengers import Challengers
from stream.step.lifecycle.guard import Guard
from stream.step.lifecycle.history import History
from stream.step.lifecycle.reactions import Reactions


class Learning:
    """Takes labelled rows in label order; ``counts`` are the engine's.

    Attributes
    ----------
    parts : tuple
        What it was made of, for whoever takes its place.
    """

    def __init__(
        self,
        features: FeatureStage,
        ensemble: Ensemble,
        quality: Judge,
        drift: DriftMonitor,
        auditor: Auditor,
        reactions: Reactions,
        challengers: Challengers | None,
        guard: Guard | None,
        history: History | None,
        counts: Counter[str],
        task: Task,
    ) -> None:
        self.parts = (
            *(features, ensemble, quality, drift, auditor, reactions, challengers, guard, history),
            *(counts, task),
        )
        self._task = task
        self._features = features
        self._ensemble = ensemble
        self._quality = quality
        self._drift = drift
        self._auditor = auditor
        self._reactions = reactions
        self._challengers = challengers
        self._guard = guard
        self._history = history
        self._counts = counts

    def score(self, x: FeatureBatch, told: dict[str, F64] | None = None) -> tuple[F64, F64]:
        """See :meth:`Ensemble.score`; a member that fails leaves the ensemble, the rest go on."""
        while True:
            try:
                return self._ensemble.score(x, told)
            except MemberError as error:
                self._counts[f"member_errors.{error.member}.{error.kind}"] += 1
                self._auditor.failed(error, {})

    def promise(self, output: F64) -> tuple[F64, NDArray[Any] | None]:
        """What is promised of outputs ``(n, k)`` being scored: to keep, and to say."""
        promises = self._ensemble.promises
        if promises is None:
            return np.zeros((len(output), 0)), None
        if self._ensemble.cold:
            made = np.full((len(output), PROMISE), np.nan)
        else:
            made = promises.promise(output)
        return made, promises.said(output, made)

    def said(self, output: F64, rows: NDArray[Any]) -> NDArray[Any] | None:
        """What was promised of rows when they were scored, with outputs ``(n, 1 + m, k)``."""
        promises = self._ensemble.promises
        return None if promises is None else promises.said(output[:, 0], rows["promise"])

    def made(self, rows: NDArray[Any]) -> tuple[F64, NDArray[Any] | None]:
        """Outputs of rows as made, see :func:`outputs`, and what was promised of them."""
        output = outputs(self._task, rows)
        return output, self.said(output, rows)

    def learn(
        self,
        rows: NDArray[Any],
        y: F64,
        w: F64,
        watermark_ms: int,
        waited: bool,
        numbers: I64 | None = None,
    ) -> None:
        """The combiner, then the members learn ``n`` rows as they were scored.

        ``y`` truths, ``w`` weights above 0; ``watermark_ms`` the newest event time scored;
        ``numbers`` the rows' in the pending store, where they were scored here.
        Where all have ``waited`` for silence, a whole horizon of them was scored cold: of these
        the combiner learns what members say now, before they learn them. Chargebacks after two
        horizons: log loss .0397, and .0399 without.
        """
        x = FeatureBatch(
            self._features.schema,
            np.ascontiguousarray(rows["dense"]),
            np.ascontiguousarray(rows["hashed"]),
        )
        links = np.array(rows["links"], order="C")
        cold = np.flatnonzero(rows["cold"])
        if waited and len(cold) and not self._ensemble.cold:
            links[cold] = self.score(x.take(cold))[0]
        self._ensemble.weigh(links, y, w)
        then = self._auditor.before(len(y), self._ensemble.voters)
        errors = self._ensemble.teach(x, y, w, then)
        for error in errors:
            self._counts[f"member_errors.{error.member}.{error.kind}"] += 1
        for name in self._auditor.after(len(y), errors):
            self._counts[f"updates.{name}"] += len(y)
        self._reactions.learned(len(y), watermark_ms)
        if self._challengers is not None and numbers is not None:
            self._challengers.learned(numbers, x, y, w)
        if self._history is not None:
            self._history.hold(rows, y, w, self._auditor.step, watermark_ms)

    def told(self, rows: NDArray[Any], truth: F64) -> None:
        """Labels came for ``n`` rows: windows of risk know the positives from now on."""
        positive = self._task.positive(truth)
        if positive.any():
            self._features.label(
                np.ascontiguousarray(rows["keys"][positive]),
                np.ascontiguousarray(rows["event_time_ms"][positive]),
                np.ones(int(positive.sum()), dtype=np.int8),
            )

    def judge(self, numbers: I64, rows: NDArray[Any], truth: F64, watermark_ms: int) -> list[Alarm]:
        """Quality, drift, challengers and guard take the scores as made; gives the alarms.

        ``numbers`` are the rows' in the pending store. Each row comes once, before what is left to
        learn of it is learned.
        """
        output, said = self.made(rows)
        self._quality.update(output, truth, rows["alert"], said)
        warm = np.flatnonzero(~rows["cold"])
        if (promises := self._ensemble.promises) is not None and len(warm):
            promises.learn(output[warm, 0], rows["promise"][warm], truth[warm])
        at_ms = np.ascontiguousarray(rows["event_time_ms"])
        losses = self._task.loss(output, truth, self._ensemble.prior.scale)
        alarms = self._drift.update(losses, at_ms, watermark_ms)
        for alarm in alarms:
            self._auditor.record("drift", alarm.detector, alarm.signal, alarm.detail())
            self._reactions.alarm(alarm, int(at_ms[alarm.row]))
            if self._guard is not None:
                self._guard.alarmed(alarm.signal, watermark_ms)
        if self._challengers is not None:
            self._challengers.judge(numbers, rows, truth)
        if self._guard is not None:
            self._guard.judge(numbers, rows, truth)
        self._counts["learned"] += len(truth)
        return alarms


def outputs(task: Task, rows: NDArray[Any]) -> F64:
    """Outputs as made, ``(n, 1 + members, k)``: the ensemble's first; ``nan`` of a cold score.

    A cold score is nobody's: neither quality nor drift detectors judge it.
    """
    made = task.output(np.concatenate([rows["score"][:, None], rows["links"]], axis=1))
    made[rows["cold"]] = np.nan
    return made

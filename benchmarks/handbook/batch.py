"""Batch learners on the handbook's payments, to stand beside the stream's.

Gradient boosting refitted every week on the labels released by then, and the configured ensemble
frozen after one pass over one week. Both see the features that the configured feature stage made in
stream order. Nothing here judges a score.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from benchmarks.handbook.protocol import Payments
from models.base import EventColumns, FeatureBatch
from models.features.stage import FeatureStage
from stream.run.assemble import build_engine
from stream.settings.schema import Config

DELAY_MS = 7 * 86_400_000
STEP = 512
WINDOW_DAYS = 28


def stream_features(config: Config, payments: Payments) -> FeatureBatch:
    """Every payment's features as the stream makes them, a label becoming known after 7 days."""
    stage = FeatureStage(config.features)
    entities = {
        "customer_id": payments.customer.astype(np.uint64) + np.uint64(1),
        "terminal_id": payments.terminal.astype(np.uint64) + np.uint64(1),
    }
    keys = np.column_stack([entities[f] for f in stage.entity_fields])
    times = payments.time_s * 1000
    fraud = np.flatnonzero(payments.fraud)
    due = times[fraud] + DELAY_MS
    known, parts = 0, []
    for first in range(0, len(times), STEP):
        rows = slice(first, first + STEP)
        now = int(np.searchsorted(due, times[first], side="right"))
        told = fraud[known:now]
        stage.label(np.ascontiguousarray(keys[told]), times[told], np.ones(len(told), np.int8))
        known = now
        columns = EventColumns(
            times[rows],
            {"amount": payments.amount[rows]},
            {},
            {name: key[rows] for name, key in entities.items()},
        )
        parts.append(stage.transform(columns).dense)
    dense = np.concatenate(parts)
    return FeatureBatch(stage.schema, dense, np.zeros((len(dense), 0), np.uint32))


def weekly_boosting(x: FeatureBatch, payments: Payments, firsts: list[int]) -> NDArray[np.float64]:
    """Scores of scikit-learn's histogram gradient boosting, refitted before each test week.

    It learns the four weeks of payments whose labels are out when the test week begins: those up to
    eight days before.
    """
    p = np.zeros(len(x))
    for first in firsts:
        train = (payments.day >= first - 7 - WINDOW_DAYS) & (payments.day < first - 7)
        test = (payments.day >= first) & (payments.day < first + 7)
        model = HistGradientBoostingClassifier(
            learning_rate=0.05,
            max_iter=100,
            max_leaf_nodes=15,
            early_stopping=False,
            random_state=0,
        )
        model.fit(x.dense[train], payments.fraud[train])
        p[test] = model.predict_proba(x.dense[test])[:, 1]
    return p


def frozen_after_a_week(
    config: Config, x: FeatureBatch, payments: Payments, firsts: list[int]
) -> NDArray[np.float64]:
    """Logits of the configured ensemble, fresh for each test week.

    It learns the handbook's training week in one pass, each row after it was scored, and no more.
    """
    logits = np.zeros(len(x))
    for first in firsts:
        ensemble = build_engine(config, None).ensemble
        train = np.flatnonzero((payments.day >= first - 14) & (payments.day < first - 7))
        for at in range(0, len(train), STEP):
            rows = train[at : at + STEP]
            part, y = x.take(rows), payments.fraud[rows].astype(np.float64)
            ensemble.learn(part, ensemble.score(part)[0], y, np.ones(len(y)))
        test = np.flatnonzero((payments.day >= first) & (payments.day < first + 7))
        logits[test] = ensemble.score(x.take(test))[1][:, 0]
    return logits

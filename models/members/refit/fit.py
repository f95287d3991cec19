"""Trains a sum of trees by LightGBM on rows that were learned: in a process beside the service.

The only file that needs the library, and only once it trains. Nothing here need be deterministic
for a replay, which takes the model by its digest; it is, all the same.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np

from models.base import F64, I64, FeatureBatch, FeatureSchema, MillraceError, State
from models.members.refit.text import trees_of
from models.members.refit.trees import Trees, links, state_of

TENTH = 0.1
"""Of the rows, the newest: a hold-out; and those before, which say how many trees are best."""
LEAST = 10
"""Rows without which a tenth is none."""
PATIENCE = 50
"""Trees without gain after which there are enough."""
SLACK = 0.02
"""Share by which the hold-out's loss may be above that of what the member said then."""


class Refused(MillraceError):
    """No model was trained, or none that may take the member's place."""


class Refitted(Protocol):
    """What a training goes by; see :class:`models.members.refit.model.RefitModel`."""

    params: Any
    schema: FeatureSchema
    seed: int
    trees: Trees


class Rows(NamedTuple):
    """``n`` learned rows; ``said`` are the member's links as made, ``nan`` where it made none."""

    x: FeatureBatch
    y: F64
    w: F64
    at_ms: I64
    said: F64

    def take(self, rows: Any) -> Rows:
        """The given rows, in the given order."""
        return Rows(self.x.take(rows), *(column[rows] for column in self[1:]))


class Fitted(NamedTuple):
    """A member's state, and what speaks for it."""

    state: State
    figures: dict[str, float]


def fit(member: Refitted, rows: Rows) -> Fitted:
    """A model for the member.

    1. Too few positives, no negatives, and too few rows to hold any out are refused.
    2. By event time the newest tenth is held out; the tenth before says how many trees are best.
    3. What is worse on the hold-out than what the member said then, or than the share of positives,
       is refused.
    4. With as many trees all rows are learned.
    5. What our walk does not score as the library does, bit for bit, is refused.

    Raises :class:`Refused`.
    """
    positives = int((rows.y > 0).sum())
    if positives < member.params.positives:
        raise Refused(f"expected {member.params.positives} positives at least, got {positives}")
    rows = rows.take(np.argsort(rows.at_ms, kind="stable"))
    n = len(rows.y)
    if positives == n:
        raise Refused(f"expected negatives too, got {positives} positives and nothing else")
    if n < LEAST:
        raise Refused(f"expected {LEAST} rows at least, to hold a tenth of them out, got {n}")
    held, stop = n - int(TENTH * n), n - int(2 * TENTH * n)
    first, second, last = (slice(0, stop), slice(stop, held), slice(held, n))
    trees = _train(member, rows.take(first), member.params.trees, rows.take(second)).best_iteration
    probe = _train(member, rows.take(slice(0, held)), trees)
    figures = _held_out(member, probe, rows.take(last), rows.y[:held])
    whole = _train(member, rows, trees)
    made = trees_of(whole.model_to_string(), rows.x.dense.shape[1], rows.x.hashed.shape[1])
    sample = rows.take(last)
    if not np.array_equal(links(made, sample.x), _raw(whole, sample.x)):
        raise Refused("expected the library's own scores, bit for bit, got others")
    return Fitted(
        state_of(made, np.zeros(2)), figures | {"rows": n, "positives": positives, "trees": trees}
    )


def _train(member: Refitted, rows: Rows, trees: int, watch: Rows | None = None) -> Any:
    """A booster; with rows to ``watch`` as many trees as are best for these."""
    try:
        import lightgbm
    except ModuleNotFoundError as error:
        raise Refused(
            'trainings need lightgbm, which is not installed: pip install "millrace[refit]"'
        ) from error
    except OSError as error:  # a slim system has no libgomp
        raise Refused(
            f"trainings need lightgbm, which does not load: {error}; where libgomp.so.1 is missing,"
            " apt-get install libgomp1"
        ) from error
    params, rng = member.params, np.random.default_rng(member.seed)
    kept = (rows.y > 0) | (rng.random(len(rows.y)) < params.negatives)
    weight = np.where(rows.y > 0, rows.w, rows.w / params.negatives)
    dense = rows.x.dense.shape[1]
    categorical = list(range(dense, dense + rows.x.hashed.shape[1]))

    def data(of: Rows, w: F64, base: Any = None) -> Any:
        return lightgbm.Dataset(
            _matrix(of.x),
            of.y,
            weight=w,
            categorical_feature=categorical,
            reference=base,
            free_raw_data=False,
        )

    learned = data(rows.take(kept), weight[kept])
    settings = {
        "objective": "binary",
        "num_threads": 1,
        "deterministic": True,
        "force_row_wise": True,
        "use_missing": False,
        "seed": member.seed,
        "verbosity": -1,
        "num_leaves": params.leaves,
        "learning_rate": params.learning_rate,
        "min_data_in_leaf": params.least,
        "feature_fraction": params.columns,
        "lambda_l2": params.ridge,
    }
    if watch is None:
        return lightgbm.train(settings, learned, trees)
    told: list[Any] = [lightgbm.early_stopping(PATIENCE, verbose=False)]
    watched = [data(watch, watch.w, learned)]
    return lightgbm.train(settings, learned, trees, valid_sets=watched, callbacks=told)


def _held_out(member: Refitted, booster: Any, rows: Rows, before: F64) -> dict[str, float]:
    """Losses on the hold-out, of the model, the member as made, and the share of positives."""

    def loss(links: F64) -> float:
        known = ~np.isnan(links)
        costs = np.logaddexp(0.0, np.where(rows.y > 0, -links, links))[known]
        return float(np.average(costs, weights=rows.w[known])) if known.any() else np.inf

    share = np.clip(before.mean(), 1e-6, 1 - 1e-6)
    found = {
        "loss": loss(_raw(booster, rows.x)),
        "loss_of_share": loss(np.full(len(rows.y), np.log(share / (1 - share)))),
    }
    most = found["loss_of_share"]
    if len(member.trees.root):
        found["loss_before"] = loss(rows.said)
        most = min(most, found["loss_before"] * (1 + SLACK))
    if not found["loss"] <= most:
        raise Refused(f"hold-out: expected a loss of {most:.6g} at most, got {found['loss']:.6g}")
    return found


def _raw(booster: Any, x: FeatureBatch) -> F64:
    raw: F64 = booster.predict(_matrix(x), raw_score=True, num_threads=1)
    return raw


def _matrix(x: FeatureBatch) -> F64:
    return np.concatenate([x.dense.astype(np.float64), x.hashed.astype(np.float64)], axis=1)

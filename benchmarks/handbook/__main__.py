"""Accuracy on the Fraud Detection Handbook's payments, beside the handbook's own batch models.

Run ``python -m benchmarks.handbook --data PATH --config examples/handbook.toml``, or with
``--scores s.parquet`` for scores that `millrace evaluate` wrote before. ``--period validation``
judges the four weeks of July on which settings may be chosen, ``final`` the four weeks that are
reported. ``--batch`` adds batch learners on the same features (about two minutes).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.common import machine, rates
from benchmarks.handbook.protocol import (
    Payments,
    cell,
    judge,
    read_payments,
    read_scores,
    weeks_of,
)

PUBLISHED = {
    "decision tree": (0.797, 0.579, 0.284),
    "logistic regression": (0.868, 0.623, 0.297),
    "random forest": (0.870, 0.678, 0.299),
    "XGBoost": (0.869, 0.687, 0.303),
    "balanced bagging": (0.879, 0.680, 0.305),
    "feed-forward network": (0.876, 0.675, 0.303),
    "LSTM": (0.876, 0.665, 0.297),
}
"""The handbook's table for the final weeks: AUC, AP, CP@100 of batch models."""

TARGETS = {"auc": 0.868, "ap": 0.670, "cp100": 0.300}


def main() -> None:
    """Parse the arguments, get scores, judge them, print."""
    options = _options()
    payments = read_payments(options.data)
    firsts = weeks_of(options.period)
    found: dict[str, Any] = {"period": options.period}
    with tempfile.TemporaryDirectory() as directory:
        path = options.scores
        if path is None:
            path = Path(directory) / "scores.parquet"
            found["evaluate"] = evaluate(options.config, options.data, path)
        scores = read_scores(path, payments)
    found["stream"] = {name: judge(payments, p, firsts) for name, p in scores.items()}
    if options.batch:
        found["batch"] = batch(options.config, payments, firsts)
    if options.period == "final":
        ours = found["stream"]["ensemble"]
        found["targets"] = {
            k: {"value": ours[k], "at_least": v, "met": ours[k] >= v} for k, v in TARGETS.items()
        }
    show(found, options.json)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the payments, Parquet")
    parser.add_argument("--scores", type=Path, help="scores made before; default: make them")
    parser.add_argument("--config", type=Path, default=Path("examples/handbook.toml"))
    parser.add_argument("--period", choices=("validation", "final"), default="final")
    parser.add_argument("--batch", action="store_true", help="add batch learners")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


def evaluate(config: Path, data: Path, scores: Path) -> dict[str, Any]:
    """Run `millrace evaluate` with labels 7 days late; its speed and digest."""
    from stream.settings.load import load
    from stream.tools.evaluate import evaluate_file

    started, cpu = time.perf_counter(), time.process_time()
    summary = evaluate_file(load(config, os.environ), data, "7d", scores, 512, Console(stderr=True))
    speed = rates(summary["events"], time.perf_counter() - started, time.process_time() - cpu)
    return speed | {k: summary[k] for k in ("labels", "dead_letters", "weights", "digest")}


def batch(config: Path, payments: Payments, firsts: list[int]) -> dict[str, Any]:
    """Figures of the batch learners."""
    from benchmarks.handbook.batch import frozen_after_a_week, stream_features, weekly_boosting
    from stream.settings.load import load

    loaded = load(config, os.environ)
    x = stream_features(loaded, payments)
    made = {
        "gradient boosting, refitted weekly on 4 weeks": weekly_boosting(x, payments, firsts),
        "this ensemble, one pass over one week, frozen": frozen_after_a_week(
            loaded, x, payments, firsts
        ),
    }
    return {name: judge(payments, p, firsts) for name, p in made.items()}


def show(found: dict[str, Any], as_json: bool) -> None:
    """Print JSON with the machine, or the table."""
    if as_json:
        print(json.dumps({"benchmark": "handbook", "machine": machine()} | found, indent=2))
        return
    table = Table("", "AUC", "AP", "CP@100", title=f"Handbook payments, {found['period']} weeks")
    if found["period"] == "final":
        for name, figures in PUBLISHED.items():
            table.add_row(f"{name} (published)", *(f"{v:.3f}" for v in figures))
    for group in ("batch", "stream"):
        table.add_section()
        for name, figures in found.get(group, {}).items():
            table.add_row(name, *(cell(figures, k) for k in ("auc", "ap", "cp100")))
    console = Console()
    console.print(table)
    for key in ("evaluate", "targets"):
        if key in found:
            console.print(key, found[key])


if __name__ == "__main__":
    main()

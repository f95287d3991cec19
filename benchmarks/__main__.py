"""All that `make bench` measures, one program after another, and one table in the end.

Run ``python -m benchmarks [lifecycle | scale] [--json] [--quick] [--elec PATH] [--handbook PATH]``.
Each program runs in a process of its own; its whole result stands in the JSON, the table holds the
figures that have a target. One that fails is told, and the others go on. The data sets are not part
of the project: what needs one is left out without its path.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.common import arguments, machine


class Row(NamedTuple):
    """A figure of the table: where it comes from, and what would be a very good one."""

    what: str
    program: str
    target: str
    moonshot: float | None


SERVICE = (
    Row("forest beside River's ARF-10, ratio", "members", "forest_beside_river", 150),
    Row("its prequential accuracy on Elec", "members", "elec_accuracy", 0.890),
    Row("logistic beside Vowpal Wabbit, ratio", "members", "logistic_beside_vowpal_wabbit", 30),
    Row("linear and softmax: least ratio to River's", "linear", "linear_ratio", 100),
    Row("their quality over River's, the least", "linear", "linear_quality", 1),
    Row("forest less ARF-10, plain streams, the least", "plain", "plain_forest", 0),
    Row("logistic less River's there, rows 0..1,000", "plain", "plain_logistic", 0),
    Row("ensemble less its best member, any window", "plain", "plain_ensemble", -0.003),
    Row("engine in process, events/s", "engine", "in_process", 100_000),
    Row("engine beside a loop with River, ratio", "engine", "beside_river", 150),
    Row("service on the embedded log, events/s", "engine", "embedded_log", 80_000),
    Row("service on Kafka, exactly once, events/s", "service.kafka_path", "kafka", 28_000),
    Row("the same with confluent, events/s", "service.kafka_path", "kafka_confluent", 45_000),
    Row("confluent beside kafka-python, ratio", "service.kafka_path", "confluent", 3),
    Row("handbook's final weeks, AUC", "handbook", "auc", 0.880),
    Row("handbook's final weeks, AP", "handbook", "ap", 0.705),
    Row("handbook's final weeks, CP@100", "handbook", "cp100", 0.310),
    Row("windows of 1 million entities, GiB", "engine", "windows_gib", 0.5),
    Row("start to first score, s", "engine", "first_score_s", 1.0),
    Row("a scrape of /metrics, at most, ms", "service.overhead", "scrape_ms", None),
    Row("share of throughput that monitoring takes", "service.overhead", "monitoring_cost", None),
    Row("service beside the bare River loop, ratio", "service.overhead", "arf", None),
    Row("beside the bare Kafka loop, batches of 2,000", "service.kafka_path", "batch_2000", None),
    Row("beside the bare Kafka loop, batches of 4,096", "service.kafka_path", "batch_4096", None),
)


LIFECYCLE = (
    Row(
        "false promotions, no challenger better", "lifecycle.challengers", "false promotions", 0.02
    ),
    Row(
        "blocks to find the much better",
        "lifecycle.challengers",
        "blocks to find the much better",
        None,
    ),
    Row(
        "the same in engines, watched all the time",
        "lifecycle.watched",
        "false promotions, worst line",
        0.02,
    ),
    Row("copiers of labels promoted", "lifecycle.watched", "copiers promoted", None),
    Row("races of four equals: one promoted", "lifecycle.equals", "false promotions, by day", 0.02),
    Row("guard: false proposals", "lifecycle.guard", "false proposals", None),
    Row("guard: harm that lasts, found", "lifecycle.guard", "harm that lasts, found", None),
    Row("a member more: log loss of 7 days", "lifecycle.added", "more_loss", 0),
    Row("a version put back, longest step, ms", "lifecycle.versions", "longest_ms", None),
    Row("1 million rows rebuilt, slowest member, s", "lifecycle.rebuilds", "slowest_s", None),
    Row("reasons of every score: more time", "lifecycle.reasons", "all", 0.05),
    Row("configured at 20,000/s, longest step, ms", "lifecycle.changes", "longest_ms", 250),
    Row("while 5 million events wait, ms", "lifecycle.switches", "longest_ms", None),
    Row("p99 beside a training, ratio", "lifecycle.beside", "p99_ratio", 1.1),
    Row("replica beside its service, ratio", "lifecycle.replica", "speed", None),
)
SCALE = (
    Row("engine beside a loop with River, ratio", "engine", "beside_river", 150),
    Row("service on the embedded log, events/s", "engine", "embedded_log", 80_000),
    Row("scorer beside the whole engine, ratio", "scale.model", "scorer_ratio", 4),
    Row("learner beside the whole engine, ratio", "scale.model", "learner_ratio", 3),
    Row("versions, MB/s a scorer", "scale.model", "version_mb_per_s", 0.03),
    Row("taking a version over, ms", "scale.model", "take_ms", 1),
    Row("waiting events: bytes a row", "service.waiting", "bytes_a_row", 16),
    Row("longest batch while the index grows, ms", "service.waiting", "longest_hold_ms", 20),
    Row("restored, s", "service.waiting", "restored_s", 3),
    Row("4 scorers, handbook: AP less one process's", "scale.handbook", "ap_apart", None),
)
SUITES = {"service": SERVICE, "lifecycle": LIFECYCLE, "scale": SCALE}
DATA = {
    "members": ("elec", ["--elec"]),
    "handbook": ("handbook", ["--data"]),
    "scale.handbook": ("handbook", ["--one", "--data"]),
}
"""Programs that need a file: whose option names it, and their own options before it."""


def run(program: str, options: list[str]) -> dict[str, Any] | None:
    """One program's result; ``None``, and told, where it failed."""
    command = [sys.executable, "-m", f"benchmarks.{program}", *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        print(f"benchmarks.{program}: ended with status {done.returncode}", file=sys.stderr)
        return None
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def programs(rows: Iterable[Row], options: argparse.Namespace) -> dict[str, list[str]]:
    """Programs of the table, each with its options; without those whose data is not there."""
    found = {}
    for program in dict.fromkeys(row.program for row in rows):
        given = ["--json"] if program != "scale.handbook" else []
        given += ["--quick"] if options.quick and program not in DATA else []
        if program in DATA:
            key, before = DATA[program]
            if (path := getattr(options, key)) is None:
                continue
            given += [*before, str(path)]
            given += ["--rows", "2000"] if options.quick and program == "members" else []
        found[program] = given
    return found


def main() -> int:
    """Run what can be run; print; the exit status, 1 where a program failed."""
    options = arguments(__doc__, _more)
    rows, found = SUITES[options.suite], dict[str, Any]()
    todo = programs(rows, options)
    for at, (name, given) in enumerate(todo.items(), 1):
        print(f"[{at}/{len(todo)}] benchmarks.{name}", file=sys.stderr, flush=True)
        found[name] = run(name, given)
    figures = table(rows, found)
    if options.json:
        print(json.dumps({"machine": machine(), "figures": figures, "programs": found}, indent=2))
    else:
        show(options.suite, figures)
    return int(None in found.values())


def _more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("suite", nargs="?", choices=SUITES, default="service")
    parser.add_argument("--elec", type=Path, help="elec.csv.gz: adds the members")
    parser.add_argument("--handbook", type=Path, help="fraud-handbook.parquet: adds the handbook")


def table(rows: Iterable[Row], found: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that were measured."""
    return [
        {"what": row.what, **targets[row.target], "moonshot": row.moonshot}
        for row in rows
        if row.target in (targets := (found.get(row.program) or {}).get("targets", {}))
    ]


def show(suite: str, rows: list[dict[str, Any]]) -> None:
    """The table for people."""
    name = "make bench" if suite == "service" else f"make bench-{suite}"
    shown = Table("", "measured", "target", "", "moonshot", title=name)
    for row in rows:
        least = row.get("at_least", row.get("at_most"))
        sign = ">=" if "at_least" in row else "<="
        met = "[green]met[/]" if row["met"] else "[red]missed[/]"
        moonshot = "" if row["moonshot"] is None else f"{row['moonshot']:,}"
        shown.add_row(row["what"], f"{row['value']:,}", f"{sign} {least:,}", met, moonshot)
    Console().print(shown)


if __name__ == "__main__":
    sys.exit(main())

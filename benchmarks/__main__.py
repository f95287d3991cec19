"""All that `make bench` measures, one program after another, and one table in the end.

Run ``python -m benchmarks [--json] [--quick] [--elec PATH] [--handbook PATH]``. Each program runs
in a process of its own; its whole result stands in the JSON, the table holds the figures that have
a target. The data sets are not part of the project: what needs one is left out without its path.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.common import arguments, machine
from models.base import MillraceError


class Row(NamedTuple):
    """A figure of the table: where it comes from, and what would be a very good one."""

    what: str
    program: str
    target: str
    moonshot: float | None


ROWS = (
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


def run(program: str, options: list[str]) -> dict[str, Any]:
    """One program's result."""
    command = [sys.executable, "-m", f"benchmarks.{program}", "--json", *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise MillraceError(f"benchmarks.{program}: ended with status {done.returncode}; see above")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    """Run what can be run; print."""
    options = arguments(__doc__, _more)
    quick = ["--quick"] if options.quick else []
    always = ("service.overhead", "service.kafka_path", "engine", "linear", "plain")
    programs = dict.fromkeys(always, quick)
    if options.elec:
        rows = ["--rows", "2000"] if options.quick else []
        programs["members"] = ["--elec", str(options.elec), *rows]
    if options.handbook:
        programs["handbook"] = ["--data", str(options.handbook)]
    found: dict[str, Any] = {}
    for at, (name, given) in enumerate(programs.items(), 1):
        print(f"[{at}/{len(programs)}] benchmarks.{name}", file=sys.stderr, flush=True)
        found[name] = run(name, given)
    rows = table(found)
    if options.json:
        print(json.dumps({"machine": machine(), "figures": rows, "programs": found}, indent=2))
    else:
        show(rows)


def _more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--elec", type=Path, help="elec.csv.gz: adds the members")
    parser.add_argument("--handbook", type=Path, help="fraud-handbook.parquet: adds the handbook")


def table(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that were measured."""
    return [
        {"what": row.what, **found[row.program]["targets"][row.target], "moonshot": row.moonshot}
        for row in ROWS
        if row.target in found.get(row.program, {}).get("targets", {})
    ]


def show(rows: list[dict[str, Any]]) -> None:
    """The table for people."""
    shown = Table("", "measured", "target", "", "moonshot", title="make bench")
    for row in rows:
        least = row.get("at_least", row.get("at_most"))
        sign = ">=" if "at_least" in row else "<="
        met = "[green]met[/]" if row["met"] else "[red]missed[/]"
        moonshot = "" if row["moonshot"] is None else f"{row['moonshot']:,}"
        shown.add_row(row["what"], f"{row['value']:,}", f"{sign} {least:,}", met, moonshot)
    Console().print(shown)


if __name__ == "__main__":
    main()

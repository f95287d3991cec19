"""What every benchmark says about where it ran, how it times, and how it prints.

The programs of this package call it. Throughputs of a shared machine move by tens of percent from
one minute to the next, so whoever compares two sides runs them in turn with :func:`compare` and
looks at the ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import structlog
from rich.console import Console
from rich.table import Table

PACKAGES = ("millrace", "numpy", "numba", "river", "msgspec", "kafka-python")


def arguments(
    doc: str | None, more: Callable[[argparse.ArgumentParser], None] = lambda _: None
) -> argparse.Namespace:
    """``--json``, ``--quick`` and what ``more`` adds, described by the program's docstring."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="small counts: checks, not figures")
    more(parser)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    return parser.parse_args()


def machine() -> dict[str, Any]:
    """Processor, cores, load average over 1, 5 and 15 minutes, and versions."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "load_average": [round(v, 2) for v in os.getloadavg()],
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
    } | {name: version(name) for name in PACKAGES}


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def timed(work: Callable[[], int]) -> dict[str, Any]:
    """Do the work, which returns how many events it took, and say how fast it was.

    ``events_per_cpu_s`` is by the processor time of all threads of this process: what other
    processes of the machine take is left out.
    """
    started, cpu = time.perf_counter(), time.process_time()
    events = work()
    seconds, used = time.perf_counter() - started, time.process_time() - cpu
    return rates(events, seconds, used)


def rates(events: int, seconds: float, cpu_s: float) -> dict[str, Any]:
    """Events a second of wall time and of processor time."""
    return {
        "events": events,
        "seconds": round(seconds, 3),
        "events_per_s": round(events / seconds),
        "events_per_cpu_s": round(events / max(cpu_s, 1e-9)),
    }


Side = Callable[[], dict[str, Any]]
"""Runs one side once, from a fresh start; what :func:`timed` or :func:`rates` gave."""


def in_turn(sides: Mapping[str, Side], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Run all sides in turn, A B C A B C: neighbours saw the same machine."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            found[name].append(side())
    return found


def beside(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> dict[str, Any]:
    """The ratios of events a second, each run beside its neighbour."""
    pairs = list(zip(ours, theirs, strict=True))
    return {
        "ratio": spread([_per(x, y, "events_per_s") for x, y in pairs]),
        "ratio_by_cpu": spread([_per(x, y, "events_per_cpu_s") for x, y in pairs]),
    }


def compare(ours: Side, theirs: Side, rounds: int) -> dict[str, Any]:
    """Run both sides in turn and compare neighbours."""
    runs = in_turn({"ours": ours, "theirs": theirs}, rounds)
    return {name: middle(found) for name, found in runs.items()} | beside(*runs.values())


def repeat(side: Side, rounds: int) -> dict[str, Any]:
    """One side several times: the median run, with the least and greatest events a second."""
    return middle([side() for _ in range(rounds)])


def _per(x: Mapping[str, Any], y: Mapping[str, Any], key: str) -> float:
    return float(x[key] / y[key])


def middle(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The median run, with the least and greatest events a second."""
    median = sorted(runs, key=lambda r: r["events_per_s"])[len(runs) // 2]
    return median | {"range": spread([float(r["events_per_s"]) for r in runs])}


def spread(values: list[float]) -> dict[str, Any]:
    """Median, least and greatest of a few runs."""
    digits = 3 if statistics.median(values) < 100 else 0
    return {
        "median": round(statistics.median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
        "runs": len(values),
    }


def quantiles_ms(seconds: list[float]) -> dict[str, Any]:
    """Median, 99th percentile and maximum of latencies, in milliseconds."""
    ordered = sorted(seconds)
    at = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99}
    found = {k: round(ordered[int(q * (len(ordered) - 1))] * 1000, 2) for k, q in at.items()}
    return {"count": len(ordered)} | found | {"max_ms": round(ordered[-1] * 1000, 2)}


def target(value: float, limit: float, at_least: bool) -> dict[str, Any]:
    """A figure beside the bound it is held against."""
    met = value >= limit if at_least else value <= limit
    return {"value": round(value, 4), ("at_least" if at_least else "at_most"): limit, "met": met}


def show(title: str, found: Mapping[str, Any], as_json: bool) -> None:
    """Print the figures with the machine they come from: JSON, or a table."""
    result = {"benchmark": title, "machine": machine()} | dict(found)
    if as_json:
        print(json.dumps(result, indent=2))
        return
    table = Table("", "", title=title, show_header=False)
    for name, value in _flat(result):
        table.add_row(name, value)
    Console().print(table)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            rows += _flat(value, f"{name}.")
        elif isinstance(value, float) or type(value) is int:
            rows.append((name, f"{value:,}"))
        else:
            rows.append((name, str(value)))
    return rows

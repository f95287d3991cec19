"""How far a service of many scorers goes: events a second, cores and bytes for 1 to 1,000 of them.

``python -m benchmarks.scale.model [--quick] [--every SECONDS] [--price P] [--svg FILE]``. What an
event takes of a whole engine, a scorer and the learner is measured, on one core each, with one and
two scorers; the model says what that makes for any number, and is held against four scorers,
measured in the same run. Payments and members are those of the fraud example, half of them to learn
from before anything is timed. Processor time of the engines alone: no client, no broker.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import xxhash
from rich.console import Console
from rich.table import Table

from benchmarks import traffic
from benchmarks.common import arguments, machine, target
from benchmarks.common import spread as ratio
from benchmarks.scale.handbook import Process, Service
from benchmarks.scale.versions import BATCH, measured
from models.base import MillraceError
from stream.contract.outputs import Outputs
from stream.settings.load import parse

EXAMPLE = Path("examples/fraud-scaled.toml")
EVERY = "1d"
"""Event time between versions while members learn the first half; then none is made."""
CHECKED = 4
SHOWN = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
Part = tuple[bytes, int]
"""A value and the hash of its event's customer."""


class Costs(NamedTuple):
    """What one event takes: microseconds of one core, and bytes handed on; what a version takes.

    ``foreign``: of each other scorer's event, whose risk is taken in. ``positives``: their share.
    """

    whole_us: float
    scorer_us: float
    learner_us: float
    foreign_us: float
    example_bytes: float
    risk_bytes: float
    version_bytes: int
    make_ms: float
    take_ms: float
    positives: float


class Point(NamedTuple):
    """So many scorers, each busy on one core: events a second of all, and what that comes to.

    ``learned``: the share of the labels that one learner's core can take in; bytes are of what is
    written to, and read from, the topics between the processes; core hours are for 1e9 events.
    """

    scorers: int
    events_per_s: float
    learned: float
    learned_of_a_tenth: float
    core_hours: float
    written_mb_per_s: float
    read_mb_per_s: float


def tenth(costs: Costs) -> float:
    """The share of labels that are positive, or one of ten negatives; no setting asks for it."""
    return costs.positives + 0.1 * (1 - costs.positives)


def modelled(costs: Costs, scorers: int, every_s: float) -> Point:
    """What so many scorers do, by the costs of each step.

    A scorer has ``1 - take / every`` of its core for events: each of its own costs ``scorer_us``,
    each of another scorer ``foreign_us``. The learner has ``1 - make / every`` for examples.
    """
    n = scorers
    per_event_us = costs.scorer_us / n + costs.foreign_us * (1 - 1 / n)
    rate = 1e6 * (1 - costs.take_ms / 1000 / every_s) / per_event_us
    room = 1e6 * (1 - costs.make_ms / 1000 / every_s) / costs.learner_us
    told = costs.risk_bytes if n > 1 else 0.0
    written = rate * (costs.example_bytes + told) + costs.version_bytes / every_s
    read = rate * (costs.example_bytes + told * (n - 1)) + n * costs.version_bytes / every_s
    return Point(
        n,
        rate,
        min(1.0, room / rate),
        min(1.0, room / rate / tenth(costs)),
        (n + min(1.0, rate / room)) / rate * 1e9 / 3600,
        written / 1e6,
        read / 1e6,
    )


def pieces(events: int) -> Iterator[tuple[list[Part], list[Part]]]:
    """Events and the labels that come after them, with what they are spread by."""
    homes: dict[bytes, int] = {}
    for made, told in traffic.pieces(traffic.simulator(events), BATCH):
        rows = []
        for r in made:
            home = xxhash.xxh3_64_intdigest(r.key or b"")
            homes[(r.value or b"").split(b'"', 4)[3]] = home
            rows.append((r.value or b"", home))
        yield rows, [(r.value or b"", homes.pop(r.key or b"")) for r in told]


class Run(NamedTuple):
    """Microseconds of one core an event, by part, and bytes an event, by topic."""

    cpu_us: dict[str, float]
    bytes: dict[str, float]


class Parted(Process):
    """Takes the others' risk in by a step of its own, to time it apart."""

    foreign_s = 0.0

    def step(self, clock_ms: int) -> Outputs | None:
        """See :meth:`Process.step`."""
        rest, topic = self.waiting, self.config.risk_topic
        risk = {key: rest.pop(key) for key in [key for key in rest if key[0] == topic]}
        if risk:
            before, self.waiting = self.cpu_s, defaultdict(list, risk)
            super().step(clock_ms)
            self.foreign_s += self.cpu_s - before
            self.cpu_s, self.waiting = before, rest
        return super().step(clock_ms)


class Parts(Service):
    """Scorers and their learner, timed part by part."""

    kind = Parted


def whole(made: Sequence[Any]) -> Run:
    """All in one process."""
    tree = tomllib.loads(EXAMPLE.read_text(encoding="utf-8")) | {"limits": {"threads": 1}}
    tree |= {"log": {"type": "kafka", "bootstrap": "127.0.0.1:9"}}
    process = Process(parse({k: v for k, v in tree.items() if k != "shard"}, str(EXAMPLE)))
    counted = 0
    for i, (events, labels) in enumerate(made):
        if i == len(made) // 2:
            process.cpu_s = 0.0
        counted += len(events) if i >= len(made) // 2 else 0
        process.waiting["events", 0] += [value for value, _ in events]
        process.waiting["labels", 0] += [value for value, _ in labels]
        process.step(traffic.CLOCK_MS)
    return Run({"whole": 1e6 * process.cpu_s / counted}, {})


def spread(made: Sequence[Any], scorers: int) -> Run:
    """Over so many scorers and a learner, whose steps take as much as those of :func:`whole`."""
    service = Parts(EXAMPLE, scorers, EVERY, limits={"threads": 1})
    counted = 0
    for i, (events, labels) in enumerate(made):
        if i == len(made) // 2:
            _settle(service)
        counted += len(events) if i >= len(made) // 2 else 0
        for topic, rows in (("events", events), ("labels", labels)):
            for value, home in rows:
                service.scorers[home % scorers].waiting[topic, home % scorers].append(value)
        if (i + 1) % scorers == 0 or i + 1 == len(made):
            service.hop(traffic.CLOCK_MS)
    service.hop(traffic.CLOCK_MS)
    processes = (*service.scorers, service.learner)
    if strange := sum(process.engine.counts["dead.foreign"] for process in processes):
        raise MillraceError(f"expected no record of other settings, got {strange}")
    used = {
        "scorers": sum(scorer.cpu_s for scorer in service.scorers),
        "foreign": sum(scorer.foreign_s for scorer in service.scorers) / max(scorers - 1, 1),
        "learner": service.learner.cpu_s,
    }
    return Run(
        {name: 1e6 * cpu_s / counted for name, cpu_s in used.items()},
        {t.split("-")[0]: n / counted for t, n in service.bytes.items()},
    )


def _settle(service: Parts) -> None:
    """Let all take in what waits, and begin to count; from here on no version is due."""
    for _ in range(3):
        service.hop(traffic.CLOCK_MS)
    learner = service.learner.engine
    if learner.counts["versions"] == 0:
        raise MillraceError("expected a version from the first half of the payments")
    learner.versions.due = lambda watermark_ms: False
    for process in (*service.scorers, service.learner):
        process.cpu_s = process.foreign_s = 0.0
    service.bytes.clear()


def measure(events: int, rounds: int) -> tuple[Costs, dict[str, Any]]:
    """What each part takes, by the median of some rounds, and the model beside more scorers."""
    made = list(pieces(events))
    sides = {"whole": lambda: whole(made)} | {
        str(n): (lambda n=n: spread(made, n)) for n in (1, 2, CHECKED)
    }
    runs: dict[str, list[Run]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            runs[name].append(side())

    def cpu_us(side: str, part: str) -> float:
        return statistics.median(run.cpu_us[part] for run in runs[side])

    version = measured(events)
    costs = Costs(
        cpu_us("whole", "whole"),
        cpu_us("1", "scorers"),
        cpu_us("1", "learner"),
        cpu_us("2", "foreign"),
        runs["1"][0].bytes["examples"],
        runs["2"][0].bytes["risk"],
        version["bytes"],
        version["make_ms"],
        version["take_ms"],
        statistics.mean(b'"fraud":true' in value for _, labels in made for value, _ in labels),
    )
    many = runs[str(CHECKED)]
    took = statistics.median(
        r.cpu_us["scorers"] + (CHECKED - 1) * r.cpu_us["foreign"] for r in many
    )
    said = costs.scorer_us + (CHECKED - 1) * costs.foreign_us
    return costs, {
        "scorers": CHECKED,
        "scorers_us": _beside(said, took),
        "learner_us": _beside(costs.learner_us, cpu_us(str(CHECKED), "learner")),
        "example_bytes": _beside(costs.example_bytes, many[0].bytes["examples"]),
        "risk_bytes": _beside(costs.risk_bytes, many[0].bytes["risk"]),
        "ratios": {
            "scorer": _ratios(runs, "scorers"),
            "learner": _ratios(runs, "learner"),
        },
    }


def _beside(said: float, took: float) -> dict[str, float]:
    return {"model": round(said, 3), "measured": round(took, 3), "off": round(said / took - 1, 3)}


def _ratios(runs: dict[str, list[Run]], part: str) -> dict[str, Any]:
    """The whole engine's time over that of a part, of neighbours."""
    pairs = zip(runs["whole"], runs["1"], strict=True)
    return ratio([one.cpu_us["whole"] / many.cpu_us[part] for one, many in pairs])


def main() -> None:
    """Measure, model, print; draw where asked to."""
    given = arguments(__doc__, _more)
    costs, checked = measure((8 if given.quick else 24) * BATCH, 1 if given.quick else 3)
    points = [modelled(costs, n, given.every) for n in SHOWN]
    targets = {
        "scorer_ratio": target(checked["ratios"]["scorer"]["median"], 2.2, True),
        "learner_ratio": target(checked["ratios"]["learner"]["median"], 1.6, True),
        "version_mb_per_s": target(costs.version_bytes / 1e6 / given.every, 0.3, False),
        "take_ms": target(costs.take_ms, 10.0, False),
    }
    if given.svg:
        given.svg.write_text(picture(costs, given.every, checked), encoding="utf-8")
    if given.json:
        found = {"every_s": given.every, "costs": costs._asdict(), "checked": checked}
        found |= {"points": [point._asdict() for point in points], "targets": targets}
        print(json.dumps({"benchmark": "scale.model", "machine": machine()} | found, indent=2))
        return
    _print(costs, checked, points, targets, given.price)


def _more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two versions")
    parser.add_argument("--price", type=float, help="of an hour of one core")
    parser.add_argument("--svg", type=Path, help="draw the model here")


def _print(
    costs: Costs,
    checked: dict[str, Any],
    points: Sequence[Point],
    targets: dict[str, Any],
    price: float | None,
) -> None:
    console = Console()
    console.print(machine())
    taken = Table("what", "", title="Measured, each on one core", show_header=False)
    for name, value in costs._asdict().items():
        taken.add_row(name, f"{value:,.3f}")
    console.print(taken)
    beside = Table("", "model", "measured", "off", title=f"The model beside {CHECKED} scorers")
    for name in ("scorers_us", "learner_us", "example_bytes", "risk_bytes"):
        row = checked[name]
        beside.add_row(name, f"{row['model']:.2f}", f"{row['measured']:.2f}", f"{row['off']:+.1%}")
    console.print(beside)
    heads = ("scorers", "events/s", "learned by one", "with a tenth of negatives")
    cost = "core hours for 1e9" if price is None else "price of 1e9"
    far = Table(*heads, cost, "written MB/s", "read MB/s", title="Modelled: all cores busy")
    for p in points:
        far.add_row(
            *(f"{p.scorers:,}", f"{p.events_per_s:,.0f}", f"{p.learned:.1%}"),
            *(f"{p.learned_of_a_tenth:.1%}", f"{p.core_hours * (price or 1):,.2f}"),
            *(f"{p.written_mb_per_s:,.1f}", f"{p.read_mb_per_s:,.1f}"),
        )
    console.print(far)
    held = Table("figure", "measured", "asked", "met", title="Asked")
    for name, row in targets.items():
        asked = f">= {row['at_least']}" if "at_least" in row else f"<= {row['at_most']}"
        held.add_row(name, f"{row['value']:,.3f}", asked, "yes" if row["met"] else "NO")
    console.print(held)


WIDE, HIGH, LEFT, TOP = 640, 320, 90, 30
DECADES_X, DECADES_Y = (0, 3), (4, 7)


def picture(costs: Costs, every_s: float, checked: dict[str, Any]) -> str:
    """The model as SVG: events a second over scorers, both by powers of ten."""

    def at(scorers: float, rate: float) -> tuple[float, float]:
        along = (math.log10(scorers) - DECADES_X[0]) / (DECADES_X[1] - DECADES_X[0])
        up = (math.log10(rate) - DECADES_Y[0]) / (DECADES_Y[1] - DECADES_Y[0])
        return LEFT + along * WIDE, TOP + (1 - up) * HIGH

    parts = []
    for x in range(DECADES_X[0], DECADES_X[1] + 1):
        px, _ = at(10**x, 10 ** DECADES_Y[0])
        parts.append(_line([(px, TOP), (px, TOP + HIGH)], "#ddd", 1))
        parts.append(_text(px, TOP + HIGH + 18, f"{10**x:,}", "middle"))
    for y in range(DECADES_Y[0], DECADES_Y[1] + 1):
        _, py = at(1, 10**y)
        parts.append(_line([(LEFT, py), (LEFT + WIDE, py)], "#ddd", 1))
        parts.append(_text(LEFT - 6, py + 4, f"{10**y:,}", "end"))
    curve = [at(n, modelled(costs, n, every_s).events_per_s) for n in range(1, 1001)]
    parts.append(_line(curve, "#1f77b4", 2.5))
    parts.append(_text(curve[-1][0] - 4, curve[-1][1] - 8, "scorers", "end", "#1f77b4"))
    room = 1e6 * (1 - costs.make_ms / 1000 / every_s) / costs.learner_us
    for rate, said in (
        (room, "one learner, all labels"),
        (room / tenth(costs), "one learner, a tenth of negatives"),
    ):
        line = [at(1, rate), at(1000, rate)]
        parts.append(_line(line, "#d62728", 1.5))
        parts.append(_text(line[1][0] - 4, line[1][1] - 6, said, "end", "#d62728"))
    n, row = checked["scorers"], checked["scorers_us"]
    for scorers, us in ((1, costs.scorer_us), (n, row["measured"])):
        x, y = at(scorers, scorers * 1e6 * (1 - costs.take_ms / 1000 / every_s) / us)
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="#1f77b4"/>')
    parts.append(_text(LEFT, 18, "events a second (points: measured)", "start"))
    parts.append(_text(LEFT + WIDE / 2, TOP + HIGH + 38, "scorers, a core each", "middle"))
    size = f'width="{LEFT + WIDE + 30}" height="{TOP + HIGH + 50}"'
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    )
    return "\n".join([head, '<rect width="100%" height="100%" fill="#fff"/>', *parts, "</svg>\n"])


def _line(points: Sequence[tuple[float, float]], color: str, width: float) -> str:
    along = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{along}" fill="none" stroke="{color}" stroke-width="{width}"/>'


def _text(x: float, y: float, said: str, anchor: str, color: str = "#333") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}">{said}</text>'


if __name__ == "__main__":
    main()

"""What a change stops the loop for while payments come: another configuration, a version put back.

``python -m benchmarks.lifecycle.changes [--rate N] [--python] [--quick]``. A process of its own
appends so many payments a second, and the label of each, to the embedded log; the service learns
them by its compiled members. Then a member is added, a threshold set, the member removed, and the
forest put back to a version from the beginning. Of each step that took such a command: how long it
was, what the loop's processor time was, and how long it was from the end of the last step before to
its own.
``--python``: at a pace that they can keep, a River forest and a torch network are there, too, and
another of each is added in place of the compiled member.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import traffic
from benchmarks.common import arguments, quantiles_ms, show, target
from models.base import MillraceError
from stream.contract.outputs import Outputs
from stream.run.assemble import open_log, wall_clock_ms
from stream.run.daemon import SWITCH_S
from stream.run.service import Listener, Service
from stream.settings.schema import Config
from stream.step.engine import Engine
from stream.tools.operate import apply_configuration, difference, send_command

RATE = 20_000
TICK_S = 0.02
ADDED = {"boosting": {"type": "boosting"}}
PYTHON_RATE = 200
PYTHON: dict[str, dict[str, Any]] = {
    "river forest": {"type": "river", "model": "river.forest.ARFClassifier"},
    "torch network": {"type": "torch", "hidden": [8]},
}
PATIENCE_S = 120.0


class Step(NamedTuple):
    """One step: what it was, how long it took by its own word, when it ended, by two clocks."""

    kind: str
    seconds: float
    end_s: float
    cpu_s: float


class Watched(Listener):
    """Notes each step of the loop."""

    def __init__(self, config: Config) -> None:
        self.steps: list[Step] = []
        self._control = config.topics.control

    def stepped(self, engine: Engine, outputs: Outputs, seconds: float) -> None:
        """See :class:`Listener`."""
        journal, kind = outputs.journal, "plain"
        if journal.kind == "reconfigured":
            kind = "configure"
        elif any(r.topic == self._control for r in journal.ranges):
            kind = "command"
        elif journal.checkpoint:
            kind = "checkpoint"
        self.steps.append(Step(kind, seconds, time.perf_counter(), time.thread_time()))


def _append(directory: Path, rate: int, seconds: float, ready: Any, stop: Any) -> None:
    """The other process: payments and labels, by the clock."""
    config = traffic.config(directory)
    size = int(rate * TICK_S)
    made = list(traffic.pieces(traffic.simulator(int(rate * seconds)), size))
    log = open_log(config, wall_clock_ms)
    ready.set()
    begin = time.perf_counter()
    send = traffic.sender(log, config)
    for i, piece in enumerate(made):
        time.sleep(max(0.0, begin + i * TICK_S - time.perf_counter()))
        if stop.is_set():
            break
        send(piece)
    log.close()


@contextmanager
def loaded(
    directory: Path, members: list[dict[str, Any]], rate: int, seconds: float
) -> Iterator[tuple[Service, Watched]]:
    """A running service, and the process that feeds it."""
    config = traffic.config(directory, members=members)
    log = open_log(config, wall_clock_ms)
    log.create_topics()
    log.close()
    spawn = multiprocessing.get_context("spawn")
    ready, stop = spawn.Event(), spawn.Event()
    feeder = spawn.Process(target=_append, args=(directory, rate, seconds, ready, stop))
    feeder.start()
    ready.wait()
    sys.setswitchinterval(SWITCH_S)  # as in the daemon
    service, watched = Service(config), Watched(config)
    service.listeners.append(watched)
    thread = threading.Thread(target=service.run, name="service")
    thread.start()
    try:
        yield service, watched
    finally:
        stop.set()
        feeder.join()
        service.stop()
        thread.join()


def _until(what: str, condition: Any) -> None:
    begin = time.perf_counter()
    while not condition():
        if time.perf_counter() - begin > PATIENCE_S:
            raise MillraceError(f"benchmark: waited {PATIENCE_S:g} s in vain for {what}")
        time.sleep(0.01)


def _apply(directory: Path, **others: Any) -> None:
    config = traffic.config(directory, **others)
    found = difference(config)
    apply_configuration(config, found.base, True, {}, PATIENCE_S)


def measured(rate: int, warm_s: float, pause_s: float, python: bool = False) -> dict[str, Any]:
    """The steps of each change, and all others."""
    there: list[dict[str, Any]] = [*traffic.COMPILED]
    if python:
        there += [{"name": f"old {kind}".replace(" ", "_"), **one} for kind, one in PYTHON.items()]
    with (
        tempfile.TemporaryDirectory() as name,
        loaded(Path(name), there, rate, 600.0 if warm_s > 5 else 60.0) as (service, watched),
    ):
        directory = Path(name)
        config = service.config
        _until("the first step", lambda: service.engine is not None and watched.steps)
        send_command(config, "checkpoint", {})
        time.sleep(warm_s)
        adding, members = {}, there
        for kind, one in (PYTHON if python else ADDED).items():
            members = [*members, {"name": kind.replace(" ", "_"), **one}]
            adding[f"{kind} added"] = partial(_apply, directory, members=members)
        threshold = {"combine": "stack", "threshold": 0.4}
        kept = service.ask(lambda e: e.ledger.versions()["forest"][0].digest, PATIENCE_S)
        begin = len(watched.steps)
        scored, began = _scored(service), time.perf_counter()
        changes = adding | {
            "threshold set": partial(_apply, directory, members=members, ensemble=threshold),
            "members removed": partial(_apply, directory, members=there, ensemble=threshold),
            "forest put back": partial(_put_back, config, kept, watched),
        }
        found = {}
        for what, change in changes.items():
            first = len(watched.steps)
            change()
            time.sleep(pause_s)
            found[what] = _of(watched.steps, first)
        held = (_scored(service) - scored) / (time.perf_counter() - began)
        plain = [step.seconds for step in watched.steps[begin:] if step.kind == "plain"]
    longest = max(one["step_ms"] for what, one in found.items() if what != "forest put back")
    return {
        "scored_per_s": round(held),
        "changes": found,
        "other_steps": quantiles_ms(plain),
        "targets": {"longest_ms": target(longest, 500.0, at_least=False)},
    }


def _scored(service: Service) -> int:
    return service.ask(lambda engine: engine.counts["scored"], PATIENCE_S)


def _put_back(config: Config, version: str, watched: Watched) -> None:
    first = len(watched.steps)
    send_command(config, "rollback", {"to": version, "member": "forest"})
    _until("the version", lambda: any(s.kind == "command" for s in watched.steps[first:]))


def _of(steps: list[Step], first: int) -> dict[str, float]:
    """Of the step that took the change, the first such one of those."""
    at = next(
        i for i in range(max(first, 1), len(steps)) if steps[i].kind in ("configure", "command")
    )
    step, before = steps[at], steps[at - 1]
    return {
        "step_ms": round(1000 * step.seconds, 1),
        "loop_cpu_ms": round(1000 * (step.cpu_s - before.cpu_s), 1),
        "since_last_step_ms": round(1000 * (step.end_s - before.end_s), 1),
    }


def main() -> None:
    """The command line."""

    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--rate", type=int, default=0, help="payments a second")
        parser.add_argument("--python", action="store_true", help="members of River and torch")

    given = arguments(__doc__, more)
    rate = given.rate or (PYTHON_RATE if given.python else RATE)
    rate = min(rate, 2_000) if given.quick else rate
    found = measured(rate, *((2.0, 0.5) if given.quick else (15.0, 3.0)), given.python)
    show("changes under load", {"payments_per_s": rate} | found, given.json)


if __name__ == "__main__":
    main()

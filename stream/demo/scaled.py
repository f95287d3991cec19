"""`millrace demo --scaled`: scorers and a learner as processes of their own, on a Kafka broker.

Each is ``millrace run`` of ``examples/fraud-scaled.toml``; the environment tells it which it is.
The player appends events and labels to the partition of their customer. What the terminal shows is
read from the metrics of the processes, as Prometheus would.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from importlib.resources import files as resources
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import structlog
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from models.base import MillraceError
from monitoring.table import SHOWN, table
from stream.contract import private
from stream.contract.records import NewRecord
from stream.demo import demo
from stream.demo.kinds import KINDS
from stream.demo.player import PAYMENTS, Player, spread
from stream.run.assemble import open_log, wall_clock_ms
from stream.run.placed.cluster import free_port
from stream.settings.load import environments, load
from stream.settings.schema import Config

EXAMPLE = "fraud-scaled.toml"
EVERY = "1d"
"""Event time between two versions: some days pass in a second here."""
LOST_S = 180.0
"""A process that is not ready by then, or takes nothing for so long, ends the demo."""
LAST_WORDS = 2000
DAY_S = 86_400


class Metrics:
    """What ``/metrics`` of a process said.

    Parameters
    ----------
    text : str
        In Prometheus' format; empty: nothing is known.
    """

    def __init__(self, text: str) -> None:
        self._samples = [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]

    def sum(self, name: str, **labels: str) -> float:
        """Of the series of this name, those with these labels; 0 where there is none."""
        found = [s for s in self._samples if s.name == f"millrace_{name}"]
        return math.fsum(s.value for s in found if labels.items() <= s.labels.items())

    def by(self, label: str, name: str, **labels: str) -> dict[str, float]:
        """Value by one label."""
        found = [s for s in self._samples if s.name == f"millrace_{name}"]
        return {s.labels[label]: s.value for s in found if labels.items() <= s.labels.items()}


class Process:
    """One process of the service: started, asked over HTTP, and ended.

    Parameters
    ----------
    path : Path
        The file that all of them run.
    environment : mapping
        Which of them it is, beside what all have in common.
    port : int
    """

    def __init__(self, path: Path, environment: Mapping[str, str], port: int) -> None:
        own = {**environment, "MILLRACE_HTTP__PORT": str(port)}
        self.config: Config = load(path, own)
        self.name = self.config.name.removeprefix(f"{self.config.service}-")
        self.url = f"http://127.0.0.1:{port}/"
        self._said = path.with_name(f"{self.name}.log")
        with private.opened(self._said) as said:
            # A session of its own: Ctrl-C is for the player first.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "stream.cli", "run", str(path)],
                env=os.environ | own,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,
            )

    def check(self) -> None:
        """Raise :class:`MillraceError` with its last words where it has ended."""
        if (status := self._process.poll()) is not None:
            said = self._said.read_text(encoding="utf-8", errors="replace")[-LAST_WORDS:]
            raise MillraceError(f"demo: {self.name} ended with status {status}:\n{said}")

    @property
    def ready(self) -> bool:
        """Whether it takes records; see :meth:`check`."""
        self.check()
        with suppress(OSError), urlopen(f"{self.url}readyz", timeout=5) as answer:
            return bool(answer.status == 200)
        return False

    def metrics(self) -> Metrics:
        """What it says of itself; see :meth:`check`."""
        self.check()
        with suppress(OSError), urlopen(f"{self.url}metrics", timeout=5) as answer:
            return Metrics(answer.read().decode())
        return Metrics("")

    def waiting(self) -> int:
        """Records in the log that no committed step has taken; see :meth:`check`."""
        self.check()
        with closing(open_log(self.config, wall_clock_ms)) as log:
            return sum(log.lag().values())

    def stop(self) -> None:
        """End it in order; raises :class:`MillraceError` where it does not."""
        self.check()
        self._process.terminate()
        try:
            status = self._process.wait(LOST_S)
        except subprocess.TimeoutExpired:
            status = -signal.SIGALRM
        if status != 0:
            self.kill()
            self.check()

    def kill(self) -> None:
        """End it at once, if it still runs."""
        self._process.kill()
        self._process.wait()


def run_scaled(
    bootstrap: str,
    seconds: float,
    rate: float,
    seed: int,
    port: int,
    directory: Path | None,
    console: Console | None,
) -> dict[str, Any]:
    """Player, scorers and learner together; returns the summary.

    Parameters
    ----------
    bootstrap : str
        ``host:port`` of a broker. Topics are made there by a name of their own, and left.
    port : int
        Of the learner's live page, which tells of all; scorers have the ports after it. 0: free.

    The others, and what they have in common: see :func:`stream.demo.demo.run_demo`.
    """
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    with ExitStack() as ending:
        place = ending.enter_context(demo.place(directory))
        processes = ending.enter_context(service(place, bootstrap, port))
        wait_ready(processes, console)
        started = time.monotonic()
        appended = played(processes, seconds, rate, seed, console)
        return _summary(processes, appended, time.monotonic() - started)


def played(
    processes: Sequence[Process],
    seconds: float,
    rate: float,
    seed: int,
    console: Console | None = None,
) -> Counter[str]:
    """Play payments to processes that are ready until all is taken; gives records by topic."""
    scorer = processes[-1].config
    appended: Counter[str] = Counter()
    with closing(open_log(scorer, wall_clock_ms)) as log:

        def append(topic: str, records: Sequence[NewRecord]) -> None:
            log.append(topic, records)
            appended[topic] += len(records)

        _play(processes, player(scorer, append, rate, seed, seconds), seconds, console)
        _catch_up(processes)
    return appended


@contextmanager
def service(
    place: Path, bootstrap: str, port: int, changes: Mapping[str, str] | None = None
) -> Iterator[list[Process]]:
    """The learner and the scorers, in this order; ended in order where nothing went wrong.

    ``changes`` of the file, as the environment says them.
    """
    path, own = place / EXAMPLE, f"demo-{uuid.uuid4().hex[:8]}"
    with private.opened(path) as file:
        file.write(resources("stream.demo").joinpath(EXAMPLE).read_bytes())
    names = ("events", "labels", "control", "scores", "dead_letters", "audit")
    shared = {
        "MILLRACE_NAME": own,
        "MILLRACE_STATE_DIR": str(place / "state"),
        "MILLRACE_LOG__BOOTSTRAP": bootstrap,
        "MILLRACE_SHARD__EVERY": EVERY,
        **{f"MILLRACE_TOPICS__{name.upper()}": f"{own}-{name}" for name in names},
        **(changes or {}),
    }
    roles = [*environments(path, shared).values()]
    for role in roles:
        with closing(open_log(load(path, shared | role), wall_clock_ms)) as log:
            log.create_topics()
    processes: list[Process] = []
    try:
        for i, role in enumerate(roles):
            processes.append(Process(path, shared | role, port + i if port else free_port()))
        yield processes
        for process in processes[::-1]:
            process.stop()
    finally:
        for process in processes:
            process.kill()


def wait_ready(processes: Sequence[Process], console: Console | None = None) -> None:
    """Wait until all take records; raises :class:`MillraceError` where one does not."""
    if console is not None:
        console.print(f"Starting {len(processes)} processes; the learner's page tells of all:")
        for process in processes:  # a line each: the console escapes breaks within one
            console.print(f"  {process.name:9} {process.url}")
    until_s = time.monotonic() + LOST_S
    while not all(process.ready for process in processes):
        if time.monotonic() > until_s:
            raise MillraceError(f"demo: the processes were not ready within {LOST_S:g} s")
        time.sleep(0.1)


Append = Callable[[str, Sequence[NewRecord]], object]


def player(config: Config, append: Append, rate: float, seed: int, seconds: float) -> Player:
    """Payments: events and labels alike go to the partition of their customer."""
    topics = config.topics
    return Player(
        demo.simulation(KINDS["payments"], rate, seed, seconds, fraud_share=demo.FRAUD_SHARE),
        append,
        rate=rate,
        bad_share=demo.BAD_SHARE,
        events_topic=topics.events,
        labels_topic=topics.labels,
        writing=spread(PAYMENTS, topics.partitions),
        now_ms=wall_clock_ms,
    )


def _play(
    processes: Sequence[Process], playing: Player, seconds: float, console: Console | None
) -> None:
    """Play to the end or Ctrl-C, drawing tables meanwhile; raises what ends it."""
    stop, failure = threading.Event(), []

    def feed() -> None:
        try:
            playing.run(stop)
        except MillraceError as error:
            failure.append(error)

    feeder = threading.Thread(target=feed, name="feeder")
    feeder.start()
    try:
        _show(processes, feeder, seconds, console)
    except KeyboardInterrupt:
        pass  # who watches has seen enough: all ends in order
    finally:
        stop.set()
        feeder.join()
    if failure:
        raise failure[0]


def _show(
    processes: Sequence[Process],
    feeder: threading.Thread,
    seconds: float,
    console: Console | None,
) -> None:
    started = time.monotonic()
    with ExitStack() as ending:
        live = None
        if console is not None and console.is_terminal:
            live = ending.enter_context(Live(console=console, refresh_per_second=4))
        while feeder.is_alive():
            if live is not None:
                left_s = max(seconds - (time.monotonic() - started), 0)
                live.update(
                    _tables(processes, f"{left_s:.0f} s left" if seconds else "Ctrl-C ends")
                )
            for process in processes:
                process.check()
            feeder.join(0.5)


def _tables(processes: Sequence[Process], left: str) -> Group:
    heads = ["", "partitions", "scored", "labels", "not read yet", "version", "digest", "age"]
    made = table(heads, right=heads[2:6])
    found = [process.metrics() for process in processes]
    for process, said in zip(processes, found, strict=True):
        age_s = said.sum("version_age_seconds")
        made.add_row(
            *(process.name, reads(process.config)),
            f"{said.sum('events_scored_total'):,.0f}",
            f"{said.sum('labels_total', result='joined'):,.0f}",
            f"{said.sum('consumer_lag_messages'):,.0f}",
            f"{said.sum('version'):,.0f}",
            digest(said),
            "-" if math.isnan(age_s) else f"{age_s / DAY_S:.1f} d",
        )
    head = Text.assemble(("Millrace demo  ", "bold cyan"), f"{processes[0].url}  {left}\n")
    return Group(head, made, Text(), _quality_table(found[0]))


def reads(config: Config) -> str:
    """The partitions of events and labels that a process reads."""
    if config.shard.role == "learner":
        return "examples"
    numbers = range(config.topics.partitions)
    return ", ".join(str(p) for p in numbers if config.reads(config.topics.events, p))


def digest(said: Metrics) -> str:
    """The first 12 digits of the digest of the members that a process has."""
    return f"{int(said.sum('version_digest')):012x}"


def quality(learner: Metrics) -> dict[str, dict[str, float]]:
    """By scorer, over the newest 10,000 labels as they came."""
    window = {"window": "sliding", "maturity": "arrival"}
    found = {m: learner.by("member", f"quality_{m}", **window) for m in SHOWN["binary"]}
    return {
        name: {metric: values[name] for metric, values in found.items()}
        for name in found["roc_auc"]
    }


def _quality_table(learner: Metrics) -> Table:
    metrics = SHOWN["binary"]
    made = table(["", *metrics], right=metrics, title="Quality, judged by the learner")
    for name, values in quality(learner).items():
        made.add_row(name, *("-" if math.isnan(v) else f"{v:.4f}" for v in values.values()))
    return made


def _catch_up(processes: Sequence[Process]) -> None:
    """Wait until committed steps have taken all: of scorers, of the learner, its last version."""
    learner, *scorers = processes
    until_s = time.monotonic() + LOST_S
    for process in (*scorers, learner, *scorers):
        while process.waiting():
            if time.monotonic() > until_s:
                raise MillraceError(f"demo: {process.name} has not caught up in {LOST_S:g} s")
            time.sleep(0.1)


def _summary(
    processes: Sequence[Process], appended: Mapping[str, int], seconds: float
) -> dict[str, Any]:
    """What came in, what became of it, and whether all hold the same members."""
    topics, found = processes[0].config.topics, [process.metrics() for process in processes]
    learner, *scorers = found
    scored = sum(int(said.sum("events_scored_total")) for said in scorers)
    digests = {p.name: digest(said) for p, said in zip(processes, found, strict=True)}
    return {
        "target": "binary",
        "events": appended.get(topics.events, 0),
        "labels": appended.get(topics.labels, 0),
        "scores": scored,
        "learned": int(learner.sum("labels_total", result="joined")),
        "dead_letters": sum(int(said.sum("dead_letters_total")) for said in found),
        "pending": sum(int(said.sum("pending_labels")) for said in scorers),
        "risk_lacking": sum(int(said.sum("risk_lacking_events_total")) for said in scorers),
        "scorers": len(scorers),
        "versions": int(learner.sum("version")),
        "digests": digests,
        "same_members": len(set(digests.values())) == 1,
        "events_per_s": round(scored / seconds, 1),
        "seconds": round(seconds, 3),
        "quality": {
            name: {k: None if math.isnan(v) else round(v, 6) for k, v in values.items()}
            for name, values in quality(learner).items()
        },
    }

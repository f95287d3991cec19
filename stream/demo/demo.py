"""`millrace demo` and `millrace simulate`: simulated streams through the real service.

The demo is the service as it runs in production, on the embedded log in a directory of its own,
with the simulator as the producer; only the table in the terminal is its own.
"""

from __future__ import annotations

import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files as resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import structlog
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from models.base import MillraceError
from monitoring.table import SHOWN, table
from stream.contract.outputs import Outputs
from stream.contract.records import NewRecord
from stream.demo.kinds import KINDS, Kind, KindName
from stream.demo.player import Player, spread, write_jsonl
from stream.demo.simulator import Simulation
from stream.demo.story import SETTINGS, Operator
from stream.run.assemble import open_log, wall_clock_ms
from stream.run.front import Front
from stream.run.service import Listener, Service
from stream.settings.load import parse
from stream.settings.schema import Config
from stream.step.ranking.engine import RankingEngine
from stream.tools.audit.life import write_life
from stream.tools.progress import progress

BAD_SHARE = 0.002
"""Malformed records that the demo mixes in, so that dead letters are seen."""
DAYS_PER_S = 5.0
"""Event time that passes in a second: labels that take days arrive while somebody watches. Less
where so many days would pass the clock."""
ENDLESS_S = 12 * 3600
"""What has no end is planned to run for so long before its event time meets the clock."""
UNPACED_PER_S = 50_000
"""Events a second that an unpaced simulation makes at most."""
FRAUD_SHARE = 0.025
"""Of the payments that the demo shows: frauds are seen within a minute."""
FEW = 50
"""Customers at least."""
FEW_IN_STORY = 150
"""Customers at least, where the labels of a day or two shall be a block of a challenge."""
UNREAD_IN_STORY = 2_000
"""Records, a few days of event time: its player waits for the service, however slow that is."""
WITHOUT_END = 1 << 40
"""More events than anybody waits for."""


def demo_config(
    directory: Path, port: int, kind: KindName = "payments", story: bool = False
) -> Config:
    """The kind's example with paths in ``directory``; its torch member only with torch."""
    raw = _packaged(kind) | (SETTINGS if story else {})
    raw["state_dir"] = str(directory / "state")
    raw["log"]["path"] = str(directory / "log.db")
    raw.setdefault("http", {})["port"] = port
    if find_spec("torch") is None:
        raw["members"] = [m for m in raw.get("members", []) if m["type"] != "torch"]
    return parse(raw, KINDS[kind].example)


def left_out(config: Config, kind: KindName = "payments") -> list[str]:
    """Members of the kind's example that this configuration does without."""
    kept = {m.name for m in config.members}
    return [m["name"] for m in _packaged(kind).get("members", []) if m["name"] not in kept]


def _packaged(kind: KindName) -> dict[str, Any]:
    example = resources("stream.demo").joinpath(KINDS[kind].example)
    return tomllib.loads(example.read_text(encoding="utf-8"))


def run_demo(
    kind: KindName,
    seconds: float,
    rate: float,
    seed: int,
    port: int,
    directory: Path | None,
    console: Console | None,
    story: bool = False,
) -> dict[str, Any]:
    """Simulator, service and HTTP together; returns the summary.

    Parameters
    ----------
    seconds : float
        How long events are appended; 0: until Ctrl-C. What was appended is scored to the end.
    console : Console or None
        Where the live table goes; ``None``: nowhere, and the service's log keeps to warnings.
    story : bool
        Whether somebody operates the shard, see :class:`stream.demo.story.Operator`; of payments.
        With a directory the audit report is written there.
    """
    if story and kind != "payments":
        raise MillraceError(f"demo: a story is told of payments, got --kind {kind}")
    with place(directory) as there:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
        config = demo_config(there, port, kind, story)
        missing = left_out(config, kind)
        _say_missing(missing, console)
        service = Service(config)
        front = Front(service)
        failure: list[BaseException] = []
        started = time.monotonic()
        first: list[float] = []
        service.listeners.append(_FirstScore(started, first))
        operator = Operator(_appending(service), config.topics.control) if story else None
        if operator:
            service.listeners.append(operator)
        worker = threading.Thread(target=_run, args=(service, failure), name="service")
        front.start()
        worker.start()
        stop = threading.Event()
        player = _player(service, kind, rate, seed, seconds, operator, stop)
        feeding = (service, player, stop, failure)
        feeder = threading.Thread(target=_feed, args=feeding, name="feeder")
        feeder.start()
        try:
            _show(service, front, seconds, feeder, first, console, operator)
        except KeyboardInterrupt:
            stop.set()
        stop.set()
        feeder.join()
        _catch_up(service, worker)
        service.stop()
        worker.join()
        front.stop()
        if failure:
            raise MillraceError(f"demo: {failure[0]}") from failure[0]
        summary = _summary(service, time.monotonic() - started, first)
        return {"left_out": missing} | summary | _told(operator, config, directory)


def _say_missing(missing: list[str], console: Console | None) -> None:
    if missing and console is not None:
        console.print(f"Without {', '.join(missing)}: it needs torch, which `make setup` brings")


@contextmanager
def place(directory: Path | None) -> Iterator[Path]:
    """Where a demo keeps its files: the directory, or one that is deleted at the end."""
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix="millrace-demo-") as temporary:
        yield Path(temporary)


class _FirstScore(Listener):
    """Notes how long the first score took to be visible."""

    def __init__(self, started_s: float, first: list[float]) -> None:
        self._started_s = started_s
        self._first = first

    def committed(self, outputs: Outputs, seconds: float) -> None:
        """See :class:`Listener`."""
        if outputs.scores and not self._first:
            self._first.append(time.monotonic() - self._started_s)


def _run(service: Service, failure: list[BaseException]) -> None:
    try:
        service.run()
    except Exception as error:  # noqa: BLE001 - shown by the main thread
        failure.append(error)


def _in_step(
    service: Service, stop: threading.Event
) -> Callable[[str, Sequence[NewRecord]], object]:
    """Appends when little is unread: what an operator answers is not yet overtaken."""

    def append(topic: str, records: Sequence[NewRecord]) -> None:
        while sum(service.log.lag().values()) > UNREAD_IN_STORY and not stop.is_set():
            stop.wait(0.05)
        service.log.append(topic, records)

    return append


def _appending(service: Service) -> Callable[[str, Sequence[NewRecord]], object]:
    """Appends to the log that the service has by then."""
    return lambda topic, records: service.log.append(topic, records)


def _feed(
    service: Service, player: Player, stop: threading.Event, failure: list[BaseException]
) -> None:
    while not service.health.ready()[0] and not stop.is_set() and not failure:
        time.sleep(0.01)
    try:
        player.run(stop)
    except MillraceError as error:
        failure.append(error)


def _player(
    service: Service,
    kind: KindName,
    rate: float,
    seed: int,
    seconds: float,
    operator: Operator | None,
    stop: threading.Event,
) -> Player:
    chosen = KINDS[kind]
    least = FEW_IN_STORY if operator else FEW
    options = {"fraud_share": FRAUD_SHARE} if kind == "payments" else {}
    return Player(
        simulation(chosen, rate, seed, seconds, least, **options),
        _in_step(service, stop) if operator else service.log.append,
        rate=rate,
        bad_share=BAD_SHARE,
        writing=operator.writing if operator else chosen.writing,
        now_ms=wall_clock_ms,
    )


def simulation(
    kind: Kind, rate: float, seed: int, seconds: float, least: int = FEW, **options: Any
) -> Simulation:
    """What is played in so many seconds, at so many events in each; 0: without end.

    ``least``: of its population. With more of them the rate sets the pace of event time.
    """
    planned = round(rate * (seconds or ENDLESS_S))
    population = max(least, round(rate / DAYS_PER_S / kind.often))
    events = planned if seconds else WITHOUT_END
    return kind.up_to(wall_clock_ms(), planned, seed, population, events=events, **options)


def _show(
    service: Service,
    front: Front,
    seconds: float,
    feeder: threading.Thread,
    first: list[float],
    console: Console | None,
    operator: Operator | None,
) -> None:
    """Draw the table until the feeder is done."""
    if console is None or not console.is_terminal:
        feeder.join()
        return
    started = time.monotonic()
    with Live(console=console, refresh_per_second=4, transient=False) as live:
        while feeder.is_alive():
            left = (
                f"{max(seconds - (time.monotonic() - started), 0):.0f} s left"
                if seconds
                else "Ctrl-C ends"
            )
            live.update(_table(service, front, first, operator, left))
            feeder.join(0.25)


def _table(
    service: Service, front: Front, first: list[float], operator: Operator | None, left: str
) -> Group:
    shown = front.snapshot()
    address = f"http://127.0.0.1:{front.server.port}/" if front.server else "off"
    head = Text.assemble(
        ("Millrace demo  ", "bold cyan"),
        f"{shown['state']}  {address}  {left}\n",
        f"{_done(shown)}\n",
        f"{shown['pending']:,} waiting, {sum(shown['dead_letters'].values()):,} dead letters; ",
        f"first score after {first[0]:.1f} s\n" if first else "compiling and starting...\n",
    )
    metrics = SHOWN[service.config.target.type]
    heads = ["", "weight", *metrics]
    learned = "what users took" if shown["task"] == "ranking" else "late labels"
    made = table(heads, right=heads[1:], title=f"Quality by {learned}, last 10,000")
    for name, values in shown["quality"].items():
        cells = ["-" if (v := values.get(m)) is None else f"{v:.4f}" for m in metrics]
        weight = shown["weights"].get(name)
        made.add_row(name, "" if weight is None else f"{weight:.2f}", *cells)
    return Group(head, made, *(Text(line) for line in (operator.told if operator else [])))


def _done(shown: dict[str, Any]) -> str:
    """What was done so far, in the words of the target."""
    scored, rate = f"{shown['scored']:,}", f"{shown['events_per_s']:,.0f}/s"
    if shown["task"] == "ranking":
        return f"{scored} lists answered, {rate}"
    labels = shown["labels"].get("joined", 0)
    return f"{scored} events scored, {rate}, {shown['alerts']:,} alerts, {labels:,} labels learned"


def _told(operator: Operator | None, config: Config, directory: Path | None) -> dict[str, Any]:
    """The story, and the audit report in the directory that is to be kept."""
    if operator is None:
        return {}
    if directory is None:
        return {"story": operator.told}
    report = write_life(config, directory / "story.html", None)["file"]
    return {"story": operator.told, "report": report}


def _catch_up(service: Service, worker: threading.Thread) -> None:
    """Wait until everything that was appended is scored and committed."""
    while worker.is_alive() and (sum(service.log.lag().values()) > 0 or service.busy):
        time.sleep(0.05)


def _summary(service: Service, seconds: float, first: list[float]) -> dict[str, Any]:
    engine = service.engine
    if engine is None:
        raise MillraceError("demo: the service never started")
    counts = engine.counts
    report = engine.quality.report()
    lists = {name: counts[name] for name in ("shown", "hits", "fallbacks")}
    return {
        "target": service.config.target.type,
        "events": counts[f"consumed.{service.config.topics.events}"],
        "scores": counts["scored"],
        "labels": counts["labels.joined"],
        **({"lists": lists} if isinstance(engine, RankingEngine) else {}),
        "dead_letters": sum(v for k, v in counts.items() if k.startswith("dead.")),
        "dead_letter_reasons": {
            k[5:]: v for k, v in sorted(counts.items()) if k.startswith("dead.")
        },
        "alerts": counts["alerts"],
        "pending": engine.pending.waiting,
        "events_per_s": round((counts["scored"] + counts["feedback.interaction"]) / seconds, 1),
        "first_score_s": round(first[0], 3) if first else None,
        "seconds": round(seconds, 3),
        "steps": engine.seq,
        "checkpoints": service.checkpointer.written_total,
        "quality": {
            name: {k: None if v != v else round(v, 6) for k, v in windows["all"].items()}
            for name, windows in report.items()
        },
        "digest": engine.digest,
    }


def simulate_to_file(
    path: Path, kind: KindName, events: int, seed: int, drift: bool, console: Console
) -> dict[str, Any]:
    """Write a simulation as JSON Lines, with a progress bar on a terminal; says what it wrote."""
    if events < 1:
        raise MillraceError("simulate: a file needs --events of 1 or more")
    with progress(console, "simulating", events) as advance:
        made = KINDS[kind].make(seed, drift=drift, events=events)
        write_jsonl(path, made, advance, KINDS[kind].writing)
    return {"file": str(path), "events": events}


def simulate_to_log(
    config: Config,
    kind: KindName,
    events: int,
    seed: int,
    drift: bool,
    rate: float | None,
    bad_share: float,
    console: Console,
) -> dict[str, Any]:
    """Append a simulation to the configured log until done or Ctrl-C; says what it appended."""
    if config != config.in_json():
        raise MillraceError(
            "simulate: expected event.format and label.format 'json', in which it writes, got "
            f"{config.event.format!r} and {config.label.format!r}"
        )
    writing = KINDS[kind].writing
    if config.shard.role != "all":
        if kind != "payments" or config.shard.role == "learner":
            raise MillraceError(
                "simulate: expected payments for a service of many processes, and shard.role ="
                f" 'scorer', got --kind {kind} and {config.shard.role!r}"
            )
        writing = spread(writing, config.topics.partitions)
    log = open_log(config, wall_clock_ms)
    stop = threading.Event()
    planned = events or round((rate or UNPACED_PER_S) * ENDLESS_S)
    chosen = KINDS[kind]
    simulator = chosen.up_to(
        wall_clock_ms(), planned, seed, events=events or WITHOUT_END, drift=drift
    )
    topics = config.topics
    appended = {topics.events: 0, topics.labels: 0}
    try:
        with progress(console, "appending", events or None) as advance:

            def append(topic: str, records: Any) -> None:
                log.append(topic, records)
                appended[topic] += len(records)
                if topic == topics.events:
                    advance(len(records))

            Player(
                simulator,
                append,
                rate=rate,
                bad_share=bad_share,
                now_ms=wall_clock_ms,
                events_topic=topics.events,
                labels_topic=topics.labels,
                writing=writing,
            ).run(stop)
    except KeyboardInterrupt:
        stop.set()
    finally:
        log.close()
    return appended

"""``python -m tests.faults``: break a running service in one way, then check every invariant.

Exit status 0 when all invariants hold, 1 when one does not.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import structlog
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.faults import checkpoints as generations
from tests.faults import crash as crashes
from tests.faults import disk as disks
from tests.faults import diverge as divergence
from tests.faults.changes.backfill import PLACES
from tests.faults.changes.backfill import backfill as gain
from tests.faults.changes.reconfigure import reconfigure as change
from tests.faults.changes.replica import HTTP
from tests.faults.changes.replica import replica as follow
from tests.faults.kafka.brokers import brokers as break_brokers
from tests.faults.kafka.cluster import cluster as lose_one
from tests.faults.kafka.cluster import late
from tests.faults.kafka.proxied import proxied
from tests.faults.kafka.scaled import Kind as Does
from tests.faults.kafka.scaled import scaled as kill_each
from tests.faults.lifecycle import lifecycle as command
from tests.faults.shard import TASKS, Shard
from tests.faults.zombie import zombie as freeze_and_replace
from tests.support.broker import Broker

app = typer.Typer(
    help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
out = Console(highlight=False)

Client = Literal["kafka-python", "confluent"]
Kind = Literal["binary", "classes", "open", "number", "ranking"]
"""The targets of :data:`tests.faults.shard.TASKS`."""
Log = Annotated[
    Literal["embedded", "kafka", "confluent"],
    typer.Option(help="The log under the service; confluent: Kafka through that client."),
]
By = Annotated[Client, typer.Option(help="The service's client of Kafka.")]
Seed = Annotated[int, typer.Option(help="Same seed, same input and same plan of faults.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Directory = Annotated[
    Path | None, typer.Option(help="Where to work, and keep it; default: a temporary one.")
]


@contextmanager
def working(directory: Path | None) -> Iterator[Path]:
    """The given directory, or a temporary one."""
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix="millrace-faults-") as temporary:
        yield Path(temporary)


@contextmanager
def log_table(kind: str) -> Iterator[dict[str, Any] | None]:
    """The ``[log]`` table: of the embedded log, or of a broker that runs meanwhile."""
    client = "confluent" if kind == "confluent" else "kafka-python"
    table = {"type": "kafka", "client": client, "timeout": "10s"}
    if kind == "embedded":
        yield None
    elif "KAFKA_BOOTSTRAP" in os.environ:
        yield table | {"bootstrap": os.environ["KAFKA_BOOTSTRAP"]}
    else:
        with Broker() as broker:
            yield table | {"bootstrap": broker.bootstrap}


@contextmanager
def progress(as_json: bool) -> Iterator[crashes.Progress]:
    """A bar on a terminal; nothing elsewhere."""
    if as_json or not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    columns = (TextColumn("{task.description:>12}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda what, done, total: bar.update(
            task, description=what, completed=done, total=total
        )


def report(found: dict[str, Any], ok: bool, as_json: bool) -> None:
    """Print the result and end with its status."""
    found = {"ok": ok} | found
    if as_json:
        sys.stdout.write(json.dumps(found, indent=2, allow_nan=False) + "\n")
    else:
        for name, value in found.items():
            out.print(f"{name:20} {value}", markup=False)
    raise typer.Exit(0 if ok else 1)


def timed(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result with the seconds it took."""
    started = time.monotonic()
    return work() | {"seconds": round(time.monotonic() - started, 1)}


@app.command()
def crash(
    log: Log = "embedded",
    kills: Annotated[int, typer.Option(min=1, help="SIGKILLs that hit.")] = 100,
    seed: Seed = 1,
    events: Annotated[int | None, typer.Option(help="Default: 150 for each kill.")] = None,
    task: Annotated[Kind, typer.Option(help="What the target is.")] = "binary",
    directory: Directory = None,
    as_json: Json = False,
) -> None:
    """SIGKILL at random moments: start-up, restore, steps, commits, checkpoints."""
    with working(directory) as place, log_table(log) as table, progress(as_json) as show:

        def work() -> dict[str, Any]:
            shard = Shard(place / "shard", table, **TASKS[task])
            verdict, tally = crashes.crash(shard, kills, seed, events, show)
            shard.renew_log()
            head = {"log": log, "kills": kills, "seed": seed, "task": task}
            return head | tally.as_dict() | verdict.as_dict()

        found = timed(work)
    report(found, not found["problems"], as_json)


@app.command()
def reconfigure(
    log: Log = "embedded",
    kills: Annotated[int, typer.Option(min=1, help="SIGKILLs that hit.")] = 50,
    seed: Seed = 1,
    events: Annotated[int | None, typer.Option(help="Default: 150 for each kill.")] = None,
    directory: Directory = None,
    as_json: Json = False,
) -> None:
    """Change a random setting before two lives of three, and SIGKILL each at a random moment."""
    with working(directory) as place, log_table(log) as table, progress(as_json) as show:

        def work() -> dict[str, Any]:
            shard = Shard(place / "shard", table)
            verdict, tally, switches = change(shard, kills, seed, events, show)
            shard.renew_log()
            head = {"log": log, "kills": kills, "seed": seed}
            return head | switches.as_dict() | tally.as_dict() | verdict.as_dict()

        found = timed(work)
    report(found, not found["problems"], as_json)


@app.command()
def lifecycle(
    log: Log = "embedded",
    rounds: Annotated[int, typer.Option(min=1, help="Shards, each ended twice.")] = 100,
    seed: Seed = 1,
    directory: Directory = None,
    as_json: Json = False,
) -> None:
    """Commands of every kind in random orders among events and labels, SIGKILLed wherever it is."""
    with working(directory) as place, log_table(log) as table, progress(as_json) as show:

        def work() -> dict[str, Any]:
            found, told = command(place, table, rounds, seed, show)
            return {"log": log, "rounds": rounds, "seed": seed} | told.as_dict() | found

        found = timed(work)
    report(found, not found["problems"], as_json)


@app.command()
def replica(
    log: Log = "embedded",
    kills: Annotated[int, typer.Option(min=1, help="Faults of either.")] = 50,
    seed: Seed = 1,
    task: Annotated[
        Literal["binary", "classes", "open", "number"], typer.Option(help="What the target is.")
    ] = "binary",
    directory: Directory = None,
    as_json: Json = False,
) -> None:
    """Commands of every kind, while service and replica are SIGKILLed and frozen; they agree."""
    with working(directory) as place, log_table(log) as table, progress(as_json) as show:

        def work() -> dict[str, Any]:
            shard = Shard(place / "shard", table, **TASKS[task], http=HTTP)
            verdict, figures = follow(shard, kills, seed, show)
            shard.renew_log()
            head = {"log": log, "kills": kills, "seed": seed, "task": task}
            return head | figures | verdict.as_dict()

        found = timed(work)
    report(found, not found["problems"], as_json)


@app.command()
def backfill(
    log: Log = "embedded",
    seed: Seed = 1,
    only: Annotated[list[str] | None, typer.Option(help="Only these places.")] = None,
    directory: Directory = None,
    as_json: Json = False,
) -> None:
    """Gain members and features, and SIGKILL the backfill and each place of the switch."""
    with working(directory) as place, log_table(log) as table, progress(as_json) as show:

        def work() -> dict[str, Any]:
            shard = Shard(place / "shard", table)
            verdict, tally, switches = gain(shard, only or list(PLACES), seed, show)
            shard.renew_log()
            head = {"log": log, "seed": seed, "switches": switches}
            return head | tally.as_dict() | verdict.as_dict()

        found = timed(work)
    report(found, not found["problems"], as_json)


@app.command()
def failpoints(
    log: Log = "embedded",
    seed: Seed = 1,
    only: Annotated[list[str] | None, typer.Option(help="Only these places.")] = None,
    directory: Directory = None,
    as_json: Json = False,
) -> None:
    """SIGKILL at every named place of the code: at its first, second and a later pass."""
    names = only or list(crashes.PASSED)
    with working(directory) as place, log_table(log) as table, progress(as_json) as show:
        found = timed(
            lambda: {
                "log": log,
                "seed": seed,
                "places": crashes.failpoints(place, table, names, seed, show),
            }
        )
    places = found["places"].values()
    found["kills"] = sum(p.get("hits", 0) for p in places)
    report(found, not any(p["problems"] for p in places), as_json)


@app.command()
def checkpoints(
    seed: Seed = 1,
    offsets: Annotated[int, typer.Option(help="Cuts and flips of each file.")] = 50,
    directory: Directory = None,
    as_json: Json = False,
) -> None:
    """Remove, cut and flip every file of every generation; no bad state is ever loaded."""
    with working(directory) as place, progress(as_json) as show:
        found = timed(lambda: generations.checkpoints(place, seed, offsets, show))
    report(found, not found["problems"], as_json)


@app.command()
def brokers(
    seed: Seed = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Outages; each run of six has each kind.")] = 6,
    down: Annotated[float, typer.Option(help="Seconds that an outage lasts at most.")] = 12.0,
    client: By = "kafka-python",
    directory: Directory = None,
    as_json: Json = False,
) -> None:
    """Kill, freeze and restart a real Kafka broker under load."""
    with working(directory) as place, progress(as_json) as show:

        def work() -> dict[str, Any]:
            verdict, figures = break_brokers(place / "shard", client, seed, rounds, down, show)
            return {"client": client, "seed": seed, "down_s": down} | figures | verdict.as_dict()

        found = timed(work)
    report(found, not found["problems"], as_json)


@app.command()
def cluster(
    seed: Seed = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Times that a broker is lost.")] = 6,
    down: Annotated[float, typer.Option(help="Seconds that it is away at least.")] = 8.0,
    directory: Directory = None,
    as_json: Json = False,
) -> None:
    """Kill one broker of three under load, by both clients; then freeze all, and SIGTERM.

    Fails, too, when a service is not ready 5 s after the broker is back.
    """
    with working(directory) as place, progress(as_json) as show:

        def work() -> dict[str, Any]:
            verdicts, figures = lose_one(place, get_args(Client), seed, rounds, down, show)
            by_client = {client: verdict.as_dict() for client, verdict in verdicts.items()}
            return {"seed": seed, "down_s": down, "late_s": late(figures)} | figures | by_client

        found = timed(work)
    whole = not any(found[client]["problems"] for client in get_args(Client))
    report(found, whole and not found["late_s"], as_json)


@app.command()
def proxy(
    seed: Seed = 1,
    gap: Annotated[float, typer.Option(help="Seconds between two faults, at least.")] = 1.0,
    client: By = "kafka-python",
    directory: Directory = None,
    as_json: Json = False,
) -> None:
    """Delay, cut, mute, repeat late and corrupt requests to a real broker, by kind."""
    with working(directory) as place, progress(as_json) as show:

        def work() -> dict[str, Any]:
            verdict, figures = proxied(place / "shard", client, seed, gap, show)
            return {"seed": seed} | figures | verdict.as_dict()

        found = timed(work)
    report(found, not found["problems"], as_json)


@app.command()
def scaled(
    kills: Annotated[int, typer.Option(min=1, help="Faults, of each kind in its turn.")] = 50,
    seed: Seed = 1,
    client: By = "kafka-python",
    labels: Annotated[
        Literal["partition", "any"] | None,
        typer.Option(help="Where labels stand; drawn by the seed."),
    ] = None,
    trained: Annotated[
        bool, typer.Option("--trained", help="With a member that is trained beside the learner.")
    ] = False,
    ranking: Annotated[bool, typer.Option("--ranking", help="A service that ranks.")] = False,
    directory: Directory = None,
    as_json: Json = False,
) -> None:
    """Kill and freeze two scorers, their learner and their broker at random moments."""
    if trained and ranking:
        raise typer.BadParameter("expected one of --trained and --ranking, got both")
    kind: Does = "trained" if trained else "ranking" if ranking else "plain"
    with working(directory) as place, Broker() as broker, progress(as_json) as show:
        table = {"type": "kafka", "client": client, "timeout": "10s"}

        def work() -> dict[str, Any]:
            head = {"client": client, "kills": kills, "seed": seed, "kind": kind}
            log = table | {"bootstrap": broker.bootstrap}
            found = kill_each(place, log, kills, seed, show, broker, labels, kind)
            return head | found.as_dict()

        found = timed(work)
    report(found, not found["problems"], as_json)


@app.command()
def disk(seed: Seed = 1, directory: Directory = None, as_json: Json = False) -> None:
    """Fill the state's disk, then the log's, and free them again; needs root for a tmpfs."""
    with working(directory) as place:
        try:
            found = timed(lambda: {"seed": seed} | disks.disk(place, seed))
        except disks.NotPermitted as error:
            report({"skipped": str(error)}, True, as_json)
    report(found, not (found["state"]["problems"] or found["log"]["problems"]), as_json)


@app.command()
def zombie(
    log: Log = "embedded",
    rounds: Annotated[int, typer.Option(min=1, help="Processes frozen and replaced.")] = 3,
    seed: Seed = 1,
    directory: Directory = None,
    as_json: Json = False,
) -> None:
    """Freeze a process past its transaction's time-out, replace it, thaw it: it must end."""
    with working(directory) as place, log_table(log) as table:
        if table is not None:
            table |= {"timeout": "5s", "transaction_timeout": "5s"}
        frozen_s = 1.0 if table is None else 7.0

        def work() -> dict[str, Any]:
            verdict, figures = freeze_and_replace(place, table, rounds, frozen_s, seed)
            return {"log": log, "seed": seed} | figures | verdict.as_dict()

        found = timed(work)
    report(found, not found["problems"], as_json)


@app.command()
def diverge(seed: Seed = 1, directory: Directory = None, as_json: Json = False) -> None:
    """A member that is not deterministic: the replay after a restart must stop the service."""
    with working(directory) as place:
        found = timed(
            lambda: {
                "seed": seed,
                "sources": {
                    source: divergence.diverge(place / source, source, seed)
                    for source in divergence.SOURCES
                },
            }
        )
    report(found, not any(s["problems"] for s in found["sources"].values()), as_json)


if __name__ == "__main__":
    # What runs in this process shows up in the result, not in its log.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    app(prog_name="python -m tests.faults")

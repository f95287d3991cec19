"""Scorers, learner and their broker killed and frozen at random moments: nothing is lost between.

One broker holds all of a service: two scorers and a learner run the same file, told by the
environment which of them they are.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any, Literal

from monitoring.audit.trail import Exit, verify
from stream.contract.records import NewRecord, Range, decode_journal
from stream.logs.kafka.clients.kafka_python import KafkaPython
from stream.logs.kafka.topology import Cluster, NewTopic
from stream.run.assemble import build_engine, open_log, wall_clock_ms
from stream.settings.load import load
from stream.settings.schema import Config, KafkaLogSettings
from stream.state.artefacts import FOLDER
from stream.state.generations import StateDirectory, list_generations
from stream.state.recovery import recover
from stream.step.roles.scorer import ScorerEngine
from tests.faults.crash import Feeder, Progress, append
from tests.faults.kafka import shop
from tests.faults.shard import Shard
from tests.faults.traffic import HORIZON, Piece, Traffic
from tests.faults.worker import Worker, WorkerFailed
from tests.stream.step.roles.scaled import FEATURES
from tests.support.broker import Broker
from tests.support.waiting import DEADLINE_S

SCORERS = 2
PROCESSES = {
    **{
        f"scorer-{i}": {"MILLRACE_SHARD__ROLE": "scorer", "MILLRACE_SHARD__INDEX": str(i)}
        for i in range(SCORERS)
    },
    "learner": {"MILLRACE_SHARD__ROLE": "learner"},
}
"""What the environment says to each."""


SHOP = {"name": "shop", "type": "risk", "entity": "terminal", "delay": "1d", "windows": ["3d"]}
"""Of an entity that both scorers see."""

MEMBERS = [
    {"name": "linear", "type": "logistic"},
    {"name": "forest", "type": "forest", "trees": 3},
]


COMMANDS: tuple[dict[str, Any], ...] = (
    {"command": "challenge", "member": "linear", "spec": '{"type": "boosting", "trees": 5}'},
    {
        "command": "challenge",
        "member": "forest",
        "spec": '[{"type": "logistic"}, {"type": "crossed", "table_bits": 8}]',
    },
    {"command": "promote", "member": "linear"},
    {"command": "promote", "member": "forest", "number": 2},
    {"command": "drop", "member": "forest"},
    {"command": "rollback", "member": "linear", "to": "last_good"},
)
"""An operator's, which the learner follows or refuses."""

TREES = {
    **{"name": "trees", "type": "refit", "every": "6h", "features": ["amount"]},
    **{"trees": 20, "leaves": 4, "least": 5, "positives": 20},
}
"""Trained beside the learner every 360 events."""
TRAINING = "learner training"
"""A SIGKILL of it while it has that done."""


FROZEN = tuple(f"frozen {name}" for name in PROCESSES)
"""Faults beside a SIGKILL of each: its process stands still until another has taken its place."""
BROKER = ("broker killed", "broker frozen")
BROKER_FROZEN_S = 1.0
LABELS = ("partition", "any")
Kind = Literal["plain", "trained", "ranking"]
"""What the service does: it scores, by a member that is trained beside it, too; or it ranks."""
LABEL_PARTITIONS = 3
"""Where labels stand in any: not as many as events have."""


@dataclass
class Found:
    """What a run came to; ``problems`` are empty where every invariant holds.

    Of a service that ranks ``deeds`` were learned, ``taken`` of the items that lists showed, and
    ``versions`` are those that were whole.
    """

    labels: str = "partition"
    hits: Counter[str] = field(default_factory=Counter)
    scored: int = 0
    labels_told: int = 0
    labels_joined: int = 0
    labels_handed: int = 0
    labels_refused: int = 0
    labels_early: int = 0
    learned: int = 0
    deeds: int = 0
    taken: int = 0
    challenged: int = 0
    promoted: int = 0
    trained: int = 0
    versions: int = 0
    applied: int = 0
    generations_checked: int = 0
    slowest_start_s: float = 0.0
    problems: list[str] = field(default_factory=list)

    def count(self, engine: Any) -> None:
        """Take in what a process came to."""
        counts = engine.counts
        self.learned += counts["learned"] if engine.config.shard.role == "learner" else 0
        self.deeds += counts["deeds.handed"]
        self.taken += counts["hits"]
        if isinstance(engine, ScorerEngine):
            self.labels_joined += counts["labels.joined"]
            self.labels_handed += counts["labels.handed"]
            self.labels_early += len(engine.early)
        self.labels_told += counts["labels.joined"] + counts["labels.timed_out"]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"hits": dict(self.hits)}


class Service:
    """The processes of one service, each with its life under way."""

    def __init__(
        self,
        directory: Path,
        log: dict[str, Any],
        labels: str = "partition",
        kind: Kind = "plain",
    ) -> None:
        changes: dict[str, Any] = {
            "features": [*FEATURES, SHOP],
            "members": [*MEMBERS, TREES] if kind == "trained" else MEMBERS,
            "guard": None,
            "challengers": {"block": "1h", "rows": 20, "alpha": 0.5, "promote": "auto"},
            "label": {"field": "fraud", "horizon": HORIZON, "learning": "arrival"},
            "shard": {"role": "scorer", "count": SCORERS, "every": "10m", "labels": labels},
        }
        self.kind = kind
        self.shard = Shard(directory, log, **changes | (shop.CHANGES if kind == "ranking" else {}))
        self.configs: dict[str, Config] = {
            name: load(self.shard.path, environ) for name, environ in PROCESSES.items()
        }
        self.workers: dict[str, Worker] = {}
        self._environ = {name: dict(environ) for name, environ in PROCESSES.items()}
        self._places = 0

    def create_topics(self) -> None:
        """Make all topics; that of labels with partitions of its own where these stand in any."""
        config = self.configs["learner"]
        if config.shard.labels == "any" and isinstance(config.log, KafkaLogSettings):
            cluster = Cluster(KafkaPython(config.log, config.name))
            cluster.make({config.topics.labels: NewTopic(LABEL_PARTITIONS)}, True, 1)
            cluster.close()
        for one in self.configs.values():
            log = open_log(one, wall_clock_ms)
            log.create_topics()
            log.close()
        self.shard.renew_log()

    def start(self, name: str) -> None:
        """Begin a life of a process."""
        self.workers[name] = Worker(self.shard.path, **self._environ[name])

    def replace(self, name: str, meanwhile: Callable[[], None], found: Found) -> None:
        """Freeze a process, start another on a directory of its own, and let the first go on.

        It must end with status 3 and say why: what it had begun is the other's by now.
        """
        old = self.workers[name]
        old.signal(signal.SIGSTOP)
        try:
            self._places += 1
            place = self.shard.directory / f"place-{self._places}"
            kept = self.configs[name].state_dir / FOLDER
            self._environ[name]["MILLRACE_STATE_DIR"] = str(place)
            self.configs[name] = load(self.shard.path, self._environ[name])
            if kept.exists():  # what was trained is in no journal
                shutil.copytree(kept, self.configs[name].state_dir / FOLDER)
            self.start(name)
            self.workers[name].wait_for("restored")
            meanwhile()
        finally:
            old.signal(signal.SIGCONT)
        deadline = time.monotonic() + DEADLINE_S
        while old.running and time.monotonic() < deadline:
            meanwhile()  # it learns that another is there when it has something to commit
            time.sleep(2)
        status, said = old.wait(), "\n".join(old.errors)
        if status != 3 or "another process" not in said:
            found.problems.append(
                f"{name}, frozen: expected status 3 and why, got {status}; {said[-300:]}"
            )

    @property
    def trains(self) -> int:
        """The process that trains beside the learner now; 0: none."""
        began = [x["pid"] for x in self.workers["learner"].lines if x.get("event") == "refit_began"]
        return next((pid for pid in began[-1:] if _runs(pid)), 0)

    def kill_training(self, meanwhile: Callable[[], None], found: Found) -> None:
        """Kill the learner while a training is under way, which ends with it."""
        deadline = time.monotonic() + DEADLINE_S
        while not (pid := self.trains) and time.monotonic() < deadline:
            meanwhile()  # until it falls due
            time.sleep(2)  # a checkpoint, and the process
        self.workers["learner"].kill()
        found.hits[TRAINING] += bool(pid)
        deadline = time.monotonic() + DEADLINE_S  # it may still import what it needs
        while pid and _runs(pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        if pid and _runs(pid):
            found.problems.append(f"learner: its training goes on without it, as process {pid}")
        self.start("learner")

    def ready(self, found: Found) -> None:
        """Wait until all have restored."""
        for worker in self.workers.values():
            worker.wait_for("restored")
            since_s = (worker.restored_s or worker.started_s) - worker.started_s
            found.slowest_start_s = max(found.slowest_start_s, since_s)

    def close(self) -> None:
        """End whatever still runs."""
        for worker in self.workers.values():
            worker.kill()
        self.shard.renew_log()


def scaled(
    directory: Path,
    log: dict[str, Any],
    kills: int,
    seed: int,
    progress: Progress,
    broker: Broker | None = None,
    labels: str | None = None,
    kind: Kind = "plain",
) -> Found:
    """One fault after another under load, drain, stop in order, check.

    ``broker``: that of ``log``, which is killed and frozen, too; ``None``: it is left alone.
    ``labels``: where these stand; ``None``: drawn by the seed.
    """
    rng = random.Random(f"scaled {seed}")
    labels = labels or random.Random(f"labels {seed}").choice(LABELS)
    labels = "partition" if kind == "ranking" else labels  # which has none
    found, service = Found(labels), Service(directory, log, labels, kind)
    traffic = service.shard.traffic(seed)
    feeder = Feeder(service.shard, traffic, 1_000_000)
    each = (*PROCESSES, *FROZEN, *(BROKER if broker else ()), *PROCESSES)
    each = (TRAINING, *each) if kind == "trained" else each
    victims = [name for _ in range(kills) for name in each][:kills]
    rng.shuffle(victims)

    commands = cycle(shop.COMMANDS if kind == "ranking" else COMMANDS)

    def feed() -> None:
        for _ in range(rng.randrange(20, 60)):
            feeder.append()
        asked = NewRecord(b"operator", json.dumps(next(commands)).encode())
        append(service.shard, Piece("control", [asked]))

    service.create_topics()
    try:
        for name in PROCESSES:
            service.start(name)
        service.ready(found)
        for i, name in enumerate(victims):
            feed()
            if name in FROZEN:
                service.ready(found)
                service.replace(name.removeprefix("frozen "), feed, found)
                found.hits[name] += 1
            elif broker is not None and name in BROKER:
                _break(broker, name, feed)
                found.hits[name] += 1
            elif name == TRAINING:
                service.ready(found)
                service.kill_training(feed, found)
            else:
                if service.workers[name].kill():
                    found.hits[name] += 1
                service.start(name)
            if rng.random() < 0.5:  # else the next fault comes beside a start
                service.ready(found)
            progress("kills", i + 1, kills)
        service.ready(found)
        drain(service)
        if kind == "trained":
            rest(service)
        for name, worker in service.workers.items():
            if (status := worker.stop()) != 0:
                raise WorkerFailed(f"{name}: expected exit status 0, got {status}")
        check(service, traffic, found)
    finally:
        service.close()
    return found


def _runs(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _break(broker: Broker, how: str, meanwhile: Callable[[], None]) -> None:
    """Kill the broker and start it on its data, or let it stand still for a while."""
    if how == "broker killed":
        broker.kill()
        broker.start()
        return
    broker.pause()
    try:
        time.sleep(BROKER_FROZEN_S)
    finally:
        broker.resume()
    meanwhile()


def drain(service: Service) -> None:
    """Wait until committed steps have taken all that stands in the inputs.

    Scorers first, whose last labels the learner takes then; and again, for its last version, and
    for labels that scorers handed on to each other.
    """
    for name, config in [*service.configs.items()] * 3:
        shard, worker = view(service.shard, config), service.workers.get(name)
        deadline = time.monotonic() + DEADLINE_S
        try:
            while waiting := shard.waiting():
                if worker is not None:
                    worker.check_alive()
                if time.monotonic() > deadline:
                    late = f"{waiting} records not taken in {DEADLINE_S:g} s"
                    raise worker.stuck(late) if worker else WorkerFailed(f"{name}: {late}")
                time.sleep(0.05)
        finally:
            shard.renew_log()


def rest(service: Service) -> None:
    """Wait until nothing is trained, and all have taken what was."""
    lines, quiet = service.workers["learner"].lines, 0
    while quiet < 2:  # what fell due is begun with a generation, what has ended is sent
        before = len(lines)
        time.sleep(3)
        quiet = 0 if service.trains or len(lines) > before else quiet + 1
    drain(service)


def view(shard: Shard, config: Config) -> Shard:
    """The topics and the state of one process."""
    made = object.__new__(Shard)
    made.directory, made.raw, made.path = shard.directory, shard.raw, shard.path
    made._direct, made._log = "", None
    made.config = made._reach = config
    return made


def check(service: Service, traffic: Traffic, found: Found) -> None:
    """Add to ``found`` what became of the records of a service whose processes have ended."""
    scores = Counter(
        json.loads(r.value or b"")["id"] for part in service.shard.records("scores") for r in part
    )
    events = {
        traffic.kind(r.value).id
        for part in service.shard.records("events")
        for r in part
        if traffic.kind(r.value).what == "event"
    }
    found.scored = scores.total()
    if scores != Counter(dict.fromkeys(events, 1)):
        missing, more = events - scores.keys(), [i for i, n in scores.items() if n > 1]
        found.problems.append(f"scores: {len(missing)} are missing, more than one of {more[:5]}")
    ends: dict[str, shop.End] = {}

    def look(engine: Any) -> None:
        if service.kind == "ranking":
            ends[engine.config.name] = shop.End.of(engine)
        found.count(engine)

    for name, config in service.configs.items():
        shard = view(service.shard, config)
        try:
            _check_journal(name, shard, found)
            _check_process(name, shard, found, look)
        finally:
            shard.renew_log()
    _check_versions(service, found)
    if service.kind == "ranking":
        found.problems += shop.problems(service.shard, traffic, ends)
        return
    _check_labels(service, found)
    _check_trained(service, found)
    if found.learned != found.labels_told:
        found.problems.append(f"labels: {found.labels_told} told, {found.learned} learned")


def _check_versions(service: Service, found: Found) -> None:
    """Those that trails tell of: what was taken over is what was published; the newest, by all."""
    told = {name: _versions(service.shard, own, found) for name, own in service.configs.items()}
    published = told.pop("learner")
    found.versions, found.applied = len(published), sum(map(len, told.values()))
    if service.kind != "ranking" and list(published) != list(range(1, len(published) + 1)):
        found.problems.append(f"versions: expected 1, 2, ..., got {list(published)[:20]}")
    for name, taken in told.items():
        if strange := {n: d for n, d in taken.items() if published.get(n) != d}:
            found.problems.append(f"{name}: took over versions that nobody published: {strange}")
        if max(taken, default=0) != max(published, default=0):
            found.problems.append(
                f"{name}: expected the newest version, got {max(taken, default=0)}"
            )


def _check_trained(service: Service, found: Found) -> None:
    """What was trained was asked for, and installed once."""
    trail = [json.loads(r.value or b"") for r in service.shard.records("audit")[0]]
    due = sum(record["event"] == "refit_due" for record in trail)
    taken = {r["offset"] for r in trail if r["event"] == "installed" and "offset" in r}
    answers = [r for r in service.shard.records("control")[0] if b'"due":' in (r.value or b"")]
    found.trained = sum(r.offset in taken for r in answers)
    strangers = {record["trail"] for record in trail if record["event"] == "refit_due"}
    if found.trained > due or (due and not found.trained):
        found.problems.append(f"trained: fell due {due} times, {found.trained} answers")
    if strangers - {service.configs["learner"].name}:
        found.problems.append(f"trained: fell due at {strangers}")


def _check_labels(service: Service, found: Found) -> None:
    """Each label was joined, or refused, once in the whole service, or waits."""
    topic = service.shard.topic("labels")
    refused = Counter(
        (headers["partition"], headers["offset"])
        for part in service.shard.records("dead_letters")
        for r in part
        if (headers := dict(r.headers))["topic"] == topic.encode()
    )
    found.labels_refused = refused.total()
    if twice := [place for place, n in refused.items() if n > 1]:
        found.problems.append(f"labels: refused more than once: {twice[:5]}")
    stand = sum(map(len, service.shard.records("labels")))
    came = found.labels_joined, found.labels_refused, found.labels_early
    if sum(came) != stand:
        found.problems.append(
            f"labels: {stand} stand in the topic; joined, refused and waiting are {came}"
        )
    if (found.labels == "any") != bool(found.labels_handed):
        found.problems.append(f"labels: {found.labels_handed} were handed on")


def _check_journal(name: str, shard: Shard, found: Found) -> None:
    """The journal is gapless, and names each record of the process's share once."""
    journal = [decode_journal(r.value or b"") for r in shard.records("journal")[0]]
    if [r.seq for r in journal] != list(range(1, len(journal) + 1)):
        found.problems.append(f"{name}: its journal has gaps")
    taken: dict[tuple[str, int], list[Range]] = {}
    for record in journal:
        for r in record.ranges:
            taken.setdefault((r.topic, r.partition), []).append(r)
    for topic in shard.config.inputs:
        for number, rows in enumerate(_records(shard, topic)):
            ranges = taken.pop((topic, number), [])
            owned = shard.config.reads(topic, number)
            expected = len(rows) if owned else 0
            apart = all(a.last < b.first for a, b in pairwise(ranges))
            if sum(r.count for r in ranges) != expected or not apart:
                found.problems.append(f"{name}: {topic}/{number}: not each record was taken once")
    if taken:
        found.problems.append(f"{name}: took records of {sorted(taken)}, which are not its own")


def _records(shard: Shard, topic: str) -> Any:
    from tests.faults.shard import _kafka_records

    return _kafka_records(shard.config.log, topic)  # type: ignore[arg-type]


def _check_process(name: str, shard: Shard, found: Found, look: Callable[[Any], None]) -> None:
    """Its state is that of a run which was never killed: the journal done again from step 1."""
    scratch = shard.directory / f"scratch-{name}"
    wanted = _restored(shard, scratch, None, look)
    for path in list_generations(shard.config.state_dir):
        found.generations_checked += 1
        if _restored(shard, scratch, path) != wanted:
            found.problems.append(f"{name}: generation {path.name} leads to another state")


def _restored(
    shard: Shard,
    scratch: Path,
    generation: Path | None,
    look: Callable[[Any], None] = lambda engine: None,
) -> str:
    """The state's digest at the journal's end, from one generation or from nothing.

    ``look`` is shown the engine there.
    """
    directory = StateDirectory(scratch).open()
    try:
        if generation is not None:
            (directory.generations / generation.name).symlink_to(generation.resolve())
        if (kept := shard.config.state_dir / FOLDER).exists():
            directory.artefacts.path.rmdir()
            directory.artefacts.path.symlink_to(kept.resolve())
        build = lambda config: build_engine(config, directory.pending)  # noqa: E731
        recovered = recover(shard.log, directory, shard.config, build, lambda: None)
        engine, expected = recovered.engine, int(generation.name) if generation else 0
        if recovered.from_seq != expected:
            return f"of step {recovered.from_seq}: generation {expected} was not used"
        look(engine)
        digest = engine.state_digest()
        engine.close()
        return digest
    finally:
        directory.close()
        shutil.rmtree(scratch)


def _versions(shard: Shard, config: Config, found: Found) -> dict[int, str]:
    """Number and digest of the versions that a process's trail tells of; the trail is whole."""
    own = [r.value or b"" for r in shard.records("audit")[0] if r.key == config.name.encode()]
    if verify(own).outcome is not Exit.OK:
        found.problems.append(f"{config.name}: its audit trail is not whole")
    records = [json.loads(line) for line in own]
    events = Counter(r["event"] for r in records)
    found.challenged += events["challenger_started"]
    found.promoted += events["challenger_promoted"]
    return {
        r["number"]: r["digest"]
        for r in records
        if r["event"] in ("version_published", "version_applied")
    }

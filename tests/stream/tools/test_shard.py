"""`millrace shard`: another number of scorers on a real broker, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, TopicPartition

from stream.contract.log import LogError
from stream.contract.records import NewRecord
from stream.run.assemble import open_log, open_together, wall_clock_ms
from stream.run.service import Service
from stream.settings.load import load
from stream.settings.schema import Config
from stream.state.generations import CheckpointError, Locked, StateDirectory, list_generations
from stream.state.recovery import MovedAway
from stream.step.reconfigure import Irreconcilable
from stream.tools.audit.explain import explain
from stream.tools.audit.score import NoScore, explain_score
from stream.tools.scaled.move import MoveRefused, move, plan, scorers
from stream.tools.scaled.whom import AskAnother
from stream.tools.versions import bring, listed
from tests.faults.shard import toml
from tests.stream.step.roles.scaled import FEATURES, raw
from tests.support.broker import unique
from tests.support.factory import event, label
from tests.support.runner import running
from tests.support.waiting import wait_until

pytestmark = pytest.mark.kafka
TOPICS = ("events", "labels", "control", "scores", "dead_letters", "audit")
PARTITIONS = 8
SHOP = {"name": "shop", "type": "risk", "entity": "terminal", "delay": "1d", "windows": ["3d"]}


class Fleet:
    """The file of a service, and its processes as the test wants them."""

    def __init__(self, directory: Path, bootstrap: str, labels: str = "partition") -> None:
        topics: dict[str, Any] = {name: unique(name) for name in TOPICS}
        tree = raw(
            *(directory, 2, bootstrap),
            name=unique("service"),
            features=[*FEATURES, *([] if labels == "any" else [SHOP])],
            topics=topics | {"partitions": PARTITIONS},
            shard={"labels": labels},
        )
        self.tree, self.path, self._made = tree, directory / "fleet.toml", 0
        self.told = 0
        self.count(2)

    def count(self, count: int) -> None:
        """Write the file with so many scorers."""
        self.tree["shard"] |= {"role": "scorer", "count": count}
        self.path.write_text("".join(f"{k} = {toml(v)}\n" for k, v in self.tree.items()))

    @property
    def configs(self) -> list[Config]:
        return scorers(self.path, {})

    @contextmanager
    def up(self) -> Iterator[list[Service]]:
        """All scorers and the learner, which is the last."""
        learner = load(self.path, {"MILLRACE_SHARD__ROLE": "learner"})
        with ExitStack() as stack:
            yield [stack.enter_context(running(config)) for config in (*self.configs, learner)]

    def play(self, n: int) -> None:
        """``n`` more events, and labels of all that have none yet but for the newest 20."""
        with self.up() as services:
            log, topics = services[0].log, services[0].config.topics
            start = self._made
            self._made += n
            for topic, numbers, make in (
                (topics.events, range(start, self._made), event),
                (topics.labels, range(self.told, self._made - 20), label),
            ):
                by = 3 if make is label and self.tree["shard"]["labels"] == "any" else 1
                records = [
                    NewRecord(None, json.dumps(make(i)).encode(), i * by % PARTITIONS)
                    for i in numbers
                ]
                log.append(topic, records)
            self.told = self._made - 20

            def done() -> bool:
                engines = [service.engine for service in services[:-1]]
                counts = sum((e.counts for e in engines if e is not None), Counter[str]())
                learned = services[-1].engine
                return (
                    counts["scored"] == self._made
                    and counts["labels.joined"] == self.told
                    and learned is not None
                    and learned.counts["learned"] == self.told
                )

            wait_until(done, f"{self._made} events scored once, {self.told} labels learned once")

    def tell(self) -> None:
        """The newest labels, in one partition; its scorer alone runs, and hands on what it can."""
        config = self.configs[0]
        with running(config) as service:
            records = [
                NewRecord(None, json.dumps(label(i)).encode(), 0)
                for i in range(self.told, self._made)
            ]
            before = self._consumed(service)
            service.log.append(config.topics.labels, records)
            wait_until(lambda: self._consumed(service) == before + len(records), "the labels")
        self.told = self._made

    def _consumed(self, service: Service) -> int:
        assert service.engine is not None
        return service.engine.counts[f"consumed.{service.config.topics.labels}"]

    def check(self) -> None:
        """One score each, and none more."""
        log = open_log(self.configs[0], wall_clock_ms)
        try:
            topics = self.configs[0].topics
            ids = Counter(
                json.loads(r.value or b"")["id"] for r in log.tail(topics.scores, 100_000)
            )
            letters = log.tail(topics.dead_letters, 100)
        finally:
            log.close()
        assert ids == Counter(event(i)["id"] for i in range(self._made))
        assert [r.value for r in letters] == []


@pytest.fixture
def fleet(tmp_path: Path, kafka_bootstrap: str) -> Fleet:
    return Fleet(tmp_path, kafka_bootstrap)


def changed(fleet: Fleet, count: int) -> None:
    move(fleet.path, {}, count, lambda _: None)
    fleet.count(count)


def test_a_service_grows_and_shrinks_and_grows_again(fleet: Fleet) -> None:
    """Events are scored once, labels of events from before a move meet them, once."""
    fleet.play(120)
    found = plan(fleet.path, {}, 4)
    assert sum(way.rows for way in found.ways) == 120
    assert sorted(p for way in found.ways for p in way.partitions) == list(range(PARTITIONS))
    assert {(way.source, way.to) for way in found.ways} == {(0, 0), (0, 2), (1, 1), (1, 3)}
    for count in (4, 3):
        changed(fleet, count)
        fleet.play(60)
    fleet.check()


def test_what_all_have_read_may_be_gone_when_it_moves(fleet: Fleet, kafka_bootstrap: str) -> None:
    """Behind the newest record stands a transaction's marker, which retention deletes with it; a
    record that nobody had read is another matter."""
    fleet.play(60)
    risk = fleet.configs[0].risk_topic
    with fleet.up() as services:  # until idle looks have passed the markers
        ends = together_ends(fleet, risk)
        for service in services[:-1]:
            own = {key: end for key, end in ends.items() if service.config.reads(*key)}
            looked = lambda log=service.log, own=own: log.done(own) == own  # noqa: E731
            wait_until(looked, "a look past the markers")
    admin = KafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    admin.delete_records({TopicPartition(*key): end for key, end in ends.items()})
    move(fleet.path, {}, 3, lambda text: None)
    fleet.count(3)
    fleet.play(60)
    with running(fleet.configs[0]) as one:
        records = [NewRecord(None, json.dumps(event(i)).encode(), 0) for i in range(120, 128)]
        one.log.append(one.config.topics.events, records)
        scored = lambda: one.engine and one.engine.counts["scored"]  # noqa: E731
        before = scored()
        wait_until(lambda: scored() == before + 8, "the scores")
    ends = together_ends(fleet, risk)
    admin.delete_records({TopicPartition(risk, 0): ends[risk, 0]})
    admin.close()
    with pytest.raises(MoveRefused, match=f"(?s){risk}/0: offset .*Start it once with"):
        move(fleet.path, {}, 2, lambda text: None)


def together_ends(fleet: Fleet, topic: str) -> dict[tuple[str, int], int]:
    """The next offset of each partition."""
    together = open_together(fleet.configs[0])
    try:
        return together.ends(topic)
    finally:
        together.close()


def test_tools_ask_the_process_that_knows(fleet: Fleet, tmp_path: Path) -> None:
    """A score is its scorer's, with the version that it was made by; what was learned is the
    learner's. Another process names the one to ask, and how."""
    fleet.play(60)
    fleet.play(60)
    (one, other), learner = fleet.configs, load(fleet.path, {"MILLRACE_SHARD__ROLE": "learner"})
    found = explain_score(one, "e104")
    assert (found["exit"], found["replay"]) == (0, "the same bits")
    assert found["step"]["version"]["number"] >= 1
    assert found["step"]["version"]["of"] == learner.name
    with pytest.raises(NoScore, match=f"read by {one.name}: set MILLRACE_SHARD__INDEX=0"):
        explain_score(other, "e104")
    with pytest.raises(AskAnother, match="MILLRACE_SHARD__INDEX to the partition modulo 2"):
        explain_score(learner, "e104")
    assert explain(learner, "linear", None, None, 5, latest=True)["exit"] == 0
    for asked in (
        lambda: explain(one, "linear", None, None, 5),
        lambda: listed(one),
        lambda: bring(one, "linear", tmp_path / "any"),
    ):
        with pytest.raises(AskAnother, match=f"{learner.name}, which learns, got {one.name}"):
            asked()


def test_labels_under_way_move_to_their_new_owners(tmp_path: Path, kafka_bootstrap: str) -> None:
    """Those that a scorer had handed on and nobody had read yet; one scorer alone hands on none."""
    fleet = Fleet(tmp_path, kafka_bootstrap, "any")
    fleet.play(60)
    fleet.tell()
    with pytest.raises(MoveRefused, match="expected no labels under way between scorers"):
        move(fleet.path, {}, 1, lambda _: None)
    changed(fleet, 3)
    fleet.play(60)
    fleet.check()


def test_a_state_that_moved_is_neither_run_as_before_nor_moved_again(fleet: Fleet) -> None:
    """The old number, a scorer that is none any more, and one that nothing moved to."""
    fleet.play(40)
    fleet.count(4)
    with pytest.raises(LogError, match="millrace shard move"), running(fleet.configs[3]):
        pass
    with pytest.raises(LogError, match="millrace shard move"), running(fleet.configs[0]):
        pass
    fleet.count(2)
    changed(fleet, 1 + 2)
    fleet.count(2)
    refused = pytest.raises(Irreconcilable, match=r"expected \(3, 8\), got \(2, 8\)")
    with refused, running(fleet.configs[1]):
        pass
    with pytest.raises(MoveRefused, match="expected 3 in the file"):
        move(fleet.path, {}, 3, lambda _: None)
    fleet.count(3)
    changed(fleet, 2)
    fleet.count(3)
    with pytest.raises(MovedAway, match="of which there are 2 since"), running(fleet.configs[2]):
        pass


def test_what_cannot_move_is_refused_and_nothing_changes(fleet: Fleet) -> None:
    """A process that runs, a state that is not here, one scorer alone, another file."""
    fleet.play(40)
    with pytest.raises(MoveRefused, match="another number than the file's, got 2"):
        move(fleet.path, {}, 2, lambda _: None)
    with pytest.raises(MoveRefused, match="2 or more scorers before and after"):
        move(fleet.path, {}, 1, lambda _: None)
    with running(fleet.configs[1]), pytest.raises(Locked, match="another process"):
        move(fleet.path, {}, 4, lambda _: None)
    directory = fleet.configs[1].state_dir
    away = directory.rename(directory.with_name("elsewhere"))
    for act in (lambda: move(fleet.path, {}, 4, lambda _: None), lambda: plan(fleet.path, {}, 4)):
        with pytest.raises(MoveRefused, match="scorer-1: expected a checkpoint"):
            act()
    away.rename(directory)
    fleet.tree["limits"] = {"early_labels": 77}
    fleet.count(2)
    with pytest.raises(MoveRefused, match="expected the file that it ran under"):
        move(fleet.path, {}, 4, lambda _: None)
    del fleet.tree["limits"]
    fleet.count(2)
    fleet.play(20)
    fleet.check()


def test_the_journal_leads_over_a_move_to_the_same_state(fleet: Fleet) -> None:
    """A generation from before it, followed; where none leads there, that is refused."""
    fleet.play(60)
    before = {config.name: list_generations(config.state_dir) for config in fleet.configs}
    changed(fleet, 4)
    fleet.play(60)
    for config in fleet.configs:
        with running(config) as service:
            assert service.engine is not None
            wanted = service.engine.state_digest()
        for path in list_generations(config.state_dir):
            if path not in before.get(config.name, ()):
                StateDirectory(config.state_dir).set_aside(path, "for the test")
        if config.shard.index > 1:
            lost = pytest.raises(
                CheckpointError, match=r"moved here from .*-scorer-[01] and cannot"
            )
            with lost, running(config):
                pass
            continue
        with running(config) as service:
            assert service.engine is not None
            assert service.recovered is not None
            assert service.recovered.from_seq == int(before[config.name][0].name)
            assert service.engine.state_digest() == wanted


@pytest.mark.parametrize(
    ("point", "whole"),
    [("move.middle", 2), ("move.committed", 4)],
)
def test_a_kill_leaves_the_old_scorers_or_the_new_ones_whole(
    fleet: Fleet, point: str, whole: int
) -> None:
    """Whichever it is goes on: the open transaction of the one that was killed hides nothing."""
    fleet.play(40)
    killed = subprocess.run(
        [sys.executable, "-m", "stream.cli", "shard", "move", str(fleet.path), "--count", "4"],
        env=os.environ | {"MILLRACE_FAILPOINT": f"{point}=kill", "PYTHONHASHSEED": "0"},
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    fleet.count(whole)
    fleet.play(40)
    fleet.check()

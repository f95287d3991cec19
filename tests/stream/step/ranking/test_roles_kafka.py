"""Rankings in a service of scorers and a learner on a real broker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, TopicPartition

from stream.contract.log import Log
from stream.contract.records import NewRecord
from stream.run.assemble import open_log, wall_clock_ms
from stream.run.service import Service
from stream.settings.schema import Config
from stream.step.ranking.known import digest_of
from stream.tools.replay import replay_to
from tests.stream.step.ranking.scaled import Traffic, home, raw
from tests.stream.step.roles.scaled import of_role
from tests.support.broker import unique
from tests.support.factory import to_json
from tests.support.log_harness import kafka_table
from tests.support.runner import running
from tests.support.waiting import wait_until

pytestmark = pytest.mark.kafka
TOPICS = ("events", "labels", "control", "scores", "dead_letters", "audit")
PARTITIONS = 4
REQUESTS = ("rank", "recommend")


@pytest.fixture
def tree(tmp_path: Path, kafka_bootstrap: str) -> dict[str, Any]:
    """The file of a shop of two scorers, with topics of its own."""
    topics = {name: unique(name) for name in TOPICS}
    changes = {
        "name": unique("shop"),
        "log": kafka_table(kafka_bootstrap),
        "state_dir": str(tmp_path / "state"),
        "topics": topics | {"partitions": PARTITIONS},
        "checkpoints": {"interval": "500ms"},
    }
    return raw(2, **changes)


class Open:
    """A shop: what happens there, and those of its processes that run."""

    def __init__(self, tree: dict[str, Any], seed: int) -> None:
        other = tree | {"log": tree["log"] | {"client": "confluent"}}
        self.scorers = [of_role(tree, "scorer"), of_role(other, "scorer", 1)]
        self.learner = of_role(tree, "learner")
        self.traffic = Traffic(seed)
        self.told: list[dict[str, Any]] = []
        self.running: dict[str, Service] = {}

    @contextmanager
    def runs(self, *configs: Config) -> Iterator[None]:
        """So many processes more, one after the other."""
        with ExitStack() as stack:
            for config in configs:
                self.running[config.name] = stack.enter_context(running(config))
            yield
        for config in configs:
            del self.running[config.name]

    def engine(self, config: Config) -> Any:
        """Of a process that runs."""
        return self.running[config.name].engine

    def tell(self, n: int, *partitions: int) -> None:
        """What happens next, on these partitions, all of a user on one."""
        made = self.traffic.records(n)
        self.told += made
        rows = [
            NewRecord(None, to_json(record), partitions[home(record, len(partitions))])
            for record in made
        ]
        self._log.append(self.learner.topics.events, rows)

    def settle(self) -> None:
        """Wait until all who run know all that happened, and the answers can be read."""
        learner = self.engine(self.learner)
        deeds = sum(record["event"] not in REQUESTS for record in self.told)
        wait_until(lambda: learner.counts["deeds.taken"] == deeds, "all deeds to be learned")
        engines = [service.engine for service in self.running.values()]
        newest = lambda: len({e.versions.current for e in engines}) == 1  # type: ignore[union-attr]  # noqa: E731
        wait_until(newest, "the newest version everywhere")
        asked = len(self.asked())
        wait_until(lambda: len(self._read()) >= asked, "an answer to each request")

    def asked(self) -> list[str]:
        """The ids of requests."""
        return [record["id"] for record in self.told if record["event"] in REQUESTS]

    def _read(self) -> list[dict[str, Any]]:
        """All answers up to now."""
        rows = self._log.tail(self.scorers[1].topics.scores, 9999)
        self.traffic.answers = [json.loads(r.value or b"") for r in rows]
        return self.traffic.answers

    def answered(self) -> list[str]:
        """The ids of answers, as of when all had settled."""
        return sorted(answer["id"] for answer in self.traffic.answers)

    def known(self) -> set[str]:
        """What processes that run know."""
        return {digest_of(service.engine) for service in self.running.values()}  # type: ignore[arg-type]

    @property
    def _log(self) -> Log:
        return self.running[self.scorers[1].name].log  # who runs in each of these tests


def _replays(config: Config) -> None:
    log = open_log(config, wall_clock_ms)
    tail = log.journal_tail()
    log.close()
    assert tail is not None
    done = replay_to(config, tail.seq, None, from_start=True)
    assert done["digest"] == done["journal_digest"]


def test_a_shop_ranks_and_learns_over_kafka(tree: dict[str, Any]) -> None:
    """Each request has one answer, each deed is learned once, all know the same, and each process
    replays to the same bits; one of the scorers by another client of Kafka."""
    shop = Open(tree, 11)
    processes = [shop.learner, *shop.scorers]
    with shop.runs(*processes):
        for _ in range(3):
            shop.tell(100, 0, 1, 2, 3)
            shop.settle()
        assert shop.answered() == sorted(shop.asked())
        assert len(shop.known()) == 1
        learner, *scorers = [shop.engine(config) for config in processes]
        done = sum(record["event"] == "interaction" for record in shop.told)
        assert sum(e.counts["feedback.interaction"] for e in scorers) == done
        assert [e.counts["followed"] for e in scorers] == [done, done]
        assert learner.counts["learned"] > 50
        assert sum(e.counts["hits"] for e in scorers) > 10
        assert [len(e.ahead) for e in scorers] == [0, 0]
        assert not any(e.counts["dead.foreign"] for e in (learner, *scorers))
    for config in processes:
        _replays(config)


def test_a_scorer_for_whom_news_were_deleted_asks_for_all_that_is_known(
    tree: dict[str, Any], kafka_bootstrap: str
) -> None:
    """It was away for longer than they are kept: it goes on with the others."""
    shop = Open(tree, 12)
    one, other = shop.scorers
    models = TopicPartition(one.models_topic, 0)
    with shop.runs(shop.learner, other):
        with shop.runs(one):
            shop.tell(60, 0, 1, 2, 3)
            shop.settle()
        for _ in range(2):
            shop.tell(20, 1, 3)
            shop.settle()
        admin = KafkaAdminClient(bootstrap_servers=kafka_bootstrap)
        admin.delete_records({models: -1})
        admin.close()
        with shop.runs(one):
            before = shop.engine(one).versions.current
            shop.tell(20, 0, 1, 2, 3)
            shop.settle()
            shop.tell(20, 0, 1, 2, 3)
            shop.settle()
            assert len(shop.known()) == 1
            whole = shop.engine(one).auditor.written["version_applied"]
            assert (before.number > 0, whole) == (True, 1)
        assert shop.answered() == sorted(shop.asked())

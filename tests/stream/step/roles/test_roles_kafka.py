"""Scorers and learner on a real broker: whose topics these are, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kafka import KafkaAdminClient, TopicPartition

from models.base import FeatureBatch
from stream.contract.hashing import hash_text
from stream.contract.log import Log, LogError
from stream.contract.records import NewRecord
from stream.http.problem import Problem
from stream.run.assemble import open_log, wall_clock_ms
from stream.run.front import Front
from stream.run.refit.trainer import Trainer
from stream.run.service import ReconfigurationRefused, Service
from stream.settings.schema import Config
from stream.step.roles.risk import BEATS
from stream.step.roles.scorer import ScorerEngine
from stream.tools.replay import replay_to
from tests.stream.step.roles.scaled import of_role, raw
from tests.stream.step.roles.test_trained import LINEAR, TREES
from tests.support.broker import unique
from tests.support.factory import DAY_MS, event, label
from tests.support.runner import running
from tests.support.waiting import wait_until

pytestmark = pytest.mark.kafka
TOPICS = ("events", "labels", "control", "scores", "dead_letters", "audit")


@pytest.fixture
def tree(tmp_path: Path, kafka_bootstrap: str) -> dict[str, Any]:
    """The file of a service of two scorers, with topics of its own."""
    topics = {name: unique(name) for name in TOPICS}
    return raw(tmp_path, 2, kafka_bootstrap, name=unique("service"), topics=topics) | {
        "topics": topics | {"partitions": 4}
    }


def made(config: Config) -> None:
    """The topics of a process, made where they are missing."""
    log = open_log(config, wall_clock_ms)
    try:
        log.create_topics()
    finally:
        log.close()


def test_a_service_scores_and_learns_over_kafka(tree: dict[str, Any]) -> None:
    """Both scorers score their share and take the learner's version over, and neither takes the
    other for a stranger on the topic of scores."""
    configs = [of_role(tree, "scorer", 0), of_role(tree, "scorer", 1), of_role(tree, "learner")]
    n, topics = 80, configs[0].topics

    def records(make: Callable[[int], dict[str, Any]]) -> list[NewRecord]:
        return [NewRecord(None, json.dumps(make(i)).encode(), i % 4) for i in range(n)]

    with running(configs[2]) as learner, running(configs[0]) as one, running(configs[1]) as other:
        one.log.append(topics.events, records(event))
        one.log.append(topics.labels, records(label))

        def known() -> bool:
            engines = [service.engine for service in (learner, one, other)]
            newest = {engine.versions.current for engine in engines}  # type: ignore[union-attr]
            [current, *others] = newest
            learned = engines[0].counts["learned"]  # type: ignore[union-attr]
            return learned == n and not others and current.number > 0

        wait_until(known, "one version, by number and digest, everywhere")
        for service in (one, other):
            assert service.engine is not None
            assert service.engine.counts["scored"] == n // 2
    log = open_log(configs[0], wall_clock_ms)
    try:
        assert log.others() == []
    finally:
        log.close()


def test_the_learner_trains_and_scorers_score_by_its_model(tree: dict[str, Any]) -> None:
    """A process beside the learner trains; records of scores say what the model says, bit for bit;
    a replay of each process takes over what it took over."""
    tree["members"] = [LINEAR, TREES]
    configs = [of_role(tree, "scorer", 0), of_role(tree, "scorer", 1), of_role(tree, "learner")]
    topics = configs[0].topics
    first, n, last = 240, 560, 600  # it falls due 300 minutes after some are learned

    def told(log: Log, rows: range, *kinds: tuple[str, Callable[[int], dict[str, Any]]]) -> None:
        for topic, make in kinds:
            log.append(topic, [NewRecord(None, json.dumps(make(i)).encode(), i % 4) for i in rows])

    with running(configs[2]) as learner, running(configs[0]) as one, running(configs[1]) as other:
        Trainer(learner).start()
        engines: list[Any] = [service.engine for service in (learner, one, other)]
        kinds = (topics.events, event), (topics.labels, label)
        told(one.log, range(first), *kinds)
        wait_until(lambda: engines[0].counts["learned"] == first, "rows to train on")
        told(one.log, range(first, n), *kinds)

        def installed() -> bool:
            models = {engine.ensemble.members["trees"].digest() for engine in engines}
            return engines[0].auditor.written["installed"] > 0 and len(models) == 1

        wait_until(installed, "one model, in all places")
        wait_until(lambda: engines[0].counts["learned"] == n, "all rows")
        assert [len(engine.history) for engine in engines] == [n, 0, 0]
        told(one.log, range(n, last), kinds[0])
        wait_until(lambda: len(one.log.tail(topics.scores, 1000)) == last, "their scores")
        scores = [json.loads(r.value or b"") for r in one.log.tail(topics.scores, 1000)]
        said = {score["id"]: score["members"]["trees"] for score in scores}
        model, number = engines[0].ensemble.members["trees"], 0
        for engine in engines[1:]:
            ids = np.array([hash_text(f"e{i}") for i in range(n, last)], np.uint64)
            held = engine.pending.find(ids)
            rows = engine.pending.take(held[held >= 0])
            x = FeatureBatch(engine.features.schema, rows["dense"].copy(), rows["hashed"].copy())
            expected = engine.task.output(model.score(x))[:, 0].tolist()
            own = np.flatnonzero(held >= 0) + n
            assert [said[f"e{i}"] for i in own] == expected
            number += len(own)
        assert number == last - n
    for config in configs:
        log = open_log(config, wall_clock_ms)
        tail = log.journal_tail()
        log.close()
        assert tail is not None
        replayed = replay_to(config, tail.seq, None, from_start=True)
        assert replayed["digest"] == replayed["journal_digest"]


def test_a_scorer_goes_on_with_the_newest_version_though_older_ones_are_gone(
    tree: dict[str, Any], kafka_bootstrap: str
) -> None:
    """One that was stopped in order needs none of those that were published meanwhile."""
    configs = [of_role(tree, "scorer", 0), of_role(tree, "scorer", 1), of_role(tree, "learner")]
    topics, models = configs[0].topics, (configs[0].models_topic, 0)

    def told(services: list[Service], first: int) -> None:
        """Events and labels of the running scorers, and a version of them everywhere."""
        by = len(services) - 1
        for topic, make in ((topics.events, event), (topics.labels, label)):
            records = [
                NewRecord(None, json.dumps(make(i)).encode(), i % by)
                for i in range(first, first + 20)
            ]
            services[0].log.append(topic, records)
        done = lambda: services[-1].engine.counts["learned"] == first + 20  # type: ignore[union-attr]  # noqa: E731
        wait_until(done, "the labels to be learned")
        newest = lambda: len({s.engine.versions.current for s in services}) == 1  # type: ignore[union-attr]  # noqa: E731
        wait_until(newest, "the newest version everywhere")

    with running(configs[2]) as learner:
        with running(configs[1]) as other, running(configs[0]) as one:
            told([one, other, learner], 0)
        with running(configs[0]) as one:
            told([one, learner], 20)
            told([one, learner], 40)
            newest = one.engine.versions.current  # type: ignore[union-attr]
            at = learner.log.tail(models[0], 1)[0].offset
    admin = KafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    admin.delete_records({TopicPartition(*models): at})
    admin.close()
    with running(configs[1]) as other:
        wait_until(lambda: other.engine.versions.current == newest, "it")  # type: ignore[union-attr]


def test_a_scorer_without_events_beats_for_the_others(tree: dict[str, Any]) -> None:
    """Events of one scorer alone: the other tells all the same that there is nothing of its own."""
    shop = {"name": "shop", "type": "risk", "entity": "terminal", "delay": "1d", "windows": ["3d"]}
    tree["features"] = [*tree["features"], shop]
    configs = [of_role(tree, "scorer", i) for i in range(2)]
    with running(configs[0]) as one, running(configs[1]) as other:
        engine = one.engine
        assert isinstance(engine, ScorerEngine)
        sharing = engine.sharing
        assert sharing is not None
        records = [NewRecord(None, json.dumps(event(i)).encode(), 0) for i in range(20)]
        one.log.append(one.config.topics.events, records)
        wait_until(lambda: engine.counts["scored"] == 20, "the scores")
        # It tells so again once the stream has moved by a part of the delay: of 20 min here once.
        near_ms = DAY_MS // BEATS
        wait_until(lambda: sharing.told_ms[1] >= engine.watermark_ms - near_ms, "the other's beat")
        assert other.engine is not None
        assert other.engine.counts["scored"] == 0


def test_a_service_lets_labels_stand_anywhere_from_now_on(tree: dict[str, Any]) -> None:
    """By another file at the next start; events from before are known to their ids' owners. There
    is no way back."""
    n, topics = 40, of_role(tree, "scorer").topics

    def both(tree: dict[str, Any], topic: str, values: list[Any], step: int, count: str) -> None:
        with running(of_role(tree, "scorer", 0)) as one, running(of_role(tree, "scorer", 1)) as two:
            records = [
                NewRecord(None, json.dumps(value).encode(), i * step % 4)
                for i, value in enumerate(values)
            ]
            one.log.append(topic, records)
            engines = [service.engine for service in (one, two)]
            wait_until(lambda: sum(e.counts[count] for e in engines if e) == n, count)

    both(tree, topics.events, [event(i) for i in range(n)], 1, "scored")
    anywhere = tree | {"shard": tree["shard"] | {"labels": "any"}}
    both(anywhere, topics.labels, [label(i) for i in range(n)], 3, "labels.joined")
    back = pytest.raises(LogError, match=r"shard\.labels: expected 'any'.*the same file")
    with back, running(of_role(tree, "scorer", 0)):
        pass


def test_examples_of_another_file_are_not_let_go_unasked(tree: dict[str, Any]) -> None:
    """The learner of a new file says that some of the old one wait; the old one takes them, and
    then the new one has members for its scorers before any label comes."""
    more = tree | {"members": [*tree["members"], {"name": "boost", "type": "boosting"}]}
    scorer, learner = of_role(tree, "scorer"), of_role(tree, "learner")
    made(learner)
    topics = scorer.topics

    def count(service: Service, name: str) -> int:
        assert service.engine is not None
        return service.engine.counts[name]

    def told(start: int, end: int) -> None:
        with running(scorer) as one:
            for topic, make in ((topics.events, event), (topics.labels, label)):
                values = [json.dumps(make(i)).encode() for i in range(start, end)]
                one.log.append(topic, [NewRecord(None, value, 0) for value in values])
            wait_until(lambda: count(one, "labels.joined") == end, "the labels")

    def learned(n: int) -> None:
        with running(learner) as service:
            wait_until(lambda: count(service, "learned") == n, "the examples")

    told(0, 20)
    learned(20)
    told(20, 21)
    unread = r"stays unread: . offsets of examples-.*run under the old file until it has caught up"
    with pytest.raises(ReconfigurationRefused, match=unread), running(of_role(more, "learner")):
        pass
    learned(21)
    with running(of_role(more, "learner")) as two, running(of_role(more, "scorer")) as one:
        engines: list[Any] = [two.engine, one.engine]
        before = engines[1].versions.current
        wait_until(lambda: engines[1].versions.current.number > before.number, "a version")
        assert engines[1].versions.current == engines[0].versions.current


def test_a_scorer_to_which_others_hand_labels_takes_them(tree: dict[str, Any]) -> None:
    """One that would not, by another file, ends as soon as it learns of that: the labels would wait
    for ever."""
    tree["topics"] |= {"metadata_age": "50ms"}
    anywhere = tree | {"shard": tree["shard"] | {"labels": "any"}}

    def meets() -> None:
        with running(of_role(tree, "scorer", 1)) as one:
            made(of_role(anywhere, "scorer", 0))
            wait_until(lambda: one.health.state == "stopped", "its end")

    with pytest.raises(LogError, match="others hand labels on"):
        meets()


@pytest.mark.parametrize(
    ("changes", "topic", "why"),
    [
        ({"shard": {"count": 1, "every": "1ms"}}, "examples-", "the number of scorers"),
        ({"partitions": 6}, "events-", "entities have moved without their windows"),
        ({"labels": 3}, "labels-", r"where labels cannot, write shard\.labels = 'any'"),
    ],
)
def test_another_layout_than_the_topics_have_is_refused(
    tree: dict[str, Any], changes: dict[str, Any], topic: str, why: str
) -> None:
    """Another number of scorers than the service began with, events spread anew, and labels that
    are spread otherwise; those may stand anywhere."""
    begun = tree
    if many := changes.get("labels"):
        begun = anywhere = tree | {"shard": tree["shard"] | {"labels": "any"}}
        own = {"labels": tree["topics"]["labels"], "partitions": many}
        other = {name: unique(name) for name in TOPICS}
        made(of_role(anywhere | {"name": unique("service"), "topics": other | own}, "scorer"))
    made(of_role(begun, "scorer"))
    shard = changes.get("shard", tree["shard"])
    topics = tree["topics"] | {"partitions": changes.get("partitions", 4)}
    with pytest.raises(LogError, match=f"topic {topic}.*{why}"):
        made(of_role(tree | {"shard": shard, "topics": topics}, "scorer"))


def test_http_takes_no_events_for_others(tree: dict[str, Any]) -> None:
    """A scorer would score what belongs to another, and answer by windows that it does not have."""
    for role in ("scorer", "learner"):
        service = Service(of_role(tree, role))
        try:
            front = Front(service)
            with pytest.raises(Problem, match="expected a service of one process"):
                front.append(service.config.topics.events, [NewRecord(None, b"{}")])
            with pytest.raises(Problem, match="expected a service of one process"):
                front.what_if([NewRecord(None, b"{}")], 1.0)
        finally:
            service.log.close()
            service.registry.close()

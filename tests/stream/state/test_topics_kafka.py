"""Topics that change under a service: grown, deleted, made anew, on a real broker."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from structlog.testing import capture_logs

from monitoring.audit.trail import Exit
from stream.contract.log import OutOfRetention
from stream.run import health
from stream.run.service import Service
from stream.settings.schema import Config
from stream.state.generations import list_generations
from stream.state.topics import TopicsChanged
from stream.tools.audit.score import explain_score
from stream.tools.audit.verify import verify_trail
from stream.tools.replay import replay_to
from tests.faults.worker import Worker
from tests.stream.cli.test_cli import toml
from tests.stream.run.test_service_kafka import consume, kafka, produce
from tests.support.factory import event, label, raw_config
from tests.support.log_harness import kafka_table
from tests.support.runner import caught_up, running
from tests.support.waiting import wait_until

pytestmark = pytest.mark.kafka
__all__ = ["kafka"]


@pytest.fixture
def admin(kafka_bootstrap: str) -> Iterator[Any]:
    """An administrative client, as an operator has one."""
    client = KafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    yield client
    client.close()


@pytest.fixture(params=["kafka-python", "confluent"])
def watched(kafka: Config, request: pytest.FixtureRequest) -> Config:
    """A configuration of a service that looks at its topics all the time, by either client."""
    topics = kafka.topics.model_copy(update={"metadata_age": 50})
    log = kafka.log.model_copy(update={"client": request.param})
    return kafka.model_copy(update={"topics": topics, "log": log})


def delete(admin: Any, topic: str) -> None:
    admin.delete_topics([topic])
    gone = lambda: topic not in admin.list_topics()  # noqa: E731
    wait_until(gone, f"{topic} to be gone")


def make(admin: Any, topic: str, partitions: int) -> None:
    admin.create_topics({topic: {"num_partitions": partitions, "replication_factor": 1}})
    admin.wait_for_topics([topic])


def ended(c: Config, act: Callable[[], None]) -> tuple[Service, TopicsChanged]:
    """A service that took 20 events and was ended by what was done to its topics, and why."""
    taken: list[Service] = []
    try:
        with running(c) as service:
            taken.append(service)
            produce(c, c.topics.events, [event(i) for i in range(20)])
            caught_up(service, 20)
            act()
            wait_until(lambda: service.health.state == "stopped", "the end of the service")
    except TopicsChanged as error:
        return taken[0], error
    raise AssertionError("the service went on")


def scored(c: Config) -> list[str]:
    """The ids of all events that were scored, sorted."""
    return sorted((r.key or b"").decode() for r in consume(c, c.topics.scores))


def ids(*numbers: int) -> list[str]:
    return sorted(f"e{i}" for i in numbers)


def test_an_input_made_anew_while_the_service_was_down_is_not_taken_for_the_old(
    kafka: Config, admin: Any
) -> None:
    """It says what happened, what is lost, and how to go on; accepted, all of the new is read."""
    topic = kafka.topics.events
    with running(kafka) as service:
        produce(kafka, topic, [event(i) for i in range(20)])
        caught_up(service, 20)
    delete(admin, topic)
    make(admin, topic, 1)
    produce(kafka, topic, [event(i) for i in range(100, 160)])
    with pytest.raises(TopicsChanged) as refused, running(kafka):
        pass
    assert f"{topic}: was deleted and made anew" in str(refused.value)
    assert "it was read up to offset" in str(refused.value)
    assert "--accept-changes" in str(refused.value)
    with running(kafka, accept_changes=True) as service:
        caught_up(service, 80)
    with running(kafka) as service:
        produce(kafka, kafka.topics.labels, [label(i) for i in (1, 101)])
        caught_up(service, 82)
        assert service.engine is not None
        assert service.engine.counts["labels.joined"] == 2
        seq, digest = service.engine.seq, service.engine.digest
    assert scored(kafka) == ids(*range(20), *range(100, 160))
    assert replay_to(kafka, seq, None, from_start=False)["digest"] == digest
    assert explain_score(kafka, "e1")["exit"] == Exit.MISSING
    with pytest.raises(TopicsChanged, match=f"step 1 took {topic}/. offsets 0"):
        replay_to(kafka, seq, None, from_start=True)


def test_steps_whose_input_is_gone_are_left_out_when_that_is_accepted(
    kafka: Config, admin: Any
) -> None:
    """A crash leaves steps that only their input could do again: without it the state before them
    goes on, for good and in every replay; what others taught stays."""
    topic, joined = kafka.topics.events, "labels.joined"
    for first in (0, 20):
        with running(kafka) as service:
            produce(kafka, topic, [event(i) for i in range(first, first + 20)])
            caught_up(service, first + 20)
    last = service.committer.committed_seq
    for newest in list_generations(kafka.state_dir)[:-1]:  # as if it had crashed before that
        shutil.rmtree(newest)
    [oldest] = list_generations(kafka.state_dir)
    delete(admin, topic)
    with pytest.raises(TopicsChanged, match="it cannot be done again") as refused, running(kafka):
        pass
    assert f"the state of step {int(oldest.name)} goes on" in str(refused.value)
    with running(kafka, accept_changes=True) as service:
        assert service.recovered is not None
        assert service.recovered.skipped_steps == last - int(oldest.name)
        produce(kafka, kafka.topics.labels, [label(i) for i in (1, 25)])
        wait_until(lambda: service.engine and service.engine.counts[joined] == 1, "the label")
        produce(kafka, topic, [event(i) for i in range(100, 110)])
        wait_until(lambda: service.engine and service.engine.counts["scored"] == 30, "scores")
    assert service.engine is not None
    seq, digest = service.engine.seq, service.engine.digest
    assert scored(kafka) == ids(*range(40), *range(100, 110))
    for newest in list_generations(kafka.state_dir)[:-1]:
        shutil.rmtree(newest)
    found = replay_to(kafka, seq, None, from_start=False)
    assert (found["from_checkpoint"], found["digest"]) == (int(oldest.name), digest)
    assert verify_trail(kafka, None, None, None, checkpoints=True)["outcome"] == "ok"
    told = explain_score(kafka, "e39")
    assert (told["exit"], told["replay"][-9:]) == (Exit.MISSING, " are gone")


def test_partitions_that_are_added_join_the_input(watched: Config, admin: Any) -> None:
    """While the service runs and while it is down: journaled, scored, with a lag of their own."""
    topic = watched.topics.events
    with running(watched) as service:
        produce(watched, topic, [event(i) for i in range(20)])
        caught_up(service, 20)
        admin.create_partitions({topic: 6})
        wait_until(lambda: (topic, 5) in service.topics.standing.positions, "the partitions")
        produce(watched, topic, [event(i) for i in range(20, 80)])
        caught_up(service, 80)
        wait_until(lambda: (topic, 5) in service.lag, "the lag of partition 5")
    admin.create_partitions({topic: 8})
    produce(watched, topic, [event(i) for i in range(80, 120)])
    with running(watched) as service:
        caught_up(service, 120)
        assert service.engine is not None
        seq, digest = service.engine.seq, service.engine.digest
    assert scored(watched) == ids(*range(120))
    assert len(service.topics.standing.positions) == 8 + 2 + 1
    assert replay_to(watched, seq, None, from_start=True)["digest"] == digest


def of_one_partition(c: Config) -> Config:
    """The same with events in one place."""
    return c.model_copy(update={"topics": c.topics.model_copy(update={"partitions": 1})})


def test_records_that_were_deleted_unread_are_told_and_let_go_when_that_is_accepted(
    kafka: Config, admin: Any
) -> None:
    """The start after it goes on as ever, and so does a replay."""
    kafka = of_one_partition(kafka)
    topic = kafka.topics.events
    with running(kafka) as service:
        produce(kafka, topic, [event(i) for i in range(20)])
        caught_up(service, 20)
    produce(kafka, topic, [event(i) for i in range(20, 60)])
    admin.delete_records({TopicPartition(topic, 0): 35})
    with pytest.raises(OutOfRetention) as refused, running(kafka):
        pass
    assert f"{topic}/0: offset 20 was deleted, the oldest retained is 35" in str(refused.value)
    assert "--accept-changes" in str(refused.value)
    with capture_logs() as told, running(kafka, accept_changes=True) as service:
        caught_up(service, 45)
    [lost] = [line for line in told if line["event"] == "records_lost"]
    assert (lost["topic"], lost["first"], lost["end"]) == (topic, 20, 35)
    with running(kafka) as service:
        produce(kafka, topic, [event(60)])
        caught_up(service, 46)
        assert service.engine is not None
        seq, digest = service.engine.seq, service.engine.digest
    assert scored(kafka) == ids(*range(20), *range(35, 61))
    assert verify_trail(kafka, None, None, None, checkpoints=True)["outcome"] == "ok"
    assert replay_to(kafka, seq, None, from_start=False)["digest"] == digest


def test_nothing_is_lost_where_only_a_marker_was_deleted(kafka: Config, admin: Any) -> None:
    """Behind the newest record of a transactional producer stands one, which nobody reads."""
    kafka = of_one_partition(kafka)
    topic, log = kafka.topics.events, kafka.log
    producer = KafkaProducer(
        bootstrap_servers=log.bootstrap,  # type: ignore[union-attr]
        transactional_id=kafka.name + "-producer",
    )
    producer.init_transactions()
    with running(kafka) as service:
        producer.begin_transaction()
        producer.send(topic, json.dumps(event(1)).encode(), partition=0)
        producer.commit_transaction()
        caught_up(service, 1)
        passed = lambda: service.log.done({(topic, 0): 1}).get((topic, 0)) == 2  # noqa: E731
        wait_until(passed, "an idle look that passes the marker")
    producer.close()
    admin.delete_records({TopicPartition(topic, 0): 2})
    produce(kafka, topic, [event(2)])
    with running(kafka) as service:
        caught_up(service, 2)
    assert scored(kafka) == ids(1, 2)


@pytest.mark.parametrize("role", ["events", "scores", "journal"])
def test_a_topic_that_is_deleted_ends_the_service_in_order(
    watched: Config, admin: Any, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a sentence, and with the state saved wherever it still can be."""
    if role == "journal":  # nothing can be: how long that is tried is no matter here
        monkeypatch.setattr(health, "GRACE_S", 0.1)
    topic = watched.journal_topic if role == "journal" else getattr(watched.topics, role)
    service, error = ended(watched, lambda: delete(admin, topic))
    assert f"{topic}: was deleted" in str(error)
    if role == "events":
        assert service.engine is not None
        newest = list_generations(watched.state_dir)[0]
        assert int(newest.name) == service.engine.seq
    if role == "scores":  # nobody's state: it is made anew
        with running(watched) as service:
            produce(watched, watched.topics.events, [event(i) for i in range(20, 30)])
            caught_up(service, 30)
        assert scored(watched) == ids(*range(20, 30))


def test_nothing_is_taken_of_an_input_made_anew(watched: Config, admin: Any) -> None:
    """Whoever fetches by name would go on in the middle of it until the next look at the topics."""
    seldom = watched.topics.model_copy(update={"metadata_age": 3_600_000})
    c, topic = watched.model_copy(update={"topics": seldom}), watched.topics.events

    def anew() -> None:
        delete(admin, topic)
        make(admin, topic, 2)
        produce(c, topic, [event(i) for i in range(100, 200)])

    _, error = ended(c, anew)
    assert f"{topic}: was deleted and made anew" in str(error)
    assert scored(c) == ids(*range(20))


@pytest.mark.parametrize("role", ["events", "control", "audit"])
def test_a_topic_made_anew_ends_a_running_service(watched: Config, admin: Any, role: str) -> None:
    """It neither waits for the old one nor goes on with the new one as if it were that."""
    topic = getattr(watched.topics, role)

    def anew() -> None:
        delete(admin, topic)
        make(admin, topic, 2 if role == "events" else 1)

    _, error = ended(watched, anew)
    assert f"{topic}: was deleted" in str(error)
    produce(watched, watched.topics.events, [event(i) for i in range(100, 130)])
    with (
        pytest.raises(TopicsChanged, match=f"{topic}: was deleted and made anew"),
        running(watched),
    ):
        pass
    with running(watched, accept_changes=True) as service:
        caught_up(service, 50)
    assert scored(watched) == ids(*range(20), *range(100, 130))


def test_the_process_ends_with_the_sentence_and_status_3(
    kafka: Config, admin: Any, tmp_path: Path
) -> None:
    """While it runs, and at the next start: a supervisor need not try again."""
    topic = kafka.topics.events
    topics = kafka.topics.model_dump(exclude_none=True) | {"metadata_age": "50ms"}
    log = kafka_table(kafka.log.bootstrap)  # type: ignore[union-attr]
    file = tmp_path / "c.toml"
    file.write_text(toml(raw_config(tmp_path, name=kafka.name, log=log, topics=topics)))
    with Worker(file) as worker:
        worker.wait_for("restored")
        produce(kafka, topic, [event(1)])
        wait_until(lambda: scored(kafka), "a score")
        delete(admin, topic)
        assert worker.wait() == 3
    assert f"{topic}: was deleted" in "\n".join(worker.errors)
    make(admin, topic, 1)
    with Worker(file) as worker:
        assert worker.wait() == 3
    assert f"{topic}: was deleted and made anew" in "\n".join(worker.errors)


def test_two_services_that_write_one_topic_of_scores_are_told(
    watched: Config, tmp_path: Path
) -> None:
    """Each of the other, while it writes: in the log, by probes, and as a number."""
    own = {"name": f"{watched.name}-b", "state_dir": tmp_path / "b"}
    other = watched.model_copy(update=own)
    with running(watched) as first:
        produce(watched, watched.topics.events, [event(i) for i in range(20)])
        caught_up(first, 20)
        assert first.topics.others == []
        with capture_logs() as told, running(other) as second:
            caught_up(second, 20)
            for service, by in ((second, watched.name), (first, other.name)):
                sentence = f"{watched.topics.scores} is also written by millrace-{by}"
                wait_until(lambda: sentence in service.health.ready()[1], sentence)  # noqa: B023
                assert service.health.ready()[0]
    assert sorted(t["by"] for t in told if t["event"] == "scores_shared") == sorted(
        [[f"millrace-{watched.name}"], [f"millrace-{other.name}"]]
    )


def test_a_state_without_its_journal_is_refused(kafka: Config, admin: Any) -> None:
    """Nothing is begun anew, scored again or set aside; accepting changes does not help."""
    with running(kafka) as service:
        produce(kafka, kafka.topics.events, [event(i) for i in range(20)])
        caught_up(service, 20)
    before = list_generations(kafka.state_dir)
    delete(admin, kafka.journal_topic)
    for accept in (False, True):
        with (
            pytest.raises(TopicsChanged, match="journal of this state is gone"),
            running(kafka, accept_changes=accept),
        ):
            pass
    assert list_generations(kafka.state_dir) == before
    assert scored(kafka) == ids(*range(20))


def test_a_retention_shorter_than_a_restart_may_need_is_told(
    kafka: Config, admin: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """A warning at the start and a series below zero; without a limit there is room for ever."""
    short = kafka.topics.events
    new = {"num_partitions": 1, "replication_factor": 1, "configs": {"retention.ms": "60000"}}
    admin.create_topics({short: new})
    with running(kafka) as service:
        margin_s = service.topics.margin_s
    needed_s = kafka.checkpoints.keep * kafka.checkpoints.interval / 1000
    assert margin_s[short] == 60 - needed_s < 0
    assert margin_s[kafka.journal_topic] == math.inf
    assert "retention_short" in capsys.readouterr().out


def test_scores_may_have_fewer_partitions_than_events(
    kafka: Config, admin: Any, tmp_path: Path
) -> None:
    """Each event is scored, whatever partition it stands in."""
    make(admin, kafka.topics.events, 12)
    make(admin, kafka.topics.scores, 4)
    with running(kafka) as service:
        produce(kafka, kafka.topics.events, [event(i) for i in range(60)])
        caught_up(service, 60)
    assert scored(kafka) == ids(*range(60))

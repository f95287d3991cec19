"""The daemon on a real Kafka broker, seen through kafka-python as a user's own programs see it."""

from __future__ import annotations

import json
import subprocess
import tomllib
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest
from confluent_kafka import Producer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from rich.console import Console

from stream.demo.kinds import KINDS, KindName
from stream.demo.simulator import NEVER
from stream.settings.load import parse
from stream.settings.schema import Config, MemberSettings, RegistrySettings, ScoresSettings
from stream.tools.audit.score import explain_score
from stream.tools.past.backfill import backfill
from stream.tools.replay import replay_to
from tests.stream.cli.test_cli import COMMAND, toml
from tests.support.broker import java
from tests.support.factory import config, event, label, raw_config
from tests.support.log_harness import kafka_table
from tests.support.runner import caught_up, running
from tests.support.schemas.registry import registry
from tests.support.waiting import DEADLINE_S, wait_until

pytestmark = pytest.mark.kafka


@pytest.fixture
def kafka(tmp_path: Path, kafka_bootstrap: str) -> Config:
    """A configuration with topics of its own on the broker, two partitions each."""
    name = f"t{uuid.uuid4().hex[:8]}"
    topics = {
        t: f"{name}-{t}" for t in ("events", "labels", "control", "scores", "dead_letters", "audit")
    }
    return config(
        tmp_path,
        name=name,
        log=kafka_table(kafka_bootstrap),
        topics=topics | {"partitions": 2},
    )


def produce(c: Config, topic: str, values: list[Any]) -> None:
    producer = KafkaProducer(bootstrap_servers=c.log.bootstrap)  # type: ignore[union-attr]
    for value in values:
        raw = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
        producer.send(topic, raw, key=str(uuid.uuid4()).encode())
    producer.flush()
    producer.close()


def consume(c: Config, topic: str) -> list[Any]:
    """Every committed record of a topic."""
    consumer = KafkaConsumer(
        bootstrap_servers=c.log.bootstrap,  # type: ignore[union-attr]
        isolation_level="read_committed",
        enable_auto_commit=False,
    )
    partitions = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic) or ()]
    consumer.assign(partitions)
    consumer.seek_to_beginning()
    ends = consumer.end_offsets(partitions)
    found: list[Any] = []

    def ended() -> bool:
        for records in consumer.poll(timeout_ms=200).values():
            found.extend(records)
        return all(consumer.position(p) >= ends[p] for p in partitions)

    wait_until(ended, f"the end of {topic}")
    consumer.close()
    return found


@pytest.mark.parametrize("kind", ["triage", "arrival"])
def test_the_examples_of_classes_and_numbers_run(kafka: Config, kind: KindName) -> None:
    """Each event has one score of its target, and what one life learns serves the next: labels of
    the first let members score, those of scores they made in the second say what to promise."""
    raw = tomllib.loads(Path(f"examples/{kind}.toml").read_text())
    whole = kafka.model_dump(mode="json")
    taken = {key: whole[key] for key in ("name", "log", "topics", "state_dir")}
    c = parse(raw | taken, kind)
    made = KINDS[kind].make(3, 4000, drift=False, events=800)  # so many that all are of one day
    writing = KINDS[kind].writing
    rows = next(made.chunks(800)).events
    taken_in = labelled = 0
    for part in (rows[:200], rows[200:400], rows[400:]):
        known = part[part["reported_at_ms"] != NEVER]
        labelled += len(known)
        with running(c) as service:
            produce(c, c.topics.events, [r.value for r in writing.events(part, 3)])
            produce(c, c.topics.labels, [r.value for r in writing.labels(known, 3)])
            taken_in += len(part) + len(known)
            caught_up(service, taken_in)
            assert service.engine is not None
            assert service.engine.counts["labels.joined"] == labelled
    found = [json.loads(r.value) for r in consume(c, c.topics.scores)]
    assert len({s["id"] for s in found}) == len(found) == len(rows)
    assert not consume(c, c.topics.dead_letters)
    told = [s for s in found if not s.get("cold")]
    assert len(told) >= 600
    if kind == "triage":
        assert all(sum(s["probabilities"].values()) == pytest.approx(1.0) for s in told)
        assert all(s["set"] for s in told[-100:])
    else:
        assert all(s["interval"][0] <= s["score"] <= s["interval"][1] for s in told[-100:])


def test_a_shop_is_answered_once_over_kafka(kafka: Config) -> None:
    """Each request of two lives has one answer; the second knows what the first one learned."""
    raw = tomllib.loads(Path("examples/shop.toml").read_text())
    whole = kafka.model_dump(mode="json")
    taken = {key: whole[key] for key in ("name", "log", "topics", "state_dir")}
    c = parse(raw | taken, "shop")
    made = KINDS["shop"].make(3, 200, drift=False, events=800)
    rows = next(made.chunks(800)).events
    events = KINDS["shop"].writing.events(rows, 3)
    for end in (400, 800):
        with running(c) as service:
            produce(c, c.topics.events, [r.value for r in events[end - 400 : end]])
            caught_up(service, end)
    asked = [json.loads(r.value or b"") for r in events]
    requests = [one["id"] for one in asked if one["event"] == "recommend"]
    found = [json.loads(r.value) for r in consume(c, c.topics.scores)]
    assert requests
    assert sorted(one["id"] for one in found) == sorted(requests)
    assert not consume(c, c.topics.dead_letters)
    assert any(not one["fallback"] for one in found)


def test_a_new_member_learns_from_what_the_topics_hold(kafka: Config, tmp_path: Path) -> None:
    """Beside the running service, from the first step on; the journal replays over the switch."""
    crossed = MemberSettings(name="crossed", type="crossed")
    new = kafka.model_copy(update={"members": (*kafka.members, crossed)})
    with running(kafka) as service:
        produce(kafka, kafka.topics.events, [event(i) for i in range(120)])
        produce(kafka, kafka.topics.labels, [label(i) for i in range(100)])
        caught_up(service, 220)
        found = backfill(new, None, Console(quiet=True))
    assert (found["from_step"], found["records"], found["scored"]) == (1, 220, 120)
    with running(new) as service:
        engine = service.engine
        assert engine is not None
        assert engine.counts["updates.crossed"] == 0
        produce(new, new.topics.labels, [label(i) for i in range(100, 120)])
        caught_up(service, 240)
        assert engine.counts["updates.crossed"] == 20
        seq = engine.seq
    replayed = replay_to(new, seq, None, from_start=True)
    assert replayed["digest"] == replayed["journal_digest"]


def test_input_goes_on_from_a_renamed_topic(kafka: Config, tmp_path: Path) -> None:
    """The new topic is read from its beginning; the journal replays over the switch."""
    with running(kafka) as service:
        produce(kafka, kafka.topics.events, [event(i) for i in range(60)])
        caught_up(service, 60)
    renamed = kafka.topics.model_copy(update={"events": f"{kafka.name}-payments"})
    new = kafka.model_copy(update={"topics": renamed})
    with running(new) as service:
        produce(new, renamed.events, [event(i) for i in range(60, 100)])
        produce(new, renamed.labels, [label(i) for i in range(100)])
        caught_up(service, 140)
        assert service.engine is not None
        assert service.engine.counts["labels.joined"] == 100
        seq, digest = service.engine.seq, service.engine.digest
    found = replay_to(new, seq, None, from_start=True)
    assert (found["digest"], found["journal_digest"]) == (digest, digest)


def test_each_good_event_is_scored_once_and_each_bad_one_answered(kafka: Config) -> None:
    """Scores and dead letters, read committed, account for every event; labels are learned."""
    with running(kafka) as service:
        bad: list[Any] = [b"{not json", None, {"id": "x"}, event(999, amount="much")]
        produce(kafka, kafka.topics.events, [event(i) for i in range(300)] + bad)
        caught_up(service, 304)
        produce(kafka, kafka.topics.labels, [label(i) for i in range(300)])
        caught_up(service, 604)
        counts = dict(service.engine.counts)  # type: ignore[union-attr]
    scores = [json.loads(r.value) for r in consume(kafka, kafka.topics.scores)]
    assert sorted(s["id"] for s in scores) == sorted(f"e{i}" for i in range(300))
    letters = consume(kafka, kafka.topics.dead_letters)
    reasons = sorted(dict(r.headers)["reason"].decode() for r in letters)
    assert reasons == ["malformed", "null", "schema", "schema"]
    assert {r.value for r in letters} >= {b"{not json", None}
    assert counts["labels.joined"] == 300


def test_a_restart_on_kafka_replays_to_the_same_bits(kafka: Config) -> None:
    """After a second run the whole journal replays to the digests it holds."""
    produce_first = [event(i) for i in range(200)]
    with running(kafka) as service:
        produce(kafka, kafka.topics.events, produce_first)
        caught_up(service, 200)
    with running(kafka) as service:
        produce(kafka, kafka.topics.labels, [label(i) for i in range(200)])
        produce(kafka, kafka.topics.events, [event(i) for i in range(200, 300)])
        caught_up(service, 500)
        seq = service.engine.seq  # type: ignore[union-attr]
    found = replay_to(kafka, seq, None, from_start=True)
    assert found["digest"] == found["journal_digest"]
    assert replay_to(kafka, seq, None, from_start=False)["state_digest"] == found["state_digest"]
    told = explain_score(kafka, "e250")
    assert (told["exit"], told["replay"]) == (0, "the same bits")
    assert len(consume(kafka, kafka.topics.scores)) == 300


def said(*arguments: str) -> str:
    """What one of Kafka's own tools prints."""
    return subprocess.run(
        java(*arguments), capture_output=True, text=True, check=True, timeout=DEADLINE_S
    ).stdout


def test_kafkas_own_tools_read_the_scores_and_see_no_lag(kafka: Config) -> None:
    """The Java consumer, read committed: each score once, and nothing of an aborted transaction."""
    where = ["--bootstrap-server", kafka.log.bootstrap]  # type: ignore[union-attr]
    tools = "org.apache.kafka.tools.consumer"
    with running(kafka) as service:
        produce(kafka, kafka.topics.events, [event(i) for i in range(30)])
        caught_up(service, 30)
        other = KafkaProducer(bootstrap_servers=where[1], transactional_id=f"{kafka.name}-other")
        other.init_transactions()
        other.begin_transaction()
        other.send(kafka.topics.scores, b"aborted")
        other.flush()
        other.abort_transaction()
        other.close()
        produce(kafka, kafka.topics.events, [event(i) for i in range(30, 60)])
        caught_up(service, 60)
        reads = ["--topic", kafka.topics.scores, "--isolation-level", "read_committed"]
        ends = ["--from-beginning", "--max-messages", "60"]
        lines = said(f"{tools}.ConsoleConsumer", *where, *reads, *ends).splitlines()
        group = [f"{tools}.group.ConsumerGroupCommand", *where, "--describe", "--group", kafka.name]

        def lag() -> list[str]:
            rows = [line.split() for line in said(*group).splitlines() if kafka.name in line]
            return [row[5] for row in rows if row[0] == kafka.name]

        wait_until(lambda: lag() == ["0"] * 5, "a lag of 0 in each partition")
    assert sorted(json.loads(line)["id"] for line in lines) == sorted(f"e{i}" for i in range(60))


def test_an_unreachable_broker_is_waited_for(tmp_path: Path) -> None:
    """Without a broker the daemon lives, is not ready, says why, and ends in order when asked."""
    raw = raw_config(
        tmp_path,
        log=kafka_table("127.0.0.1:1", timeout="1s"),
        http={"enabled": True, "port": 0},
    )
    file = tmp_path / "c.toml"
    file.write_text(toml(raw))
    daemon = subprocess.Popen([*COMMAND, "run", str(file)], stderr=subprocess.PIPE)
    try:
        port = next(line["port"] for line in map(json.loads, daemon.stderr or ()) if "port" in line)
        base = f"http://127.0.0.1:{port}"
        wait_until(lambda: "127.0.0.1:1" in httpx.get(f"{base}/readyz").text, "the reason")
        assert httpx.get(f"{base}/readyz").status_code == 503
        assert httpx.get(f"{base}/livez").status_code == 200
    finally:
        daemon.terminate()
        daemon.communicate(timeout=DEADLINE_S)
    assert daemon.returncode == 0


@pytest.mark.parametrize("client", ["kafka-python", "confluent"])
def test_others_write_avro_with_headers_and_read_scores_so(kafka: Config, client: str) -> None:
    """Confluent's client and serializers at both ends; the trace id and the event's time pass."""
    with registry() as fake:
        asking = SchemaRegistryClient({"url": fake.url})
        settings = {"url": fake.url, "auto_register": True}
        c = kafka.model_copy(
            update={
                "log": kafka.log.model_copy(update={"client": client}),
                "event": kafka.event.model_copy(update={"format": "avro"}),
                "scores": ScoresSettings(
                    format="avro", headers=("traceparent",), timestamp="event", key="input"
                ),
                "registry": RegistrySettings.model_validate(settings),
            }
        )
        kinds = dict.fromkeys(event(0), "string") | {"time": "long", "amount": "double"}
        fields = [{"name": n, "type": kind} for n, kind in kinds.items()]
        schema = json.dumps({"type": "record", "name": "Payment", "fields": fields})
        write = AvroSerializer(asking, schema)
        producer = Producer({"bootstrap.servers": c.log.bootstrap, "log_level": 0})  # type: ignore[union-attr]
        context = SerializationContext(c.topics.events, MessageField.VALUE)
        with running(c) as service:
            for i in range(40):
                headers = [("traceparent", b"00-%d" % i), ("other", b"x")]
                raw = write(event(i), context)
                producer.produce(c.topics.events, raw, b"k%d" % i, headers=headers)
            producer.flush(DEADLINE_S)
            caught_up(service, 40)
        read = AvroDeserializer(asking)
        found = consume(c, c.topics.scores)
        scores = {r.key: (read(r.value, context)["id"], dict(r.headers)) for r in found}
    assert scores == {b"k%d" % i: (f"e{i}", {"traceparent": b"00-%d" % i}) for i in range(40)}
    assert {r.timestamp for r in found} == {event(i)["time"] for i in range(40)}

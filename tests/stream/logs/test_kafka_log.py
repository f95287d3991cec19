"""What the Kafka log promises beyond the contract: faults of the broker, doubt, retention."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition, errors
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.net.compat import KafkaNetClient
from structlog.testing import capture_logs

from stream.contract.log import Fenced, LogError, LogRefused, LogUnavailable, OutOfRetention
from stream.contract.records import JournalRecord, Range, range_of
from stream.logs.kafka import writer as kafka_writer
from stream.logs.kafka.calls import Worker
from stream.logs.kafka.clients import confluent, kafka_python
from stream.logs.kafka.clients.codec import MAX_BATCH_BYTES
from stream.logs.kafka.clients.credentials import for_confluent, for_kafka_python
from stream.logs.kafka.clients.faults import translated
from stream.logs.kafka.clients.kafka_python import KafkaPython
from stream.logs.kafka.log import KafkaLog
from stream.logs.kafka.writer import POSITION_HEADER
from stream.settings import schema as settings
from tests.support import log_harness
from tests.support.broker import Broker, BrokerUnavailable, unique
from tests.support.log_harness import (
    Store,
    eventually,
    kafka_table,
    parse,
    patiently,
    poll_all,
    step,
    texts,
    values,
)
from tests.support.tools import lacking
from tests.support.waiting import DEADLINE_S, wait_until

Make = Callable[..., Store]


CLIENTS = ("kafka-python", "confluent")
ONLY_PYTHON = pytest.mark.parametrize("client", ["kafka-python"], indirect=True)


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> str:
    """``log.client``."""
    name: str = request.param
    return name


@pytest.fixture
def make(kafka_bootstrap: str, client: str) -> Iterator[Make]:
    """Makes stores on the shared broker; closes their logs at the end."""
    stores: list[Store] = []

    def build(**options: Any) -> Store:
        stores.append(log_harness.kafka(kafka_bootstrap, client=client, **options))
        return stores[-1]

    yield build
    for store in stores:
        store.close()


def opened(store: Store) -> KafkaLog:
    """An open log, as its own class."""
    log = store.opened()
    assert isinstance(log, KafkaLog)
    return log


def scores(store: Store, log: Any) -> list[str]:
    """The scores that a reader of committed records sees."""
    return [(r.value or b"").decode() for r in log.tail(store.config.topics.scores, 100)]


class Spoiled:
    """A producer one of whose calls fails, before or after it was done."""

    def __init__(self, producer: Any, call: str, after: bool) -> None:
        self._producer, self._call, self._after = producer, call, after

    def __getattr__(self, name: str) -> Any:
        return self._fail if name == self._call else getattr(self._producer, name)

    def _fail(self, *arguments: Any) -> None:
        if self._after:
            getattr(self._producer, self._call)(*arguments)
        raise LogUnavailable(f"{self._call}: spoiled")


def spoil(log: KafkaLog, call: str, after: bool = False) -> None:
    """Make this call of the committing producer fail: doubt, and not a fencing error."""
    seat = log._writer._seat
    seat._client = Spoiled(seat._client, call, after)


def kafka_settings(**log: Any) -> tuple[settings.KafkaLogSettings, str]:
    """The ``[log]`` table, checked, and the shard's name."""
    config = parse({"type": "kafka", "bootstrap": "127.0.0.1:1"} | log)
    assert isinstance(config.log, settings.KafkaLogSettings)
    return config.log, config.name


# -- without a broker -----------------------------------------------------------------------------


def test_a_call_past_its_deadline_is_left_to_itself() -> None:
    """A stuck call raises LogUnavailable in time, and the next one gets a thread of its own."""
    worker, release = Worker("test"), threading.Event()
    with pytest.raises(LogUnavailable, match="wait: no answer within"):
        worker.call("wait", 0.05, release.wait)
    assert worker.call("next", DEADLINE_S, lambda: 7) == 7
    release.set()
    worker.stop()


def test_a_worker_gives_back_what_was_raised() -> None:
    """The exception of a call comes out in the calling thread."""
    worker = Worker("test")

    def fail() -> None:
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        worker.call("fail", DEADLINE_S, fail)
    worker.stop()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.ProducerFencedError(), Fenced),
        (errors.InvalidProducerEpochError(), Fenced),
        (errors.KafkaError("earlier request failed", errors.ProducerFencedError()), Fenced),
        (errors.KafkaTimeoutError(), LogUnavailable),
        (errors.KafkaConnectionError(), LogUnavailable),
        (errors.NotCoordinatorError(), LogUnavailable),
        (errors.CorruptRecordError("bits flipped on the way: sent again"), LogUnavailable),
        (errors.KafkaError("unknown reasons"), LogUnavailable),
        (ConnectionResetError(), LogUnavailable),
        (errors.OffsetOutOfRangeError({}), OutOfRetention),
        (errors.MessageSizeTooLargeError(), LogError),
        (errors.TopicAuthorizationFailedError(), LogRefused),
        (errors.KafkaError("earlier failed", errors.TopicAuthorizationFailedError()), LogRefused),
        (errors.SaslAuthenticationFailedError("wrong password"), LogRefused),
    ],
)
def test_errors_become_the_logs(error: Exception, expected: type[LogError]) -> None:
    """Fenced ends the process, unavailable is tried again, anything else stops with a reason."""
    with pytest.raises(LogError) as caught, translated("commit"):
        raise error
    assert type(caught.value) is expected
    assert caught.value.__cause__ is error
    assert str(caught.value).count(type(error).__name__) <= 1


TLS_AND_SASL = {
    "security_protocol": "SASL_SSL",
    "ssl_cafile": "ca.pem",
    "ssl_certfile": "cert.pem",
    "ssl_keyfile": "key.pem",
    "sasl_mechanism": "SCRAM-SHA-512",
    "sasl_username": "user",
    "sasl_password": "secret",
}


def test_credentials_reach_kafka_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """TLS and SASL settings of the configuration are those of consumer, producer and admin."""
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(kafka_python, "_made", lambda kind, **options: made.append(options))
    client = KafkaPython(*kafka_settings(bootstrap="a:1,b:2", **TLS_AND_SASL))
    client.consumer()
    client.producer(transactional=False)
    client.admin()
    expected = {
        "bootstrap_servers": ["a:1", "b:2"],
        "security_protocol": "SASL_SSL",
        "ssl_cafile": "ca.pem",
        "ssl_certfile": "cert.pem",
        "ssl_keyfile": "key.pem",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "user",
        "sasl_plain_password": "secret",
    }
    assert len(made) == 3
    for options in made:
        assert expected.items() <= options.items()


def test_credentials_reach_confluent(monkeypatch: pytest.MonkeyPatch) -> None:
    """TLS and SASL settings of the configuration are those of consumer and producer."""
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(confluent, "RawConsumer", made.append)
    monkeypatch.setattr(confluent, "RawProducer", made.append)
    client = confluent.Confluent(*kafka_settings(bootstrap="a:1,b:2", **TLS_AND_SASL))
    client.consumer()
    client.producer(transactional=False)
    expected = {
        "bootstrap.servers": "a:1,b:2",
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": "ca.pem",
        "ssl.certificate.location": "cert.pem",
        "ssl.key.location": "key.pem",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "user",
        "sasl.password": "secret",
    }
    assert len(made) == 2
    for options in made:
        assert expected.items() <= options.items()


def test_an_unchecked_host_name_is_warned_of() -> None:
    """At every start, before anything is sent."""
    insecure = {"security_protocol": "SSL", "ssl_check_hostname": False}
    log = KafkaLog(parse(kafka_table("127.0.0.1:1", timeout="1s", **insecure)), log_harness.now_ms)
    with capture_logs() as said, pytest.raises(LogUnavailable):
        log.open()
    log.close()
    assert [line["event"] for line in said] == ["host_name_unchecked"]
    python, librdkafka = (options(log._log) for options in (for_kafka_python, for_confluent))
    assert python["ssl_check_hostname"] is False
    assert librdkafka["ssl.endpoint.identification.algorithm"] == "none"


def test_no_broker_is_unavailable() -> None:
    """An address where nobody listens raises LogUnavailable at the deadline."""
    log = KafkaLog(parse(kafka_table("127.0.0.1:1", timeout="1s")), log_harness.now_ms)
    with pytest.raises(LogUnavailable):
        log.open()
    log.close()


def test_a_client_that_is_not_installed_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """``log.client = "confluent"`` without the package says what to run."""
    monkeypatch.setitem(sys.modules, "stream.logs.kafka.clients.confluent", None)
    with pytest.raises(LogError, match=r'run: pip install "millrace\[confluent\]"'):
        KafkaLog(parse(kafka_table("127.0.0.1:1", client="confluent")), log_harness.now_ms)


# -- doubt ----------------------------------------------------------------------------------------


@pytest.mark.kafka
@pytest.mark.parametrize("after", [False, True], ids=["lost", "done"])
def test_an_unknown_outcome_is_resolved(make: Make, after: bool) -> None:
    """Whether or not the transaction took place before the failure, it stands once."""
    store = make()
    log = opened(store)
    log.append(store.config.topics.events, values("event"))
    taken = poll_all(log, 1)
    spoil(log, "commit", after)
    log.commit(step(1, taken, values("once")))
    log.commit(step(2, [], values("next")))
    eventually(["once", "next"], lambda: scores(store, log))
    assert [r.seq for r in log.journal()] == [1, 2]


@pytest.mark.kafka
@ONLY_PYTHON
def test_a_commit_whose_batch_the_broker_refused_is_made_again(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch out of sequence in the middle of a transaction: all of the step stands, once.

    kafka-python then starts a new epoch by itself, forgets the transaction, and says that the
    commit succeeded: half a step, or none, would be taken for a whole one.
    """
    store = make()
    send = kafka_writer.send_journal
    spoiled: list[TopicPartition] = []

    def out_of_sequence(producer: Any, topic: str, journal: JournalRecord) -> None:
        if journal.seq == 2 and not spoiled:
            spoiled.append(TopicPartition(topic, 0))
            producer._raw._transaction_manager.set_sequence_number(spoiled[0], 7)
        send(producer, topic, journal)

    monkeypatch.setattr(kafka_writer, "send_journal", out_of_sequence)
    log = store.opened()
    for seq, value in enumerate("abc", 1):
        log.append(store.config.topics.events, values(value))
        log.commit(step(seq, poll_all(log, 1), values(value)))
    log.close()
    again = store.opened()  # ends or aborts whatever was left open
    assert [record.seq for record in again.journal()] == [1, 2, 3]
    assert [r.value for r in again.tail(store.config.topics.scores, 10)] == [b"a", b"b", b"c"]


@pytest.mark.kafka
@ONLY_PYTHON
def test_no_request_is_lost_while_a_coordinator_moves(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each coordinator is away once, when it is asked: the commit goes on in the same attempt."""
    store = make()
    log = opened(store)
    log.append(store.config.topics.events, values("event"))
    taken = poll_all(log, 1)
    ready, away = KafkaNetClient.await_ready, set[str]()

    def moved(self: Any, node: Any, timeout_ms: float = 30_000) -> Any:
        if str(node).startswith("coordinator") and len(away) < 3:
            away.add(f"{node} {len(away)}")
            raise errors.KafkaConnectionError(f"node {node} is away")
        return ready(self, node, timeout_ms)

    monkeypatch.setattr(KafkaNetClient, "await_ready", moved)
    log.commit(step(1, taken, values("once")))
    assert len(away) == 3
    eventually(["once"], lambda: scores(store, log))


@pytest.mark.kafka
def test_a_fenced_producer_is_not_replaced(make: Make) -> None:
    """After a fencing error no new producer is made, which would fence the rightful owner."""
    store = make()
    old = opened(store)
    new = opened(store)
    for _ in range(2):
        with pytest.raises(Fenced):
            old.commit(step(1, [], values("zombie")))
    new.commit(step(1, [], values("owner")))
    eventually(["owner"], lambda: scores(store, new))


@pytest.mark.kafka
def test_a_successor_that_writes_between_look_and_claim_is_seen(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it wrote is another's record, not a journal that fits no state."""
    store = make()
    old = opened(store)
    old.commit(step(1))
    new = opened(store)
    spoil(old, "begin")
    claim = old._writer._connect

    def late() -> None:
        new.commit(step(2, [], values("owner")))
        eventually([1, 2], lambda: [r.seq for r in new.journal()])
        claim()

    monkeypatch.setattr(old._writer, "_connect", late)
    with pytest.raises(Fenced, match="another process wrote journal record 2"):
        old.commit(step(2, [], values("zombie")))
    eventually(["owner"], lambda: scores(store, new))


@pytest.mark.kafka
def test_a_process_in_doubt_yields_to_its_successor(make: Make) -> None:
    """A frozen process with a failed commit sees the successor's journal record and ends."""
    store = make()
    old = opened(store)
    old.commit(step(1))
    new = opened(store)
    new.commit(step(2, [], values("owner")))
    eventually([1, 2], lambda: [r.seq for r in new.journal()])
    spoil(old, "begin")
    with pytest.raises(Fenced, match="another process wrote journal record 2"):
        old.commit(step(2, [], values("zombie")))
    new.commit(step(3))
    eventually(["owner"], lambda: scores(store, new))


@pytest.mark.kafka
def test_an_aborted_transaction_is_never_seen(make: Make) -> None:
    """Input of an aborted transaction is not polled, and offsets with gaps are read back."""
    store = make()
    log = opened(store)
    assert isinstance(store.config.log, settings.KafkaLogSettings)
    producer = KafkaProducer(
        bootstrap_servers=store.config.log.bootstrap, transactional_id=store.config.name + "-in"
    )
    producer.init_transactions()
    for text, end in (
        ("a", producer.commit_transaction),
        ("b", producer.abort_transaction),
        ("c", producer.commit_transaction),
    ):
        producer.begin_transaction()
        producer.send(store.config.topics.events, text.encode(), partition=0)
        producer.flush(timeout=DEADLINE_S)
        end()
    producer.close(timeout=DEADLINE_S)
    found = poll_all(log, 2)
    assert texts(found) == ["a", "c"]
    whole = Range(store.config.topics.events, 0, 0, found[-1].range.last, 2)
    assert texts(log.read([whole])) == ["a", "c"]

    # The markers count as waiting only until the consumer has passed them.
    def waiting() -> int:
        log.poll(1, 0.0)
        return log.lag()[store.config.topics.events, 0]

    eventually(0, waiting)


# -- retention ------------------------------------------------------------------------------------


def delete_before(store: Store, topic: str, offset: int) -> None:
    """What the topic's retention would do."""
    assert isinstance(store.config.log, settings.KafkaLogSettings)
    admin = KafkaAdminClient(bootstrap_servers=store.config.log.bootstrap)
    admin.delete_records({TopicPartition(topic, 0): offset})
    admin.close()


@pytest.mark.kafka
def test_a_deleted_position_is_out_of_retention(make: Make) -> None:
    """``seek``, ``read`` and ``poll`` tell that records this shard needs are gone."""
    store = make()
    topic = store.config.topics.events
    log = opened(store)
    log.append(topic, values("a", "b", "c"))
    delete_before(store, topic, 2)
    with pytest.raises(OutOfRetention, match="offset 1 was deleted, the oldest retained is 2"):
        log.seek({(topic, 0): 1})
    with pytest.raises(OutOfRetention):
        log.read([Range(topic, 0, 0, 1, 2)])
    with pytest.raises(OutOfRetention):  # it stands at 0, from before the deletion
        poll_all(log, 1)
    log.seek({})
    assert texts(poll_all(log, 1)) == ["c"]


@pytest.mark.kafka
def test_the_journal_and_the_audit_trail_are_kept_for_ever(make: Make) -> None:
    """Topics that it makes for them have no retention limit and are never compacted."""
    store = make()
    store.log().create_topics()
    assert isinstance(store.config.log, settings.KafkaLogSettings)
    admin = KafkaAdminClient(bootstrap_servers=store.config.log.bootstrap)
    for topic in (store.config.journal_topic, store.config.topics.audit):
        found = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
        text = str(found)
        assert _setting(text, "retention.ms") == "-1"
        assert _setting(text, "cleanup.policy") == "delete"
    admin.close()


def _setting(described: str, name: str) -> str:
    """The value beside a name in the description of a topic."""
    found = re.search(rf"'{re.escape(name)}': \{{.*?'value': '([^']*)'", described)
    assert found is not None, described[:500]
    return found[1]


@pytest.mark.kafka
def test_a_batch_that_cannot_be_unpacked_is_passed(make: Make) -> None:
    """Its records come as nulls with the reason; what follows it is read."""
    store = make()
    log = opened(store)
    assert isinstance(store.config.log, settings.KafkaLogSettings)
    for codec, value in (("zstd", bytes(MAX_BATCH_BYTES + 1)), ("lz4", b"fine")):
        producer = KafkaProducer(
            bootstrap_servers=store.config.log.bootstrap,
            compression_type=codec,
            max_request_size=2 * MAX_BATCH_BYTES,
        )
        producer.send(store.config.topics.events, value, partition=0)
        producer.flush(timeout=DEADLINE_S)
        producer.close(timeout=DEADLINE_S)
    records = [r for s in poll_all(log, 2) for r in s.records]
    assert [r.value for r in records] == [None, b"fine"]
    assert ["cannot be unpacked" in r.unreadable for r in records] == [True, False]
    assert [r.headers for r in records] == [()] * 2
    assert log.read([range_of(records)])[0].records == records


@pytest.mark.kafka
def test_a_commit_that_was_given_up_fences_nobody(make: Make) -> None:
    """Once the log is closed a commit makes no new producer, which would end its successor's."""
    store = make()
    log, successor = opened(store), store.log()
    log.close()
    successor.open()
    with pytest.raises(LogUnavailable, match="closed"):
        log.commit(step(1, scores=values("late")))
    successor.commit(step(1, scores=values("ours")))
    eventually(["ours"], lambda: scores(store, successor))


@pytest.mark.kafka
def test_a_transaction_that_timed_out_was_taken_over_by_nobody(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a freeze of this process the step is committed once; one that was replaced ends."""
    store = make()
    log = store.config.log
    config = store.config.model_copy(
        update={"log": log.model_copy(update={"transaction_timeout": 1000})}
    )
    frozen, successor = (KafkaLog(config, log_harness.now_ms) for _ in range(2))
    frozen.open()
    admin = KafkaAdminClient(bootstrap_servers=log.bootstrap)  # type: ignore[union-attr]
    claimed = f"millrace-{config.name}"

    def aborted() -> bool:
        return "Abort" in str(admin.describe_transactions([claimed])[claimed])

    def freeze(name: str) -> None:
        monkeypatch.undo()
        wait_until(aborted, "the broker to abort the transaction")

    monkeypatch.setattr(kafka_writer, "failpoint", freeze)
    frozen.commit(step(1, scores=values("once")))
    eventually(["once"], lambda: scores(store, frozen))
    successor.open()
    successor.commit(step(2, scores=values("theirs")))
    with pytest.raises(Fenced):
        frozen.commit(step(2, scores=values("ours")))
    for each in (frozen, successor, admin):
        each.close()


@pytest.mark.kafka
def test_a_late_claim_of_our_own_is_not_a_successor(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim that got no answer may reach a frozen broker's ears later, and fence its renewal."""
    store = make()
    log = opened(store)

    def late_claim() -> None:
        stray = KafkaProducer(
            bootstrap_servers=store.config.log.bootstrap,  # type: ignore[union-attr]
            transactional_id=f"millrace-{store.config.name}",
        )
        stray.init_transactions()
        stray.close(timeout=DEADLINE_S)

    def no_answer() -> None:
        raise LogUnavailable("no answer")

    course = [no_answer, late_claim]
    monkeypatch.setattr(kafka_writer, "failpoint", lambda name: course and course.pop(0)())
    log.commit(step(1, scores=values("once")))
    assert not course
    eventually(["once"], lambda: scores(store, log))


@pytest.mark.kafka
def test_the_group_has_no_lag_once_all_is_read(make: Make) -> None:
    """Behind the last record's marker, behind an aborted transaction, and where nothing came."""
    store = make(partitions=3)
    log = opened(store)
    topics = store.config.topics
    producer = KafkaProducer(
        bootstrap_servers=store.config.log.bootstrap,  # type: ignore[union-attr]
        transactional_id=unique("producer"),
    )
    producer.init_transactions()
    for partition, end in ((0, producer.commit_transaction), (1, producer.abort_transaction)):
        producer.begin_transaction()
        producer.send(topics.events, b"event", partition=partition)
        producer.flush(timeout=DEADLINE_S)
        end()
    producer.close(timeout=DEADLINE_S)
    log.commit(step(1, poll_all(log, 1)))
    asked = [TopicPartition(topics.events, i) for i in range(3)]
    asked += [TopicPartition(topics.control, 0), TopicPartition(topics.labels, 2)]
    admin = KafkaAdminClient(bootstrap_servers=store.config.log.bootstrap)  # type: ignore[union-attr]

    def shown() -> dict[TopicPartition, int]:
        assert log.poll(10, 0.1) == []
        found = admin.list_group_offsets({store.config.name: asked})[store.config.name]
        return {tp: found[tp].offset for tp in asked}

    eventually(dict(zip(asked, (2, 2, 0, 0, 0), strict=True)), shown)
    admin.close()


# -- at least once --------------------------------------------------------------------------------


@pytest.mark.kafka
def test_at_least_once_marks_each_output(make: Make) -> None:
    """Outputs carry shard, step and index; journal and offsets follow them."""
    store = make(delivery="at_least_once")
    log = opened(store)
    topics = store.config.topics
    log.append(topics.events, values("event"))
    taken = poll_all(log, 1)
    outputs = step(1, taken, values("a", "b"))
    log.commit(outputs)
    log.commit(outputs)
    assert scores(store, log) == ["a", "b"]
    assert [r.seq for r in log.journal()] == [1]
    cli = store.log()
    eventually(0, lambda: cli.lag()[topics.events, 0])
    found = log._reader.fetch((topics.scores, 0), 0, 2)
    name = store.config.name
    marks = [(POSITION_HEADER, f"{name}/1/{i}".encode()) for i in range(2)]
    assert [r.headers for r in found] == [(mark,) for mark in marks]


@pytest.mark.kafka
def test_at_least_once_repeats_rather_than_loses(make: Make) -> None:
    """A failure before the journal record sends the outputs again, with the same marks."""
    store = make(delivery="at_least_once")
    log = opened(store)

    spoil(log, "settle", after=True)
    log.commit(step(1, [], values("a")))
    assert scores(store, log) == ["a", "a"]
    assert [r.seq for r in log.journal()] == [1]


# -- faults of the broker -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_broker() -> Iterator[Broker]:
    """A broker that these tests may freeze and kill."""
    try:
        with Broker() as broker:
            yield broker
    except BrokerUnavailable as error:
        lacking(f"no Kafka broker of its own: {error}")


@pytest.mark.kafka
def test_a_frozen_broker_is_unavailable_and_nothing_is_lost(
    own_broker: Broker, client: str
) -> None:
    """Every call comes back, none has an answer; afterwards the same step is committed once."""
    store = log_harness.kafka(own_broker.bootstrap, client=client, timeout="1s")
    log = patiently(lambda: opened(store))
    patiently(lambda: log.append(store.config.topics.events, values("event")))
    outputs = step(1, patiently(lambda: poll_all(log, 1)), values("once"))
    own_broker.pause()
    try:
        with pytest.raises(LogUnavailable):
            log.commit(outputs)
        with pytest.raises(LogUnavailable):
            log.append(store.config.topics.events, values("late"))
        with pytest.raises(LogUnavailable):
            log.earliest()
        with pytest.raises(LogUnavailable):
            poll_all(log, 1)
    finally:
        own_broker.resume()
    patiently(lambda: log.commit(outputs))
    eventually(["once"], lambda: scores(store, log))
    eventually([1], lambda: [r.seq for r in log.journal()])
    store.close()


@pytest.mark.kafka
def test_a_killed_broker_loses_nothing(own_broker: Broker) -> None:
    """After kill -9 and a restart each client goes on where it was, without a repeat."""
    stores = [log_harness.kafka(own_broker.bootstrap, client=name) for name in CLIENTS]
    logs = [opened(store) for store in stores]
    for store, log in zip(stores, logs, strict=True):
        log.append(store.config.topics.events, values("a", "b"))
        log.commit(step(1, poll_all(log, 1, max_records=1), values("a")))
    own_broker.restart()
    for store, log in zip(stores, logs, strict=True):
        patiently(lambda log=log: log.commit(step(2, [], values("b"))))
        assert texts(patiently(lambda log=log: poll_all(log, 1))) == ["b"]
        eventually(["a", "b"], lambda store=store, log=log: scores(store, log))
        eventually([1, 2], lambda log=log: [r.seq for r in log.journal()])
        store.close()


@pytest.mark.kafka
def test_close_without_a_broker_comes_back(own_broker: Broker) -> None:
    """With the broker dead, ``close`` still returns, and a second call too."""
    logs = []
    for name in CLIENTS:
        store = log_harness.kafka(own_broker.bootstrap, client=name)
        logs.append(opened(store))
        logs[-1].append(store.config.topics.events, values("a"))
        poll_all(logs[-1], 1)
    own_broker.kill()
    for log in logs:
        log.close()
        log.close()
    own_broker.start()

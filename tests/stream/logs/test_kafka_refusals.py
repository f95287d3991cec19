"""What a Kafka cluster refuses for good is told at the start, in words that say what to do."""

from __future__ import annotations

import os
import re
import socketserver
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ACLOperation, ConfigResource, ConfigResourceType, ResourceType
from structlog.testing import capture_logs

from stream.contract.log import LogError, LogRefused
from stream.contract.records import NewRecord
from stream.logs.kafka.clients.doorstep import knock
from stream.logs.kafka.log import KafkaLog
from stream.settings.schema import Config
from tests.stream.cli.test_cli import COMMAND, toml
from tests.stream.logs.secured import USERS, Secured
from tests.support.factory import raw_config
from tests.support.log_harness import Store, kafka_table, now_ms, parse, step, values
from tests.support.waiting import DEADLINE_S, wait_until

pytestmark = pytest.mark.kafka


CLIENTS = pytest.mark.parametrize("client", ["kafka-python", "confluent"])


def as_millrace(broker: Secured, **changes: Any) -> dict[str, Any]:
    """The ``[log]`` table of a user with a password."""
    user = {"sasl_username": "millrace", "sasl_password": USERS["millrace"]}
    how = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN"}
    return kafka_table(broker.sasl) | how | user | changes


def by_tls(broker: Secured, **changes: Any) -> dict[str, Any]:
    """The ``[log]`` table of somebody who trusts the broker's authority."""
    how = {"security_protocol": "SSL", "ssl_cafile": str(broker.authority)}
    return kafka_table(broker.ssl) | how | changes


DOORS: dict[str, tuple[Callable[[Secured], dict[str, Any]], type[LogError], str]] = {
    "password": (
        lambda b: as_millrace(b, sasl_password="hunter2"),
        LogRefused,
        r"PLAIN as millrace: Authentication failed: Invalid username or password",
    ),
    "mechanism": (
        lambda b: as_millrace(b, sasl_mechanism="SCRAM-SHA-256"),
        LogRefused,
        r"log\.sasl_mechanism: it expects one of PLAIN, got SCRAM-SHA-256",
    ),
    "authority": (
        lambda b: by_tls(b, ssl_cafile=str(b.stranger)),
        LogRefused,
        r"certificate is not accepted: self-signed certificate in .*log\.ssl_cafile",
    ),
    "host name": (
        lambda b: by_tls(b, bootstrap=b.ssl.replace("localhost", "127.0.0.1")),
        LogRefused,
        r"not valid for '127\.0\.0\.1'; .*log\.bootstrap the host name",
    ),
    "no such file": (
        lambda b: by_tls(b, ssl_cafile="nowhere.pem"),
        LogRefused,
        r"log\.ssl_cafile.*No such file",
    ),
    "plain to TLS": (
        lambda b: kafka_table(b.ssl),
        LogRefused,
        r"by PLAINTEXT: it speaks TLS there",
    ),
    "SASL to TLS": (
        lambda b: as_millrace(b, bootstrap=b.ssl),
        LogRefused,
        r"by SASL_PLAINTEXT: it speaks TLS there",
    ),
    "SASL to plain": (
        lambda b: as_millrace(b, bootstrap=b.bootstrap),
        LogRefused,
        r"it does not ask for SASL there",
    ),
    "TLS to plain": (
        lambda b: by_tls(b, bootstrap=b.bootstrap),
        LogRefused,
        r"by SSL: it does not speak TLS there",
    ),
    "plain to SASL": (
        lambda b: kafka_table(b.sasl),
        LogRefused,
        r"by PLAINTEXT: it asks for SASL there, by PLAIN$",
    ),
    "SASL over TLS to SASL": (
        lambda b: by_tls(b, **as_millrace(b, security_protocol="SASL_SSL")),
        LogRefused,
        r"by SASL_SSL: it does not speak TLS there",
    ),
    "TLS to SASL over TLS": (
        lambda b: by_tls(b, bootstrap=b.both),
        LogRefused,
        r"by SSL: it asks for SASL there, by .*SCRAM-SHA-256",
    ),
}


@pytest.mark.parametrize("door", DOORS)
def test_who_is_not_let_in_is_told_why(broker: Secured, door: str) -> None:
    """At once, in the broker's own words where it has any, and without the password."""
    table, kind, message = DOORS[door]
    store = Store(table(broker))
    with pytest.raises(LogError, match=message) as caught:
        store.log().open()
    store.close()
    assert type(caught.value) is kind
    assert "hunter2" not in str(caught.value)


def test_a_wrong_password_ends_the_service(broker: Secured, tmp_path: Path) -> None:
    """Exit status 3 and the sentence; a supervisor need not try again."""
    file = tmp_path / "c.toml"
    raw = raw_config(tmp_path, log=as_millrace(broker))
    del raw["log"]["sasl_password"]
    file.write_text(toml(raw))
    done = subprocess.run(
        [*COMMAND, "run", str(file)],
        env=os.environ | {"MILLRACE_LOG__SASL_PASSWORD": "hunter2"},
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 3
    assert "PLAIN as millrace: Authentication failed" in done.stderr
    assert "hunter2" not in done.stderr


def refusal(config: Config) -> str:
    """Why the log does not open; empty when it does."""
    log = KafkaLog(config, now_ms)
    try:
        log.open()
    except LogError as error:
        return str(error)
    finally:
        log.close()
    return ""


def told(config: Config, expected: str) -> None:
    """Wait until rights that were just changed hold, and the log does not open for this reason."""
    wait_until(lambda: re.search(expected, refusal(config), re.DOTALL), expected)


@CLIENTS
def test_missing_rights_are_named_all_at_once(broker: Secured, client: str) -> None:
    """Each right and its resource; with all of them the log opens and commits."""
    plain = Store(kafka_table(broker.bootstrap))
    config = parse(as_millrace(broker, client=client), plain.config.name, **names(plain.config))
    told(config, rf"lacks rights.*Write on topic {config.topics.scores}: kafka-acls\.sh")
    plain.log().create_topics()
    plain.close()
    text = refusal(config)
    topics, journal = config.topics, config.journal_topic
    needed = {
        *(("Read", "topic", t) for t in (topics.events, topics.labels, topics.control, journal)),
        *(("Write", "topic", t) for t in (topics.scores, topics.dead_letters, topics.audit)),
        ("Write", "topic", journal),
        ("Read", "group", config.name),
    }
    assert set(re.findall(r"  (\w+) on (\w+) (\S+):", text)) == needed
    for right, kind, name in needed - {("Write", "topic", topics.scores)}:
        broker.allow(ResourceType[kind.upper()], name, ACLOperation[right.upper()])
    told(config, rf"needs:\n  Write on topic {topics.scores}: [^\n]*$")
    broker.allow(ResourceType.TOPIC, topics.scores, ACLOperation.WRITE)
    told(config, rf"transactional id millrace-{config.name}: TransactionalIdAuthorizationFailed")
    broker.allow(ResourceType.TRANSACTIONAL_ID, f"millrace-{config.name}", ACLOperation.WRITE)
    wait_until(lambda: not refusal(config), "the log to open")
    log = KafkaLog(config, now_ms)
    with capture_logs() as said:
        log.open()
    [warned] = [line for line in said if line["event"] == "http_appends_refused"]
    appended = [re.match(r"Write on topic (\S+): kafka-acls", line) for line in warned["missing"]]
    assert {found and found[1] for found in appended} == {
        *(topics.events, topics.labels, topics.control)
    }
    log.commit(step(1, scores=values("a")))
    assert log.others() is None
    broker.allow(ResourceType.TOPIC, topics.scores, ACLOperation.READ)
    wait_until(lambda: log.others() == [], "to be told that nobody else writes")
    log.close()


def test_who_trains_members_needs_to_send_their_models(broker: Secured) -> None:
    """Told at the start, not at the end of the first training."""
    plain = Store(kafka_table(broker.bootstrap))
    plain.log().create_topics()
    config = parse(as_millrace(broker), plain.config.name, **names(plain.config))
    plain.close()
    [member, *_] = config.members
    trees = member.model_copy(update={"name": "trees", "type": "refit"})
    written = rf"Write on topic {config.topics.control}: kafka-acls\.sh"
    told(config.model_copy(update={"members": (trees,)}), written)
    assert not re.search(written, refusal(config))


def test_topics_that_this_user_may_not_make_are_named(broker: Secured) -> None:
    """With the way out: make them as somebody else, or give the right."""
    store = Store(kafka_table(broker.bootstrap))
    config = parse(as_millrace(broker), store.config.name, **names(store.config))
    topics = config.topics
    for name in (topics.events, topics.labels, topics.control):
        broker.allow(ResourceType.TOPIC, name, ACLOperation.READ)
    for name in (topics.scores, topics.dead_letters, topics.audit):
        broker.allow(ResourceType.TOPIC, name, ACLOperation.WRITE)
    broker.allow(ResourceType.TOPIC, config.journal_topic, ACLOperation.ALL)
    broker.allow(ResourceType.GROUP, config.name, ACLOperation.READ)
    told(config, rf"topics .*{topics.scores}.* do not exist.*may not Create.*topics create")


def alter(broker: Secured, topic: str, **settings: str) -> None:
    """Change settings of a topic."""
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
    changed = {key.replace("_", "."): value for key, value in settings.items()}
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, changed)])
    admin.close()


@CLIENTS
def test_records_too_large_for_their_topic_are_told(broker: Secured, client: str) -> None:
    """At the start each topic that takes too little; at a commit what to do, and never again."""
    store = Store(kafka_table(broker.bootstrap, client=client))
    log = store.opened()
    topics = store.config.topics
    alter(broker, topics.scores, max_message_bytes="1000")
    alter(broker, topics.dead_letters, max_message_bytes="1000")
    large = [NewRecord(b"k", os.urandom(5000))]

    def commit() -> bool:
        with pytest.raises(LogError, match=r"max\.message\.bytes of the topic") as caught:
            log.commit(step(1, scores=large))
        return type(caught.value) is LogError

    assert commit()
    told(
        store.config,
        rf"topic {topics.scores}: expected max\.message\.bytes of at least 278528, got 1000: kafka-"
        rf"configs.*topic {topics.dead_letters}: .*at least 916384",
    )
    store.close()


@CLIENTS
def test_a_transaction_longer_than_the_brokers_allow_is_told(broker: Secured, client: str) -> None:
    """Which setting against which of the broker's."""
    store = Store(kafka_table(broker.bootstrap, client=client, transaction_timeout="2h"))
    told(store.config, r"log\.transaction_timeout is above .*transaction\.max\.timeout\.ms")
    store.close()


def names(config: Config) -> dict[str, str]:
    """The topics of a store."""
    keys = ("events", "labels", "control", "scores", "dead_letters", "audit")
    return {key: getattr(config.topics, key) for key in keys}


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\xff\xff\xff\xff",
        bytes(4),
        b"\0\0\0\x02no",
        b"\0\0\0\x08as short",
    ],
)
def test_what_is_no_broker_is_told(answer: bytes) -> None:
    """Whatever length its first bytes seem to say, and also where it keeps to it."""

    class Other(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1 << 16)
            self.request.sendall(answer)

    with socketserver.TCPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        address = f"127.0.0.1:{server.server_address[1]}"
        options = {"bootstrap_servers": [address], "security_protocol": "PLAINTEXT"}
        with pytest.raises(LogRefused, match=f"{address} .* does not speak Kafka's protocol"):
            knock(options)
        thread.join()

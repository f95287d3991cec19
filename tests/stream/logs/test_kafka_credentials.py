"""Every way to come in to a Kafka cluster, by either client, with right and wrong credentials."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from stream.contract.log import LogRefused, LogUnavailable
from stream.contract.records import NewRecord
from stream.logs.kafka.clients.base import Client
from stream.logs.kafka.clients.confluent import Confluent
from stream.logs.kafka.clients.kafka_python import KafkaPython
from stream.settings import schema as settings
from tests.stream.logs.secured import USERS, Secured, token
from tests.support.log_harness import Store, now_ms, parse
from tests.support.waiting import wait_until

pytestmark = pytest.mark.kafka

Table = dict[str, Any]
Way = Callable[[Secured, bool], Table]
"""The ``[log]`` table of the operator, with right or wrong credentials."""


def by_password(mechanism: str) -> Way:
    """Over TLS, except with PLAIN."""

    def table(broker: Secured, right: bool) -> Table:
        word = USERS["operator" if right else "nobody"]
        user = {"sasl_username": "operator", "sasl_password": word}
        if mechanism == "PLAIN":
            return {"bootstrap": broker.sasl, "security_protocol": "SASL_PLAINTEXT"} | user
        return over_tls(broker) | user

    return lambda broker, right: table(broker, right) | {"sasl_mechanism": mechanism}


def over_tls(broker: Secured) -> Table:
    """The listener with TLS and SASL."""
    how = {"security_protocol": "SASL_SSL", "ssl_cafile": str(broker.authority)}
    return {"bootstrap": broker.both} | how


def by_token(broker: Secured, right: bool) -> Table:
    """The wrong one is none that a broker can read."""
    command = ["echo", token("operator") if right else "no.token.really"]
    return over_tls(broker) | {"sasl_mechanism": "OAUTHBEARER", "sasl_oauth_command": command}


def by_certificate(broker: Secured, right: bool) -> Table:
    """The wrong one names the same user, and another authority signed it."""
    own = str(broker.operator if right else broker.impostor)
    how = {"security_protocol": "SSL", "ssl_cafile": str(broker.authority)}
    return {"bootstrap": broker.ssl, "ssl_certfile": own, "ssl_keyfile": own} | how


def by_any_name(broker: Secured, right: bool) -> Table:
    """The broker's certificate is for ``localhost``: right only if nobody looks."""
    address = broker.ssl.replace("localhost", "127.0.0.1")
    unchecked = {"ssl_check_hostname": False} if right else {}
    return by_certificate(broker, True) | {"bootstrap": address} | unchecked


WAYS: dict[str, tuple[Way, str]] = {
    "PLAIN": (by_password("PLAIN"), "PLAIN as operator: Authentication failed"),
    "SCRAM-SHA-256": (by_password("SCRAM-SHA-256"), "SCRAM-SHA-256 as operator: .*invalid cred"),
    "SCRAM-SHA-512": (by_password("SCRAM-SHA-512"), "SCRAM-SHA-512 as operator: .*invalid cred"),
    "OAUTHBEARER": (by_token, "OAUTHBEARER as the token's user: "),
    "mutual TLS": (by_certificate, "log.ssl_certfile must please it"),
    "unchecked host name": (by_any_name, "certificate is not accepted: .*'127.0.0.1'"),
}
BOTH = pytest.mark.parametrize("kind", [KafkaPython, Confluent])
EACH = pytest.mark.parametrize("way", WAYS)


@pytest.fixture(scope="module")
def topic(broker: Secured) -> str:
    """A topic of one partition, made by the plain listener."""
    store = Store({"type": "kafka", "bootstrap": broker.bootstrap})
    store.log().create_topics()
    store.close()
    return store.config.topics.events


def client(kind: Callable[[settings.KafkaLogSettings, str], Client], table: Table) -> Client:
    """A client with these settings of the log."""
    log = parse({"type": "kafka"} | table).log
    assert isinstance(log, settings.KafkaLogSettings)
    return kind(log, "shard")


def appended(made: Client, topic: str) -> int:
    """Append one record; its offset. Raises as the log does."""
    with made.translated("append"):
        producer = made.producer(transactional=False)
        try:
            record = NewRecord(b"key", b"value")
            [(_, offset)] = producer.append(topic, [(0, record)], now_ms(), made.timeout_s)
        finally:
            producer.close()
    return offset


@EACH
@BOTH
def test_right_credentials_come_in(broker: Secured, topic: str, kind: Any, way: str) -> None:
    """What is appended is read back."""
    made = client(kind, WAYS[way][0](broker, True))
    offset = appended(made, topic)
    consumer = made.consumer("shard")
    consumer.assign({(topic, 0): offset})
    wait_until(lambda: consumer.poll(1, 0.1), "the record")
    consumer.close()


@EACH
@BOTH
def test_wrong_credentials_are_refused_with_the_cause(
    broker: Secured, topic: str, kind: Any, way: str
) -> None:
    """For good, by a client at work too: its first call may time out, the next one says why."""
    make, cause = WAYS[way]
    made = client(kind, make(broker, False) | {"timeout": "1s"})

    def refused() -> bool:
        try:
            appended(made, topic)
        except LogUnavailable:
            return False
        except LogRefused as error:
            said.append(str(error))
        return True

    said: list[str] = []
    wait_until(refused, "a refusal")
    assert re.search(cause, said[0])
    assert USERS["nobody"] not in said[0]

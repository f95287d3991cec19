"""Which client a shard has, and who claims a transactional id: that shuts the others out."""

from __future__ import annotations

from stream.contract.log import LogError
from stream.logs.kafka.calls import Seat
from stream.logs.kafka.clients.base import Client
from stream.logs.kafka.clients.kafka_python import KafkaPython
from stream.settings import schema as settings


def mover(config: settings.Config) -> str:
    """The name of who moves partitions between the scorers of a service."""
    return f"{config.service}-move"


def shut_out(log: settings.KafkaLogSettings, name: str) -> None:
    """End what a shard by that name, or a mover, had begun in a transaction; it can do no more."""
    client = client_of(log, name)
    seat = Seat(
        "millrace-kafka-claim", lambda: client.producer(transactional=True), client.translated
    )
    try:
        seat.call(f"transactional id of {name}", client.timeout_s + 0.5, lambda producer: None)
    finally:
        seat.close()


def client_of(log: settings.KafkaLogSettings, name: str) -> Client:
    """The configured client, of a shard by that name."""
    if log.client != "confluent":
        return KafkaPython(log, name)
    try:
        from stream.logs.kafka.clients.confluent import Confluent
    except ModuleNotFoundError as error:
        raise LogError(
            'log.client: "confluent" needs the package confluent-kafka, which is not installed;'
            ' run: pip install "millrace[confluent]"'
        ) from error
    return Confluent(log, name)

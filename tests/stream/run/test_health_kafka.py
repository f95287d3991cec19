"""What probes are told when a real broker is ill."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stream.run.service import Service
from stream.settings.schema import Config
from tests.support.broker import Broker, BrokerUnavailable, unique
from tests.support.factory import config, event
from tests.support.log_harness import kafka_table
from tests.support.runner import append, caught_up, running
from tests.support.tools import lacking
from tests.support.waiting import wait_until

pytestmark = pytest.mark.kafka


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """A broker of these tests' own, which they may freeze."""
    try:
        with Broker() as made:
            yield made
    except BrokerUnavailable as error:
        lacking(f"no Kafka broker: {error}")


CLIENTS = pytest.mark.parametrize("client", ["kafka-python", "confluent"])


def on(broker: Broker, directory: Path, client: str) -> Config:
    """A configuration on the broker; no call comes to its deadline."""
    names = ("events", "labels", "control", "scores", "dead_letters", "audit")
    topics = {name: unique(name) for name in names}
    return config(
        directory, name=unique("t"), log=kafka_table(broker.bootstrap, client=client), topics=topics
    )


def tells(service: Service, text: str) -> None:
    """Wait until the service is not ready for this reason."""
    wait_until(lambda: text in service.health.ready()[1], text)
    assert not service.health.ready()[0]


@CLIENTS
def test_a_frozen_broker_is_told_long_before_a_deadline(
    broker: Broker, tmp_path: Path, client: str
) -> None:
    """Idle or in the middle of a commit: not ready while nothing answers, ready once it does."""
    c = on(broker, tmp_path, client)
    with running(c) as service:
        broker.pause()
        tells(service, f"{broker.bootstrap}: poll under way")
        broker.resume()
        wait_until(lambda: service.health.ready()[0], "to be ready again")
        append(c, (c.topics.events, [event(i) for i in range(50)]))
        caught_up(service, 50)

"""What the Kafka log learns of its topics by asking the cluster."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kafka import KafkaAdminClient

from stream.contract.log import LogError
from tests.support import log_harness
from tests.support.log_harness import Store

pytestmark = pytest.mark.kafka

Make = Callable[..., Store]


@pytest.fixture
def make(kafka_bootstrap: str) -> Iterator[Make]:
    """Makes stores on the shared broker; closes their logs at the end."""
    stores: list[Store] = []

    def build(**options: Any) -> Store:
        stores.append(log_harness.kafka(kafka_bootstrap, **options))
        return stores[-1]

    yield build
    for store in stores:
        store.close()


@pytest.fixture
def admin(kafka_bootstrap: str) -> Iterator[Any]:
    """An administrative client, as an operator has one."""
    client = KafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    yield client
    client.close()


def add(admin: Any, topic: str, partitions: int = 1, **configs: str) -> None:
    """Make a topic before the log does."""
    settings = {key.replace("_", "."): value for key, value in configs.items()}
    new = {"num_partitions": partitions, "replication_factor": 1, "configs": settings}
    admin.create_topics({topic: new})
    admin.wait_for_topics([topic])


@pytest.mark.parametrize("role", ["events", "journal", "dead_letters"])
def test_a_compacted_topic_is_refused(make: Make, admin: Any, role: str) -> None:
    """A topic whose records must all stay may not be compacted; the command that mends it is named.

    After a restart the records of a step would be gone.
    """
    store = make()
    topic = store.config.journal_topic if role == "journal" else getattr(store.config.topics, role)
    add(admin, topic, cleanup_policy="compact,delete")
    with pytest.raises(LogError, match=f"topic {topic}: expected cleanup.policy delete") as caught:
        store.log().open()
    assert re.search(f"--entity-name {topic} --add-config cleanup.policy=delete", str(caught.value))


def test_scores_may_be_compacted(make: Make, admin: Any) -> None:
    """The newest score of each key is a use of its own: nothing is read back from there."""
    store = make()
    add(admin, store.config.topics.scores, cleanup_policy="compact")
    store.log().open()


def test_scores_get_as_many_partitions_as_events_have(make: Make, admin: Any) -> None:
    """Of a topic that is made; one that is there keeps its own."""
    store = make()
    add(admin, store.config.topics.events, 3)
    store.log().create_topics()
    [described] = admin.describe_topics(topics=[store.config.topics.scores])
    assert len(described["partitions"]) == 3

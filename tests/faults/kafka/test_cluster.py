"""A seeded subset of ``python -m tests.faults cluster``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.kafka.cluster import cluster
from tests.support.broker import BrokerUnavailable
from tests.support.tools import lacking

pytestmark = pytest.mark.kafka


def test_a_cluster_loses_a_broker_and_then_answers_nothing_any_more(tmp_path: Path) -> None:
    """By either client the service goes on without it; it ends within its grace period while all
    are frozen amid a commit; nothing is lost or doubled."""
    clients = ("kafka-python", "confluent")
    try:
        verdicts, _ = cluster(tmp_path, clients, 23, 1, 3.0, lambda what, done, total: None)
    except BrokerUnavailable as error:
        lacking(f"no Kafka broker: {error}")
    assert {client: verdict.problems for client, verdict in verdicts.items()} == {
        "kafka-python": [],
        "confluent": [],
    }

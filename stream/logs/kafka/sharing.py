"""Who writes to a topic: asked of the brokers (KIP-664), by the names that producers have there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kafka import TopicPartition, errors

_MAY_NOT = (errors.AuthorizationError, errors.UnsupportedVersionError)


def writers(admin: Any, topic: str, partitions: Iterable[int], since_ms: int) -> set[str] | None:
    """Who wrote since then: transactional ids, or ``producer N`` for one without or of a hidden id.

    ``None`` where this user may not Read the topic, or the cluster cannot tell (before Kafka 2.8).
    A transaction counts by the clock of its end, records outside of one by their own times. Blocks.
    """
    try:
        found = admin.describe_producers([TopicPartition(topic, n) for n in partitions])
        numbers = {
            producer.producer_id
            for partition in found.values()
            for producer in partition.active_producers
            if producer.last_timestamp >= since_ms
        }
        if not numbers:
            return set()
        told = admin.list_transactions(producer_id_filters=sorted(numbers))
    except _MAY_NOT:
        return None
    names = {row.producer_id: row.transactional_id for rows in told.values() for row in rows}
    return {names.get(number, f"producer {number}") for number in numbers}

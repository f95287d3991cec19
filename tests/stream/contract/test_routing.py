"""Which partition a key belongs to, and how a poll is shared out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2 as kafka_murmur2

from stream.contract.routing import murmur2, partitions_for, shares

counts = st.lists(st.integers(0, 10_000), max_size=8)


keys = st.lists(st.binary(max_size=64), max_size=8)


@given(keys)
def test_murmur2_is_that_of_kafka(data: list[bytes]) -> None:
    """The hash of each key is kafka-python's, bit for bit."""
    assert murmur2(data).tolist() == [kafka_murmur2(key) for key in data]


@given(keys, st.integers(1, 1024))
def test_a_partition_exists(data: list[bytes], partitions: int) -> None:
    """Each key has the partition that Kafka's own producers give it; no key means partition 0."""
    expected = [(kafka_murmur2(key) & 0x7FFFFFFF) % partitions for key in data]
    assert partitions_for(data, partitions) == expected
    assert partitions_for([*data, None], partitions) == [*expected, 0]


@given(counts, counts, st.integers(1, 10_000))
def test_shares_use_the_budget_and_no_more(
    urgent: list[int], waiting: list[int], budget: int
) -> None:
    """All of the budget goes out when enough waits, and nobody gets more than waits there."""
    first = [(("u", i), n) for i, n in enumerate(urgent)]
    rest = [(("w", i), n) for i, n in enumerate(waiting)]
    got = shares(first, rest, budget)
    assert sum(got.values()) == min(budget, sum(urgent) + sum(waiting))
    assert all(0 < got[key] <= dict(first + rest)[key] for key in got)


@given(counts, st.integers(1, 10_000))
def test_shares_are_proportional(waiting: list[int], budget: int) -> None:
    """Each partition's share is within one record of its part of the backlog."""
    keyed = list(enumerate(waiting))
    total = sum(waiting)
    if total <= budget:
        return
    got = shares([], keyed, budget)
    assert all(abs(got.get(i, 0) - n * budget / total) <= 1 for i, n in keyed)


@given(counts, counts, st.integers(1, 100))
def test_urgent_partitions_come_first(urgent: list[int], waiting: list[int], budget: int) -> None:
    """The others get something only when every urgent record fits."""
    got = shares(
        [(("u", i), n) for i, n in enumerate(urgent)],
        [(("w", i), n) for i, n in enumerate(waiting)],
        budget,
    )
    taken = sum(n for (kind, _), n in got.items() if kind == "u")
    assert taken == min(budget, sum(urgent))

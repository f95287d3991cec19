"""Which partition a key belongs to, and how many records of each partition one poll takes.

Pure functions both logs share, so that a key lands in the same partition and a backlog drains alike
on either. Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import unpack_from
from typing import TypeVar

K = TypeVar("K")

_MASK = 0xFFFFFFFF
_M = 0x5BD1E995
_SEED = 0x9747B28C


def murmur2(data: bytes) -> int:
    """MurmurHash2, 32 bits, with the seed Kafka's default partitioner uses.

    Source: Austin Appleby's MurmurHash2 (public domain); seed and tail as in
    ``org.apache.kafka.common.utils.Utils.murmur2``.

    >>> murmur2(b"21") == -973932308 & 0xFFFFFFFF
    True
    """
    words = len(data) // 4
    h = _SEED ^ len(data)
    for k in unpack_from(f"<{words}I", data):
        k = k * _M & _MASK
        h = (h * _M & _MASK) ^ ((k ^ k >> 24) * _M & _MASK)
    tail = data[words * 4 :]
    if tail:
        h = (h ^ int.from_bytes(tail, "little")) * _M & _MASK
    h = (h ^ h >> 13) * _M & _MASK
    return h ^ h >> 15


def partition_of(key: bytes | None, partitions: int) -> int:
    """The partition of ``key`` among ``partitions``, as Kafka's default partitioner has it.

    Without a key it is partition 0: an unkeyed record has no order to keep, and a random choice
    would make two runs differ.
    """
    if key is None or partitions == 1:
        return 0
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def shares(
    urgent: Sequence[tuple[K, int]], waiting: Sequence[tuple[K, int]], budget: int
) -> dict[K, int]:
    """How many records of each partition one poll of ``budget`` records takes.

    ``urgent`` and ``waiting`` are ``(partition, records that wait)``. Urgent partitions (control)
    come first and in full; the others share what is left in proportion to their backlogs, so that
    after an outage events and labels drain side by side. Taking every event first would make every
    label late. What rounding leaves goes to the longest backlogs, so that ``budget`` is used up
    whenever enough records wait.

    >>> shares([], [("events", 300), ("labels", 100)], 100)
    {'events': 75, 'labels': 25}
    """
    taken: dict[K, int] = {}
    for partition, count in urgent:
        taken[partition] = min(count, budget)
        budget -= taken[partition]
    total = sum(count for _, count in waiting)
    if total <= budget:
        return {p: n for p, n in (taken | dict(waiting)).items() if n > 0}
    share: dict[K, int] = {p: count * budget // total for p, count in waiting}
    rest = budget - sum(share.values())
    for partition, _ in sorted(waiting, key=lambda item: -item[1])[:rest]:
        share[partition] += 1
    return {p: n for p, n in (taken | share).items() if n > 0}

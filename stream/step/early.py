"""Labels that came before their event: a bounded waiting room, part of the engine's state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from models.base import State
from stream.contract.records import Record


class EarlyLabel(msgspec.Struct, frozen=True, array_like=True):
    """A label without its event yet. ``since_ms`` is the watermark when it came."""

    id_hash: int
    y: int
    labelled_at_ms: int
    since_ms: int
    record: Record


class EarlyLabels:
    """At most ``limit`` labels and ``limit_bytes`` of raw bytes, oldest out first."""

    def __init__(self, limit: int, limit_bytes: int) -> None:
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._held: dict[int, EarlyLabel] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def get(self, id_hash: int) -> EarlyLabel | None:
        """The label that waits for this event id."""
        return self._held.get(id_hash)

    def add(self, label: EarlyLabel) -> None:
        """Let a label wait; its id must not be held yet."""
        self._held[label.id_hash] = label
        self._bytes += _size(label)

    def claim(self, id_hashes: Iterable[int]) -> Iterator[tuple[int, EarlyLabel]]:
        """``(position, label)`` for each event id that a label waits for; they leave."""
        if not self._held:
            return
        for i, id_hash in enumerate(id_hashes):
            label = self._held.pop(id_hash, None)
            if label is not None:
                self._bytes -= _size(label)
                yield i, label

    def stale(self, before_ms: int) -> Iterator[EarlyLabel]:
        """Labels that waited since before ``before_ms``, or are over the bound; they leave."""
        while self._held:
            label = next(iter(self._held.values()))
            over = len(self._held) > self._limit or self._bytes > self._limit_bytes
            if not over and label.since_ms >= before_ms:
                return
            del self._held[label.id_hash]
            self._bytes -= _size(label)
            yield label

    def state(self) -> State:
        """Every waiting label, oldest first, as msgpack bytes."""
        return {"labels": msgspec.msgpack.encode(list(self._held.values()))}

    def restore(self, state: State) -> None:
        """Become the waiting room that gave ``state``."""
        held = msgspec.msgpack.decode(state["labels"], type=list[EarlyLabel])
        self._held = {label.id_hash: label for label in held}
        self._bytes = sum(_size(label) for label in held)


def _size(label: EarlyLabel) -> int:
    return len(label.record.value or b"") + len(label.record.key or b"")

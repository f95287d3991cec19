"""Labels that came before their event: a bounded waiting room, part of the engine's state."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator

import msgspec

from models.base import State
from stream.contract.records import Record

NEVER = 1 << 62
"""Later than any event time, ms."""


class EarlyLabel(msgspec.Struct, frozen=True, array_like=True):
    """A label without its event yet. ``since_ms`` is the watermark when it came."""

    id_hash: int
    y: float
    labelled_at_ms: int
    since_ms: int
    record: Record


class EarlyLabels:
    """At most ``limit`` labels and ``limit_bytes`` of raw bytes, oldest out first."""

    def __init__(self, limit: int, limit_bytes: int) -> None:
        self._limit = limit
        self._limit_bytes = limit_bytes
        # Not a dict: finding its oldest passes all that left before it. With a backlog of labels
        # ahead of their events that was a third of the step's thread.
        self._held: OrderedDict[int, EarlyLabel] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def waiting(self) -> list[EarlyLabel]:
        """Every label that waits, oldest first."""
        return list(self._held.values())

    def get(self, id_hash: int) -> EarlyLabel | None:
        """The label that waits for this event id."""
        return self._held.get(id_hash)

    @property
    def oldest_ms(self) -> int:
        """The watermark when the oldest one came; beyond any time where none waits."""
        return next(iter(self._held.values())).since_ms if self._held else NEVER

    def add(self, label: EarlyLabel) -> list[EarlyLabel]:
        """Let a label wait, its id not held yet; those that must leave for it, oldest first."""
        self._held[label.id_hash] = label
        self._bytes += _size(label)
        return self.over()

    def over(self) -> list[EarlyLabel]:
        """Labels over the bound, oldest first; they leave."""
        return self._leave(lambda _: len(self) > self._limit or self._bytes > self._limit_bytes)

    def claim(self, id_hashes: Iterable[int]) -> Iterator[tuple[int, EarlyLabel]]:
        """``(position, label)`` for each event id that a label waits for; they leave."""
        if not self._held:
            return
        for i, id_hash in enumerate(id_hashes):
            label = self._held.pop(id_hash, None)
            if label is not None:
                self._bytes -= _size(label)
                yield i, label

    def begin(self, since_ms: int) -> None:
        """Time begins: all that came before it wait from here on."""
        for id_hash, label in self._held.items():
            self._held[id_hash] = msgspec.structs.replace(label, since_ms=since_ms)

    def stale(self, before_ms: int) -> list[EarlyLabel]:
        """Labels that have waited since before ``before_ms``; they leave."""
        return self._leave(lambda label: label.since_ms < before_ms)

    def _leave(self, goes: Callable[[EarlyLabel], bool]) -> list[EarlyLabel]:
        """The oldest ones leave for as long as ``goes`` says so of the next."""
        gone = []
        while self._held and goes(label := next(iter(self._held.values()))):
            del self._held[label.id_hash]
            self._bytes -= _size(label)
            gone.append(label)
        return gone

    def state(self) -> State:
        """Every waiting label, oldest first, as msgpack bytes."""
        return {"labels": msgspec.msgpack.encode(self.waiting())}

    def restore(self, state: State) -> None:
        """Become the waiting room that gave ``state``."""
        held = msgspec.msgpack.decode(state["labels"], type=list[EarlyLabel])
        self._held = OrderedDict((label.id_hash, label) for label in held)
        self._bytes = sum(_size(label) for label in held)


def _size(label: EarlyLabel) -> int:
    return len(label.record.value or b"") + len(label.record.key or b"")

"""What scorers tell each other: when an entity had events, and which of these were positive.

Of an entity by which events are not spread over scorers each sees a part. What counts of its risk
ends a delay ago, so there is time to tell the others: each holds the whole table. Nothing here
scores.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import zstandard
from numpy.typing import NDArray

from models.base import BOOL, I64, U64, EventColumns, State
from models.features.stage import FeatureStage
from monitoring.audit.auditor import Auditor
from stream.contract.letters import DeadLetter
from stream.contract.records import NewRecord, Slice
from stream.settings.schema import Config
from stream.step.engine import Made
from stream.step.roles.examples import (
    Foreign,
    check_meaning,
    packed,
    plain_bytes,
    told_meaning,
)

BEATS = 16
"""A scorer without events tells so as often within a delay: what others lack is known to that."""
BLOCK_BYTES = 500_000
"""Of one record, before it is compressed."""


class Block(msgspec.Struct, frozen=True, array_like=True):
    """Rows of one scorer: ``keys`` uint64 ``(n, entities)``, ``times`` int64 ``(n,)`` in ms.

    ``positive`` bool ``(n,)``: the event, told of before, is known to be positive; else it is new.
    ``watermark_ms``: the newest event time that the scorer had scored, all of it told; of one that
    has no events (:meth:`Sharing.beat`), up to which there were none.
    """

    meaning: str
    entities: tuple[str, ...]
    watermark_ms: int
    keys: bytes
    times: bytes
    positive: bytes


_NONE = np.empty(0, np.int64)
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Block).decode


class Sharing:
    """What one scorer tells the others and is told.

    Parameters
    ----------
    features : FeatureStage
    meant : str
        See :func:`~stream.step.roles.examples.told_meaning`.
    others : sequence of int
        The partitions on which it is told.

    Attributes
    ----------
    told_ms : dict of int to int
        By partition the newest event time of what was told.
    lacking : bool
        Whether the newest events were scored by tables that lacked something.
    """

    def __init__(self, features: FeatureStage, meant: str, others: range | list[int]) -> None:
        self._features = features
        self._meaning = meant
        self.told_ms = dict.fromkeys(others, 0)
        self.lacking = False
        self._beaten_ms = 0  # up to when it was told last that there was no event
        self._beat_ms = 0  # the same, to be told with this step
        self._keys: list[U64] = []
        self._times: list[I64] = []
        self._positive: list[BOOL] = []

    def scoring(self, events: EventColumns, counts: Counter[str], auditor: Auditor) -> None:
        """These events are about to be taken in: others are told of them.

        What their tables lack is counted; where that begins and where it ends goes on record.
        """
        lacking = self.lack(events.event_time_ms)
        counts["risk.lacking"] += int(lacking.sum())
        if (now := bool(lacking[-1])) != self.lacking:
            self.lacking = now
            told = {str(p): at_ms for p, at_ms in sorted(self.told_ms.items())}
            detail = {"lacking": now, "told_ms": told, "at_ms": int(events.event_time_ms[-1])}
            auditor.record("risk_lacking", "scorer", "ensemble", detail)
        keys = [events.entities[entity] for entity in self._features.shared]
        self._hold(np.column_stack(keys), events.event_time_ms, positive=False)

    def known(self, rows: NDArray[Any]) -> None:
        """These rows of the pending store are known to be positive."""
        fields = self._features.entity_fields
        columns = [fields.index(entity) for entity in self._features.shared]
        self._hold(rows["keys"][:, columns], rows["event_time_ms"], positive=True)

    def _hold(self, keys: U64, times_ms: I64, positive: bool) -> None:
        self._keys.append(keys)
        self._times.append(times_ms)
        self._positive.append(np.full(len(times_ms), positive))

    def beat(self, watermark_ms: int) -> None:
        """There is no event here, while others tell of some: what they are up to is told for here.

        By the stream's time, a part of the delay at a time; without anything new nobody beats.
        """
        newest = max(self.told_ms.values())
        if newest >= max(self._beaten_ms, watermark_ms) + self._features.delay_ms // BEATS:
            self._beat_ms = self._beaten_ms = newest

    def take(self, partition: int, watermark_ms: int) -> tuple[list[NewRecord], bytes]:
        """The records for what came since the last call, and a digest of what they hold."""
        if not self._times and not self._beat_ms:
            return [], b""
        watermark_ms, self._beat_ms = max(watermark_ms, self._beat_ms), 0
        self._hold(np.empty((0, len(self._features.shared)), np.uint64), _NONE, positive=False)
        positive = np.concatenate(self._positive)
        # A label may have come with its event, before this was told: events first.
        order = np.argsort(positive, kind="stable")
        keys, times = np.concatenate(self._keys)[order], np.concatenate(self._times)[order]
        positive = positive[order]
        self._keys, self._times, self._positive = [], [], []
        each, n = BLOCK_BYTES // (8 * keys.shape[1] + 9), len(times)
        raws = []
        for start in range(0, max(n, 1), each):
            rows = slice(start, start + each)
            told_ms = watermark_ms if start + each >= n else 0  # once all of it is told
            parts = (x[rows].tobytes() for x in (keys, times, positive))
            raws.append(_encode(Block(self._meaning, self._features.shared, told_ms, *parts)))
        return packed(raws, partition)

    def read(self, partition: int, raw: bytes | None) -> None:
        """Take a record of another scorer in; raises :class:`Foreign`."""
        try:
            block = _decode(plain_bytes(raw or b""))
            check_meaning(block.meaning, self._meaning)
            times = np.frombuffer(block.times, np.int64)
            keys = np.frombuffer(block.keys, np.uint64)
            keys = keys.reshape(len(times), -1 if len(times) else len(self._features.shared))
            positive = np.frombuffer(block.positive, np.uint8) != 0
        except Foreign:
            raise
        except (msgspec.MsgspecError, zstandard.ZstdError, ValueError) as error:
            raise Foreign(f"expected events of entities, got {error}") from error
        expected = self._features.shared
        if block.entities != expected or (len(positive), keys.shape[1]) != (
            *(len(times), len(expected)),
        ):
            raise Foreign(
                f"expected keys of {', '.join(expected)} for each of {len(times)} times, got"
                f" {keys.size} of {', '.join(block.entities)}"
            )
        self._features.absorb(keys, times, positive)
        if partition in self.told_ms:
            self.told_ms[partition] = max(self.told_ms[partition], block.watermark_ms)

    def lack(self, times_ms: I64) -> BOOL:
        """Which events about to be scored find tables that lack something, ``(n,)``.

        What somebody has not told that is older than the delay; or what others are so far ahead of
        that it may be forgotten.
        """
        told = self.told_ms.values()
        behind = times_ms - self._features.delay_ms > min(told)
        return behind | (times_ms + self._features.slack_ms < max(told))

    def lag_s(self, watermark_ms: int) -> float:
        """How much older than the newest event scored here is the oldest of what others told.

        ``nan`` before each of them has told something.
        """
        oldest_ms = min(self.told_ms.values())
        return max(0, watermark_ms - oldest_ms) / 1000 if oldest_ms else math.nan

    def state(self) -> State:
        """See :meth:`models.base.Model.state`; what is to be told leaves with its step."""
        told = [list(pair) for pair in sorted(self.told_ms.items())]
        return {"told_ms": told, "lacking": self.lacking, "beaten_ms": self._beaten_ms}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See :meth:`models.base.Model.restore`."""
        self.told_ms |= dict(state["told_ms"])
        self.lacking = bool(state["lacking"])
        self._beaten_ms = int(state["beaten_ms"])


def shared_by(config: Config, features: FeatureStage) -> Sharing:
    """What the scorer of this configuration tells the others."""
    others = [i for i in range(config.shard.count) if i != config.shard.index]
    return Sharing(features, told_meaning(config), others)


def take_in(sharing: Sharing, piece: Slice, out: Made) -> None:
    """Take in what another scorer tells of entities that it sees too."""
    for record in piece.records:
        try:
            sharing.read(record.partition, record.value)
        except Foreign as error:
            out.letters.append(DeadLetter(record, "foreign", str(error)))

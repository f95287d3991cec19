"""Labels that stand in any partition: how each comes to the scorer that holds its event.

The owner of an id, one of the scorers by the id's hash, keeps which other scorer holds the event:
each tells the owners what it holds and what has left. Whoever reads a label asks the owner, who
hands it on, or lets it wait: the owner alone says that a label has no event. Three hands and two
commits for a label, however many scorers there are. Nothing here scores or joins.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum
from typing import Any, NamedTuple

import msgspec
import numpy as np
import zstandard

from models.base import I64, U64, State
from models.task import Task
from stream.contract.letters import DEAD_LETTER_BYTES
from stream.contract.records import NewRecord, Record
from stream.decode.codec import Labels
from stream.step.early import EarlyLabel
from stream.step.join import PARTS
from stream.step.roles.examples import Foreign, check_meaning, packed, plain_bytes, possible
from stream.step.roles.holders import Holders

IDS = 32_768
"""Ids of one kind in one record at most."""
LABELS = 256
"""Labels in one record at most: a step takes whole records."""
LABEL_BYTES = 400_000
"""Raw bytes of labels in one record at most, but for one alone."""


class Stage(IntEnum):
    """What a label that is handed on is for."""

    ASKED = 0  # the owner of its id shall say who holds its event
    FOUND = 1  # the receiver holds its event
    LEFT = 2  # as asked, of the owner who said that the sender holds it


class Told(msgspec.Struct, frozen=True, array_like=True):
    """Labels column by column, and the records that they are, without headers."""

    stage: int
    topics: list[str]
    keys: list[bytes | None]
    values: list[bytes | None]
    partition: bytes
    offset: bytes
    timestamp_ms: bytes
    id_hash: bytes
    y: bytes
    labelled_at_ms: bytes
    corrects: bytes


class Block(msgspec.Struct, frozen=True, array_like=True):
    """What ``sender`` tells one other: of events that the receiver is the owner of, uint64 ids of
    those that have ``left`` and of those ``held`` since; labels; in this order.

    ``watermark_ms``: the newest event time that the sender had scored, all of it told; 0 where
    more follows.
    """

    meaning: str
    sender: int
    watermark_ms: int = 0
    left: bytes = b""
    labels: tuple[Told, ...] = ()
    held: bytes = b""


COLUMNS = ("id_hash", "y", "labelled_at_ms", "corrects")
"""Of labels, beside their records."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Block).decode


class Heard(NamedTuple):
    """A :class:`Block` with its arrays."""

    sender: int
    watermark_ms: int
    left: U64
    labels: list[tuple[Stage, Labels]]
    held: U64


class Routes:
    """What one scorer tells the others of labels and events, and is told.

    Parameters
    ----------
    index, count : int
        Which of the scorers, and how many there are.
    meant : str
        See :func:`~stream.step.roles.examples.told_meaning`.
    horizon_ms : int
    task : Task

    Attributes
    ----------
    holders : Holders
        Of the ids that it is the owner of, those held elsewhere.
    told_ms : dict of int to int
        By scorer the newest event time that it had scored, as far as it told.
    heard_ms : int
        See :attr:`~stream.step.join.Join.heard_ms`.
    untold : bool
        The others know nothing yet of what is held here.
    """

    def __init__(self, index: int, count: int, meant: str, horizon_ms: int, task: Task) -> None:
        self._index, self._count, self._meaning = index, count, meant
        self._task = task
        self._slack_ms = max(1, horizon_ms // PARTS)
        others = [i for i in range(count) if i != index]
        self.holders = Holders()
        self.told_ms = dict.fromkeys(others, 0)
        self.heard_ms = 0
        self.untold = True
        self._said_ms = dict.fromkeys(others, 0)  # what each was told of this one
        self._beaten_ms = 0  # up to when there was no event here, while others told of some
        self._labels: dict[int, list[tuple[Stage, Labels]]] = {i: [] for i in others}
        self._left: list[U64] = []
        self._held: list[U64] = []

    def owner(self, ids: U64) -> I64:
        """Which scorer is the owner of each id."""
        return owner(ids, self._count).astype(np.int64)

    def mine(self, ids: U64) -> Any:
        """Which of the ids this scorer is the owner of."""
        return self.owner(ids) == self._index

    # ------------------------------------------------------------------ what is told

    def hold(self, ids: U64) -> None:
        """These events are held from now on."""
        self._held.append(ids)

    def leave(self, ids: U64) -> None:
        """These are held no more."""
        if self._held:  # what came within this step need not be told at all
            held = np.concatenate(self._held)
            both = np.isin(held, ids)
            ids = ids[~np.isin(ids, held[both])] if both.any() else ids
            self._held = [held[~both]]
        self._left.append(ids)

    def hand(self, labels: Labels, to: I64, stage: Stage) -> int:
        """Hand each label on to a scorer, -1: to none; tells how many went."""
        for other in np.unique(to[to >= 0]).tolist():
            own = to == other
            part = labels if own.all() else labels.take(np.flatnonzero(own))
            self._labels[other].append((stage, part))
        return int((to >= 0).sum())

    def beat(self, watermark_ms: int) -> None:
        """There is no event here, while others tell of some: what they are up to holds here, too.

        A 256th of the horizon at a time; without anything new nobody beats.
        """
        newest = max(self.told_ms.values())
        if newest >= max(self._beaten_ms, watermark_ms) + self._slack_ms:
            self._beaten_ms = newest

    def hear(self, watermark_ms: int) -> tuple[int, int]:
        """The newest event time that any scorer is past, and the newest that all are past.

        ``watermark_ms``: that of this one.
        """
        own, told = max(watermark_ms, self._beaten_ms), self.told_ms.values()
        self.heard_ms = max(self.heard_ms, own, *told)
        return self.heard_ms, min(own, *told)

    def take(self, watermark_ms: int, waiting: U64) -> tuple[list[NewRecord], bytes]:
        """The records for what came since the last call, and a digest of what they hold.

        ``waiting``: the ids of all that is held, where :attr:`untold`.
        """
        if self.untold:
            self._left, self._held, self.untold = [], [waiting], False
        empty = [np.empty(0, np.uint64)]
        left, held = (np.concatenate(ids or empty) for ids in (self._left, self._held))
        self._left, self._held = [], []
        owners = self.owner(left), self.owner(held)
        now_ms = max(watermark_ms, self._beaten_ms)
        records, h = [], hashlib.blake2b(digest_size=16)
        for other, labels in self._labels.items():
            parts = left[owners[0] == other], labels, held[owners[1] == other]
            if any(map(len, parts)) or now_ms >= self._said_ms[other] + self._slack_ms:
                made, covered = packed([*map(_encode, self._blocks(*parts, now_ms))], other)
                records += made
                h.update(covered)
                self._said_ms[other] = now_ms
            self._labels[other] = []
        return records, h.digest() if records else b""

    def _blocks(
        self, left: U64, labels: list[tuple[Stage, Labels]], held: U64, now_ms: int
    ) -> list[Block]:
        """In few records; what is in a later one comes later."""
        whole: list[dict[str, Any]] = [{}]
        kinds = ("left", _runs(left)), ("labels", _pieces(labels)), ("held", _runs(held))
        for kind, pieces in kinds:
            for piece in pieces:
                if kind in whole[-1]:
                    whole.append({})
                whole[-1][kind] = piece
        whole[-1]["watermark_ms"] = now_ms
        return [Block(self._meaning, self._index, **parts) for parts in whole]

    # ------------------------------------------------------------------ what is heard

    def heard(self, raw: bytes | None) -> Heard:
        """What a record tells, not taken in; raises :class:`Foreign`."""
        return heard(raw, self._meaning, self._task)

    def read(self, raw: bytes | None) -> Heard:
        """Take in what left of a record's events; raises :class:`Foreign`.

        The caller takes its labels, and then tells :attr:`holders` what is held.
        """
        found = self.heard(raw)
        if found.sender not in self.told_ms:
            raise Foreign(f"expected another scorer of {self._count}, got {found.sender}")
        if not self.mine(np.concatenate([found.left, found.held])).all():
            raise Foreign(f"expected ids of scorer {self._index}, got others'")
        self.holders.remove(found.left, found.sender)
        told_ms = self.told_ms[found.sender]
        self.told_ms[found.sender] = max(told_ms, found.watermark_ms)
        return found

    def state(self) -> State:
        """See :meth:`models.base.Model.state`; what is to be told leaves with its step."""
        said = {"said_ms": self._said_ms, "told_ms": self.told_ms}
        return {
            **{name: [list(pair) for pair in sorted(ms.items())] for name, ms in said.items()},
            **{"beaten_ms": self._beaten_ms, "heard_ms": self.heard_ms, "untold": self.untold},
            "holders": self.holders.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """See :meth:`models.base.Model.restore`."""
        self._said_ms |= dict(state["said_ms"])
        self.told_ms |= dict(state["told_ms"])
        self._beaten_ms, self.heard_ms = int(state["beaten_ms"]), int(state["heard_ms"])
        self.untold = bool(state["untold"])
        self.holders.restore(state["holders"])


def asked(meant: str, sender: int, labels: Iterable[Labels], to: int) -> list[NewRecord]:
    """Records in which a scorer is asked for the events of labels, of whatever owners."""
    pieces = _pieces([(Stage.ASKED, part) for part in labels])
    return packed([_encode(Block(meant, sender, labels=piece)) for piece in pieces], to)[0]


def owner(ids: Any, count: int) -> Any:
    """Which of ``count`` scorers is the owner of an id, or of each of an array uint64 ``(n,)``."""
    return ids % (np.uint64(count) if isinstance(ids, np.ndarray) else count)


def heard(raw: bytes | None, meant: str, task: Task) -> Heard:
    """What a record tells; raises :class:`Foreign`."""
    try:
        block = _decode(plain_bytes(raw or b""))
        check_meaning(block.meaning, meant)
        left, held = (_array(ids, np.uint64) for ids in (block.left, block.held))
        labels = [(Stage(told.stage), _labels(told)) for told in block.labels]
    except Foreign:
        raise
    except (msgspec.MsgspecError, zstandard.ZstdError, ValueError) as error:
        raise Foreign(f"expected labels and ids of events, got {error}") from error
    if not all(possible(part.y, task).all() for _, part in labels):
        raise Foreign("expected labels with truths of the target")
    return Heard(block.sender, block.watermark_ms, left, labels, held)


def waited(found: list[EarlyLabel]) -> Labels:
    """Labels that have waited for their event, as columns."""
    return Labels(
        [label.record for label in found],
        np.array([label.id_hash for label in found], np.uint64),
        np.array([label.y for label in found], np.float64),
        np.array([label.labelled_at_ms for label in found], np.int64),
        np.zeros(len(found), np.bool_),
    )


def together(parts: list[Labels]) -> Labels:
    """Labels one after another."""
    if len(parts) == 1:
        return parts[0]
    records = [record for part in parts for record in part.records]
    columns: Any = {n: np.concatenate([getattr(part, n) for part in parts]) for n in COLUMNS}
    return Labels(records, **columns)


def _runs(ids: U64) -> list[bytes]:
    return [ids[start : start + IDS].tobytes() for start in range(0, len(ids), IDS)]


def _pieces(labels: list[tuple[Stage, Labels]]) -> Iterator[tuple[Told, ...]]:
    """Labels by records, in order."""
    piece: list[Told] = []
    rows = size = 0
    for stage, part in labels:
        sizes = [len(r.value or b"") + len(r.key or b"") for r in part.records]
        first = 0
        for i, own in enumerate(sizes):
            if rows and (rows == LABELS or size + own > LABEL_BYTES):
                if i > first:
                    piece.append(_told(stage, part.take(np.arange(first, i))))
                yield tuple(piece)
                piece, rows, size, first = [], 0, 0, i
            rows, size = rows + 1, size + own
        if first < len(sizes):
            piece.append(_told(stage, part.take(np.arange(first, len(sizes)))))
    if piece:
        yield tuple(piece)


def _told(stage: Stage, labels: Labels) -> Told:
    records = labels.records
    return Told(
        stage=int(stage),
        topics=[r.topic for r in records],
        keys=[r.key for r in records],
        # A dead letter keeps no more of it.
        values=[r.value and r.value[:DEAD_LETTER_BYTES] for r in records],
        partition=np.array([r.partition for r in records], np.int32).tobytes(),
        offset=np.array([r.offset for r in records], np.int64).tobytes(),
        timestamp_ms=np.array([r.timestamp_ms for r in records], np.int64).tobytes(),
        **{name: getattr(labels, name).tobytes() for name in COLUMNS},
    )


def _array(raw: bytes, dtype: Any) -> Any:
    return np.frombuffer(bytearray(raw), dtype)  # kernels take none that cannot be written


def _labels(told: Told) -> Labels:
    """Raises ``ValueError`` where columns are of several lengths."""
    partition = np.frombuffer(told.partition, np.int32)
    offset = np.frombuffer(told.offset, np.int64)
    at = np.frombuffer(told.timestamp_ms, np.int64)
    places = partition.tolist(), offset.tolist()
    columns = zip(told.topics, *places, told.keys, told.values, at.tolist(), strict=True)
    labels = Labels(
        [Record(*row) for row in columns],
        _array(told.id_hash, np.uint64),
        _array(told.y, np.float64),
        _array(told.labelled_at_ms, np.int64),
        _array(told.corrects, np.bool_),
    )
    lengths = {len(labels.records), *(len(getattr(labels, name)) for name in COLUMNS)}
    if len(lengths) != 1 or not labels.records:
        raise ValueError(f"columns of {sorted(lengths)} labels")
    return labels

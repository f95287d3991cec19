"""What goes in and out of a step: records, slices, batches, outputs and the journal.

Built by the logs (``stream/logs/sqlite/log.py``, ``stream/logs/kafka/log.py``), read by the engine.
Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import xxhash

Headers = tuple[tuple[str, bytes], ...]


class Record(msgspec.Struct, frozen=True, gc=False):
    """One record of a topic, as read. ``offset`` is its own; ``value`` may be ``None`` (a null).

    ``unreadable`` is not empty where the log could not read the record: why. Its value is ``None``.
    """

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int = 0
    headers: Headers = ()
    unreadable: str = ""


class NewRecord(msgspec.Struct, frozen=True, gc=False):
    """One record to append. ``partition`` ``None``: by the key's murmur2, 0 without a key.

    ``timestamp_ms`` ``None``: the clock of the step, or of the append.
    """

    key: bytes | None
    value: bytes | None
    partition: int | None = None
    headers: Headers = ()
    timestamp_ms: int | None = None


class Range(msgspec.Struct, frozen=True, array_like=True):
    """``count`` records of one partition, from offset ``first`` to ``last`` inclusive.

    On Kafka ``count`` may be less than ``last - first + 1``: transaction markers use offsets too.
    ``checksum`` is xxh3-64 over keys and values, in hex: a replay that reads other records there is
    told from one that diverged. Empty: nobody computed it.
    """

    topic: str
    partition: int
    first: int
    last: int
    count: int
    checksum: str = ""

    @property
    def next_offset(self) -> int:
        """Where to resume after this range."""
        return self.last + 1


def range_of(records: Sequence[Record]) -> Range:
    """The range of a run of one partition's records, at least one."""
    first, last = records[0], records[-1]
    return Range(
        *(first.topic, first.partition, first.offset, last.offset, len(records)), checksum(records)
    )


def checksum(records: Sequence[Record]) -> str:
    """See :class:`Range`. Takes 63 ns a record of 200 bytes."""
    h = xxhash.xxh3_64()
    update = h.update
    for r in records:
        update(r.key or b"")
        update(r.value or b"")
    return h.hexdigest()


class Slice(msgspec.Struct, frozen=True):
    """A range and its records, in offset order.

    ``ahead``: what :meth:`stream.decode.codec.Codec.ahead` made of the records before their step.
    """

    range: Range
    records: Sequence[Record]
    ahead: Any = None


class Batch(msgspec.Struct, frozen=True):
    """The input of one step.

    ``clock_ms`` is the only clock the step may read (UTC milliseconds, from the journal when the
    step is replayed). ``skipped`` names records that must become dead letters unread because they
    crashed the step before. ``checkpoint``: a checkpoint will be taken of the state after this
    step, and the members' digests must go on record. ``room``: how many events may wait for a label
    from here on, where the configuration does not say; 0: as before. ``models``: what the commands
    among the records put in the place of members, by member and digest; where one cannot be had,
    why. ``quiet``: no event waited to be read when the records were polled, nor is one among them.
    """

    seq: int
    clock_ms: int
    slices: Sequence[Slice]
    skipped: frozenset[tuple[str, int, int]] = frozenset()
    checkpoint: bool = False
    room: int = 0
    models: Mapping[tuple[str, str], Any] = {}
    quiet: bool = False

    def __len__(self) -> int:
        return sum(len(s.records) for s in self.slices)


class JournalRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a step took, in which order, with which clock, and what came out.

    ``kind`` says what ``body`` holds and how the record is done again; ``stream/state/follow.py``
    has the table. Text of any kind is read, so that a record of a later version can be named.
    ``checkpoint``, ``room``, ``quiet``: see :class:`Batch`; ``missing``: digests of the ``models``
    that could not be had.

    Where a checkpoint was taken, ``config`` is the SHA-256 of the configuration that the engine ran
    under, and ``contents`` those of the parts of its state: a start loads nothing else. ``head`` is
    number and hash of the trail's newest record, where the step wrote any.

    ``digest`` is ``blake2b-128(previous digest + the outputs' bytes)`` in hex: a replay that gives
    another one has diverged.
    """

    seq: int
    clock_ms: int
    digest: str
    ranges: tuple[Range, ...] = ()
    kind: str = "step"
    skipped: tuple[tuple[str, int, int], ...] = ()
    body: dict[str, Any] = {}
    checkpoint: bool = False
    room: int = 0
    config: str = ""
    contents: dict[str, str] = {}
    head: tuple[int, str] | None = None
    missing: tuple[str, ...] = ()
    quiet: bool = False


_journal_encoder = msgspec.json.Encoder()
_journal_decoder = msgspec.json.Decoder(JournalRecord)


def encode_journal(record: JournalRecord) -> bytes:
    """The journal record as JSON bytes."""
    return _journal_encoder.encode(record)


def decode_journal(raw: bytes) -> JournalRecord:
    """The journal record in ``raw``; raises :class:`msgspec.MsgspecError` on anything else."""
    return _journal_decoder.decode(raw)

"""Unpacks Kafka's record batches so that no batch can stop or drown the consumer.

kafka-python 3.0.12 unpacks a batch without any bound (a 1 MB zstd batch can hold gigabytes), and
whatever goes wrong is raised once, after which ``poll()`` spins for ever. Here a batch unpacks to
at most :data:`MAX_BATCH_BYTES`; one that does not, or that cannot be read, becomes one record with
a null value for each of its offsets, with the reason as an :class:`Unreadable`: a dead letter each,
and the partition goes on. A CRC mismatch still raises: it may heal when the batch is
fetched again.

kafka-python makes its batches in one place, ``MemoryRecords.next_batch``, by a name of its own
module; :func:`install` puts :class:`BoundedBatch` under that name. There is no public hook.
"""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import lz4.frame  # type: ignore[import-untyped]
import msgspec
import snappy  # type: ignore[import-untyped]
import zstandard
from kafka.errors import KafkaError, UnsupportedForMessageFormatError
from kafka.record import memory_records
from kafka.record.default_records import DefaultRecord, DefaultRecordBatch

from stream.logs.kafka.clients.scan import scan

MAX_BATCH_BYTES = 64 << 20
"""What one batch may unpack to. Brokers take batches of 1 MB unless told otherwise."""

_XERIAL = b"\x82SNAPPY\x00"
_CODECS = ("none", "gzip", "snappy", "lz4", "zstd")


class Unreadable(str):
    """Why a record could not be read, in the place of a header's name.

    Told by its class: no record of a topic can forge it.
    """


class _TooLarge(ValueError):
    pass


def _gzip(data: bytes) -> bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
        return stream.read(MAX_BATCH_BYTES + 1)


def _lz4(data: bytes) -> bytes:
    with lz4.frame.LZ4FrameFile(io.BytesIO(data)) as stream:
        unpacked: bytes = stream.read(MAX_BATCH_BYTES + 1)
        return unpacked


def _zstd(data: bytes) -> bytes:
    stream = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True)
    return stream.read(MAX_BATCH_BYTES + 1)


def _snappy(data: bytes) -> bytes:
    """Raw snappy, or the blocks of the Java library (magic, versions, then length and block)."""
    if not data.startswith(_XERIAL):
        return _snappy_block(data, MAX_BATCH_BYTES)
    out = bytearray()
    at = 16
    while at < len(data):
        (size,) = struct.unpack_from(">i", data, at)
        block = data[at + 4 : at + 4 + size]
        at += 4 + size
        if size <= 0 or len(block) != size:
            raise ValueError("a snappy block is cut off")
        out += _snappy_block(block, MAX_BATCH_BYTES - len(out))
    return bytes(out)


def _snappy_block(block: bytes, room: int) -> bytes:
    # The block starts with its unpacked length, a varint, and snappy allocates it unseen.
    length = shift = 0
    for byte in block[:5]:
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    if length > room:
        raise _TooLarge
    unpacked: bytes = snappy.decompress(block)
    return unpacked


_UNPACK: dict[int, Callable[[bytes], bytes]] = {1: _gzip, 2: _snappy, 3: _lz4, 4: _zstd}
_BROKEN = (
    KafkaError,
    ValueError,  # includes UnicodeDecodeError and _TooLarge
    IndexError,
    struct.error,
    OSError,  # gzip.BadGzipFile
    EOFError,
    RuntimeError,  # lz4
    zlib.error,
    zstandard.ZstdError,
    snappy.UncompressError,
)


class _Plain(msgspec.Struct, gc=False):
    """A record without headers, as kafka-python's consumer wants to see one."""

    size_in_bytes: int
    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: ClassVar[tuple[()]] = ()
    checksum: ClassVar[None] = None

    def validate_crc(self) -> bool:
        """The batch has a CRC, its records have none."""
        return True


class BoundedBatch(DefaultRecordBatch):
    """A batch that unpacks to a bounded size, and gives null records when it cannot be read."""

    _buffer: bytearray
    _pos: int
    _decompressed: bool

    def _maybe_uncompress(self) -> None:
        unpack = _UNPACK.get(self.compression_type)
        if unpack is not None and not self._decompressed:
            unpacked = unpack(bytes(memoryview(self._buffer)[self._pos :]))
            if len(unpacked) > MAX_BATCH_BYTES:
                raise _TooLarge
            self._buffer = bytearray(unpacked)
            self._pos = 0
        elif self.compression_type != 0 and not self._decompressed:
            raise ValueError(f"compression type {self.compression_type} is not known")
        self._decompressed = True

    def __iter__(self) -> Iterator[Any]:
        try:
            self._maybe_uncompress()
            found = None if self.is_control_batch else scan(self._buffer, self._pos, self._count)
            if found is not None:
                return iter([self._record(*row) for row in found.tolist()])
            # Not sound, or a marker: the library's own reader says what is wrong.
            read = self._read_msg
            records = [read() for _ in range(self.records_count)]
            if self._pos != len(self._buffer):
                raise ValueError(f"{len(self._buffer) - self._pos} bytes follow its last record")
            return iter(records)
        except _BROKEN as error:
            return self._unreadable(error)

    @property
    def _count(self) -> int:
        return max(0, int(self.records_count))

    def _record(
        self,
        length: int,
        ms: int,
        offset: int,
        key: int,
        key_bytes: int,
        value: int,
        value_bytes: int,
        with_headers: int,
    ) -> Any:
        """The record whose parts :func:`~stream.logs.kafka.clients.scan.scan` found there."""
        if with_headers >= 0:
            self._pos = with_headers
            return self._read_msg()
        buffer = self._buffer
        stamped = self.timestamp_type
        return _Plain(
            length,
            self._header_data[0] + offset,
            self._header_data[8] if stamped else self._header_data[7] + ms,
            stamped,
            None if key_bytes < 0 else bytes(buffer[key : key + key_bytes]),
            None if value_bytes < 0 else bytes(buffer[value : value + value_bytes]),
        )

    def _unreadable(self, error: Exception) -> Iterator[DefaultRecord]:
        codec = dict(enumerate(_CODECS)).get(self.compression_type, "unknown codec")
        reason = str(error) or type(error).__name__
        if isinstance(error, _TooLarge):
            reason = f"it unpacks to more than {MAX_BATCH_BYTES} bytes"
        text = f"batch at offset {self.base_offset} ({codec}) cannot be unpacked: {reason}"
        headers = [(Unreadable(text[:500]), b"")]
        # The broker checks both counts when it takes a batch: they cannot run away.
        for offset in range(self.base_offset, self.last_offset + 1):
            yield DefaultRecord(0, offset, self.first_timestamp, 0, None, None, headers)


def _refuse_legacy(*_: object) -> Any:
    text = "message format v0 or v1 (before Kafka 0.11) is not supported"
    raise UnsupportedForMessageFormatError(text)


def install() -> None:
    """Make every consumer of this process use :class:`BoundedBatch`."""
    memory_records.DefaultRecordBatch = BoundedBatch
    memory_records.LegacyRecordBatch = _refuse_legacy

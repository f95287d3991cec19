"""Unpacking Kafka's batches: every codec, bombs, and batches that cannot be read."""

from __future__ import annotations

import gzip
from typing import Any

import lz4.frame  # type: ignore[import-untyped]
import pytest
import snappy  # type: ignore[import-untyped]
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from kafka.errors import KafkaError, UnsupportedForMessageFormatError
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from kafka.record.memory_records import MemoryRecords

from stream.logs.kafka.clients import codec as kafka_codec
from stream.logs.kafka.clients.codec import MAX_BATCH_BYTES, BoundedBatch, Unreadable

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}


def batch(codec: int, values: list[bytes], base_offset: int = 100) -> bytearray:
    """A batch as a producer would send it, with offsets as a broker would give them."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=codec,
        is_transactional=False,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 20,
    )
    for i, value in enumerate(values):
        assert builder.append(i, 1000 + i, b"key", value, [("h", b"1")]) is not None
    raw = bytearray(builder.build())
    raw[:8] = base_offset.to_bytes(8, "big")
    return raw


def with_payload(codec: int, payload: bytes, count: int) -> BoundedBatch:
    """A batch whose header tells of ``count`` records, over any compressed bytes."""
    header = batch(0, [b"x"] * count)[: BoundedBatch.HEADER_STRUCT.size]
    header[22] |= codec  # the low byte of the attributes
    return BoundedBatch(bytes(header) + payload)


def bombs() -> list[tuple[str, bytes]]:
    """Small payloads that unpack to more than the bound."""
    size = MAX_BATCH_BYTES + 1
    snappy_lie = b"\xff\xff\xff\xff\x0f" + b"\x00" * 20  # says that it unpacks to 4 GiB
    return [
        ("gzip", gzip.compress(bytes(size), 1)),
        ("zstd", zstandard.ZstdCompressor().compress(bytes(size))),
        ("lz4", lz4.frame.compress(bytes(size))),
        ("snappy", snappy_lie),
    ]


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_is_read(codec: str) -> None:
    """Keys, values, headers and offsets come out as they went in, whatever the codec."""
    values = [f"value {i}".encode() * 50 for i in range(200)]
    records = list(BoundedBatch(batch(CODECS[codec], values)))
    assert [r.value for r in records] == values
    assert [r.offset for r in records] == list(range(100, 300))
    assert {(r.key, *r.headers) for r in records} == {(b"key", ("h", b"1"))}


@pytest.mark.parametrize(("codec", "payload"), bombs(), ids=lambda p: p if type(p) is str else "")
def test_a_bomb_becomes_unreadable_records(codec: str, payload: bytes) -> None:
    """A batch that unpacks to more than the bound gives one null record for each offset."""
    records = list(with_payload(CODECS[codec], payload, 3))
    assert [(r.offset, r.key, r.value) for r in records] == [
        (100 + i, None, None) for i in (0, 1, 2)
    ]
    ((reason, _),) = records[0].headers
    assert isinstance(reason, Unreadable)
    assert f"offset 100 ({codec})" in reason
    assert "unpacks to more than" in reason


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
@pytest.mark.parametrize("payload", [b"", b"garbage that no codec knows", bytes(100)])
def test_what_no_codec_can_unpack_becomes_unreadable_records(codec: str, payload: bytes) -> None:
    """Garbage under any codec gives null records and never an exception."""
    records = list(with_payload(CODECS[codec], payload, 2))
    assert [(r.offset, r.value) for r in records] == [(100, None), (101, None)]
    assert isinstance(records[0].headers[0][0], Unreadable)


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_a_cut_off_batch_becomes_unreadable_records(codec: str) -> None:
    """A payload cut at any place gives null records, never some records and an exception."""
    whole = bytes(batch(CODECS[codec], [b"value" * 20] * 10))
    for size in range(BoundedBatch.HEADER_STRUCT.size, len(whole) - 1, 7):
        records = list(BoundedBatch(whole[:size]))
        assert [r.offset for r in records] == list(range(100, 110))
        assert all(r.value is None for r in records) or all(r.value for r in records)


def test_an_unknown_codec_becomes_unreadable_records() -> None:
    """A compression type that Kafka does not define is told, not raised."""
    (record,) = with_payload(5, b"", 1)
    assert "unknown codec" in record.headers[0][0]


def test_both_forms_of_snappy_are_read() -> None:
    """Raw snappy and the Java library's blocks unpack to the same bytes."""
    data = b"0123456789" * 10_000
    blocks = b"\x82SNAPPY\x00" + (1).to_bytes(4, "big") * 2
    for at in range(0, len(data), 32 << 10):
        block = snappy.compress(data[at : at + (32 << 10)])
        blocks += len(block).to_bytes(4, "big") + block
    assert kafka_codec._snappy(blocks) == data
    assert kafka_codec._snappy(snappy.compress(data)) == data


def test_consumers_use_the_bounded_batch() -> None:
    """What kafka-python makes of fetched bytes is a BoundedBatch; old formats are refused."""
    kafka_codec.install()
    fetched = MemoryRecords(bytes(batch(4, [b"a", b"b"])))
    assert [r.value for r in fetched.next_batch()] == [b"a", b"b"]
    old = bytearray(batch(0, [b"a"]))
    old[16] = 1
    with pytest.raises(UnsupportedForMessageFormatError, match="message format v0 or v1"):
        MemoryRecords(bytes(old)).next_batch()


FIELD = st.none() | st.binary(max_size=200)
HEADERS = st.lists(st.tuples(st.text(max_size=5), FIELD), max_size=2)
RECORD = st.tuples(st.integers(0, 1 << 40), FIELD, FIELD, HEADERS)


def parts(record: Any) -> tuple[Any, ...]:
    """All that a consumer asks a record for."""
    at = (record.offset, record.timestamp, record.timestamp_type, record.size_in_bytes)
    return (*at, record.key, record.value, list(record.headers), record.checksum)


def sent(records: list[tuple[int, bytes | None, bytes | None, list[Any]]]) -> bytearray:
    """A batch of records with these times, keys, values and headers."""
    builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 1 << 20)
    for i, (ms, key, value, headers) in enumerate(records):
        assert builder.append(i, ms, key, value, headers) is not None
    raw = bytearray(builder.build())
    raw[:8] = (1 << 33).to_bytes(8, "big")
    return raw


@given(st.lists(RECORD, min_size=1, max_size=20), st.booleans())
def test_records_are_those_that_the_library_reads(
    records: list[tuple[int, bytes | None, bytes | None, list[Any]]], stamped: bool
) -> None:
    """Nulls, empty parts, headers and times: each record is as kafka-python's own reader has it."""
    raw = sent(records)
    raw[22] |= DefaultRecordBatch.TIMESTAMP_TYPE_MASK if stamped else 0
    ours = [parts(r) for r in BoundedBatch(raw)]
    assert ours == [parts(r) for r in DefaultRecordBatch(raw)]


@given(st.lists(RECORD, min_size=1, max_size=4), st.data())
def test_a_damaged_batch_reads_as_the_library_reads_it_or_not_at_all(
    records: list[tuple[int, bytes | None, bytes | None, list[Any]]], data: st.DataObject
) -> None:
    """Any byte changed: what the library refuses is unreadable, the rest is equal."""
    raw = sent(records)
    at = data.draw(st.integers(BoundedBatch.HEADER_STRUCT.size, len(raw) - 1))
    raw[at] = data.draw(st.integers(0, 255))
    try:
        theirs = [parts(r) for r in DefaultRecordBatch(raw)]
    except (KafkaError, ValueError, IndexError):
        assert [r.value for r in BoundedBatch(raw)] == [None] * len(records)
    else:
        ours = [parts(r) for r in BoundedBatch(raw)]
        unreadable = [
            r
            for r in BoundedBatch(raw)
            if any(isinstance(name, Unreadable) for name, _ in r.headers)
        ]
        assert ours == theirs or len(unreadable) == len(records)

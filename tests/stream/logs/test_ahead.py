"""Reading and decoding ahead of the step changes nothing but the time it takes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stream.contract.records import Batch, Slice
from stream.decode.codec import Codec
from stream.logs.ahead import Ahead, one_ahead
from stream.run.assemble import build_engine, open_log
from tests.support.factory import START_MS, Feed, config, event, records, traffic
from tests.support.runner import append


def test_items_come_in_order_and_errors_where_they_belong() -> None:
    """What is made ahead arrives as it would one by one, an exception included."""

    def items() -> Iterator[int]:
        yield from range(3)
        raise ValueError("the fourth")

    coming = one_ahead(items())
    assert [next(coming) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="the fourth"):
        next(coming)
    assert list(one_ahead(iter(()))) == []


def test_a_backlog_is_read_ahead_once_and_in_order(tmp_path: Path) -> None:
    """Full batches bring the next one decoded; what was read ahead and dropped is read again."""
    c = config(tmp_path)
    append(c, ("events", [event(i) for i in range(300)]))
    log = open_log(c, lambda: START_MS)
    log.open()
    log.seek({})
    codec, ahead = Codec(c), Ahead(log)
    taken: list[Slice] = []
    for _ in range(3):
        taken += ahead.poll(80, 0.0, codec.ahead)
    assert [s.ahead is not None for s in taken] == [False, True, True]
    ahead.forget()
    log.seek({("events", 0): 240})
    taken += ahead.poll(80, 0.0, codec.ahead)
    assert [r.offset for s in taken for r in s.records] == list(range(300))
    ahead.close()
    log.close()


def test_a_step_on_decoded_slices_is_the_same_step(tmp_path: Path) -> None:
    """Digests are equal; what another codec decoded is decoded anew."""
    c = config(tmp_path)
    plain, ours, others = (build_engine(c, None) for _ in range(3))
    strange, feed = Codec(c), Feed()
    for parts in traffic(120):
        batch = feed.batch(*parts)

        def decoded(codec: Codec, batch: Batch = batch) -> Batch:
            slices = [codec.ahead(piece) for piece in batch.slices]
            return Batch(batch.seq, batch.clock_ms, slices)

        expected = plain.step(batch)
        for engine, codec in ((ours, ours.codec), (others, strange)):
            got = engine.step(decoded(codec))
            assert got.scores == expected.scores
            assert got.journal == expected.journal
    assert ours.state_digest() == others.state_digest() == plain.state_digest()


def test_a_slice_that_cannot_be_decoded_ahead_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step meets the failure itself, where the record is isolated."""
    codec = Codec(config(tmp_path))
    piece = records("events", 0, [event(0)])

    def fail(_: object) -> str:
        raise MemoryError

    monkeypatch.setattr("stream.decode.codec._identifier", fail)
    assert codec.ahead(piece) is piece
    with pytest.raises(MemoryError):
        codec.decoded(piece, codec.events)

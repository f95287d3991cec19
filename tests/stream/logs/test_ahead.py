"""Reading and decoding ahead of the step changes nothing but the time it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from stream.contract.log import Log, LogError, OtherRecords
from stream.contract.records import Batch, Range, Slice, range_of
from stream.decode.codec import Codec
from stream.logs.ahead import Ahead, one_ahead, read_together
from stream.run.assemble import build_engine, open_log
from stream.settings.schema import Config
from tests.support.factory import START_MS, Feed, config, event, label, records, traffic
from tests.support.runner import append

Job = Callable[[], None]


def nowhere(job: Job) -> bool:
    """Nobody has time: a thread does it."""
    return False


def at_once(job: Job) -> bool:
    """Somebody has time now."""
    job()
    return True


def never(job: Job) -> bool:
    """Somebody might have had time, and had none."""
    return True


HOSTS = pytest.mark.parametrize("host", [nowhere, at_once, never])


@HOSTS
def test_items_come_in_order_and_errors_where_they_belong(host: Callable[[Job], bool]) -> None:
    """What is made ahead arrives as it would one by one, an exception included."""

    def items() -> Iterator[int]:
        yield from range(3)
        raise ValueError("the fourth")

    coming = one_ahead(items(), host)
    assert [next(coming) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="the fourth"):
        next(coming)
    assert list(one_ahead(iter(()), host)) == []


def test_items_are_made_once_and_not_after_the_end() -> None:
    """However often a host comes to it; who goes no further gets nothing made."""
    jobs: list[Job] = []
    made: list[int] = []

    def items() -> Iterator[int]:
        for i in range(9):
            made.append(i)
            yield i

    coming = one_ahead(items(), lambda job: jobs.append(job) is None)
    assert next(coming) == 0
    for job in jobs * 2:
        job()
    assert made == [0, 1]
    assert next(coming) == 1
    coming.close()
    for job in jobs:
        job()
    assert made == [0, 1]


def small_steps(c: Config, n: int) -> tuple[Log, list[tuple[Range, ...]]]:
    """A log, and the ranges of steps that took a few records of each topic in turn."""
    append(c, ("events", [event(i) for i in range(3 * n)]))
    append(c, ("labels", [label(i) for i in range(2 * n)]))
    log = open_log(c, lambda: START_MS)
    [events, labels] = log.read(
        [Range("events", 0, 0, 3 * n - 1, 3 * n), Range("labels", 0, 0, 2 * n - 1, 2 * n)]
    )
    return log, [
        (range_of(events.records[3 * i : 3 * i + 3]), range_of(labels.records[2 * i : 2 * i + 2]))
        for i in range(n)
    ]


def test_steps_are_read_together_as_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same slices by one read; none for steps that took nothing."""
    log, steps = small_steps(config(tmp_path), 20)
    steps.insert(7, ())
    expected, reads = [log.read(ranges) for ranges in steps], []
    monkeypatch.setattr(log, "read", lambda r, read=log.read: reads.append(r) or read(r))
    assert list(read_together(log, steps)) == expected
    assert len(reads) == 1
    assert list(read_together(log, [])) == []
    log.close()


def test_what_cannot_be_read_together_is_told_of_its_step(tmp_path: Path) -> None:
    """Steps before one whose records are others, or not as many, are given all the same."""
    log, steps = small_steps(config(tmp_path), 6)
    expected = [log.read(ranges) for ranges in steps]
    events, labels = steps[4]
    for wrong, error in (
        (msgspec.structs.replace(events, checksum="0" * 16), OtherRecords),
        (msgspec.structs.replace(events, count=2), LogError),
        (msgspec.structs.replace(events, last=99, count=88), LogError),
    ):
        coming = read_together(log, [*steps[:4], (wrong, labels), *steps[5:]])
        assert [next(coming) for _ in range(4)] == expected[:4]
        with pytest.raises(error, match=f"events/0 offsets {events.first}"):
            next(coming)
    log.close()


@HOSTS
def test_a_backlog_is_read_ahead_once_and_in_order(
    tmp_path: Path, host: Callable[[Job], bool]
) -> None:
    """Full batches bring the next one decoded; what was read ahead and dropped is read again."""
    c = config(tmp_path)
    append(c, ("events", [event(i) for i in range(300)]))
    log = open_log(c, lambda: START_MS)
    log.open()
    log.seek({})
    codec, ahead = Codec(c), Ahead(log)
    taken: list[Slice] = []
    for _ in range(3):
        taken += ahead.poll(80, 0.0, codec.ahead, host)
    assert [s.ahead is not None for s in taken] == [False, True, True]
    ahead.forget()
    log.seek({("events", 0): 240})
    taken += ahead.poll(80, 0.0, codec.ahead, host)
    assert [r.offset for s in taken for r in s.records] == list(range(300))
    ahead.close()
    log.close()


def test_what_was_dropped_is_not_read_behind_the_back(tmp_path: Path) -> None:
    """A host that comes to it late would take records from whoever reads after the seek."""
    c = config(tmp_path)
    append(c, ("events", [event(i) for i in range(200)]))
    log = open_log(c, lambda: START_MS)
    log.open()
    log.seek({})
    ahead, jobs = Ahead(log), list[Job]()
    taken = ahead.poll(50, 0.0, Codec(c).ahead, lambda job: jobs.append(job) is None)
    assert ahead.backlog
    ahead.forget()
    log.seek({("events", 0): 50})
    [late] = jobs
    late()
    taken += log.poll(50, 0.0)
    assert [r.offset for s in taken for r in s.records] == list(range(100))
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

    monkeypatch.setattr("stream.decode.codec._identifiers", fail)
    assert codec.ahead(piece) is piece
    with pytest.raises(MemoryError):
        codec.decoded(piece, codec.events)

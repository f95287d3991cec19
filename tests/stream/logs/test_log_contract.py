"""What every Log promises, tried on the embedded log and on Kafka."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kafka.partitioner.default import murmur2 as kafka_murmur2

from stream.contract.letters import DeadLetter
from stream.contract.log import Fenced, Log, LogError, OtherRecords
from stream.contract.outputs import Outputs
from stream.contract.records import JournalRecord, NewRecord, Range, encode_journal
from tests.support import log_harness
from tests.support.broker import unique
from tests.support.log_harness import (
    DIGEST,
    Store,
    eventually,
    now_ms,
    poll_all,
    raw,
    step,
    texts,
    values,
)
from tests.support.waiting import DEADLINE_S

Make = Callable[..., Store]


LOGS = [
    "embedded",
    *(pytest.param(client, marks=pytest.mark.kafka) for client in ("kafka-python", "confluent")),
]


@pytest.fixture(params=LOGS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Makes stores; closes their logs at the end."""
    stores: list[Store] = []

    def build(partitions: int = 1, **topics: Any) -> Store:
        if request.param == "embedded":
            store = log_harness.embedded(tmp_path, partitions, **topics)
        else:
            bootstrap = request.getfixturevalue("kafka_bootstrap")
            table = log_harness.kafka_table(bootstrap, client=request.param)
            store = Store(table, partitions, **topics)
        stores.append(store)
        return store

    yield build
    for store in stores:
        store.close()


def scores(store: Store, log: Log) -> list[str]:
    """The scores that a reader of committed records sees."""
    return [(r.value or b"").decode() for r in log.tail(store.config.topics.scores, 100)]


def test_appended_records_are_polled_with_all_their_parts(make: Make) -> None:
    """Key, value, headers, offset and timestamp come back as they were appended.

    The timestamp is the record's own, or the clock's.
    """
    store = make()
    log = store.opened()
    clock = now_ms()
    record = NewRecord(b"key", b"value", headers=(("a", b"1"), ("b", b"\xff")))
    older = NewRecord(b"key", b"older", timestamp_ms=clock - 5_000)
    appended = store.log(lambda: clock).append(store.config.topics.events, [record, older])
    assert appended == [(0, 0), (0, 1)]
    taken = poll_all(log, 2)
    read, other = [r for piece in taken for r in piece.records]
    assert (taken[0].range.topic, taken[0].range.first) == (store.config.topics.events, 0)
    assert (other.value, other.timestamp_ms) == (b"older", clock - 5_000)
    assert (read.key, read.value, read.headers) == (b"key", b"value", record.headers)
    assert (read.offset, read.timestamp_ms) == (0, clock)


def test_nulls_stay_nulls(make: Make) -> None:
    """A record without a key and one without a value come back so."""
    store = make()
    log = store.opened()
    log.append(store.config.topics.events, [NewRecord(None, b"v"), NewRecord(b"k", None)])
    records = [r for s in poll_all(log, 2) for r in s.records]
    assert [(r.key, r.value) for r in records] == [(None, b"v"), (b"k", None)]


def test_poll_gives_each_record_once_and_in_order(make: Make) -> None:
    """Many small polls give what one big poll would, with no record twice."""
    store = make()
    log = store.opened()
    names = [f"{i:03}" for i in range(50)]
    log.append(store.config.topics.events, values(*names))
    assert texts(poll_all(log, 50, max_records=7)) == names
    assert log.poll(10, 0.0) == []


def test_a_poll_never_exceeds_its_bound(make: Make) -> None:
    """No poll returns more than ``max_records``, whatever waits in how many topics."""
    store = make()
    log = store.opened()
    for topic in (store.config.topics.events, store.config.topics.labels):
        log.append(topic, values(*(f"{i}" for i in range(40))))
    sizes: list[int] = []
    while sum(sizes) < 80:
        sizes.append(sum(len(s.records) for s in log.poll(9, DEADLINE_S)))
        assert 0 < sizes[-1] <= 9


def test_control_comes_before_events_and_events_before_labels(make: Make) -> None:
    """Within one poll the slices stand in the order control, events, labels."""
    store = make()
    topics = store.config.topics
    log = store.opened()
    for topic in (topics.labels, topics.events, topics.control):
        log.append(topic, values(topic))
    found: list[list[str]] = []
    while sum(map(len, found)) < 3:
        found.append([s.range.topic for s in log.poll(100, DEADLINE_S)])
    order = [topics.control, topics.events, topics.labels]
    assert all(sorted(some, key=order.index) == some for some in found)


def test_a_backlog_of_labels_drains_beside_that_of_events(make: Make) -> None:
    """Half way through two equal backlogs, about half of each has come."""
    store = make()
    topics = store.config.topics
    names = [f"{i}" for i in range(400)]
    writer = store.log()
    writer.append(topics.events, values(*names))
    writer.append(topics.labels, values(*names))
    log = store.opened()
    got = {topics.events: 0, topics.labels: 0}
    while sum(got.values()) < 400:
        for taken in log.poll(40, DEADLINE_S):
            got[taken.range.topic] += taken.range.count
    assert min(got.values()) >= 100


def test_keys_go_to_the_same_partition_on_every_log(make: Make) -> None:
    """A keyed record goes where Kafka's default partitioner puts it; an unkeyed one to 0."""
    store = make(partitions=4)
    log = store.opened()
    records = [*values("alpha", "beta", "gamma", "delta"), NewRecord(None, b"unkeyed")]
    placed = log.append(store.config.topics.events, records)
    assert [partition for partition, _ in placed] == [0, 0, 2, 2, 0]


def test_several_partitions_are_all_read(make: Make) -> None:
    """Each slice is a run of one partition, and together they hold every record."""
    store = make(partitions=3)
    log = store.opened()
    names = [f"{i}" for i in range(60)]
    log.append(store.config.topics.events, values(*names))
    found = poll_all(log, 60)
    assert sorted(texts(found)) == sorted(names)
    for taken in found:
        assert {r.partition for r in taken.records} == {taken.range.partition}
        assert taken.range.count == len(taken.records)


def test_a_commit_shows_scores_and_journal(make: Make) -> None:
    """After a commit its outputs, its journal record and its headers can be read."""
    store = make(witness=unique("heads"))
    topics = store.config.topics
    log = store.opened()
    log.append(topics.events, values("event"))
    taken = poll_all(log, 1)
    journal = JournalRecord(1, now_ms(), DIGEST, (taken[0].range,))
    letter = DeadLetter(taken[0].records[0], "schema", "why")
    traced = NewRecord(b"k", b"s", 0, (("traceparent", b"1"),), now_ms() - 5_000)
    log.commit(Outputs([traced], [letter], values("a"), journal, anchors=values("head")))
    eventually([b"s"], lambda: raw(log.tail(topics.scores, 5)))
    (score,) = log.tail(topics.scores, 5)
    assert (score.headers, score.timestamp_ms) == (traced.headers, traced.timestamp_ms)
    eventually([b"event"], lambda: raw(log.tail(topics.dead_letters, 5)))
    eventually([b"a"], lambda: raw(log.tail(topics.audit, 5)))
    eventually([b"head"], lambda: raw(log.tail(topics.witness or "", 5)))
    eventually([journal], lambda: list(log.journal()))


def test_a_commit_of_many_records_keeps_all_their_parts_in_order(make: Make) -> None:
    """Of each partition, with and without key, headers and time, short and long among each other.

    They are handed to the log together: more than one request takes, or one row.
    """
    store = make(3)
    log, clock = store.opened(), now_ms()
    sent = [
        NewRecord(
            b"k%d" % i if i % 3 else None,
            (b"%d" % i).ljust(70_000 if i % 97 == 50 else 40 + i % 300, b"."),
            i % 7 % 3,
            (("n", b"%d" % i),) if i % 5 == 0 else (),
            clock - i if i % 4 == 0 else None,
        )
        for i in range(1_500)
    ]
    outputs = step(1, scores=sent)
    journal = msgspec.structs.replace(outputs.journal, clock_ms=clock)
    log.commit(Outputs(sent, [], [], journal))
    topic = store.config.topics.scores
    eventually(len(sent), lambda: len(log.tail(topic, len(sent))))
    found = sorted(log.tail(topic, len(sent)), key=lambda r: r.offset)
    for partition in range(3):
        told = [r for r in found if r.partition == partition]
        assert [(r.key, r.value, r.headers, r.timestamp_ms) for r in told] == [
            (r.key, r.value, r.headers, clock if r.timestamp_ms is None else r.timestamp_ms)
            for r in sent
            if r.partition == partition
        ]


def test_the_journal_is_read_from_a_place(make: Make) -> None:
    """``journal(after)`` gives what follows; head and tail are its ends."""
    store = make()
    log = store.opened()
    assert log.journal_tail() is None
    assert log.journal_head() is None
    assert list(log.journal()) == []
    log.commit(step(1, body={"cpu": "x"}))
    for seq in range(2, 10):
        log.commit(step(seq))
    eventually(list(range(1, 10)), lambda: [r.seq for r in log.journal()])
    assert [r.seq for r in log.journal(5)] == [6, 7, 8, 9]
    assert list(log.journal(9)) == []
    head, tail = log.journal_head(), log.journal_tail()
    assert head is not None
    assert tail is not None
    assert (head.seq, head.body, tail.seq) == (1, {"cpu": "x"}, 9)


def test_a_commit_that_stands_in_the_journal_is_not_repeated(make: Make) -> None:
    """The same outputs again return and write nothing."""
    store = make()
    log = store.opened()
    outputs = step(1, scores=values("once"))
    log.commit(outputs)
    log.commit(outputs)
    eventually(["once"], lambda: scores(store, log))
    eventually(1, lambda: len(list(log.journal())))


def test_a_successor_knows_a_commit_that_stands(make: Make) -> None:
    """A process that replays to an already committed step does not repeat it either."""
    store = make()
    outputs = step(1, scores=values("once"))
    store.opened().commit(outputs)
    second = store.opened()
    second.commit(outputs)
    eventually(["once"], lambda: scores(store, second))


@pytest.mark.parametrize("seq", [0, 1, 3])
def test_the_journal_stays_gapless(make: Make, seq: int) -> None:
    """A step that does not follow the journal's tail is refused, and nothing of it is seen."""
    store = make()
    log = store.opened()
    log.commit(step(1, scores=values("first")))
    with pytest.raises(LogError, match=f"expected seq 2, got {seq}"):
        log.commit(step(seq, scores=values("stray"), skipped=(("t", 0, 0),)))
    eventually(["first"], lambda: scores(store, log))
    log.commit(step(2, scores=values("second")))
    eventually(["first", "second"], lambda: scores(store, log))


def test_a_commit_that_fails_shows_nothing(make: Make) -> None:
    """When one output cannot be written, none is, and the same step can follow mended."""
    store = make()
    log = store.opened()
    bad = NewRecord(b"k", b"v", partition=7)
    with pytest.raises((LogError, ValueError)):
        log.commit(step(1, scores=[*values("good"), bad]))
    assert scores(store, log) == []
    assert log.journal_tail() is None
    log.commit(step(1, scores=values("good")))
    eventually(["good"], lambda: scores(store, log))


def test_a_second_open_fences_the_first(make: Make) -> None:
    """The older process cannot commit any more; the newer one can."""
    store = make()
    first = store.opened()
    first.commit(step(1))
    second = store.opened()
    with pytest.raises(Fenced):
        first.commit(step(2, scores=values("zombie")))
    with pytest.raises(Fenced):
        first.commit(step(2, scores=values("zombie")))
    second.commit(step(2, scores=values("owner")))
    eventually(["owner"], lambda: scores(store, second))


def test_appending_beside_an_open_shard_fences_nothing(make: Make) -> None:
    """A log that was not opened appends and reads; the shard goes on."""
    store = make()
    shard = store.opened()
    cli = store.log()
    cli.append(store.config.topics.control, values("freeze"))
    assert texts(poll_all(shard, 1)) == ["freeze"]
    shard.commit(step(1))
    eventually([1], lambda: [r.seq for r in cli.journal()])


def test_a_log_that_was_not_opened_commits_nothing(make: Make) -> None:
    """``commit`` without ``open`` is refused with what to do."""
    with pytest.raises(LogError, match="open"):
        make().log().commit(step(1))


def test_seek_resumes_at_an_offset(make: Make) -> None:
    """A second process goes on where the first one's ranges ended."""
    store = make()
    topic = store.config.topics.events
    first = store.opened()
    first.append(topic, values("a", "b", "c", "d"))
    taken = first.poll(1, DEADLINE_S)
    second = store.log()
    second.open()
    second.seek({(topic, 0): taken[0].range.next_offset})
    assert texts(poll_all(second, 3)) == ["b", "c", "d"]


def test_seek_back_gives_records_again(make: Make) -> None:
    """After ``seek`` to the start everything comes once more."""
    store = make()
    log = store.opened()
    log.append(store.config.topics.events, values("a", "b"))
    assert texts(poll_all(log, 2)) == ["a", "b"]
    log.seek({})
    assert texts(poll_all(log, 2)) == ["a", "b"]


def test_seek_refuses_what_is_not_there(make: Make) -> None:
    """A position past the end, or of an unknown partition, is an error that names it."""
    store = make()
    topic = store.config.topics.events
    log = store.opened()
    with pytest.raises(LogError, match=f"{topic}/0: offset 5 is past the end"):
        log.seek({(topic, 0): 5})
    with pytest.raises(LogError, match="no such input partitions"):
        log.seek({("elsewhere", 0): 0})


def test_ranges_are_read_back(make: Make) -> None:
    """``read`` gives the very records that ``poll`` gave, in the order asked for."""
    store = make(partitions=2)
    log = store.opened()
    log.append(store.config.topics.events, values(*(f"{i}" for i in range(30))))
    taken = poll_all(log, 30, max_records=8)
    wanted = [s.range for s in reversed(taken)]
    assert log.read(wanted) == list(reversed(taken))


def test_a_range_of_other_records_is_refused(make: Make) -> None:
    """By its checksum; a journal from before there were any has none, and is believed."""
    store = make()
    log = store.opened()
    log.append(store.config.topics.events, values("a"))
    [taken] = poll_all(log, 1)
    other = msgspec.structs.replace(taken.range, checksum="0" * 16)
    with pytest.raises(OtherRecords, match=r"offsets 0\.\.0: expected the records that"):
        log.read([other])
    unknown = msgspec.structs.replace(taken.range, checksum="")
    assert log.read([unknown])[0].records == taken.records


def test_a_range_with_another_number_of_records_is_refused(make: Make) -> None:
    """A replay that would feed other input than the step had stops."""
    store = make()
    topic = store.config.topics.events
    log = store.opened()
    log.append(topic, values("a", "b"))
    with pytest.raises(LogError, match="expected 3 records, got 2"):
        log.read([Range(topic, 0, 0, 1, 3)])


def test_lag_counts_what_was_not_polled(make: Make) -> None:
    """Lag falls with each poll; a log that was not opened counts from the committed offsets."""
    store = make()
    topic = store.config.topics.events
    writer = store.log()
    writer.append(topic, values("a", "b", "c"))
    log = store.opened()
    assert log.lag()[topic, 0] == 3
    taken = log.poll(2, DEADLINE_S)
    assert log.lag()[topic, 0] == 1
    log.commit(step(1, taken))
    cli = store.log()
    eventually(1, lambda: cli.lag()[topic, 0])
    assert log.earliest()[topic, 0] == 0


def test_tail_gives_the_newest_values_oldest_first(make: Make) -> None:
    """``tail`` is for people: the last few records, null ones too."""
    store = make()
    topic = store.config.topics.events
    log = store.opened()
    log.append(topic, [*values(*(f"{i}" for i in range(20))), NewRecord(b"k", None)])
    eventually([b"18", b"19", None], lambda: raw(log.tail(topic, 3)))
    assert log.tail(store.config.topics.labels, 3) == []


def test_a_topic_is_read_back_in_pieces(make: Make) -> None:
    """The newest piece first, each oldest first, all records once: of more partitions, too, and
    over the markers that commits leave on Kafka."""
    store = make(partitions=2)
    topics = store.config.topics
    log = store.opened()
    for i in range(7):
        scores = [NewRecord(b"%d" % n, b"%d" % n, n % 2, (), now_ms()) for n in (3 * i, 3 * i + 1)]
        log.commit(step(i + 1, scores=scores))
    eventually(14, lambda: len(log.tail(topics.scores, 100)))
    pieces = list(log.back(topics.scores, 3))
    assert [len(piece) for piece in pieces] == [6, 6, 2]
    for number in (0, 1):
        offsets = [[r.offset for r in piece if r.partition == number] for piece in pieces]
        back = [offset for piece in offsets for offset in reversed(piece)]
        assert len(back) == 7
        assert back == sorted(back, reverse=True)
    assert list(log.back(topics.labels, 3)) == []
    one = next(log.back(topics.scores, 3))
    assert log.tail(topics.scores, 2) == one[-2:]


def test_wake_ends_a_waiting_poll(make: Make) -> None:
    """A poll that would wait for ever returns empty after ``wake``."""
    log = make().opened()
    log.poll(1, 0.0)
    waker = threading.Timer(0.05, log.wake)
    waker.start()
    assert log.poll(10, 1e6) == []
    waker.join()


def test_a_waiting_poll_sees_a_new_record(make: Make) -> None:
    """A record that another log appends ends the wait with that record."""
    store = make()
    log = store.opened()
    log.poll(1, 0.0)
    other = store.log()
    late = threading.Timer(0.05, other.append, (store.config.topics.events, values("late")))
    late.start()
    assert texts(log.poll(10, DEADLINE_S)) == ["late"]
    late.join()


def test_reading_a_log_without_topics_makes_none(make: Make) -> None:
    """Before ``open`` or ``create_topics`` everything is empty and stays so."""
    store = make()
    log = store.log()
    assert log.earliest() == {}
    assert log.lag() == {}
    assert log.journal_tail() is None
    assert list(log.journal()) == []
    assert log.tail(store.config.topics.scores, 5) == []
    assert log.earliest() == {}


def test_topics_are_made_without_taking_the_shard_over(make: Make) -> None:
    """``create_topics`` makes every input partition, and the running shard goes on."""
    store = make(partitions=2)
    store.log().create_topics()
    topics = store.config.topics
    log = store.opened()
    store.log().create_topics()
    log.commit(step(1))
    inputs = {(topics.events, 0), (topics.events, 1), (topics.labels, 0), (topics.labels, 1)}
    assert set(log.earliest()) == inputs | {(topics.control, 0)}


def test_missing_topics_are_named(make: Make) -> None:
    """With ``topics.create = false`` an error names each missing topic."""
    store = make()
    topics = store.config.topics.model_copy(update={"create": False})
    store.config = store.config.model_copy(update={"topics": topics})
    with pytest.raises(LogError, match=topics.events):
        store.log().open()


def test_appending_to_an_unknown_topic_is_refused(make: Make) -> None:
    """A topic that the configuration does not name is an error that names it."""
    with pytest.raises(LogError, match="'nowhere'"):
        make().opened().append("nowhere", values("a"))


def test_close_comes_back_and_may_be_repeated(make: Make) -> None:
    """``close`` returns, twice too, and a log that was never opened closes as well."""
    store = make()
    log = store.opened()
    log.append(store.config.topics.events, values("a"))
    log.close()
    log.close()
    store.log().close()


def test_the_journal_holds_the_record_byte_for_byte(make: Make) -> None:
    """What ``encode_journal`` gave is what the topic holds, body and skipped records included."""
    store = make()
    log = store.opened()
    outputs = step(1, kind="reconfigured", body={"b": 1, "a": [1, 2]}, skipped=(("t", 0, 5),))
    log.commit(outputs)
    eventually(
        [encode_journal(outputs.journal)], lambda: raw(log.tail(store.config.journal_topic, 1))
    )


def test_scores_stand_where_kafkas_own_producers_put_their_key(make: Make) -> None:
    """Whatever partition the event came from: input and output may differ in their number."""
    store = make(partitions=3)
    log = store.opened()
    names = [f"{i}" for i in range(30)]
    log.commit(step(1, [], values(*names)))
    eventually(30, lambda: len(log.tail(store.config.topics.scores, 100)))
    found = log.tail(store.config.topics.scores, 100)
    expected = {name: (kafka_murmur2(name.encode()) & 0x7FFFFFFF) % 3 for name in names}
    assert {(r.key or b"").decode(): r.partition for r in found} == expected

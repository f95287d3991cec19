"""What the embedded log promises beyond the contract: durability, retention, other processes."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.contract.log import DiskFull, Fenced, LogError, LogUnavailable, OutOfRetention
from stream.contract.records import NewRecord, Range, Record
from stream.logs.sqlite.io import ROW_BYTES, partitions_of, select
from stream.logs.sqlite.log import SqliteLog
from tests.support.log_harness import Store, embedded, poll_all, step, texts, values

DAY_MS = 86_400_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store in a fresh file."""
    made = embedded(tmp_path)
    yield made
    made.close()


def log_of(store: Store, clock_ms: int = 0) -> SqliteLog:
    """An open log with a clock that stands still."""
    log = store.log(lambda: clock_ms)
    assert isinstance(log, SqliteLog)
    log.open()
    log.seek({})
    return log


def path_of(store: Store) -> Path:
    """The file."""
    return Path(store.config.log.path)  # type: ignore[union-attr]


def test_every_commit_reaches_the_disk(store: Store) -> None:
    """The file is in WAL mode with ``synchronous=FULL``."""
    log = log_of(store)
    with log._writer.use() as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert db.execute("PRAGMA synchronous").fetchone() == (2,)


def test_truncate_keeps_what_is_young_and_what_is_needed(store: Store) -> None:
    """Only records both older than the retention and before the positions go."""
    topics = store.config.topics
    old = log_of(store, clock_ms=0)
    old.append(topics.events, values("a", "b", "c"))
    log_of(store, clock_ms=100 * DAY_MS).append(topics.events, values("d"))
    now = log_of(store, clock_ms=101 * DAY_MS)
    now.truncate({(topics.events, 0): 2}, 0)
    assert now.earliest()[topics.events, 0] == 2
    now.truncate({(topics.events, 0): 4}, 0)
    assert now.earliest()[topics.events, 0] == 3
    now.seek({})
    assert texts(poll_all(now, 1)) == ["d"]


def test_offsets_go_on_after_everything_was_deleted(store: Store) -> None:
    """A partition emptied by retention gives the next offset, not 0."""
    topic = store.config.topics.events
    log_of(store).append(topic, values("a", "b"))
    log = log_of(store, clock_ms=200 * DAY_MS)
    log.truncate({(topic, 0): 2}, 0)
    assert log.append(topic, values("c")) == [(0, 2)]


def test_truncate_keeps_the_newest_journal_record_and_the_audit_trail(store: Store) -> None:
    """Succession and the audit chain can be checked for ever; scores go by age."""
    topics = store.config.topics
    log = log_of(store)
    for seq in range(1, 6):
        outputs = step(seq, scores=values(f"{seq}"))
        journal = outputs.journal.__class__(seq, 0, "0" * 32)
        log.commit(outputs.__class__(outputs.scores, [], values("audit"), journal))
    later = log_of(store, clock_ms=200 * DAY_MS)
    later.truncate({}, 3)
    assert [r.seq for r in later.journal()] == [4, 5]
    later.truncate({}, 9)
    assert [r.seq for r in later.journal()] == [5]
    assert later.tail(topics.scores, 9) == []
    assert len(later.tail(topics.audit, 9)) == 5


def test_a_deleted_position_is_out_of_retention(store: Store) -> None:
    """``seek``, ``read`` and a poll that another process overtook say which offset is gone."""
    topic = store.config.topics.events
    reader = log_of(store)
    reader.append(topic, values("a", "b", "c"))
    log = log_of(store, clock_ms=200 * DAY_MS)
    log.truncate({(topic, 0): 2}, 0)
    with pytest.raises(OutOfRetention, match="offset 1 was deleted, the oldest retained is 2"):
        log.seek({(topic, 0): 1})
    with pytest.raises(OutOfRetention):
        log.read([Range(topic, 0, 0, 1, 2)])
    with pytest.raises(OutOfRetention):
        reader.poll(10, 0.0)


def told(part: list[Record]) -> list[tuple[int, bytes | None]]:
    """Offsets and values."""
    return [(r.offset, r.value) for r in part]


def polled(log: SqliteLog, records: int) -> list[Record]:
    """So many records from the beginning."""
    log.seek({})
    return [r for piece in poll_all(log, records) for r in piece.records]


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 700), min_size=1, max_size=6),
    asked=st.lists(st.tuples(st.integers(0, 2_500), st.integers(1, 900)), max_size=8),
    gone=st.integers(0, 2_000),
)
def test_any_range_reads_what_was_appended(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    asked: list[tuple[int, int]],
    gone: int,
) -> None:
    """However records were appended together, and wherever retention ends within a row."""
    store = embedded(tmp_path_factory.mktemp("ranges"))
    topic, numbers = store.config.topics.events, count()
    log = log_of(store)
    whole: list[tuple[int, bytes | None]] = []
    for size in sizes:
        new = [b"%d" % next(numbers) for _ in range(size)]
        places = log.append(topic, [NewRecord(b"k", value, 0) for value in new])
        whole += zip((offset for _, offset in places), new, strict=True)
    gone = min(gone, len(whole))
    log_of(store, clock_ms=200 * DAY_MS).truncate({(topic, 0): gone}, 0)
    assert log.earliest()[topic, 0] == gone
    for first, wanted in asked:
        expected = whole[max(first, gone) : first + wanted]
        with log._reader.snapshot() as db:
            (part,) = partitions_of(db, [topic])
            assert told(select(db, part, first, wanted)) == expected
    assert sorted(told(log.tail(topic, 9_999))) == whole[gone:]
    assert told(polled(log, len(whole) - gone)) == whole[gone:]
    store.close()


def test_long_records_stand_in_rows_of_their_own(store: Store) -> None:
    """A row ends before it is too long to be read for the sake of one of its records."""
    log, topic = log_of(store), store.config.topics.events
    sizes = [10, ROW_BYTES // 3, ROW_BYTES // 3, ROW_BYTES // 2, 2 * ROW_BYTES, 10, 10]
    log.append(topic, [NewRecord(None, b"x" * size, 0) for size in sizes])
    assert [len(r.value or b"") for r in polled(log, len(sizes))] == sizes
    with closing(sqlite3.connect(path_of(store))) as db:
        (number,) = db.execute("SELECT id FROM partitions WHERE topic = ?", (topic,)).fetchone()
        rows = db.execute(f"SELECT count, length(records) FROM records_{number}").fetchall()
    assert sum(many for many, _ in rows) == len(sizes)
    assert all(size <= ROW_BYTES or many == 1 for many, size in rows)


def test_a_row_that_was_changed_is_an_error_with_its_place(store: Store) -> None:
    """Not an exception of the decoder."""
    log, topic = log_of(store), store.config.topics.events
    log.append(topic, values("a", "b"))
    with closing(sqlite3.connect(path_of(store))) as db, db:
        (number,) = db.execute("SELECT id FROM partitions WHERE topic = ?", (topic,)).fetchone()
        db.execute(f"UPDATE records_{number} SET records = x'93'")
    with pytest.raises(LogError, match=f"{topic}/0, offsets 0..1: a row cannot be read"):
        log.poll(9, 0.0)


def test_a_fenced_process_deletes_nothing(store: Store) -> None:
    """``truncate`` by an older owner is refused."""
    old = log_of(store, clock_ms=200 * DAY_MS)
    log_of(store)
    with pytest.raises(Fenced):
        old.truncate({}, 0)


def test_a_full_disk_is_told_and_nothing_is_written(store: Store) -> None:
    """The step that does not fit raises DiskFull; with room again the same one is committed."""
    log = log_of(store)
    log.commit(step(1))
    with log._writer.use() as db:
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"PRAGMA max_page_count = {pages + 2}")
    big = step(2, scores=[NewRecord(b"k", b"x" * 1_000_000, 0)])
    with pytest.raises(DiskFull, match="nothing was written"):
        log.commit(big)
    assert [r.seq for r in log.journal()] == [1]
    with log._writer.use() as db:
        db.execute("PRAGMA max_page_count = 1000000")
    log.commit(big)
    assert [r.seq for r in log.journal()] == [1, 2]


def test_a_file_another_process_holds_is_unavailable(tmp_path: Path) -> None:
    """A writer that does not let go within the deadline raises LogUnavailable; then it works."""
    store = Store({"type": "embedded", "path": str(tmp_path / "log.db"), "timeout": "50ms"})
    log = log_of(store)
    with closing(sqlite3.connect(path_of(store), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LogUnavailable, match="locked"):
            log.commit(step(1))
        other.execute("ROLLBACK")
    log.commit(step(1))
    store.close()


def test_a_busy_connection_is_unavailable(tmp_path: Path) -> None:
    """A thread that waits for another thread's call gives up at the deadline too."""
    store = Store({"type": "embedded", "path": str(tmp_path / "log.db"), "timeout": "50ms"})
    log = log_of(store)
    with log._writer.use(), pytest.raises(LogUnavailable, match="another thread"):
        log.append(store.config.topics.events, values("a"))
    store.close()


def test_a_file_of_another_release_is_refused(store: Store) -> None:
    """A file with other tables is an error that names both versions."""
    log_of(store).close()
    with closing(sqlite3.connect(path_of(store))) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(LogError, match="expected version 2 of its tables, got 99"):
        store.log().open()


def test_a_file_that_is_no_database_is_refused(store: Store) -> None:
    """Any other file is an error that names it, and stays as it is."""
    path_of(store).write_bytes(b"not a database, but a long enough text " * 100)
    with pytest.raises(LogError, match=str(path_of(store))):
        store.log().open()
    assert path_of(store).read_bytes().startswith(b"not a database")


def test_a_closed_log_says_so(store: Store) -> None:
    """Calls after ``close`` are errors, not crashes."""
    log = log_of(store)
    log.close()
    with pytest.raises(LogError, match="is closed"):
        log.append(store.config.topics.events, values("a"))
    with pytest.raises(LogError, match="is closed"):
        log.poll(1, 0.0)


@pytest.mark.parametrize("count", [1, 2, 3, 10, 33])
def test_the_journal_search_agrees_with_a_scan(store: Store, count: int) -> None:
    """From any place the binary search gives what filtering the whole journal gives."""
    log = log_of(store)
    for seq in range(1, count + 1):
        log.commit(step(seq))
    whole = list(log.journal())
    for after in range(-1, count + 2):
        assert list(log.journal(after)) == [r for r in whole if r.seq > after]


_APPENDER = """
    import sys
    from pathlib import Path
    from tests.support.log_harness import Store, parse
    from stream.logs.sqlite.log import SqliteLog
    from stream.contract.records import NewRecord

    config = parse({"type": "embedded", "path": sys.argv[1]})
    log = SqliteLog(config, lambda: 0)
    for i in range(int(sys.argv[3])):
        text = f"{sys.argv[2]}-{i}".encode()
        (place,) = log.append("events", [NewRecord(None, text)])
        print(place[1], text.decode(), flush=True)
"""


def _appender(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(_APPENDER)]
    return subprocess.Popen(
        [*command, str(path), name, str(count)], stdout=subprocess.PIPE, text=True
    )


def test_a_new_file_is_made_by_several_at_once(tmp_path: Path) -> None:
    """Nobody is refused since another makes the same file: the last to come waits."""
    at_once = threading.Barrier(4)

    def make(place: int) -> None:
        log = embedded(tmp_path / str(place)).log()
        at_once.wait()
        log.append("events", [NewRecord(None, b"x")])
        log.close()

    for place in range(40):
        (tmp_path / str(place)).mkdir()
        with ThreadPoolExecutor(4) as pool:
            for made in [pool.submit(make, place) for _ in range(4)]:
                made.result()
        log = embedded(tmp_path / str(place)).log()
        assert len(log.read([Range("events", 0, 0, 3, 4)])[0].records) == 4
        log.close()


def test_several_processes_append_side_by_side(tmp_path: Path) -> None:
    """Two processes make the file and append at once: no offset twice, each in its own order."""
    path = tmp_path / "log.db"
    processes = [_appender(path, name, 100) for name in "ab"]
    told = dict(
        line.split() for process in processes for line in process.communicate()[0].splitlines()
    )
    assert [p.returncode for p in processes] == [0, 0]
    log = embedded(tmp_path).log()
    found = log.read([Range("events", 0, 0, 199, 200)])[0].records
    assert {str(r.offset): (r.value or b"").decode() for r in found} == told
    log.close()


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    """After SIGKILL every record whose offset was given back is there, and offsets go on."""
    path = tmp_path / "log.db"
    process = _appender(path, "a", 1_000_000)
    assert process.stdout is not None
    told = [process.stdout.readline().split() for _ in range(200)]
    process.send_signal(signal.SIGKILL)
    told += [line.split() for line in process.stdout if line.endswith("\n")]
    process.stdout.close()
    process.wait()
    log = embedded(tmp_path).log()
    (found,) = log.read([Range("events", 0, 0, len(told) - 1, len(told))])
    assert [(r.value or b"").decode() for r in found.records] == [text for _, text in told]
    (place,) = log.append("events", values("after"))
    assert place[1] in (len(told), len(told) + 1)
    log.close()

"""The pending store against a dictionary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.base import FeatureSchema, state_digest
from stream.step.pending import store as module
from stream.step.pending.labels import waits
from stream.step.pending.segments import Damaged, Kept, Source
from stream.step.pending.store import INDEX_BYTES, Pending, row_dtype

MEMBERS = ("m", "n")
DTYPE = row_dtype(FeatureSchema(("a", "b")), members=2, keys=1)


def rows(ids: list[int], times: list[int]) -> np.ndarray:
    made = np.zeros(len(ids), DTYPE)
    made["id"] = np.array(ids, dtype=np.uint64)
    made["event_time_ms"] = times
    made["dense"][:, 0] = times
    return made


def saved(store: Pending, directory: Path) -> dict[int, Source]:
    """The store's rows in a checkpoint, as a start finds them: full segments are not read."""
    directory.mkdir()
    found: dict[int, Source] = {}
    for segment in store.files():
        path = directory / f"{segment.number}.seg"
        segment.place(path)
        found[segment.number] = path
        if (ids := segment.place_ids(path.with_suffix(".ids"))) is not None:
            found[segment.number] = Kept(path, segment.sha256(), path.with_suffix(".ids"), ids[1])
    return found


@pytest.fixture(autouse=True)
def _small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEGMENT_ROWS", 64)


@settings(max_examples=60)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 90), st.integers(0, 60), st.integers(0, 50), st.booleans()),
        max_size=25,
    ),
    seed=st.integers(0, 2**31),
)
def test_store_equals_a_dictionary(
    steps: list[tuple[int, int, int, bool]], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """After any run of hold, settle, expire and restart, each id is found where it should be."""
    rng = np.random.default_rng(seed)
    directory = tmp_path_factory.mktemp("store")
    store = Pending(DTYPE, MEMBERS, directory, 10_000)
    live: dict[int, tuple[int, float | None]] = {}  # id -> (row, truth)
    seen: list[int] = []
    now = 0
    for number, (add, settle, age, again) in enumerate(steps):
        if again:
            before = state_digest(store.digest_state())
            state, files = store.state(), saved(store, directory / str(number))
            store.close()
            store = Pending(DTYPE, MEMBERS, directory, 10_000)
            store.restore(state, files)
            if rng.integers(2):  # which reads all rows
                assert state_digest(store.digest_state()) == before
        # Few distinct upper halves: ids collide in the 32 bits that the index keeps.
        ids = [
            int(v)
            for v in rng.integers(0, 4, add, dtype=np.uint64) << np.uint64(32)
            | rng.integers(0, 2**32, add, dtype=np.uint64)
        ]
        ids = [i for i in dict.fromkeys(ids) if i not in live]
        times = sorted(int(t) for t in rng.integers(now, now + 20, len(ids)))
        numbers = store.hold(rows(ids, times))
        live |= {i: (int(r), None) for i, r in zip(ids, numbers, strict=True)}
        seen += ids
        open_ids = [i for i, (_, s) in live.items() if s is None][:settle]
        if open_ids:
            y = rng.integers(0, 2, len(open_ids)).astype(np.float64)
            at = np.array([live[i][0] for i in open_ids])
            store.settle(at, y)
            for i, v in zip(open_ids, y, strict=True):
                live[i] = (live[i][0], float(v))
        now += 10
        gone, truth, _, _ = store.expire(store.due(now - age))
        for row, s in zip(gone, truth, strict=True):
            held = live.pop(int(row["id"]))[1]
            assert np.isnan(s) if held is None else held == s
        asked = np.array([*seen, 5, 7], dtype=np.uint64)
        assert store.find(asked).tolist() == [live.get(int(i), (-1, 0))[0] for i in asked]
        assert len(store) == len(live)
        assert store.waiting == sum(s is None for _, s in live.values())


def test_rows_come_back_as_they_were_held() -> None:
    """Rows taken by number, in any order and across segments, are the rows that were held."""
    store = Pending(DTYPE, MEMBERS, None, 10_000)
    made = rows(list(range(1, 301)), list(range(300)))
    numbers = store.hold(made)
    order = np.random.default_rng(0).permutation(300)
    assert (store.take(numbers[order]) == made[order]).all()


def test_a_late_row_waits_for_those_before_it() -> None:
    """Time-outs go in scoring order: an old event behind a young one is not due yet."""
    store = Pending(DTYPE, MEMBERS, None, 100)
    store.hold(rows([1, 2, 3], [10, 50, 20]))
    assert store.due(30) == 1
    assert store.due(51) == 3


def test_overflow_counts_what_must_leave() -> None:
    """With 8 of 10 places taken, 5 more need 3 to leave."""
    store = Pending(DTYPE, MEMBERS, None, 10)
    store.hold(rows(list(range(1, 9)), [0] * 8))
    assert store.overflow(5) == 3
    assert store.overflow(2) == 0


def test_the_room_is_told_once_unless_it_is_configured() -> None:
    """A store keeps what a step told it over a restart; a configured bound stands against both."""
    store = Pending(DTYPE, MEMBERS, None)
    assert (store.room, store.open) == (module.UNTOLD_ROOM, True)
    untold = Pending(DTYPE, MEMBERS, None)
    untold.restore(store.state(), {})
    assert untold.open
    store.tell(50)
    again, fixed = Pending(DTYPE, MEMBERS, None), Pending(DTYPE, MEMBERS, None, 70)
    for other in (again, fixed):
        other.restore(store.state(), {})
    fixed.tell(60)
    assert [(s.room, s.open) for s in (store, again, fixed)] == [
        (50, False),
        (50, False),
        (70, False),
    ]
    opened = Pending(DTYPE, MEMBERS, None)
    opened.restore(fixed.state(), {})
    assert opened.open


def test_index_takes_no_more_bytes_a_row_than_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where rows are many, the index and the truths stay within the bytes that a row may take."""
    monkeypatch.setattr(module, "SEGMENT_ROWS", 4096)
    store = Pending(DTYPE, MEMBERS, None, 10**9)
    rng = np.random.default_rng(0)
    made = rows([0] * 4096, [0] * 4096)
    while len(store) < 1_500_000:
        made["id"] = rng.integers(0, 2**63, 4096)
        store.hold(made)
        if len(store) > 10**6:
            assert store.index_bytes <= INDEX_BYTES * len(store)


@pytest.mark.parametrize("held", [1, 63, 64, 200])
def test_restored_store_equals_the_original(tmp_path: Path, held: int) -> None:
    """Files and state bring back every row, truth and id; what is held later does not leak in."""
    store = Pending(DTYPE, MEMBERS, tmp_path, 10_000)
    numbers = store.hold(rows(list(range(1, held + 1)), list(range(held))))
    store.settle(numbers[::3], np.ones(len(numbers[::3])))
    store.expire(held // 4)
    saved = {}
    state = store.state()
    for segment in store.files():
        saved[segment.number] = tmp_path / f"saved-{segment.number}"
        segment.place(saved[segment.number])
    before = state_digest(store.digest_state())
    store.hold(rows(list(range(1000, 1100)), [0] * 100))

    other = tmp_path / "other"
    other.mkdir()
    again = Pending(DTYPE, MEMBERS, other, 10_000)
    again.restore(state, saved)
    assert state_digest(again.digest_state()) == before
    ids = np.arange(1, held + 1, dtype=np.uint64)
    assert again.find(ids).tolist() == [-1] * (held // 4) + list(range(held // 4, held))
    assert again.waiting == sum(int(waits(part).sum()) for part in again.state()["truth"])


@pytest.mark.parametrize("by", ["files", "rows"])
def test_logits_go_by_the_members_names(tmp_path: Path, by: str) -> None:
    """A store for other members holds the same rows; who was not there made no score."""
    store = Pending(DTYPE, MEMBERS, None, 10_000)
    made = rows(list(range(1, 201)), list(range(200)))
    made["links"] = np.arange(400).reshape(200, 2, 1)
    made["alert"][::7] = True
    numbers = store.hold(made)
    store.settle(numbers[::3], np.ones(len(numbers[::3])))
    store.expire(70)
    saved: dict[int, Any] = dict(store.rows())
    if by == "files":
        for segment in store.files():
            saved[segment.number] = tmp_path / f"saved-{segment.number}"
            segment.place(saved[segment.number])

    dtype = row_dtype(FeatureSchema(("a", "b")), members=3, keys=1)
    other = Pending(dtype, ("n", "new", "m"), None, 10_000)
    other.restore(store.state(), saved)
    got = other.take(numbers[70:])
    assert (got["links"][:, [2, 0]] == made["links"][70:]).all()
    assert np.isnan(got["links"][:, 1]).all()
    for name in ("id", "event_time_ms", "dense", "alert"):
        assert (got[name] == made[name][70:]).all()
    assert np.array_equal(other.truth(numbers[70:]), store.truth(numbers[70:]), equal_nan=True)
    assert other.find(made["id"]).tolist() == [-1] * 70 + list(range(70, 200))
    assert other.waiting == store.waiting


def test_a_full_disk_is_survived_in_memory(tmp_path: Path) -> None:
    """Where no file can be made, rows are held in memory and a checkpoint still gets them."""
    store = Pending(DTYPE, MEMBERS, tmp_path / "missing", 100)
    made = rows([1, 2], [5, 6])
    store.hold(made)
    [segment] = store.files()
    assert segment.place(tmp_path / "saved") == 2 * DTYPE.itemsize
    assert (tmp_path / "saved").read_bytes() == made.tobytes()


def test_a_start_reads_no_rows_and_none_is_believed_unread(tmp_path: Path) -> None:
    """With other rows in the files a store starts all the same, until one of them is asked for."""
    store = Pending(DTYPE, MEMBERS, tmp_path, 10_000)
    made = rows([i << 33 for i in range(1, 201)], list(range(200)))
    store.hold(made)
    state, files = store.state(), saved(store, tmp_path / "kept")
    for number in (0, 1):
        path = tmp_path / "kept" / f"{number}.seg"
        path.unlink()
        path.write_bytes(bytes(64 * DTYPE.itemsize))
    again = Pending(DTYPE, MEMBERS, tmp_path, 10_000)
    again.restore(state, files)
    assert again.find(np.array([250, 150, 195], np.uint64) << np.uint64(33)).tolist() == [
        -1,
        149,
        194,
    ]
    with pytest.raises(Damaged, match=r"0\.seg: expected SHA-256"):
        again.find(np.array([5 << 33], np.uint64))
    with pytest.raises(Damaged, match=r"1\.seg: expected SHA-256"):
        again.take(np.array([70]))
    with pytest.raises(Damaged, match=r"0\.seg: expected SHA-256"):
        again.due(10)
    with pytest.raises(Damaged, match=r"1\.seg: expected SHA-256"):
        again.files()[1].place(tmp_path / "next")
    assert (again.take(np.arange(128, 200)) == made[128:]).all()


def test_ids_of_other_rows_are_not_believed(tmp_path: Path) -> None:
    """Where the ids in a file are not those of the rows, the first use of the rows says so."""
    store = Pending(DTYPE, MEMBERS, tmp_path, 10_000)
    store.hold(rows(list(range(1 << 33, (1 << 33) + 64)), list(range(64))))
    state, files = store.state(), saved(store, tmp_path / "kept")
    ids = tmp_path / "kept" / "0.ids"
    found = np.fromfile(ids, "<u4")
    ids.unlink()
    (found + np.uint32(5)).tofile(ids)
    again = Pending(DTYPE, MEMBERS, tmp_path, 10_000)
    again.restore(state, files)
    with pytest.raises(Damaged, match="its ids are others"):
        again.take(np.array([7]))


def test_rows_that_were_read_at_a_start_go_into_the_next_checkpoint(tmp_path: Path) -> None:
    """Digests and ids of full segments are those of the checkpoint before, files are its links."""
    store = Pending(DTYPE, MEMBERS, tmp_path, 10_000)
    store.hold(rows(list(range(1, 201)), list(range(200))))
    state, files = store.state(), saved(store, tmp_path / "kept")
    again = Pending(DTYPE, MEMBERS, tmp_path, 10_000)
    again.restore(state, files)
    assert [f.sha256() for f in again.files()] == [f.sha256() for f in store.files()]
    more = saved(again, tmp_path / "more")
    for number in range(3):
        assert isinstance(more[number], Kept)
        assert more[number][1:2] + more[number][3:] == files[number][1:2] + files[number][3:]
        for end in (".seg", ".ids"):
            name = f"{number}{end}"
            assert (tmp_path / "more" / name).samefile(tmp_path / "kept" / name)
    assert not isinstance(more[3], Kept)
    for one in (store, again):
        one.close()
    assert not [*tmp_path.glob("*.seg"), *tmp_path.glob("*.ids")]

"""Rows that wait while members come and go: against a store whose rows are copied each time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.base import FeatureSchema, StateError, state_digest
from stream.step.pending import store as module
from stream.step.pending.segments import Source
from stream.step.pending.store import Pending, row_dtype
from tests.stream.step.pending.test_store import saved

Names = tuple[str, ...]
NAMES = ("a", "b", "c", "d")


@pytest.fixture(autouse=True)
def _small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEGMENT_ROWS", 64)


def empty(names: Names, directory: Path | None) -> Pending:
    dtype = row_dtype(FeatureSchema(("x", "y")), members=len(names), keys=1)
    return Pending(dtype, names, directory, 10_000)


def nameless(names: list[str], gone: set[str]) -> list[str]:
    return ["" if name in gone else name for name in names]


def goes_on(store: Pending, names: Names, gone: set[str], directory: Path | None) -> Pending:
    """The store for other members; of those that are ``gone`` nothing is carried."""
    state = store.state()
    state["members"] = nameless(state["members"], gone)
    for part in state.get("older", ()):
        part[1] = nameless(part[1], gone)
    other = empty(names, directory)
    other.restore(state, store)
    store.close()
    return other


def copied(store: Pending, names: Names, gone: set[str]) -> Pending:
    """The same by copying every row, column by column."""
    state = store.state() | {"members": list(names)}
    before = nameless(store.state()["members"], gone)
    assert "older" not in state  # it never goes on from another one
    other = empty(names, None)
    rows: dict[int, Source] = {}
    for number in range(store.head // 64, -(-store.tail // 64)):
        first, end = number * 64, min(number * 64 + 64, store.tail)
        held = store.take(np.arange(max(first, store.head), end))
        made = np.zeros(end - first, other.dtype)
        new = made[len(made) - len(held) :]
        for column in ("id", "event_time_ms", "score", "keys", "dense", "alert", "cold"):
            new[column] = held[column]
        for i, name in enumerate(names):
            new["links"][:, i] = held["links"][:, before.index(name)] if name in before else np.nan
        rows[number] = made
    other.restore(state, rows)
    return other


@settings(max_examples=60)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["go on", "files", "rows"]),
            st.permutations(NAMES),
            st.integers(1, 4),
            st.sets(st.sampled_from(NAMES), max_size=2),
            st.tuples(st.integers(0, 150), st.integers(0, 60), st.integers(0, 120)),
        ),
        max_size=10,
    ),
    seed=st.integers(0, 2**31),
    on_disk=st.booleans(),
)
def test_rows_are_read_as_if_they_were_copied(
    steps: list[tuple[str, list[str], int, set[str], tuple[int, int, int]]],
    seed: int,
    on_disk: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Whatever members come, go, come back as others, with restarts between, while rows wait."""
    rng = np.random.default_rng(seed)
    directory = tmp_path_factory.mktemp("layouts") if on_disk else None
    names: Names = NAMES[:2]
    store, plain = empty(names, directory), empty(names, None)
    for number, (how, order, n, gone, (add, settle, age)) in enumerate(steps):
        rows = np.zeros(add, store.dtype)
        rows["id"] = store.tail + 1 + np.arange(add)
        rows["event_time_ms"] = store.tail + np.arange(add)
        for column in ("links", "dense", "score"):
            rows[column] = rng.standard_normal(rows[column].shape)
        wanted = rng.integers(store.head, store.tail + 1, settle) + 1
        for one in (store, plain):
            assert one.hold(rows).tolist() == list(range(one.tail - add, one.tail))
            found = np.unique(one.find(wanted.astype(np.uint64)))
            found = found[found >= 0]
            found = found[np.isnan(one.truth(found))]
            one.settle(found, (found % 2).astype(np.float64))
            one.learned(found[::2])
        left = [one.expire(min(age, len(one))) for one in (store, plain)]
        assert left[0][0].tobytes() == left[1][0].tobytes()
        if how == "go on":
            # A member that goes, or comes back as another one, leaves nothing to who has its name.
            gone = (gone | set(names).difference(order[:n])) & set(names)
            names = tuple(order[:n])
            store = goes_on(store, names, gone, directory)
            plain = copied(plain, names, gone)
        else:
            state, given = store.state(), store.rows()
            files: Any = given
            if directory is not None and how == "files":
                files = saved(store, directory / str(number))
            again = empty(names, directory)
            again.restore(state, files)
            if directory is None or how == "files":
                store.close()
            store = again
        rows = store.take(np.arange(store.head, store.tail))
        assert rows.tobytes() == plain.take(np.arange(store.head, store.tail)).tobytes()
        assert state_digest(store.digest_state()) == state_digest(plain.digest_state())
        assert (store.waiting, store.told, store.newest) == (
            plain.waiting,
            plain.told,
            plain.newest,
        )


@pytest.mark.parametrize("directory", [True, False])
def test_going_on_copies_only_what_is_open(tmp_path: Path, directory: bool) -> None:
    """Full segments are the same objects in both; the last store to close removes their files."""
    one = empty(("a",), tmp_path if directory else None)
    rows = np.zeros(150, one.dtype)
    rows["id"] = np.arange(1, 151)
    one.hold(rows)
    before = dict(one.rows())
    other = goes_on_without_closing(one, ("a", "b"), tmp_path if directory else None)
    after = other.rows()
    assert [np.shares_memory(before[n], after[n]) for n in sorted(before)] == [True, True, False]
    assert other.state()["older"] == [[2, ["a"]]]
    other.close()  # as where the switch failed: the old one goes on
    one.hold(rows[:0])
    assert (one.take(np.arange(150))["id"] == rows["id"]).all()
    third = goes_on_without_closing(one, ("a",), tmp_path if directory else None)
    one.close()
    assert "older" not in third.state()
    assert (third.take(np.arange(150))["id"] == rows["id"]).all()
    third.close()
    assert not list(tmp_path.glob("*.seg"))


def test_rows_of_another_width_are_refused(tmp_path: Path) -> None:
    """A state that names other members than those by which a file's rows were written."""
    one = empty(("a",), tmp_path)
    rows = np.zeros(150, one.dtype)
    rows["id"] = np.arange(1, 151)
    one.hold(rows)
    other = goes_on_without_closing(one, ("a", "b"), tmp_path)
    state, files = other.state(), saved(other, tmp_path / "kept")
    empty(("a", "b"), tmp_path).restore(state, files)
    state["older"] = [[2, ["a", "b", "c"]]]
    with pytest.raises(StateError, match=r"0\.seg: expected \d+ bytes, rows with links of 3"):
        empty(("a", "b"), tmp_path).restore(state, files)


def goes_on_without_closing(store: Pending, names: Names, directory: Path | None) -> Pending:
    other = empty(names, directory)
    other.restore(store.state(), store)
    return other

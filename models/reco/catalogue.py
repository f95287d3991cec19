"""What is known of items beside what users do with them: their text, and what keeps them hidden.

The recommender knows items by the hash of their id; here stands what an answer must say, and which
items no answer may hold. One rule for every path: :meth:`Catalogue.kept_out`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.base import BOOL, I64, U64, State, StateError

FRESH = 64


class Catalogue:
    """Items in slots, by the xxh3-64 of their id.

    Parameters
    ----------
    ttl_ms : int or None
        An item is not shown once nothing was heard of it for longer.
    """

    def __init__(self, ttl_ms: int | None) -> None:
        self._ttl_ms = ttl_ms
        self._begin()

    def _begin(self) -> None:
        self._slots: dict[int, int] = {}
        self._texts: list[str] = []
        self._categories: list[tuple[str, ...]] = []
        self._by_category: dict[str, set[int]] = {}
        self._free: list[int] = []
        self._keys = np.zeros(FRESH, np.uint64)
        self._heard_ms = np.zeros(FRESH, np.int64)
        self._hidden = np.zeros(FRESH, np.bool_)
        self._held = np.zeros(FRESH, np.bool_)
        self._listed: tuple[I64, State] | None = None

    def __len__(self) -> int:
        return len(self._slots)

    def heard(self, key: int, text: str, time_ms: int) -> None:
        """Something happened to an item; it is known from now on."""
        slot = self._slots.get(key)
        if slot is None:
            slot = self._enter(key, text)
        if time_ms > self._heard_ms[slot]:
            self._heard_ms[slot] = time_ms

    def told(self, key: int, hidden: bool | None, categories: Sequence[str] | None) -> None:
        """An item that was heard of has these; ``None``: as before."""
        slot = self._slots[key]
        if hidden is not None:
            self._hidden[slot] = hidden
        if categories is not None:
            self._file(slot, categories)

    def forget(self, key: int) -> None:
        """Nothing is known of an item any more."""
        slot = self._slots.pop(key, None)
        if slot is not None:
            self._file(slot, ())
            self._held[slot] = self._hidden[slot] = False
            self._heard_ms[slot] = 0
            self._texts[slot] = ""
            self._free.append(slot)
            self._listed = None

    def keep(self, known: Collection[int]) -> None:
        """Forget all but these."""
        for key in [k for k in self._slots if k not in known]:
            self.forget(key)

    def keys(self) -> U64:
        """Of all items, in the order of their slots."""
        return self._keys[: len(self._texts)][self._held[: len(self._texts)]]

    def text(self, key: int) -> str | None:
        """The id of an item, if it is known."""
        slot = self._slots.get(key)
        return None if slot is None else self._texts[slot]

    def kept_out(self, now_ms: int, categories: Collection[str]) -> U64:
        """Items that must not be shown now: hidden, expired, in no category asked for.

        Without ``categories`` all will do.
        """
        n = len(self._texts)
        out = self._hidden[:n].copy()
        if self._ttl_ms is not None:
            out |= self._heard_ms[:n] < now_ms - self._ttl_ms
        if categories:
            out |= ~self._in_any(categories)
        return self._keys[:n][out & self._held[:n]]

    def _in_any(self, categories: Collection[str]) -> BOOL:
        found = np.zeros(len(self._texts), np.bool_)
        for category in categories:
            found[list(self._by_category.get(category, ()))] = True
        return found

    def _enter(self, key: int, text: str) -> int:
        if self._free:
            slot = self._free.pop()
            self._texts[slot], self._categories[slot] = text, ()
        else:
            slot = len(self._texts)
            self._texts.append(text)
            self._categories.append(())
            if slot == len(self._keys):
                for name in ("_keys", "_heard_ms", "_hidden", "_held"):
                    setattr(self, name, _doubled(getattr(self, name)))
        self._listed = None
        self._slots[key] = slot
        self._keys[slot] = key
        self._held[slot] = True
        return slot

    def _file(self, slot: int, categories: Sequence[str]) -> None:
        for category in self._categories[slot]:
            there = self._by_category[category]
            there.discard(slot)
            if not there:
                del self._by_category[category]
        given = tuple(dict.fromkeys(categories))
        if given != self._categories[slot]:
            self._listed = None
        self._categories[slot] = given
        for category in self._categories[slot]:
            self._by_category.setdefault(category, set()).add(slot)

    def state(self) -> State:
        """See :meth:`models.base.Learner.state`: the items that are held, by key.

        Not by slot: which one an item has depends on those that are gone, whom no state tells.
        """
        if self._listed is None:
            self._listed = self._list()
        slots, listed = self._listed
        return listed | {"heard_ms": self._heard_ms[slots], "hidden": self._hidden[slots]}

    def _list(self) -> tuple[I64, State]:
        """The slots in use in the order of their keys, and what changes with the items alone.

        Texts are end to end in one: a list of 10,000 takes 2 ms to be made, and 2 to be digested.
        """
        held = np.flatnonzero(self._held[: len(self._texts)])
        slots = held[np.argsort(self._keys[held])]
        filed = [self._categories[i] for i in slots.tolist()]
        texts = _packed([self._texts[i] for i in slots.tolist()])
        categories = _packed([text for some in filed for text in some])
        return slots, {
            "keys": self._keys[slots],
            "texts": texts,
            "categories": categories,
            "in_categories": np.array([len(some) for some in filed], np.int64),
        }

    def restore(self, state: State) -> None:
        """See :meth:`models.base.Learner.restore`."""
        keys, texts = state["keys"], _unpacked(state["texts"])
        names, counts = _unpacked(state["categories"]), state["in_categories"]
        ends = np.cumsum(counts)
        filed = [names[a:b] for a, b in zip(ends - counts, ends, strict=True)]
        columns = (state["heard_ms"], state["hidden"], filed)
        if any(len(column) != len(keys) for column in (texts, *columns)) or sum(
            map(len, filed)
        ) != len(names):
            raise StateError(f"catalogue: expected {len(keys)} of each column")
        self._begin()
        for key, text, heard_ms, hidden, categories in zip(
            keys.tolist(), texts, *(_plain(c) for c in columns), strict=True
        ):
            self.heard(key, text, heard_ms)
            self.told(key, hidden, categories)


def _packed(texts: Sequence[str]) -> State:
    raw = [text.encode("utf-8", "surrogatepass") for text in texts]
    return {"utf8": b"".join(raw), "bytes": np.array([len(one) for one in raw], np.int64)}


def _unpacked(texts: State) -> list[str]:
    utf8, ends = texts["utf8"], np.cumsum(texts["bytes"])
    if len(ends) and (texts["bytes"].min() < 0 or ends[-1] != len(utf8)):
        raise StateError(f"catalogue: expected texts of {len(utf8)} bytes in all")
    starts = (ends - texts["bytes"]).tolist()
    return [
        utf8[a:b].decode("utf-8", "surrogatepass")
        for a, b in zip(starts, ends.tolist(), strict=True)
    ]


def _plain(column: Any) -> list[Any]:
    return column.tolist() if isinstance(column, np.ndarray) else column


def _doubled(array: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([array, np.zeros_like(array)])

"""What the learner hands to scorers: versions of all that scoring needs of the members.

A version is whole, never a difference: after a thousand labels nearly every page of the members has
changed. It comes in pieces that a broker takes, and is taken over once all of them are there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec
import zstandard

from models.base import State, StateError, state_digest
from models.ensemble.crew import Crew, Job
from models.ensemble.ensemble import Ensemble
from models.ensemble.group import key_of
from stream.contract.records import NewRecord
from stream.step.lifecycle.challengers import Led, Place
from stream.step.roles.examples import LEVEL, Foreign, check_meaning, plain_bytes
from stream.step.roles.packing import packed, unpacked

PIECE_BYTES = 900_000
"""Of a version in one record: a broker takes 1 MB by default."""
_SPECS = ("specs", "challenger_specs")
"""Of an ensemble's view: definitions by which members and challengers were made."""


class Version(NamedTuple):
    """``at_ms``: the newest event time that its learner knew of; ``digest``: of what is in it,
    see :meth:`~models.ensemble.group.Group.view_digest`."""

    number: int
    at_ms: int
    digest: str


NONE = Version(0, 0, "")


class Coming(NamedTuple):
    """A version that is whole; ``view``: what :func:`viewed` gave, ``state``: the same unpacked,
    ``roots``: digests of the packed members, ``led``: the challenges of the learner."""

    version: Version
    view: State
    state: State
    roots: dict[str, str]
    led: list[Led]


class Taken(NamedTuple):
    """What a learner knows of a scorer by its examples.

    ``next_offset``: where the next one stands; ``version``: the newest that the scorer had taken
    over; ``watermark_ms``: the newest event time that it had scored.
    """

    next_offset: int
    version: int
    watermark_ms: int


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """Number ``part`` of the ``of`` pieces of a version."""

    meaning: str
    number: int
    at_ms: int
    digest: str
    part: int
    of: int
    data: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Piece).decode


MOST_BYTES = 1 << 30
"""Of a version once decompressed."""


def viewed(ensemble: Ensemble, led: Sequence[Led] = ()) -> State:
    """What a version holds of an ensemble: each member packed, which its digest is taken of.

    ``led``: the challenges there, whose models are packed too.
    """
    view = ensemble.view()
    found = view | {"members": {name: packed(own) for name, own in view["members"].items()}}
    if led:
        models = {key: packed(model.view()) for key, model in ensemble.challengers.items()}
        found |= {"challengers": models, "led": [[*one.place, one.ripe] for one in led]}
    return found


def pieces(view: State, version: Version, meant: str) -> list[NewRecord]:
    """The records of a version, of what :func:`viewed` gave.

    ``meant``: see :func:`~stream.step.roles.examples.meaning`.
    """
    return cut(packed(view), version, meant)


def cut(raw: bytes, version: Version, meant: str) -> list[NewRecord]:
    """The records of a version that holds what was packed."""
    if len(raw) > MOST_BYTES:
        raise StateError(
            f"version {version.number}: expected members of up to {MOST_BYTES:,} bytes, got"
            f" {len(raw):,}; give them fewer columns, trees, weights or items"
        )
    data = zstandard.ZstdCompressor(LEVEL).compress(raw)
    starts = range(0, len(data), PIECE_BYTES)
    return [
        NewRecord(
            b"%d" % version.number,
            _encode(Piece(meant, *version, i, len(starts), data[start : start + PIECE_BYTES])),
            0,
        )
        for i, start in enumerate(starts)
    ]


class Joining:
    """The version that a scorer has taken over, and the pieces of the next one.

    Parameters
    ----------
    meant : str
        The :func:`~stream.step.roles.examples.meaning` of the settings.

    Attributes
    ----------
    current : Version
        :data:`NONE` before the first.
    """

    def __init__(self, meant: str) -> None:
        self.current = NONE
        self._meant = meant
        self._pieces: list[bytes] = []
        self._number = 0  # of the version whose pieces these are

    def join(self, raw: bytes | None) -> tuple[Version, bytes] | None:
        """The next record; gives the version that it completes, compressed.

        Pieces of one that began before the oldest record are passed over. Raises :class:`Foreign`.
        """
        try:
            piece = _decode(raw or b"")
        except msgspec.MsgspecError as error:
            raise Foreign(f"expected a piece of a version, got {error}") from error
        check_meaning(piece.meaning, self._meant)
        if piece.number <= self.current.number:
            raise Foreign(
                f"expected a version after {self.current.number}, got {piece.number}: its learner"
                " began anew; give a service that begins anew a name of its own"
            )
        if piece.part == 0:
            self._pieces, self._number = [], piece.number
        if (piece.number, piece.part) != (self._number, len(self._pieces)):
            return None
        self._pieces.append(piece.data)
        if len(self._pieces) < piece.of:
            return None
        data, self._pieces = b"".join(self._pieces), []
        return Version(piece.number, piece.at_ms, piece.digest), data

    def state(self) -> State:
        """See :meth:`models.base.Model.state`."""
        own = {"number": self._number, "pieces": list(self._pieces)}
        return {"current": list(self.current), "coming": own}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See :meth:`models.base.Model.restore`."""
        self.current = Version(*state["current"])
        self._number, self._pieces = state["coming"]["number"], list(state["coming"]["pieces"])


class Incoming(Joining):
    """Versions of members whose events are scored.

    Parameters
    ----------
    meant : str
        The :func:`~stream.step.roles.examples.meaning` of the settings.
    crew : Crew
    vouched : callable
        Raises ``ValueError`` for a definition that may not come in a record.
    """

    def __init__(self, meant: str, crew: Crew, vouched: Callable[[Any], None]) -> None:
        super().__init__(meant)
        self._crew = crew
        self._vouched = vouched

    def take(self, raw: bytes | None) -> Coming | None:
        """The next record; gives the version that it completes. Raises :class:`Foreign`."""
        joined = self.join(raw)
        if joined is None:
            return None
        version, data = joined
        try:
            view = _read(unpacked(plain_bytes(data, MOST_BYTES)))
            members, roots = self._unpacked(view["members"])
            whole = view | {"members": members}
            challengers = {k: unpacked(own) for k, own in view.get("challengers", {}).items()}
            whole |= {"challengers": challengers}
            led = [Led(Place(*place), ripe) for *place, ripe in view.get("led", ())]
            if {key_of(one.place.name, one.place.number) for one in led} != {*challengers}:
                raise ValueError("a model of each challenge, and no other")
            for spec in (spec for key in _SPECS for spec in view.get(key, {}).values()):
                self._vouched(spec)
        except (msgspec.MsgspecError, zstandard.ZstdError, ValueError, TypeError) as error:
            raise Foreign(f"version {version.number}: expected members, got {error}") from error
        self.current = version
        return Coming(version, view, whole, roots, led)

    def _unpacked(self, packed: Mapping[str, bytes]) -> tuple[dict[str, Any], dict[str, str]]:
        """Members, and digests of what they were packed as, side by side."""
        jobs: list[Job[Any]] = [
            Job(partial(work, own), len(own) / bytes_a_us)
            for work, bytes_a_us in ((unpacked, 1000), (state_digest, 2000))
            for own in packed.values()
        ]
        made = self._crew.do(jobs)
        whole, roots = made[: len(packed)], made[len(packed) :]
        return dict(zip(packed, whole, strict=True)), dict(zip(packed, roots, strict=True))


class Outgoing:
    """When the learner's next version is due, and what it has learned from.

    Parameters
    ----------
    every_ms : int
        Event time between two.

    Attributes
    ----------
    current : Version
        The newest that was published; :data:`NONE` before the first.
    taken : dict of int to Taken
        By scorer, which is the partition of its examples.
    wanted : bool
        One is due whatever the time: scorers should know at once what was changed.
    """

    def __init__(self, every_ms: int) -> None:
        self.current = NONE
        self.taken: dict[int, Taken] = {}
        self.wanted = False
        self._every_ms = every_ms
        self._changed = False

    def learned(self, scorer: int, taken: Taken) -> None:
        """Examples were taken in up to there."""
        self.taken[scorer] = taken
        self._changed = True

    def due(self, watermark_ms: int) -> bool:
        """Whether anything was learned that scorers should know by now."""
        over = watermark_ms >= self.current.at_ms + self._every_ms
        return self.wanted or (self._changed and over)

    def next(self, watermark_ms: int, digest: str) -> Version:
        """The next one, published now."""
        self.current = Version(self.current.number + 1, watermark_ms, digest)
        self._changed = self.wanted = False
        return self.current

    def state(self) -> State:
        """See :meth:`models.base.Model.state`."""
        return {
            "current": list(self.current),
            "taken": [[scorer, *taken] for scorer, taken in sorted(self.taken.items())],
            "changed": self._changed,
            **({"wanted": True} if self.wanted else {}),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """See :meth:`models.base.Model.restore`."""
        self.current = Version(*state["current"])
        self.taken = {scorer: Taken(*taken) for scorer, *taken in state["taken"]}
        self._changed, self.wanted = bool(state["changed"]), bool(state.get("wanted", False))


def _read(view: Any) -> State:
    """A view with each member still packed; raises :class:`ValueError`."""
    members = view.get("members") if isinstance(view, dict) else None
    if not isinstance(members, dict) or not all(isinstance(m, bytes) for m in members.values()):
        raise ValueError("something else")
    if "last_good" in view:
        raise ValueError("what they were, too")
    if not all(isinstance(view.get(key, {}), dict) for key in ("challengers", *_SPECS)):
        raise ValueError("something else in the place of challengers and definitions")
    return view

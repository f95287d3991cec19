"""What scorers of a service that ranks hand to the learner, and what it gives back.

Scorers hand over deeds: what users did, and what is told of items and users, as records say it. The
learner puts those of all scorers into one order, learns them, and gives them back in this order as
news: whoever follows them from the same state comes to the same. They are a hundred bytes a deed
where the tables that they change are hundreds of megabytes; what is costly to learn, the stack's
choices, is in the news itself. A scorer that has missed some asks for all that is known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Union

import msgspec
import zstandard

from models.base import State, StateError
from stream.contract.commands import Checkpoint
from stream.contract.records import NewRecord
from stream.decode.feedback import Delete, Interaction, Item, User
from stream.step.roles.examples import Foreign, check_meaning, packed, plain_bytes
from stream.step.roles.packing import unpacked
from stream.step.roles.versions import MOST_BYTES, Joining, Version

TOLD_BYTES = 256 << 10
"""Of the deeds in one record before they are compressed, but for a larger one alone; and of the
places."""

OWN = (Checkpoint,)
"""Commands that each process follows for itself; what the others do comes to scorers in news."""

Deed = tuple[Union[Item, User, Interaction, Delete], int]  # noqa: UP007 - as msgspec takes it
"""What a record says, and its event time in ms."""

_encode = msgspec.json.Encoder().encode
_decode_deed = msgspec.json.Decoder(Deed).decode


class Told(msgspec.Struct, frozen=True, array_like=True):
    """Deeds of a scorer, ``upto`` the number of the last of them, see
    :class:`~stream.step.ranking.ahead.Ahead`.

    ``version`` is the newest that the scorer had taken over, ``watermark_ms`` the newest event time
    that it had taken in. ``asks``: it cannot go on without all that is known. ``places``: examples
    of what became of places in lists, where members score them; ``sides``: how much rather the
    members filled places of trials that were taken than the recommender did.
    """

    meaning: str
    version: int
    watermark_ms: int
    upto: int
    asks: bool
    deeds: list[bytes]
    places: list[bytes]
    sides: list[float]


_encode_told = msgspec.msgpack.Encoder().encode
_decode_told = msgspec.msgpack.Decoder(Told).decode


def written(what: Item | User | Interaction | Delete, time_ms: int) -> bytes:
    """A deed as it is handed over."""
    return _encode((what, time_ms))


def read(raw: bytes | None, meant: str) -> tuple[Told, list[Deed]]:
    """What a scorer's record holds; raises :class:`Foreign`."""
    try:
        told = _decode_told(plain_bytes(raw or b""))
        check_meaning(told.meaning, meant)
        return told, _deeds(told.deeds)
    except Foreign:
        raise
    except (msgspec.MsgspecError, zstandard.ZstdError, ValueError) as error:
        raise Foreign(f"expected deeds of a scorer, got {error}") from error


def _deeds(raws: Sequence[bytes]) -> list[Deed]:
    return [_decode_deed(raw) for raw in raws]


class Telling:
    """Collects a scorer's deeds until its step is done.

    Attributes
    ----------
    asks : bool
        All that is known is wanted; told once.
    """

    def __init__(self, meant: str) -> None:
        self.asks = False
        self._meant = meant
        self._deeds: list[bytes] = []

    def add(self, deed: bytes) -> None:
        """One more, see :func:`written`."""
        self._deeds.append(deed)

    def take(
        self,
        partition: int,
        version: int,
        watermark_ms: int,
        upto: int,
        places: Sequence[bytes] = (),
        sides: Sequence[float] = (),
    ) -> tuple[list[NewRecord], bytes]:
        """The records for what came since the last call, and a digest of what they hold.

        See :class:`Told`; ``upto`` is the number of the newest deed.
        """
        deeds, asks, tried = self._deeds, self.asks, list(sides)
        self._deeds, self.asks = [], False
        first, raws = upto - len(deeds), []
        while deeds or places or asks or tried:
            n, k = _fitting(deeds), _fitting(places)
            first += n
            told = Told(
                *(self._meant, version, watermark_ms, first, asks),
                *(list(deeds[:n]), list(places[:k]), tried),
            )
            raws.append(_encode_told(told))
            deeds, places, asks, tried = deeds[n:], places[k:], False, []
        return packed(raws, partition)


def _fitting(raws: Sequence[bytes]) -> int:
    """How many of the first go into one record."""
    n = size = 0
    while n < len(raws) and (n == 0 or size + len(raws[n]) <= TOLD_BYTES):
        size += len(raws[n])
        n += 1
    return n


# ---------------------------------------------------------------------- the learner's answer

FIRST = "0" * 32
"""Digest before the first news."""


class News(NamedTuple):
    """What has become known since the version before.

    ``deeds``: in their order; ``upto``: by scorer the number of the newest of its deeds that is
    among them or came before; ``learned``: names of those that learned the interactions;
    ``choices``: what the stack makes its choices by since. ``before``: the digest of all that was
    known at the version before, where it was taken, else empty. ``whole``: all that is known, where
    somebody asked; ``apart``: something else than the deeds led there. ``members``: what places are
    scored by from now on, where it is another version; ``trials``: how members stand against the
    recommender.
    """

    version: Version
    deeds: list[Deed]
    upto: dict[int, int]
    learned: list[str]
    choices: State
    before: str
    whole: State | None
    apart: bool
    members: State | None
    trials: list[float]


def chained(before: str, raw: bytes) -> str:
    """Digest of news that hold these bytes, and of all news before."""
    return hashlib.blake2b(bytes.fromhex(before) + raw, digest_size=16).hexdigest()


class NewsReader(Joining):
    """Reads news, and finds where some are missing.

    Parameters
    ----------
    meant : str
        The :func:`~stream.step.roles.examples.meaning` of the settings.
    vouched : callable
        Raises ``ValueError`` for a definition that may not come in a record.

    Attributes
    ----------
    missed : bool
        Versions are missing after :attr:`current`; only all that is known helps.
    """

    missed = False

    def __init__(self, meant: str, vouched: Callable[[Any], None]) -> None:
        super().__init__(meant)
        self._vouched = vouched

    def take(self, raw: bytes | None) -> News | None:
        """The next record; gives the news that it completes, if one can go on from there.

        Raises :class:`Foreign`, and :class:`StateError` for news that do not follow on those
        before.
        """
        joined = self.join(raw)
        if joined is None:
            return None
        version, data = joined
        try:
            held = plain_bytes(data, MOST_BYTES)
            news = _read(version, unpacked(held))
            for view in (news.members, (news.whole or {}).get("ensemble")):
                self._check(view or {})
        except (msgspec.MsgspecError, zstandard.ZstdError, *_WRONG) as error:
            raise Foreign(f"version {version.number}: expected news, got {error}") from error
        self.missed |= version.number != self.current.number + 1
        if self.missed and news.whole is None:
            return None
        if not self.missed:
            expected = chained(self.current.digest or FIRST, held)
            if version.digest != expected:
                raise StateError(
                    f"version {version.number}: expected digest {expected}, got {version.digest}:"
                    " it does not follow on the versions before; one learner alone may write here"
                )
        # Who has missed some cannot come there by these deeds.
        news = news._replace(apart=news.apart or self.missed)
        self.current, self.missed = version, False
        return news

    def _check(self, view: Any) -> None:
        """Raise ``ValueError`` for members of another definition than may come here."""
        if any(view.get(key) for key in ("challengers", "challenger_specs", "last_good")):
            raise ValueError("members alone")
        for spec in view.get("specs", {}).values():
            self._vouched(spec)

    def state(self) -> State:
        """See :meth:`models.base.Model.state`."""
        return super().state() | {"missed": self.missed}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See :meth:`models.base.Model.restore`."""
        super().restore(state)
        self.missed = bool(state["missed"])


_WRONG = (AttributeError, LookupError, TypeError, ValueError)


def _read(version: Version, told: Any) -> News:
    """What the learner packed; raises one of the above."""
    for name, kind in _KINDS.items():
        if not isinstance(told[name], kind):
            raise ValueError(f"{name}: {told[name]!r:.80}")
    upto = {int(scorer): int(number) for scorer, number in told["upto"]}
    first, second = told["trials"]
    plain: dict[str, Any] = {name: told[name] for name in _KINDS}
    trials = [float(first), float(second)]
    return News(version=version, deeds=_deeds(told["deeds"]), upto=upto, trials=trials, **plain)


_KINDS: dict[str, Any] = {
    "learned": list,
    "choices": dict,
    "before": str,
    "whole": dict | None,
    "apart": bool,
    "members": dict | None,
}

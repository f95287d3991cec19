"""The ledger of each member: which versions of it are kept, from when, why, how good they were.

Part of the engine's state. Of a version it holds the digest; the state itself is an artefact beside
the generations (``stream/state/artefacts.py``), by which the member can become that version again.
``docs/lifecycle.md`` says how long versions are kept and which is the last good one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import msgspec

from models.base import State
from stream.contract.commands import WHOLE
from stream.settings.schema import VersionsSettings

Cause = Literal["regular", "replaced", "installed", "rolled_back", "promoted"]
"""``regular``: time has passed; ``replaced``: it is about to make room for another one; the others
say what put it in place."""

LAST_GOOD = "last_good"
SHORTEST = 8
"""Digits of a digest that name a version at least."""


def beside(digest: Callable[[], str]) -> Future[str]:
    """A digest that a thread takes, of what nobody changes any more: of 30 MB it takes 15 ms."""
    return _POOL.submit(digest)


_POOL = ThreadPoolExecutor(1, "digest")  # its thread begins with the first one


class NoVersion(ValueError):
    """No kept version is what was asked for."""


class Version(msgspec.Struct, frozen=True):
    """A member, or an ensemble that made room for another one, as it was after step ``seq``.

    ``digest`` is that of its state, ``event_time_ms`` the newest event taken by then, ``updates``
    how many updates it had, 0 if it had learned no row since it began; ``quality`` its measures
    then, of the fading window; ``spec`` the definition by which it was made, where that is not the
    configuration's.
    """

    seq: int
    event_time_ms: int
    digest: str
    cause: Cause
    updates: int
    quality: dict[str, float] = {}
    spec: dict[str, Any] | None = None


class MadeRoom(NamedTuple):
    """What stood in a member's place up to step ``seq``, by its digest."""

    name: str
    seq: int
    digest: str


class _Coming(NamedTuple):
    """A version whose digest a thread takes, or one behind it; ``guarded`` at that moment."""

    name: str
    version: Version
    state: Callable[[], State] | None
    digest: Future[str] | None
    guarded: str | None


class Ledger:
    """Kept versions of an engine's members.

    A digest that is taken beside the steps (:func:`beside`) is waited for by whoever looks at the
    versions: what it finds is the same at any time.

    Parameters
    ----------
    settings : VersionsSettings
    names : collection of str
        The members.

    Attributes
    ----------
    guarded : dict of str to str
        Digests of the versions that the guard compares members with, which do not make room.
    worse : set of str
        Members that have become worse than that. Both are the guard's, and part of its state.
    """

    def __init__(self, settings: VersionsSettings, names: Collection[str]) -> None:
        self._settings = settings
        self._versions: dict[str, list[Version]] = {name: [] for name in names}
        self._pinned: dict[str, int] = {}  # digest to the event time until which
        self._alarmed: dict[str, int] = {}  # first step of the alarms that last
        self._quiet = True  # since the last regular versions
        self._due_ms = 0
        self._unsaved: dict[str, Callable[[], State]] = {}
        self._coming: list[_Coming] = []
        self._made_room: list[MadeRoom] = []
        self._arrived: dict[str, Cause] = {}
        self.guarded: dict[str, str] = {}
        self.worse: set[str] = set()

    def due(self, event_time_ms: int) -> bool:
        """Whether regular versions are to be kept at the coming checkpoint."""
        return event_time_ms >= self._due_ms

    def regular(self, event_time_ms: int, raised: Collection[str]) -> None:
        """They are: if no alarm came since the last ones, those not ``raised`` are over."""
        self._due_ms = event_time_ms + self._settings.every
        if self._quiet:
            self._alarmed = {s: seq for s, seq in self._alarmed.items() if s in raised}
        self._quiet = True

    def alarmed(self, signal: str, seq: int) -> None:
        """The error of a member, or of the ensemble, has risen."""
        self._quiet = False
        self._alarmed.setdefault(signal, seq)

    def alarming(self, name: str) -> bool:
        """Whether alarms of the member, or of the ensemble, last."""
        return not self._alarmed.keys().isdisjoint((name, "ensemble"))

    def keep(
        self,
        name: str,
        version: Version,
        state: Callable[[], State] | None,
        digest: Future[str] | None = None,
    ) -> None:
        """Enter a version, unless it is the newest; ``state`` gives its state, now and later.

        ``None``: that is an artefact already. ``digest``: where it is not the version's own yet.

        The oldest that are neither pinned nor guarded make room.
        """
        self._coming.append(_Coming(name, version, state, digest, self.guarded.get(name)))
        if digest is None and len(self._coming) == 1:
            self._settle()

    @property
    def settled(self) -> bool:
        """Whether nobody has to wait for a digest."""
        return all(one.digest is None or one.digest.done() for one in self._coming)

    def _settle(self) -> None:
        """Enter what comes, in its order."""
        coming, self._coming = self._coming, []
        for name, version, state, digest, guarded in coming:
            if digest is not None:
                version = msgspec.structs.replace(version, digest=digest.result())
            if version.cause == "replaced":
                self._made_room.append(MadeRoom(name, version.seq, version.digest))
            self._enter(name, version, state, guarded)

    def made_room(self) -> list[MadeRoom]:
        """What did since the last call, in order: the trail is to tell of it."""
        self._settle()
        found, self._made_room = self._made_room, []
        return found

    def arrives(self, name: str, cause: Cause) -> None:
        """The member is in its place, and a version with the next checkpoint, which copies it."""
        self._arrived[name] = cause

    def arrived(self) -> dict[str, Cause]:
        """Those since the last call."""
        found, self._arrived = self._arrived, {}
        return found

    @property
    def unsaved(self) -> dict[str, Callable[[], State]]:
        """Of versions whose states are not artefacts yet, what gives them, by digest.

        Who has saved one takes it out.
        """
        self._settle()
        return self._unsaved

    def _enter(
        self, name: str, version: Version, state: Callable[[], State] | None, guarded: str | None
    ) -> None:
        versions = self._versions.setdefault(name, [])  # the ensemble has none before its first
        if versions and versions[-1].digest == version.digest:
            return
        versions.append(version)
        free = [
            v
            for v in versions
            if self._pinned.get(v.digest, -1) < version.event_time_ms and v.digest != guarded
        ]
        for oldest in free[: -self._settings.keep]:
            versions.remove(oldest)
        kept = {v.digest for each in self._versions.values() for v in each}
        self._pinned = {d: until for d, until in self._pinned.items() if d in kept}
        if state is not None:
            self._unsaved[version.digest] = state

    def replaced(self, name: str) -> None:
        """Another model stands in the member's place: its alarms were about the old one."""
        self._alarmed.pop(name, None)
        self._arrived.pop(name, None)

    def pin(self, digest: str, until_ms: int) -> None:
        """Keep a version at least until events are from ``until_ms``; a past time lets it go."""
        self._settle()
        self._pinned[digest] = until_ms

    def named(self, name: str, to: str) -> Version:
        """The version that a person means by ``last_good``, a step, or a digest's first digits.

        ``last_good``: where the guard found the member worse, the version that it compares it with;
        else the newest from before the first step of the member's alarms, or of the ensemble's;
        without any the newest, unless that is how what was installed or promoted came. A step: the
        newest from no later than it; a number of 8 or more digits with which no digest begins is
        one, too.

        Raises :class:`NoVersion`.
        """
        versions = self.versions().get(name, [])
        if to == LAST_GOOD and name in self.worse:
            found = [v for v in versions if v.digest == self.guarded[name]]
        elif to == LAST_GOOD:
            first = min(
                (self._alarmed[s] for s in (name, "ensemble") if s in self._alarmed), default=None
            )
            found = [v for v in versions if first is None or v.seq < first]
            if first is None and found and found[-1].cause in ("installed", "promoted"):
                found.pop()  # what came in place is not the way back from itself
        else:
            found = [v for v in versions if len(to) >= SHORTEST and v.digest.startswith(to)]
            if not found and to.isdecimal():
                found = [v for v in versions if v.seq <= int(to)]
        if not found:
            kept = ", ".join(f"{v.digest[:12]} (step {v.seq})" for v in versions[-5:]) or "none"
            raise NoVersion(f"{name}: expected a version that is kept, got {to!r}; kept: {kept}")
        return found[-1]

    def versions(self) -> dict[str, list[Version]]:
        """What is kept of each member, oldest first."""
        self._settle()
        return {name: list(kept) for name, kept in self._versions.items()}

    def spec(self, name: str, digest: str, running: Mapping[str, Any] | None) -> Any:
        """By which definition a version was made; ``running`` for one from elsewhere."""
        return next((v.spec for v in self.versions().get(name, ()) if v.digest == digest), running)

    def taught(self, name: str, digest: str) -> bool:
        """Whether the version had learned a row; one from elsewhere counts as if it had."""
        return all(v.updates for v in self.versions().get(name, ()) if v.digest == digest)

    def newest(self, name: str, digest: str) -> bool:
        """Whether the member's newest version has this digest."""
        return any(v.digest == digest for v in self.versions().get(name, [])[-1:])

    def digests(self) -> set[str]:
        """Of every version that is kept."""
        return {v.digest for kept in self.versions().values() for v in kept}

    def pinned(self) -> dict[str, int]:
        """Digests that do not make room, with the event time until which."""
        self._settle()
        return dict(self._pinned)

    def state(self) -> State:
        """See :meth:`models.base.Learner.state`; the versions' own states are artefacts."""
        versions = self.versions()
        waiting = {
            "made_room": [list(one) for one in self._made_room],
            "arrived": dict(self._arrived),
        }
        return {key: part for key, part in waiting.items() if part} | {
            "versions": msgspec.to_builtins(versions),
            "pinned": dict(self._pinned),
            "alarmed": dict(self._alarmed),
            "quiet": self._quiet,
            "due_ms": self._due_ms,
        }

    def restore(self, state: State) -> None:
        """Take over what ``state`` tells of these members."""
        kept = msgspec.convert(state["versions"], dict[str, list[Version]])
        whole = {WHOLE: kept[WHOLE]} if WHOLE in kept else {}
        self._versions = {name: kept.get(name, []) for name in self._versions} | whole
        self._pinned = dict(state["pinned"])
        signals = {"ensemble", *self._versions}
        self._alarmed = {s: seq for s, seq in state["alarmed"].items() if s in signals}
        self._quiet = bool(state["quiet"])
        self._due_ms = int(state["due_ms"])
        self._coming = []
        self._made_room = [MadeRoom(*one) for one in state.get("made_room", ())]
        arrived = state.get("arrived", {}).items()
        self._arrived = {name: cause for name, cause in arrived if name in self._versions}

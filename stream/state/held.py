"""Commands that wait for what they need: a thread reads the models that they put in place, and
imports the libraries of members that they name first, which takes seconds.

The loop goes on with events. What a step takes is on record as ever: a replay reads the same models
in their step. The thread touches nothing that is anybody else's; a member that cannot be made and
restored like that (:attr:`models.base.Learner.apart`) is read by the loop, in its step.
"""

from __future__ import annotations

import importlib
import re
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

from models.base import Learner
from models.members.catalogue import unloaded
from stream.contract.records import Record, Slice, range_of
from stream.state.artefacts import Artefacts, Unsaved
from stream.step.engine import Engine, Models

_TYPE = re.compile(rb'\\*"type\\*"\s*:\s*\\*"(\w+)')
"""A type that a record names, be it in a text within its JSON. The command is not decoded yet: to
check what it defines needs the library."""


class _Asked(NamedTuple):
    """Which model a command puts where; ``group`` and ``spec`` are what it is made for."""

    name: str
    digest: str
    group: Any
    spec: Any


class Held:
    """Control records that are not taken yet: the first of them, and all that came after it.

    They count as unread until a step has taken them: after a restart, or where the log is read from
    elsewhere (:meth:`forget`), they come again.
    """

    def __init__(self, artefacts: Artefacts, unsaved: Unsaved) -> None:
        self._artefacts = artefacts
        self._unsaved = unsaved
        self._pool = ThreadPoolExecutor(1, "artefacts")
        self._records: deque[Record] = deque()
        self._reading: Future[list[tuple[_Asked, Any]] | None] | None = None
        """``None`` in it: modules were imported, and the first record is looked at again."""
        self._imported: set[str] = set()
        self._ready: list[tuple[_Asked, Any]] = []

    def __bool__(self) -> bool:
        return bool(self._records)

    @property
    def ready(self) -> bool:
        """Whether the next :meth:`sift` releases what is held."""
        return self._reading is not None and self._reading.done()

    def sift(self, engine: Engine, slices: list[Slice]) -> list[Slice]:
        """What can be taken now: commands whose models are there, then all other records."""
        topic = engine.config.topics.control
        control = [piece for piece in slices if piece.range.topic == topic]
        named = [record for piece in control for record in piece.records]
        if not self._records and not self._unloaded(engine, named) and not engine.wanted(control):
            return slices
        self._records.extend(named)
        taken = [*self._released(engine)]
        rest = [piece for piece in slices if piece.range.topic != topic]
        return [*_slices(taken), *rest]

    def _released(self, engine: Engine) -> Iterable[Record]:
        """The records at the head that need nothing, or have it; begins to read for the next."""
        if self._reading is not None:
            if not self.ready:
                return
            found, self._reading = self._reading.result(), None
            if found is not None:
                self._ready = found
                yield self._records.popleft()
        while self._records:
            if modules := self._unloaded(engine, [self._records[0]]):
                self._imported |= modules
                self._reading = self._pool.submit(_import, sorted(modules))
                return
            if asked := self._asked(engine, self._records[0]):
                self._reading = self._pool.submit(lambda: [(a, read()) for a, read in asked])
                return
            yield self._records.popleft()

    def _unloaded(self, engine: Engine, records: Iterable[Record]) -> set[str]:
        """Modules of members that the records name, and that were not looked for before."""
        task = engine.config.target.type
        types = {name.decode() for r in records for name in _TYPE.findall(r.value or b"")}
        found = {module for name in types if (module := unloaded(name, task))}
        return found - self._imported

    def _asked(
        self, engine: Engine, record: Record
    ) -> list[tuple[_Asked, Callable[[], Learner | Exception]]]:
        """What the command needs, and what reads it; nothing if that is not to be done beside."""
        found: list[tuple[_Asked, Callable[[], Learner | Exception]]] = []
        group = engine.ensemble
        for name, digest in engine.wanted(_slices([record])):
            spec = engine.spec(name, digest)
            member = group.members.get(name)  # none: it is a whole ensemble
            if member is None or not member.apart or spec != group.specs.get(name):
                return []
            fresh = partial(group.made, name, 0, spec)
            read = partial(self._artefacts.had, name, digest, fresh, self._unsaved(engine, digest))
            found.append((_Asked(name, digest, group, spec), read))
        return found

    def models(self, engine: Engine, slices: Iterable[Slice]) -> Models:
        """See :meth:`Artefacts.models`: what was read meanwhile, the rest is read now.

        A command may mean another version now than when it came.
        """
        ready = {
            (asked.name, asked.digest): model
            for asked, model in self._ready
            if asked.group is engine.ensemble
            and asked.spec == engine.spec(asked.name, asked.digest)
        }
        self._ready = []
        return self._artefacts.models(engine, slices, ready=ready, unsaved=self._unsaved)

    def forget(self) -> None:
        """Let go of all: it is read again from where steps have taken records up to."""
        self._records.clear()
        self._reading = None
        self._ready = []

    def close(self) -> None:
        """End the thread, after the read under way."""
        self._pool.shutdown(cancel_futures=True)


def _import(modules: Iterable[str]) -> None:
    for module in modules:
        with suppress(Exception):  # the step tries again, and says what is wrong
            importlib.import_module(module)


def _slices(records: Iterable[Record]) -> list[Slice]:
    """Runs of one partition's records."""
    runs = [list(run) for _, run in groupby(records, key=lambda r: (r.topic, r.partition))]
    return [Slice(range_of(run), run) for run in runs]

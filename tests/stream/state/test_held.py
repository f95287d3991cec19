"""Commands that wait for their models: in their order, ready when they are taken, gone for good."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from models.base import Learner, State
from models.members import catalogue
from stream.contract.records import Record, Slice, range_of
from stream.run.assemble import build_engine
from stream.state.artefacts import Artefacts
from stream.state.held import Held
from stream.step.engine import Engine
from tests.support.factory import Feed, config, event, label
from tests.support.waiting import DEADLINE_S, wait_until

MEMBERS = [
    {"name": "linear", "type": "logistic"},
    {"name": "bayes", "type": "river", "model": "river.naive_bayes.GaussianNB"},
]


class Gated(Artefacts):
    """Reads of files wait for the gate; who read is told."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.gate = threading.Event()
        self.readers: list[str] = []

    def model(self, digest: str, fresh: Callable[[], Learner]) -> Learner:
        self.readers.append(threading.current_thread().name)
        assert self.gate.wait(DEADLINE_S)
        return super().model(digest, fresh)


class Case:
    """An engine that has learned, older versions of its members on disk, and what holds commands.

    ``older``: digests of the versions by member.
    """

    def __init__(self, directory: Path) -> None:
        self.engine, feed = build_engine(config(directory, members=MEMBERS), None), Feed()
        self.artefacts = Gated(directory / "artefacts")
        self.older = {}
        for first in (0, 100):
            rows = range(first, first + 100)
            events, labels = [event(i) for i in rows], [label(i) for i in rows]
            self.engine.step(feed.batch(("events", events), ("labels", labels)))
            for name, member in self.engine.ensemble.members.items():
                if first == 0:
                    self.older[name] = member.digest()
                    self.artefacts.put(self.older[name], member.state)
        self.unsaved: dict[str, Callable[[], State]] = {}
        self.held = Held(self.artefacts, lambda engine, digest: self.unsaved.get(digest))
        self._offset = 0

    def control(self, *commands: dict[str, Any]) -> Slice:
        records = []
        for command in commands:
            raw = json.dumps(command).encode()
            records.append(Record("control", 0, self._offset, None, raw))
            self._offset += 1
        return Slice(range_of(records), records)

    def install(self, name: str) -> dict[str, Any]:
        return {"command": "install", "member": name, "artefact": self.older[name]}

    def read(self) -> None:
        """Let the thread read what it is asked for."""
        self.artefacts.gate.set()
        wait_until(lambda: self.held.ready, "the model to be read")


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    """See :class:`Case`."""
    made = Case(tmp_path)
    yield made
    made.artefacts.gate.set()
    made.held.close()
    made.engine.close()


def named(engine: Engine, slices: list[Slice]) -> list[str]:
    """The commands among records, in their order; ``-`` for an event."""
    return [
        json.loads(r.value or b"").get("command", "-") for piece in slices for r in piece.records
    ]


def test_what_comes_after_a_command_that_waits_is_held_in_its_order(case: Case) -> None:
    """Commands before it and events go on; it is released with what came after it."""
    freeze, pin = {"command": "freeze", "member": "bayes"}, {"command": "checkpoint"}
    events = Feed().batch(("events", [event(200)])).slices[0]
    first = [case.control(pin, case.install("linear"), freeze), events]
    assert named(case.engine, case.held.sift(case.engine, first)) == ["checkpoint", "-"]
    assert case.held
    later = [case.control(pin)]
    assert case.held.sift(case.engine, later) == []
    assert case.held.sift(case.engine, [events]) == [events]
    case.read()
    taken = case.held.sift(case.engine, [events])
    assert named(case.engine, taken) == ["install", "freeze", "checkpoint", "-"]
    assert not case.held
    plain = [case.control(freeze), events]
    assert case.held.sift(case.engine, plain) is plain


@pytest.mark.parametrize("broken", [False, True])
def test_the_library_of_a_member_is_imported_by_the_thread(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    """Once; what cannot be imported is the step's to tell, and keeps nobody waiting."""
    module = f"some_library_{broken}"
    lines = ["import threading", "from models.members.constant import ConstantModel as Model"]
    lines.append("THREAD = threading.current_thread().name")
    lines += ["raise ModuleNotFoundError('', name='torch')"] * broken
    (tmp_path / f"{module}.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(catalogue.MEMBERS, "slow", {"binary": f"{module}:Model"})
    challenge = {"command": "challenge", "member": "linear", "spec": '{"type": "slow"}'}
    events = Feed().batch(("events", [event(200)])).slices[0]
    first = [case.control(challenge, {"command": "checkpoint"}), events]
    assert case.held.sift(case.engine, first) == [events]
    wait_until(lambda: case.held.ready, "the library")
    taken = case.held.sift(case.engine, [])
    assert named(case.engine, taken) == ["challenge", "checkpoint"]
    assert (module in sys.modules) != broken
    if not broken:
        assert sys.modules[module].THREAD.startswith("artefacts")
    again = [case.control(challenge)]
    assert case.held.sift(case.engine, again) is again


def test_the_model_is_made_by_the_thread_alone(case: Case) -> None:
    """The step is given what was read beside it; nothing is read twice."""
    case.held.sift(case.engine, [case.control(case.install("linear"))])
    case.read()
    taken = case.held.sift(case.engine, [])
    models = case.held.models(case.engine, taken)
    (model,) = models.values()
    assert model.digest() == case.older["linear"]
    assert [name.startswith("artefacts") for name in case.artefacts.readers] == [True]


def test_two_that_need_models_wait_one_after_the_other(case: Case) -> None:
    """The second is looked at when the first is released: it may mean something else by then."""
    install = case.install("linear")
    case.held.sift(case.engine, [case.control(install, install)])
    case.read()
    assert len(case.held.sift(case.engine, [])) == 1
    case.read()
    assert len(case.held.sift(case.engine, [])) == 1
    assert not case.held


def test_a_version_in_memory_needs_no_file(case: Case) -> None:
    """What was kept and is not written yet is taken as it is."""
    state, digest = (m := case.engine.ensemble.members["linear"]).state(), m.digest()
    case.unsaved[digest] = lambda: state
    command = {"command": "install", "member": "linear", "artefact": digest}
    case.held.sift(case.engine, [case.control(command)])
    case.read()
    models = case.held.models(case.engine, case.held.sift(case.engine, []))
    assert models["linear", digest].digest() == digest
    assert case.artefacts.readers == []


def test_another_version_than_meant_at_first_is_read_in_the_step(case: Case) -> None:
    """What was read meanwhile for nothing is let go."""
    case.held.sift(case.engine, [case.control(case.install("linear"))])
    case.read()
    case.held.sift(case.engine, [])
    digest = case.engine.ensemble.members["linear"].digest()
    case.artefacts.put(digest, case.engine.ensemble.members["linear"].state)
    other = case.control({"command": "install", "member": "linear", "artefact": digest})
    models = case.held.models(case.engine, [other])
    assert models["linear", digest].digest() == digest
    assert case.artefacts.readers[-1] == threading.current_thread().name
    assert case.held.models(case.engine, [case.control(case.install("linear"))])
    assert len(case.artefacts.readers) == 3


def test_a_library_s_member_is_made_in_the_engine_s_thread(case: Case) -> None:
    """Nobody knows what it touches: the command is not held."""
    asked = [case.control(case.install("bayes"))]
    assert named(case.engine, case.held.sift(case.engine, asked)) == ["install"]
    assert not case.held
    case.artefacts.gate.set()
    models = case.held.models(case.engine, asked)
    assert models["bayes", case.older["bayes"]].digest() == case.older["bayes"]
    assert case.artefacts.readers == [threading.current_thread().name]


def test_one_that_is_not_there_is_an_error_in_its_place(case: Case) -> None:
    """It is told when the command is taken, as if it were read then."""
    command = {"command": "install", "member": "linear", "artefact": "0" * 64}
    case.held.sift(case.engine, [case.control(command)])
    case.read()
    models = case.held.models(case.engine, case.held.sift(case.engine, []))
    assert "No such file" in str(models["linear", "0" * 64])


def test_forgotten_commands_come_again_from_the_log(case: Case) -> None:
    """Nothing of a read under way is taken for what comes again."""
    asked = case.control(case.install("linear"))
    case.held.sift(case.engine, [asked])
    case.held.forget()
    assert not case.held
    assert case.held.sift(case.engine, []) == []
    case.held.sift(case.engine, [asked])
    case.read()
    assert case.held.sift(case.engine, []) == [asked]

"""A member is trained by a process beside the service, which sends the answer as a command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from stream.contract.log import LogRefused
from stream.run import service as module
from stream.run.refit import trainer
from stream.run.refit.answer import Answer
from stream.run.refit.train import make_way, train
from stream.run.refit.trainer import Trainer
from stream.run.service import Service
from stream.settings.schema import Config
from stream.state.generations import list_generations
from stream.step.scoring import ScoringEngine
from stream.tools.replay import replay_to
from tests.stream.step.lifecycle.test_rebuilds import learned_right
from tests.stream.step.lifecycle.test_refits import LINEAR, SMALL
from tests.support.factory import config, event, label, truth
from tests.support.runner import append, caught_up, contents, running
from tests.support.waiting import wait_until

N = 400
"""Events a minute apart: the member falls due once."""


def shard(directory: Path, **changes: Any) -> Config:
    """A shard with events and labels that make its member fall due."""
    made = config(directory, members=[LINEAR, SMALL | changes], limits={"batch": 50})
    rows = range(N)
    append(made, ("events", [event(i) for i in rows]), ("labels", [label(i) for i in rows]))
    return made


def installed(service: Service) -> bool:
    """Whether the member has trees."""
    engine = service.engine
    return engine is not None and engine.auditor.written["installed"] > 0


def test_a_member_is_trained_and_installed_beside_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it came to stands in the control topic; a replay takes the artefact, and trains not.

    A folder ``models`` where the service was started is nobody's business.
    """
    made = shard(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("raise ImportError")
    monkeypatch.chdir(tmp_path)
    with running(made) as service:
        Trainer(service).start()
        wait_until(lambda: installed(service), "a model to be installed")
        engine = service.engine
        assert engine is not None
        digest = engine.ensemble.members["trees"].digest()
    [record] = contents(made, "control")
    command = msgspec.json.decode(record or b"")
    assert command["artefact"] == digest
    assert (command["actor"], command["due"] > 0) == ("refit", True)
    assert "loss" in command["reason"]
    log = module.open_log(made, module.wall_clock_ms)
    tail = log.journal_tail()
    log.close()
    assert tail is not None
    replayed = replay_to(made, tail.seq, None, from_start=True)
    assert replayed["digest"] == replayed["journal_digest"]


def test_what_trains_takes_what_others_leave() -> None:
    """Idle where Linux says so, in the service's session, where that holds, yet in no terminal's
    foreground."""
    told = (
        "import os, stream.run.refit.train as train\n"
        "session = os.getsid(0)\n"
        "train.step_back(os.getppid())\n"
        "print(os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0) == os.SCHED_IDLE)\n"
        "print(os.getsid(0) == session, os.getpgrp() == os.getpid())"
    )
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["15", "True", "True", "True"]


def test_it_makes_way_from_its_first_moment_on() -> None:
    """Before it has imported anything: whoever began it says so."""
    process = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    with process:
        make_way(process.pid)
        assert os.sched_getscheduler(process.pid) == os.SCHED_IDLE
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == 15
        process.kill()
    make_way(process.pid)  # which is no more: nothing is raised


def test_a_training_that_dies_is_begun_again_and_one_that_is_refused_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is asked for; the service does not notice, the member stays."""
    answers: list[Answer | None] = [Answer(refused="no"), None]
    monkeypatch.setattr(Trainer, "_answer", lambda *_: answers.pop())
    monkeypatch.setattr(trainer, "AGAIN_S", 0.01)
    made = shard(tmp_path)
    with running(made) as service:
        refits = Trainer(service)
        refits.start()
        wait_until(lambda: refits._done, "an answer")
        caught_up(service, 2 * N)
    assert answers == []
    assert contents(made, "control") == []


def test_who_finds_it_answered_by_a_life_before_does_not_answer_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service was killed after it had sent the answer, and before a step took it."""
    made = shard(tmp_path)
    with running(made) as service:
        caught_up(service, 2 * N)
    digest = train(made.state_dir, list_generations(made.state_dir)[0], "trees").digest

    def answer(trainer: Trainer, *_: Any) -> Answer:
        append(made, ("control", [{"command": "install", "member": "trees", "artefact": digest}]))
        wait_until(lambda: not trainer._wanted, "the step that takes it")
        return Answer(digest)

    monkeypatch.setattr(Trainer, "_answer", answer)
    with running(made) as service:
        refits = Trainer(service)
        refits.start()
        wait_until(lambda: refits._done, "an answer")
        caught_up(service, 2 * N + 1)
    assert len(contents(made, "control")) == 1


def test_a_training_that_nobody_asks_for_any_more_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process with it."""
    processes: list[Any] = []
    popen = subprocess.Popen

    def kept(_: Any, **options: Any) -> Any:
        processes.append(popen([sys.executable, "-c", "import time; time.sleep(600)"], **options))
        return processes[-1]

    made = shard(tmp_path)
    monkeypatch.setattr(trainer.subprocess, "Popen", kept)
    with running(made) as service:
        Trainer(service).start()
        wait_until(lambda: processes, "a training")
        generation = list_generations(made.state_dir)[0]
        digest = train(made.state_dir, generation, "trees").digest
        append(made, ("control", [{"command": "install", "member": "trees", "artefact": digest}]))
        wait_until(lambda: processes[0].poll() is not None, "its end")
    assert len(processes) == 1


def test_an_answer_that_the_log_refuses_is_sent_once_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A right that is missing does not end the service; it says what it lacks."""
    monkeypatch.setattr(trainer, "AGAIN_S", 0.01)
    made = shard(tmp_path)
    here = lambda _, generation, wanted: train(made.state_dir, generation, wanted.name)  # noqa: E731
    monkeypatch.setattr(Trainer, "_answer", here)
    refused = [LogRefused("lacks the right to write control")] * 2
    with running(made) as service, capture_logs() as said:
        append_to = service.log.append

        def append_if_let(*given: Any) -> Any:
            if refused:
                raise refused.pop()
            return append_to(*given)

        monkeypatch.setattr(service.log, "append", append_if_let)
        Trainer(service).start()
        wait_until(lambda: installed(service), "a model to be installed")
    reasons = [line["reason"] for line in said if line["event"] == "refit_unsent"]
    assert reasons == ["lacks the right to write control"] * 2


def test_a_training_says_why_there_is_no_model(tmp_path: Path) -> None:
    """On the rows of a generation; nothing is put anywhere."""
    made = shard(tmp_path, positives=10_000)
    with running(made) as service:
        caught_up(service, 2 * N)
    generation = list_generations(made.state_dir)[0]
    answer = train(made.state_dir, generation, "trees")
    assert "expected 10000 positives at least" in answer.refused


def test_it_ends_with_whoever_began_it(tmp_path: Path) -> None:
    """A process whose parent is not the one that it was begun by does nothing."""
    made = subprocess.run(
        [sys.executable, "-m", "stream.run.refit.train", str(tmp_path), str(tmp_path), "m", "1"],
        capture_output=True,
        check=False,
    )
    assert (made.returncode, made.stdout) == (1, b"")


def test_a_member_is_rebuilt_beside_the_service(tmp_path: Path) -> None:
    """As corrected, by a process, while labels come; a replay takes the artefact."""
    made = config(tmp_path, members=[LINEAR], label={"field": "fraud", "learning": "arrival"})
    rows = range(N)
    wrong = [label(i, truth(i) ^ (i % 5 == 0)) for i in rows]
    right = [label(i) | {"corrects": True} for i in rows if i % 5 == 0]
    asked = [{"command": "rebuild", "actor": "ops"}]
    append(made, ("events", [event(i) for i in rows]), ("labels", wrong))
    with running(made) as service:
        Trainer(service).start()
        caught_up(service, 2 * N)
        append(made, ("labels", right))
        caught_up(service, 2 * N + len(right))
        append(made, ("control", asked))
        wait_until(lambda: installed(service), "a rebuilt model")
        engine = service.engine
        assert isinstance(engine, ScoringEngine)
        assert engine.ensemble.members["linear"].digest() == learned_right(engine).digest()
        assert engine.rebuilds.stale == []
    command = msgspec.json.decode(contents(made, "control")[1] or b"")
    assert (command["actor"], command["reason"]) == ("rebuild", f"rows {N}")
    log = module.open_log(made, module.wall_clock_ms)
    tail = log.journal_tail()
    log.close()
    assert tail is not None
    replayed = replay_to(made, tail.seq, None, from_start=True)
    assert replayed["digest"] == replayed["journal_digest"]

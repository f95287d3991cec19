"""Trains or rebuilds members in a process beside the service, and sends the answer.

The answer is a record of the control topic like any operator's ``install``: a step takes it, and a
replay takes the model by its digest. What was killed, with the service or without it, is
begun again while the step's state says that it is asked for.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import structlog

from stream.contract.log import LogError
from stream.contract.outputs import Outputs
from stream.contract.records import NewRecord
from stream.run.checkpointer import Written
from stream.run.refit.answer import Answer
from stream.run.refit.train import make_way
from stream.run.service import Listener, Service
from stream.state.generations import list_generations
from stream.step.engine import Engine
from stream.step.scoring import ScoringEngine

logger = structlog.get_logger()

AGAIN_S = 60.0
"""After which a training that ended without an answer is begun again, or a record is sent again."""


class Wanted(NamedTuple):
    """A member that is to be made anew: by which module, and the step that asked."""

    by: Literal["train", "rebuild"]
    name: str
    seq: int

    @property
    def actor(self) -> str:
        """Who answers, for the trail and the log."""
        return "refit" if self.by == "train" else "rebuild"


class Trainer(Listener):
    """Looks after each step what is asked for; one training or rebuild runs at a time."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._wanted: list[Wanted] = []
        self._tree: dict[str, Any] = {}
        self._done: set[Wanted] = set()
        self._news = threading.Event()

    def start(self) -> None:
        """Begin to look."""
        self._service.listeners.append(self)
        self._service.threads.start("refit", self._run)

    # ------------------------------------------------------------------ the loop's thread

    def stepped(self, engine: Engine, outputs: Outputs, seconds: float) -> None:
        """See :class:`Listener`."""
        self.idle(engine)

    def idle(self, engine: Engine) -> None:
        """See :class:`Listener`."""
        if not isinstance(engine, ScoringEngine):
            return
        wanted = [Wanted("train", name, seq) for name, seq in engine.refits.asked.items()]
        wanted += [Wanted("rebuild", name, seq) for name, seq in engine.rebuilds.asked.items()]
        if wanted != self._wanted:
            self._wanted, self._tree = wanted, engine.tree
            self._news.set()

    def checkpointed(self, written: Written) -> None:
        """See :class:`Listener`: there may be a generation to train on."""
        self._news.set()

    # ------------------------------------------------------------------ its own thread

    def _run(self) -> None:
        stopping = self._service.stopping
        while not stopping.is_set():
            self._news.wait(AGAIN_S)
            self._news.clear()
            for wanted in self._wanted:
                if wanted not in self._done and not stopping.is_set():
                    self._make(wanted)

    def _make(self, wanted: Wanted) -> None:
        """Train or rebuild by the newest generation, once there is one of the step that asked."""
        newest = next(iter(list_generations(self._service.directory.path)), None)
        if newest is None or int(newest.name) < wanted.seq:
            return
        answer = self._answer(newest, wanted)
        if answer is None:
            return
        self._done.add(wanted)
        if answer.refused:
            logger.warning(f"{wanted.actor}_refused", member=wanted.name, reason=answer.refused)
        if (command := _command(wanted, answer)) is None:
            return
        record = NewRecord(None, msgspec.json.encode(command))
        while self._asked_for(wanted) and not self._service.stopping.is_set():
            try:
                self._service.log.append(self._service.config.topics.control, [record])
                break
            except LogError as error:  # away, or somebody has to give a right
                reason = str(error)
                logger.error(f"{wanted.actor}_unsent", member=wanted.name, reason=reason)
            self._service.stopping.wait(AGAIN_S)

    def _asked_for(self, wanted: Wanted) -> bool:
        """Whether it still is: the answer of a life before may have come meanwhile."""
        return any((other.by, other.name) == (wanted.by, wanted.name) for other in self._wanted)

    def _answer(self, generation: Path, wanted: Wanted) -> Answer | None:
        """What a process makes of it; ``None`` where it ended without an answer."""
        state_dir = self._service.directory.path
        given = [str(state_dir), str(generation), wanted.name, str(os.getpid())]
        with tempfile.TemporaryFile() as told:
            told.write(msgspec.json.encode(self._tree))
            told.seek(0)
            process = subprocess.Popen(
                # -P: a directory "models" or "stream" where the service was started is not ours.
                [sys.executable, "-P", "-m", f"stream.run.refit.{wanted.by}", *given],
                stdin=told,
                stdout=subprocess.PIPE,
            )
        with process:
            make_way(process.pid)  # before it has imported what it needs to do so itself
            told_of = {"member": wanted.name, "pid": process.pid, "generation": generation.name}
            logger.info(f"{wanted.actor}_began", **told_of)
            while process.poll() is None:
                if self._service.stopping.wait(0.1) or not self._asked_for(wanted):
                    process.kill()
                    return None
            out = process.stdout.read() if process.stdout is not None else b""
        try:
            return msgspec.json.decode(out, type=Answer)
        except msgspec.MsgspecError:
            logger.error(f"{wanted.actor}_failed", member=wanted.name, status=process.returncode)
            return None


def _command(wanted: Wanted, answer: Answer) -> dict[str, Any] | None:
    """The record that answers; ``None``: a training that is refused falls due again by itself."""
    figures = ", ".join(f"{key} {value:.6g}" for key, value in answer.figures.items())
    command: dict[str, Any] = {"member": wanted.name, "actor": wanted.actor}
    if answer.refused:
        command |= {"command": "withdraw", "reason": answer.refused[:500]}
        return command if wanted.by == "rebuild" else None
    command |= {"command": "install", "artefact": answer.digest, "reason": figures[:500]}
    due = {"due": wanted.seq} if wanted.by == "train" else {}
    return command | due | ({"upto": answer.upto} if answer.upto else {})

"""Trains members that have fallen due in a process beside the service, and sends the answer.

The answer is a record of the control topic like any operator's ``install``: a step takes it, and a
replay takes the model by its digest. A training that was killed, with the service or without it, is
begun again while the step's state says that it is asked for.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec
import structlog

from stream.contract.log import LogUnavailable
from stream.contract.outputs import Outputs
from stream.contract.records import NewRecord
from stream.run.checkpointer import Written
from stream.run.refit.answer import Answer
from stream.run.service import Listener, Service
from stream.state.generations import list_generations
from stream.step.engine import Engine
from stream.step.scoring import ScoringEngine

logger = structlog.get_logger()

AGAIN_S = 60.0
"""After which a training that ended without an answer is begun again, or a record is sent again."""


class Trainer(Listener):
    """Looks after each step what is asked for; one training runs at a time."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._asked: Mapping[str, int] = {}
        self._done: set[tuple[str, int]] = set()
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
        if isinstance(engine, ScoringEngine) and engine.refits.asked != self._asked:
            self._asked = dict(engine.refits.asked)
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
            for name, seq in self._asked.items():
                if (name, seq) not in self._done and not stopping.is_set():
                    self._train(name, seq)

    def _train(self, name: str, seq: int) -> None:
        """Train on the newest generation, once there is one of the step that asked."""
        newest = next(iter(list_generations(self._service.directory.path)), None)
        if newest is None or int(newest.name) < seq:
            return
        answer = self._answer(newest, name)
        if answer is None:
            return
        self._done.add((name, seq))
        if answer.refused:
            logger.warning("refit_refused", member=name, reason=answer.refused)
            return
        figures = ", ".join(f"{key} {value:.6g}" for key, value in answer.figures.items())
        command = {
            "command": "install",
            "member": name,
            "artefact": answer.digest,
            "actor": "refit",
            "reason": figures[:500],
        }
        record = NewRecord(None, msgspec.json.encode(command))
        while not self._service.stopping.is_set():
            with suppress(LogUnavailable):
                self._service.log.append(self._service.config.topics.control, [record])
                break
            self._service.stopping.wait(AGAIN_S)

    def _answer(self, generation: Path, name: str) -> Answer | None:
        """What a process makes of it; ``None`` where it ended without an answer."""
        state_dir = self._service.directory.path
        given = [str(state_dir), str(generation), name, str(os.getpid())]
        with subprocess.Popen(
            # -P: a directory "models" or "stream" where the service was started is not ours.
            [sys.executable, "-P", "-m", "stream.run.refit.train", *given],
            stdout=subprocess.PIPE,
        ) as process:
            logger.info("refit_began", member=name, pid=process.pid, generation=generation.name)
            while process.poll() is None:
                if self._service.stopping.wait(0.1):
                    process.kill()
                    return None
            out = process.stdout.read() if process.stdout is not None else b""
        try:
            return msgspec.json.decode(out, type=Answer)
        except msgspec.MsgspecError:
            logger.error("refit_failed", member=name, status=process.returncode)
            return None

"""The service as its own process, as ``millrace run`` starts it; killed by pid, never by name."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests.support.waiting import DEADLINE_S

REPOSITORY = Path(__file__).parents[2]


class WorkerFailed(Exception):
    """The service ended by itself, or did not do in time what it should."""


class Worker:
    """One life of the service, or of what else listens.

    Parameters
    ----------
    config : Path
        The TOML file to run.
    environment
        Variables for this process, such as ``MILLRACE_FAILPOINT``.
    command : str
        What `millrace` is asked to do.

    Attributes
    ----------
    started_s : float
        Monotonic seconds at which the process was made.
    restored_s : float or None
        When it said that it had restored.
    peak_rss_bytes : int
        As of the last look, or of the end.
    """

    def __init__(
        self, config: Path, *options: str, command: str = "run", **environment: str
    ) -> None:
        self.lines: list[dict[str, Any]] = []
        self.errors: list[str] = []
        self.restored_s: float | None = None
        self.peak_rss_bytes = 0
        self._news = threading.Condition()
        self.started_s = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "stream.cli", command, str(config), *options],
            cwd=REPOSITORY,
            env=os.environ
            | {"PYTHONHASHSEED": "0", "PYTHONFAULTHANDLER": "1"}
            | {"PYTHONPATH": str(REPOSITORY)}  # these tests' own copy
            | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for raw in self.process.stderr:
            with self._news:
                try:
                    line = json.loads(raw)
                    self.lines.append(line)
                    if line.get("event") == "restored" and self.restored_s is None:
                        self.restored_s = time.monotonic()
                except ValueError:
                    self.errors.append(raw.decode(errors="replace").rstrip())
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    @property
    def running(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None

    def said(self, event: str) -> dict[str, Any] | None:
        """The first log line of this event."""
        return next((line for line in list(self.lines) if line.get("event") == event), None)

    def wait_for(self, event: str) -> dict[str, Any]:
        """The log line, once it is there; raises :class:`WorkerFailed` when it never comes."""
        deadline = time.monotonic() + DEADLINE_S
        with self._news:
            while (line := self.said(event)) is None:
                left = deadline - time.monotonic()
                if left <= 0 or not (self.running or self._reader.is_alive()):
                    break
                self._news.wait(min(left, 0.2))
        if line is None:
            raise self.stuck(f"expected the log line {event!r}")
        return line

    def look(self) -> int:
        """Note the largest memory so far; returns it in bytes."""
        with contextlib.suppress(OSError, StopIteration):
            status = Path(f"/proc/{self.process.pid}/status").read_text()
            line = next(part for part in status.splitlines() if part.startswith("VmHWM"))
            self.peak_rss_bytes = max(self.peak_rss_bytes, int(line.split()[1]) * 1024)
        return self.peak_rss_bytes

    def kill(self) -> bool:
        """SIGKILL; whether it hit a running process."""
        self.look()
        hit = self.running
        if hit:
            self.process.kill()
        self._end()
        return hit and self.process.returncode == -signal.SIGKILL

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def stop(self) -> int:
        """SIGTERM, and the exit status; raises :class:`WorkerFailed` when it does not end."""
        self.look()
        if self.running:
            self.process.terminate()
        return self.wait()

    def wait(self) -> int:
        """Its exit status, once it ended by itself."""
        try:
            self._end()
        except subprocess.TimeoutExpired as error:
            raise self.stuck(f"did not end within {DEADLINE_S:g} s") from error
        return self.process.returncode

    def _end(self) -> None:
        self.process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        if self.process.stderr is not None and not self._reader.is_alive():
            self.process.stderr.close()

    def stuck(self, message: str) -> WorkerFailed:
        """The error to raise; ends the process with the stacks of its threads in its last lines."""
        if self.running:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGABRT)
            self._end()
        return WorkerFailed(f"{message}; {self.story()}")

    def check_alive(self) -> None:
        """Raise :class:`WorkerFailed` with its last words if it ended."""
        if not self.running:
            self._end()
            raise WorkerFailed(f"the service ended by itself; {self.story()}")

    def story(self) -> str:
        """Exit status and the newest lines, for an error message."""
        last = [json.dumps(line)[:1500] for line in self.lines[-5:]]
        last += [line for line in self.errors[-120:] if not line.startswith("Extension modules")]
        return f"exit status {self.process.poll()}; its last lines:\n" + "\n".join(last)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        if self.running:
            self.kill()

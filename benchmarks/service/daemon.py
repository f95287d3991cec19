"""`millrace run` as a process of its own: started, asked whether it is ready, watched, ended.

Called by the programs of this package that measure what only a process has: its start, its memory,
its death. The configuration is an example with keys replaced through ``MILLRACE_...``.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.traffic import EXAMPLE
from models.base import MillraceError
from tests.support.broker import free_port

_DEADLINE_S = 180.0


def environment(changes: dict[str, Any]) -> dict[str, str]:
    """This environment with each key of a raw configuration as a ``MILLRACE_...`` variable."""
    found = {k: v for k, v in os.environ.items() if not k.startswith("MILLRACE_")}
    found |= {f"MILLRACE_{key.upper()}": _toml(value) for key, value in changes.items()}
    return found | {"PYTHONHASHSEED": "0", "PYTHONPATH": str(EXAMPLE.parent.parent)}


def _toml(value: Any) -> str:
    """A value as one line of TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


class Daemon:
    """One service process; ends with the ``with`` block, by SIGTERM.

    Parameters
    ----------
    changes : dict
        Raw keys that replace the example's; HTTP listens on a free port in any case.
    directory : Path
        Where its output goes.
    port : int
        Of HTTP; 0: a free one. A restart needs the same, or its configuration has changed.
    example : Path
        The configuration.

    Attributes
    ----------
    started_s : float
        ``time.perf_counter()`` just before the process was made.
    """

    def __init__(
        self, changes: dict[str, Any], directory: Path, port: int = 0, example: Path = EXAMPLE
    ) -> None:
        self.port = port or free_port()
        http_settings = {"http": {"enabled": True, "port": self.port}}
        self._output = directory / "daemon.log"
        with self._output.open("ab") as output:
            self.started_s = time.perf_counter()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "stream.cli", "run", str(example)],
                env=environment(changes | http_settings),
                stdout=output,
                stderr=output,
            )

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.stop()

    def stop(self) -> None:
        """SIGTERM, and wait for the end: the state is saved."""
        self._process.terminate()
        self._process.wait()

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        self._process.kill()
        self._process.wait()

    def wait_for(self, condition: Callable[[], object], deadline_s: float = _DEADLINE_S) -> float:
        """Look every 2 ms until the condition holds; seconds since the process was made."""
        while not condition():
            if self._process.poll() is not None:
                raise MillraceError(
                    f"benchmark: the service ended with status {self._process.returncode}: "
                    + self._output.read_text()[-2000:]
                )
            if time.perf_counter() - self.started_s > deadline_s:
                raise MillraceError(f"benchmark: waited {deadline_s:g} s in vain")
            time.sleep(0.002)
        return time.perf_counter() - self.started_s

    def ready(self) -> bool:
        """Whether ``/readyz`` says so."""
        return self.get("/readyz") is not None

    def get(self, path: str) -> bytes | None:
        """The body of a 200, or ``None``."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
            return body if answer.status == 200 else None
        except OSError:
            return None
        finally:
            connection.close()

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The daemon's log lines of one event, oldest first."""
        lines = [line for line in self._output.read_text().splitlines() if line.startswith("{")]
        return [found for line in lines if (found := json.loads(line)).get("event") == event]

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def scored(self) -> int:
        """Events scored so far, by ``/metrics``."""
        for line in (self.get("/metrics") or b"").decode().splitlines():
            if line.startswith("millrace_events_scored_total"):
                return int(float(line.split()[-1]))
        return 0

    def rss_bytes(self) -> int:
        """Resident memory, from ``/proc``."""
        pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

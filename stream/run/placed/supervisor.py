"""The actor: runs one process of a service as `millrace run`, and again whenever it ends.

Ray starts the actor again where that dies; the process dies with it. Nothing here knows Ray.
"""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import HTTPSHandler, ProxyHandler, build_opener

from stream.contract import private

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
"""Between an end and the next start: twice as long each time, anew once it has been ready."""
LAST_WORDS = 2000
TIED = "stream.run.placed.tied"


class Supervisor:
    """One process of a service: kept running until it is told to stop.

    Parameters
    ----------
    path, directory : str
        The file that all processes run, and the directory that its relative paths start from.
    environment : mapping
        Which of them it is. Everything else, secrets above all, is taken from the environment of
        the actor: what is handed over through Ray can be read in its tables.
    url : str
        Of its HTTP side, as its own machine sees it; empty: it has none.
    said : str
        The file for what it writes to standard error; that of the start before is kept beside it.
    """

    def __init__(
        self, path: str, directory: str, environment: Mapping[str, str], url: str, said: str
    ) -> None:
        self._path, self._directory, self._environment = path, directory, dict(environment)
        self._url, self._said = url, Path(said)
        self._stopping, self._starting = threading.Event(), threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._starts, self._status, self._was_ready = 0, 0, False
        self._failure = ""
        # A process is tied to the thread that began it: this one lives as long as the actor.
        self._thread = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self._thread.start()

    def found(self) -> dict[str, Any]:
        """What has become of it.

        Returns
        -------
        dict
            ``state``: ``ready``, ``starting`` (runs, and is not ready), ``waiting`` (has ended and
            will be started again), ``stopped``; ``pid`` of the process and of its ``actor``;
            ``node``; ``url``; ``starts`` under this actor; ``status`` of its last end, with its
            last words in ``said`` where that was none in order.
        """
        process, stopped = self._process, not self._thread.is_alive()
        runs = process is not None and process.poll() is None and not stopped
        return {
            "state": self._state(runs, stopped),
            "pid": process.pid if process is not None and runs else None,
            "actor": os.getpid(),
            "node": socket.gethostname(),
            "url": self._url,
            "starts": self._starts,
            "status": self._status,
            "said": self._failure,
        }

    def stop(self) -> None:
        """Ask it to end in order, and start it no more; :meth:`found` tells when it has.

        Only the first time: a second signal would end it at once.
        """
        if self._stopping.is_set():
            return
        self._stopping.set()
        with self._starting:
            if self._process is not None:
                self._process.terminate()

    def _state(self, runs: bool, stopped: bool) -> str:
        if not runs:
            return "stopped" if stopped else "waiting"
        ready = not self._url or _answers(f"{self._url}readyz")
        self._was_ready |= ready
        return "ready" if ready else "starting"

    def _keep(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._stopping.is_set():
            self._was_ready = False
            try:
                with self._starting:
                    if self._stopping.is_set():
                        return
                    self._process = self._started()
            except (private.NotPrivate, OSError) as error:
                self._status, self._failure = 2, str(error)
            else:
                self._status = self._process.wait()
                self._failure = self._last_words() if self._status else ""
            if self._was_ready:
                pause_s = FIRST_PAUSE_S
            self._stopping.wait(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _started(self) -> subprocess.Popen[bytes]:
        self._starts += 1
        private.folder(self._said.parent)
        if self._said.exists():
            self._said.replace(self._said.with_suffix(".before.log"))
        with private.opened(self._said) as said:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", TIED, str(os.getpid()), "run", self._path],
                cwd=self._directory,
                env=os.environ | self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
            )

    def _last_words(self) -> str:
        with suppress(OSError):
            text = self._said.read_text(encoding="utf-8", errors="replace")
            return text[-LAST_WORDS:].strip()
        return ""


def _answers(url: str) -> bool:
    """Whether the process says that it is ready, asked past any proxy.

    Its own certificate need not name the address by which its own machine asks.
    """
    trusted = ssl.create_default_context()
    trusted.check_hostname, trusted.verify_mode = False, ssl.CERT_NONE
    asking = build_opener(ProxyHandler({}), HTTPSHandler(context=trusted))
    with suppress(OSError), asking.open(url, timeout=5) as answer:
        return bool(answer.status == 200)
    return False

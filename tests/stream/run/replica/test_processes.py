"""Service and replica as processes of their own: by their command lines, over HTTP, with kills."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx

from stream.settings.load import load
from tests.stream.cli.test_cli import COMMAND, toml
from tests.stream.run.test_service import feed
from tests.support.factory import event, raw_config
from tests.support.runner import append
from tests.support.waiting import DEADLINE_S, PATIENT, wait_until


class Process:
    """A `millrace` process that listens, and what it logs."""

    def __init__(self, *arguments: object) -> None:
        self.lines: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=os.environ | {"TERM": "dumb"},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stderr or ():
            if line.startswith(b"{"):
                self.lines.append(json.loads(line))

    def said(self, event: str) -> dict[str, Any] | None:
        """The first line of an event."""
        return next((line for line in list(self.lines) if line["event"] == event), None)

    def http(self) -> httpx.Client:
        """A client of it, once it is ready."""
        wait_until(lambda: self.said("http listening") or self.process.poll(), "a port")
        line = self.said("http listening")
        assert line is not None, self.lines
        client = httpx.Client(base_url=f"http://127.0.0.1:{line['port']}", timeout=DEADLINE_S)
        wait_until(lambda: client.get("/readyz").status_code == 200, f"readiness: {self.lines}")
        return client

    def ended(self) -> int:
        """Its status; the pipe is read to its end."""
        status = self.process.wait()
        self._reader.join()
        if self.process.stderr is not None:
            self.process.stderr.close()
        return status


@contextmanager
def process(*arguments: object) -> Iterator[Process]:
    """Killed at the end, if it runs still."""
    made = Process(*arguments)
    try:
        yield made
    finally:
        made.process.kill()
        made.ended()


def foretold(http: httpx.Client) -> dict[str, Any]:
    """A what-if but for when it was asked, once it is answered."""
    answers: list[httpx.Response] = []

    def answered() -> bool:
        answers.append(http.post("/v1/what-if", json=event(5_000)))
        return answers[-1].status_code == 200

    wait_until(answered, "a what-if")
    return {k: v for k, v in answers[-1].json().items() if k != "scored_at"}


def agreed(service: httpx.Client, replica: httpx.Client, seq: int) -> int:
    """Wait until both answer as of one step from ``seq`` on, to the same bits; gives that."""
    found: list[dict[str, Any]] = []

    def at_one_step() -> bool:
        found[:] = foretold(service), foretold(replica)
        return found[0]["seq"] == found[1]["seq"] >= seq

    wait_until(at_one_step, "service and replica at one step")
    assert found[0] == found[1]
    return int(found[0]["seq"])


def test_a_replica_outlives_its_service(tmp_path: Path) -> None:
    """The service is killed -9 among its steps and started again: what it says is the same bits.

    Between the two the replica goes on answering; asked to stop, it ends with 0.
    """
    http = {"enabled": True, "port": 0, "score_timeout": PATIENT}
    file = tmp_path / "c.toml"
    file.write_text(toml(raw_config(tmp_path, http=http)))
    config = load(file, {})
    append(config, *feed(200))
    with process("replica", file, "--port", "0", "--directory", tmp_path / "own") as replica:
        with (
            process("run", file) as service,
            closing(service.http()) as told,
            closing(replica.http()) as asked,
        ):
            seq = agreed(told, asked, 1)
            append(config, *feed(400, 200))
            service.process.kill()
            assert service.ended() == -9
            assert foretold(asked)["seq"] >= seq
            with process("run", file) as again, closing(again.http()) as told_again:
                append(config, *feed(10, 600))
                agreed(told_again, asked, seq + 1)
            assert asked.get("/metrics").text.count("millrace_replica_starts_total{") == 1
        replica.process.terminate()
        assert replica.ended() == 0, replica.lines
    assert replica.said("replica_diverged") is None

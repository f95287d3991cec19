"""Walks: the commands of README, the quickstart and the backup recipe, typed in as they stand.

Each page is one shell script in an empty directory: its ``sh`` blocks in order, and its files
(``toml`` blocks that are no fragment, and the row of a data file) saved where they come. What needs
a clone's tools or a broker is left out; ``millrace run`` goes on in the background.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.project.test_docs import FENCE, ROOT
from tests.support.broker import free_port
from tests.support.tools import program
from tests.support.waiting import PATIENT, wait_until

PRELUDE = """
set -euo pipefail
make() { :; }
source() { :; }
curl() { command curl --fail-with-body --silent --show-error "$@"; }
millrace() {
  case $1 in
    demo) ;;
    run)
      command millrace "$@" > "$WALK/log" 2>&1 &
      echo $! > "$WALK/pid"
      until curl -o /dev/null 2> /dev/null "http://127.0.0.1:$MILLRACE_HTTP__PORT/readyz"; do
        kill -0 $!
        sleep 0.1
      done ;;
    *) command millrace "$@" ;;
  esac
}
"""
SAVED = "cat > {} <<'END_OF_FILE'\n{}END_OF_FILE\n"
ROW = {"id": "p-1", "time": "2026-01-05T09:30:00Z", "amount": 12.5, "card": "c-17", "label": False}


def script(page: str, until: str | None = None) -> str:
    """A page's commands and files up to a heading, as one script."""
    text = (ROOT / page).read_text(encoding="utf-8")
    parts = [PRELUDE]
    for language, block in FENCE.findall(text.partition(until)[0] if until else text):
        if language == "toml" and not block.startswith("# fragment"):
            parts.append(SAVED.format("payments.toml", block))
        elif language == "json":
            parts.append(SAVED.format("past.jsonl", block))
        elif language == "sh":
            parts.append(block)
    return "\n".join(parts)


class Walk:
    """A shell in a directory of its own, with a free port in the place of the pages' 8080."""

    def __init__(self, directory: Path) -> None:
        program("curl", "curl")
        self.directory = directory
        self._notes = directory.parent / "notes"
        self._notes.mkdir()
        self._port = str(free_port())
        self._env = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "WALK": str(self._notes),
            "MILLRACE_HTTP__PORT": self._port,
            # How long a score is waited for must not depend on the machine.
            "MILLRACE_HTTP__SCORE_TIMEOUT": PATIENT,
        }

    def __call__(self, commands: str, cwd: str = ".") -> str:
        """Run them; what they print. Fails with all of it, and the service's log."""
        done = subprocess.run(
            ["bash", "-c", commands.replace("8080", self._port)],
            capture_output=True,
            text=True,
            cwd=self.directory / cwd,
            env=self._env,
            check=False,
        )
        log = self._notes / "log"
        told = log.read_text() if log.exists() else ""
        assert done.returncode == 0, done.stdout + done.stderr + told
        return done.stdout

    def stop(self) -> None:
        """End the service that a page started; the directory's lock tells when it has."""
        pid = self._notes / "pid"
        if pid.exists():
            number = int(pid.read_text())
            os.kill(number, signal.SIGTERM)
            wait_until(lambda: not _runs(number), "the service's end")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextmanager
def walking(directory: Path) -> Iterator[Walk]:
    """A walk whose service ends with it."""
    directory.mkdir()
    walk = Walk(directory)
    try:
        yield walk
    finally:
        walk.stop()


def test_the_quickstart_can_be_typed_in(tmp_path: Path) -> None:
    """Every command up to Kafka works from where the page says one is."""
    with walking(tmp_path / "clone") as walk:
        (walk.directory / "examples").symlink_to(ROOT / "examples")
        commands = script("docs/quickstart.md", "## 5. Kafka")
        printed = walk(commands.replace("--events 50000", "--events 500"))
        assert '"score"' in printed
        assert (walk.directory / "mine" / "scores.parquet").stat().st_size > 0


def test_the_readme_can_be_typed_in_and_its_data_saved(tmp_path: Path) -> None:
    """README's commands work, and so does the backup of operations.md, beside the service."""
    with walking(tmp_path / "empty") as walk:
        (walk.directory / "past.jsonl").write_text(json.dumps(ROW) + "\n")
        assert '"score"' in walk(script("README.md"))
        walk("millrace control checkpoint payments.toml")
        wait_until(lambda: saved(walk, "."), "a checkpoint")
        [recipe] = [b for b in blocks_of("docs/operations.md") if "backup/" in b]
        walk(PRELUDE + recipe)
        walk("mkdir -p back/state && cp payments.toml back && mv backup/* back/state")
        [*restored] = saved(walk, "back")
        assert restored[0]["verdict"] == "good"
        topics = json.loads(walk("millrace topics list payments.toml --json", "back"))
        assert {t["topic"]: t["records"] for t in topics} == {
            "control": 1,
            "events": 1,
            "labels": 1,
        }


def blocks_of(page: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [block for language, block in FENCE.findall(text) if language == "sh"]


def saved(walk: Walk, cwd: str) -> list[dict[str, Any]]:
    """The generations of payments.toml."""
    found: list[dict[str, Any]] = json.loads(walk("millrace state payments.toml --json", cwd))
    return found

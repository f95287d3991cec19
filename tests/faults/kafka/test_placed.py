"""`millrace ray`: a service whose processes Ray starts again, on a real Ray and a real broker."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.base import MillraceError
from stream.run.placed import cluster
from stream.run.placed.cluster import Placement
from stream.state.generations import Locked, StateDirectory
from tests.faults.crash import Feeder
from tests.faults.kafka.scaled import Found, Service, check, drain
from tests.support.log_harness import kafka_table
from tests.support.waiting import PATIENT, wait_until


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the commands tell Ray by the environment is gone after a test."""
    names = ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")
    for name in (*names, "RAY_AUTH_TOKEN", "RAY_USAGE_STATS_ENABLED"):
        monkeypatch.setenv(name, "")


def ray(what: str, config: Path, *options: str) -> tuple[int, Any]:
    """Exit status and answer of a command; of one that failed what it said."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "stream.cli", "ray", what, str(config), "--json", *options],
        env=os.environ | {"MILLRACE_HTTP__ENABLED": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, json.loads(done.stdout) if done.returncode == 0 else done.stderr


@pytest.mark.kafka
def test_killed_processes_and_actors_are_started_again_and_exact(
    tmp_path: Path, kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After kill -9 of a process and of another's actor, with which its process ends: each event
    has one score, each label is learned once, every state is that of a run never killed. What is up
    cannot be started again, and what has ended leaves no process."""
    service = Service(tmp_path, kafka_table(kafka_bootstrap))
    path, traffic = service.shard.path, service.shard.traffic(5)
    feeder = Feeder(service.shard, traffic, 1_000_000)

    def feed() -> None:
        for _ in range(30):
            feeder.append()

    wait = ("--wait", PATIENT.removesuffix("s"))
    service.shard.log.create_topics()
    status, rows = ray("up", path, *wait)
    assert status == 0, rows
    try:
        before = {row["name"]: row for row in rows}
        assert set(before) == set(service.configs)
        assert {row["state"] for row in rows} == {"ready"}
        feed()
        status, said = ray("up", path)
        assert (status, "is up" in said) == (3, True)
        os.kill(before["learner"]["pid"], signal.SIGKILL)
        os.kill(before["scorer-0"]["actor"], signal.SIGKILL)
        feed()
        wait_until(_all_ready(path, killed=("learner", "scorer-0"), before=before), "all ready")
        drain(service)
    finally:
        status, said = ray("down", path, *wait)
    assert status == 0, said
    assert [row["status"] for row in said] == [0, 0, 0]
    check(service, traffic, found := Found())
    service.close()
    assert found.problems == []
    assert found.scored > 0
    assert found.learned > 0
    assert not any(Path(f"/proc/{row['pid']}").exists() for row in before.values())
    assert ray("status", path)[0] == 3

    full = namedtuple("full", "free")(0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(MillraceError, match="expected room for a checkpoint"):
        Placement(path, {}, None).up(1.0)


def _all_ready(path: Path, killed: tuple[str, ...], before: Any) -> Callable[[], bool]:
    """Whether all are ready, those that were killed as other processes than before."""

    def ready() -> bool:
        rows = {row["name"]: row for row in ray("status", path)[1]}
        others = all(rows[name].get("pid") != before[name]["pid"] for name in killed)
        return others and {row["state"] for row in rows.values()} == {"ready"}

    return ready


def test_what_keeps_it_from_starting_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No Ray installed, none at an address, another process in a state directory, nothing up, one
    process where several are expected."""
    service = Service(tmp_path, kafka_table("127.0.0.1:9"))
    path = service.shard.path
    placement = Placement(path, {}, None)
    with pytest.raises(MillraceError, match="is not up"):
        placement.status()
    directory = StateDirectory(service.configs["scorer-1"].state_dir).open()
    try:
        with pytest.raises(Locked, match="another process"):
            placement.up(1.0)
    finally:
        directory.close()
    with pytest.raises(MillraceError, match=r"no Ray at 127\.0\.0\.1:9: expected HOST:PORT"):
        Placement(path, {}, "127.0.0.1:9").up(1.0)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MillraceError, match=r"pip install 'millrace\[ray\]'"):
        cluster._ray()
    alone = {k: v for k, v in service.shard.raw.items() if k != "shard"}
    service.shard.change(alone)
    with pytest.raises(MillraceError, match="expected 'scorer'"):
        Placement(path, {}, None)

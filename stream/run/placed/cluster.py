"""`millrace ray up`, `status`, `down`: a service's processes as detached actors of Ray.

Ray places and restarts; what is true stands in Kafka and the journals. Without an address of a Ray
that is there, one is started for this service alone: on the loopback interface, behind a token, and
ended by `down`.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from models.base import MillraceError
from stream.contract import private
from stream.run.placed.supervisor import Supervisor
from stream.settings.load import environments, load
from stream.settings.schema import Config, process
from stream.state.generations import StateDirectory, list_generations, read_manifest

HEAD_S = 60.0
"""A Ray of our own that is not there by then has failed."""
ANSWER_S = 20.0
"""For an actor's answer; Ray needs about 2 s to start one again."""
OBJECTS_BYTES = 80 << 20
"""Of Ray's store, the least that it takes: nothing is put there."""


class Head(msgspec.Struct):
    """A Ray of this service's own: where it is, and where its files are."""

    address: str
    pid: int
    directory: str


class Placement:
    """The processes of one service on one Ray.

    Parameters
    ----------
    path : Path
        The file that all of them run.
    environ : mapping
        What is laid over it.
    address : str, optional
        ``HOST:PORT`` of a Ray that is there; ``None``: one of the service's own.
    """

    def __init__(self, path: Path, environ: Mapping[str, str], address: str | None) -> None:
        self._path, self._given = path.absolute(), address
        roles = environments(path, environ)
        one = load(path, environ)
        self.service = one.service
        port = one.http.port
        self.environments = {
            name: role | {"MILLRACE_HTTP__PORT": str(port + i if port else free_port())}
            for i, (name, role) in enumerate(roles.items())
        }
        self.configs: dict[str, Config] = {
            name: load(path, {**environ, **own}) for name, own in self.environments.items()
        }
        self._place = one.state_dir.parent.absolute() / "ray"
        if address is None:
            _tell_ray(self._place)

    def up(self, wait_s: float) -> list[dict[str, Any]]:
        """Start all and wait until they are ready; returns rows as :meth:`status`.

        1. Find out what would keep them from running: state directories in use, a full disk.
        2. Start a Ray, or connect to the one that is there.
        3. One detached actor each, under the process's name in the service's namespace.
        4. Wait. Where one ends before it was ready none is left.

        Raises
        ------
        MillraceError
            Ray is not installed, or is not there; the service is up; what step 1 finds; a process
            ended (with its last words) or was not ready in time.
        """
        ray = _ray()
        if self._given is None and self._held():
            raise MillraceError(f"{self.service}: is up; see `ray status`, end it by `ray down`")
        for config in self.configs.values():
            _check_directory(config)
        head = None if self._given else self._start_head()
        try:
            with self._connected(ray, head):
                if there := self._actors(ray):
                    raise MillraceError(
                        f"{self.service}: {', '.join(there)}: is up; see `ray status`, end it by "
                        "`ray down`"
                    )
                try:
                    actors = {name: self._begin(ray, name) for name in self.configs}
                    return self._wait(ray, actors, wait_s)
                except BaseException:
                    self._end_actors(ray)
                    raise
        except BaseException:
            if head is not None:
                self._end_head(head)
            raise

    def status(self) -> list[dict[str, Any]]:
        """A row for each process that was placed: its ``name``, and what its actor found.

        ``state`` beside those of :meth:`Supervisor.found`: ``restarting``, where its actor is just
        started again, and ``missing``, where there is none. Raises :class:`MillraceError` where
        the service is not up.
        """
        ray = _ray()
        with self._connected(ray, self._head()):
            return self._rows(ray, self._known(ray))

    def down(self, wait_s: float) -> list[dict[str, Any]]:
        """End all in order, scorers first; returns their last rows.

        Raises :class:`MillraceError` where one had to be killed: after ``wait_s``, or when its
        actor did not answer. Its next start replays what its checkpoint lacks.
        """
        ray, head = _ray(), self._head()
        with self._connected(ray, head):
            actors, found = self._known(ray), dict[str, dict[str, Any]]()
            scorers = [name for name in actors if name != process("learner", 0)]
            for part in (scorers, [name for name in actors if name not in scorers]):
                found |= self._stop(ray, {name: actors[name] for name in part}, wait_s)
            self._end_actors(ray)
        if head is not None:
            self._end_head(head)
        if left := [
            f"{n}: {row['state']}" for n, row in found.items() if row["state"] != "stopped"
        ]:
            raise MillraceError(
                f"{self.service}: killed, not ended in order: {', '.join(left)}; the next start "
                "replays what the checkpoint lacks"
            )
        return [found[name] for name in self.configs if name in found]

    # -- actors

    def _begin(self, ray: Any, name: str) -> Any:
        actor = ray.remote(Supervisor).options(
            name=name,
            lifetime="detached",
            # Detached and for ever: Ray starts it again; a call that was under way is not repeated.
            max_restarts=-1,
            max_task_retries=0,
            num_cpus=1,
            scheduling_strategy="SPREAD",
        )
        url, said = _url(self.configs[name]), str(self._place / f"{name}.log")
        return actor.remote(str(self._path), os.getcwd(), self.environments[name], url, said)

    def _actors(self, ray: Any) -> dict[str, Any]:
        """The actors of the service that there are, by name."""
        found = {}
        for name in self.configs:
            with suppress(ValueError):
                found[name] = ray.get_actor(name)
        return found

    def _known(self, ray: Any) -> dict[str, Any]:
        if actors := self._actors(ray):
            return actors
        raise MillraceError(f"{self.service}: is not up; `ray up` starts it")

    def _rows(self, ray: Any, actors: Mapping[str, Any]) -> list[dict[str, Any]]:
        asked = {name: actor.found.remote() for name, actor in actors.items()}
        rows = []
        for name in self.configs:
            row: dict[str, Any] = {"name": name, "state": "missing"}
            if name in asked:
                row["state"] = "restarting"
                with suppress(ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
                    row |= ray.get(asked[name], timeout=ANSWER_S)
            rows.append(row)
        return rows

    def _wait(self, ray: Any, actors: Mapping[str, Any], wait_s: float) -> list[dict[str, Any]]:
        until_s = time.monotonic() + wait_s
        while True:
            rows = self._rows(ray, actors)
            if all(row["state"] == "ready" for row in rows):
                return rows
            for row in rows:
                if row.get("said") or row["state"] == "stopped":
                    raise MillraceError(
                        f"{row['name']}: ended with status {row['status']}; none is left up. It "
                        f"said:\n{row['said']}"
                    )
            if time.monotonic() > until_s:
                late = [f"{row['name']}: {row['state']}" for row in rows if row["state"] != "ready"]
                raise MillraceError(
                    f"not ready within {wait_s:g} s, none is left up: {', '.join(late)}; what they "
                    f"said is in {self._place}"
                )
            time.sleep(0.2)

    def _stop(
        self, ray: Any, actors: Mapping[str, Any], wait_s: float
    ) -> dict[str, dict[str, Any]]:
        until_s = time.monotonic() + wait_s
        while True:
            for actor in actors.values():
                actor.stop.remote()  # each time: one that was just started again does not know
            rows = {row["name"]: row for row in self._rows(ray, actors) if row["name"] in actors}
            ended = all(row["state"] == "stopped" for row in rows.values())
            if ended or time.monotonic() > until_s:
                return rows
            time.sleep(0.1)

    def _end_actors(self, ray: Any) -> None:
        for actor in self._actors(ray).values():
            ray.kill(actor, no_restart=True)

    # -- Ray

    @contextmanager
    def _connected(self, ray: Any, head: Head | None) -> Iterator[None]:
        address = head.address if head else self._given or ""
        if not _answers(address):
            raise MillraceError(
                f"no Ray at {address}: expected HOST:PORT of one that runs (`ray start --head`); "
                "without an address `millrace ray up` has its own"
            )
        try:
            ray.init(
                address=address,
                namespace=f"millrace-{self.service}",
                log_to_driver=False,
                logging_level="ERROR",
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise MillraceError(
                f"Ray at {address} does not let us in: {str(error).splitlines()[0]}; its token is "
                "expected in RAY_AUTH_TOKEN"
            ) from error
        try:
            yield
        finally:
            ray.shutdown()

    def _head(self) -> Head | None:
        """The service's own Ray, which must be there; ``None`` where an address was given."""
        if self._given is not None:
            return None
        if not self._held():
            raise MillraceError(f"{self.service}: is not up; `ray up` starts it")
        return self._read_head()

    def _read_head(self) -> Head:
        return msgspec.json.decode((self._place / "head.json").read_bytes(), type=Head)

    def _held(self) -> bool:
        """Whether the service's own Ray runs: it holds a lock as long as it lives."""
        with suppress(FileNotFoundError), (self._place / "lock").open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return True
        return False

    def _start_head(self) -> Head:
        private.folder(self._place.parent)
        private.folder(self._place)
        with private.opened(self._place / "token") as token:
            token.write(secrets.token_hex(32).encode())
        with suppress(FileNotFoundError):  # of one that was killed
            shutil.rmtree(self._read_head().directory, ignore_errors=True)
        # Of its own, since Ray opens its directory to all; short, since it makes sockets there.
        directory, port = tempfile.mkdtemp(prefix="mr-"), free_port()
        with (
            private.opened(self._place / "lock") as lock,
            private.opened(self._place / "head.log") as said,
        ):
            fcntl.flock(lock, fcntl.LOCK_EX)
            started = subprocess.Popen(
                _command(directory, port, len(self.configs)),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                pass_fds=(lock.fileno(),),
                start_new_session=True,
            )
        head = Head(f"127.0.0.1:{port}", started.pid, directory)
        with private.opened(self._place / "head.json") as file:
            file.write(msgspec.json.encode(head))
        try:
            self._wait_head(started, Path(directory))
        except BaseException:
            self._end_head(head)
            raise
        return head

    def _wait_head(self, started: subprocess.Popen[bytes], directory: Path) -> None:
        until_s = time.monotonic() + HEAD_S
        while not (directory / "r" / "ray_current_cluster").exists():
            if started.poll() is not None or time.monotonic() > until_s:
                said = (self._place / "head.log").read_text(encoding="utf-8", errors="replace")
                raise MillraceError(f"Ray did not start within {HEAD_S:g} s:\n{said[-2000:]}")
            time.sleep(0.1)

    def _end_head(self, head: Head) -> None:
        """End the service's own Ray: it holds the lock, so that its pid is no other's."""
        if self._held():
            with suppress(ProcessLookupError):
                os.kill(head.pid, 15)
        _wait_for(lambda: not self._held(), HEAD_S)
        if self._held():
            os.kill(head.pid, 9)
        shutil.rmtree(head.directory, ignore_errors=True)


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise MillraceError("Ray is not installed: pip install 'millrace[ray]'") from error
    return ray


def _answers(address: str) -> bool:
    """Whether somebody listens there: Ray itself would try for ten minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return False
    with suppress(OSError), socket.create_connection((host.strip("[]"), int(port)), ANSWER_S):
        return True
    return False


def _tell_ray(place: Path) -> None:
    """What a Ray on the loopback interface alone, behind a token, is told by the environment.

    Ray reads it when it is imported. Without the first it would put the machine's outward address
    in the place of 127.0.0.1.
    """
    os.environ |= {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(place / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    os.environ.pop("RAY_AUTH_TOKEN", None)


def _command(directory: str, port: int, processes: int) -> Sequence[str]:
    return (
        *(sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--head", "--block"),
        *("--node-ip-address=127.0.0.1", f"--port={port}", f"--num-cpus={processes}"),
        *(f"--temp-dir={directory}/r", f"--object-store-memory={OBJECTS_BYTES}"),
        *("--include-dashboard=false", "--include-log-monitor=false", "--disable-usage-stats"),
    )


def _url(config: Config) -> str:
    """Of a process's HTTP side, as seen from its own machine; empty where it has none."""
    http = config.http
    if not http.enabled:
        return ""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(http.host, http.host)
    host = f"[{host}]" if ":" in host else host
    return f"{'https' if http.tls else 'http'}://{host}:{http.port}/"


def _check_directory(config: Config) -> None:
    """Raises where another process runs there, or a checkpoint like the last finds no room."""
    with closing(StateDirectory(config.state_dir)) as directory:
        directory.open()
    for newest in list_generations(config.state_dir)[:1]:
        needed, free = read_manifest(newest).total_bytes, shutil.disk_usage(newest).free
        if free < needed:
            raise MillraceError(
                f"{config.state_dir}: expected room for a checkpoint, {needed:,} bytes as the last,"
                f" got {free:,} bytes free; make room, or name another state_dir"
            )


def _wait_for(condition: Callable[[], bool], seconds: float) -> None:
    until_s = time.monotonic() + seconds
    while not condition() and time.monotonic() < until_s:
        time.sleep(0.05)


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

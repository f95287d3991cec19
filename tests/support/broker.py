"""A real Kafka broker for tests: one that is there, a container, or Apache Kafka's own jars.

``tests/conftest.py`` asks :func:`bootstrap` for one broker a session; fault tests make a
:class:`Broker` of their own, which they may kill, freeze and restart. ``python -m
tests.support.broker`` runs one in the foreground. Ends every process it started, unless it is
killed with -9 itself.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from tests.support.waiting import DEADLINE_S

KAFKA_VERSION = "4.3.0"
POM = Path(__file__).parents[2] / "deploy" / "kafka" / "pom.xml"


class BrokerUnavailable(Exception):
    """No broker can be had here; the message says what was tried."""


def jars() -> Path:
    """The directory with Apache Kafka's jars, downloaded by Maven on first use (54 MB)."""
    root = os.environ.get("MILLRACE_CACHE") or Path.home() / ".cache" / "millrace"
    target = Path(root) / f"kafka-tools-{KAFKA_VERSION}"
    if target.is_dir():
        return target
    missing = [tool for tool in ("mvn", "java") if shutil.which(tool) is None]
    if missing:
        raise BrokerUnavailable(f"Apache Kafka's jars need {' and '.join(missing)} on the PATH")
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=target.parent, prefix="kafka-jars-"))
    command = ["mvn", "-B", "-q", "-f", str(POM), "dependency:copy-dependencies"]
    done = subprocess.run(
        [*command, f"-DoutputDirectory={fresh}"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        shutil.rmtree(fresh)
        raise BrokerUnavailable(f"Maven could not fetch Apache Kafka: {done.stdout[-500:]}")
    try:
        fresh.rename(target)
    except OSError:  # another process was faster
        shutil.rmtree(fresh)
    return target


def free_port() -> int:
    """A TCP port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Broker:
    """One broker process (KRaft, broker and controller in one) on 127.0.0.1.

    Parameters
    ----------
    port
        To listen on; 0: a free one, kept over restarts.
    properties
        Further lines of ``server.properties``.
    advertised
        Port of a proxy. The broker then listens on ``behind_proxy`` too, and tells the clients that
        come in there to find it at the proxy's port.
    beside
        Further listeners: a security protocol to the ``host:port`` it listens on.

    A context manager that starts it, and stops it and deletes its data at the end.
    """

    def __init__(
        self,
        port: int = 0,
        properties: Mapping[str, str] | None = None,
        advertised: int = 0,
        beside: Mapping[str, str] | None = None,
    ) -> None:
        self.port = port or free_port()
        self.bootstrap = f"127.0.0.1:{self.port}"
        self._dir = Path(tempfile.mkdtemp(prefix="millrace-kafka-"))
        self._config = self._dir / "server.properties"
        self._output = self._dir / "broker.log"
        self._process: subprocess.Popen[bytes] | None = None
        lines = _properties(self.port, free_port(), self._dir / "data")
        self.behind_proxy = free_port() if advertised else 0
        if advertised:
            lines |= _second_listener(lines, self.behind_proxy, advertised)
        for protocol, address in (beside or {}).items():
            lines |= _listener_beside(lines, protocol, address)
        lines |= dict(properties or {})
        self._node = lines["node.id"]
        self._config.write_text(_text(lines))

    def __enter__(self) -> Broker:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The broker's process id."""
        if self._process is None:
            raise RuntimeError("the broker is not running; call start() first")
        return self._process.pid

    def start(self) -> None:
        """Start on the data that is there (or on none) and wait until it answers."""
        data = self._dir / "data"
        if not data.exists():
            data.mkdir()
            (data / "bootstrap.checkpoint").write_bytes(_features())
            identity = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
            (data / "meta.properties").write_text(
                f"version=1\ncluster.id={_CLUSTER}\nnode.id={self._node}\ndirectory.id={identity}\n"
            )
        with self._output.open("ab") as output:
            # A session of its own: Ctrl-C in the terminal must not end it before its owner does.
            self._process = subprocess.Popen(
                java("kafka.Kafka", str(self._config)),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                break
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.05)
        raise BrokerUnavailable(f"the broker did not start: {self._output.read_text()[-2000:]}")

    def stop(self, timeout_s: float = 15.0) -> None:
        """End it in order (SIGTERM), or by SIGKILL when that takes too long; keep its data."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """End it at once (SIGKILL); keep its data."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> None:
        """Kill it if it runs, then start it again on the same data and port."""
        self.kill()
        self.start()

    def close(self) -> None:
        """End it and delete its data."""
        self.kill()
        shutil.rmtree(self._dir, ignore_errors=True)


_CLUSTER = "AAAAAAAAAAAAAAAAAAAAAQ"


@cache
def _features() -> bytes:
    """What Kafka's own tool says to a new broker of its version: asked once, it takes 2 s."""
    with tempfile.TemporaryDirectory(prefix="millrace-kafka-") as place:
        data, config = Path(place) / "data", Path(place) / "server.properties"
        config.write_text(_text(_properties(free_port(), free_port(), data)))
        asked = ["format", "-t", _CLUSTER, "-c", str(config)]
        subprocess.run(java("kafka.tools.StorageTool", *asked), check=True, capture_output=True)
        return (data / "bootstrap.checkpoint").read_bytes()


def java(*arguments: str) -> list[str]:
    """The command that runs a class of Apache Kafka's."""
    return ["java", "-Xmx512m", "-XX:+UseSerialGC", "-cp", str(jars() / "*"), *arguments]


def _text(properties: Mapping[str, str]) -> str:
    return "".join(f"{name}={value}\n" for name, value in properties.items())


@contextlib.contextmanager
def cluster(size: int = 3) -> Iterator[list[Broker]]:
    """Brokers of one cluster: everything stands on each of them, and one may be away."""
    doors = [free_port() for _ in range(size)]
    voters = ",".join(f"{i}@127.0.0.1:{door}" for i, door in enumerate(doors, 1))
    shared = {
        "controller.quorum.voters": voters,
        "controller.quorum.fetch.timeout.ms": "1000",
        "min.insync.replicas": str(size - 1),
        "replica.lag.time.max.ms": "2000",
    }
    for topics in ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic"):
        shared[f"{topics}.replication.factor"] = str(size)
    for topics in ("transaction.state.log", "share.coordinator.state.topic"):
        shared[f"{topics}.min.isr"] = str(size - 1)
    _features()
    brokers = []
    for i, door in enumerate(doors, 1):
        port = free_port()
        own = f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{door}"
        brokers.append(Broker(port, {**shared, "node.id": str(i), "listeners": own}))
    try:
        # None answers before most of them are there.
        with ThreadPoolExecutor(size) as pool:
            list(pool.map(Broker.start, brokers))
        yield brokers
    finally:
        for broker in brokers:
            broker.close()


def _properties(port: int, controller_port: int, data: Path) -> dict[str, str]:
    """``server.properties`` of a broker alone: every replication factor is 1."""
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": str(data),
        "auto.create.topics.enable": "false",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "4",
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "group.initial.rebalance.delay.ms": "0",
        # A killed broker may come back only after its session: 9 s by default.
        "broker.session.timeout.ms": "2000",
        "broker.heartbeat.interval.ms": "500",
    }


def _second_listener(lines: Mapping[str, str], port: int, advertised: int) -> dict[str, str]:
    """Lines for a listener on ``port`` whose clients are sent to the ``advertised`` port."""
    protocols = lines["listener.security.protocol.map"]
    return {
        "listeners": f"{lines['listeners']},PROXIED://127.0.0.1:{port}",
        "advertised.listeners": f"{lines['advertised.listeners']},PROXIED://127.0.0.1:{advertised}",
        "listener.security.protocol.map": f"{protocols},PROXIED:PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
    }


def _listener_beside(lines: Mapping[str, str], protocol: str, address: str) -> dict[str, str]:
    """Lines for a listener of this security protocol."""
    return {
        key: f"{lines[key]},{added}"
        for key, added in (
            ("listeners", f"{protocol}://{address}"),
            ("advertised.listeners", f"{protocol}://{address}"),
            ("listener.security.protocol.map", f"{protocol}:{protocol}"),
        )
    } | {"inter.broker.listener.name": "PLAINTEXT"}


@contextlib.contextmanager
def bootstrap() -> Iterator[str]:
    """``host:port`` of a broker: KAFKA_BOOTSTRAP, a container, or Kafka's own jars.

    Raises :class:`BrokerUnavailable` when none can be had.
    """
    there = os.environ.get("KAFKA_BOOTSTRAP")
    if there:
        yield there
    elif _docker_answers():
        from testcontainers.kafka import KafkaContainer

        with KafkaContainer().with_kraft() as container:
            yield container.get_bootstrap_server()
    else:
        with Broker() as broker:
            yield broker.bootstrap


def _docker_answers() -> bool:
    if shutil.which("docker") is None or find_spec("testcontainers") is None:
        return False
    done = subprocess.run(["docker", "info"], capture_output=True, check=False)
    return done.returncode == 0


def unique(name: str) -> str:
    """A topic name of its own for each test, so that one broker serves them all."""
    return f"{name}-{uuid.uuid4().hex[:12]}"


def main() -> None:
    """Run one broker until Ctrl-C, or as long as a command that is told it by KAFKA_BOOTSTRAP."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.support.broker", description=main.__doc__
    )
    parser.add_argument("--port", type=int, default=9092, help="default 9092; 0: a free one")
    parser.add_argument("command", nargs="*", help="after --; {} stands for the broker's address")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if given.command:
            sys.exit(_beside(given.command))
        with Broker(given.port) as broker:
            print(broker.bootstrap, flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()
    except BrokerUnavailable as error:
        sys.exit(
            f"error {error}\n  Debian: apt install openjdk-17-jre-headless maven; or start a broker"
            " yourself and set KAFKA_BOOTSTRAP=host:port"
        )


def _beside(command: list[str]) -> int:
    """Run a command beside a broker; its exit status. Ctrl-C is the command's."""
    print("[1/3] Fetching Apache Kafka, if it is not there, and starting a broker", file=sys.stderr)
    with bootstrap() as address:
        print(f"[2/3] The broker answers at {address}", file=sys.stderr)
        command = [part.replace("{}", address) for part in command]
        print(f"[3/3] {' '.join(command)}", file=sys.stderr, flush=True)
        started = subprocess.Popen(command)
        while True:
            with contextlib.suppress(KeyboardInterrupt):
                return started.wait()


if __name__ == "__main__":
    main()

"""The HTTP server in a thread of its own: bind, serve, stop within a deadline.

It installs no signal handler and writes no access log: the metrics hold what an access log would.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog
import uvicorn

from models.base import MillraceError
from stream.http.api import Api, Backend
from stream.http.connections import Connections
from stream.http.edge import Observe
from stream.http.score import ScoreWaiters
from stream.http.tls import Certificate
from stream.settings.schema import Config

REQUESTS = 256
"""Requests in progress at once beside those that wait for scores; then 503."""
BACKLOG = 2048
"""Connections that the kernel holds until they are accepted, and that are accepted at a time."""
FILES = 256
"""Files that the rest of the process may have open: logs, checkpoints, brokers, models."""

log = structlog.get_logger(__name__)


class HttpError(MillraceError):
    """The server cannot listen where the configuration says."""


class Server:
    """uvicorn in a daemon thread.

    Parameters
    ----------
    config : Config
    backend : Backend
        Called from the server's threads, see :class:`stream.http.api.Backend`.
    waiters : ScoreWaiters
        Shared with the loop that publishes to it.
    observe : callable
        ``(route template, method, code, seconds)``, called on the server's thread.
    failed : callable
        Called on the server's thread with the error that ended it, if one did.

    Raises
    ------
    CertificateError
        When certificate and key cannot be used.

    Examples
    --------
    ::

        server = Server(config, backend, waiters, metrics.observe_http)
        server.start()
        print(server.port)
        server.stop(timeout_s=5.0)
    """

    def __init__(
        self,
        config: Config,
        backend: Backend,
        waiters: ScoreWaiters,
        observe: Observe,
        failed: Callable[[BaseException], object] = lambda error: log.error(
            "http server ended", error=repr(error), exc_info=error
        ),
    ) -> None:
        self._http = config.http
        self._failed = failed
        requests, connections = _room(self._http.max_waiting)
        self._api = Api(config, backend, waiters, observe, requests)
        tls = self._http.tls
        self._certificate = None if tls is None else Certificate(tls)
        self._connections = Connections(connections, self._certificate, observe)
        # uvicorn calls it as the class that it asks for.
        protocol: Any = self._connections.accepted
        self._uvicorn = uvicorn.Server(
            uvicorn.Config(
                self._api.app,
                log_config=None,
                log_level="error",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                lifespan="off",
                ws="none",
                http=protocol,
                backlog=min(BACKLOG, connections),
            )
        )
        self._socket: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running = threading.Event()
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    @property
    def port(self) -> int:
        """The port it listens on, also when the configuration says 0; after :meth:`start`."""
        if self._socket is None:
            raise HttpError("http: expected start() before port")
        return self._port

    @property
    def alive(self) -> bool:
        """Whether the server's thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Bind and serve; connections are taken from the moment this returns.

        Raises
        ------
        HttpError
            When the address cannot be bound.
        """
        host, port = self._http.host, self._http.port
        try:
            family, kind, proto, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            self._socket = socket.socket(family, kind, proto)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(address)
            self._socket.listen(BACKLOG)
        except OSError as error:
            if self._socket is not None:
                self._socket.close()
            raise HttpError(
                f"http: cannot listen on {host} port {port}: {error.strerror or error}; choose "
                "another http.host or http.port"
            ) from error
        self._port: int = self._socket.getsockname()[1]
        self._thread.start()
        self._running.wait()
        log.info("http listening", host=host, port=self._port)

    def follow(self, config: Config) -> None:
        """Requests are read by another configuration from here on (any thread)."""
        self._api.follow(config)

    def stop(self, timeout_s: float) -> bool:
        """Finish what is in progress, close, end the thread; whether it ended in time.

        1. Requests that wait for a score get a 503, live streams end. 2. Nothing new is accepted.
        3. Requests in progress end by themselves; at the deadline they are cancelled.
        """
        if self._loop is None or not self.alive:
            return True
        self._uvicorn.config.timeout_graceful_shutdown = max(1, int(timeout_s))
        # A loop that closes at this very moment has nothing left to end.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._api.close)
        self._uvicorn.should_exit = True
        self._thread.join(timeout_s + 1)
        if self.alive:
            self._uvicorn.force_exit = True
            log.warning("http did not stop in time", timeout_s=timeout_s)
        return not self.alive

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - told, whatever it is
            self._failed(error)
        finally:
            self._running.set()
            if self._socket is not None:
                self._socket.close()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._running.set()
        watching = [asyncio.create_task(self._connections.watch())]
        if self._certificate is not None:
            watching.append(asyncio.create_task(self._certificate.watch()))
        await self._uvicorn.serve(sockets=[self._socket] if self._socket else None)
        for task in watching:
            task.cancel()


def _room(waiting: int) -> tuple[int, int]:
    """How many requests may be in progress and how many connections open.

    Connections must not take every file of the process, the log's and the checkpoints' with them:
    the process asks for as many as it needs, and where it does not get them, fewer are served.
    """
    requests = waiting + REQUESTS
    connections = 4 * requests
    wanted = connections + BACKLOG + FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return requests, connections
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < wanted:
        connections = max((most - FILES) // 2, 2)
        requests = min(requests, connections // 2)
        log.warning(
            "http: few files may be open, so few are served at once",
            limit_of_open_files=most, wanted=wanted, requests=requests, connections=connections,
        )  # fmt: skip
    return requests, connections

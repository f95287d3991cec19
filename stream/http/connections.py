"""The server's connections: bounded in number and in time, whatever their other ends do.

uvicorn closes what is idle after an answer. What is closed here are connections on which nothing
comes, or half of a request or of a TLS handshake, or from which an answer is not taken; and what it
says to them, problems with the API's headers. Never looks at a whole request.
"""

from __future__ import annotations

import asyncio
import math
import ssl
import time
from collections.abc import Callable
from typing import Any, Protocol, cast

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from stream.http.edge import SEALED_HEADERS, UNMATCHED, Observe
from stream.http.problem import Problem
from stream.http.tls import Certificate

PATIENCE_S = 10.0
"""How long the head of a request may take, from the beginning of the connection or the end of the
answer before; how long a handshake may; and how long a client may leave an answer untaken."""
SWEEP_S = 1.0


class _Open(Protocol):
    def takes(self) -> bool: ...
    def turn_away(self, problem: Problem) -> None: ...


class Connections:
    """All open connections (the event loop's thread).

    One too many takes the place of the one that has waited longest for a request: those that only
    hold a place never keep out those that use one.

    Parameters
    ----------
    most : int
        How many may be open; more than there are requests in progress.
    tls : Certificate or None
    observe : callable
        As that of :class:`~stream.http.edge.Edge`; gets what is said outside of any request.
    """

    def __init__(self, most: int, tls: Certificate | None, observe: Observe) -> None:
        self._most = most
        self._tls = tls
        self._observe = observe
        self._open: set[_Open] = set()
        # Since when, by the monotonic clock; the longest first.
        self._waiting: dict[_Open, float] = {}
        self._stalled: dict[_Open, float] = {}

    def accepted(self, **arguments: Any) -> asyncio.Protocol:
        """The protocol of a new connection; ``arguments`` are uvicorn's for its own."""
        if self._tls is None:
            return Connection(self, **arguments)
        return _Handshake(
            self, self._tls.context, lambda below: Connection(self, below, **arguments)
        )

    def enter(self, one: _Open) -> None:
        """A connection was accepted."""
        if len(self._open) >= self._most:
            longest = next(iter(self._waiting), one)
            self._waiting.pop(longest, None)
            longest.turn_away(Problem("overloaded", f"{self._most} connections are open"))
        self._open.add(one)
        self._waiting[one] = time.monotonic()

    def leave(self, one: _Open) -> None:
        """A connection is closed."""
        self._open.discard(one)
        self._waiting.pop(one, None)
        self._stalled.pop(one, None)

    def waits(self, one: _Open) -> None:
        """A connection's answer is written: it waits for the next request, or for its end."""
        if one in self._open:
            self._stalled.pop(one, None)
            self._waiting.pop(one, None)
            self._waiting[one] = time.monotonic()

    def works(self, one: _Open) -> None:
        """A connection has brought a request."""
        self._waiting.pop(one, None)

    def stalls(self, one: _Open) -> None:
        """A connection's other end takes no more of an answer for now."""
        self._stalled[one] = time.monotonic()

    def flows(self, one: _Open) -> None:
        """It takes more again."""
        self._stalled.pop(one, None)

    def refused(self, code: int) -> None:
        """Something was answered that is no request."""
        self._observe(UNMATCHED, "OTHER", code, 0.0)

    async def watch(self) -> None:
        """Turn away what has waited too long; runs as long as the server."""
        while True:
            await asyncio.sleep(SWEEP_S)
            self.sweep(time.monotonic() - PATIENCE_S)

    def sweep(self, since: float) -> None:
        """Turn away what has waited since then, but for those that still take an answer."""
        problem = Problem("slow-head", f"expected the request's head within {PATIENCE_S:g} s")
        for one in _until(self._waiting, since):
            if one.takes():
                self.waits(one)
            else:
                one.turn_away(problem)
        for one in _until(self._stalled, since):
            one.turn_away(problem)


def _until(those: dict[_Open, float], moment: float) -> list[_Open]:
    return [one for one, since in those.items() if since <= moment]


class Connection(H11Protocol):
    """uvicorn's protocol, with its place among all connections.

    ``below`` is what TLS writes to: an answer waits there, encrypted, until it is taken.
    """

    def __init__(
        self, connections: Connections, below: asyncio.Transport | None = None, **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self._connections = connections
        self._below = below
        self._untaken = math.inf

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Enter."""
        super().connection_made(transport)
        self._connections.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave."""
        self._connections.leave(self)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """More of an answer is written than is taken."""
        super().pause_writing()
        self._connections.stalls(self)

    def resume_writing(self) -> None:
        """It is taken."""
        super().resume_writing()
        self._connections.flows(self)

    def handle_events(self) -> None:
        """Something came: parts of a head keep the connection waiting, a whole one does not."""
        super().handle_events()
        if self._in_progress():
            self._connections.works(self)
            if self.flow.write_paused:
                self._connections.stalls(self)

    def on_response_complete(self) -> None:
        """Wait for the next request, which may have come already."""
        self._untaken = math.inf
        self._connections.waits(self)
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, and close."""
        if self._in_progress():
            # Its handler would go on with half a body, and answer a second time.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._connections.waits(self)
        self._answer(Problem("protocol", "expected a request of HTTP/1.1"))
        self.transport.close()

    def turn_away(self, problem: Problem) -> None:
        """Close at once; a client that has sent a part of a head is told why."""
        if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
            self._answer(problem)
        self.transport.abort()

    def takes(self) -> bool:
        """Whether some of a written answer was taken since this was asked last."""
        before, self._untaken = self._untaken, self.transport.get_write_buffer_size()
        if self._below is not None:
            self._untaken += self._below.get_write_buffer_size()
        return 0 < self._untaken < before

    def _in_progress(self) -> bool:
        # uvicorn declares its cycle without the None that it begins with.
        cycle = cast(Any, self.cycle)
        return cycle is not None and not cycle.response_complete

    def _answer(self, problem: Problem) -> None:
        response = problem.response()
        code, body = response.status_code, bytes(response.body)
        headers = [*response.raw_headers, *SEALED_HEADERS, (b"connection", b"close")]
        head = h11.Response(status_code=code, headers=headers, reason=STATUS_PHRASES[code])
        try:
            data = [self.conn.send(e) for e in (head, h11.Data(data=body), h11.EndOfMessage())]
        except h11.LocalProtocolError:
            return  # it comes on top of an answer
        self.transport.write(b"".join(part or b"" for part in data))
        if not self._in_progress():
            self._connections.refused(code)


class _Handshake(asyncio.Protocol):
    """The TLS handshake of a connection, which becomes a :class:`Connection` at its end.

    asyncio tells a server's protocol of a connection only when the handshake is done: those that
    never end one would be counted nowhere.
    """

    def __init__(
        self,
        connections: Connections,
        tls: ssl.SSLContext,
        made: Callable[[asyncio.Transport], Connection],
    ) -> None:
        self._connections = connections
        self._tls = tls
        self._made = made
        self._secured: Connection | None = None
        self._early = bytearray()
        self._lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.pause_reading()
        self._task = asyncio.get_running_loop().create_task(self._shake())
        self._connections.enter(self)

    async def _shake(self) -> None:
        try:
            secured = await asyncio.get_running_loop().start_tls(
                self._transport,
                self,
                self._tls,
                server_side=True,
                ssl_handshake_timeout=PATIENCE_S,
                # From the close on, which waits for an answer to be taken: the sweep looks at that.
                ssl_shutdown_timeout=math.inf,
            )
        except OSError:  # no TLS, or not ours: the client has been told by an alert
            secured = None
        self._connections.leave(self)
        if secured is None or self._lost:
            self._transport.abort()
            return
        self._secured = self._made(self._transport)
        secured.set_protocol(self._secured)
        self._secured.connection_made(secured)
        if self._early:
            self._secured.data_received(bytes(self._early))

    def data_received(self, data: bytes) -> None:
        """The first request may come with the end of the handshake."""
        self._early += data

    def connection_lost(self, exc: Exception | None) -> None:
        """It ended before the connection was another's."""
        self._lost = True
        self._connections.leave(self)
        if self._secured is not None:
            self._secured.connection_lost(exc)

    def takes(self) -> bool:
        """There is no answer yet."""
        return False

    def turn_away(self, problem: Problem) -> None:
        """Close at once: there is nobody yet who could be told why."""
        self._task.cancel()
        self._transport.abort()
        self._connections.leave(self)

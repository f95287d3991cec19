"""Reading a request's body within its bounds: type, size, time, and memory held by all bodies.

Nothing here decodes JSON.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from starlette.requests import ClientDisconnect, Request

from stream.http.problem import Problem

JSON = "application/json"
NDJSON = "application/x-ndjson"

HELD = 64
"""Bodies of the largest size that may be in memory at once; then 503."""
DEADLINE_S = 10.0
"""How long a body may take to arrive; then 408."""
REFUSED_S = 2.0
"""How long what is left of a refused body is let in, and dropped, where the connection ends."""


class Bodies:
    """All bodies now in memory, bounded by ``HELD * limit`` bytes.

    Parameters
    ----------
    limit : int
        Bytes of the largest body (``http.max_body_bytes``).
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._free = HELD * limit

    @asynccontextmanager
    async def read(self, request: Request, *media: str) -> AsyncIterator[tuple[bytes, str]]:
        """The body and its media type, one of ``media``; counted until the block ends.

        Among ``media`` an empty one stands for a body whose type is not said: see
        :func:`_media_type` before taking one.

        Raises
        ------
        Problem
            ``media-type``, ``too-large`` (as soon as the limit is passed), ``slow-body`` or
            ``overloaded``.
        """
        chunks: list[bytes] = []
        try:
            try:
                kind = _media_type(request, media)
                await self._receive(request, chunks)
            except Problem:
                await _dropped(request)
                raise
            yield b"".join(chunks), kind
        finally:
            self._free += sum(map(len, chunks))

    async def _receive(self, request: Request, chunks: list[bytes]) -> None:
        # Refuse by the announced length first: nothing of the body is then kept.
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > self._limit:
            raise self._too_large(int(announced))
        size = 0
        try:
            async with asyncio.timeout(DEADLINE_S):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > self._limit:
                        raise self._too_large(size)
                    if len(chunk) > self._free:
                        raise Problem("overloaded", "too many bodies are in memory; send later")
                    self._free -= len(chunk)
                    chunks.append(chunk)
        except TimeoutError as error:
            raise Problem("slow-body", f"expected the body within {DEADLINE_S:g} s") from error

    def _too_large(self, got: int) -> Problem:
        return Problem(
            "too-large",
            f"expected a body of at most http.max_body_bytes = {self._limit} bytes, got {got} or "
            "more; send fewer records in one request",
        )


async def _dropped(request: Request) -> None:
    """Let a sender whose connection ends with the answer finish, for a while.

    One that is cut off while it sends does not read the answer. Who asks before it sends has not
    begun, and of a connection that goes on uvicorn drops the rest.
    """
    headers = request.headers
    goes_on = "close" not in headers.get("connection", "").lower()
    if "expect" in headers or (goes_on and request.scope["http_version"] != "1.0"):
        return
    with suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(REFUSED_S):
            async for _ in request.stream():
                pass


def _media_type(request: Request, media: tuple[str, ...]) -> str:
    # A missing type is refused too: a browser may send text/plain across origins without asking
    # first, never application/json; this keeps foreign web pages from writing to a local server.
    header = request.headers.get("content-type", "")
    kind, _, parameters = header.partition(";")
    kind = kind.strip().lower()
    charset = parameters.strip().lower().removeprefix("charset=").strip('"')
    encoding = request.headers.get("content-encoding", "identity").lower()
    named = [name for name in media if name]
    if kind not in media or charset not in ("", "utf-8", "utf8"):
        raise Problem(
            "media-type",
            f"expected Content-Type {' or '.join(named)} in UTF-8; got {header or 'none'!r}",
            {"Accept": ", ".join(named)},
        )
    if encoding != "identity":
        raise Problem(
            "media-type",
            f"expected a body without Content-Encoding; got {encoding!r}",
            {"Accept-Encoding": "identity"},
        )
    return kind

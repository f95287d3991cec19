"""The outermost layer of the HTTP API: Host check, bound, headers, durations, last resort.

Wraps the Starlette application that ``api.py`` builds. Never reads a body.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Collection

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stream.http.auth import host_of, is_loopback
from stream.http.problem import Problem

Observe = Callable[[str, str, int, float], None]
"""``(route template, method, code, seconds)``; called on the HTTP server's thread."""

UNMATCHED = "unmatched"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"})
METRICS = "/metrics"
PROBES = frozenset({"/livez", "/readyz", "/v2/health/live", "/v2/health/ready"})
"""Answered from memory at once: no load of others, and no number of them, keeps one out."""
SCRAPES = 16
"""Requests for metrics in progress at once; then 503. They have places of their own."""
CLIENT_GONE = 499
"""Code recorded for a client that left before its response (nginx's convention)."""

_COMMON = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
]
_SEALED = b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
# Charts set style attributes; scripts come from this server's files only, never inline or eval.
_PAGE = (
    b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    b"img-src 'self' data: blob:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; "
    b"form-action 'none'"
)
_NO_STORE = (b"cache-control", b"no-store")
_PAGE_HEADERS = [*_COMMON, _NO_STORE, (b"content-security-policy", _PAGE)]
# The page's files may be kept but are asked after each time: the charts' script has 5 MB.
_FILE_HEADERS = [
    *_COMMON,
    (b"cache-control", b"no-cache"),
    (b"content-security-policy", _SEALED),
]
SEALED_HEADERS = [*_COMMON, _NO_STORE, (b"content-security-policy", _SEALED)]
"""Of every answer that is no page: nothing in it may run, be framed or be kept."""

log = structlog.get_logger(__name__)


class Edge:
    """ASGI middleware around the whole application.

    Parameters
    ----------
    app : ASGI application
    templates : collection of str
        The known routes: anything else is observed as ``unmatched``, so that a metric's labels
        stay few whatever is asked.
    requests : int
        Requests in progress at once, beside probes and scrapes; then 503.
    loopback_only : bool
        Refuse a Host header that names anything but this machine: a web page whose name was
        pointed at 127.0.0.1 (DNS rebinding) then reaches nothing.
    observe : callable
        Gets each response's code and the seconds until it started.
    """

    def __init__(
        self,
        app: ASGIApp,
        templates: Collection[str],
        requests: int,
        loopback_only: bool,
        observe: Observe,
    ) -> None:
        self._app = app
        self._requests = requests
        self._free = {True: SCRAPES, False: requests}
        self._templates = frozenset(templates)
        self._loopback_only = loopback_only
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        code: int | None = None

        async def hardened(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
                message["headers"] = [*message.get("headers", ()), *_headers(scope["path"])]
                self._record(scope, code or 0, time.monotonic() - started)
            await send(message)

        try:
            if refused := self._wrong_host(scope):
                await refused.response(scope["path"])(scope, receive, hardened)
            else:
                await self._in_place(scope, receive, hardened)
        except Exception as error:  # noqa: BLE001 - the last resort; told in the log
            # Starlette has answered by now (500, no internals) and re-raises for this line. The
            # traceback goes as text: a console renderer would show locals, which hold payloads,
            # and take 2 s of the event loop for it.
            log.error(
                "http request failed",
                route=self._route(scope),
                method=scope["method"],
                traceback="".join(traceback.format_exception(error)),
            )
            code = code or 500
        if code is None:
            self._record(scope, CLIENT_GONE, time.monotonic() - started)

    async def _in_place(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application, within the bound of what is in progress."""
        if scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        scrape = scope["path"] == METRICS
        if not self._free[scrape]:
            most = SCRAPES if scrape else self._requests
            refused = Problem("overloaded", f"{most} requests are in progress; send again later")
            await refused.response(scope["path"])(scope, receive, send)
            return
        self._free[scrape] -= 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._free[scrape] += 1

    def _wrong_host(self, scope: Scope) -> Problem | None:
        header = next((v.decode("latin-1") for k, v in scope["headers"] if k == b"host"), "")
        host = host_of(header)
        if host is None:
            return Problem("protocol", f"expected HOST or HOST:PORT as Host, got {header[:80]!r}")
        if not self._loopback_only or is_loopback(host):
            return None
        return Problem(
            "misdirected",
            f"expected a Host header with localhost or a loopback address, got {header[:80]!r}; "
            "to serve another name configure http.host and http.tokens",
        )

    def _record(self, scope: Scope, code: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in METHODS else "OTHER"
        self._observe(self._route(scope), method, code, seconds)

    def _route(self, scope: Scope) -> str:
        path: str = scope["path"]
        if path in self._templates:
            return path
        for prefix in ("/v1/scores/", "/v1/reasons/"):
            if path.startswith(prefix):
                return f"{prefix}{{id}}"
        return "/live/{file}" if path.startswith("/live/") else UNMATCHED


def _headers(path: str) -> list[tuple[bytes, bytes]]:
    if path == "/":
        return _PAGE_HEADERS
    return _FILE_HEADERS if path.startswith("/live/") else SEALED_HEADERS

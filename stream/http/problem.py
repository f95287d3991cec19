"""Errors of the HTTP API as ``application/problem+json`` (RFC 9457), from one closed list of kinds.

Handlers raise :class:`Problem`; ``api.py`` turns it, and what the framework raises, into responses.
A problem never carries a traceback, a path of the machine or a payload.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 1
INFERENCE = "/v2"
"""Where the paths of the Open Inference Protocol begin."""

KINDS: dict[str, tuple[int, str]] = {
    "protocol": (400, "The request is not proper HTTP"),
    "malformed": (400, "The body is not JSON"),
    "query": (400, "A query parameter is not valid"),
    "unauthorized": (401, "A bearer token is needed"),
    "forbidden": (403, "The token lacks a scope"),
    "not-found": (404, "There is nothing at this path"),
    "method-not-allowed": (405, "The path does not take this method"),
    "read-only": (405, "A replica takes nothing in"),
    "slow-head": (408, "The request's head did not arrive in time"),
    "slow-body": (408, "The body did not arrive in time"),
    "being-scored": (409, "An event with this id is being scored"),
    "too-large": (413, "The body or a record is too large"),
    "media-type": (415, "The body's type is not taken"),
    "misdirected": (421, "The Host header names another server"),
    "invalid": (422, "A record does not fit its schema"),
    "dead-lettered": (422, "The event became a dead letter"),
    "unscorable": (422, "The event would become a dead letter"),
    "failed": (500, "The request failed"),
    "overloaded": (503, "Too much is in progress"),
    "log-unavailable": (503, "The log cannot be reached"),
    "stopping": (503, "The service is stopping"),
    "not-live": (503, "The service is not live"),
    "not-ready": (503, "The service is not ready"),
    "diverged": (503, "The replica differs from its service"),
    "late": (504, "The score is late"),
}
"""Kind to status and title; a problem's ``type`` is ``urn:millrace:KIND``."""


class Problem(Exception):
    """An answer that is an error.

    Parameters
    ----------
    kind : str
        A key of :data:`KINDS`; gives the status and the title.
    detail : str
        What was expected, what was got, what to do next.
    headers : mapping, optional
        More response headers; a 503 gets ``Retry-After`` by itself.
    **members
        RFC 9457 extension members, such as ``errors``.
    """

    def __init__(
        self, kind: str, detail: str, headers: Mapping[str, str] | None = None, **members: Any
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.headers = dict(headers or {})
        self.members = members

    def response(self, path: str = "") -> Response:
        """The problem as a response to a request for the path; the inference protocol has its own.

        ``{"error": ...}`` is what its clients read.
        """
        status, title = KINDS[self.kind]
        headers = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else {}
        headers |= self.headers
        if path == INFERENCE or path.startswith(f"{INFERENCE}/"):
            errors = [f"{e['path']}: {e['error']}" for e in self.members.get("errors", ())]
            body: dict[str, Any] = {"error": "\n".join([self.detail, *errors])}
            return Response(msgspec.json.encode(body), status, headers, "application/json")
        body = {
            "type": f"urn:millrace:{self.kind}",
            "title": title,
            "status": status,
            "detail": self.detail,
            **self.members,
        }
        return Response(msgspec.json.encode(body), status, headers, MEDIA_TYPE)


def from_http_exception(request: Request, error: HTTPException) -> Problem:
    """The framework's own 404 and 405 as a problem."""
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "")
        allowed = ", ".join(sorted(m.strip() for m in allow.split(",")))
        detail = f"expected one of {allowed}; got {request.method}"
        return Problem("method-not-allowed", detail, {"Allow": allowed})
    return Problem(
        "not-found", f"got {request.scope['path'][:80]!r}; /openapi.json lists the paths"
    )

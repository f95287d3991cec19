"""Who may call: bearer tokens with scopes, and the Host header of a loopback server.

Tokens are known by their SHA-256 only.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Sequence
from hmac import compare_digest

from starlette.requests import Request

from stream.http.problem import Problem
from stream.settings.schema import TokenSettings

ANONYMOUS = "http"
"""The caller's name where no token is configured."""


class Tokens:
    """The configured tokens; none configured means that everybody may do everything.

    The configuration refuses an address other than loopback without a token, so "everybody" is
    this machine.
    """

    def __init__(self, tokens: Sequence[TokenSettings]) -> None:
        self._tokens = tuple(tokens)

    def caller(self, request: Request, scope: str | None = None) -> str:
        """The caller's token name; ``scope`` ``None`` takes any token.

        Raises
        ------
        Problem
            ``unauthorized`` without a known token, ``forbidden`` without the scope; with the
            ``WWW-Authenticate`` header of RFC 6750.
        """
        if not self._tokens:
            return ANONYMOUS
        scheme, _, text = request.headers.get("authorization", "").partition(" ")
        token = self._find(text.strip()) if scheme.lower() == "bearer" else None
        if token is None:
            raise Problem(
                "unauthorized",
                "expected the header `Authorization: Bearer TOKEN` with a configured token; got "
                + ("another token" if scheme else "none"),
                {"WWW-Authenticate": 'Bearer realm="millrace"'},
            )
        if scope is not None and scope not in token.scopes and "admin" not in token.scopes:
            raise Problem(
                "forbidden",
                f"expected a token with scope {scope!r}; token {token.name!r} has "
                + ", ".join(token.scopes),
                {
                    "WWW-Authenticate": 'Bearer realm="millrace", error="insufficient_scope", '
                    f'scope="{scope}"'
                },
            )
        return token.name

    def _find(self, text: str) -> TokenSettings | None:
        if not text:
            return None
        # Header values are latin-1 by the protocol. Every digest is compared, in constant time, so
        # that the answer's time tells neither which token came near nor how near.
        digest = hashlib.sha256(text.encode("latin-1", "replace")).hexdigest()
        found = None
        for token in self._tokens:
            if compare_digest(digest, token.sha256):
                found = token
        return found


def is_loopback(host: str) -> bool:
    """Whether a host name or address literal, without port, is this machine only.

    >>> is_loopback("localhost"), is_loopback("::1"), is_loopback("attacker.example")
    (True, True, False)
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]*))(?::[0-9]{1,5})?")
"""RFC 9112, section 3.2, without what no client writes: user names, zones, percent signs."""


def host_of(header: str) -> str | None:
    """The host in a ``Host`` header, without port and brackets; ``None`` where it is none.

    >>> host_of("[::1]:8080"), host_of("localhost:8080"), host_of("[::1].attacker.example")
    ('::1', 'localhost', None)
    """
    found = _HOST.fullmatch(header)
    return None if found is None else found[1] or found[2]

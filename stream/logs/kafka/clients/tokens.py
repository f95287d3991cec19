"""Tokens for OAUTHBEARER: from a command, or from an OpenID provider by client credentials.

Tokens and secrets stand in no message.
"""

from __future__ import annotations

import base64
import json
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from typing import Any

from kafka.net.sasl.oauth import AbstractTokenProvider

from stream.contract.log import LogRefused, LogUnavailable
from stream.settings import schema as settings

_LIMIT_S = 10.0
"""How long a command or a provider may take."""
_LIFE_S = 300.0
"""How long a token is taken for good that does not say so."""
_FRESH = 0.8
"""The part of its life after which a token is fetched anew."""


class Tokens(AbstractTokenProvider):
    """One token, fetched when there is none and when it has lived most of its time. Any thread."""

    def __init__(self, log: settings.KafkaLogSettings) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._token = ""
        self._stale_at = self._ends_at = 0.0

    def token(self) -> str:
        """A token that is good now.

        Raises :class:`LogRefused` when the provider does not know these credentials,
        :class:`LogUnavailable` when it or the command fails otherwise.
        """
        return self.dated()[0]

    def dated(self, _: str = "") -> tuple[str, float]:
        """The token, and the second since the epoch at which it ends."""
        with self._lock:
            if time.time() >= self._stale_at:
                now = time.time()
                command, url = self._log.sasl_oauth_command, self._log.sasl_oauth_url
                told = _run(command) if command else self._ask(url or "")
                token, life_s = _read(told, now)
                if life_s <= 0:
                    raise LogRefused(
                        f"log.{'sasl_oauth_command' if command else 'sasl_oauth_url'}: its token"
                        f" ended {-life_s:.0f} s ago"
                    )
                self._token, self._ends_at = token, now + life_s
                self._stale_at = now + _FRESH * life_s
            return self._token, self._ends_at

    def _ask(self, url: str) -> str:
        """The client credentials grant: RFC 6749, section 4.4."""
        secret = self._log.sasl_password
        form = {"grant_type": "client_credentials"}
        if self._log.sasl_oauth_scope:
            form["scope"] = self._log.sasl_oauth_scope
        name, word = self._log.sasl_username or "", secret.get_secret_value() if secret else ""
        user = f"{urllib.parse.quote_plus(name)}:{urllib.parse.quote_plus(word)}"
        request = urllib.request.Request(
            url,
            urllib.parse.urlencode(form).encode(),
            {"Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=_LIMIT_S) as answer:
                text: str = answer.read().decode()
                return text
        except urllib.error.HTTPError as error:
            with error:
                why = f"log.sasl_oauth_url: {url} answers {error.code} {error.reason}"
                said = _field(error.read().decode(errors="replace"), "error")
            if error.code in (400, 401, 403):
                raise LogRefused(
                    f"{why}{f' ({said})' if said else ''}; log.sasl_username and"
                    " MILLRACE_LOG__SASL_PASSWORD are the client's id and secret"
                ) from None
            raise LogUnavailable(why) from None
        except OSError as error:
            raise LogUnavailable(f"log.sasl_oauth_url: {url}: {error}") from error


def _run(command: Sequence[str]) -> str:
    where = f"log.sasl_oauth_command: {command[0]}"
    try:
        done = subprocess.run(command, capture_output=True, timeout=_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        raise LogUnavailable(f"{where}: no token within {_LIMIT_S:.0f} s") from None
    except OSError as error:
        raise LogRefused(f"{where}: {error.strerror}") from error
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        said = last[0][:200] if last else "no word on standard error"
        raise LogUnavailable(f"{where}: ended with status {done.returncode}: {said}")
    return done.stdout.decode(errors="replace")


def _read(told: str, now: float) -> tuple[str, float]:
    """The token in an answer, and how many seconds it will live."""
    token = _field(told, "access_token") or told.strip()
    if not token or any(c.isspace() for c in token):
        raise LogUnavailable(
            "log.sasl_oauth_command, sasl_oauth_url: expected a token, or JSON with access_token;"
            f" got {len(told)} characters that are neither"
        )
    life_s = _field(told, "expires_in") or _life_s(token, now)
    return token, float(life_s)


def _life_s(token: str, now: float) -> float:
    """As a JWT says it itself: RFC 7519, section 4.1.4."""
    claims = [*token.split("."), ""][1]
    try:
        text = base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)).decode()
    except ValueError:
        return _LIFE_S
    ends_at = _field(text, "exp")
    return ends_at - now if isinstance(ends_at, int | float) else _LIFE_S


def _field(text: str, name: str) -> Any:
    """A member of a JSON object; ``None`` where there is none."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found.get(name) if isinstance(found, dict) else None

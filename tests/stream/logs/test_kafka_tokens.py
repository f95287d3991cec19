"""Tokens for OAUTHBEARER: where they come from, how long they are kept, and what may go wrong."""

from __future__ import annotations

import base64
import json
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import parse_qs

import pytest

from stream.contract.log import LogError, LogRefused, LogUnavailable
from stream.logs.kafka.clients.tokens import Tokens
from stream.settings import schema as settings
from tests.support.log_harness import parse
from tests.support.waiting import wait_until

SECRET = "s3cr:t &"


def tokens(**log: Any) -> Tokens:
    """The tokens of a log with these settings."""
    sasl = {"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER"}
    user = {"sasl_username": "millrace", "sasl_password": SECRET}
    config = parse({"type": "kafka", "bootstrap": "127.0.0.1:1"} | sasl | user | log)
    assert isinstance(config.log, settings.KafkaLogSettings)
    return Tokens(config.log)


def printing(text: str, status: int = 0) -> Tokens:
    """The tokens of a command that prints this."""
    program = f"import sys; print({text!r}); sys.stderr.write('first\\nlast'); sys.exit({status})"
    return tokens(sasl_oauth_command=[sys.executable, "-c", program])


def jwt(**claims: Any) -> str:
    """A token that says these of itself."""
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{body}.x"


class Provider(BaseHTTPRequestHandler):
    """Gives tokens to ``millrace``, counts them, and refuses everybody else."""

    asked: list[dict[str, list[str]]]

    def do_POST(self) -> None:
        form = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.asked.append(parse_qs(form))
        user = base64.b64encode(b"millrace:s3cr%3At+%26").decode()
        known = self.headers["Authorization"] == f"Basic {user}"
        life_s = 3600 if "scope" in self.asked[-1] else 0.001
        token = {"access_token": f"token-{len(self.asked)}", "expires_in": life_s}
        body = json.dumps(token if known else {"error": "invalid_client"}).encode()
        self.send_response(200 if known else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def provider() -> Iterator[str]:
    """The address of a provider of tokens."""
    Provider.asked = []
    with HTTPServer(("127.0.0.1", 0), Provider) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/token"
        server.shutdown()
        thread.join()


def test_a_provider_gives_a_token_that_is_kept(provider: str) -> None:
    """Asked once with the client's credentials and the scope, until the token is nearly over."""
    held = tokens(sasl_oauth_url=provider, sasl_oauth_scope="kafka")
    assert [held.token() for _ in range(3)] == ["token-1"] * 3
    assert Provider.asked == [{"grant_type": ["client_credentials"], "scope": ["kafka"]}]
    assert held.dated()[1] == pytest.approx(time.time() + 3600, abs=600)


def test_a_token_near_its_end_is_fetched_anew(provider: str) -> None:
    """A client that connects later needs one that still lives."""
    held = tokens(sasl_oauth_url=provider)
    first = held.token()
    wait_until(lambda: held.token() != first, "another token")


def test_a_wrong_secret_is_refused(provider: str) -> None:
    """For good, in the provider's words, and without the secret."""
    held = tokens(sasl_oauth_url=provider, sasl_password="hunter2")
    with pytest.raises(LogRefused, match=r"answers 401 Unauthorized \(invalid_client\)") as caught:
        held.token()
    assert "hunter2" not in str(caught.value)


def test_a_provider_that_is_away_is_tried_again() -> None:
    """It may come back."""
    with pytest.raises(LogUnavailable, match=r"log\.sasl_oauth_url: http://127\.0\.0\.1:1/"):
        tokens(sasl_oauth_url="http://127.0.0.1:1/").token()


@pytest.mark.parametrize(
    ("text", "token", "life_s"),
    [
        ("opaque", "opaque", 300),
        ("a.b.c", "a.b.c", 300),
        ('{"access_token": "inside", "expires_in": 60}', "inside", 60),
    ],
)
def test_a_command_prints_a_token(text: str, token: str, life_s: float) -> None:
    """Bare, or as a provider answers; one that does not say its end is fetched anew in minutes."""
    now = time.time()
    found, ends_at = printing(text).dated()
    assert found == token
    assert now + life_s <= ends_at <= time.time() + life_s


def test_a_token_may_say_its_own_end() -> None:
    """As JSON Web Tokens do."""
    token = jwt(exp=time.time() + 900)
    found, ends_at = printing(token).dated()
    assert found == token
    assert ends_at == pytest.approx(json.loads(base64.urlsafe_b64decode(token[4:-2] + "=="))["exp"])


@pytest.mark.parametrize(
    ("made", "kind", "message"),
    [
        (lambda: printing("t0ken", 3), LogUnavailable, "ended with status 3: last$"),
        (lambda: printing("no t0ken today"), LogUnavailable, "15 characters that are neither"),
        (lambda: printing(""), LogUnavailable, "expected a token"),
        (lambda: printing(jwt(exp=1.0)), LogRefused, "its token ended .* s ago"),
        (lambda: tokens(sasl_oauth_command=["no-such-program"]), LogRefused, "No such file"),
    ],
    ids=["status", "words", "nothing", "over", "missing"],
)
def test_a_command_that_gives_no_token_says_why(
    made: Any, kind: type[LogError], message: str
) -> None:
    """With the last line of its standard error, and never with what it printed."""
    with pytest.raises(LogError, match=message) as caught:
        made().token()
    assert type(caught.value) is kind
    assert "t0ken" not in str(caught.value)

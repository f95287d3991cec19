"""Knocks at the brokers before a client does: says why one does not let us in.

Clients try again, until their deadline or for ever, at what no repetition mends; kafka-python even
drops the broker's own words. Here each step of coming in is taken once by itself: the connection,
TLS, the first request, SASL. Nothing is changed.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import Iterator, Mapping
from typing import Any

from kafka import errors
from kafka.net.sasl import get_sasl_mechanism
from kafka.protocol.metadata import (
    ApiVersionsRequest,
    ApiVersionsResponse,
    MetadataRequest,
    MetadataResponse,
)
from kafka.protocol.sasl import (
    SaslAuthenticateRequest,
    SaslAuthenticateResponse,
    SaslHandshakeRequest,
    SaslHandshakeResponse,
)

from stream.contract.log import LogError, LogRefused, LogUnavailable

WAIT_S = 3.0
"""How long each answer may take. A broker that is slower is away, for this purpose."""
_TLS_ALERT = b"\x15\x03"
_FRAME_BYTES = 1 << 20
_NUMBER = 1
"""Of each request; its answer begins with it."""


def knock(options: Mapping[str, Any]) -> None:
    """Return as soon as one broker lets us in, or when none can be reached at all.

    Parameters
    ----------
    options
        Those of kafka-python's clients.

    Raises
    ------
    LogRefused
        A broker says why not; trying again is of no use.
    LogUnavailable
        It only closes the connection, and shows by nothing what it expects.
    """
    refused: LogError | None = None
    for address in options["bootstrap_servers"]:
        try:
            _enter(address, options)
        except LogRefused as error:
            refused = error
        except LogUnavailable as error:
            refused = _expected(address, options) or refused or error
        except OSError:
            pass  # away: the client says so, and tries again
        else:
            return
    if refused is not None:
        raise refused


def _enter(address: str, options: Mapping[str, Any]) -> None:
    """Come in as a client does, step by step.

    1. TCP and, if configured, TLS. 2. A first request. 3. SASL, if configured, else a second one.
    """
    with _at(address, options) as door:
        door.ask(ApiVersionsRequest[0](), ApiVersionsResponse[0])
        if options["security_protocol"].startswith("SASL"):
            _authenticate(door, options)
        else:
            door.ask(MetadataRequest[1](topics=[]), MetadataResponse[1])


def _expected(address: str, options: Mapping[str, Any]) -> LogRefused | None:
    """What a broker that only closes the connection expects instead, if it shows that it does."""
    protocol: str = options["security_protocol"]
    with contextlib.suppress(LogError, OSError):
        if protocol.endswith("SSL"):
            bare = {**options, "security_protocol": protocol.replace("SSL", "PLAINTEXT")}
            with contextlib.suppress(LogError), _at(address, bare) as door:
                door.ask(ApiVersionsRequest[0](), ApiVersionsResponse[0])
                return LogRefused(f"Kafka: {address} by {protocol}: it does not speak TLS there")
        if not protocol.startswith("SASL"):
            with _at(address, options) as door:
                ask = SaslHandshakeRequest[1](mechanism="PLAIN")
                if known := door.ask(ask, SaslHandshakeResponse[1]).mechanisms:
                    return door.refused(f"it asks for SASL there, by {' or '.join(known)}")
    return None


@contextlib.contextmanager
def _at(address: str, options: Mapping[str, Any]) -> Iterator[_Door]:
    """A connection to a broker, with TLS if configured."""
    host, _, port = address.rpartition(":")
    protocol = options["security_protocol"]
    with contextlib.ExitStack() as opened:
        plain = opened.enter_context(
            socket.create_connection((host.strip("[]"), int(port)), WAIT_S)
        )
        plain.settimeout(WAIT_S)
        door = _Door(address, protocol, plain)
        if protocol.endswith("SSL"):
            door.socket = opened.enter_context(_encrypted(door, options))
        yield door


def _encrypted(door: _Door, options: Mapping[str, Any]) -> ssl.SSLSocket:
    try:
        context = ssl.create_default_context(cafile=options.get("ssl_cafile"))
        context.check_hostname = options.get("ssl_check_hostname", True)
        if options.get("ssl_certfile"):
            context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    except (OSError, ssl.SSLError) as error:
        raise LogRefused(f"Kafka: log.ssl_cafile, ssl_certfile, ssl_keyfile: {error}") from error
    try:
        return context.wrap_socket(door.socket, server_hostname=door.host)
    except ssl.SSLCertVerificationError as error:
        raise door.refused(
            f"its certificate is not accepted: {error.verify_message.rstrip('.')}; log.ssl_cafile"
            " holds the authority that signed it, log.bootstrap the host name that stands in it"
        ) from error
    except (ssl.SSLError, ConnectionError) as error:
        if getattr(error, "reason", None) == "WRONG_VERSION_NUMBER":
            raise door.refused("it does not speak TLS there") from error
        raise door.closed("the TLS handshake") from error


def _authenticate(door: _Door, options: Mapping[str, Any]) -> None:
    name = options["sasl_mechanism"]
    answer = door.ask(SaslHandshakeRequest[1](mechanism=name), SaslHandshakeResponse[1])
    if answer.error_code == errors.UnsupportedSaslMechanismError.errno:
        known = ", ".join(answer.mechanisms)
        raise door.refused(f"log.sasl_mechanism: it expects one of {known}, got {name}")
    if answer.error_code:
        raise door.refused(f"it does not ask for SASL there: {_told(answer)}")
    mechanism = get_sasl_mechanism(name)(**{**options, "host": door.host})
    while not mechanism.is_done():
        request = SaslAuthenticateRequest[0](auth_bytes=mechanism.auth_bytes())
        answer = door.ask(request, SaslAuthenticateResponse[0])
        if answer.error_code:
            user = options.get("sasl_plain_username") or "the token's user"
            raise door.refused(f"{name} as {user}: {_told(answer)}")
        mechanism.receive(answer.auth_bytes)


def _told(answer: Any) -> str:
    return getattr(answer, "error_message", None) or errors.for_code(answer.error_code).__name__


class _Door:
    """A connection, and what may go wrong with it in words."""

    def __init__(self, address: str, protocol: str, connection: socket.socket) -> None:
        self.host = address.rpartition(":")[0]
        self.socket = connection
        self._where = f"Kafka: {address} by {protocol}"

    def refused(self, why: str) -> LogRefused:
        return LogRefused(f"{self._where}: {why}")

    def closed(self, where: str) -> LogUnavailable:
        return LogUnavailable(f"{self._where}: it closed the connection in {where}")

    def ask(self, request: Any, answer: Any) -> Any:
        """The broker's answer to a request."""
        request.with_header(correlation_id=_NUMBER, client_id="millrace")
        try:
            self.socket.sendall(request.encode(framed=True, header=True))
            head = self._read(4)
            if head.startswith(_TLS_ALERT):
                raise self.refused("it speaks TLS there")
            size = struct.unpack(">i", head)[0]
            body = self._read(size) if 0 < size <= _FRAME_BYTES else b""
            if body[:4] != struct.pack(">i", _NUMBER):
                raise self.refused("what answers there does not speak Kafka's protocol")
        except ssl.SSLError as error:
            raise self.refused(
                f"{error.reason or error}; log.ssl_certfile must please it"
            ) from error
        except ConnectionError as error:
            raise self.closed("the first requests") from error
        return answer.decode(body, header=True)

    def _read(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            more = self.socket.recv(size - len(found))
            if not more:
                raise ConnectionResetError("closed")
            found += more
        return found

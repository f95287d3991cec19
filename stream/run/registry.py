"""A schema registry by its REST paths: what Confluent's, Karapace and Apicurio (ccompat) speak.

Asked beside the step. It follows no redirects and reads no more than it needs; what it was told is
data, nothing of it is run.
"""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import structlog

from stream.contract.schemas import RegistryUnavailable, Schema
from stream.settings.schema import RegistrySettings

logger = structlog.get_logger()

SCHEMA_BYTES = 512 << 10
"""Text of one schema with all that it refers to: it must fit into a journal record."""
REFERENCES = 100
"""Schemas that one may refer to, those that they refer to included."""
ABSENT_S = 30.0
"""How long a number that the registry did not have is not asked for again."""
_ABSENT = 10_000


class _Reference(msgspec.Struct, frozen=True):
    name: str
    subject: str
    version: int


class _Answer(msgspec.Struct, frozen=True):
    schema: str
    schemaType: str = "AVRO"
    references: list[_Reference] = []


class _Unusable(Exception):
    """There is no such schema, or one that cannot be taken in."""


class HttpRegistry:
    """See :class:`stream.contract.schemas.Registry`."""

    def __init__(self, settings: RegistrySettings) -> None:
        self._url = settings.url.rstrip("/")
        headers = {"Accept": "application/vnd.schemaregistry.v1+json, application/json"}
        auth = None
        if settings.token is not None:
            headers["Authorization"] = f"Bearer {settings.token.get_secret_value()}"
        elif settings.username is not None and settings.password is not None:
            auth = httpx.BasicAuth(settings.username, settings.password.get_secret_value())
        self._client = httpx.Client(
            headers=headers,
            auth=auth,
            timeout=settings.timeout / 1000,
            verify=_trusted(settings),
            # Proxies and a .netrc of the machine would see what was meant for the registry alone.
            trust_env=False,
        )
        self._absent: dict[int, float] = {}

    def schema(self, number: int) -> Schema | None:
        """See :meth:`stream.contract.schemas.Registry.schema`."""
        if time.monotonic() < self._absent.get(number, 0.0):
            return None
        try:
            answer = self._ask(f"/schemas/ids/{number}")
            known: dict[str, str] = {}
            self._refer(answer, known)
            if sum(map(len, (answer.schema, *known.values()))) > SCHEMA_BYTES:
                raise _Unusable(f"expected at most {SCHEMA_BYTES} bytes with its references")
        except _Unusable as error:
            logger.warning("schema_unusable", schema=number, registry=self._url, error=str(error))
            if len(self._absent) >= _ABSENT:
                self._absent.clear()
            self._absent[number] = time.monotonic() + ABSENT_S
            return None
        return Schema(number, answer.schemaType, answer.schema, tuple(known.items()))

    def _refer(self, answer: _Answer, known: dict[str, str]) -> None:
        """Add what an answer refers to, each after what it refers to itself."""
        for reference in answer.references:
            if reference.name not in known:
                if len(known) >= REFERENCES:
                    raise _Unusable(f"expected at most {REFERENCES} references")
                subject = quote(reference.subject, safe="")
                found = self._ask(f"/subjects/{subject}/versions/{reference.version}")
                self._refer(found, known)
                known[reference.name] = found.schema

    def _ask(self, path: str) -> _Answer:
        """A schema by its path; of a Protobuf schema its descriptor."""
        answer = self._get(path, {})
        if answer.schemaType == "PROTOBUF":
            return self._get(path, {"format": "serialized"})
        return answer

    def _get(self, path: str, query: dict[str, str]) -> _Answer:
        where = f"registry {self._url}{path}"
        body = b""
        try:
            with self._client.stream("GET", self._url + path, params=query) as response:
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > 2 * SCHEMA_BYTES:
                        raise _Unusable(f"{where}: expected at most {2 * SCHEMA_BYTES} bytes")
        except httpx.HTTPError as error:
            raise RegistryUnavailable(f"{where}: {type(error).__name__}: {error}") from error
        if response.status_code == 404:
            raise _Unusable(f"{where}: 404")
        try:
            if response.status_code != 200:
                raise RegistryUnavailable(f"{where}: {response.status_code} {_told(body)}")
            return msgspec.json.decode(body, type=_Answer)
        except msgspec.MsgspecError as error:
            raise RegistryUnavailable(f"{where}: not a registry's answer: {error}") from error

    def close(self) -> None:
        """See :meth:`stream.contract.schemas.Registry.close`."""
        self._client.close()


def _told(body: bytes) -> str:
    """What an answer says of an error, shortened."""
    return body[:300].decode(errors="replace")


def _trusted(settings: RegistrySettings) -> Any:
    if settings.ssl_cafile is None:
        return True
    import ssl

    return ssl.create_default_context(cafile=settings.ssl_cafile)

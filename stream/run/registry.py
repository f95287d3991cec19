"""A schema registry by its REST paths: what Confluent's, Karapace and Apicurio (ccompat) speak.

Asked beside the step. It follows no redirects and reads no more than it needs; what it was told is
data, nothing of it is run.
"""

from __future__ import annotations

import ssl
import time
from contextlib import suppress
from typing import TypeVar
from urllib.parse import quote

import httpx
import msgspec
import structlog

from models.base import MillraceError
from stream.contract.schemas import RegistryUnavailable, Schema, SchemaRefused
from stream.settings.schema import RegistrySettings

T = TypeVar("T")
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


class _Registered(msgspec.Struct, frozen=True):
    id: int


class _Compatible(msgspec.Struct, frozen=True):
    is_compatible: bool = True
    messages: list[str] = []


class _Unusable(Exception):
    """There is a schema that cannot be taken in, or the registry refuses what it was sent."""


class _Missing(_Unusable):
    """There is none."""


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
        self._auto_register = settings.auto_register
        self._absent: dict[int, float] = {}

    def schema(self, number: int) -> Schema | None:
        """See :meth:`stream.contract.schemas.Registry.schema`."""
        if time.monotonic() < self._absent.get(number, 0.0):
            return None
        try:
            answer = self._ask(f"/schemas/ids/{number}")
            known: dict[str, str] = {}
            self._refer(answer, known, set())
            if sum(map(len, (answer.schema, *known.values()))) > SCHEMA_BYTES:
                raise _Unusable(f"expected at most {SCHEMA_BYTES} bytes with its references")
        except _Unusable as error:
            if not isinstance(error, _Missing):  # of which dead letters tell
                logger.warning("schema_unusable", schema=number, error=str(error))
            if len(self._absent) >= _ABSENT:
                self._absent.clear()
            self._absent[number] = time.monotonic() + ABSENT_S
            return None
        return Schema(number, answer.schemaType, answer.schema, tuple(known.items()))

    def register(self, subject: str, kind: str, text: str) -> int:
        """See :meth:`stream.contract.schemas.Registry.register`.

        1. Is it there? 2. May it follow the subject's newest? 3. Put it there, by the setting.
        """
        place = f"/subjects/{quote(subject, safe='')}"
        body = {"schema": text, "schemaType": kind}
        try:
            with suppress(_Missing):  # it is not there yet
                return self._call("POST", place, _Registered, {}, body).id
            self._require_compatible(subject, body)
            if self._auto_register:
                return self._call("POST", f"{place}/versions", _Registered, {}, body).id
        except _Unusable as error:
            raise SchemaRefused(f"{error}; the schema, of type {kind}:\n{text}") from error
        raise SchemaRefused(
            f"registry {self._url}: expected this schema of type {kind} under {subject!r}, it is "
            f"not there; register it, or set registry.auto_register:\n{text}"
        )

    def _require_compatible(self, subject: str, body: dict[str, str]) -> None:
        place = f"/compatibility/subjects/{quote(subject, safe='')}/versions/latest"
        try:
            told = self._call("POST", place, _Compatible, {"verbose": "true"}, body)
        except _Unusable:
            return  # there is none before it; some say so by a 422
        if not told.is_compatible:
            raise SchemaRefused(
                f"registry {self._url}: the schema of scores may not follow the newest under "
                f"{subject!r}: {'; '.join(told.messages)[:500] or 'it does not say why'}. Write to "
                f"another topic, or change the subject's compatibility:\n{body['schema']}"
            )

    def _refer(self, answer: _Answer, known: dict[str, str], asked: set[str]) -> None:
        """Add what an answer refers to, each after what it refers to itself."""
        for reference in answer.references:
            if reference.name not in asked:
                asked.add(reference.name)
                if len(asked) > REFERENCES:
                    raise _Unusable(f"expected at most {REFERENCES} references")
                subject = quote(reference.subject, safe="")
                found = self._ask(f"/subjects/{subject}/versions/{reference.version}")
                self._refer(found, known, asked)
                known[reference.name] = found.schema

    def _ask(self, path: str) -> _Answer:
        """A schema by its path; of a Protobuf schema its descriptor."""
        answer = self._call("GET", path, _Answer)
        if answer.schemaType == "PROTOBUF":
            return self._call("GET", path, _Answer, {"format": "serialized"})
        return answer

    def _call(
        self,
        method: str,
        path: str,
        kind: type[T],
        query: dict[str, str] | None = None,
        body: dict[str, str] | None = None,
    ) -> T:
        """The answer to a request; ``_Unusable`` where the registry refuses what it names."""
        where = f"registry {self._url}{path}"
        raw = b""
        try:
            with self._client.stream(
                method, self._url + path, params=query or {}, json=body
            ) as response:
                for chunk in response.iter_bytes():
                    raw += chunk
                    if len(raw) > 2 * SCHEMA_BYTES:
                        raise _Unusable(f"{where}: expected at most {2 * SCHEMA_BYTES} bytes")
        except httpx.HTTPError as error:
            raise RegistryUnavailable(f"{where}: {type(error).__name__}: {error}") from error
        answer = f"{where}: {response.status_code} {raw[:500].decode(errors='replace')}"
        if response.status_code == 404:
            raise _Missing(answer)
        if response.status_code in (400, 409, 422):
            raise _Unusable(answer)
        if response.status_code != 200:
            raise RegistryUnavailable(answer)
        try:
            return msgspec.json.decode(raw, type=kind)
        except msgspec.MsgspecError as error:
            raise RegistryUnavailable(f"{where}: not a registry's answer: {error}") from error

    def close(self) -> None:
        """See :meth:`stream.contract.schemas.Registry.close`."""
        self._client.close()


def _trusted(settings: RegistrySettings) -> ssl.SSLContext | bool:
    if settings.ssl_cafile is None:
        return True
    try:
        return ssl.create_default_context(cafile=settings.ssl_cafile)
    except OSError as error:  # ssl.SSLError too
        raise MillraceError(
            f"registry.ssl_cafile: expected certificates in PEM, got {str(settings.ssl_cafile)!r}: "
            f"{error}"
        ) from error

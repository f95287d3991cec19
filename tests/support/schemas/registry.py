"""A schema registry for tests: the REST paths of Confluent's, in memory, on 127.0.0.1.

It gives Protobuf schemas as descriptors, keeps any schema that is new to its subject, and calls
whatever ``incompatible`` names incompatible: what a schema may become is not what is tested here.
"""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

Answer = tuple[int, Any]


class FakeRegistry:
    """Schemas by number and by subject.

    Attributes
    ----------
    asked : list of str
        Path of each request, in order.
    authorizations : set of str
        What callers said of themselves.
    away : bool
        Answer everything with a 503.
    incompatible : set of str
        Subjects that take no further schema.
    descriptors : dict
        What it would compile a Protobuf file to, by its text.
    """

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[str] = []
        self.authorizations: set[str] = set()
        self.away = False
        self.incompatible: set[str] = set()
        self.descriptors: dict[str, str] = {}
        self.schemas: dict[int, dict[str, Any]] = {}
        self.subjects: dict[str, list[int]] = {}

    def add(self, subject: str, schema: str, kind: str = "AVRO", references: Any = ()) -> int:
        """Register a schema; its number."""
        body = {"schema": schema, "schemaType": kind, "references": list(references)}
        number = next((n for n, known in self.schemas.items() if known == body), 0)
        if not number:
            number = len(self.schemas) + 1
            self.schemas[number] = body
        versions = self.subjects.setdefault(subject, [])
        if number not in versions:
            versions.append(number)
        return number

    def answer(self, method: str, path: str, body: Any) -> Answer:
        """What the registry says."""
        if self.away:
            return 503, {"error_code": 50302, "message": "away"}
        told = urlsplit(path)
        match [unquote(part) for part in told.path.strip("/").split("/")]:
            case ["schemas", "ids", number] if int(number) in self.schemas:
                found = self.schemas[int(number)]
                if found["schemaType"] == "PROTOBUF" and "format=serialized" not in told.query:
                    return 200, found | {"schema": 'syntax = "proto3";'}
                text = found["schema"]
                return 200, found | {"schema": self.descriptors.get(text, text)}
            case ["subjects", subject, "versions", version] if subject in self.subjects:
                return 200, self._version(subject, version)
            case ["subjects", subject, "versions"] if method == "POST":
                if subject in self.incompatible:
                    return 409, {"error_code": 409, "message": "a field was removed"}
                return 200, {"id": self.add(subject, *_parts(body))}
            case ["subjects", subject] if method == "POST":
                return self._registered(subject, body)
            case ["compatibility", "subjects", subject, "versions", "latest"]:
                said = subject in self.incompatible
                messages = {"messages": ["a field was removed"]} if said else {}
                return 200, {"is_compatible": not said} | messages
        return 404, {"error_code": 40403, "message": "not found"}

    def _version(self, subject: str, version: str) -> Any:
        versions = self.subjects[subject]
        at = len(versions) if version == "latest" else int(version)
        number = versions[at - 1]
        return self.schemas[number] | {"subject": subject, "version": at, "id": number}

    def _registered(self, subject: str, body: Any) -> Answer:
        schema, kind, _ = _parts(body)
        for at, number in enumerate(self.subjects.get(subject, ()), 1):
            known = self.schemas[number]
            if (known["schema"], known["schemaType"]) == (schema, kind):
                return 200, known | {"subject": subject, "version": at, "id": number}
        return 404, {"error_code": 40403, "message": "schema not found"}


def _parts(body: Any) -> tuple[str, str, Any]:
    return body["schema"], body.get("schemaType", "AVRO"), body.get("references") or []


@contextmanager
def registry(certificate: Path | None = None) -> Iterator[FakeRegistry]:
    """A registry that listens until the end; with a key and its certificate by HTTPS."""
    fake = FakeRegistry()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(size) or b"null")
            fake.asked.append(self.path)
            fake.authorizations.add(self.headers.get("Authorization", ""))
            status, answer = fake.answer(self.command, self.path, body)
            raw = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            """Nothing on the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    port = server.server_address[1]
    fake.url = f"http://127.0.0.1:{port}" if certificate is None else f"https://localhost:{port}"
    try:
        yield fake
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

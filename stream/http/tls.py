"""The certificate of `http.tls`: read at the start, and anew whenever its files were changed.

Connections that are open keep what they began with. Never leaves a certificate that works for one
that does not.
"""

from __future__ import annotations

import asyncio
import os
import ssl

import structlog

from models.base import MillraceError
from stream.settings.schema import TlsSettings

LOOK_S = 10.0
"""How often the files are looked at."""

log = structlog.get_logger(__name__)


class CertificateError(MillraceError):
    """Certificate and key cannot be used."""


class Certificate:
    """The context of handshakes to come.

    Raises :class:`CertificateError` when certificate and key cannot be used at the start.

    Attributes
    ----------
    context : ssl.SSLContext
        Another one after each renewal: one context would hold the new certificate and the old key
        while the two are read.
    """

    def __init__(self, settings: TlsSettings) -> None:
        self._settings = settings
        # Before they are read: what changes meanwhile is read once more.
        self._seen = self._look()
        self.context = _read(settings)

    async def watch(self) -> None:
        """Renew; runs as long as the server."""
        while True:
            await asyncio.sleep(LOOK_S)
            # In a thread: a file system that hangs must not stop the server.
            await asyncio.to_thread(self.renew)

    def renew(self) -> None:
        """Read the files again if they were changed since they were read last.

        Of the two one is written first: what does not fit yet is tried again at the next change.
        """
        seen = self._look()
        if seen == self._seen:
            return
        self._seen = seen
        files = {"certfile": str(self._settings.certfile), "keyfile": str(self._settings.keyfile)}
        try:
            self.context = _read(self._settings)
        except CertificateError as error:
            log.warning("http certificate not renewed", **files, error=str(error))
        else:
            log.info("http certificate renewed", **files)

    def _look(self) -> list[tuple[int, ...]]:
        """What changes with the files' contents, also where a link is turned to another one."""
        found: list[tuple[int, ...]] = []
        for path in (self._settings.certfile, self._settings.keyfile):
            try:
                state = os.stat(path)
            except OSError:
                found.append(())
            else:
                found.append((state.st_dev, state.st_ino, state.st_mtime_ns, state.st_size))
        return found


def _read(settings: TlsSettings) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    try:
        # Without a password OpenSSL would ask for one at the terminal.
        context.load_cert_chain(settings.certfile, settings.keyfile, password="")
    except OSError as error:
        raise CertificateError(
            f"http.tls: expected a certificate and its key without a password, got "
            f"{settings.certfile} and {settings.keyfile}: {error.strerror or error}"
        ) from error
    return context

"""Certificates that are renewed while the server runs."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPSConnection
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from stream.http.tls import Certificate
from stream.settings.schema import TlsSettings
from tests.stream.logs.secured import make_authority, make_signed
from tests.support.http_fake import config, running
from tests.support.waiting import wait_until


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with ``used.pem`` and ``new.pem``, two certificates with their keys."""
    by, authority = make_authority(tmp_path / "authority.pem")
    for name in ("used", "new"):
        make_signed(tmp_path / f"{name}.pem", "localhost", by, authority)
    return tmp_path


def gone(used: Path) -> None:
    """Take it away."""
    used.unlink()


def cut(used: Path) -> None:
    """Leave its first half."""
    used.write_bytes(used.read_bytes()[: used.stat().st_size // 2])


def of_another_key(used: Path) -> None:
    """The certificate is new, the key is not: one of two files is written first."""
    key, new = used.read_bytes(), used.with_name("new.pem").read_bytes()
    start = b"-----BEGIN CERTIFICATE"
    used.write_bytes(key[: key.index(start)] + new[new.index(start) :] + b"\n")


@pytest.mark.parametrize("spoil", [gone, cut, of_another_key])
def test_what_cannot_be_used_is_told_once_and_not_taken(
    place: Path, spoil: Callable[[Path], None]
) -> None:
    """The certificate before stays, until there is one that can be used."""
    used = place / "used.pem"
    certificate = Certificate(TlsSettings(certfile=used, keyfile=used))
    before = certificate.context
    spoil(used)
    with capture_logs() as said:
        certificate.renew()
        certificate.renew()
    assert [line["event"] for line in said] == ["http certificate not renewed"]
    assert certificate.context is before
    (place / "new.pem").replace(used)
    certificate.renew()
    assert certificate.context is not before


def test_a_renewed_certificate_is_taken_without_a_restart(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By connections to come; those that are open go on. The files may be links to others."""
    monkeypatch.setattr("stream.http.tls.LOOK_S", 0.01)
    link, trust = place / "link.pem", ssl.create_default_context(cafile=place / "authority.pem")
    link.symlink_to(place / "used.pem")
    with running(config(tls={"certfile": str(link), "keyfile": str(link)})) as it:
        address = "localhost", it.server.port
        with closing(HTTPSConnection(*address, context=trust)) as one:
            one.request("GET", "/livez")
            assert one.getresponse().read()
            shown = ssl.get_server_certificate(address)
            assert shown in (place / "used.pem").read_text()
            link.with_name("next").symlink_to(place / "new.pem")
            link.with_name("next").replace(link)
            wait_until(lambda: ssl.get_server_certificate(address) != shown, "the new certificate")
            assert ssl.get_server_certificate(address) in (place / "new.pem").read_text()
            one.request("GET", "/livez")
            assert one.getresponse().read()

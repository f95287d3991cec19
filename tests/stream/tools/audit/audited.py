"""A shard with a signed trail on disk, and what a test does with it from outside."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from typer.testing import CliRunner

from stream.cli.main import app
from stream.settings.load import load
from stream.settings.schema import Config

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
FOREIGN = Ed25519PrivateKey.from_private_bytes(bytes(31) + b"\1")


def write_keys(directory: Path) -> None:
    """``key.pem``, ``public.pem`` and ``foreign.pem``."""
    (directory / "key.pem").write_bytes(
        KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    for name, key in (("public", KEY), ("foreign", FOREIGN)):
        raw = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (directory / f"{name}.pem").write_bytes(raw)


def millrace(*args: object, status: int = 0) -> str:
    """Run a command; returns what it printed."""
    result = CliRunner().invoke(app, [str(a) for a in args])
    assert result.exit_code == status, result.output
    return result.output


def settings(directory: Path) -> Config:
    return load(directory / "c.toml", {})

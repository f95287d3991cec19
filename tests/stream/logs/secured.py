"""A broker that asks who comes: TLS, passwords, and rights on each resource.

Listeners beside the plain one: ``SSL`` with a certificate for ``localhost`` alone, which wants one
of the client too; ``SASL_PLAINTEXT`` with the passwords of :data:`USERS`; ``SASL_SSL`` with these
by SCRAM, and with tokens that :func:`token` makes. Who comes in by the plain listener, or as
``operator``, may do everything; all others only what :meth:`Secured.allow` gave them.
"""

from __future__ import annotations

import base64
import datetime
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ResourcePattern,
    ResourceType,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from tests.support.broker import Broker, free_port

USERS = {"millrace": "opensesame", "nobody": "nothing", "operator": "password"}
_MODULES = "org.apache.kafka.common.security"
_CLAIM = "unsecuredLoginStringClaim_sub"


class Secured(Broker):
    """See the module.

    Attributes
    ----------
    ssl, sasl, both
        ``host:port`` of these listeners.
    authority, stranger
        Certificates, PEM files: that which signed the broker's, and another.
    operator, impostor
        Keys with certificates of one name, PEM files, signed by these two.
    """

    def __init__(self) -> None:
        self._certificates = tempfile.TemporaryDirectory(prefix="millrace-tls-")
        place = Path(self._certificates.name)
        self.authority, self.stranger = place / "authority.pem", place / "stranger.pem"
        self.operator, self.impostor = place / "operator.pem", place / "impostor.pem"
        known, other = make_authority(self.authority), make_authority(self.stranger)
        make_signed(place / "broker.pem", "localhost", *known)
        make_signed(self.operator, "operator", *known)
        make_signed(self.impostor, "operator", *other)
        self.ssl, self.sasl = f"localhost:{free_port()}", f"127.0.0.1:{free_port()}"
        self.both = f"localhost:{free_port()}"
        users = " ".join(f'user_{name}="{password}"' for name, password in USERS.items())
        plain = f"{_MODULES}.plain.PlainLoginModule required {users};"
        scram = f"{_MODULES}.scram.ScramLoginModule required;"
        oauth = f'{_MODULES}.oauthbearer.OAuthBearerLoginModule required {_CLAIM}="broker";'
        both = "listener.name.sasl_ssl"
        super().__init__(
            properties={
                "ssl.keystore.type": "PEM",
                "ssl.keystore.location": str(place / "broker.pem"),
                "ssl.truststore.type": "PEM",
                "ssl.truststore.location": str(self.authority),
                "listener.name.ssl.ssl.client.auth": "required",
                "sasl.enabled.mechanisms": "PLAIN",
                "listener.name.sasl_plaintext.plain.sasl.jaas.config": plain,
                f"{both}.sasl.enabled.mechanisms": "SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
                f"{both}.scram-sha-256.sasl.jaas.config": scram,
                f"{both}.scram-sha-512.sasl.jaas.config": scram,
                f"{both}.oauthbearer.sasl.jaas.config": oauth,
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": "User:ANONYMOUS;User:operator;User:CN=operator",
            },
            beside={"SSL": self.ssl, "SASL_PLAINTEXT": self.sasl, "SASL_SSL": self.both},
        )

    def start(self) -> None:
        """As any broker, and give it the passwords for SCRAM."""
        super().start()
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
            admin.alter_user_scram_credentials(
                [UserScramCredentialUpsertion(n, mechanism, word) for n, word in USERS.items()]
            )
        admin.close()

    def allow(self, kind: ResourceType, name: str, *operations: ACLOperation) -> None:
        """Let ``User:millrace`` do these on a resource; ``*``: on all of its kind."""
        self._change("create_acls", [_acl(kind, name, operation) for operation in operations])

    def forbid(self, kind: ResourceType, name: str, *operations: ACLOperation) -> None:
        """Take rights away that :meth:`allow` gave."""
        self._change("delete_acls", [_acl(kind, name, operation) for operation in operations])

    def _change(self, how: str, acls: list[Any]) -> None:
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        getattr(admin, how)(acls)
        admin.close()

    def close(self) -> None:
        """End it and delete its data and certificates."""
        super().close()
        self._certificates.cleanup()


def token(user: str, life_s: float = 3600.0) -> str:
    """A token without a signature, which the broker takes: for tests only."""

    def part(claims: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")

    now = time.time()
    return f"{part({'alg': 'none'})}.{part({'sub': user, 'iat': now - 60, 'exp': now + life_s})}."


def _acl(kind: ResourceType, name: str, operation: ACLOperation) -> ACL:
    pattern = ResourcePattern(kind, name)
    return ACL("User:millrace", "*", operation, ACLPermissionType.ALLOW, pattern)


def _builder(name: str, issuer: x509.Name | None, public: Any) -> x509.CertificateBuilder:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
    )


def make_authority(file: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """A certificate that signs others, in a PEM file, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(file.stem, None, key.public_key())
    authority = x509.BasicConstraints(ca=True, path_length=None)
    made = builder.add_extension(authority, critical=True).sign(key, hashes.SHA256())
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return key, made


def make_signed(
    file: Path, name: str, by: ec.EllipticCurvePrivateKey, authority: x509.Certificate
) -> None:
    """A key and its certificate for a host or a user, as brokers and clients read them."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(name, authority.subject, key.public_key())
    names = x509.SubjectAlternativeName([x509.DNSName(name)])
    made = builder.add_extension(names, critical=False).sign(by, hashes.SHA256())
    pem = serialization.Encoding.PEM
    file.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(pem)
        + authority.public_bytes(pem)
    )

"""A broker that asks who comes: TLS, passwords, and rights on each resource.

Listeners beside the plain one: ``SSL`` with a certificate for ``localhost`` alone, and
``SASL_PLAINTEXT`` with the passwords of :data:`USERS`. Who comes in by the plain listener may do
everything; all others only what :meth:`Secured.allow` gave them.
"""

from __future__ import annotations

import datetime
import tempfile
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from kafka import KafkaAdminClient
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType

from tests.support.broker import Broker, free_port

USERS = {"millrace": "opensesame", "nobody": "nothing"}


class Secured(Broker):
    """See the module.

    Attributes
    ----------
    ssl, sasl
        ``host:port`` of these listeners.
    authority, stranger
        Certificates, PEM files: that which signed the broker's, and another.
    """

    def __init__(self) -> None:
        self._certificates = tempfile.TemporaryDirectory(prefix="millrace-tls-")
        place = Path(self._certificates.name)
        self.authority, self.stranger = place / "authority.pem", place / "stranger.pem"
        key, certificate = _authority(self.authority)
        _authority(self.stranger)
        _signed(place / "broker.pem", key, certificate)
        ssl, sasl = free_port(), free_port()
        self.ssl, self.sasl = f"localhost:{ssl}", f"127.0.0.1:{sasl}"
        users = " ".join(f'user_{name}="{password}"' for name, password in USERS.items())
        module = "org.apache.kafka.common.security.plain.PlainLoginModule"
        listener = "listener.name.sasl_plaintext"
        super().__init__(
            properties={
                "ssl.keystore.type": "PEM",
                "ssl.keystore.location": str(place / "broker.pem"),
                "sasl.enabled.mechanisms": "PLAIN",
                f"{listener}.plain.sasl.jaas.config": f"{module} required {users};",
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": "User:ANONYMOUS",
            },
            beside={"SSL": self.ssl, "SASL_PLAINTEXT": self.sasl},
        )

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


def _authority(file: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(file.stem, None, key.public_key())
    authority = x509.BasicConstraints(ca=True, path_length=None)
    made = builder.add_extension(authority, critical=True).sign(key, hashes.SHA256())
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return key, made


def _signed(file: Path, by: ec.EllipticCurvePrivateKey, authority: x509.Certificate) -> None:
    """A key and its certificate for ``localhost``, as a broker reads them."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder("localhost", authority.subject, key.public_key())
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    made = builder.add_extension(names, critical=False).sign(by, hashes.SHA256())
    pem = serialization.Encoding.PEM
    file.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(pem)
        + authority.public_bytes(pem)
    )

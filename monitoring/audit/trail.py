"""The audit trail: one record for each change of a model, chained by hashes, signed on request.

The engine owns a :class:`Trail` as part of its state and sends what :meth:`Trail.record` returns
out with the step. Never reads a clock or writes a file.

``hash = SHA-256("audit-v1" NUL canonical(record without hash and sig))`` covers ``prev``, the hash
before it, so a change anywhere breaks the chain from there on. Two attacks remain that hashes alone
cannot show: who can write the whole trail can recompute every hash (a signature shows it), and can
cut its tail (an anchor shows it: a signed head ``(seq, hash)`` kept elsewhere).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from models.base import MillraceError, State, StateError, state_digest
from monitoring.audit.canonical import CanonicalError, canonical

VERSION = 1
DOMAIN = b"audit-v1\0"
SIGNATURE_DOMAIN = b"audit-v1-sig\0"
GENESIS = "0" * 64
"""``prev`` of the first record, whose ``seq`` is 1."""

_FIXED = ("v", "trail", "seq", "prev", "at", "event", "cause", "actor", "model", "hash", "sig")


class TrailError(MillraceError):
    """A record, a key or an anchor cannot be used."""


class BadSignature(TrailError):
    """An anchor is not signed by the given key."""


class Head(NamedTuple):
    """The newest record: its number (0 before the first) and its hash."""

    seq: int
    hash: str


class Exit(IntEnum):
    """Exit codes of ``millrace audit verify``; apart from 1 (any error) and 2 (wrong usage)."""

    OK = 0
    BROKEN = 10
    TRUNCATED = 11
    BAD_SIGNATURE = 12
    MODEL_MISMATCH = 13
    MISSING = 14


@dataclass(frozen=True, slots=True)
class Verdict:
    """What :func:`verify` found.

    Parameters
    ----------
    outcome : Exit
    head : Head
        The last record that was good.
    signed : int
        Records whose signature was checked and is good.
    where, expected, got : str
        The place and the difference; empty when ``outcome`` is ok.
    """

    outcome: Exit
    head: Head
    signed: int = 0
    where: str = ""
    expected: str = ""
    got: str = ""


class Trail:
    """Writes the chain of one shard.

    Parameters
    ----------
    name : str
        The trail's name, in every record: a record of another trail does not fit in.
    key : Ed25519PrivateKey, optional
        Signs each record. Not part of the state: Ed25519 is deterministic, and the hash does not
        cover the signature, so state and digest are the same with and without.
    """

    def __init__(self, name: str, key: Ed25519PrivateKey | None = None) -> None:
        self._name = name
        self._key = key
        self._head = Head(0, GENESIS)

    def record(
        self,
        event: str,
        *,
        at_ms: int,
        cause: str,
        actor: str,
        model: str,
        detail: Mapping[str, Any] | None = None,
    ) -> bytes:
        """Append one record and return its canonical JSON.

        ``at_ms`` is the step's clock; ``detail`` adds fields of its own. Raises
        :class:`~monitoring.audit.canonical.CanonicalError` for a value without a canonical form and
        :class:`TrailError` for a detail named as a fixed field; the chain has not moved then.
        """
        detail = detail or {}
        if clash := sorted(set(detail) & set(_FIXED)):
            raise TrailError(f"audit record {event}: detail may not be named {', '.join(clash)}")
        body = {
            "v": VERSION,
            "trail": self._name,
            "seq": self._head.seq + 1,
            "prev": self._head.hash,
            "at": at_ms,
            "event": event,
            "cause": cause,
            "actor": actor,
            "model": model,
            **detail,
        }
        digest = _hash(body)
        line = canonical(body | {"hash": digest} | _signed(self._key, digest))
        self._head = Head(self._head.seq + 1, digest)
        return line

    def head(self) -> Head:
        """The newest record's number and hash."""
        return self._head

    def go_on(self, head: Head) -> None:
        """The next record follows this one, which is newer than what this state knows of."""
        self._head = head

    def state(self) -> State:
        """See :meth:`models.base.Model.state`; holds no key."""
        return {
            "name": self._name,
            "seq": self._head.seq,
            "hash": self._head.hash,
        }

    def restore(self, state: State) -> None:
        """See :meth:`models.base.Model.restore`."""
        if state["name"] != self._name:
            raise StateError(f"trail: expected a state of {self._name!r}, got {state['name']!r}")
        self._head = Head(int(state["seq"]), str(state["hash"]))

    def digest(self) -> str:
        """See :meth:`models.base.Model.digest`."""
        return state_digest(self.state())


class _Flaw(Exception):
    """One difference, on its way from the place that found it to the verdict."""

    def __init__(self, outcome: Exit, what: str, expected: object, got: object) -> None:
        super().__init__(what)
        self.outcome, self.what, self.expected, self.got = outcome, what, str(expected), str(got)


def verify(
    lines: Iterable[bytes],
    public_key: Ed25519PublicKey | None = None,
    anchors: Sequence[Head | tuple[int, str]] = (),
    name: str | None = None,
) -> Verdict:
    """Check a whole trail, from its first record; stops at the first flaw.

    Parameters
    ----------
    lines : iterable of bytes
        The records in order, with or without a line end.
    public_key : Ed25519PublicKey, optional
        Every record must carry a good signature of this key; without it none is checked.
    anchors : sequence of (seq, hash)
        Heads seen earlier, which the trail must still contain. Without any a cut tail looks whole.
    name : str, optional
        The trail's name; by default what the first record says.

    Returns
    -------
    Verdict
        Broken: a record was changed, removed, added or reordered, or is of another trail.
        Truncated: it ends before an anchor. Bad signature: the chain holds, but a record is not
        signed by this key. Missing: there is no record at all.
    """
    head, signed, trail = Head(0, GENESIS), 0, name
    seen: dict[int, set[str]] = {}
    for seq, digest in anchors:
        seen.setdefault(seq, set()).add(digest)
    for place, line in enumerate(lines, 1):
        try:
            record = _parse(line.removesuffix(b"\n"))
            trail = record.get("trail") if trail is None else trail
            digest = _check_chain(record, head, trail)
            _check_anchors(seen.get(head.seq + 1, ()), digest)
            if public_key is not None:
                _check_signature(public_key, digest, record.get("sig"))
                signed += 1
        except _Flaw as flaw:
            where = f"record {place}: {flaw.what}"
            return Verdict(flaw.outcome, head, signed, where, flaw.expected, flaw.got)
        head = Head(head.seq + 1, digest)
    last = max(seen, default=0)
    if head.seq < last:
        return Verdict(Exit.TRUNCATED, head, signed, "end", f"record {last}", f"record {head.seq}")
    if head.seq == 0:
        return Verdict(Exit.MISSING, head, signed, "trail", "records", "none")
    return Verdict(Exit.OK, head, signed)


def make_anchor(name: str, head: Head, key: Ed25519PrivateKey | None = None) -> bytes:
    """The head of the trail ``name`` as canonical JSON, signed; to be kept away from the trail."""
    return sealed({"v": VERSION, "trail": name, "anchor": head.seq, "head": head.hash}, key)


def sealed(body: Mapping[str, Any], key: Ed25519PrivateKey | None) -> bytes:
    """A statement about a trail as canonical JSON, signed."""
    return canonical({**body, **_signed(key, _hash(body))})


def unsealed(raw: bytes, public_key: Ed25519PublicKey | None = None) -> dict[str, Any]:
    """The statement in what :func:`sealed` gave, without its signature, which is checked.

    Raises :class:`TrailError` when it is malformed, :class:`BadSignature` when it is badly signed.
    """
    try:
        record = _parse(raw.removesuffix(b"\n"))
        signature = record.pop("sig", None)
        if public_key is not None:
            _check_signature(public_key, _hash(record), signature)
    except _Flaw as flaw:
        kind = BadSignature if flaw.outcome is Exit.BAD_SIGNATURE else TrailError
        raise kind(str(flaw)) from flaw
    return record


def head_after(line: bytes) -> Head:
    """The head of a trail that ends with this record; raises :class:`TrailError` for another."""
    try:
        record = _parse(line)
        return Head(int(record["seq"]), str(record["hash"]))
    except (_Flaw, KeyError, ValueError) as error:
        raise TrailError(f"audit record: {error}") from error


def read_anchor(
    raw: bytes, public_key: Ed25519PublicKey | None = None, name: str | None = None
) -> Head:
    """The head in an anchor, of the trail ``name`` if that is given.

    Raises :class:`TrailError` when it is malformed, :class:`BadSignature` when it is badly signed.
    """
    try:
        record = unsealed(raw, public_key)
    except TrailError as error:
        raise type(error)(f"audit anchor: {error}") from error
    seq, digest = record.get("anchor"), record.get("head")
    if not isinstance(seq, int) or not isinstance(digest, str):
        raise TrailError(f"audit anchor: expected a number and a hash, got {seq!r} and {digest!r}")
    if name is not None and record.get("trail") != name:
        raise TrailError(f"audit anchor: expected one of {name!r}, got {record.get('trail')!r}")
    return Head(seq, digest)


def load_private_key(path: Path) -> Ed25519PrivateKey:
    """The Ed25519 key in a PEM file without a password; raises :class:`TrailError`."""
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise TrailError(f"{path}: expected an Ed25519 private key in PEM: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise TrailError(f"{path}: expected an Ed25519 private key, got {type(key).__name__}")
    return key


def load_public_key(path: Path) -> Ed25519PublicKey:
    """The Ed25519 key in a PEM file; raises :class:`TrailError`."""
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError) as error:
        raise TrailError(f"{path}: expected an Ed25519 public key in PEM: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise TrailError(f"{path}: expected an Ed25519 public key, got {type(key).__name__}")
    return key


def _signed(key: Ed25519PrivateKey | None, digest: str) -> dict[str, str]:
    return {"sig": key.sign(SIGNATURE_DOMAIN + bytes.fromhex(digest)).hex()} if key else {}


def _hash(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(DOMAIN + canonical(body)).hexdigest()


def _parse(line: bytes) -> dict[str, Any]:
    """The record in a line that is in canonical form."""
    try:
        record = json.loads(line)
        again = canonical(record)
    except (ValueError, RecursionError, CanonicalError) as error:
        raise _Flaw(Exit.BROKEN, "form", "canonical JSON", error) from error
    if again != line or not isinstance(record, dict):
        raise _Flaw(Exit.BROKEN, "form", again.decode(), line.decode("utf-8", "replace"))
    return record


def _check_chain(record: Mapping[str, Any], head: Head, trail: object) -> str:
    """The record's hash, if the record continues the chain."""
    expected = {"v": VERSION, "trail": trail, "seq": head.seq + 1, "prev": head.hash}
    for name, value in expected.items():
        if record.get(name) != value:
            raise _Flaw(Exit.BROKEN, name, value, record.get(name))
    digest = _hash({k: v for k, v in record.items() if k not in ("hash", "sig")})
    if record.get("hash") != digest:
        raise _Flaw(Exit.BROKEN, "hash", digest, record.get("hash"))
    return digest


def _check_anchors(seen: Iterable[str], digest: str) -> None:
    for expected in seen:
        if expected != digest:
            raise _Flaw(Exit.BROKEN, "anchor", expected, digest)


def _check_signature(key: Ed25519PublicKey, digest: str, sig: object) -> None:
    if not isinstance(sig, str):
        raise _Flaw(Exit.BAD_SIGNATURE, "sig", "a signature", sig)
    try:
        raw = bytes.fromhex(sig)
        if raw.hex() != sig:  # fromhex also takes capitals and white space
            raise ValueError("not lower-case hexadecimal")
        key.verify(raw, SIGNATURE_DOMAIN + bytes.fromhex(digest))
    except (InvalidSignature, ValueError) as error:
        raise _Flaw(Exit.BAD_SIGNATURE, "sig", "a signature of the given key", sig) from error

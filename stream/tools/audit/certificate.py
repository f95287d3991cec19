"""A certificate: what ran, what its models hold and how good they were, in one signed file.

Made of a trail that was verified and of the newest checkpoint that the trail vouches for; verified
without log, state or network, on any machine with the public key.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from models.base import MillraceError
from monitoring.audit.trail import (
    VERSION,
    BadSignature,
    Exit,
    Head,
    TrailError,
    Verdict,
    load_private_key,
    load_public_key,
    read_anchor,
    sealed,
    unsealed,
    verify,
)
from stream.contract import private
from stream.decode.times import LATEST_MS
from stream.run.assemble import wall_clock_ms
from stream.settings.schema import Config
from stream.state.platform import sources
from stream.tools.audit.read import read_file, read_trail, records_of
from stream.tools.audit.verify import Saved, anchor_places, newest_saved, result, verify_trail

MEMBER = ("version_to", "held", "verdict", "exact", "trainable", "bytes", "structure", "root")
"""What a certificate says of a member, as the trail's newest full record of it does."""
FIGURES = ("roc_auc", "pr_auc", "f1", "log_loss", "brier", "calibration_error")
"""What of a certificate's figures of quality is shown first."""
CHECKPOINT = ("seq", "step", "root")


def certify(config: Config, target: Path) -> dict[str, Any]:
    """Write the certificate of a shard to ``target``, signed with ``audit.key``.

    Raises :class:`MillraceError` without a key, and for a trail or a checkpoint that does not
    verify: nothing is written.
    """
    if config.audit.key is None:
        raise MillraceError("certificate: expected audit.key: nobody could tell who wrote it")
    key = load_private_key(config.audit.key)
    verified = verify_trail(config, None, None, None, checkpoints=True)
    if verified["exit"]:
        raise MillraceError(
            f"certificate: expected a whole trail, got {verified['outcome']} at"
            f" {verified['where']}: {verified['got']}; see audit verify"
        )
    # As far as it was verified: a service may go on.
    head = Head(verified["head_seq"], verified["head_hash"])
    lines = read_trail(config)[: head.seq]
    body = {
        "v": VERSION,
        "certificate": config.name,
        "at": wall_clock_ms(),
        "head": {"seq": head.seq, "hash": head.hash},
        "anchors": _anchors(config, lines, head, key.public_key()),
        "not_checked": verified["not_checked"],
        **_card(lines, newest_saved(config, lines)),
    }
    raw = sealed(body, key)
    with private.opened(target) as file:
        file.write(raw + b"\n")
    return {"file": str(target), **body}


def _anchors(
    config: Config, lines: Iterable[bytes], head: Head, key: Ed25519PublicKey
) -> list[str]:
    """The anchors of a trail up to its head, each once.

    Raises :class:`MillraceError` for one that another key signed or that the trail contradicts.
    """
    kept: dict[str, Head] = {}
    for where, lines_there in anchor_places(config):
        for line in (line.strip() for line in lines_there):
            try:
                anchor = read_anchor(line, key, config.name)
            except BadSignature as error:
                raise MillraceError(f"certificate: {where}: {error}") from error
            except TrailError:
                continue  # half a line, which a killed process left
            if anchor.seq <= head.seq:
                kept[line.decode()] = anchor
    verdict = verify(lines, anchors=list(kept.values()), name=config.name)
    if verdict.outcome is not Exit.OK:
        raise MillraceError(
            f"certificate: expected anchors of this trail, got {verdict.expected} at"
            f" {verdict.where}, where it holds {verdict.got}"
        )
    return list(kept)


def _card(lines: Iterable[bytes], saved: Saved | None) -> dict[str, Any]:
    """What ran, and each member's figures; of quality as far as a checkpoint holds it."""
    records = records_of(lines)
    card: dict[str, Any] = {
        "code": {"sources": sources()},
        "config": None,
        "checkpoint": None,
        "members": _members(records),
        "events": dict(Counter(record["event"] for record in records)),
        "quality": None,
    }
    if saved is not None:
        engine, record = saved.engine, saved.record
        card["config"] = record.get("config")
        card["code"] |= {"written_by": engine.tree.get("written_by"), "ran_on": saved.fingerprint}
        card["checkpoint"] = {name: record.get(name) for name in CHECKPOINT}
        card["quality"] = {
            name: {metric: v for metric, v in windows["all"].items() if math.isfinite(v)}
            for name, windows in engine.quality.snapshot().report().items()
        }
    return card


def _members(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The newest full record of each member that was not removed since."""
    members: dict[str, Any] = {}
    for record in records:
        if record["event"] == "member_removed":
            members.pop(record["model"], None)
        elif set(MEMBER) <= record.keys():
            figures = {name: record[name] for name in MEMBER}
            members[record["model"]] = {"record": record["seq"], **figures}
    return members


# ------------------------------------------------------------------ verifying


def is_certificate(path: Path) -> bool:
    """Whether a file is a certificate and no configuration: TOML does not begin with a brace."""
    try:
        with path.open("rb") as file:
            return file.read(1) == b"{"
    except OSError:
        return False


class _Statement(msgspec.Struct):
    """What a certificate says, as far as it is compared or shown."""

    certificate: str
    at: Annotated[int, msgspec.Meta(ge=0, le=LATEST_MS)]
    head: _Place
    anchors: list[str]
    not_checked: list[str]
    code: _Code
    config: str | None
    checkpoint: dict[str, Any] | None
    members: dict[str, dict[str, Any]]
    events: dict[str, int]
    quality: dict[str, dict[str, Any]] | None


class _Code(msgspec.Struct):
    sources: str
    ran_on: dict[str, str] = {}


class _Place(msgspec.Struct):
    seq: int
    hash: str


def verify_certificate(path: Path, public_key: Path | None, trail: Path | None) -> dict[str, Any]:
    """Verify a certificate, and with ``trail`` what it says of an exported trail.

    1. Its form and its signature. 2. Each anchor in it: signed alike, none after the head. 3. The
    trail: it holds the head, every anchor, and the figures of each member. The result is that of
    ``audit verify``, with the certificate itself as ``certificate``.

    Raises :class:`MillraceError` for a key or a trail that cannot be read.
    """
    unchecked: list[str] = []
    if public_key is None:
        found = Verdict(Exit.MISSING, Head(0, ""), 0, "key", "--public-key", "none")
        return result(found, 0, [], unchecked)
    key = load_public_key(public_key)
    try:
        body = unsealed(path.read_bytes(), key)
        stated = msgspec.convert(body, _Statement)
        name = stated.certificate
        anchors = [read_anchor(anchor.encode(), key, name) for anchor in stated.anchors]
    except (BadSignature, TrailError, msgspec.ValidationError) as error:
        outcome = Exit.BAD_SIGNATURE if isinstance(error, BadSignature) else Exit.BROKEN
        expected = "a certificate as it was written and signed"
        flaw = Verdict(outcome, Head(0, ""), 0, str(path), expected, str(error))
        return result(flaw, 0, [], unchecked)
    head = Head(stated.head.seq, stated.head.hash)
    verdict = Verdict(Exit.OK, head, 1 + len(anchors))
    lines = [] if trail is None else read_file(trail)
    late = max((anchor.seq for anchor in anchors), default=0)
    if late > head.seq:
        wrong = f"up to record {head.seq}", f"record {late}"
        verdict = Verdict(Exit.BROKEN, head, 1 + len(anchors), "anchors", *wrong)
    elif trail is not None:
        verdict = _against(stated, lines, verify(lines, key, [head, *anchors], name))
    else:
        unchecked.append("the trail itself: give an exported one by --file")
    unchecked += [f"when it was written: {text}" for text in stated.not_checked]
    unchecked.append("quality: figures of the checkpoint's state, of which the trail has a digest")
    if stated.code.sources != sources():
        unchecked.append("its own sources: other ones than those of this checkout")
    return result(verdict, len(lines), anchors, unchecked) | {"certificate": body}


def _against(stated: _Statement, lines: list[bytes], verdict: Verdict) -> Verdict:
    """What a good trail says otherwise."""
    if verdict.outcome is not Exit.OK:
        return verdict
    records = records_of(lines[: stated.head.seq])
    held: dict[str, Any] = {
        "members": _members(records),
        "events": dict(Counter(record["event"] for record in records)),
    }
    said: dict[str, Any] = {"members": stated.members, "events": stated.events}
    if stated.checkpoint is not None:
        said |= {"checkpoint": stated.checkpoint, "config": stated.config}
        record = next((r for r in records if r["seq"] == stated.checkpoint.get("seq")), {})
        held["checkpoint"] = {name: record.get(name) for name in CHECKPOINT}
        held["config"] = record.get("config")
    for where in held:
        if said[where] != held[where]:
            wrong = where, str(held[where]), str(said[where])
            return Verdict(Exit.MODEL_MISMATCH, verdict.head, verdict.signed, *wrong)
    return verdict

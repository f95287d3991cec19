"""What operators do with the audit trail: read it, verify it, compare records, take it away.

Nothing here writes to the log or to the state directory, and a service may be running beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from models.base import MillraceError
from models.ensemble.ensemble import Ensemble
from monitoring.audit.trail import (
    Exit,
    Head,
    Verdict,
    load_private_key,
    load_public_key,
    read_anchor,
    verify,
)
from monitoring.audit.words import number, told
from monitoring.parameters.count import count
from monitoring.parameters.counted import Counted
from stream.run.assemble import build_engine, open_log, wall_clock_ms
from stream.settings.schema import Config
from stream.settings.upgrade import digest, is_given, recorded
from stream.state.anchors import FILE as ANCHORS
from stream.state.generations import (
    CheckpointError,
    Manifest,
    list_generations,
    load,
    read_manifest,
    revive,
)

ALL = 1 << 40
"""More records than a trail has."""


def read_trail(config: Config) -> list[bytes]:
    """This shard's records in the audit topic, in the order in which they were committed."""
    log = open_log(config, wall_clock_ms)
    try:
        records = log.tail(config.topics.audit, ALL)
    finally:
        log.close()
    own = [r for r in records if r.key == config.name.encode()]
    return [r.value or b"" for r in sorted(own, key=lambda r: (r.partition, r.offset))]


def read_file(path: Path) -> list[bytes]:
    """The records in an exported file."""
    try:
        return path.read_bytes().splitlines()
    except OSError as error:
        raise MillraceError(f"{path}: expected an exported trail: {error.strerror}") from error


def export(config: Config, target: Path) -> dict[str, Any]:
    """Write the trail as JSON lines, byte for byte as it was committed."""
    lines = read_trail(config)
    target.write_bytes(b"".join(line + b"\n" for line in lines))
    return {"file": str(target), "records": len(lines)}


def show(config: Config, limit: int, member: str | None) -> list[dict[str, Any]]:
    """The newest ``limit`` records (of one member), oldest first."""
    records = [record for line in read_trail(config) if (record := _record(line)) is not None]
    if member is not None:
        records = [record for record in records if record["model"] == member]
    return records[-limit:]


def brief(record: Mapping[str, Any]) -> str:
    """One record as a line for people."""
    at = datetime.fromtimestamp(record["at"] / 1000, UTC).isoformat(timespec="seconds")
    text = f"{record['seq']:>7}  {at}  {record['event']:13} {record['model']:12} {told(record)}"
    return text.rstrip() + ("" if record.get("inside", True) else "  OUTSIDE the envelope")


def verify_trail(
    config: Config | None,
    file: Path | None,
    public_key: Path | None,
    anchor: Path | None,
    checkpoints: bool,
) -> dict[str, Any]:
    """Verify a trail, and on request the checkpoints against it.

    1. The chain, from the first record on; each signature, if a key is known.
    2. The newest anchor, which the trail must contain. Without ``anchor``: the file that the
       service keeps in its state directory, if there is one.
    3. Each generation in the state directory, by :func:`check_generations`.

    ``public_key`` defaults to that of ``audit.key``. ``exit`` in the result is one of
    :class:`~monitoring.audit.trail.Exit`.
    """
    if config is None and (file is None or checkpoints):
        raise MillraceError("verify: expected a configuration, or --file alone")
    lines = read_file(file) if file is not None else read_trail(_given(config))
    key = _public_key(config, public_key)
    seen, flaw = _anchor(config, anchor, key)
    verdict = flaw or verify(lines, key, seen)
    found: dict[str, Any] = {
        "outcome": verdict.outcome.name.lower(),
        "exit": int(verdict.outcome),
        "records": len(lines),
        "head_seq": verdict.head.seq,
        "head_hash": verdict.head.hash,
        "signatures_checked": verdict.signed,
        "anchor_seq": seen.seq if seen else None,
        "where": verdict.where,
        "expected": verdict.expected,
        "got": verdict.got,
    }
    if checkpoints and verdict.outcome is Exit.OK:
        rows = check_generations(_given(config), lines)
        found["generations"] = rows
        bad = [row for row in rows if row["verdict"] != "match"]
        if bad:
            found |= {"outcome": "model_mismatch", "exit": int(Exit.MODEL_MISMATCH)}
            found |= {"where": f"generation {bad[0]['seq']}", "got": bad[0]["verdict"]}
    return found


def _given(config: Config | None) -> Config:
    if config is None:
        raise MillraceError("audit: expected a configuration, got none")
    return config


def _public_key(config: Config | None, path: Path | None) -> Ed25519PublicKey | None:
    if path is not None:
        return load_public_key(path)
    if config is not None and config.audit.key is not None:
        return load_private_key(config.audit.key).public_key()
    return None


def _anchor(
    config: Config | None, path: Path | None, key: Ed25519PublicKey | None
) -> tuple[Head | None, Verdict | None]:
    """The newest anchor, or why it cannot be believed."""
    if path is None:
        path = config.state_dir / ANCHORS if config is not None else None
        if path is None or not path.exists():
            return None, None
    lines = [line for line in read_file(path) if line.strip()]
    if not lines:
        return None, None
    try:
        return read_anchor(lines[-1], key), None
    except MillraceError as error:
        signed = "sig" in str(error)
        outcome = Exit.BAD_SIGNATURE if signed else Exit.BROKEN
        verdict = Verdict(outcome, Head(0, ""), where=str(path), expected="a good anchor")
        return None, replace(verdict, got=str(error))


def check_generations(config: Config, lines: Iterable[bytes]) -> list[dict[str, Any]]:
    """Recount and rehash the members in each generation; compare with the trail's record of it.

    The step before a snapshot writes a ``checkpointed`` record with the digest of every member, so
    a generation that the trail does not vouch for, or that holds one other bit in a member or in
    the combiner, does not match; whoever altered it can write its checksums anew but not the trail.
    Windows, pending events and counters are not in these digests: ``millrace replay`` covers them.
    What a generation's configuration names is loaded only once that is vouched for.
    """
    vouched = _checkpoints(lines)
    rows = []
    for path in list_generations(config.state_dir):
        try:
            verdict = _compare(path, vouched, config)
        except (MillraceError, KeyError) as error:
            verdict = f"cannot be used: {error}"
        rows.append({"seq": int(path.name), "verdict": verdict})
    return rows


def _checkpoints(lines: Iterable[bytes]) -> dict[int, dict[str, Any]]:
    """What the trail says of each checkpoint, by its step."""
    records = [record for line in lines if (record := _record(line)) is not None]
    return {r["step"]: r for r in records if r["event"] == "checkpointed"}


def _verified(config: Config) -> list[bytes]:
    """The trail, once its chain and signatures hold; raises :class:`MillraceError`."""
    lines = read_trail(config)
    verdict = verify(lines, _public_key(config, None))
    if verdict.outcome is not Exit.OK:
        raise MillraceError(f"audit trail: {verdict.where}: got {verdict.got}; see audit verify")
    return lines


def _compare(path: Path, vouched: Mapping[int, Mapping[str, Any]], config: Config) -> str:
    """``match``, or what differs first."""
    manifest = read_manifest(path)
    record = vouched.get(manifest.seq)
    if record is None:
        return "the trail has no record of this checkpoint"
    ensemble = _ensemble(path, manifest, record, config)
    vouched_roots, roots = record["roots"], ensemble.roots()
    for name in [*roots, *vouched_roots]:
        if vouched_roots.get(name) != roots.get(name):
            return f"{name}: expected digest {vouched_roots.get(name)}, got {roots.get(name)}"
    for name, member in ensemble.members.items():
        held = count(member, target=name).totals.held
        if record["held"].get(name) != held:
            return f"{name}: expected {record['held'].get(name)} parameters, got {held}"
    return "match"


def _ensemble(
    path: Path, manifest: Manifest, record: Mapping[str, Any], config: Config
) -> Ensemble:
    """The members in a generation, whose configuration the trail's record or the given one is.

    Raises :class:`CheckpointError`; nothing is loaded then.
    """
    where = str(path)
    if record.get("config") != digest(manifest.config) and not is_given(
        manifest.config, where, config
    ):
        raise CheckpointError(
            "its configuration is neither the one on record in the trail nor the given one; nothing"
            " that it names was loaded"
        )
    engine = build_engine(recorded(manifest.config, where), None)
    revive(engine, load(path, manifest))
    return engine.ensemble


def count_saved(config: Config, member: str) -> Counted:
    """The parameters of a member as the newest checkpoint holds it; as configured without one.

    A checkpoint under another configuration than the given one must be on record in the trail.
    """
    saved = next(iter(list_generations(config.state_dir)), None)
    if saved is None:
        ensemble = build_engine(config, None).ensemble
    else:
        manifest = read_manifest(saved)
        known = is_given(manifest.config, str(saved), config)
        record = {} if known else _checkpoints(_verified(config)).get(manifest.seq, {})
        ensemble = _ensemble(saved, manifest, record, config)
    if member not in ensemble.members:
        raise MillraceError(f"member: expected one of {', '.join(ensemble.names)}; got {member!r}")
    return count(ensemble.members[member], target=member)


def diff(config: Config, first: int, last: int) -> list[dict[str, Any]]:
    """What two records of one member say differently, a row for each difference."""
    records = {r["seq"]: r for line in read_trail(config) if (r := _record(line)) is not None}
    for seq in (first, last):
        if seq not in records:
            raise MillraceError(f"audit record {seq}: expected 1..{max(records, default=0)}")
    one, other = records[first], records[last]
    if one["model"] != other["model"]:
        raise MillraceError(
            f"audit diff: expected two records of one member, got {one['model']!r} and "
            f"{other['model']!r}"
        )
    a, b = dict(_flat(one, "")), dict(_flat(other, ""))
    ignored = {"seq", "prev", "hash", "sig"}
    keys = [key for key in {**a, **b} if key not in ignored and a.get(key) != b.get(key)]
    return [
        {"what": key, "from": number(a.get(key, "")), "to": number(b.get(key, ""))} for key in keys
    ]


def _flat(value: Any, path: str) -> Iterable[tuple[str, Any]]:
    """Leaves by path; rows of layers, tensors and budgets go by their own names."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else key)
    elif isinstance(value, Sequence) and value and all(isinstance(v, Mapping) for v in value):
        for item in value:
            name = item.get("path", item.get("rule", ""))
            rest = {k: v for k, v in item.items() if k not in ("path", "rule")}
            yield from _flat(rest, f"{path}[{name}]")
    else:
        yield path, value


def _record(line: bytes) -> dict[str, Any] | None:
    """A record, or ``None`` for a line that is none: `verify` says what is wrong with it."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None

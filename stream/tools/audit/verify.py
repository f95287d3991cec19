"""The trail against all that vouches for it: its key, anchors, the journal, the checkpoints.

What could not be compared is told, and what the configuration names must be there: a verifier is
never content with absence. Nothing here writes to the log or to the state directory, and a service
may be running beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from models.base import MillraceError
from monitoring.audit.contents import contents_of
from monitoring.audit.trail import (
    BadSignature,
    Exit,
    Head,
    TrailError,
    Verdict,
    load_private_key,
    load_public_key,
    read_anchor,
    verify,
)
from monitoring.parameters.count import count
from monitoring.parameters.counted import Counted
from stream.contract.log import Log
from stream.run.assemble import build_engine, open_log, wall_clock_ms
from stream.settings.schema import Config
from stream.settings.upgrade import digest, is_given
from stream.state.anchors import FILE as ANCHORS
from stream.state.follow import built
from stream.state.generations import (
    CheckpointError,
    Loaded,
    Manifest,
    list_generations,
    load,
    read_manifest,
    revive,
)
from stream.step.engine import Engine
from stream.tools.audit.read import read_file, read_topic, read_trail, records_of

_SPAN = 1024


class _Found:
    """What was compared so far.

    Attributes
    ----------
    unchecked : list of str
        What could not be compared, and why.
    absent : Verdict or None
        The first thing that had to be there and is not.
    """

    def __init__(self) -> None:
        self.unchecked: list[str] = []
        self.absent: Verdict | None = None

    def missing(self, where: str, expected: str, got: str) -> None:
        """Note what had to be there."""
        verdict = Verdict(Exit.MISSING, Head(0, ""), 0, where, expected, got)
        self.absent = self.absent or verdict


def verify_trail(
    config: Config | None,
    file: Path | None,
    public_key: Path | None,
    anchor: Path | None,
    checkpoints: bool,
) -> dict[str, Any]:
    """Verify a trail, and on request the checkpoints against it.

    1. What vouches for it: the key, the anchors (``anchor``, else the service's own; a configured
       witness), the newest head that the journal holds. 2. The chain, from the first record on,
       under the configuration's name; each signature; every one of these heads. 3. That all that
       is configured was there. 4. Each generation, by :func:`check_generations`.

    ``public_key`` defaults to that of ``audit.key``. ``exit`` in the result is one of
    :class:`~monitoring.audit.trail.Exit`; ``not_checked`` says what it does not speak of.
    """
    if config is None and (file is None or checkpoints):
        raise MillraceError("verify: expected a configuration, or --file alone")
    found = _Found()
    key = _public_key(config, public_key, found)
    anchors, flaw = _anchors(config, anchor, key, found)
    heads = list(anchors)
    if config is not None and file is None:
        # Before the trail: a service may go on while it is read.
        heads += _journaled(config, found)
    else:
        found.unchecked.append("the journal: its newest head is compared with the topic only")
    lines = read_file(file) if file is not None else read_trail(_given(config))
    name = None if config is None else config.name
    verdict = flaw or verify(lines, key, heads, name)
    if verdict.outcome is Exit.OK:
        _expected(config, lines, key, anchors, found)
        verdict = found.absent or verdict
    told = result(verdict, len(lines), heads, found.unchecked)
    if not checkpoints:
        found.unchecked.append("the checkpoints: with --checkpoint only")
    elif verdict.outcome is Exit.OK:
        told |= _with_generations(_given(config), lines, found)
    return told


def result(
    verdict: Verdict, records: int, anchors: Iterable[Head], unchecked: list[str]
) -> dict[str, Any]:
    """A verdict as plain values."""
    return {
        "outcome": verdict.outcome.name.lower(),
        "exit": int(verdict.outcome),
        "records": records,
        "head_seq": verdict.head.seq,
        "head_hash": verdict.head.hash,
        "signatures_checked": verdict.signed,
        "anchor_seq": max((head.seq for head in anchors), default=None),
        "where": verdict.where,
        "expected": verdict.expected,
        "got": verdict.got,
        "not_checked": unchecked,
    }


def _with_generations(config: Config, lines: list[bytes], found: _Found) -> dict[str, Any]:
    """What the generations add to the result."""
    log = open_log(config, wall_clock_ms)
    try:
        rows = check_generations(config, lines, lambda seq: _journal_digest(log, seq))
    finally:
        log.close()
    bad = [row for row in rows if row["verdict"] not in ("match", _PARTLY)]
    found.unchecked += [
        f"generation {row['seq']}: all but its members; recorded before that was"
        for row in rows
        if row["verdict"] == _PARTLY
    ]
    told: dict[str, Any] = {"generations": rows}
    if bad:
        told |= {"outcome": "model_mismatch", "exit": int(Exit.MODEL_MISMATCH)}
        told |= {"where": f"generation {bad[0]['seq']}", "got": bad[0]["verdict"]}
    elif not rows and _checkpoints(lines):
        told |= {"outcome": "missing", "exit": int(Exit.MISSING), "where": str(config.state_dir)}
        told |= {"expected": "the generations that the trail tells of", "got": "none"}
    elif not rows:
        found.unchecked.append("the checkpoints: there are none yet")
    return told


def _given(config: Config | None) -> Config:
    if config is None:
        raise MillraceError("audit: expected a configuration, got none")
    return config


# ------------------------------------------------------------------ what vouches for a trail


def _public_key(config: Config | None, path: Path | None, found: _Found) -> Ed25519PublicKey | None:
    """The key that must have signed; one that the configuration names must be there."""
    if path is not None:
        return load_public_key(path)
    if config is None or config.audit.key is None:
        return None
    try:
        return load_private_key(config.audit.key).public_key()
    except TrailError as error:
        found.missing("audit.key", "the key, or its public half by --public-key", str(error))
        return None


def _anchors(
    config: Config | None, path: Path | None, key: Ed25519PublicKey | None, found: _Found
) -> tuple[list[Head], Verdict | None]:
    """All anchors in all places, or why one of them cannot be believed.

    Not the newest alone: who has taken the key can add one to a witness, but take none away.
    """
    places = [] if path is None else [_in_file(path)]
    if config is not None:
        places += anchor_places(config)[0 if path is None else 1 :]
    name = None if config is None else config.name
    heads: list[Head] = []
    for where, lines in places:
        before = len(heads)
        try:
            heads += [read_anchor(line, key, name) for line in _whole(where, lines, found)]
        except TrailError as error:
            outcome = Exit.BAD_SIGNATURE if isinstance(error, BadSignature) else Exit.BROKEN
            return heads, Verdict(outcome, Head(0, ""), 0, where, "a good anchor", str(error))
        own = config is not None and where == str(config.state_dir / ANCHORS)
        if len(heads) == before and not own:
            found.missing(where, "an anchor", "none")
    if not _apart(config, path):
        found.unchecked.append(
            "an anchor kept elsewhere: who can cut the trail can cut the service's own file too;"
            " give --anchor, or configure audit.witness"
        )
    return heads, None


def _apart(config: Config | None, path: Path | None) -> bool:
    """Whether anchors were given that need not lie where the trail does."""
    if path is not None or config is None:
        return path is not None
    # An embedded log holds the topic in the trail's own file.
    topic = config.topics.witness is not None and config.log.type == "kafka"
    return topic or config.audit.witness is not None


Anchored = tuple[str, list[bytes]]
"""A place that keeps anchors, and its lines; all but the last end with their line end."""


def anchor_places(config: Config) -> list[Anchored]:
    """The service's own file of anchors, and what a file and a topic witnessed, if configured."""
    files = [config.state_dir / ANCHORS, config.audit.witness]
    places = [_in_file(file) for file in files if file is not None]
    if (topic := config.topics.witness) is not None:
        places.append((f"topic {topic}", [line + b"\n" for line in read_topic(config, topic)]))
    return places


def _in_file(path: Path) -> Anchored:
    return str(path), path.read_bytes().splitlines(keepends=True) if path.exists() else []


def _whole(where: str, lines: list[bytes], found: _Found) -> Iterator[bytes]:
    """The anchors among the lines. Half of one, which a killed process left, is told."""
    for number, line in enumerate(lines, 1):
        text = line.strip()
        # The service begins a new line after it: half a line that ends is no service's last.
        cut = number < len(lines) or not line.endswith(b"\n")
        if cut and text and not text.endswith(b"}"):
            found.unchecked.append(f"line {number} of {where}: it was cut while it was written")
        elif text:
            yield text


def _journaled(config: Config, found: _Found) -> list[Head]:
    """The trail's newest head that the journal holds."""
    log = open_log(config, wall_clock_ms)
    try:
        tail = log.journal_tail()
        if tail is None:
            found.missing(config.journal_topic, "the journal of the trail's steps", "nothing")
            return []
        span = _SPAN
        while True:
            after = max(0, tail.seq - span)
            heads = [r.head for r in log.journal(after) if r.head is not None]
            if heads:
                return [Head(*heads[-1])]
            if after == 0:
                break
            span *= 16
    finally:
        log.close()
    found.unchecked.append("the journal: it was written before it held the trail's heads")
    return []


def _expected(
    config: Config | None,
    lines: list[bytes],
    key: Ed25519PublicKey | None,
    anchors: list[Head],
    found: _Found,
) -> None:
    """Note what had to vouch for a trail like this one and is absent."""
    signed = sum(b'"sig":"' in line for line in lines)
    if key is None and signed:
        found.missing("key", "--public-key, or audit.key in the configuration", f"{signed} signed")
    elif key is None:
        found.unchecked.append("who wrote it: no record is signed and no key is configured")
    if config is None and not anchors:
        found.unchecked.append("its end: no anchor was given")
    elif config is not None and not anchors and len(lines) >= config.audit.anchor_every:
        place = str(config.state_dir / ANCHORS)
        found.missing(place, f"an anchor every {config.audit.anchor_every} records", "none")


# ------------------------------------------------------------------ checkpoints

_PARTLY = "members match"


def check_generations(
    config: Config, lines: Iterable[bytes], journaled: Callable[[int], str]
) -> list[dict[str, Any]]:
    """Compare all that each generation holds with the trail's record of it.

    The step before a snapshot writes a ``checkpointed`` record with the digest of every member and
    every other part, of the configuration, and one root over them. So a generation that the trail
    does not vouch for, or that holds one other bit, does not match; whoever altered it can write
    its checksums anew but not the trail. ``journaled`` gives the journal's digest of a step. What a
    generation's configuration names is loaded only once that is vouched for.
    """
    vouched = _checkpoints(lines)
    rows = []
    for path in list_generations(config.state_dir):
        try:
            verdict = _compare(path, vouched, config, journaled)
        except Exception as error:  # noqa: BLE001 - a crafted one may raise anything
            verdict = f"cannot be used: {error or type(error).__name__}"
        rows.append({"seq": int(path.name), "verdict": verdict})
    return rows


def _journal_digest(log: Log, seq: int) -> str:
    record = next(iter(log.journal(seq - 1)), None)
    return record.digest if record is not None and record.seq == seq else ""


def _checkpoints(lines: Iterable[bytes]) -> dict[int, dict[str, Any]]:
    """What the trail says of each checkpoint, by its step."""
    return {r.get("step", 0): r for r in records_of(lines) if r["event"] == "checkpointed"}


def _compare(
    path: Path,
    vouched: Mapping[int, Mapping[str, Any]],
    config: Config,
    journaled: Callable[[int], str],
) -> str:
    """``match``, or what differs first."""
    manifest = read_manifest(path)
    record = vouched.get(manifest.seq)
    if record is None:
        return "the trail has no record of this checkpoint"
    if journaled(manifest.seq) != manifest.digest:
        return "the journal does not hold this step with this digest"
    engine, loaded = _restored(path, manifest, record, config)
    members = engine.auditor.members()
    contents = contents_of(digest(manifest.config), loaded.state, loaded.rows, members)
    whole = "parts" in record
    for kind in ("roots", "held", "parts") if whole else ("roots", "held"):
        for name in [*contents[kind], *record[kind]]:
            got, expected = contents[kind].get(name), record[kind].get(name)
            if got != expected:
                return f"{name}: expected {_WHAT[kind]} {expected}, got {got}"
    if not whole:
        return _PARTLY
    if engine.trail.head() != (record["seq"], record["hash"]):
        return f"trail: expected its head at record {record['seq']}"
    if manifest.positions != engine.auditor.positions():
        return f"positions: expected {engine.auditor.positions()}, got {manifest.positions}"
    return "match" if contents["root"] == record["root"] else "root: another one"


_WHAT = {"roots": "digest", "held": "parameters", "parts": "digest"}


def _restored(
    path: Path, manifest: Manifest, record: Mapping[str, Any], config: Config
) -> tuple[Engine, Loaded]:
    """The engine in a generation, and what is saved.

    Raises :class:`CheckpointError`, with nothing loaded, where its configuration is neither the one
    on the trail's record nor the given one.
    """
    where, tree = str(path), manifest.config
    if record.get("config") != digest(tree) and not is_given(tree, where, config):
        raise CheckpointError(
            "its configuration is neither the one on record in the trail nor the given one; nothing"
            " that it names was loaded"
        )
    engine = built(lambda saved: build_engine(saved, None), tree, where)
    loaded = load(path, manifest)
    revive(engine, loaded)
    return engine, loaded


class Saved(NamedTuple):
    """The engine in a checkpoint, the trail's record of it, and where it ran."""

    engine: Engine
    record: dict[str, Any]
    fingerprint: dict[str, str]


def newest_saved(config: Config, lines: Iterable[bytes]) -> Saved | None:
    """The newest checkpoint that is on record in a trail, without comparing it."""
    vouched = _checkpoints(lines)
    for path in list_generations(config.state_dir):
        manifest = read_manifest(path)
        if (record := vouched.get(manifest.seq)) is not None:
            engine, _ = _restored(path, manifest, record, config)
            return Saved(engine, record, manifest.fingerprint)
    return None


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
        ensemble = _restored(saved, manifest, record, config)[0].ensemble
    if member not in ensemble.members:
        raise MillraceError(f"member: expected one of {', '.join(ensemble.names)}; got {member!r}")
    return count(ensemble.members[member], target=member)


def _verified(config: Config) -> list[bytes]:
    """The trail, once its chain and signatures hold; raises :class:`MillraceError`."""
    lines = read_trail(config)
    key = None if config.audit.key is None else load_private_key(config.audit.key).public_key()
    verdict = verify(lines, key, name=config.name)
    if verdict.outcome is not Exit.OK:
        raise MillraceError(f"audit trail: {verdict.where}: got {verdict.got}; see audit verify")
    return lines

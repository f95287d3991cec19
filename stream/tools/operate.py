"""What operators do beside the running service: commands, topics, generations, tokens.

Nothing here changes a model: commands are appended as records.
"""

from __future__ import annotations

import getpass
import hashlib
import secrets
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from models.base import MillraceError
from stream.contract.commands import COMMANDS, meant_by
from stream.contract.letters import DeadLetter
from stream.contract.log import Log
from stream.contract.records import JournalRecord, NewRecord, Record
from stream.decode.codec import Codec
from stream.run.assemble import build_engine, open_log, wall_clock_ms
from stream.settings.hot import needing_restart, told
from stream.settings.schema import Config
from stream.settings.upgrade import digest, encoded, journaled, recorded
from stream.state.backfill import in_force
from stream.state.generations import (
    CheckpointError,
    list_generations,
    read_manifest,
    verify,
)
from stream.step.reconfigure import Changes, compare


class CommandRefused(MillraceError):
    """A command that no engine of this configuration would follow; nothing was appended."""


def send_command(
    config: Config, name: str, values: dict[str, str], patience_s: float = 0.0
) -> dict[str, Any]:
    """Append a command to the control topic, as ``os:`` and the name of the user who runs this.

    No token has a name like that: the trail tells who has a token from who says so.

    ``values`` are its fields as a person writes them. Gives where it stands and ``seq``, the step
    that followed it: ``None`` where nobody did within ``patience_s``. Of many processes each
    follows what is its own, and none is waited for. Raises :class:`CommandRefused` for what a step
    would make, or made, a dead letter.
    """
    given = {"command": name, **values, "actor": f"os:{getpass.getuser()}"}
    try:
        command = msgspec.convert(given, COMMANDS[name], strict=False)
        value = msgspec.json.encode(command)
        read = Codec(config).command(Record(config.topics.control, 0, 0, None, value))
    except msgspec.ValidationError as error:
        raise _refused(name, values, meant_by(str(error), given)) from error
    if isinstance(read, DeadLetter):
        raise _refused(name, values, read.error)
    log = open_log(config, wall_clock_ms)
    try:
        newest = log.journal_tail()
        [(partition, offset)] = log.append(config.topics.control, [NewRecord(None, value)])
        where = {"topic": config.topics.control, "partition": partition, "offset": offset}
        taken = None
        if patience_s and config.shard.role == "all":
            taken = _taken(log, newest.seq if newest else 0, where, patience_s)
        if taken and (refusal := _refusal(log, config, where)):
            raise CommandRefused(f"step {taken.seq} refused it: {refusal}")
    finally:
        log.close()
    return where | {"seq": taken and taken.seq}


def _refused(name: str, values: dict[str, str], error: str) -> CommandRefused:
    given = ", ".join(f"{field} {value!r:.200}" for field, value in values.items())
    return CommandRefused(f"{name} with {given}: {error}. Nothing was appended")


class Difference(NamedTuple):
    """What a file would change of the configuration in force, which has the digest ``base``.

    ``restart``: settings that cannot change while the service runs; then no ``changes`` are told.
    ``settings``: all that differ, with both values.
    """

    base: str
    restart: list[str]
    changes: Changes | None
    same: bool
    settings: list[str]

    def lines(self) -> list[str]:
        """What a person is to see, line by line."""
        restart = [f"needs a restart: {path}" for path in self.restart]
        changed = [f"changes: {setting}" for setting in self.settings]
        return restart or changed + (self.changes.lines() if self.changes else [])


def difference(config: Config) -> Difference:
    """What ``config`` would change, by the journal; all that the shard has may have learned."""
    log = open_log(config, wall_clock_ms)
    try:
        tree = in_force(log, config)
    finally:
        log.close()
    running = recorded(tree, f"{config.journal_topic} or {config.state_dir}")
    base, restart = digest(tree), needing_restart(running, config)
    if restart:
        return Difference(base, restart, None, False, told(running, config))
    old = build_engine(running, None)
    old.counts["learned"] = 1
    changes = compare(old, build_engine(config, None))
    if not changes.same_columns:
        gone = "events that wait for their labels, and learned rows (the columns changed)"
        changes = changes._replace(lost=[*changes.lost, gone])
    same = journaled(running) == journaled(config)
    return Difference(base, [], changes, same, told(running, config))


def apply_configuration(
    config: Config, base: str, accept: bool, grounds: Mapping[str, str], patience_s: float
) -> dict[str, Any]:
    """Ask the running service to go on under ``config``; the step that took it.

    ``base``: digest of the configuration that it was compared with. ``grounds``: reason and ticket.
    Raises :class:`CommandRefused` where it was refused, :class:`MillraceError` where nobody took it
    within ``patience_s``.
    """
    log = open_log(config, wall_clock_ms)
    try:
        newest = log.journal_tail()
        settings = encoded(journaled(config)).decode()
        asked = {"base": base, "settings": settings, "accept": str(accept).lower()}
        where = send_command(config, "configure", asked | dict(grounds))
        taken = _taken(log, newest.seq if newest else 0, where, patience_s)
        if taken is None:
            raise MillraceError(
                f"appended to {where['topic']}/{where['partition']} at offset {where['offset']}; "
                f"nobody took it within {patience_s:g} s. It holds once the service comes to it, "
                "if the configuration has not changed by then"
            )
        if taken.kind == "step":
            why = _refusal(log, config, where) or f"see {config.topics.dead_letters}"
            raise CommandRefused(f"step {taken.seq} refused it: {why}")
        return where | {"seq": taken.seq, "config": digest(taken.body["config"])}
    finally:
        log.close()


def _taken(
    log: Log, after: int, where: Mapping[str, Any], patience_s: float
) -> JournalRecord | None:
    """The journal's record of the step that took the record there."""
    until_s = time.monotonic() + patience_s
    while True:
        for record in log.journal(after):
            after = record.seq
            for r in record.ranges:
                here = (r.topic, r.partition) == (where["topic"], where["partition"])
                if here and r.first <= where["offset"] <= r.last:
                    return record
        if time.monotonic() >= until_s:
            return None
        time.sleep(0.1)


def _refusal(log: Log, config: Config, where: Mapping[str, Any]) -> str | None:
    """What the dead letter of the record there says, if it is among the newest."""
    wanted = {key: str(where[key]).encode() for key in ("topic", "partition", "offset")}
    for piece in islice(log.back(config.topics.dead_letters, 1000), 10):
        for record in reversed(piece):
            if wanted.items() <= dict(record.headers).items():
                return dict(record.headers)["error"].decode(errors="replace")
    return None


def topic_table(config: Config, create: bool) -> list[dict[str, Any]]:
    """Input partitions: oldest offset and records from there to the end."""
    log = open_log(config, wall_clock_ms)
    try:
        if create:
            log.create_topics()
        earliest = log.earliest()
        log.seek(earliest)
        lag = log.lag()
        return [
            {"topic": t, "partition": p, "earliest_offset": o, "records": lag.get((t, p), 0)}
            for (t, p), o in sorted(earliest.items())
        ]
    finally:
        log.close()


def generations(config: Config) -> list[dict[str, Any]]:
    """Every generation, newest first; ``loads`` marks the one that a start would try first."""
    rows: list[dict[str, Any]] = []
    found = False
    for path in list_generations(config.state_dir):
        row: dict[str, Any] = {"seq": int(path.name), "written": "", "bytes": 0}
        try:
            manifest = read_manifest(path)
            verify(path, manifest)
            written = datetime.fromtimestamp(manifest.written_ms / 1000, UTC)
            row |= {
                "written": written.isoformat(timespec="seconds"),
                "bytes": manifest.total_bytes,
                "verdict": "good" if manifest.shard == config.name else "of another shard",
                "digest": manifest.digest,
            }
        except CheckpointError as error:
            row |= {"verdict": str(error), "digest": ""}
        row["loads"] = row["verdict"] == "good" and not found
        found = found or row["loads"]
        rows.append(row)
    return rows


def new_token() -> tuple[str, str]:
    """A random bearer token of 256 bits and the SHA-256 that the configuration holds."""
    secret = secrets.token_urlsafe(32)
    return secret, hashlib.sha256(secret.encode()).hexdigest()

"""What operators do beside the running service: commands, topics, generations, tokens.

Nothing here changes a model: commands are appended as records.
"""

from __future__ import annotations

import getpass
import hashlib
import secrets
from datetime import UTC, datetime
from typing import Any

import msgspec

from models.base import MillraceError
from stream.contract.commands import COMMANDS
from stream.contract.letters import DeadLetter
from stream.contract.records import NewRecord, Record
from stream.decode.codec import Codec
from stream.run.assemble import open_log, wall_clock_ms
from stream.settings.schema import Config
from stream.state.generations import (
    CheckpointError,
    list_generations,
    read_manifest,
    verify,
)


class CommandRefused(MillraceError):
    """A command that no engine of this configuration would follow; nothing was appended."""


def send_command(config: Config, name: str, values: dict[str, str]) -> dict[str, Any]:
    """Append a command to the control topic, as ``os:`` and the name of the user who runs this.

    No token has a name like that: the trail tells who has a token from who says so.

    ``values`` are its fields as a person writes them. Raises :class:`CommandRefused` for what a
    step would make a dead letter.
    """
    try:
        command = msgspec.convert(
            {"command": name, **values, "actor": f"os:{getpass.getuser()}"},
            COMMANDS[name],
            strict=False,
        )
        value = msgspec.json.encode(command)
        read = Codec(config).command(Record(config.topics.control, 0, 0, None, value))
    except msgspec.ValidationError as error:
        raise _refused(name, values, str(error)) from error
    if isinstance(read, DeadLetter):
        raise _refused(name, values, read.error)
    log = open_log(config, wall_clock_ms)
    try:
        [(partition, offset)] = log.append(config.topics.control, [NewRecord(None, value)])
    finally:
        log.close()
    return {"topic": config.topics.control, "partition": partition, "offset": offset}


def _refused(name: str, values: dict[str, str], error: str) -> CommandRefused:
    given = ", ".join(f"{field} {value!r}" for field, value in values.items())
    return CommandRefused(f"{name} with {given}: {error}. Nothing was appended")


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

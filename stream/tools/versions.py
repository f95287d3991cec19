"""The versions of members that are kept: listed, taken out to a file, brought in from one."""

from __future__ import annotations

import math
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from models.base import MillraceError, State
from monitoring.quality.tasks import METRICS
from stream.contract import private
from stream.run.assemble import build_engine
from stream.settings.schema import Config
from stream.state.artefacts import FOLDER, Artefacts
from stream.state.generations import CheckpointError, list_generations, load, read_manifest
from stream.step.lifecycle.ledger import SHORTEST, Version
from stream.tools.scaled.whom import ask_who_learns


class NotKept(MillraceError):
    """No version, or more than one, is what was asked for."""


def artefacts_of(config: Config) -> Artefacts:
    """The artefacts of a shard.

    Raises :class:`~stream.tools.scaled.whom.AskAnother` of a scorer: its learner keeps versions.
    """
    ask_who_learns(config, "versions of members")
    return Artefacts(config.state_dir / FOLDER)


def listed(config: Config) -> list[dict[str, Any]]:
    """Every kept version as of the newest good generation, each member's newest first."""
    artefacts = artefacts_of(config)
    state = _newest(config)["ledger"]
    kept = msgspec.convert(state["versions"], dict[str, list[Version]])
    sizes = artefacts.sizes()
    return [
        {
            "member": name,
            "version": v.digest,
            "step": v.seq,
            "event_time": _text(v.event_time_ms) if v.event_time_ms else None,
            "cause": v.cause,
            "updates": v.updates,
            "quality": v.quality,
            "bytes": sizes.get(v.digest),
            "pinned_until": _text(until) if (until := state["pinned"].get(v.digest)) else None,
        }
        for name, versions in kept.items()
        for v in reversed(versions)
    ]


def _newest(config: Config) -> State:
    """The state in the newest good generation; raises :class:`NotKept`."""
    for path in list_generations(config.state_dir):
        try:
            return load(path, read_manifest(path)).state
        except CheckpointError:
            continue
    raise NotKept(
        f"{config.state_dir}: expected a checkpoint, got none: run the shard first, "
        "or ask for one by `millrace control checkpoint`"
    )


def shown(rows: list[dict[str, Any]], config: Config) -> list[dict[str, Any]]:
    """The rows as they fit a terminal: of the quality one measure, of a digest the first digits."""
    made = []
    for row in rows:
        measures = [m for m in METRICS[config.target.type] if m in row["quality"]]
        measure = next((m for m in measures if m == "log_loss"), next(iter(measures), None))
        quality = row["quality"][measure] if measure else math.nan
        made.append(
            {
                "member": row["member"],
                "version": row["version"][:12],
                "step": row["step"],
                "event time": (row["event_time"] or "")[:16],
                "cause": row["cause"],
                measure or "quality": "" if math.isnan(quality) else f"{quality:.4f}",
                "kB": "gone" if row["bytes"] is None else -(-row["bytes"] // 1000),
                "pinned": (row["pinned_until"] or "")[:10],
            }
        )
    return made


def export(config: Config, version: str, to: Path) -> str:
    """Write an artefact to a file; gives its digest.

    Raises :class:`NotKept`, or :class:`~stream.state.artefacts.ArtefactError`.
    """
    artefacts = artefacts_of(config)
    found = [d for d in artefacts.sizes() if len(version) >= SHORTEST and d.startswith(version)]
    if len(found) != 1:
        raise NotKept(
            f"expected {SHORTEST} or more digits of one artefact in {artefacts.path}, got "
            f"{version!r}, with which {len(found)} begin; `millrace models list` names them"
        )
    with private.opened(to) as file:
        file.write(artefacts.raw(found[0]))
    return found[0]


def bring(config: Config, member: str, file: Path) -> str:
    """Put an artefact from a file beside the generations, for `install`; gives its digest.

    Raises :class:`~stream.state.artefacts.ArtefactError` for one that does not fit the member, by
    the definition of what stands in its place, which may have been promoted.
    """
    artefacts, engine = artefacts_of(config), build_engine(config, None)
    if member not in engine.ensemble.names:
        names = ", ".join(engine.ensemble.names)
        raise NotKept(f"member: expected one of {names}; got {member!r}")
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise NotKept(f"{file}: {error.strerror}") from error
    specs: dict[str, Any] = {}
    with suppress(NotKept):  # it never ran: there is the file's definition alone
        specs = _newest(config)["ensemble"].get("specs", {})
    return artefacts.take(raw, lambda: engine.ensemble.made(member, 0, specs.get(member)))


def _text(ms: int) -> str:
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError):
        return str(ms)

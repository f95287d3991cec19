"""What operators do with the audit trail: read it, compare records, take it away.

Nothing here writes to the log or to the state directory, and a service may be running beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from math import inf, isfinite
from pathlib import Path
from typing import Any

from models.base import MillraceError
from monitoring.audit.words import number, told
from stream.run.assemble import open_log, wall_clock_ms
from stream.settings.schema import Config

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
    records = [record for line in read_trail(config) if (record := as_record(line)) is not None]
    if member is not None:
        records = [record for record in records if record["model"] == member]
    return records[-limit:]


def brief(record: Mapping[str, Any]) -> str:
    """One record as a line for people."""
    at = datetime.fromtimestamp(record["at"] / 1000, UTC).isoformat(timespec="seconds")
    text = f"{record['seq']:>7}  {at}  {record['event']:13} {record['model']:12} {told(record)}"
    return text.rstrip() + ("" if record.get("inside", True) else "  OUTSIDE the envelope")


def diff(config: Config, first: int, last: int) -> list[dict[str, Any]]:
    """What two records of one member say differently: words first, then what moved most.

    ``change`` is relative to the number before; ``None`` for words, and for what was 0 or missing.
    """
    records = {r["seq"]: r for line in read_trail(config) if (r := as_record(line)) is not None}
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
    rows = []
    for key in keys:
        before, after = number(a.get(key, "")), number(b.get(key, ""))
        change = _relative(before, after)
        rows.append({"what": key, "from": before, "to": after, "change": change})
    return sorted(rows, key=lambda row: -abs(row["change"]) if row["change"] is not None else -inf)


def _relative(before: Any, after: Any) -> float | None:
    """How much a number changed, relative to what it was; ``None`` where that says nothing."""
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (before, after))
    if not numbers or not before or not isfinite(before) or not isfinite(after):
        return None
    return (after - before) / abs(before)


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


def as_record(line: bytes) -> dict[str, Any] | None:
    """A record, or ``None`` for a line that is none: `verify` says what is wrong with it."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None

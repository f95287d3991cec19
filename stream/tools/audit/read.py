"""What operators do with the audit trail: read it, compare records, take it away.

Nothing here writes to the log or to the state directory, and a service may be running beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from math import inf, isfinite
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec

from models.base import MillraceError
from models.settings import parse_duration
from monitoring.audit.words import number, told
from stream.contract import private
from stream.decode.times import LATEST_MS, TIME_RULES
from stream.run.assemble import open_log, wall_clock_ms
from stream.settings.schema import Config

ALL = 1 << 40
"""More records than a trail has."""
DEEPEST = 16
"""Levels in a record at most; the service writes five."""


class _Fixed(msgspec.Struct):
    """What every record has, as far as a reader relies on it."""

    seq: Annotated[int, msgspec.Meta(ge=1)]
    at: Annotated[int, msgspec.Meta(ge=0, le=LATEST_MS)]
    event: str
    cause: str
    actor: str
    model: str
    prev: str
    hash: str
    step: int = 0


class Wanted(NamedTuple):
    """Which records somebody asks for; ``None`` leaves a part open. Times are the step's clock."""

    member: str | None = None
    event: str | None = None
    actor: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None

    def fits(self, record: Mapping[str, Any]) -> bool:
        """Whether a record is one of these; ``until_ms`` is not."""
        named = (self.member, "model"), (self.event, "event"), (self.actor, "actor")
        return (
            all(wanted is None or record[key] == wanted for wanted, key in named)
            and (self.since_ms is None or record["at"] >= self.since_ms)
            and (self.until_ms is None or record["at"] < self.until_ms)
        )


def moment(text: str, now_ms: int) -> int:
    """Milliseconds of a time in RFC 3339, or of a duration before now.

    Raises ``ValueError`` with what was expected.

    >>> moment("1970-01-02T00:00:00Z", 0), moment("1d", 86_400_001)
    (86400000, 1)
    """
    try:
        return now_ms - parse_duration(text)
    except ValueError:
        pass  # no duration: a time, or neither
    try:
        return TIME_RULES["rfc3339"].read(json.dumps(text).encode())
    except (ValueError, msgspec.MsgspecError) as error:
        raise ValueError(
            f'expected a time such as 2026-01-31T09:00:00Z or a duration such as "7d", got {text!r}'
        ) from error


def read_trail(config: Config) -> list[bytes]:
    """This shard's records in the audit topic, in the order in which they were committed."""
    return read_topic(config, config.topics.audit)


def read_topic(config: Config, topic: str) -> list[bytes]:
    """This shard's records in a topic, in the order in which they were committed."""
    log = open_log(config, wall_clock_ms)
    try:
        records = log.tail(topic, ALL)
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
    with private.opened(target) as file:
        file.write(b"".join(line + b"\n" for line in lines))
    return {"file": str(target), "records": len(lines)}


def show(config: Config, limit: int, wanted: Wanted) -> list[dict[str, Any]]:
    """The newest ``limit`` records of those wanted, oldest first."""
    return [record for record in records_of(read_trail(config)) if wanted.fits(record)][-limit:]


def at_time(ms: int) -> str:
    """A moment as people read it."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds")


def brief(record: Mapping[str, Any]) -> str:
    """One record as a line for people."""
    at = at_time(record["at"])
    try:
        what = told(record)
    except Exception:  # noqa: BLE001 - a crafted one may raise anything
        what = "not as the service writes it: see audit verify"
    text = f"{record['seq']:>7}  {at}  {record['event']:20} {record['model']:12} {what}"
    return text.rstrip() + ("" if record.get("inside", True) else "  OUTSIDE the envelope")


def diff(config: Config, first: int, last: int) -> list[dict[str, Any]]:
    """What two records of one member say differently: words first, then what moved most.

    ``change`` is relative to the number before; ``None`` for words, and for what was 0 or missing.
    """
    records = {record["seq"]: record for record in records_of(read_trail(config))}
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


def records_of(lines: Iterable[bytes]) -> list[dict[str, Any]]:
    """The records among the lines; `verify` says what is wrong with one that is none."""
    return [record for line in lines if (record := _record(line)) is not None]


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = msgspec.json.decode(line)
        msgspec.convert(record, _Fixed)
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return None
    level = [record]
    for _ in range(DEEPEST):
        inner = [v.values() if isinstance(v, dict) else v for v in level]
        level = [v for values in inner for v in values if isinstance(v, dict | list)]
        if not level:
            return dict(record)
    return None

"""Audit records as sentences: for the command line and the live page."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_DIGEST = re.compile(r"[0-9a-f]{64}")
_HEX_FLOAT = re.compile(r"-?0x[01](\.[0-9a-f]+)?p[+-]\d+")


def told(record: Mapping[str, Any]) -> str:
    """What happened, in a line: the record's details beside its time, event and model."""
    if "breaches" in record:
        passed = [
            f"{b['rule']} {short(number(b['got']))} > {short(number(b['limit']))}"
            for b in record["breaches"]
        ]
        where = [f"{t}/{p}@{first}..{last}" for t, p, first, last in record["ranges"]]
        done = "undone" if record["undone"] else "not undone"
        return f"{', '.join(passed)}; {done}; from {' '.join(where)}"
    if "n_updates" in record:
        norm = record.get("update_norm")
        moved = f", update norm {number(norm['relative']):.3g}" if norm else ""
        return (
            f"version {record['version_to']}, {record['n_updates']} labels since version "
            f"{record['version_from']}, {record['held']} parameters {record['verdict']}{moved}"
        )
    if "error" in record or "changed" in record:
        return str(record.get("error") or record["changed"])
    by = record["cause"] + ("" if record["actor"] == "engine" else f" of {record['actor']}")
    why = ": ".join(str(record[key]) for key in ("ticket", "reason") if key in record)
    by += f" ({why})" if why else ""
    if "statistic" in record:
        return f"{by}: {number(record['statistic']):.4g} over {number(record['threshold']):.4g}"
    if record["event"] == "checkpointed":
        held = record["held"]
        return f"step {record['step']}: {len(held)} members, {sum(held.values()):,} parameters"
    if record["event"] == "made_room":
        return f"version {short(record['version'])}, as it was up to step {record['up_to_step']}"
    if "class" in record:
        return f"{record['class']}, by {by}"
    if "from" in record and "to" in record:
        return f"from {number(record['from'])} to {number(record['to'])}, by {by}"
    return f"by {by}"


def number(value: Any) -> Any:
    """A float as the trail writes it (``0x1.8p+1``), to be read by people; anything else as is.

    >>> number("0x1.8000000000000p+1"), number("forest")
    (3.0, 'forest')
    """
    if not isinstance(value, str) or not _HEX_FLOAT.fullmatch(value):
        return value
    try:
        return float.fromhex(value)
    except OverflowError:  # beyond what a float holds: no service wrote it
        return value


def short(value: Any) -> str:
    """A value in a table: numbers to six digits, a digest by its beginning, nothing for nothing.

    >>> short(2 / 3), short("ab" * 32), short(None)
    ('0.666667', 'abababababab...', '')
    """
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    is_digest = isinstance(value, str) and _DIGEST.fullmatch(value)
    return f"{value[:12]}..." if is_digest else str(value)

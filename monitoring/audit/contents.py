"""What a checkpoint holds, as the trail's record of it says, and how it is hashed again.

Made of the state itself, not of an engine: a later version that restores other parts of it, or
more, finds the same digests in what is saved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from models.base import State, state_digest

_CLOCK = ("clock_ms", "watermark_ms", "threshold")
_ELSEWHERE = ("seq", "digest", "ensemble", "trail")
"""The journal's, the members' own roots, and the place of the record itself."""


def contents_of(
    config: str, state: State, rows: Sequence[str], members: Mapping[str, Any]
) -> dict[str, Any]:
    """Digests of all that a checkpoint holds, and one ``root`` over them.

    Parameters
    ----------
    config : str
        Digest of the configuration.
    state : dict
        The engine's; members and trail are not read.
    rows : sequence of str
        SHA-256 of the rows of each pending segment, in order.
    members : dict
        What the auditor says of the members: ``roots`` and ``held``.

    Returns
    -------
    dict
        ``config``, ``parts`` (digest by part), ``roots``, ``held``, ``root``.
    """
    parts: dict[str, Any] = {
        "clock": [state[key] for key in _CLOCK],
        "counts": {key: n for key, n in state["counts"].items() if n},
        "pending": state["pending"] | {"rows": list(rows)},
    }
    apart = (*_CLOCK, *_ELSEWHERE, *parts)
    parts |= {name: part for name, part in state.items() if name not in apart}
    digests = {name: state_digest(part) for name, part in parts.items()}
    found = {"config": config, "parts": digests, **members}
    return found | {"root": state_digest(found)}

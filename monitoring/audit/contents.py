"""What a checkpoint holds, as the trail's record of it says, and how it is hashed again.

Made of the state itself, not of an engine: a later version that restores other parts of it, or
more, finds the same digests in what is saved.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from models.base import State, state_digest

_CLOCK = ("clock_ms", "watermark_ms", "threshold")
_ELSEWHERE = ("seq", "digest", "ensemble", "trail")
"""The journal's, the members' own roots, and the place of the record itself."""
MODELS = {"members": "", "challengers": "challenger of ", "last_good": "last good of "}
"""Where an ensemble's state holds models, and what stands before their names among the roots."""


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
    found = {"config": config, "parts": parts_of(state, rows), **members}
    return found | {"root": state_digest(found)}


def parts_of(state: State, rows: Sequence[str]) -> dict[str, str]:
    """The digest of each part of an engine's state beside members and trail."""
    parts: dict[str, Any] = {
        "clock": [state[key] for key in _CLOCK],
        "counts": {key: n for key, n in state["counts"].items() if n},
        "pending": state["pending"] | {"rows": list(rows)},
    }
    apart = (*_CLOCK, *_ELSEWHERE, *parts)
    parts |= {name: part for name, part in state.items() if name not in apart}
    return {name: state_digest(part) for name, part in parts.items()}


def member_key(name: str) -> str:
    """Under which name the journal vouches for a member's root, beside those of the parts."""
    return f"member {name}"


def saved_of(state: State, rows: Sequence[str], unreadable: Collection[str]) -> dict[str, str]:
    """Digests of all that is saved, as the journal vouches for them.

    But for the members, and what stands beside them (:data:`MODELS`), in ``unreadable``: their
    digest is not that of what is saved.
    """
    ensemble = state["ensemble"]
    own = {k: v for k, v in ensemble.items() if k not in ("names", *MODELS)}
    models = {"ensemble": own}
    for kind, prefix in MODELS.items():
        named = {prefix + name: saved for name, saved in ensemble.get(kind, {}).items()}
        models |= {name: saved for name, saved in named.items() if name not in unreadable}
    roots = {member_key(name): state_digest(model) for name, model in models.items()}
    return parts_of(state, rows) | roots

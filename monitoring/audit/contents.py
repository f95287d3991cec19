"""What a checkpoint holds, as the trail's record of it says, and how it is hashed again.

Made of the state itself, not of an engine: a later version that restores other parts of it, or
more, finds the same digests in what is saved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.base import U8, State, state_digest

_CLOCK = ("clock_ms", "watermark_ms", "threshold")
_ELSEWHERE = ("seq", "digest", "ensemble", "trail")
"""The journal's, the members' own roots, and the place of the record itself."""
_BESIDE = ("challengers", "guard")
"""What keeps links beside waiting rows."""
LABELS = 4_096
"""Labels of so many waiting rows have a digest of their own: few of them change between two
checkpoints, and hashing those of 100 million rows takes half a second."""
MODELS = {"members": "", "challengers": "challenger of ", "last_good": "last good of "}
"""Where an ensemble's state holds models, and what stands before their names among the roots."""


def contents_of(
    config: str,
    state: State,
    rows: Sequence[str],
    members: Mapping[str, Any],
    labels: Sequence[str] | None = None,
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
    labels : sequence of str, optional
        What :func:`labels_of` gives of the state, where it is known.

    Returns
    -------
    dict
        ``config``, ``parts`` (digest by part), ``roots``, ``held``, ``root``.
    """
    found = {"config": config, "parts": parts_of(state, rows, labels), **members}
    return found | {"root": state_digest(found)}


def parts_of(
    state: State, rows: Sequence[str], labels: Sequence[str] | None = None
) -> dict[str, str]:
    """The digest of each part of an engine's state beside members and trail."""
    pending = dict(state["pending"])
    if isinstance(pending["truth"], list):  # else of checkpoints of format 7: hashed whole
        pending["labels"] = list(labels_of(pending) if labels is None else labels)
        del pending["truth"], pending["marks"]
    parts: dict[str, Any] = {
        "clock": [state[key] for key in _CLOCK],
        "counts": {key: n for key, n in state["counts"].items() if n},
        "pending": pending | {"rows": list(rows)},
    }
    apart = (*_CLOCK, *_ELSEWHERE, *parts)
    parts |= {name: part for name, part in state.items() if name not in apart}
    parts |= {name: _by_piece(parts[name]) for name in _BESIDE if name in parts}
    return {name: state_digest(part) for name, part in parts.items()}


class Piece(np.ndarray):
    """An array that never changes: a live engine's is hashed once."""

    sha256 = ""


def _by_piece(part: Any) -> Any:
    """A part of the state with digests in place of links that wait by pieces.

    There may be one link for each waiting row, for each model that is compared.
    """
    if not isinstance(part, dict):
        return part
    found = {key: _by_piece(value) for key, value in part.items()}
    if isinstance(links := part.get("links"), list):  # else of checkpoints of format 7
        found["links"] = [_of_piece(piece) for piece in links]
    return found


def _of_piece(piece: NDArray[Any]) -> str:
    if not isinstance(piece, Piece):
        return state_digest(piece)
    piece.sha256 = piece.sha256 or state_digest(piece)
    return piece.sha256


def labels_of(pending: State) -> list[str]:
    """Digests of what a pending store's state tells of labels, :data:`LABELS` rows each."""
    found, first = [], int(pending["head"])
    for truth, marks in zip(pending["truth"], pending["marks"], strict=True):
        found += [leaf(truth[at], marks[at]) for at in blocks(first, first + len(truth))]
        first += len(truth)
    return found


def blocks(first: int, end: int) -> Iterator[slice]:
    """Row numbers from ``first`` to ``end`` in pieces that have one digest, as places from
    ``first``."""
    begin = first
    while begin < end:
        stop = min(begin - begin % LABELS + LABELS, end)
        yield slice(begin - first, stop - first)
        begin = stop


def leaf(truth: NDArray[Any], marks: U8) -> str:
    """The digest of labels of some rows."""
    found = hashlib.sha256(truth.dtype.newbyteorder("<").str.encode())
    found.update(truth.astype(truth.dtype.newbyteorder("<"), copy=False).data)
    found.update(marks.data)
    return found.hexdigest()


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

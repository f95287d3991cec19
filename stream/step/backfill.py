"""What the past taught an engine of the new configuration, laid under the state that goes on.

An engine beside the stream has taken the journal's steps again under the new configuration, up to
the one at which the switch is. What the switch keeps is the stream's, bit for bit; what would begin
empty comes from that engine. No I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.base import BOOL, I64, FeatureSchema, State
from models.carry import shared
from models.settings import column_names
from stream.step.pending.store import SEGMENT_ROWS
from stream.step.scoring import ScoringEngine

Rows = dict[int, NDArray[Any]]


class Backfill(NamedTuple):
    """An engine of the new configuration that took every step after ``after`` up to the switch."""

    engine: ScoringEngine
    after: int


def covered(old: ScoringEngine, past: ScoringEngine) -> tuple[int, int]:
    """Of the events held in ``old``, how many the past holds too, and how many only wait there."""
    numbers, known = _known(old, past)
    return int(known.sum()), int(np.isnan(old.pending.truth(numbers[~known])).sum())


def _known(old: ScoringEngine, past: ScoringEngine) -> tuple[I64, BOOL]:
    """Numbers of the rows that ``old`` holds, and whether the past holds their event too."""
    numbers = np.arange(old.pending.head, old.pending.tail, dtype=np.int64)
    ids = np.ascontiguousarray(old.pending.take(numbers)["id"])
    return numbers, past.pending.find(ids) >= 0


def completed(
    state: State,
    old: ScoringEngine,
    past: ScoringEngine,
    staying: Collection[str],
    unchanged: Sequence[str],
) -> tuple[State, Rows]:
    """The carried ``state`` of ``old`` with what it lacks from ``past``, and the pending rows.

    ``staying`` are the members that go on; ``unchanged`` the features whose columns mean what they
    meant.
    """
    theirs = past.state()
    new = [name for name in past.ensemble.names if name not in staying]
    ensemble, taught = state["ensemble"], theirs["ensemble"]
    members = {name: taught["members"][name] for name in new}
    ensemble = ensemble | {"members": ensemble["members"] | members}
    for marks in ("taught", "frozen", "quarantined"):
        ensemble[marks] = ensemble[marks] + [name for name in taught[marks] if name in new]
    if "combiner" not in ensemble:
        ensemble |= {key: taught[key] for key in ("names", "combiner")}
    drift = state["drift"]
    if "columns" not in drift:
        drift = drift | {key: theirs["drift"][key] for key in ("features", "columns")}
    pending, rows, kept = _rows(old, past, staying, unchanged)
    looked_at = old.maturity.state()
    return {"history": theirs["history"]} | state | {
        "ensemble": ensemble,
        "drift": drift,
        "features": _memories(state["features"], theirs["features"]),
        "pending": pending,
        "maturity": looked_at | {"ends": np.searchsorted(kept, looked_at["ends"])},
    }, rows


def _memories(state: State, theirs: State) -> State:
    """The features' memories of every kind: the stream's own, else those of the past."""
    numbers = [i for i, k in enumerate(theirs["number_kinds"]) if k not in state["number_kinds"]]
    known = state["table_kinds"].values()
    tables = [name for name, kind in theirs["table_kinds"].items() if kind not in known]
    # Tables are found by their kind: under names of their own they hide none of the stream's.
    return {
        "numbers": np.concatenate([state["numbers"], theirs["numbers"][numbers]]),
        "number_kinds": state["number_kinds"] + [theirs["number_kinds"][i] for i in numbers],
        "tables": state["tables"] | {f"past {n}": theirs["tables"][n] for n in tables},
        "table_kinds": state["table_kinds"]
        | {f"past {n}": theirs["table_kinds"][n] for n in tables},
    }


def _rows(
    old: ScoringEngine, past: ScoringEngine, staying: Collection[str], unchanged: Sequence[str]
) -> tuple[State, Rows, I64]:
    """The pending store's state, its rows numbered from 0, and their numbers in ``old``.

    What a row holds of the score that was made, of columns that are unchanged and of members that
    stay is the stream's; other columns, and what a new member said of the event before its label
    came, are the past's. An event that the past does not know stays only if all columns do.
    """
    kept, known = _known(old, past)
    everything = _feature_names(old) == _feature_names(past) == list(unchanged)
    if not everything:
        kept, known = kept[known], known[known]
    own = old.pending.take(kept)
    rows = np.zeros(len(kept), past.pending.dtype)
    rows["links"] = np.nan
    rows[known] = past.pending.take(past.pending.find(np.ascontiguousarray(own["id"][known])))
    for name in ("id", "event_time_ms", "score", "promise", "alert", "cold"):
        rows[name] = own[name]
    columns = {
        name
        for feature in past.config.features
        if feature.name in unchanged
        for name in column_names(feature)
    }
    for name, here, there in (
        ("links", past.ensemble.names, _named(old.ensemble.names, staying)),
        ("dense", past.features.schema.dense, _named(old.features.schema.dense, columns)),
        ("hashed", _hashed(past.features.schema), _named(_hashed(old.features.schema), columns)),
        ("keys", past.features.entity_fields, old.features.entity_fields if everything else ()),
    ):
        ours, its = shared(here, there)
        rows[name][:, ours] = own[name][:, its]
    held = old.pending.state()
    held.pop("older", None)
    state = held | {
        "members": list(past.ensemble.names),
        "head": 0,
        "tail": len(kept),
        "newest": int(np.searchsorted(kept, held["newest"], side="right")) - 1,
        **dict(zip(("truth", "marks"), old.pending.moving(kept)[1:], strict=True)),
    }
    parts = range(0, len(rows), SEGMENT_ROWS)
    return state, {i // SEGMENT_ROWS: rows[i : i + SEGMENT_ROWS] for i in parts}, kept


def _feature_names(engine: ScoringEngine) -> list[str]:
    return [feature.name for feature in engine.config.features]


def _named(names: Collection[str], kept: Collection[str]) -> list[str]:
    """The names in their places, empty where they are not among those kept."""
    return [name if name in kept else "" for name in names]


def _hashed(schema: FeatureSchema) -> list[str]:
    return [column.name for column in schema.hashed]

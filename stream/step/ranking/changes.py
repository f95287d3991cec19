"""From one configuration of a shard that ranks to the next: what keeps its state.

``stream/step/reconfigure.py`` asks here. What is known of items, the lists that wait, quality,
drift, counts and the trail always go on; the recommender does while what it remembers and its
members mean what they meant.
"""

from __future__ import annotations

from typing import Any

from models.base import State
from stream.settings.ranking import RECOMMENDER
from stream.step.ranking.engine import RankingEngine

REMEMBERED = ("members", "history", "session_gap")


def differences(old: RankingEngine, new: RankingEngine) -> list[str]:
    """The keys of ``[reco]`` in which the two differ, sorted."""
    before, after = (_settings(engine) for engine in (old, new))
    return sorted(key for key in before if before[key] != after[key])


def stays(old: RankingEngine, new: RankingEngine) -> bool:
    """Whether the recommender's state means in ``new`` what it meant in ``old``."""
    return not set(differences(old, new)).intersection(REMEMBERED)


def _settings(engine: RankingEngine) -> dict[str, Any]:
    return engine.recommender.settings.model_dump(mode="json")


def carried(state: State, old: RankingEngine, new: RankingEngine) -> State:
    """The state of ``old`` without what belongs to a recommender that starts new."""
    if stays(old, new):
        return state
    ensemble, ledger = state["ensemble"], state["ledger"]
    return state | {
        "ensemble": ensemble | {"members": _without(ensemble["members"])},
        "quality": state["quality"] | {"names": [""] * len(state["quality"]["names"])},
        "drift": state["drift"] | {"names": [""] * len(state["drift"]["names"])},
        "ledger": ledger | {"versions": _without(ledger["versions"]), "alarmed": {}},
        "auditor": state["auditor"] | {"watched": _without(state["auditor"]["watched"])},
    }


def _without(known: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in known.items() if name != RECOMMENDER}

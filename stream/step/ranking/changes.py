"""From one configuration of a shard that ranks to the next: what keeps its state.

``stream/step/reconfigure.py`` asks here. What is known of items, the lists that wait, quality,
drift, counts and the trail always go on; the recommender does while what it remembers and its
members mean what they meant.
"""

from __future__ import annotations

from typing import Any

from models.base import State
from stream.settings.ranking import RATINGS, RECOMMENDER
from stream.step.ranking.engine import RankingEngine

REMEMBERED = {RECOMMENDER: ("members", "history", "session_gap"), RATINGS: ("ratings.members",)}
"""The keys of ``[reco]`` by which a learner's state means what it does."""


def learners(engine: RankingEngine) -> list[str]:
    """Those that are no members of a second stage."""
    return [name for name in engine.ensemble.names if name in REMEMBERED]


def differences(old: RankingEngine, new: RankingEngine) -> dict[str, list[str]]:
    """Of each learner of both the keys in which the two differ, sorted."""
    before, after = _settings(old), _settings(new)
    return {
        name: [f"reco.{key}" for key in sorted(keys) if keys[key] != after[name][key]]
        for name, keys in before.items()
        if name in after
    }


def staying(old: RankingEngine, new: RankingEngine) -> list[str]:
    """The learners whose state means in ``new`` what it meant in ``old``."""
    return [
        name
        for name, keys in differences(old, new).items()
        if not {f"reco.{key}" for key in REMEMBERED[name]}.intersection(keys)
    ]


def _settings(engine: RankingEngine) -> dict[str, dict[str, Any]]:
    """Each learner's settings by key."""
    found = engine.recommender.settings.model_dump(mode="json")
    ratings = found.pop("ratings")
    rated = {f"ratings.{key}": value for key, value in (ratings or {}).items()}
    return {RECOMMENDER: found} | ({RATINGS: rated} if rated else {})


def carried(state: State, old: RankingEngine, new: RankingEngine) -> State:
    """The state of ``old`` without what belongs to a learner that starts new, or is gone."""
    kept = staying(old, new)
    gone = [name for name in learners(old) if name not in kept]
    found = dict(state)
    for part, keys in _BY_LEARNER.items():
        found[part] = state[part] | {
            key: {name: known for name, known in state[part][key].items() if name not in gone}
            for key in keys
        }
    if RECOMMENDER in gone:
        found["ledger"] |= {"alarmed": {}}
        for part in ("quality", "drift"):
            found[part] = state[part] | {"names": [""] * len(state[part]["names"])}
    if new.rated is not None and RATINGS not in kept:
        found["rated"] = new.rated.quality.state()
    return found


_BY_LEARNER = {"ensemble": ("members",), "ledger": ("versions",), "auditor": ("watched",)}
"""What stands of each learner by its name."""

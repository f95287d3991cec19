"""Grafana dashboards as code: ``python -m monitoring.show.dashboards.build`` writes them.

``docker-compose.yml`` mounts this folder into Grafana. Never imported by the service.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from monitoring.show.dashboards import panels as p
from monitoring.show.dashboards.grafana import Rows, board

# fmt: off
Shard = Literal["binary", "classes", "number", "ranking", "ratings", "second stage", "windows",
                "many processes"]
# fmt: on
"""What a shard may have that others have not: its kind of target; of rankings ratings that are
foretold, and a second stage; features with windows; or that it is one of many processes."""
SCORING: tuple[Shard, ...] = ("binary", "classes", "number")

ROWS: dict[str, Rows] = {
    "overview": {
        "Status": [[p.LOOP, p.SCORED, p.F1_NOW, p.DOWN, p.REFUSED, p.SAVED]],
        "Flow": [[p.READ, p.LATENCY, p.LAG], [p.STAGES, p.REQUESTS]],
        "Quality of the scores as they were made": [
            [p.F1, p.LOSS_FADING, p.COUNTING],
        ],
        "Labels": [[p.LABELS, p.DELAY], [p.COVERAGE, p.EVICTED, p.WAITING]],
        "Scores and drift": [[p.SCORES, p.SHIFT, p.ALARMS]],
        "Members": [[p.WEIGHTS, p.UP, p.LEARNED]],
        "Learning": [[p.UPDATES, p.PARAMETERS, p.BUDGETS]],
        "Checkpoints, dead letters, restarts": [[p.SIZE, p.LETTERS, p.RESTARTS]],
    },
    "overview-ranking": {
        "Status": [[p.LOOP, p.SCORED, p.HIT_NOW, p.DOWN, p.REFUSED, p.SAVED]],
        "Flow": [[p.READ, p.LATENCY, p.LAG], [p.STAGES, p.REQUESTS]],
        "Quality of the rankings as they were made": [[p.HIT, p.LOSS_FADING, p.COUNTING]],
        "Lists": [[p.LISTED, p.ANSWERS, p.COLD], [p.TAKEN_AFTER, p.SPREAD, p.VALUE]],
        "Members and drift": [[p.WEIGHTS, p.UP, p.LEARNED], [p.ALARMS, p.DETECTORS]],
        "Learning": [[p.UPDATES, p.PARAMETERS, p.BUDGETS]],
        "Checkpoints, dead letters, restarts": [[p.SIZE, p.LETTERS, p.RESTARTS]],
    },
    "quality": {
        "Ensemble and members over the sliding window, labels as they arrive": [
            p.SLIDING[:4],
            p.SLIDING[4:],
            [p.AT_BUDGET, p.ALERTED, p.EXPECTED],
        ],
        "Arrived against matured labels, ensemble": [p.MATURED],
        "Outcomes": [[p.OUTCOMES, p.SAMPLES, p.ALERTS]],
        "Scores by truth and drift": [[*p.BY_TRUTH, p.DETECTORS], [p.PSI, p.KS]],
    },
    "quality-classes": {
        "Ensemble and members over the sliding window, labels as they arrive": [
            p.SLIDING_CLASSES[:4],
            p.SLIDING_CLASSES[4:8],
            [*p.SLIDING_CLASSES[8:], p.EXPECTED],
        ],
        "Arrived against matured labels, ensemble": [p.MATURED_CLASSES],
        "Outcomes": [[p.OUTCOMES, p.SAMPLES, p.ALERTS, p.CLASSES]],
        "Scores by outcome and drift": [[*p.BY_RIGHT, p.DETECTORS], [p.PSI, p.KS]],
    },
    "quality-number": {
        "Ensemble and members over the sliding window, labels as they arrive": [
            p.SLIDING_NUMBERS[:3],
            p.SLIDING_NUMBERS[3:],
        ],
        "Arrived against matured labels, ensemble": [p.MATURED_NUMBERS],
        "Outcomes": [[p.OUTCOMES, p.SAMPLES, p.ALERTS]],
        "Scores and drift": [[p.SCORES, p.DETECTORS], [p.PSI, p.KS]],
    },
    "quality-ranking": {
        "Ranking and members over the sliding window, each item ranked before it was learned": [
            p.SLIDING_RANKS[:2],
            p.SLIDING_RANKS[2:],
        ],
        "Lists": [[p.LISTED, p.ANSWERS, p.COLD], [p.VALUE, p.EFFECTIVE]],
        "Catalogue": [[p.SPREAD, p.KNOWN, p.FORGOTTEN]],
        "Members and drift": [[p.WEIGHTS, p.SAMPLES, p.DETECTORS]],
    },
    "quality-ratings": {
        "Ratings and members, each foretold before it was learned": [
            p.RATED,
            p.RATED_FADING,
            [p.RATINGS],
        ],
    },
    "second-stage": {
        "Whose order is shown, and how well places that are taken are told from others": [
            [p.LEADS, p.PLACES_COUNT],
            p.OF_PLACES,
        ],
        "Scores by what became of places": [p.OF_PLACES_BY_TRUTH, [p.PSI, p.KS]],
        "Members": [
            [p.beside(p.WEIGHTS), p.beside(p.UP), p.beside(p.FROZEN)],
            [p.beside(p.LEARNED), p.beside(p.UPDATE), p.beside(p.PARAMETERS)],
            [p.beside(p.FAILURES), p.beside(p.BUDGETS), p.beside(p.DETECTORS)],
        ],
    },
    "members": {
        "Members in the ensemble": [
            [p.WEIGHTS, p.LOSS],
            [p.UP, p.FROZEN, p.FAILURES],
        ],
        "Parameters": [[p.PARAMETERS, p.ROLES, p.TRAINABLE]],
        "Learning and audit": [[p.LEARNED, p.UPDATE, p.AUDIT, p.BUDGETS]],
    },
    "challengers": {
        "Challengers": [[p.CHALLENGERS, p.CHALLENGER_LOSS, p.CHALLENGER_ALERTS]],
        "Last good versions": [[p.GUARD]],
    },
    "features": {
        "Values": [[p.IMPUTED, p.PSI, p.KS]],
        "Entities": [[p.ENTITIES, p.TABLES, p.NOT_KEPT]],
    },
    "pipeline": {
        "Throughput and latency": [[p.READ, p.LAGS, p.NEWEST], [p.STAGES, p.BUSY, p.LATENCY]],
        "HTTP": [[p.REQUESTS, p.DURATION]],
        "What is held, against its limits": [
            [p.HELD, p.EVICTED],
        ],
        "Checkpoints and what went wrong": [
            [p.AGE, p.WRITING, p.SIZE],
            [p.ALL_LETTERS, p.COMMANDS, p.DIVERGED],
        ],
        "Read replicas": [[p.REPLICA_LAG, p.REPLICA_STEP, p.REPLICA_DIFFERS]],
    },
    "scaled": {
        "Versions of the members": [[p.VERSIONS, p.BEHIND], [p.VERSION_AGE, p.OTHERS]],
        "What waits": [[p.EXAMPLES, p.SHARED]],
        "Risk of second entities": [[p.RISK_LAG, p.RISK_LACKING]],
        "Labels in any partition": [[p.HANDED, p.ON_THE_WAY, p.ELSEWHERE]],
        "Rankings": [[p.DEEDS, p.DEEDS_AHEAD, p.DEEDS_MISSED]],
        "What each does": [[p.SPREAD_EVENTS, p.SPREAD_LABELS]],
        "What went wrong": [[p.SPREAD_ORPHANS, p.SPREAD_FOREIGN]],
        "Quality": [[p.JUDGED]],
    },
}
"""File name, without ``.json``, to what stands on the dashboard."""
FOR: dict[str, tuple[Shard, ...]] = {
    "overview": SCORING,
    "overview-ranking": ("ranking",),
    "quality": ("binary",),
    "quality-classes": ("classes",),
    "quality-number": ("number",),
    "quality-ranking": ("ranking",),
    "quality-ratings": ("ratings",),
    "second-stage": ("second stage",),
    "challengers": SCORING,
    "features": ("windows",),
    "scaled": ("many processes",),
}
"""What a shard must have one of for a dashboard to be for it; the others are for all."""
BOARDS = {name: board(name, rows) for name, rows in ROWS.items()}


def path(name: str) -> Path:
    """Where a dashboard's file stands."""
    return Path(__file__).with_name(f"{name}.json")


def rendered(name: str) -> str:
    """The text of a dashboard's file."""
    return json.dumps(BOARDS[name], indent=2) + "\n"


if __name__ == "__main__":
    for name in BOARDS:
        path(name).write_text(rendered(name), encoding="utf-8")

"""How each array of a recommender is kept: its role, and what its rows stand for."""

from __future__ import annotations

from models.reco.parts import Column, Table


def _ids(side: str) -> dict[str, Column]:
    return {
        "scalars": Column("control"),
        "keys": Column("control", side),
        "ints": Column("control", side),
        "tags": Column("control", side),
    }


LAYOUT: dict[str, Table] = {
    "items": {**_ids("items"), "alive": Column("control", "items")},
    "users": {
        **_ids("users"),
        "last_ms": Column("raw_sample", "users"),
        "session": Column("raw_sample", "users"),
        "arena": Column("raw_sample", "arena"),
    },
    "popular": {
        "counts": Column("statistic", "items"),
        "step": Column("control"),
        "total": Column("statistic"),
    },
    "cooccurrence": {
        "tags": Column("control", "items"),
        "weights": Column("learned", "items"),
        "total": Column("statistic", "items"),
    },
    "sessions": {
        "users": Column("raw_sample", "items"),
        "places": Column("raw_sample", "items"),
        "taken": Column("statistic", "items"),
        "damp": Column("statistic", "items"),
        "alike": Column(None, "users"),
        "match": Column(None, "users"),
    },
    "stack": {
        "shared": Column("learned"),
        "own": Column("learned"),
        "shared_squares": Column("optimizer"),
        "own_squares": Column("optimizer"),
        "scores": Column(None, "items", 1),
        "candidates": Column(None, "items"),
        "said": Column(None, "items", 1),
        "utility": Column(None, "items"),
    },
}
"""The bundles of ``models/kernels/reco`` by part; arrays that are not named never change."""

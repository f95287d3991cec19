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
        "level": Column("statistic", "items"),
    },
    "cooccurrence": {
        "tags": Column("control", "items"),
        "weights": Column("learned", "items"),
        "total": Column("statistic", "items"),
    },
    "sessions": {
        "users": Column("raw_sample", "items", filled="taken"),
        "places": Column("raw_sample", "items", filled="taken"),
        "taken": Column("statistic", "items"),
        "damp": Column("statistic", "items"),
        "alike": Column(None, "users"),
        "match": Column(None, "users"),
    },
    "ease": {
        "inverse": Column("learned"),
        "clock": Column("control"),
        "item": Column("control"),
        "points": Column("statistic"),
        "since": Column("control"),
        "place": Column("control", "items"),
        "applied": Column("control", "users"),
        "updated": Column("control", "users"),
        "waits": Column("control", "users"),
        "queue": Column("control"),
    },
    "bpr": {
        "users": Column("learned", "users"),
        "items": Column("learned", "items"),
        "bias": Column("learned", "items"),
        "rng": Column("rng"),
    },
    "eals": {
        "users": Column("learned", "users"),
        "items": Column("learned", "items"),
        "user_sum": Column("statistic"),
        "item_sum": Column("statistic"),
        "holders": Column("raw_sample", "items"),
        "taken": Column("statistic", "items"),
        "rng": Column("rng"),
    },
    "stack": {
        "shared": Column("learned"),
        "own": Column("learned"),
        "spread": Column("optimizer"),
        "rewards": Column("statistic"),
        "scores": Column(None, "items", 1),
        "candidates": Column(None, "items"),
        "said": Column(None, "items", 1),
        "utility": Column(None, "items"),
        "chance": Column(None, "items"),
        "answer": Column(None, "items"),
    },
}
"""The bundles of ``models/kernels/reco`` by part; arrays that are not named never change."""


def _neighbours(rows: str, others: str) -> dict[str, Column]:
    return {
        "cells": Column("control", rows),
        "counts": Column("statistic", rows),
        "products": Column("learned", rows),
        "rated": Column("raw_sample", others),
        "said": Column("raw_sample", others),
        "heard": Column("statistic", others),
    }


RATINGS: dict[str, Table] = {
    "items": _ids("items"),
    "users": _ids("users"),
    "means": {
        "scale": Column("statistic"),
        "user_rated": Column("statistic", "users"),
        "item_rated": Column("statistic", "items"),
        "users": Column("statistic", "users"),
        "items": Column("statistic", "items"),
        "last_ms": Column("raw_sample", "users"),
    },
    "bias_factors": {
        "users": Column("learned", "users"),
        "items": Column("learned", "items"),
        "user_spread": Column("optimizer", "users"),
        "item_spread": Column("optimizer", "items"),
        "rng": Column("rng"),
    },
    "item_knn": _neighbours("items", "users"),
    "user_knn": _neighbours("users", "items"),
    "line": {"weights": Column("learned"), "spread": Column("optimizer")},
}
"""The bundles of ``models/kernels/ratings``, likewise."""

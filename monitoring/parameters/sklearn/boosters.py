"""Adapters for boosters of XGBoost and LightGBM, and their scikit-learn wrappers.

A booster is read from the text that it writes about itself; nothing is predicted. All its trees are
counted, also those after the best iteration.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from monitoring.parameters.counted import Row
from monitoring.parameters.formula import formula
from monitoring.parameters.sklearn.trees import Tree, tree_rows
from monitoring.parameters.tables import Adapter, Part, table


def _float32(row: Row) -> Row:
    return dataclasses.replace(row, bytes=4 * row.held, dtype="float32")


def _xgboost(m: Any) -> Iterator[Row | Part]:
    learner = json.loads(m.save_raw(raw_format="json"))["learner"]
    booster, numbers = learner["gradient_booster"], learner["learner_model_param"]
    yield from _rounds(booster, numbers)
    # A vector from version 3.1 on, one number before.
    base = json.loads(str(numbers["base_score"]).replace("E", "e"))
    held = len(base) if isinstance(base, list) else 1
    yield _float32(table("base_score", held, formula("k", k=held), note="estimated or given"))


def _rounds(booster: Mapping[str, Any], numbers: Mapping[str, Any]) -> Iterator[Row]:
    if booster["name"] == "gblinear":
        d, k = int(numbers["num_feature"]), max(1, int(numbers["num_class"]))
        held = len(booster["model"]["weights"])
        yield _float32(table("weights", held, formula("(d + 1)*k", d=d, k=k)))
        return
    weighted = booster.get("weight_drop")
    trees = (booster["gbtree"] if booster["name"] == "dart" else booster)["model"]["trees"]
    yield from tree_rows([_xgboost_tree(tree) for tree in trees], "float32")
    sets = sum(len(tree["categories"]) for tree in trees)
    if sets:
        sizes = sum(size for tree in trees for size in tree["categories_sizes"])
        yield table("categories", sets, formula("listed", listed=sizes), unit="category")
    if weighted is not None:
        yield _float32(table("weight_drop", len(weighted), formula("t", t=len(trees))))


def _xgboost_tree(tree: Mapping[str, Any]) -> Tree:
    """Walked from its root: what pruning deleted still lies in the arrays."""
    numbers = tree["tree_param"]
    width = max(1, int(numbers["size_leaf_vector"]))
    leaves = thresholds = categorical = 0
    stack = [0]
    while stack:
        node = stack.pop()
        left = tree["left_children"][node]
        if left < 0:
            leaves += 1
            continue
        by_set = bool(tree["split_type"][node])
        categorical += by_set
        thresholds += not by_set
        stack += [left, tree["right_children"][node]]
    nodes = int(numbers["num_nodes"]) - int(numbers["num_deleted"])
    return Tree(nodes, leaves, thresholds, leaves * width, width, categorical)


def _lightgbm(m: Any) -> Iterator[Row | Part]:
    found = m.dump_model(num_iteration=-1)["tree_info"]
    walked = [_lightgbm_tree(info) for info in found]
    yield from tree_rows([tree for tree, _, _ in walked])
    sets = sum(listed for _, listed, _ in walked)
    if sets:
        yield table("categories", sets, formula("listed", listed=sets), unit="category")
    linear = sum(coefficients for _, _, coefficients in walked)
    if linear:
        yield table("leaf_coefficients", linear, formula("listed", listed=linear))


def _lightgbm_tree(info: Mapping[str, Any]) -> tuple[Tree, int, int]:
    """The tree, the categories that its splits list, and the coefficients of linear leaves."""
    nodes = thresholds = categorical = values = listed = coefficients = 0
    stack = [info["tree_structure"]]
    while stack:
        node = stack.pop()
        nodes += 1
        if "left_child" not in node:
            values += "leaf_value" in node
            # A constant and a weight for each feature that the leaf uses.
            coefficients += len(node.get("leaf_coeff", ())) + ("leaf_const" in node)
            continue
        by_set = node["decision_type"] == "=="
        categorical += by_set
        thresholds += not by_set
        listed += len(str(node["threshold"]).split("||")) if by_set else 0
        stack += [node["left_child"], node["right_child"]]
    tree = Tree(nodes, info["num_leaves"], thresholds, values, 1, categorical)
    return tree, listed, coefficients


def _wrapper(m: Any) -> Iterator[Row | Part]:
    if m._Booster is None:
        raise AttributeError("no booster yet")
    yield Part("booster", m._Booster)


XGBOOST: dict[str, Adapter] = {
    "Booster": _xgboost,
    "XGBModel": _wrapper,
}
LIGHTGBM: dict[str, Adapter] = {
    "Booster": _lightgbm,
    "LGBMModel": _wrapper,
}
"""Adapters by the name of the class or of a base class."""

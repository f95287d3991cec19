"""Adapters for scikit-learn's trees, forests and boosting: nodes, thresholds and leaf values.

The rows of an ensemble's trees are added up: a forest of a hundred is three rows. A node is
structure and no scalar; what an inner node knows of the target is not read by a prediction.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from monitoring.parameters.counted import Row
from monitoring.parameters.formula import formula
from monitoring.parameters.tables import Adapter, Part, array, table


class Tree(NamedTuple):
    """What one binary tree holds, each number by a count of its own."""

    nodes: int
    leaves: int
    thresholds: int
    values: int
    """Scalars in its leaves."""
    per_leaf: int = 1
    """Scalars that a leaf should hold: classes, or targets."""
    categorical: int = 0
    """Splits by a set of categories, which have no threshold."""


def tree_rows(trees: Sequence[Tree], dtype: str = "float64") -> Iterator[Row]:
    """Nodes, thresholds and leaf values of all ``trees`` together.

    A binary tree of l leaves has l - 1 splits and 2*l - 1 nodes.
    """
    t, leaves = len(trees), sum(tree.leaves for tree in trees)
    size = np.dtype(dtype).itemsize
    splits = formula("2*l - t", l=leaves, t=t)
    nodes = sum(tree.nodes for tree in trees)
    config = f"{t:,} trees, {leaves:,} leaves"
    yield table("nodes", nodes, splits, role="control", unit="node", config=config)
    thresholds = formula("l - t", l=leaves, t=t)
    categorical = sum(tree.categorical for tree in trees)
    if categorical:
        thresholds = thresholds.minus("s", s=categorical)
    held = sum(tree.thresholds for tree in trees)
    row = table("thresholds", held, thresholds, unit="threshold")
    yield dataclasses.replace(row, bytes=size * held, dtype=dtype)
    widths = {tree.per_leaf for tree in trees}
    if len(widths) == 1:
        expected = formula("l*v", l=leaves, v=widths.pop())
    else:
        expected = formula("values", values=sum(tree.leaves * tree.per_leaf for tree in trees))
    held = sum(tree.values for tree in trees)
    row = table("leaf_values", held, expected, unit="leaf_value")
    yield dataclasses.replace(row, bytes=size * held, dtype=dtype)


def is_tree(model: Any) -> bool:
    """Whether ``model`` is one fitted decision tree of scikit-learn."""
    return hasattr(model, "tree_") and hasattr(model.tree_, "children_left")


def members(estimators: Sequence[Any]) -> Iterator[Row | Part]:
    """The members of an ensemble: trees added up, others one by one."""
    if estimators and all(map(is_tree, estimators)):
        yield from tree_rows(list(map(_tree, estimators)))
    else:
        for i, member in enumerate(estimators):
            yield Part(f"[{i}]", member)


def _tree(m: Any) -> Tree:
    tree = m.tree_
    leaf = tree.children_left == -1
    classes = np.atleast_1d(getattr(m, "n_classes_", [1] * m.n_outputs_)).tolist()
    # The array of values has room for the most classes of any output.
    values = sum(tree.value[leaf, k, :c].size for k, c in enumerate(classes))
    thresholds = int(np.count_nonzero(tree.feature >= 0))
    return Tree(tree.node_count, int(leaf.sum()), thresholds, values, sum(classes))


def _decision_tree(m: Any) -> Iterator[Row | Part]:
    yield from members([m])


def _forest(m: Any) -> Iterator[Row | Part]:
    yield from members(m.estimators_)


def _embedding(m: Any) -> Iterator[Row | Part]:
    """Random trees that code an event by its leaves; no leaf value is read."""
    nodes, thresholds, _ = tree_rows([_tree(member) for member in m.estimators_])
    yield from (nodes, thresholds)
    yield Part("one_hot_encoder_", m.one_hot_encoder_)


def _isolation(m: Any) -> Iterator[Row | Part]:
    """An isolation forest reads how deep and how crowded a leaf is, and no leaf value."""
    trees = [_tree(member) for member in m.estimators_]
    nodes, thresholds, _ = tree_rows(trees)
    yield from (nodes, thresholds)
    lengths = (*m._average_path_length_per_tree, *m._decision_path_lengths)
    held = sum(np.size(each) for each in lengths)
    expected = formula("2*n", n=nodes.held)
    yield table("path_lengths", held, expected, role="statistic", unit="node_statistic")
    yield array("offset_", m.offset_, formula("1"))


def _gradient_boosting(m: Any) -> Iterator[Row | Part]:
    yield from members(list(m.estimators_.ravel()))
    # "zero" starts from nothing.
    if not isinstance(m.init_, str):
        yield Part("init_", m.init_)


def _histograms(m: Any) -> Iterator[Row | Part]:
    """Gradient boosting over histograms; the bins' edges serve training only."""
    predictors = [tree for iteration in m._predictors for tree in iteration]
    yield from tree_rows([_predictor(predictor) for predictor in predictors])
    sets = sum(tree.raw_left_cat_bitsets.size for tree in predictors)
    if sets:
        splits = sum(_predictor(tree).categorical for tree in predictors)
        # 256 categories as bits of eight words a split.
        yield table("categories", sets, formula("8*s", s=splits), unit="word")
    k = m.n_trees_per_iteration_
    yield array("baseline", m._baseline_prediction, formula("k", k=k))
    edges = sum(np.size(edge) for edge in m._bin_mapper.bin_thresholds_)
    yield table("bins", edges, formula("edges", edges=edges), role="control")
    if m._preprocessor is not None:
        yield Part("preprocessor", m._preprocessor)


def _predictor(predictor: Any) -> Tree:
    nodes = predictor.nodes
    leaf = nodes["is_leaf"].astype(bool)
    split, categorical = ~leaf, nodes["is_categorical"].astype(bool)
    thresholds = int((split & ~categorical).sum())
    leaves = int(leaf.sum())
    return Tree(
        len(nodes), leaves, thresholds, leaves, categorical=int((split & categorical).sum())
    )


def _ada_boost(m: Any) -> Iterator[Row | Part]:
    yield from members(m.estimators_)
    # Stopped early, the weights' array has room for members that were never fitted.
    used = m.estimator_weights_[: len(m.estimators_)]
    yield array("estimator_weights_", used, formula("n", n=len(m.estimators_)))


TREES: dict[str, Adapter] = {
    "BaseDecisionTree": _decision_tree,
    "RandomTreesEmbedding": _embedding,
    "BaseForest": _forest,
    "IsolationForest": _isolation,
    "BaseGradientBoosting": _gradient_boosting,
    "BaseHistGradientBoosting": _histograms,
    "BaseWeightBoosting": _ada_boost,
}
"""Adapters by the name of a base class."""

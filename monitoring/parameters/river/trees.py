"""Adapters for River's trees and forests: nodes, thresholds and statistics under their own units.

A threshold is learned but no gradient moves it, a leaf's counts are statistics, a node is structure
and no scalar at all. Walks children only: Mondrian nodes also point to their parents, and every
Hoeffding leaf points to the one splitter prototype it clones from.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from monitoring.parameters.counted import Row
from monitoring.parameters.formula import formula
from monitoring.parameters.river.composites import detector_row
from monitoring.parameters.tables import Adapter, Part, scalars, table

_LEAF_WEIGHTS = ("_mc_correct_weight", "_nb_correct_weight", "_fmse_mean", "_fmse_model")


def _nodes(root: Any) -> Iterator[Any]:
    stack = [root] if root is not None else []
    while stack:
        node = stack.pop()
        yield node
        stack.extend(reversed(list(getattr(node, "children", None) or ())))


def _structure(nodes: list[Any]) -> Iterator[Row]:
    branches = [n for n in nodes if hasattr(n, "children")]
    leaves = len(nodes) - len(branches)
    config = f"{len(branches)} branches, {leaves} leaves"
    expected = formula("b + l", b=len(branches), l=leaves)
    yield table("nodes", len(nodes), expected, role="control", unit="node", config=config)
    held = sum(isinstance(getattr(n, "threshold", None), int | float) for n in branches)
    multiway = sum(not hasattr(n, "threshold") for n in branches)
    expected = formula("b - w", b=len(branches), w=multiway)
    yield table("thresholds", held, expected, unit="threshold")


def _hoeffding(m: Any) -> Iterator[Row | Part]:
    """Hoeffding trees: class counts or target moments, and the leaves' attribute observers."""
    nodes = list(_nodes(m._root))
    yield from _structure(nodes)
    yield from _targets(nodes)
    leaves = [n for n in nodes if not hasattr(n, "children")]
    yield from _observers(leaves)
    for i, leaf in enumerate(leaves):
        if getattr(leaf, "_leaf_model", None) is not None:
            yield Part(f"leaf[{i}]", leaf._leaf_model)
    detectors = sum(getattr(n, "drift_detector", None) is not None for n in nodes)
    if detectors:
        yield detector_row(detectors)
    for i, node in enumerate(nodes):
        if getattr(node, "_alternate_tree", None) is not None:
            yield from _alternate(node._alternate_tree, f"alternate[{i}]")


def _targets(nodes: list[Any]) -> Iterator[Row]:
    """What nodes know of the target: a count per class, or a variance of three scalars."""
    for unit, chosen in (
        ("leaf_statistic", [n for n in nodes if not hasattr(n, "children")]),
        ("branch_statistic", [n for n in nodes if hasattr(n, "children")]),
    ):
        values = [n.stats for n in chosen if getattr(n, "stats", None) is not None]
        entries = sum(len(v) for v in values if isinstance(v, dict))
        moments = sum(not isinstance(v, dict) for v in values)
        weights = sum(hasattr(n, name) for n in chosen for name in _LEAF_WEIGHTS)
        held = sum(scalars(v) for v in values) + weights
        expected = formula("counts + 3*moments + w", counts=entries, moments=moments, w=weights)
        yield table(unit, held, expected, role="statistic", unit=unit)


def _observers(leaves: list[Any]) -> Iterator[Row]:
    """Gaussian observers are what a naive Bayes leaf predicts with; others only propose splits."""
    gaussians = held = bounds = others = 0
    for leaf in leaves:
        predicts = "NaiveBayes" in type(leaf).__name__ or hasattr(leaf, "_nb_correct_weight")
        for splitter in (getattr(leaf, "splitters", None) or {}).values():
            if predicts and type(splitter).__name__ == "GaussianSplitter":
                gaussians += len(splitter._att_dist_per_class)
                held += scalars(splitter._att_dist_per_class)
                bounds += scalars(splitter._min_per_class) + scalars(splitter._max_per_class)
            else:
                others += 1
    expected = formula("3*pairs", pairs=gaussians)
    yield table("observers", held, expected, role="statistic", unit="leaf_statistic")
    expected = formula("2*pairs", pairs=gaussians)
    yield table("bounds", bounds, expected, role="control", note="only split attempts read them")
    if others:
        expected = formula("n", n=others)
        yield table("splitters", others, expected, role="opaque", unit="splitter")


def _alternate(root: Any, path: str) -> Iterator[Row]:
    """A subtree that waits to replace another: it learns, scoring does not read it yet."""
    count = sum(1 for _ in _nodes(root))
    yield table(path, count, formula("n", n=count), role="control", unit="node")


def _gradient_tree(m: Any) -> Iterator[Row | Part]:
    nodes = list(_nodes(m._root))
    yield from _structure(nodes)
    leaves = [n for n in nodes if not hasattr(n, "children")]
    held = sum(scalars(leaf._prediction) for leaf in leaves)
    yield table("predictions", held, formula("l", l=len(leaves)), unit="leaf_value")
    splitters = sum(len(leaf._split_stats or ()) for leaf in leaves)
    yield table("splitters", splitters, formula("n", n=splitters), role="opaque", unit="splitter")


def _mondrian(m: Any) -> Iterator[Row | Part]:
    """Aggregated Mondrian trees: every node predicts, so every node's statistics are read."""
    nodes = list(_nodes(m._root))
    yield from _structure(nodes)
    ranges = [r for n in nodes for r in (_range(n, "min"), _range(n, "max"))]
    held = sum(map(len, ranges))
    d = max(map(len, ranges), default=0)
    empty = sum(not r for r in ranges)
    expected = formula("(2*n - e)*d", n=len(nodes), e=empty, d=d)
    yield table("ranges", held, expected, role="statistic", unit="node_statistic")
    # time, weight, log_weight_tree and n_samples, and a count per class or a running mean.
    values = [n.counts if hasattr(n, "counts") else n._mean for n in nodes]
    counts = sum(len(v) for v in values if isinstance(v, list))
    means = sum(not isinstance(v, list) for v in values)
    held = sum(map(scalars, values)) + sum(map(_plain, nodes))
    expected = formula("4*n + counts + 2*means", n=len(nodes), counts=counts, means=means)
    yield table("statistics", held, expected, role="statistic", unit="node_statistic")


def _range(node: Any, side: str) -> dict[Any, float]:
    return getattr(node, f"memory_range_{side}", None) or {}


def _plain(node: Any) -> int:
    names = ("time", "weight", "log_weight_tree", "n_samples")
    return sum(isinstance(getattr(node, name, None), int | float) for name in names)


def _mondrian_forest(m: Any) -> Iterator[Row | Part]:
    for i, tree in enumerate(m.data):
        yield Part(f"[{i}]", tree)


def _random_forest(m: Any) -> Iterator[Row | Part]:
    """Adaptive random forests: background trees learn beside the others and are not read."""
    for i, tree in enumerate(m.data):
        yield Part(f"[{i}]", tree)
    for i, tree in enumerate(m._background or ()):
        if tree is not None:
            yield Part(f"background[{i}]", tree, "control")
    metrics = len(getattr(m, "_metrics", None) or ())
    expected = formula("n", n=metrics)
    note = "one running metric a tree weighs its vote"
    yield table("votes", metrics, expected, role="control", unit="metric", note=note)
    for name in ("_drift_detectors", "_warning_detectors"):
        count = sum(d is not None for d in getattr(m, name, None) or ())
        if count:
            yield detector_row(count)


def _half_space(m: Any) -> Iterator[Row | Part]:
    for i, root in enumerate(m.trees):
        nodes = list(_nodes(root))
        branches = [n for n in nodes if hasattr(n, "children")]
        # Drawn at random once and never moved: a hyper-parameter, however many there are.
        expected = formula("full - 1", full=2**m.height)
        yield table(f"[{i}].thresholds", len(branches), expected, role="hyper", unit="threshold")
        held = sum(hasattr(n, "l_mass") + hasattr(n, "r_mass") for n in nodes)
        yield table(
            f"[{i}].masses", held, formula("2*n", n=len(nodes)), role="statistic", unit="node_mass"
        )


TREES: dict[str, Adapter] = {
    "HoeffdingTree": _hoeffding,
    "StochasticGradientTree": _gradient_tree,
    "MondrianTree": _mondrian,
    "AMFClassifier": _mondrian_forest,
    "AMFRegressor": _mondrian_forest,
    "BaseForest": _random_forest,
    "HalfSpaceTrees": _half_space,
}
"""Adapters by the name of the class or of a base class."""

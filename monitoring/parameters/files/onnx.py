"""Adapter for ONNX: initialisers, constants, and the numbers in nodes' attributes.

A graph does not tell weights from other constants: whole numbers of 64 bits are what shapes and
indices are made of, and count as ``hyper``. What nodes of ``ai.onnx.ml`` (trees, linear models)
hold in their attributes is told and not judged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from monitoring.parameters.counted import Row
from monitoring.parameters.tables import Adapter, Part, loose

_NAMES = {"FLOAT": "float32", "DOUBLE": "float64"}
_INDICES = ("INT64", "BOOL", "STRING")


def _model(m: Any) -> Iterator[Row | Part]:
    yield from _graph(m.graph)
    for function in m.functions:
        yield from _nodes(function.node)


def _graph(graph: Any) -> Iterator[Row | Part]:
    for tensor in graph.initializer:
        yield _tensor(tensor, tensor.name)
    for sparse in graph.sparse_initializer:
        dense = 1
        for side in sparse.dims:
            dense *= side
        row = _tensor(sparse.values, sparse.values.name)
        yield dataclasses.replace(row, note=f"sparse: {row.held:,} stored of {dense:,}")
    yield from _nodes(graph.node)


def _nodes(nodes: Any) -> Iterator[Row | Part]:
    """Graphs inside nodes (branches, loops), constants, and numbers in attributes."""
    for node in nodes:
        name = next(iter(node.output), node.name)
        loose_numbers = 0
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _graph(graph)
            if node.op_type == "Constant" and attribute.HasField("t"):
                row = _tensor(attribute.t, name)
                yield dataclasses.replace(row, note=row.note or "a constant")
            loose_numbers += len(attribute.floats) if node.domain == "ai.onnx.ml" else 0
        if loose_numbers:
            note = "numbers in attributes: nothing says which were learned"
            yield Row(
                name, node.op_type, held=loose_numbers, role="opaque", note=note,
                verdict="no_formula", bytes=4 * loose_numbers, dtype="float32",
            )  # fmt: skip


def _tensor(tensor: Any, path: str) -> Row:
    name = type(tensor).DataType.Name(tensor.data_type)
    dtype = _NAMES.get(name, name.lower())
    row = loose(path, "Tensor", tuple(tensor.dims), dtype)
    if name in _INDICES:
        return dataclasses.replace(row, role="hyper", note="whole numbers, as in shapes")
    return row


ONNX: dict[str, Adapter] = {
    "ModelProto": _model,
    "GraphProto": _graph,
    "TensorProto": lambda m: iter([_tensor(m, m.name)]),
}
"""Adapters by the name of the message."""

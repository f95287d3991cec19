"""What is no model of one kind: containers, tensors, objects that hold models, and what is none."""

from __future__ import annotations

import functools
import warnings
from collections import deque
from typing import Any

import numpy as np
import pytest
import torch
from river import linear_model, preprocessing
from torch import nn

from models.base import FeatureSchema
from models.members.constant import ConstantModel, ConstantParams
from monitoring.parameters import ParameterError, count


def held(model: Any) -> tuple[int, bool]:
    """Parameters held, and whether they were counted exactly."""
    totals = count(model).totals
    return totals.held, totals.exact


def tied() -> nn.Sequential:
    """An embedding of 10x4 that the output layer shares."""
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10, bias=False))
    model[1].weight = model[0].weight
    return model


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ([nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1)], 8 + 3),
        ((nn.Linear(3, 2), [nn.Linear(2, 1)]), 8 + 3),
        ({"encoder": nn.Linear(3, 2), "heads": {"a": nn.Linear(2, 1)}}, 8 + 3),
        (deque([nn.Linear(3, 2)]), 8),
        ([tied(), tied()[0]], 40 + 40),
        (torch.zeros(3, 4), 12),
        (nn.Parameter(torch.zeros(5)), 5),
        (np.zeros((2, 3)), 6),
        (nn.Linear(3, 2).state_dict(), 8),
        (dict(nn.Linear(3, 2).named_parameters()), 8),
        (tied().state_dict(), 40),
        ([linear_model.LogisticRegression(), nn.Linear(3, 2)], 1 + 8),
    ],
)
def test_what_holds_models_or_tensors_is_counted(model: Any, expected: int) -> None:
    """Lists, tuples, mappings, tensors, arrays and state dicts; what is shared counts once."""
    assert held(model) == (expected, True)


def test_a_tensor_without_a_layer_has_no_formula() -> None:
    """Nothing says how large it should be: the verdict is not "match"."""
    report = count({"w": torch.zeros(3, 4), "b": np.zeros(2)})
    assert [(row.path, row.held, row.verdict) for row in report.rows] == [
        ("w", 12, "no_formula"),
        ("b", 2, "no_formula"),
    ]


def test_a_state_dict_keeps_buffers_apart_by_torch_s_names() -> None:
    """Running statistics and their counter are no parameters there either."""
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    totals, whole = count(module.state_dict()).totals, count(module).totals
    assert (totals.held, totals.buffers) == (whole.held, whole.buffers) == (12, 5)


def test_a_training_checkpoint_keeps_the_optimizer_apart() -> None:
    """Model, Adam's moments and steps, and plain numbers that nothing explains."""
    model = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
    totals = count(saved).totals
    assert (totals.held, totals.optimizer) == (8, 2 * 8 + 2)
    assert totals.roles["opaque"] > 1


def test_an_optimizer_alone_holds_no_parameter() -> None:
    """Momentum of eight weights, under a role of its own; the weights are the model's."""
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    for held_by in (optimizer, [model, optimizer]):
        totals = count(held_by).totals
        assert (totals.held, totals.optimizer) == (8 if held_by is not optimizer else 0, 8)


def test_modules_inside_a_plain_object_are_counted_by_their_formulas() -> None:
    """The object is walked and marked, the modules inside keep their verdicts."""

    class Service:
        def __init__(self) -> None:
            self.net = nn.Linear(3, 2)
            self.stages = [{"scale": preprocessing.StandardScaler()}]
            self.inner = type("Inner", (), {})()
            self.inner.head = nn.Linear(2, 1)
            self.bias = [0.5]

    report = count(Service())
    assert (report.totals.held, report.exact) == (8 + 3 + 1, False)
    rows = {row.path: row.verdict for row in report.rows}
    assert (rows["net"], rows["inner.head"]) == ("match", "match")


def test_members_in_a_mapping_are_counted_by_their_tables() -> None:
    """Each under its name."""
    made = [ConstantModel(ConstantParams(), FeatureSchema(()), 0) for _ in range(2)]
    report = count({"a": made[0], "b": made[1]})
    assert [row.path for row in report.rows] == ["a.link", "b.link"]


def test_a_member_whose_table_is_empty_says_so() -> None:
    """It may hold nothing; that is a row of the audit trail and no error."""

    class Empty(ConstantModel):
        def parameters(self) -> list[Any]:
            return []

    [row] = count(Empty(ConstantParams(), FeatureSchema(()), 0)).rows
    assert (row.held, row.note) == (0, "its own table of parameters is empty")


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (None, "got None"),
        (3, "got 3"),
        ("net.pt", "got 'net.pt'"),
        ((layer for layer in [nn.Linear(2, 2)]), "read once"),
        (functools.partial(nn.Linear, 2, 3), "got a partial"),
        (nn.Linear, "call it"),
        (len, "call it"),
        ([], "nothing that can be counted"),
        ({}, "nothing that can be counted"),
        (object(), "nothing that can be counted"),
    ],
)
def test_what_cannot_be_counted_is_refused(model: Any, says: str) -> None:
    """Never a count of zero for what was not looked at."""
    with pytest.raises(ParameterError, match=says):
        count(model)


def test_what_a_list_holds_beside_models_is_told() -> None:
    """A layer that nobody made yet is no zero."""
    report = count([nn.Linear(2, 2), functools.partial(nn.Linear, 2, 3)])
    assert report.totals.held == 6
    assert "not counted: [1]" in report.notes[0]


def test_an_empty_module_says_that_it_is_empty() -> None:
    """A row with nothing, not no row."""
    report = count(nn.Sequential())
    assert [(row.held, row.note) for row in report.rows] == [(0, "holds no tensor")]


def test_a_sparse_weight_counts_what_is_stored_and_says_what_is_not() -> None:
    """COO and CSR: two numbers of 400, and the formula less the zeros left out."""
    dense = torch.zeros(20, 20)
    dense[0, 0] = dense[3, 4] = 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weights = [dense.to_sparse(), dense.to_sparse_csr()]
    for weight in weights:
        layer = nn.Linear(20, 20)
        layer.weight = nn.Parameter(weight)
        row = count(layer).rows[0]
        assert (row.held, row.verdict) == (2 + 20, "match")
        assert "2 stored of 400" in row.note
        assert row.bytes > 4 * 22
        assert count({"w": weight}).totals.held == 2


def test_a_nested_tensor_counts_its_numbers() -> None:
    """Two rows of two and three: five numbers, however they are laid out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for layout in (torch.strided, torch.jagged):
            parts = [torch.zeros(2), torch.zeros(3)]
            nested = torch.nested.nested_tensor(parts, layout=layout)
            assert held([nested]) == (5, True)
            module = nn.Module()
            module.ragged = nn.Parameter(nested)
            assert held(module) == (5, True)


def test_a_module_without_its_constructor_is_refused() -> None:
    """The message names the layer and the call that is missing."""

    class Forgetful(nn.Module):
        def __init__(self) -> None:
            self.size = 3

    outer = nn.Sequential(nn.Linear(2, 2))
    outer._modules["1"] = Forgetful()
    with pytest.raises(ParameterError, match=r"1: Forgetful .* super\(\).__init__\(\)"):
        count(outer)


def test_layers_nested_beyond_python_s_stack_are_refused() -> None:
    """Torch itself cannot walk them."""
    module: nn.Module = nn.Linear(2, 2)
    for _ in range(3000):
        module = nn.Sequential(module)
    with pytest.raises(ParameterError, match="nested"):
        count(module)


def test_an_adapter_s_failure_is_an_error_of_the_target() -> None:
    """An estimator whose attributes are not those of its family gives no number."""
    model = linear_model.LogisticRegression()
    del model._weights
    with pytest.raises(ParameterError, match="_weights"):
        count(model)

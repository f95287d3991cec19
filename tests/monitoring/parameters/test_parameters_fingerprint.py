"""Signatures, structure digests and content digests: what each sees and what it does not."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from models.base import FeatureSchema
from models.members.constant import ConstantModel, ConstantParams
from monitoring.parameters import (
    ParameterError,
    content_digests,
    content_root,
    count,
    signature,
    structure_digest,
)


def model() -> nn.Sequential:
    """Linear and batch norm with fixed values."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


def replace(m: nn.Sequential) -> None:
    """The same sizes in a new tensor."""
    m[0].weight = nn.Parameter(m[0].weight.detach().clone())


CHANGES: dict[str, Callable[[nn.Sequential], object]] = {
    "replaced": replace,
    "frozen": lambda m: m[0].requires_grad_(False),
    "cast": lambda m: m.double(),
    "grown": lambda m: m.append(nn.Linear(2, 2)),
    "pruned": lambda m: prune.random_unstructured(m[0], "weight", 0.5),
    "tied": lambda m: m.append(m[0]),
    "buffer replaced": lambda m: setattr(m[1], "running_mean", torch.zeros(3)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_signature_sees_a_structural_change(change: str) -> None:
    """Added, replaced, cast, frozen, tied: a new signature."""
    m = model()
    before, alive = signature(m), list(m.state_dict(keep_vars=True).values())
    CHANGES[change](m)
    assert signature(m) != before
    assert alive


def test_the_signature_is_stable_and_lists_every_name() -> None:
    """Nothing changed, nothing differs; tied tensors stand under both names."""
    m = nn.Sequential(nn.Embedding(5, 2), nn.Linear(2, 5, bias=False))
    m[1].weight = m[0].weight
    assert signature(m) == signature(m)
    assert [entry[0] for entry in signature(m)] == ["0.weight", "1.weight"]


def test_the_content_root_sees_writes_that_the_version_counter_does_not() -> None:
    """A write through .data leaves _version and the signature as they were."""
    m = model()
    root, before, version = content_root(m), signature(m), m[0].weight._version
    m[0].weight.data[0, 0] += 1
    assert m[0].weight._version == version
    assert signature(m) == before
    assert content_root(m) != root


def test_the_digests_name_the_tensor_that_changed() -> None:
    """One bit of one buffer."""
    m = model()
    before = content_digests(m)
    m[1].running_var[0] += 1
    after = content_digests(m)
    assert [k for k in before if before[k] != after[k]] == ["buffer:1.running_var"]


def test_content_is_value_and_not_layout() -> None:
    """A copy, a transposed layout and a reloaded state have the same root; other types do not."""
    m = model()
    twin = copy.deepcopy(m)
    twin[0].weight = nn.Parameter(twin[0].weight.detach().t().contiguous().t())
    assert not twin[0].weight.is_contiguous()
    assert content_root(twin) == content_root(m)
    assert content_root(copy.deepcopy(m).bfloat16()) != content_root(m)
    other = nn.Sequential(nn.Linear(4, 3))
    assert content_root(other) != content_root(m)


def test_signed_zeros_and_nans_are_told_apart() -> None:
    """Bits, not comparisons."""
    roots = {content_root({"a": np.array([v])}) for v in (0.0, -0.0, np.nan, 1.0)}
    assert len(roots) == 4
    assert content_root({"a": np.array([np.nan])}) == content_root({"a": np.array([np.nan])})


def test_byte_order_and_key_order_do_not_matter() -> None:
    """Little-endian bytes, sorted paths."""
    big, little = np.arange(3, dtype=">f8"), np.arange(3, dtype="<f8")
    assert content_root({"a": big, "b": 1}) == content_root({"b": 1, "a": little})
    assert content_root({"a": 1}) != content_root({"a": 1.0})


def test_a_member_s_content_is_its_state() -> None:
    """Another constant, another root."""

    def member(p: float) -> ConstantModel:
        return ConstantModel(ConstantParams(probability=p), FeatureSchema(()), 0)

    assert content_root(member(0.5)) == content_root(member(0.5))
    assert content_root(member(0.5)) != content_root(member(0.6))


def test_what_has_no_values_has_no_digest() -> None:
    """The meta device and unknown objects are refused with the reason."""
    with pytest.raises(ParameterError, match="meta device"):
        content_root(nn.Linear(2, 2, device="meta"))
    with pytest.raises(ParameterError, match="expected a torch module"):
        content_root(object())


def test_the_structure_digest_ignores_values_and_sees_structure() -> None:
    """Equal for two trainings of one architecture; a layer, a cast, a tie or a freeze change it."""
    base = structure_digest(count(model()))
    trained = model()
    nn.init.zeros_(trained[0].weight)
    assert structure_digest(count(trained)) == base
    for change in ("frozen", "cast", "grown", "pruned", "tied"):
        m = model()
        CHANGES[change](m)
        assert structure_digest(count(m)) != base, change

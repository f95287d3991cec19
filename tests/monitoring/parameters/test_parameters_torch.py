"""Counting torch modules: every family against torch's own sums, and every known trap."""

from __future__ import annotations

import collections
import functools
import inspect
import random
import types
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from monitoring.parameters import Counted, count
from monitoring.parameters.torch.layers import CONTAINERS, reader_of
from tests.support.architectures import ARCHITECTURES
from tests.support.parameters_sweep import sweep


def row(report: Counted, path: str) -> Any:
    """The row of one layer."""
    return next(r for r in report.rows if r.path == path)


@pytest.mark.parametrize("start", range(4))
def test_the_formula_of_every_family_equals_what_torch_allocates(start: int) -> None:
    """Random sizes, options, groups, directions, biases: parameters and buffers, layer by layer."""
    assert sum(sweep(100, start).values()) >= 100


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_published_count_of_a_known_architecture(name: str) -> None:
    """Forty-odd networks, three of them above a billion, on the meta device."""
    build, published = ARCHITECTURES[name]
    with torch.device("meta"):
        totals = count(build()).totals
    assert totals.held == published
    # Class tokens and channel scales are bare parameters, which no family owns.
    bare = name.startswith(("ViT", "ConvNeXt"))
    assert totals.verdict == ("no_formula" if bare else "match")


def test_every_class_of_torch_nn_belongs_to_a_family() -> None:
    """No layer of torch.nn is left without a formula, except what only contains others."""
    classes = [c for _, c in inspect.getmembers(nn, inspect.isclass) if issubclass(c, nn.Module)]
    missing = {c.__name__ for c in classes if reader_of(c) is None}
    assert missing - CONTAINERS == set()


def test_the_article_s_examples() -> None:
    """The counts everybody quotes, and the recurrent ones as torch holds them."""
    layers = [nn.Linear(256, 128), nn.Conv2d(3, 64, 3), nn.LSTM(10, 20), nn.GRU(10, 20)]
    assert [count(layer).totals.held for layer in layers] == [32_896, 1_792, 2_560, 1_920]
    assert count(nn.LSTM(10, 20)).totals.keras == 2_480


def test_tied_weights_count_once_and_every_alias_is_listed() -> None:
    """A language model's output layer shares its token table."""
    model = nn.Sequential(nn.Embedding(100, 8), nn.Linear(8, 8), nn.Linear(8, 100, bias=False))
    model[2].weight = model[0].weight
    report = count(model)
    assert report.totals.held == 100 * 8 + 72
    assert report.aliases == {"2.weight": "0.weight"}
    assert (row(report, "2").held, row(report, "2").aliased) == (800, 800)


def test_silent_untying_shows_in_count_and_aliases() -> None:
    """Loading with assign=True gives each name its own tensor; torch says nothing."""
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10, bias=False))
    model[1].weight = model[0].weight
    before = count(model)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    after = count(model)
    assert (before.totals.held, after.totals.held) == (40, 80)
    assert before.aliases
    assert not after.aliases


def test_a_layer_used_twice_counts_once() -> None:
    """The same module under two names is one row with its sizes and one that points to it."""
    layer = nn.Linear(4, 4)
    report = count(nn.Sequential(layer, nn.ReLU(), layer))
    assert report.totals.held == 20
    assert row(report, "2").alias_of == ("0",)
    assert report.aliases == {"2.weight": "0.weight", "2.bias": "0.bias"}


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_views_of_one_storage_count_unique_elements(device: str) -> None:
    """Overlapping, strided and repeated views: elements of memory, not the sum of the sizes."""
    with torch.device(device):
        base = torch.zeros(10, 6)
        model = nn.Module()
        model.rows = nn.Parameter(base[:6])
        model.columns = nn.Parameter(base[:, 4:])
        model.repeated = nn.Parameter(torch.zeros(1).expand(7))
    report = count(model)
    # 36 in the rows, 20 in the columns of which 12 are there already, one number seven times.
    assert report.totals.held == 36 + 8 + 1
    assert report.aliases == {"columns": "rows"}


def test_a_transposed_tie_is_seen() -> None:
    """An autoencoder's decoder may hold the encoder's weight transposed."""
    model = nn.Sequential(nn.Linear(5, 3, bias=False), nn.Linear(3, 5, bias=False))
    model[1].weight = nn.Parameter(model[0].weight.data.t())
    assert count(model).totals.held == 15


def test_tensors_outside_the_registry_are_reported_apart() -> None:
    """Plain lists, dicts and raw tensors: neither state_dict nor the optimizer sees them."""
    model = nn.Sequential(nn.Linear(2, 2))
    model.scales = [nn.Parameter(torch.zeros(3)), {"deep": torch.zeros(4)}]
    model.blocks = {"a": [nn.Linear(2, 3)]}
    model.same = [model[0].weight]
    report = count(model)
    assert report.totals.held == 6
    assert report.totals.unregistered == 3 + 4 + 9
    paths = {r.path for r in report.rows if r.unregistered}
    assert paths == {"scales[0]", "scales[1]['deep']", "blocks['a'][0]"}


class Box:
    """An object that is no module, with slots."""

    __slots__ = ("layer", "never_set")

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer


def test_unregistered_layers_are_found_in_any_container() -> None:
    """A deque, an object, one with slots, a partial, a closure, an array of objects."""
    layers = [nn.Linear(1, n) for n in range(1, 8)]
    namespace, array = types.SimpleNamespace(head=layers[1]), np.empty(1, dtype=object)
    array[0] = layers[6]

    def forward(x: torch.Tensor) -> torch.Tensor:
        return layers_of_closure(x)

    layers_of_closure = layers[5]
    model = nn.Module()
    model.plain = {
        "deque": collections.deque([layers[0]]),
        "object": namespace,
        "slots": Box(layers[2]),
        "partial": functools.partial(print, layers[3], end=layers[4]),
        "closure": forward,
        "array": array,
    }
    model.optimizer = torch.optim.SGD(layers[0].parameters(), lr=0.1)
    report = count(model)
    assert report.totals.unregistered == sum(2 * n for n in range(1, 8))
    assert {r.path for r in report.rows if r.unregistered} == {
        "plain['deque'][0]",
        "plain['object'].head",
        "plain['slots'].layer",
        "plain['partial'].args[0]",
        "plain['partial'].keywords['end']",
        "plain['closure'].layers_of_closure",
        "plain['array'][0]",
    }


def test_lazy_layers_are_undetermined_until_they_know_their_input() -> None:
    """No number is invented for a layer that has not seen data."""
    layer = nn.LazyLinear(4)
    assert count(layer).totals.verdict == "undetermined"
    layer(torch.zeros(1, 3))
    assert (count(layer).totals.verdict, count(layer).totals.held) == ("match", 16)


def test_a_grown_weight_with_stale_attributes_is_told_from_a_mismatch() -> None:
    """Somebody replaced the tensors and forgot out_features; or broke the layer."""
    grown = nn.Linear(4, 4)
    grown.weight, grown.bias = nn.Parameter(torch.zeros(6, 4)), nn.Parameter(torch.zeros(6))
    broken = nn.Linear(4, 4)
    broken.extra = nn.Parameter(torch.zeros(2))
    assert count(grown).totals.verdict == "stale_attr"
    assert count(broken).totals.verdict == "mismatch"


@pytest.mark.parametrize(
    ("layer", "name", "shape"),
    [
        (nn.Conv2d(4, 6, 3, groups=2), "weight", (8, 2, 3, 3)),
        (nn.Embedding(5, 2), "weight", (9, 2)),
        (nn.LayerNorm(4, bias=False), "weight", (7,)),
        (nn.PReLU(2), "weight", (3,)),
        (nn.Bilinear(2, 3, 4, bias=False), "weight", (5, 2, 3)),
        (nn.ConvTranspose1d(3, 4, 2, bias=False), "weight", (6, 4, 2)),
    ],
)
def test_stale_attributes_of_other_families(
    layer: nn.Module, name: str, shape: tuple[int, ...]
) -> None:
    """The tensors' own shapes explain the count where the attributes no longer do."""
    if "bias" in layer._parameters and layer.bias is not None:
        layer.bias = nn.Parameter(torch.zeros(shape[0]))
    setattr(layer, name, nn.Parameter(torch.zeros(shape)))
    assert count(layer).totals.verdict == "stale_attr"


def test_pruning_keeps_the_count_and_adds_a_mask_as_buffer() -> None:
    """A pruned weight is still held; the row says how much of it the mask keeps."""
    layer = prune.l1_unstructured(nn.Linear(4, 5), "weight", 0.5)
    report = count(layer)
    assert (report.totals.held, report.totals.buffers, report.totals.verdict) == (25, 20, "match")
    assert "keeps 10 of 20" in report.rows[0].note
    assert report.totals.unregistered == 0


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def test_the_old_weight_and_spectral_norms() -> None:
    """Hooks that keep weight_g and weight_v, or weight_orig with vectors as buffers."""
    weight = count(nn.utils.weight_norm(nn.Conv2d(4, 6, 3, groups=2), dim=0)).totals
    spectral = count(nn.utils.spectral_norm(nn.Linear(4, 5))).totals
    assert (weight.held, weight.verdict) == (6 * 2 * 9 + 6 + 6, "match")
    assert (spectral.held, spectral.buffers, spectral.verdict) == (25, 5 + 4, "match")


def test_counting_a_spectral_norm_does_not_run_its_power_iteration() -> None:
    """Reading the weight of a parametrised layer would change its buffers."""
    layer = parametrizations.spectral_norm(nn.Linear(4, 5))
    before = layer.parametrizations.weight[0]._u.clone()
    count(layer)
    assert torch.equal(layer.parametrizations.weight[0]._u, before)


def test_a_parametrisation_of_one_s_own_has_no_formula() -> None:
    """A low-rank adapter adds parameters that no family knows; that is no mismatch."""

    class LowRank(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.zeros(5, 1)), nn.Parameter(torch.zeros(1, 4))

        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return weight + self.a @ self.b

    layer = nn.Linear(4, 5)
    nn.utils.parametrize.register_parametrization(layer, "weight", LowRank())
    assert count(layer).totals.held == 25 + 9
    assert count(layer).totals.verdict == "no_formula"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize_per_tensor")
def test_quantised_layers_are_unpacked() -> None:
    """parameters() of a quantised module is empty; the weights are still there."""
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.LSTM(3, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.ao.quantization.quantize_dynamic(model, dtype=torch.qint8)
    totals = count(quantised).totals
    assert sum(p.numel() for p in quantised.parameters()) == 0
    assert totals.held == sum(p.numel() for p in model.parameters())
    assert (totals.trainable, totals.verdict) == (0, "match")


def test_wrappers_do_not_change_names_or_counts() -> None:
    """torch.compile and DataParallel prefix every name."""
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    plain = count(model)
    for wrapped in (torch.compile(model), nn.DataParallel(model)):
        report = count(wrapped)
        assert [r.path for r in report.rows] == [r.path for r in plain.rows]
        assert report.totals == plain.totals


def test_frozen_and_trainable_are_apart() -> None:
    """A frozen backbone with a new head."""
    model = nn.Sequential(nn.Linear(10, 10).requires_grad_(False), nn.Linear(10, 2))
    totals = count(model).totals
    assert (totals.held, totals.trainable, totals.frozen) == (132, 22, 110)


def test_the_padding_row_counts_and_never_trains() -> None:
    """V*d all the same; the row says which one gets no gradient."""
    report = count(nn.Embedding(10, 4, padding_idx=3))
    assert report.totals.held == 40
    assert "row 3" in report.rows[0].note


def test_optimizer_state_is_counted_beside_its_parameter() -> None:
    """Adam keeps two moments and a step per tensor; what belongs elsewhere is said."""
    model, other = nn.Linear(4, 5), nn.Linear(2, 2)
    optimizer = torch.optim.Adam([*model.parameters(), *other.parameters()])
    (model(torch.ones(1, 4)).sum() + other(torch.ones(1, 2)).sum()).backward()
    optimizer.step()
    report = count(model, optimizer)
    assert report.totals.optimizer == 2 * 25 + 2
    assert "14 scalars for tensors this model does not hold" in report.notes[0]


def test_buffers_bytes_and_dtypes() -> None:
    """Running statistics are no parameters; half precision halves the bytes."""
    report = count(nn.Sequential(nn.Linear(4, 4, dtype=torch.bfloat16), nn.BatchNorm1d(4)))
    assert [r.dtype for r in report.rows] == ["bfloat16", "float32"]
    assert (report.totals.held, report.totals.buffers) == (28, 9)
    assert report.totals.bytes == 20 * 2 + 8 * 4 + 8 * 4 + 8


def test_prelu_is_the_activation_with_parameters() -> None:
    """Activations have none, it is said; one has."""
    report = count(nn.Sequential(nn.ReLU(), nn.PReLU(), nn.PReLU(16), nn.GELU()))
    assert [r.held for r in report.rows] == [0, 1, 16, 0]


def test_dropout_changes_what_is_active_and_not_the_count() -> None:
    """E = n*m*(1 - p_in)*(1 - p_out) + m*(1 - p_out), in a Sequential where the order is known."""
    layers = [nn.Linear(8, 6), nn.ReLU(), nn.Dropout(0.25), nn.Linear(6, 4, bias=False)]
    report = count(nn.Sequential(*layers))
    assert report.totals.held == 54 + 24
    assert row(report, "0").expected_active == pytest.approx(54 * 0.75)
    assert row(report, "3").expected_active == pytest.approx(24 * 0.75)
    assert report.totals.expected_active == pytest.approx(78 * 0.75)


def test_expected_active_is_what_random_masks_give() -> None:
    """Against 20,000 drawn masks of a 5-to-3 layer between two dropouts."""
    generator = random.Random(5)
    total = 0
    for _ in range(20_000):
        inputs = sum(generator.random() > 0.3 for _ in range(5))
        outputs = sum(generator.random() > 0.5 for _ in range(3))
        total += inputs * outputs + outputs
    layers = [nn.Dropout(0.3), nn.Linear(5, 3), nn.Dropout(0.5)]
    expected = count(nn.Sequential(*layers)).totals.expected_active
    assert expected == pytest.approx(total / 20_000, rel=0.02)


def test_a_subclass_with_more_than_its_family_has_no_formula() -> None:
    """A user's own Linear is not wrong for holding more."""

    class Scaled(nn.Linear):
        def __init__(self) -> None:
            super().__init__(3, 3)
            self.scale = nn.Parameter(torch.ones(3))

    assert count(Scaled()).totals.verdict == "no_formula"
    assert count(Scaled()).totals.held == 15


def test_a_transformer_layer_with_a_swapped_part_still_counts() -> None:
    """The check over the whole gives up its formula, the parts keep theirs."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    layer.linear1 = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 16))
    report = count(layer)
    assert report.totals.held == sum(p.numel() for p in layer.parameters())
    assert report.rows[0].verdict == "no_formula"
    assert all(r.verdict == "match" for r in report.rows[1:])


def test_a_module_that_contains_itself_ends() -> None:
    """A cycle in the module graph is an alias, not an endless walk."""
    model = nn.Sequential(nn.Linear(2, 2))
    model.add_module("again", model)
    report = count(model)
    assert report.totals.held == 6
    assert report.aliases == {"again.0.weight": "0.weight", "again.0.bias": "0.bias"}


def test_counting_changes_nothing() -> None:
    """Values, gradients, hooks, mode, attributes and generators of random numbers stay."""
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.LSTM(4, 4))
    model[0](torch.ones(2, 4)).sum().backward()
    generators = torch.get_rng_state(), random.getstate()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    attributes = [sorted(vars(m)) for m in model.modules()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    versions = [p._version for p in model.parameters()]
    count(model)
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert random.getstate() == generators[1]
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert [sorted(vars(m)) for m in model.modules()] == attributes
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == hooks
    assert [p._version for p in model.parameters()] == versions
    assert model.training

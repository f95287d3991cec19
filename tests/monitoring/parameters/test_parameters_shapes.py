"""Descriptions whose input shape gives the sizes: shapes, counts and refusals as torch has them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from monitoring.parameters import ParameterError, count, estimate, resolve
from monitoring.parameters.describe.kinds import KINDS

Build = Callable[[], nn.Module]

LAYERS: dict[str, tuple[str, Build]] = {
    "linear:10": ("7", lambda: nn.Linear(7, 10)),
    "linear:10,nobias": ("5x7", lambda: nn.Linear(7, 10, bias=False)),
    "conv1d:8,k5,s2,p1": ("3x40", lambda: nn.Conv1d(3, 8, 5, 2, 1)),
    "conv2d:64,k3,s2,p1": ("3x32x32", lambda: nn.Conv2d(3, 64, 3, 2, 1)),
    "conv2d:64,k3x5,stride=1x2,padding=0x2,dilation=2x1": (
        "3x32x32",
        lambda: nn.Conv2d(3, 64, (3, 5), (1, 2), (0, 2), (2, 1)),
    ),
    "conv2d:6,k3,padding=same,d2": (
        "3x32x31",
        lambda: nn.Conv2d(3, 6, 3, padding="same", dilation=2),
    ),
    "conv2d:64,k3,groups=32": ("32x8x8", lambda: nn.Conv2d(32, 64, 3, groups=32)),
    "conv3d:4,k2": ("2x6x7x8", lambda: nn.Conv3d(2, 4, 2)),
    "convtranspose2d:8,k4,s2,p1,output_padding=1": (
        "16x7x9",
        lambda: nn.ConvTranspose2d(16, 8, 4, 2, 1, 1),
    ),
    "Conv2DTranspose:8,k3,d2": ("16x7x9", lambda: nn.ConvTranspose2d(16, 8, 3, dilation=2)),
    "batchnorm2d": ("6x4x4", lambda: nn.BatchNorm2d(6)),
    "BatchNorm1d": ("9", lambda: nn.BatchNorm1d(9)),
    "batch_norm_1d": ("9x4", lambda: nn.BatchNorm1d(9)),
    "instancenorm2d:affine": ("6x4x4", lambda: nn.InstanceNorm2d(6, affine=True)),
    "groupnorm:groups=3": ("6x4x4", lambda: nn.GroupNorm(3, 6)),
    "layernorm": ("5x7", lambda: nn.LayerNorm(7)),
    "layernorm:5x7": ("5x7", lambda: nn.LayerNorm((5, 7))),
    "rmsnorm": ("5x7", lambda: nn.RMSNorm(7)),
    "prelu:6": ("6x4x4", lambda: nn.PReLU(6)),
    "leaky_relu:0.2": ("6x4", lambda: nn.LeakyReLU(0.2)),
    "swish": ("6", nn.SiLU),
    "dense:10": ("7", lambda: nn.Linear(7, 10)),
    "glu": ("6x8", nn.GLU),
    "maxpool2d:3,s2,p1": ("6x15x16", lambda: nn.MaxPool2d(3, 2, 1)),
    "maxpool2d:2,dilation=2": ("6x15x16", lambda: nn.MaxPool2d(2, dilation=2)),
    "avgpool1d:3": ("6x15", lambda: nn.AvgPool1d(3)),
    "AdaptiveAvgPool2d:1": ("6x15x16", lambda: nn.AdaptiveAvgPool2d(1)),
    "adaptivemaxpool2d:3x2": ("6x15x16", lambda: nn.AdaptiveMaxPool2d((3, 2))),
    "flatten": ("6x15x16", nn.Flatten),
    "reshape:2x3": ("6", lambda: nn.Unflatten(1, (2, 3))),
    "upsample:2": ("6x5x4", lambda: nn.Upsample(scale_factor=2)),
    "zero_pad2d:2": ("6x5x4", lambda: nn.ZeroPad2d(2)),
    "pixelshuffle:2": ("12x5x4", lambda: nn.PixelShuffle(2)),
    "dropout2d:0.3": ("6x5x4", lambda: nn.Dropout2d(0.3)),
}


def run(module: nn.Module, shape: str) -> tuple[int, ...]:
    """What shape leaves a module for a batch of two, batch left out."""
    sides = [int(side) for side in shape.split("x")]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tuple(module.eval()(torch.zeros(2, *sides)).shape[1:])


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_fits_the_shape_that_arrives(layer: str) -> None:
    """Parameters, buffers and the shape that leaves, as the module that torch builds has them."""
    shape, build = LAYERS[layer]
    module = build()
    report = estimate(f"input:{shape}; {layer}")
    built = count(module).totals
    assert (report.totals.held, report.totals.buffers) == (built.held, built.buffers)
    assert report.rows[-1].output == "x".join(map(str, run(module, shape)))


@pytest.mark.parametrize("sort", ["rnn", "gru", "lstm"])
def test_a_recurrent_layer_fits_the_features_that_arrive(sort: str) -> None:
    """Twice the hidden ones leave where both directions are read."""
    options = {"hidden_size": 8, "num_layers": 2, "bidirectional": True, "batch_first": True}
    module = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}[sort](5, **options)
    report = estimate(f"input:9x5; {sort}:8,num_layers=2,bidirectional,dropout=0.1; linear:3")
    assert report.totals.held == count(module).totals.held + 16 * 3 + 3
    assert report.rows[1].output == "x".join(map(str, module(torch.zeros(2, 9, 5))[0].shape[1:]))


def test_a_transformer_over_embedded_tokens() -> None:
    """Token table, attention and blocks, all of the width that the table gives."""
    report = estimate(
        "input:12; embedding:1000x64; encoder_layer:heads=4,ff=100; mha:heads=8; layernorm; dense:2"
    )
    layers = [
        nn.Embedding(1000, 64),
        nn.TransformerEncoderLayer(64, 4, 100),
        nn.MultiheadAttention(64, 8),
        nn.LayerNorm(64),
        nn.Linear(64, 2),
    ]
    assert report.totals.held == sum(count(layer).totals.held for layer in layers)
    assert [row.output for row in report.rows] == ["12", *["12x64"] * 4, "12x2"]


def test_an_image_classifier_from_its_input_size() -> None:
    """The sizes of every layer follow from 3x32x32."""
    report = estimate(
        "input:3x32x32; conv2d:64,k3,s2,p1; batchnorm2d; relu; maxpool2d:2; flatten; linear:10"
    )
    module = nn.Sequential(
        nn.Conv2d(3, 64, 3, 2, 1), nn.BatchNorm2d(64), nn.Flatten(), nn.Linear(64 * 8 * 8, 10)
    )
    assert report.totals.held == count(module).totals.held
    assert report.rows[-1].config == "4096->10"


def test_what_leaves_one_layer_gives_the_next_its_size_without_an_input() -> None:
    """A chain that begins with a size of its own needs no input layer."""
    assert estimate("linear:256x128; relu; linear:10").totals.held == 32_896 + 1290
    assert estimate("linear:256x128; batchnorm1d; relu").totals.held == 32_896 + 256
    assert estimate("embedding:50x8; lstm:16; linear:2").totals.held == 400 + 1664 + 34


def test_a_branch_begins_with_an_input_or_behind_a_concatenation() -> None:
    """What is not described may join there: no size is expected."""
    report = estimate("linear:8x4; concat; linear:20x2; input:7; linear:3")
    assert report.totals.held == 36 + 42 + 24


REFUSED: dict[str, tuple[str, str, Build]] = {
    "linear:8x10": ("7", "inputs: expected 7, which arrive, got 8", lambda: nn.Linear(8, 10)),
    "conv2d:4->8,k3": ("3x9x9", "inputs: expected 3", lambda: nn.Conv2d(4, 8, 3)),
    "conv2d:8,k5": ("3x4x4", "5 do not fit into a side of 4", lambda: nn.Conv2d(3, 8, 5)),
    "conv2d:8,k3,padding=same,s2": (
        "3x9x9",
        "padding: expected a number with a stride",
        lambda: nn.Conv2d(3, 8, 3, 2, "same"),
    ),
    "conv2d:8,k3": ("3x9x9x9x9", "expected an input of 3 sides", lambda: nn.Conv2d(3, 8, 3)),
    "conv2d:9,k3,groups=3": (
        "4x9x9",
        "expected a divisor of 4",
        lambda: nn.Conv2d(4, 9, 3, groups=3),
    ),
    "convtranspose1d:2,k3,output_padding=1": (
        "2x5",
        "output_padding: expected less",
        lambda: nn.ConvTranspose1d(2, 2, 3, output_padding=1),
    ),
    "batchnorm2d:5": ("6x4x4", "channels: expected 6", lambda: nn.BatchNorm2d(5)),
    "batchnorm2d": ("6", "expected an input of 3 sides", lambda: nn.BatchNorm2d(6)),
    "groupnorm:groups=4": ("6x4", "expected a divisor of 6", lambda: nn.GroupNorm(4, 6)),
    "layernorm:5": ("4x6", "shape: expected 6", lambda: nn.LayerNorm(5)),
    "layernorm:3x6": ("4x6", "shape: expected 4", lambda: nn.LayerNorm((3, 6))),
    "prelu:5": ("6x4", "channels: expected 6", lambda: nn.PReLU(5)),
    "maxpool2d:2,p2": ("6x4x4", "at most half", lambda: nn.MaxPool2d(2, padding=2)),
    "maxpool2d:5": ("6x4x4", "do not fit", lambda: nn.MaxPool2d(5)),
    "glu": ("7", "an even number", nn.GLU),
    "pixelshuffle:2": ("6x4x4", "expected a divisor of 6, got 4", lambda: nn.PixelShuffle(2)),
    "reshape:4x2": ("9", "expected 9 in all", lambda: nn.Unflatten(1, (4, 2))),
    "mha:10,heads=3": (
        "4x10",
        "heads: expected a divisor of 10",
        lambda: nn.MultiheadAttention(10, 3),
    ),
    "encoderlayer:10,heads=3": (
        "4x10",
        "heads: expected a divisor of 10",
        lambda: nn.TransformerEncoderLayer(10, 3),
    ),
    "lstm:3->4,proj=9": ("2x3", "proj: expected less than", lambda: nn.LSTM(3, 4, proj_size=9)),
    "lstm:3->4,dropout=1.5": ("2x3", "0 <= dropout <= 1", lambda: nn.LSTM(3, 4, 2, dropout=1.5)),
    "dropout:1.5": ("4", "0 <= p <= 1", lambda: nn.Dropout(1.5)),
    "adaptivesoftmax:9->10,cutoffs=5/3": (
        "9",
        "expected rising numbers",
        lambda: nn.AdaptiveLogSoftmaxWithLoss(9, 10, [5, 3]),
    ),
}


@pytest.mark.parametrize("layer", REFUSED)
def test_what_torch_refuses_is_refused(layer: str) -> None:
    """The layer, what was expected and what was got; torch raises in building or running it."""
    shape, says, build = REFUSED[layer]
    with pytest.raises(ParameterError, match=re.escape(says)) as error:
        estimate(f"input:{shape}; {layer}")
    assert "layer 1" in str(error.value)
    with pytest.raises((ValueError, RuntimeError, AssertionError)):
        run(build(), shape)


@pytest.mark.parametrize(
    ("description", "says"),
    [
        ("liner:4x3", "did you mean 'linear'?"),
        ("relu; convv2d:3,k3", "did you mean 'conv2d'?"),
        ("linear:4x3; rellu", "did you mean 'relu'?"),
        ("conv2d:3->8,k3,strid=2", "did you mean 'stride'?"),
        ("mha:16,head=4", "did you mean 'heads'?"),
        ("linear:10", "begin with input:SIZES"),
        ("input:3x8x8; flatten; flatten; linear:4x2", "inputs: expected 192, which arrive, got 4"),
        ("batchnorm:3x4", "channels: expected one whole number"),
        ("linear:4x3,bias=1", "bias: expected true or false, got 1"),
        ("conv2d:4->4,k3,groups=0.5", "groups: expected one whole number of at least 1, got 0.5"),
        ("encoderlayer:16,ff=2x3", "ff: expected one whole number of at least 1, got (2, 3)"),
        (f"linear:{'9' * 5000}x2", "got the sizes"),
        ("conv2d:3->8", "'k'"),
    ],
)
def test_a_mistake_is_answered_with_what_may_have_been_meant(description: str, says: str) -> None:
    """On the command line too, where a typo is no module of Python."""
    with pytest.raises(ParameterError, match=re.escape(says)):
        resolve(description)


@pytest.mark.parametrize(
    ("torch_names", "own"),
    [
        ("Linear:in_features=4,out_features=3", "linear:4x3"),
        ("conv2d:in_channels=3,out_channels=8,kernel_size=3,strides=2", "conv2d:3->8,k3,s2"),
        ("LSTM:input_size=4,hidden_size=3,num_layers=2", "lstm:4->3,layers=2"),
        ("MultiheadAttention:embed_dim=16,num_heads=4", "mha:16,heads=4"),
        ("TransformerEncoderLayer:d_model=16,nhead=4,dim_feedforward=20", "encoderlayer:16,ff=20"),
        ("Embedding:num_embeddings=9,embedding_dim=4", "embedding:9x4"),
    ],
)
def test_options_may_be_called_as_torch_calls_them(torch_names: str, own: str) -> None:
    """The same layers."""
    assert estimate(torch_names).totals == estimate(own).totals


VALUES = st.sampled_from(["0", "1", "3", "2x3", "0.5", "same", "true", "x", "3x3x3", "9999999999"])


@st.composite
def layers(draw: st.DrawFn) -> str:
    """A known layer with any sizes and options."""
    kind = draw(st.sampled_from(sorted(KINDS)))
    sizes = draw(st.one_of(st.just(""), VALUES))
    names = draw(st.lists(st.sampled_from([*KINDS[kind].options(), "k", "s"]), max_size=3))
    return f"{kind}:{sizes}," + ",".join(f"{name}={draw(VALUES)}" for name in names)


@given(
    st.lists(layers(), min_size=1, max_size=4), st.sampled_from(["", "input:3x8x8;", "input:6;"])
)
@settings(max_examples=300, database=None, deadline=None)
def test_no_options_break_the_estimator(described: list[str], start: str) -> None:
    """Whatever is written gives whole numbers of at least 0, or an error of ours."""
    try:
        totals = estimate(start + ";".join(described)).totals
    except ParameterError:
        return
    assert type(totals.held) is int
    assert totals.held >= 0
    assert totals.buffers >= 0


def test_dropout_reaches_a_layer_through_what_keeps_its_units() -> None:
    """An activation does; a pool mixes units, and another branch has other ones."""
    for between, p in (("relu", 0.5), ("flatten", 0.5), ("maxpool1d:2", 0.0), ("input:4x4", 0.0)):
        report = estimate(f"input:4x4; dropout:0.5; {between}; linear:3,nobias")
        last = report.rows[-1]
        assert (last.expected_active or last.held) == last.held * (1 - p)

"""Random configurations of every layer family of ``torch.nn``, counted and compared with torch.

The formula of each must equal the sum of ``numel()`` over the parameters and over the buffers.
``python -m tests.support.parameters_sweep --configs 3000`` runs as many as asked; the test suite a
seeded part of them. Layers live on the meta device: sizes without memory.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

from monitoring.parameters import count

Draw = Callable[[st.SearchStrategy[Any]], Any]

small = st.integers(1, 40)
flag = st.booleans()


def linear(draw: Draw) -> nn.Module:
    """Any sizes, with bias or not."""
    return nn.Linear(draw(small), draw(small), bias=draw(flag))


def bilinear(draw: Draw) -> nn.Module:
    """Two inputs."""
    return nn.Bilinear(draw(small), draw(small), draw(small), bias=draw(flag))


def convolution(draw: Draw) -> nn.Module:
    """One to three dimensions, grouped, transposed."""
    rank, groups = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    transposed = draw(flag)
    cls = getattr(nn, f"Conv{'Transpose' if transposed else ''}{rank}d")
    kernel = tuple(draw(st.integers(1, 7)) for _ in range(rank))
    # Stride, padding and dilation must not enter the count.
    return cls(
        groups * draw(st.integers(1, 12)),
        groups * draw(st.integers(1, 12)),
        kernel,
        stride=draw(st.integers(1, 3)),
        padding=draw(st.integers(0, 3)),
        dilation=draw(st.integers(1, 3)),
        groups=groups,
        bias=draw(flag),
    )


def recurrent(draw: Draw) -> nn.Module:
    """Layers, directions, projections."""
    cls = draw(st.sampled_from([nn.RNN, nn.LSTM, nn.GRU]))
    hidden = draw(st.integers(2, 20))
    extra = {}
    if cls is nn.LSTM:
        extra["proj_size"] = draw(st.integers(0, hidden - 1))
    return cls(
        draw(small),
        hidden,
        num_layers=draw(st.integers(1, 4)),
        bias=draw(flag),
        bidirectional=draw(flag),
        **extra,
    )


def cell(draw: Draw) -> nn.Module:
    """One step."""
    cls = draw(st.sampled_from([nn.RNNCell, nn.LSTMCell, nn.GRUCell]))
    return cls(draw(small), draw(small), bias=draw(flag))


def attention(draw: Draw) -> nn.Module:
    """Other key and value sizes, biases on keys and values."""
    heads = draw(st.integers(1, 4))
    return nn.MultiheadAttention(
        heads * draw(st.integers(1, 8)),
        heads,
        bias=draw(flag),
        add_bias_kv=draw(flag),
        kdim=draw(st.none() | small),
        vdim=draw(st.none() | small),
    )


def transformer(draw: Draw) -> nn.Module:
    """Layers, stacks with and without a last norm, the whole."""
    heads = draw(st.integers(1, 3))
    sizes = (heads * draw(st.integers(1, 6)), heads)
    shared = {
        "dim_feedforward": draw(small),
        "bias": draw(flag),
        "batch_first": True,
        "norm_first": draw(flag),
    }
    kind = draw(st.sampled_from(["enc", "dec", "encs", "decs", "whole"]))
    if kind == "whole":
        depth = st.integers(1, 3)
        return nn.Transformer(
            *sizes, num_encoder_layers=draw(depth), num_decoder_layers=draw(depth), **shared
        )
    layer_cls = nn.TransformerEncoderLayer if "enc" in kind else nn.TransformerDecoderLayer
    layer = layer_cls(*sizes, **shared)
    if kind in ("enc", "dec"):
        return layer
    norm = nn.LayerNorm(sizes[0], bias=draw(flag)) if draw(flag) else None
    if kind == "encs":
        return nn.TransformerEncoder(
            layer, draw(st.integers(1, 3)), norm, enable_nested_tensor=False
        )
    return nn.TransformerDecoder(layer, draw(st.integers(1, 3)), norm)


def embedding(draw: Draw) -> nn.Module:
    """With a padding row or not."""
    cls = draw(st.sampled_from([nn.Embedding, nn.EmbeddingBag]))
    entries = draw(small)
    return cls(entries, draw(small), padding_idx=draw(st.none() | st.integers(0, entries - 1)))


def batch_statistics(draw: Draw) -> nn.Module:
    """Norms with running statistics."""
    names = [f"{kind}Norm{rank}d" for kind in ("Batch", "Instance") for rank in (1, 2, 3)]
    cls = getattr(nn, draw(st.sampled_from([*names, "SyncBatchNorm"])))
    return cls(draw(small), affine=draw(flag), track_running_stats=draw(flag))


def normalisation(draw: Draw) -> nn.Module:
    """Norms without any."""
    kind = draw(st.sampled_from(["group", "layer", "rms"]))
    affine, bias = draw(flag), draw(flag)
    if kind == "group":
        groups = draw(st.integers(1, 4))
        return nn.GroupNorm(groups, groups * draw(small), affine=affine)
    shape = draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    if kind == "layer":
        return nn.LayerNorm(shape, elementwise_affine=affine, bias=bias)
    return nn.RMSNorm(shape, elementwise_affine=affine)


def adaptive_softmax(draw: Draw) -> nn.Module:
    """One to four clusters."""
    classes = draw(st.integers(20, 200))
    cutoffs = draw(st.lists(st.integers(1, classes - 1), min_size=1, max_size=4, unique=True))
    return nn.AdaptiveLogSoftmaxWithLoss(
        draw(st.integers(1, 64)),
        classes,
        sorted(cutoffs),
        div_value=draw(st.sampled_from([1.0, 2.0, 4.0])),
        head_bias=draw(flag),
    )


def linear_loss(draw: Draw) -> nn.Module:
    """A loss with a linear layer inside."""
    classes = draw(small)
    return nn.LinearCrossEntropyLoss(
        draw(small), classes, bias=draw(flag), weight=torch.ones(classes) if draw(flag) else None
    )


def loss(draw: Draw) -> nn.Module:
    """Class weights are buffers."""
    name = draw(
        st.sampled_from(["CrossEntropyLoss", "NLLLoss", "BCELoss", "MultiMarginLoss", "MSELoss"])
    )
    given_weights = name != "MSELoss" and draw(flag)
    extra = {"weight": torch.ones(draw(small))} if given_weights else {}
    return getattr(nn, name)(**extra)


WITHOUT = {
    nn.ReLU: (),
    nn.GELU: (),
    nn.SiLU: (),
    nn.Tanh: (),
    nn.Softmax: (1,),
    nn.LeakyReLU: (),
    nn.Dropout: (0.3,),
    nn.Dropout2d: (0.3,),
    nn.AlphaDropout: (0.3,),
    nn.Identity: (),
    nn.Flatten: (),
    nn.Unflatten: (1, (2, 2)),
    nn.MaxPool1d: (2,),
    nn.MaxPool2d: (2,),
    nn.AvgPool3d: (2,),
    nn.AdaptiveAvgPool2d: (1,),
    nn.LPPool2d: (2, 3),
    nn.FractionalMaxPool2d: (2, 3),
    nn.MaxUnpool2d: (2,),
    nn.ZeroPad2d: (1,),
    nn.ReflectionPad1d: (1,),
    nn.ConstantPad3d: (1, 0.0),
    nn.CircularPad2d: (1,),
    nn.PixelShuffle: (2,),
    nn.ChannelShuffle: (2,),
    nn.Upsample: (None, 2.0),
    nn.Fold: ((4, 4), 2),
    nn.Unfold: (2,),
    nn.LocalResponseNorm: (2,),
    nn.CosineSimilarity: (),
    nn.PairwiseDistance: (),
    nn.TripletMarginLoss: (),
}


def without_parameters(draw: Draw) -> nn.Module:
    """Everything else."""
    cls = draw(st.sampled_from(list(WITHOUT)))
    return cls(*WITHOUT[cls])


def prelu(draw: Draw) -> nn.Module:
    """One slope or one per channel."""
    return nn.PReLU(draw(small))


def parametrized(draw: Draw) -> nn.Module:
    """Weight norm adds a gain per output, spectral norm two buffers, orthogonality one at most."""
    base = draw(st.sampled_from([linear, convolution]))(draw)
    kind = draw(st.sampled_from(["weight", "spectral", "orthogonal"]))
    if kind == "weight":
        return parametrizations.weight_norm(base, dim=draw(st.sampled_from([0, 1])))
    if kind == "spectral":
        return parametrizations.spectral_norm(base, dim=0)
    return parametrizations.orthogonal(base)


FAMILIES = (
    linear,
    bilinear,
    convolution,
    recurrent,
    cell,
    attention,
    transformer,
    embedding,
    batch_statistics,
    normalisation,
    adaptive_softmax,
    linear_loss,
    loss,
    prelu,
    without_parameters,
    parametrized,
)


@st.composite
def layers(draw: Draw) -> tuple[str, nn.Module]:
    """A family's name and a layer of it, frozen or not."""
    family = draw(st.sampled_from(FAMILIES))
    # Orthogonality draws its first basis on the processor.
    device = "cpu" if family is parametrized else "meta"
    with torch.device(device), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        layer = family(draw)
    return family.__name__, layer.requires_grad_(draw(flag))


def check(layer: nn.Module) -> None:
    """Formula, held and torch's own sums agree: a row matches in parameters and in buffers."""
    report = count(layer)
    totals = report.totals
    parameters = sum(p.numel() for p in layer.parameters())
    trainable = sum(p.numel() for p in layer.parameters() if p.requires_grad)
    assert totals.verdict == "match", [row for row in report.rows if row.verdict != "match"]
    assert (totals.held, totals.formula, totals.trainable) == (parameters, parameters, trainable)
    assert totals.buffers == sum(b.numel() for b in layer.buffers())


def sweep(configs: int, start: int = 0) -> Counter[str]:
    """Check ``configs`` layers; how many of each family were drawn."""
    drawn: Counter[str] = Counter()

    @seed(start)
    @settings(
        max_examples=configs,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(layers())
    def run(named: tuple[str, nn.Module]) -> None:
        name, layer = named
        drawn[name] += 1
        check(layer)

    run()
    return drawn


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configs", type=int, default=3000)
    arguments = parser.parse_args()
    began = time.perf_counter()
    families = sweep(arguments.configs)
    print(f"{sum(families.values())} configurations, all equal, {dict(families)}")
    print(f"{time.perf_counter() - began:.1f} s")

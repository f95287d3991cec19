"""The layers that a description may name: how written, how counted, what they do to a shape.

A layer is a function: the shape that arrives and the options in, its count and the shape that
leaves out. It refuses what torch refuses. The counts themselves are in
``monitoring/parameters/families.py``. Imports no torch.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import monitoring.parameters.families as families
from monitoring.parameters.describe.shapes import UNKNOWN, Shape, Side, fit, per_side, slid, spread
from monitoring.parameters.families import Count

Layer = tuple[Count, Shape]
"""What a layer holds, and the shape of what leaves it."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A layer as descriptions name it: the function, and the sizes given before any option.

    Of several sizes the first may be left out where a shape arrives.
    """

    layer: Callable[..., Layer]
    sizes: tuple[str, ...] = ()

    def usage(self, name: str) -> str:
        """How to write it.

        >>> KINDS["embedding"].usage("embedding")
        'embedding:ENTRIESxWIDTH'
        """
        sizes = "x".join(size.upper() for size in self.sizes)
        options = "".join(f"[,{o}=..]" for o in self.options() if o not in self.sizes)
        return f"{name}:{sizes}{options}" if sizes or options else name

    def options(self) -> Mapping[str, inspect.Parameter]:
        """Every size and option the layer takes, beside the shape that arrives."""
        _, *options = inspect.signature(self.layer).parameters.items()
        return dict(options)


def _divides(name: str, parts: int, *sizes: int) -> None:
    for size in sizes:
        if size % parts:
            raise ValueError(f"{name}: expected a divisor of {size}, got {parts}")


def _chance(name: str, p: float) -> None:
    if not 0 <= p <= 1:
        raise ValueError(f"{name}: expected 0 <= {name} <= 1, got {p}")


# Layers with weights


def _linear(into: Shape, outputs: int, inputs: int | None = None, bias: bool = True) -> Layer:
    inputs = fit("inputs", inputs, into.last)
    return families.linear(inputs, fit("outputs", outputs, None), bias), into.with_last(outputs)


def _bilinear(into: Shape, left: int, right: int, outputs: int, bias: bool = True) -> Layer:
    left = fit("left", left, into.last)
    return families.bilinear(left, right, outputs, bias), into.with_last(outputs)


def _convolution(
    rank: int,
    into: Shape,
    outputs: int,
    k: int | Sequence[int],
    inputs: int | None = None,
    groups: int = 1,
    bias: bool = True,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
) -> Layer:
    channels, sides = into.image(rank)
    inputs, kernel = fit("inputs", inputs, channels), per_side("k", k, rank)
    _divides("groups", groups, inputs, fit("outputs", outputs, None))
    strides, dilations = per_side("stride", stride, rank), per_side("dilation", dilation, rank)
    if padding == "same" and max(strides) > 1:
        raise ValueError("padding: expected a number with a stride, got 'same'")
    if padding == "same":
        leaving = sides
    else:
        pads = per_side("padding", 0 if padding == "valid" else padding, rank)
        leaving = tuple(map(slid, sides, kernel, strides, pads, dilations))
    count = families.convolution(inputs, outputs, kernel, groups, bias)
    return count, Shape((outputs, *leaving), open=False)


def _transposed(
    rank: int,
    into: Shape,
    outputs: int,
    k: int | Sequence[int],
    inputs: int | None = None,
    groups: int = 1,
    bias: bool = True,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
) -> Layer:
    channels, sides = into.image(rank)
    inputs, kernel = fit("inputs", inputs, channels), per_side("k", k, rank)
    _divides("groups", groups, inputs, fit("outputs", outputs, None))
    numbers = (
        per_side(name, value, rank)
        for name, value in (
            ("stride", stride),
            ("padding", padding),
            ("dilation", dilation),
            ("output_padding", output_padding),
        )
    )
    leaving = tuple(map(spread, sides, kernel, *numbers))
    count = families.convolution(inputs, outputs, kernel, groups, bias, transposed=True)
    return count, Shape((outputs, *leaving), open=False)


def _recurrent(
    kind: str,
    into: Shape,
    hidden: int,
    inputs: int | None = None,
    layers: int = 1,
    bidirectional: bool = False,
    proj: int = 0,
    bias: bool = True,
    dropout: float = 0.0,
) -> Layer:
    into.expect(2)
    _chance("dropout", dropout)
    inputs, hidden = fit("inputs", inputs, into.last), fit("hidden", hidden, None)
    if proj >= hidden:
        raise ValueError(f"proj: expected less than the {hidden} hidden, got {proj}")
    count = families.recurrent(kind, inputs, hidden, layers, bidirectional, proj, bias)
    return count, into.with_last((1 + bidirectional) * (proj or hidden))


def _cell(
    kind: str, into: Shape, hidden: int, inputs: int | None = None, bias: bool = True
) -> Layer:
    into.expect(1)
    inputs = fit("inputs", inputs, into.last)
    return families.recurrent_cell(kind, inputs, hidden, bias), into.with_last(hidden)


def _attention(
    into: Shape,
    embed: int | None = None,
    heads: int = 1,
    kdim: int | None = None,
    vdim: int | None = None,
    bias: bool = True,
    bias_kv: bool = False,
    dropout: float = 0.0,
) -> Layer:
    into.expect(2)
    _chance("dropout", dropout)
    embed = fit("embed", embed, into.last)
    _divides("heads", heads, embed)
    count = families.attention(embed, heads, kdim, vdim, bias, bias_kv)
    return count, into.with_last(embed)


def _block(
    count: Callable[..., Count],
    into: Shape,
    width: int | None = None,
    ff: int = 2048,
    heads: int = 1,
    bias: bool = True,
    dropout: float = 0.1,
) -> Layer:
    width = _width(into, width, heads, dropout)
    return count(width, ff, bias), into.with_last(width)


def _stack(
    kind: str,
    into: Shape,
    width: int | None = None,
    ff: int = 2048,
    layers: int = 6,
    norm: int = 0,
    heads: int = 1,
    bias: bool = True,
    dropout: float = 0.1,
) -> Layer:
    width = _width(into, width, heads, dropout)
    return families.transformer_stack(kind, width, ff, layers, norm, bias), into.with_last(width)


def _transformer(
    into: Shape,
    width: int = 512,
    ff: int = 2048,
    encoders: int = 6,
    decoders: int = 6,
    heads: int = 1,
    bias: bool = True,
    dropout: float = 0.1,
) -> Layer:
    width = _width(into, width, heads, dropout)
    return families.transformer(width, ff, encoders, decoders, bias), into.with_last(width)


def _width(into: Shape, width: int | None, heads: int, dropout: float) -> int:
    into.expect(2)
    _chance("dropout", dropout)
    width = fit("width", width, into.last)
    _divides("heads", heads, width)
    return width


def _embedding(into: Shape, entries: int, width: int) -> Layer:
    fit("entries", entries, None)
    return families.embedding(entries, width), Shape((*into.sides, width), into.open)


def _embedding_bag(into: Shape, entries: int, width: int) -> Layer:
    return families.embedding(fit("entries", entries, None), width), Shape((width,), open=False)


def _batchnorm(
    ranks: tuple[int, ...],
    into: Shape,
    channels: int | None = None,
    affine: bool = True,
    bias: bool = True,
    stats: bool = True,
) -> Layer:
    channels = _channels(into, channels, ranks)
    return families.batchnorm(channels, affine, bias, stats), into


def _instancenorm(
    ranks: tuple[int, ...],
    into: Shape,
    channels: int | None = None,
    affine: bool = False,
    bias: bool = True,
    stats: bool = False,
) -> Layer:
    channels = _channels(into, channels, ranks)
    return families.instancenorm(channels, affine, bias, stats), into


def _groupnorm(
    into: Shape,
    channels: int | None = None,
    groups: int = 1,
    affine: bool = True,
    bias: bool = True,
) -> Layer:
    channels = _channels(into, channels, ())
    _divides("groups", groups, channels)
    return families.groupnorm(channels, groups, affine, bias), into


def _channels(into: Shape, channels: int | None, ranks: tuple[int, ...]) -> int:
    arriving = into.first(*ranks)
    # Of an open shape the channels may also stand before what is known: a given number is believed.
    return fit("channels", channels, arriving if channels is None or not into.open else None)


def _layernorm(
    into: Shape, shape: int | Sequence[int] | None = None, affine: bool = True, bias: bool = True
) -> Layer:
    return families.layernorm(_trailing(into, shape), affine, bias), into


def _rmsnorm(into: Shape, shape: int | Sequence[int] | None = None, affine: bool = True) -> Layer:
    return families.rmsnorm(_trailing(into, shape), affine), into


def _trailing(into: Shape, shape: int | Sequence[int] | None) -> int | tuple[int, ...]:
    """The last sides, over which a layer norm goes."""
    if shape is None or not isinstance(shape, tuple | list):
        return fit("shape", shape, into.last)
    arriving = into.sides[-len(shape) :] if len(into.sides) >= len(shape) else (None,) * len(shape)
    if not into.open and len(into.sides) < len(shape):
        raise ValueError(f"shape: expected at most {len(into.sides)} sides, got {len(shape)}")
    return tuple(map(partial(fit, "shape"), shape, arriving))


def _prelu(into: Shape, channels: int = 1) -> Layer:
    arriving = into.sides[0] if channels != 1 and not into.open and into.sides else None
    return families.prelu(fit("channels", channels, arriving)), into


def _adaptive_softmax(
    into: Shape,
    classes: int,
    cutoffs: int | Sequence[int],
    inputs: int | None = None,
    div: float = 4.0,
    head_bias: bool = False,
) -> Layer:
    inputs = fit("inputs", inputs, into.last)
    edges = [cutoffs] if isinstance(cutoffs, int) else list(cutoffs)
    if edges != sorted(set(edges)) or edges[-1] >= classes:
        raise ValueError(f"cutoffs: expected rising numbers below {classes}, got {edges}")
    count = families.adaptive_softmax(inputs, classes, edges, div, head_bias)
    return count, into.with_last(classes)


# Layers without


def _input(into: Shape, shape: int | Sequence[int] | None = None) -> Layer:
    """What arrives from outside; a new branch may begin with one."""
    if shape is None:
        return families.none(), UNKNOWN
    sides = (shape,) if isinstance(shape, int) else tuple(shape)
    return families.none(), Shape(sides, open=False)


def _same(into: Shape) -> Layer:
    return families.none(), into


def _unknown(into: Shape) -> Layer:
    """A concatenation: what else goes in is not described."""
    return families.none(), UNKNOWN


def _dropout(into: Shape, p: float = 0.5) -> Layer:
    _chance("p", p)
    return families.none(), into


def _flatten(into: Shape) -> Layer:
    side = None if into.known is None else math.prod(into.known)
    return families.none(), Shape((side,), open=False)


def _reshape(into: Shape, shape: int | Sequence[int]) -> Layer:
    sides = (shape,) if isinstance(shape, int) else tuple(shape)
    if into.known is not None and math.prod(sides) != math.prod(into.known):
        raise ValueError(f"shape: expected {math.prod(into.known)} in all, got {math.prod(sides)}")
    return families.none(), Shape(sides, open=False)


def _pool(
    rank: int | None,
    into: Shape,
    k: int | Sequence[int] | None = None,
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
) -> Layer:
    rank = _rank(rank, into)
    if rank is None:
        return families.none(), UNKNOWN
    channels, sides = into.image(rank)
    leaving: tuple[Side, ...] = (None,) * rank
    if k is not None:
        kernel, pads = per_side("k", k, rank), per_side("padding", padding, rank)
        if any(2 * p > n for p, n in zip(pads, kernel, strict=True)):
            raise ValueError(f"padding: expected at most half of the kernel, got {padding}")
        strides = per_side("stride", k if stride is None else stride, rank)
        dilations = per_side("dilation", dilation, rank)
        leaving = tuple(map(slid, sides, kernel, strides, pads, dilations))
    return families.none(), Shape((channels, *leaving), open=False)


def _adaptive_pool(rank: int | None, into: Shape, size: int | Sequence[int] | None = None) -> Layer:
    rank = _rank(rank, into)
    if rank is None:
        return families.none(), UNKNOWN
    channels, _ = into.image(rank)
    leaving = (None,) * rank if size is None else per_side("size", size, rank)
    return families.none(), Shape((channels, *leaving), open=False)


def _global_pool(into: Shape) -> Layer:
    channels = None if into.open or not into.sides else into.sides[0]
    return families.none(), Shape((channels,), open=False)


def _upsample(into: Shape, scale: int | Sequence[int] = 1) -> Layer:
    return _each_side(into, "scale", scale, lambda side, by: side * by)


def _pad(into: Shape, padding: int | Sequence[int] = 0) -> Layer:
    return _each_side(into, "padding", padding, lambda side, by: side + 2 * by)


def _each_side(
    into: Shape, name: str, value: int | Sequence[int], change: Callable[[int, int], int]
) -> Layer:
    if into.open:
        return families.none(), UNKNOWN
    channels, *sides = into.sides or (None,)
    numbers = per_side(name, value, len(sides))
    leaving = [None if s is None else change(s, by) for s, by in zip(sides, numbers, strict=True)]
    return families.none(), Shape((channels, *leaving), open=False)


def _pixel_shuffle(into: Shape, factor: int) -> Layer:
    channels, sides = into.image(2)
    if channels is not None:
        _divides("factor", factor * factor, channels)
        channels //= factor * factor
    leaving = [None if side is None else side * factor for side in sides]
    return families.none(), Shape((channels, *leaving), open=False)


def _glu(into: Shape) -> Layer:
    if into.last is None:
        return families.none(), into
    if into.last % 2:
        raise ValueError(f"expected an even number of features, got {into.last}")
    return families.none(), into.with_last(into.last // 2)


def _rank(rank: int | None, into: Shape) -> int | None:
    """How many sides a pooling goes over: as its name says, or as many as arrive."""
    if rank is None and not into.open and len(into.sides) > 1:
        return len(into.sides) - 1
    return rank


_GATED = ("rnn", "lstm", "gru")
_RANKS = ((None, ""), (1, "1d"), (2, "2d"), (3, "3d"))
_NORM_RANKS: dict[str, tuple[int, ...]] = {"": (), "1d": (1, 2), "2d": (3,), "3d": (4,)}
_INSTANCE_RANKS: dict[str, tuple[int, ...]] = {"": (), "1d": (2,), "2d": (3,), "3d": (4,)}

ELEMENTWISE = frozenset(
    (
        *("identity", "add", "relu", "relu6", "leakyrelu", "rrelu", "elu", "selu", "celu", "gelu"),
        *("silu", "mish", "sigmoid", "logsigmoid", "hardsigmoid", "tanh", "hardtanh", "tanhshrink"),
        *("softmax", "softmax2d", "logsoftmax", "softmin", "softplus", "softsign", "softshrink"),
        *("hardshrink", "hardswish", "threshold", "localresponsenorm"),
    )
)
"""Layers that hold nothing and keep the shape; what follows their name is not read."""
_DROPOUTS = ("dropout", "dropout1d", "dropout2d", "dropout3d", "alphadropout")

KINDS: dict[str, Kind] = {
    "linear": Kind(_linear, ("inputs", "outputs")),
    "bilinear": Kind(_bilinear, ("left", "right", "outputs")),
    **{f"conv{n}d": Kind(partial(_convolution, n), ("inputs", "outputs")) for n in (1, 2, 3)},
    **{
        f"convtranspose{n}d": Kind(partial(_transposed, n), ("inputs", "outputs"))
        for n in (1, 2, 3)
    },
    **{k: Kind(partial(_recurrent, k), ("inputs", "hidden")) for k in _GATED},
    **{f"{k}cell": Kind(partial(_cell, k), ("inputs", "hidden")) for k in _GATED},
    "mha": Kind(_attention, ("embed",)),
    "encoderlayer": Kind(partial(_block, families.encoder_layer), ("width",)),
    "decoderlayer": Kind(partial(_block, families.decoder_layer), ("width",)),
    **{k: Kind(partial(_stack, k), ("width",)) for k in ("encoder", "decoder")},
    "transformer": Kind(_transformer, ("width",)),
    "embedding": Kind(_embedding, ("entries", "width")),
    "embeddingbag": Kind(_embedding_bag, ("entries", "width")),
    **{
        f"batchnorm{n}": Kind(partial(_batchnorm, r), ("channels",)) for n, r in _NORM_RANKS.items()
    },
    **{
        f"instancenorm{n}": Kind(partial(_instancenorm, r), ("channels",))
        for n, r in _INSTANCE_RANKS.items()
    },
    "groupnorm": Kind(_groupnorm, ("channels",)),
    "layernorm": Kind(_layernorm, ("shape",)),
    "rmsnorm": Kind(_rmsnorm, ("shape",)),
    "prelu": Kind(_prelu, ("channels",)),
    "adaptivesoftmax": Kind(_adaptive_softmax, ("inputs", "classes")),
    **dict.fromkeys(_DROPOUTS, Kind(_dropout, ("p",))),
    "input": Kind(_input, ("shape",)),
    "flatten": Kind(_flatten),
    "reshape": Kind(_reshape, ("shape",)),
    **{f"{k}pool{n}": Kind(partial(_pool, r), ("k",)) for k in ("max", "avg") for r, n in _RANKS},
    **{
        f"adaptive{k}pool{n}": Kind(partial(_adaptive_pool, r), ("size",))
        for k in ("max", "avg")
        for r, n in _RANKS
    },
    **dict.fromkeys(("globalavgpool", "globalmaxpool"), Kind(_global_pool)),
    "upsample": Kind(_upsample, ("scale",)),
    "pad": Kind(_pad, ("padding",)),
    "pixelshuffle": Kind(_pixel_shuffle, ("factor",)),
    "glu": Kind(_glu),
    "concat": Kind(_unknown),
    **dict.fromkeys(sorted(ELEMENTWISE), Kind(_same)),
}
"""Every layer by the name that a description uses."""

ALIASES: dict[str, str] = {
    **dict.fromkeys(("dense", "fc", "fullyconnected"), "linear"),
    **{f"conv{n}dtranspose": f"convtranspose{n}d" for n in (1, 2, 3)},
    **{f"{long}pooling{n}d": f"{k}pool{n}d" for long, k in (("max", "max"), ("average", "avg"))
       for n in (1, 2, 3)},
    **{f"global{long}pooling{n}d": f"global{k}pool" for long, k in (("max", "max"),
       ("average", "avg")) for n in (1, 2, 3)},
    "simplernn": "rnn",
    "multiheadattention": "mha",
    **{f"transformer{k}": k for k in ("encoder", "decoder", "encoderlayer", "decoderlayer")},
    **dict.fromkeys(("batchnormalization", "bn"), "batchnorm"),
    **dict.fromkeys(("layernormalization", "ln"), "layernorm"),
    "groupnormalization": "groupnorm",
    "adaptivelogsoftmaxwithloss": "adaptivesoftmax",
    "swish": "silu",
    **dict.fromkeys(("unflatten", "view"), "reshape"),
    **dict.fromkeys(("zeropad1d", "zeropad2d", "zeropad3d", "zeropadding2d"), "pad"),
    "upsampling2d": "upsample",
    **dict.fromkeys(("concatenate", "cat"), "concat"),
    "spatialdropout2d": "dropout2d",
}  # fmt: skip
"""Other names of the same layers, without underscores."""

OPTIONS: dict[str, str] = {
    **dict.fromkeys(("kernel", "kernel_size", "pool_size"), "k"),
    **dict.fromkeys(("s", "strides"), "stride"),
    **dict.fromkeys(("d", "dilation_rate"), "dilation"),
    **dict.fromkeys(("num_layers", "l"), "layers"),
    **dict.fromkeys(("num_heads", "nhead"), "heads"),
    "dim_feedforward": "ff",
    **dict.fromkeys(("input_size", "in_features", "in_channels"), "inputs"),
    **dict.fromkeys(("out_features", "out_channels", "units", "filters"), "outputs"),
    "hidden_size": "hidden",
    "proj_size": "proj",
    "embed_dim": "embed",
    "d_model": "width",
    **dict.fromkeys(("num_embeddings", "input_dim"), "entries"),
    **dict.fromkeys(("embedding_dim", "output_dim"), "width"),
    **dict.fromkeys(("num_features", "num_channels", "num_parameters"), "channels"),
    "num_groups": "groups",
    "normalized_shape": "shape",
    "use_bias": "bias",
    **dict.fromkeys(("elementwise_affine",), "affine"),
    "track_running_stats": "stats",
    "add_bias_kv": "bias_kv",
    "num_encoder_layers": "encoders",
    "num_decoder_layers": "decoders",
    "scale_factor": "scale",
    "output_size": "size",
    "rate": "p",
}
"""Other names of the same options, as torch and Keras have them."""

KEEPS_UNITS = (ELEMENTWISE - {"add"}) | {
    *(name for name in KINDS if name.startswith(("batchnorm", "instancenorm"))),
    *("groupnorm", "layernorm", "rmsnorm", "prelu", "flatten", "reshape"),
}
"""Layers through which a unit before and after is the same unit, for dropout's sake."""

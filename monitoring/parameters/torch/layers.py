"""Reads the sizes of torch layers, from their attributes and, to compare, from their tensors.

``modules.py`` asks :func:`reader_of` for a module's class and gets the family's count twice: as the
layer declares itself and as its tensors' shapes imply. Classes are known by name, so this file
imports no torch. A tensor is never read as an attribute (a parametrised one would be computed).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import monitoring.parameters.families as families
from monitoring.parameters.families import Count
from monitoring.parameters.formula import NOTHING as NO_SCALARS

Shapes = Mapping[str, tuple[int, ...]]
Read = Callable[[Any, Shapes], Count]

CONTAINERS = frozenset(
    {
        "Module",
        "Sequential",
        "ModuleList",
        "ModuleDict",
        "ParameterList",
        "ParameterDict",
        "Container",
        "DataParallel",
        "DistributedDataParallel",
    }
)
"""Classes of ``torch.nn`` that are no layers: what they hold themselves has no formula."""


@dataclass(frozen=True, slots=True)
class Reader:
    """How to count one class: by its attributes, and by its tensors' shapes where they tell.

    ``whole`` says that the formula covers the layers below too (a transformer layer).
    """

    declared: Read
    held: Read | None = None
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """A reader, the class it belongs to, and whether the module is that very class."""

    name: str
    reader: Reader
    exact: bool


def reader_of(cls: type) -> Found | None:
    """The reader of the nearest known class in the method resolution order, if there is one."""
    exact = True
    for base in cls.__mro__:
        module, name = base.__module__, base.__name__.removeprefix("Lazy")
        if ".quantizable" in module:
            # Built of other layers, which are counted one by one.
            return None
        if module.startswith(("torch.nn.modules.", "torch.nn.parallel.")) or ".quantized" in module:
            if name in READERS:
                return Found(name, READERS[name], exact)
            if name in CONTAINERS:
                return None
            if module.startswith("torch.nn.modules.") and not name.startswith("_"):
                return Found(name, NOTHING, exact)
        # A class that torch itself derives (parametrised, lazy, quantisation-aware) is no stranger.
        exact = exact and module.startswith("torch.")
    return None


def _bias(shapes: Shapes, name: str = "bias") -> bool:
    return name in shapes


def _linear(m: Any, s: Shapes) -> Count:
    return families.linear(m.in_features, m.out_features, _bias(s))


def _linear_held(m: Any, s: Shapes) -> Count:
    outputs, inputs = s["weight"]
    return families.linear(inputs, outputs, _bias(s))


def _bilinear(m: Any, s: Shapes) -> Count:
    return families.bilinear(m.in1_features, m.in2_features, m.out_features, _bias(s))


def _bilinear_held(m: Any, s: Shapes) -> Count:
    outputs, left, right = s["weight"]
    return families.bilinear(left, right, outputs, _bias(s))


def _conv(transposed: bool) -> Read:
    def read(m: Any, s: Shapes) -> Count:
        return families.convolution(
            m.in_channels, m.out_channels, tuple(m.kernel_size), m.groups, _bias(s), transposed
        )

    return read


def _conv_held(transposed: bool) -> Read:
    def read(m: Any, s: Shapes) -> Count:
        first, second, *kernel = s["weight"]
        inputs, outputs = (first, second * m.groups) if transposed else (second * m.groups, first)
        return families.convolution(inputs, outputs, tuple(kernel), m.groups, _bias(s), transposed)

    return read


def _recurrent(m: Any, s: Shapes) -> Count:
    return families.recurrent(
        m.mode.partition("_")[0].lower(),
        m.input_size,
        m.hidden_size,
        m.num_layers,
        m.bidirectional,
        getattr(m, "proj_size", 0),
        m.bias,
    )


def _recurrent_held(m: Any, s: Shapes) -> Count:
    gated, inputs = s["weight_ih_l0"]
    kind = m.mode.partition("_")[0].lower()
    hidden = gated // {"rnn": 1, "lstm": 4, "gru": 3}[kind]
    layers = sum(name.startswith("weight_ih_l") and not name.endswith("reverse") for name in s)
    both = "weight_ih_l0_reverse" in s
    proj = s["weight_hr_l0"][0] if "weight_hr_l0" in s else 0
    bias = "bias_ih_l0" in s
    return families.recurrent(kind, inputs, hidden, layers, both, proj, bias)


def _cell(kind: str) -> Read:
    def read(m: Any, s: Shapes) -> Count:
        return families.recurrent_cell(kind, m.input_size, m.hidden_size, _bias(s, "bias_ih"))

    return read


def _cell_held(kind: str) -> Read:
    def read(m: Any, s: Shapes) -> Count:
        hidden, inputs = s["weight_hh"][1], s["weight_ih"][1]
        return families.recurrent_cell(kind, inputs, hidden, _bias(s, "bias_ih"))

    return read


def _attention(m: Any, s: Shapes) -> Count:
    bias = "in_proj_bias" in s
    return families.attention(
        m.embed_dim, m.num_heads, m.kdim, m.vdim, bias=bias, bias_kv="bias_k" in s
    )


def _block(layer: Any, s: Shapes, prefix: str = "") -> dict[str, Any]:
    """Sizes of an encoder or decoder layer; its activation must hold nothing."""
    activation = layer._modules.get("activation")
    if activation is not None and any(True for _ in activation.parameters()):
        raise ValueError("the activation holds parameters of its own")
    return {
        "width": layer.self_attn.embed_dim,
        "ff": layer.linear1.out_features,
        "bias": f"{prefix}norm1.bias" in s,
    }


def _encoder_layer(m: Any, s: Shapes) -> Count:
    return families.encoder_layer(**_block(m, s))


def _decoder_layer(m: Any, s: Shapes) -> Count:
    return families.decoder_layer(**_block(m, s))


def _stack(kind: str) -> Read:
    def read(m: Any, s: Shapes) -> Count:
        norm = m._modules.get("norm")
        if norm is not None and type(norm).__name__ != "LayerNorm":
            raise ValueError(f"expected a LayerNorm at the end, got {type(norm).__name__}")
        vectors = sum(name in s for name in ("norm.weight", "norm.bias"))
        sizes = _block(m.layers[0], s, "layers.0.")
        return families.transformer_stack(kind, layers=m.num_layers, norm=vectors, **sizes)

    return read


def _transformer(m: Any, s: Shapes) -> Count:
    sizes = _block(m.encoder.layers[0], s, "encoder.layers.0.")
    return families.transformer(
        encoders=m.encoder.num_layers, decoders=m.decoder.num_layers, **sizes
    )


def _embedding(m: Any, s: Shapes) -> Count:
    return families.embedding(m.num_embeddings, m.embedding_dim)


def _embedding_held(m: Any, s: Shapes) -> Count:
    return families.embedding(*s["weight"])


def _batchnorm(m: Any, s: Shapes) -> Count:
    return families.batchnorm(m.num_features, m.affine, _bias(s), m.track_running_stats)


def _instancenorm(m: Any, s: Shapes) -> Count:
    return families.instancenorm(m.num_features, m.affine, _bias(s), m.track_running_stats)


def _norm_held(m: Any, s: Shapes) -> Count:
    stats = "running_mean" in s
    channels = s["weight" if "weight" in s else "running_mean"][0]
    return families.batchnorm(channels, "weight" in s, _bias(s), stats)


def _groupnorm(m: Any, s: Shapes) -> Count:
    return families.groupnorm(m.num_channels, m.num_groups, m.affine, _bias(s))


def _groupnorm_held(m: Any, s: Shapes) -> Count:
    return families.groupnorm(s["weight"][0], m.num_groups, True, _bias(s))


def _layernorm(m: Any, s: Shapes) -> Count:
    return families.layernorm(tuple(m.normalized_shape), m.elementwise_affine, _bias(s))


def _layernorm_held(m: Any, s: Shapes) -> Count:
    return families.layernorm(s["weight"], True, _bias(s))


def _rmsnorm(m: Any, s: Shapes) -> Count:
    return families.rmsnorm(tuple(m.normalized_shape), m.elementwise_affine)


def _rmsnorm_held(m: Any, s: Shapes) -> Count:
    return families.rmsnorm(s["weight"])


def _adaptive(m: Any, s: Shapes) -> Count:
    return families.adaptive_softmax(
        m.in_features, m.n_classes, list(m.cutoffs)[:-1], m.div_value, m.head_bias
    )


def _linear_cross_entropy(m: Any, s: Shapes) -> Count:
    outputs = m.num_classes * math.prod(m.out_features)
    given = m.num_classes if "weight" in s else 0
    return families.linear_cross_entropy(m.linear.in_features, outputs, "linear.bias" in s, given)


def _loss(m: Any, s: Shapes) -> Count:
    sizes = [math.prod(s[name]) for name in ("weight", "pos_weight") if name in s]
    return Count(NO_SCALARS, "", families.weights(*sizes))


NOTHING = Reader(lambda m, s: families.none())

READERS: dict[str, Reader] = {
    "Linear": Reader(_linear, _linear_held),
    "NonDynamicallyQuantizableLinear": Reader(_linear, _linear_held),
    "Bilinear": Reader(_bilinear, _bilinear_held),
    **{f"Conv{n}d": Reader(_conv(False), _conv_held(False)) for n in (1, 2, 3)},
    **{f"ConvTranspose{n}d": Reader(_conv(True), _conv_held(True)) for n in (1, 2, 3)},
    **{name: Reader(_recurrent, _recurrent_held) for name in ("RNN", "LSTM", "GRU", "RNNBase")},
    **{
        f"{kind.upper()}Cell": Reader(_cell(kind), _cell_held(kind))
        for kind in ("rnn", "lstm", "gru")
    },
    "MultiheadAttention": Reader(_attention),
    "TransformerEncoderLayer": Reader(_encoder_layer, whole=True),
    "TransformerDecoderLayer": Reader(_decoder_layer, whole=True),
    "TransformerEncoder": Reader(_stack("encoder"), whole=True),
    "TransformerDecoder": Reader(_stack("decoder"), whole=True),
    "Transformer": Reader(_transformer, whole=True),
    "Embedding": Reader(_embedding, _embedding_held),
    "EmbeddingBag": Reader(_embedding, _embedding_held),
    **{f"BatchNorm{n}d": Reader(_batchnorm, _norm_held) for n in (1, 2, 3)},
    "SyncBatchNorm": Reader(_batchnorm, _norm_held),
    **{f"InstanceNorm{n}d": Reader(_instancenorm, _norm_held) for n in (1, 2, 3)},
    "GroupNorm": Reader(_groupnorm, _groupnorm_held),
    "LayerNorm": Reader(_layernorm, _layernorm_held),
    "RMSNorm": Reader(_rmsnorm, _rmsnorm_held),
    "PReLU": Reader(
        lambda m, s: families.prelu(m.num_parameters), lambda m, s: families.prelu(*s["weight"])
    ),
    "AdaptiveLogSoftmaxWithLoss": Reader(_adaptive, whole=True),
    "LinearCrossEntropyLoss": Reader(_linear_cross_entropy, whole=True),
    **{
        name: Reader(_loss)
        for name in (
            "BCELoss",
            "BCEWithLogitsLoss",
            "CrossEntropyLoss",
            "NLLLoss",
            "NLLLoss2d",
            "MultiLabelSoftMarginLoss",
            "MultiMarginLoss",
        )
    },
}
"""Readers by class name; any other class of ``torch.nn.modules`` holds nothing."""

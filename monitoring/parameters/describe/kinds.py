"""The layer families that a description may name, and how each is written.

The counts themselves are in ``monitoring/parameters/families.py``. Imports no torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import monitoring.parameters.families as families
from monitoring.parameters.families import Count


@dataclass(frozen=True, slots=True)
class Kind:
    """A family as descriptions name it: its count, and the sizes given before any option."""

    count: Callable[..., Count]
    sizes: tuple[str, ...]

    def usage(self, name: str) -> str:
        """How to write it.

        >>> KINDS["embedding"].usage("embedding")
        'embedding:ENTRIESxWIDTH'
        """
        sizes = "x".join(size.upper() for size in self.sizes)
        options = "".join(f"[,{o}=..]" for o in self.options() if o not in self.sizes)
        return f"{name}:{sizes}{options}"

    def options(self) -> list[str]:
        """Every size and option the family takes."""
        return list(inspect.signature(self.count).parameters)


def _convolution(rank: int, transposed: bool) -> Callable[..., Count]:
    def count(
        inputs: int, outputs: int, k: int | Sequence[int], groups: int = 1, bias: bool = True
    ) -> Count:
        kernel = (k,) * rank if isinstance(k, int) else tuple(k)
        if len(kernel) != rank:
            raise ValueError(f"k: expected 1 or {rank} sides, got {len(kernel)}")
        return families.convolution(inputs, outputs, kernel, groups, bias, transposed)

    return count


def _dropout(p: float = 0.5) -> Count:
    if not 0 <= p < 1:
        raise ValueError(f"p: expected 0 <= p < 1, got {p}")
    return families.none()


_GATED = ("rnn", "lstm", "gru")
KINDS: dict[str, Kind] = {
    "linear": Kind(families.linear, ("inputs", "outputs")),
    "bilinear": Kind(families.bilinear, ("left", "right", "outputs")),
    **{f"conv{n}d": Kind(_convolution(n, False), ("inputs", "outputs")) for n in (1, 2, 3)},
    **{f"convtranspose{n}d": Kind(_convolution(n, True), ("inputs", "outputs")) for n in (1, 2, 3)},
    **{k: Kind(partial(families.recurrent, k), ("inputs", "hidden")) for k in _GATED},
    **{f"{k}cell": Kind(partial(families.recurrent_cell, k), ("inputs", "hidden")) for k in _GATED},
    "mha": Kind(families.attention, ("embed",)),
    "encoderlayer": Kind(families.encoder_layer, ("width",)),
    "decoderlayer": Kind(families.decoder_layer, ("width",)),
    **{k: Kind(partial(families.transformer_stack, k), ("width",)) for k in ("encoder", "decoder")},
    "transformer": Kind(families.transformer, ("width",)),
    "embedding": Kind(families.embedding, ("entries", "width")),
    "embeddingbag": Kind(families.embedding, ("entries", "width")),
    "batchnorm": Kind(families.batchnorm, ("channels",)),
    "instancenorm": Kind(families.instancenorm, ("channels",)),
    "groupnorm": Kind(families.groupnorm, ("channels",)),
    "layernorm": Kind(families.layernorm, ("shape",)),
    "rmsnorm": Kind(families.rmsnorm, ("shape",)),
    "prelu": Kind(families.prelu, ("channels",)),
    "adaptivesoftmax": Kind(families.adaptive_softmax, ("inputs", "classes")),
    "dropout": Kind(_dropout, ("p",)),
}
"""Families that hold parameters, and dropout, by the name a description uses."""

NO_PARAMETERS = frozenset(
    [
        "input",
        "identity",
        "flatten",
        "add",
        "concat",
        "pad",
        "upsample",
        "relu",
        "relu6",
        "leakyrelu",
        "elu",
        "selu",
        "celu",
        "gelu",
        "silu",
        "mish",
        "sigmoid",
        "tanh",
        "softmax",
        "logsoftmax",
        "softplus",
        "softsign",
        "logsigmoid",
        "hardtanh",
        "hardswish",
        "hardsigmoid",
        "glu",
        "maxpool",
        "maxpool1d",
        "maxpool2d",
        "maxpool3d",
        "avgpool",
        "avgpool1d",
        "avgpool2d",
        "avgpool3d",
        "adaptiveavgpool",
        "adaptivemaxpool",
    ]
)
"""Layers that hold nothing; what follows their name is not read."""

KEEPS_UNITS = (NO_PARAMETERS - {"glu", "concat", "add"}) | {"batchnorm", "layernorm", "prelu"}
"""Layers through which a unit before and after is the same unit, for dropout's sake."""

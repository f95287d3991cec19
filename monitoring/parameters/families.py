"""One formula per layer family: sizes in, parameters, buffers and Keras' convention out.

The counter of torch modules (``monitoring/parameters/torch/layers.py``) reads the sizes off a
module, the estimator (``monitoring/parameters/describe/estimate.py``) off a description; both end
here. The argument names are the option names of a description. Nothing here imports torch. Source
of every formula: the shapes that the constructors in ``torch.nn`` allocate (PyTorch 2.x
documentation, "Variables" of each class).

Height, width, stride, padding and dilation enter no count, nor does dropout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from monitoring.parameters.formula import NOTHING, Formula, Size, formula

_GATES = {"rnn": 1, "lstm": 4, "gru": 3}
_KERAS_BIASES = {"rnn": 1, "lstm": 1, "gru": 2}


@dataclass(frozen=True, slots=True)
class Count:
    """What a layer of these sizes holds.

    ``keras`` is set where Keras' layer of the same name holds another number (counting moving
    statistics, as its ``count_params`` does).
    """

    parameters: Formula
    config: str = ""
    buffers: Formula = NOTHING
    keras: Formula | None = None
    keras_note: str = ""


def _sum(*terms: str) -> str:
    return " + ".join(term for term in terms if term) or "0"


def _arrow(left: object, right: object, *options: str) -> str:
    return " ".join([f"{left}->{right}", *(option for option in options if option)])


def _sides(size: Size) -> str:
    return str(size) if isinstance(size, int) else "x".join(map(str, size))


def linear(inputs: int, outputs: int, bias: bool = True) -> Count:
    """``i*o + o``: every input joined to every output, and a bias per output.

    >>> linear(256, 128).parameters.value
    32896
    """
    count = formula(_sum("i*o", "o" if bias else ""), i=inputs, o=outputs)
    return Count(count, _arrow(inputs, outputs, "" if bias else "no bias"))


def bilinear(left: int, right: int, outputs: int, bias: bool = True) -> Count:
    """``a*c*o + o``: a matrix between the two inputs for each output."""
    count = formula(_sum("a*c*o", "o" if bias else ""), a=left, c=right, o=outputs)
    return Count(count, _arrow(f"{left},{right}", outputs, "" if bias else "no bias"))


def convolution(
    inputs: int,
    outputs: int,
    kernel: tuple[int, ...],
    groups: int = 1,
    bias: bool = True,
    transposed: bool = False,
) -> Count:
    """``(i/g)*o*k + o`` with k the product of the kernel's sides; transposed ``i*(o/g)*k + o``.

    >>> convolution(3, 64, (3, 3)).parameters.value
    1792
    """
    weights = ("i*(o/g)*k" if transposed else "(i/g)*o*k") if groups > 1 else "i*o*k"
    sizes: dict[str, Size] = {"i": inputs, "o": outputs, "k": kernel}
    if groups > 1:
        sizes["g"] = groups
    config = _arrow(
        inputs,
        outputs,
        f"k{_sides(kernel)}",
        f"groups {groups}" if groups > 1 else "",
        "" if bias else "no bias",
    )
    return Count(Formula(_sum(weights, "o" if bias else ""), sizes), config)


def recurrent(
    kind: str,
    inputs: int,
    hidden: int,
    layers: int = 1,
    bidirectional: bool = False,
    proj: int = 0,
    bias: bool = True,
) -> Count:
    """``G*((n + m)*m + 2*m)`` per layer and direction, with G = 1, 4, 3 for rnn, lstm, gru.

    torch holds two bias vectors per gate where Keras holds one (its GRU two, as ``reset_after`` is
    its default). From the second layer on the input is every direction's output. With a projection
    (LSTM) the state that comes back has ``p`` entries and each direction holds ``p*m`` more.

    >>> recurrent("lstm", 10, 20).parameters.value, recurrent("lstm", 10, 20).keras.value
    (2560, 2480)
    """
    if proj and kind != "lstm":
        raise ValueError("proj: only an lstm has a projection")
    sizes: dict[str, Size] = {"n": inputs, "m": hidden}
    if proj:
        sizes["p"] = proj
    if layers > 1:
        sizes["L"] = layers
    text = _stack(_GATES[kind], 2 if bias else 0, layers, bidirectional, bool(proj))
    config = _arrow(
        inputs,
        hidden,
        f"{layers} layers" if layers > 1 else "",
        "bidirectional" if bidirectional else "",
        f"projected to {proj}" if proj else "",
        "" if bias else "no bias",
    )
    keras = None
    if bias and not proj and _KERAS_BIASES[kind] != 2:
        keras = Formula(_stack(_GATES[kind], 1, layers, bidirectional, False), sizes)
    note = "Keras' GRU with reset_after=False: one bias, 3*((n + m)*m + m)" if kind == "gru" else ""
    return Count(Formula(text, sizes), config, keras=keras, keras_note=note if bias else "")


def _stack(gates: int, biases: int, layers: int, both_ways: bool, projected: bool) -> str:
    state = "p" if projected else "m"
    bias = {0: "", 1: "m", 2: "2*m"}[biases]

    def direction(entering: str) -> str:
        weights = _sum(f"({entering} + {state})*m", bias)
        inner = f"{gates}*({weights})" if gates > 1 else weights
        return _sum(inner, "p*m" if projected else "")

    first, rest = direction("n"), direction(f"2*{state}" if both_ways else state)
    if both_ways:
        first, rest = f"2*({first})", f"2*({rest})"
    return _sum(first, f"(L - 1)*({rest})" if layers > 1 else "")


def recurrent_cell(kind: str, inputs: int, hidden: int, bias: bool = True) -> Count:
    """One step of :func:`recurrent`: the same count as one layer in one direction."""
    return recurrent(kind, inputs, hidden, bias=bias)


def attention(
    embed: int,
    heads: int = 1,
    kdim: int | None = None,
    vdim: int | None = None,
    bias: bool = True,
    bias_kv: bool = False,
) -> Count:
    """``2*E*E + E*kdim + E*vdim + 4*E``: query, key, value and output projections.

    The number of heads splits the projections and changes no count. ``bias_kv`` adds one learned
    key and one learned value.

    >>> attention(512, heads=8).parameters.value
    1050624
    """
    sizes: dict[str, Size] = {"E": embed}
    weights = "4*E*E"
    if kdim not in (None, embed) or vdim not in (None, embed):
        sizes |= {"kdim": kdim or embed, "vdim": vdim or embed}
        weights = "2*E*E + E*kdim + E*vdim"
    text = _sum(weights, "4*E" if bias else "", "2*E" if bias_kv else "")
    config = f"{embed}, {heads} heads" + ("" if bias else " no bias")
    return Count(Formula(text, sizes), config)


def encoder_layer(width: int, ff: int = 2048, bias: bool = True) -> Count:
    """Attention, two linear layers and two layer norms: ``4*d*d + 2*d*f`` and the biases.

    >>> encoder_layer(512).parameters.value
    3152384
    """
    return Count(Formula(_block(1, bias), {"d": width, "f": ff}), f"{width}, ff {ff}")


def decoder_layer(width: int, ff: int = 2048, bias: bool = True) -> Count:
    """Two attentions, two linear layers and three layer norms."""
    return Count(Formula(_block(2, bias), {"d": width, "f": ff}), f"{width}, ff {ff}")


def _block(attentions: int, bias: bool) -> str:
    # Per attention 4*d*d (+ 4*d); f + d for the linear biases; one norm more than attentions.
    norms = (attentions + 1) * (2 if bias else 1)
    biases = 4 * attentions
    if bias:
        return f"{4 * attentions}*d*d + {biases}*d + 2*d*f + f + d + {norms}*d"
    return f"{4 * attentions}*d*d + 2*d*f + {norms}*d"


def transformer_stack(
    kind: str, width: int, ff: int = 2048, layers: int = 6, norm: int = 0, bias: bool = True
) -> Count:
    """``layers`` encoder or decoder layers (``kind``) and a last layer norm.

    ``norm`` is the number of vectors in that norm: 0 without one, 1 without a bias, else 2.
    """
    block = _block(1 if kind == "encoder" else 2, bias)
    last = {0: "", 1: "d", 2: "2*d"}[norm]
    sizes: dict[str, Size] = {"d": width, "f": ff, "L": layers}
    return Count(Formula(_sum(f"L*({block})", last), sizes), f"{width}, ff {ff}, {layers} layers")


def transformer(
    width: int = 512, ff: int = 2048, encoders: int = 6, decoders: int = 6, bias: bool = True
) -> Count:
    """Encoder and decoder stacks, each with a last layer norm; embeddings not included.

    >>> transformer().parameters.value
    44140544
    """
    text = _sum(f"e*({_block(1, bias)})", f"c*({_block(2, bias)})", "4*d" if bias else "2*d")
    sizes: dict[str, Size] = {"d": width, "f": ff, "e": encoders, "c": decoders}
    return Count(Formula(text, sizes), f"{width}, ff {ff}, {encoders}+{decoders} layers")


def embedding(entries: int, width: int) -> Count:
    """``V*d``: the row of ``padding_idx`` counts, though it never trains."""
    return Count(formula("V*d", V=entries, d=width), f"{entries}x{width}")


def batchnorm(channels: int, affine: bool = True, bias: bool = True, stats: bool = True) -> Count:
    """``2*C``; beside them the running mean and variance and one counter, as buffers.

    Keras counts its two moving statistics as (non-trainable) parameters: ``4*C``.
    """
    parameters = formula(_affine("C", affine, bias), C=channels)
    buffers = formula("2*C + 1", C=channels) if stats else NOTHING
    keras = formula(_sum(parameters.text if affine else "", "2*C"), C=channels) if stats else None
    return Count(parameters, str(channels), buffers, keras)


def instancenorm(
    channels: int, affine: bool = False, bias: bool = True, stats: bool = False
) -> Count:
    """``2*C`` if affine (it is not by default); buffers as :func:`batchnorm`'s if it keeps any."""
    parameters = formula(_affine("C", affine, bias), C=channels)
    buffers = formula("2*C + 1", C=channels) if stats else NOTHING
    return Count(parameters, str(channels), buffers)


def groupnorm(channels: int, groups: int = 1, affine: bool = True, bias: bool = True) -> Count:
    """``2*C``, however many groups."""
    return Count(formula(_affine("C", affine, bias), C=channels), f"{channels}, {groups} groups")


def layernorm(shape: Size, affine: bool = True, bias: bool = True) -> Count:
    """``2*s`` with s the product of the normalised shape."""
    return Count(formula(_affine("s", affine, bias), s=shape), _sides(shape))


def rmsnorm(shape: Size, affine: bool = True) -> Count:
    """``s``: a scale and no shift."""
    return layernorm(shape, affine, bias=False)


def _affine(name: str, affine: bool, bias: bool) -> str:
    if not affine:
        return "0"
    return f"2*{name}" if bias else name


def prelu(channels: int = 1) -> Count:
    """``n``: one slope, or one per channel; the only activation with parameters.

    Keras' PReLU holds one slope per input position unless ``shared_axes`` says otherwise.
    """
    return Count(formula("n", n=channels), str(channels))


def adaptive_softmax(
    inputs: int,
    classes: int,
    cutoffs: int | Sequence[int],
    div: float = 4.0,
    head_bias: bool = False,
) -> Count:
    """A head over the frequent classes and clusters, and two thin matrices per cluster.

    Cluster ``j`` holds ``i*h_j + h_j*c_j`` with ``h_j = i // div**(j + 1)`` (Grave et al. 2017).
    """
    edges = [*([cutoffs] if isinstance(cutoffs, int) else cutoffs), classes]
    clusters = len(edges) - 1
    sizes: dict[str, Size] = {"i": inputs, "c0": edges[0], "q": clusters}
    terms = ["i*(c0 + q)", "c0 + q" if head_bias else ""]
    for j in range(clusters):
        sizes[f"h{j + 1}"] = int(inputs // div ** (j + 1))
        sizes[f"c{j + 1}"] = edges[j + 1] - edges[j]
        terms.append(f"h{j + 1}*(i + c{j + 1})")
    return Count(Formula(_sum(*terms), sizes), _arrow(inputs, classes, f"cutoffs {edges[:-1]}"))


def linear_cross_entropy(
    inputs: int, outputs: int, bias: bool = False, class_weights: int = 0
) -> Count:
    """A linear layer inside a loss; class weights are a buffer."""
    return Count(
        linear(inputs, outputs, bias).parameters, _arrow(inputs, outputs), weights(class_weights)
    )


def weights(*sizes: int) -> Formula:
    """Buffers of a loss: its class weights, as many as were given."""
    named = {f"w{i}": size for i, size in enumerate(sizes) if size}
    return formula(_sum(*named), **named)


def none() -> Count:
    """Activations (PReLU apart), pooling, dropout, padding, reshaping, input layers: nothing."""
    return Count(NOTHING)

"""Counts layers that nobody has built: a description in, a report by formula alone out.

Layers are text such as ``"linear:256x128; relu; dropout:0.5; linear:128x10"`` or the list of a TOML
file. Imports no torch and allocates nothing, so a model of any size takes no time.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from monitoring.parameters.counted import Counted, ParameterError, Row
from monitoring.parameters.describe.kinds import ALIASES, ELEMENTWISE, KEEPS_UNITS, KINDS, OPTIONS
from monitoring.parameters.describe.shapes import UNKNOWN, Shape
from monitoring.parameters.families import Count
from monitoring.parameters.formula import formula
from monitoring.parameters.torch.dropout import expected_active

Layer = str | Mapping[str, Any]
"""A description, or a table with ``type``, the sizes by name and perhaps ``name``."""

_FLAGS: dict[str, tuple[str, bool]] = {"nobias": ("bias", False), "noaffine": ("affine", False)}
_DROPS_UNITS = ("dropout", "alphadropout")
"""Dropouts of single units; those of whole channels leave a linear layer's alone."""
_FRACTIONS = ("p", "dropout", "div")
_PER_SIDE = (
    *("k", "stride", "padding", "output_padding", "dilation", "shape", "size", "scale"),
    "cutoffs",
)
_MAY_BE_NOTHING = ("padding", "output_padding", "proj", "norm")


def is_description(text: str) -> bool:
    """Whether ``text`` is meant as a description: no name of an attribute begins with a digit.

    >>> is_description("linear:256x128"), is_description("liner:256"), is_description("linear:Net")
    (True, True, False)
    """
    kind, _, rest = re.split(r"[;\n]", text.strip(), maxsplit=1)[0].partition(":")
    if re.fullmatch(r"[\w -]+", kind) and rest.strip()[:1].isdigit():
        return True
    return _kind(kind) in KINDS and (not rest or ";" in text or "=" in rest)


def estimate_layers(layers: str | Iterable[Layer], target: str) -> Counted:
    """The report of some layers that were never built.

    Raises :class:`ParameterError` naming the layer, what was expected and what was got.
    """
    if isinstance(layers, str):
        layers = [part for part in re.split(r"[;\n]", layers) if part.strip()]
    rows: list[Row] = []
    dropped: list[float] = []
    shape = UNKNOWN
    for i, layer in enumerate(layers):
        kind, name, options = _read(layer, i)
        count, shape = _count(kind, options, f"layer {name}", shape)
        rows.append(_row(kind, name, count, shape))
        dropped.append(options.get("p", 0.5) if kind in _DROPS_UNITS else 0.0)
    if not rows:
        raise ParameterError("no layers: expected a description such as linear:256x128")
    rows = [_with_dropout(i, rows, dropped) for i in range(len(rows))]
    note = "by formula alone: nothing was built to compare with; bytes of the parameters as float32"
    return Counted(target, "estimate", rows, notes=(note,))


def _row(kind: str, name: str, count: Count, shape: Shape) -> Row:
    held = count.parameters.value
    return Row(
        name,
        kind,
        count.config,
        held=held,
        formula=count.parameters,
        trainable=held,
        buffers=count.buffers.value,
        buffers_formula=count.buffers if count.buffers.value else None,
        bytes=4 * held,
        dtype="float32" if held else "",
        output="" if shape.known is None else str(shape),
        keras=count.keras,
        note=count.keras_note,
    )


def _count(kind: str, options: Mapping[str, Any], where: str, shape: Shape) -> tuple[Count, Shape]:
    if kind not in KINDS:
        close = difflib.get_close_matches(kind, [*KINDS, *ALIASES], n=1)
        known = ", ".join(sorted(KINDS))
        hint = f"; did you mean {close[0]!r}?" if close else f"; known are {known}"
        raise ParameterError(f"{where}: expected a layer, got {kind!r}{hint}")
    known_options, usage = KINDS[kind].options(), KINDS[kind].usage(kind)
    for name, value in options.items():
        if name not in known_options:
            close = difflib.get_close_matches(name, [*known_options, *OPTIONS], n=1)
            hint = f"; did you mean {OPTIONS.get(close[0], close[0])!r}?" if close else ""
            raise ParameterError(f"{where}: expected {usage}; got the option {name!r}{hint}")
        expected = _misfit(known_options[name], value)
        if expected:
            raise ParameterError(f"{where}.{name}: expected {expected}, got {value!r}")
    try:
        inspect.signature(KINDS[kind].layer).bind(shape, **options)
        count, leaving = KINDS[kind].layer(shape, **options)
        _ = count.parameters.value
    except (TypeError, ValueError) as error:
        raise ParameterError(f"{where}: expected {usage}; {error}") from error
    return count, leaving


def _misfit(option: inspect.Parameter, value: Any) -> str:
    """What a value should have been; empty if it is of the right sort."""
    if isinstance(option.default, bool):
        return "" if isinstance(value, bool) else "true or false"
    if option.name in _FRACTIONS:
        right = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
        return "" if right else "a number of at least 0"
    if option.name == "padding" and value in ("same", "valid"):
        return ""
    least = 0 if option.name in _MAY_BE_NOTHING else 1
    several = option.name in _PER_SIDE
    values = value if several and isinstance(value, list | tuple) and value else [value]
    if all(type(v) is int and v >= least for v in values):
        return ""
    return f"sizes of at least {least}" if several else f"one whole number of at least {least}"


def _kind(text: str) -> str:
    """The name of a layer: ``Leaky_ReLU`` is ``leakyrelu``, ``dense`` is ``linear``."""
    name = re.sub(r"[\s_-]", "", text).lower()
    return ALIASES.get(name, name)


def _read(layer: Layer, i: int) -> tuple[str, str, dict[str, Any]]:
    """Kind, name and options of one layer."""
    if isinstance(layer, str):
        return _parse(layer, i)
    options = dict(layer)
    kind, name = options.pop("type", None), str(options.pop("name", i))
    if not isinstance(kind, str):
        raise ParameterError(f'layer {name}: expected a key type, such as type = "linear"')
    kind = _kind(kind)
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    return kind, name, {_option(kind, k): v for k, v in values.items()}


def _option(kind: str, name: str) -> str:
    """The option that another name stands for, where this layer has it under no such name."""
    own = KINDS[kind].options() if kind in KINDS else {}
    if name in own:
        return name
    if name == "p" and "padding" in own:
        return "padding"
    # Keras' units are an LSTM's hidden ones and a linear layer's outputs.
    if name == "units" and "hidden" in own:
        return "hidden"
    return OPTIONS.get(name, name)


def _parse(text: str, i: int) -> tuple[str, str, dict[str, Any]]:
    kind, _, rest = text.strip().partition(":")
    kind = _kind(kind)
    if kind not in KINDS or kind in ELEMENTWISE:
        return kind, str(i), {}
    parts = [part.strip() for part in rest.split(",") if part.strip()]
    options: dict[str, Any] = {}
    if parts and not re.match(r"[A-Za-z_]\w*=|[A-Za-z_]+$|[ksp]\d", parts[0]):
        options = _sizes(kind, parts.pop(0), f"layer {i} ({text.strip()})")
    for extra in parts:
        key, equals, value = (part.strip() for part in extra.partition("="))
        short = re.fullmatch(r"([kspd])(\d+(?:x\d+)*)", key)
        if equals:
            options[_option(kind, key)] = _value(value)
        elif short:
            options[_option(kind, short[1])] = _value(short[2])
        else:
            name, flag = _FLAGS.get(key, (key, True))
            options[_option(kind, name)] = flag
    return kind, str(i), options


def _sizes(kind: str, text: str, where: str) -> dict[str, Any]:
    """Sizes before any option; where fewer are given, those that arrive were left out."""
    names = KINDS[kind].sizes
    if len(names) == 1:
        return {names[0]: _value(text)}
    values = [_value(part.strip()) for part in re.split(r"x|->|→", text)]
    if len(values) > len(names) or not all(isinstance(v, int | float) for v in values):
        usage = KINDS[kind].usage(kind)
        raise ParameterError(f"{where}: expected {usage}; got the sizes {text!r}")
    return dict(zip(names[len(names) - len(values) :], values, strict=True))


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if re.fullmatch(r"\d{1,18}", text):
        return int(text)
    if re.fullmatch(r"\d{0,18}\.\d{1,18}", text):
        return float(text)
    if re.fullmatch(r"\d{1,18}([x/]\d{1,18})+", text):
        return tuple(int(part) for part in re.split("[x/]", text))
    return text


def _with_dropout(i: int, rows: Sequence[Row], dropped: Sequence[float]) -> Row:
    """Row ``i`` with the parameters expected active, if it is linear and next to a dropout."""
    row = rows[i]
    p_in = _rate(range(i - 1, -1, -1), rows, dropped)
    p_out = _rate(range(i + 1, len(rows)), rows, dropped)
    if row.type != "linear" or row.formula is None or not (p_in or p_out):
        return row
    weights = formula("i*o", **row.formula.sizes).value
    active = expected_active(weights, row.held - weights, p_in, p_out)
    return dataclasses.replace(row, expected_active=active)


def _rate(order: Iterable[int], rows: Sequence[Row], dropped: Sequence[float]) -> float:
    kept = 1.0
    for i in order:
        if rows[i].type in _DROPS_UNITS:
            kept *= 1 - dropped[i]
        elif rows[i].type not in KEEPS_UNITS and not rows[i].type.startswith("dropout"):
            break
    return 1 - kept


def estimate(layers: str | Iterable[Layer], target: str = "") -> Counted:
    """Count layers that were never built, by formula alone.

    Parameters
    ----------
    layers : str, or descriptions and tables in order
        Text such as ``"input:3x32x32; conv2d:64,k3; relu; flatten; linear:10"``, or what a TOML
        file's ``layers`` holds; a shape that arrives gives the sizes that are left out.
        ``docs/parameters.md`` lists the families.
    target : str
        What the report calls it; the text itself if empty.

    Raises
    ------
    ParameterError
        Names the layer, what was expected and what was got.

    Examples
    --------
    >>> estimate("lstm:10->20").totals.held, estimate("lstm:10->20").totals.keras
    (2560, 2480)
    """
    if not target:
        target = layers if isinstance(layers, str) else "layers"
    return estimate_layers(layers, target)

"""Counts layers that nobody has built: a description in, a report by formula alone out.

Layers are text such as ``"linear:256x128; relu; dropout:0.5; linear:128x10"`` or the list of a TOML
file. Imports no torch and allocates nothing, so a model of any size takes no time.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import monitoring.parameters.families as families
from monitoring.parameters.counted import Counted, ParameterError, Row
from monitoring.parameters.describe.kinds import KEEPS_UNITS, KINDS, NO_PARAMETERS
from monitoring.parameters.families import Count
from monitoring.parameters.formula import formula
from monitoring.parameters.torch.dropout import expected_active

Layer = str | Mapping[str, Any]
"""A description, or a table with ``type``, the sizes by name and perhaps ``name``."""

_FLAGS: dict[str, tuple[str, bool]] = {"nobias": ("bias", False), "noaffine": ("affine", False)}


def is_description(text: str) -> bool:
    """Whether ``text`` starts like a description rather than like a module's name.

    >>> is_description("linear:256x128"), is_description("linear:Net")
    (True, False)
    """
    kind, _, rest = re.split(r"[;\n]", text.strip(), maxsplit=1)[0].partition(":")
    kind = kind.strip().lower()
    if kind in NO_PARAMETERS:
        return True
    return kind in KINDS and (not rest or rest.strip()[:1].isdigit())


def estimate_layers(layers: str | Iterable[Layer], target: str) -> Counted:
    """The report of some layers that were never built.

    Raises :class:`ParameterError` naming the layer, what was expected and what was got.
    """
    if isinstance(layers, str):
        layers = [part for part in re.split(r"[;\n]", layers) if part.strip()]
    rows: list[Row] = []
    dropped: list[float] = []
    for i, layer in enumerate(layers):
        kind, name, options = _read(layer, i)
        rows.append(_row(kind, name, _count(kind, options, f"layer {name}")))
        dropped.append(options.get("p", 0.5) if kind == "dropout" else 0.0)
    if not rows:
        raise ParameterError("no layers: expected a description such as linear:256x128")
    rows = [_with_dropout(i, rows, dropped) for i in range(len(rows))]
    note = "by formula alone: nothing was built to compare with; bytes of the parameters as float32"
    return Counted(target, "estimate", rows, notes=(note,))


def _row(kind: str, name: str, count: Count) -> Row:
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
        keras=count.keras,
        note=count.keras_note,
    )


def _count(kind: str, options: Mapping[str, Any], where: str) -> Count:
    if kind in NO_PARAMETERS:
        return families.none()
    if kind not in KINDS:
        known = ", ".join(sorted([*KINDS, *NO_PARAMETERS]))
        raise ParameterError(f"{where}: expected one of {known}; got {kind!r}")
    usage = KINDS[kind].usage(kind)
    for name, value in options.items():
        if name not in KINDS[kind].options():
            raise ParameterError(f"{where}: expected {usage}; got the option {name!r}")
        if not _is_size(value):
            raise ParameterError(f"{where}.{name}: expected sizes of at least 1, got {value!r}")
    try:
        inspect.signature(KINDS[kind].count).bind(**options)
        count = KINDS[kind].count(**options)
        # Evaluated here, so that groups that do not divide the channels are this layer's error.
        _ = count.parameters.value
    except (TypeError, ValueError, KeyError) as error:
        raise ParameterError(f"{where}: expected {usage}; {error}") from error
    return count


def _is_size(value: Any) -> bool:
    if isinstance(value, bool | float):
        return value >= 0
    values = [value] if isinstance(value, int) else value
    return (
        isinstance(values, list | tuple)
        and bool(values)
        and all(type(v) is int and v > 0 for v in values)
    )


def _read(layer: Layer, i: int) -> tuple[str, str, dict[str, Any]]:
    """Kind, name and options of one layer."""
    if isinstance(layer, str):
        return _parse(layer, i)
    options = dict(layer)
    kind, name = options.pop("type", None), str(options.pop("name", i))
    if not isinstance(kind, str):
        raise ParameterError(f'layer {name}: expected a key type, such as type = "linear"')
    kind = kind.lower()
    return kind, name, {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}


def _parse(text: str, i: int) -> tuple[str, str, dict[str, Any]]:
    kind, _, rest = text.strip().partition(":")
    kind = kind.strip().lower()
    if kind not in KINDS:
        return kind, str(i), {}
    sizes, *extras = [part.strip() for part in rest.split(",")]
    options = _sizes(kind, sizes, f"layer {i} ({text.strip()})")
    for extra in extras:
        key, equals, value = (part.strip() for part in extra.partition("="))
        if equals:
            options[key] = _value(value)
        elif re.fullmatch(r"k\d+(x\d+)*", key):
            options["k"] = _value(key[1:])
        else:
            name, flag = _FLAGS.get(key, (key, True))
            options[name] = flag
    return kind, str(i), options


def _sizes(kind: str, text: str, where: str) -> dict[str, Any]:
    names = KINDS[kind].sizes
    if not text:
        return {}
    if names == ("shape",):
        return {"shape": _value(text)}
    values = [_value(part.strip()) for part in re.split(r"x|->|→", text)]
    if len(values) != len(names) or not all(isinstance(v, int | float) for v in values):
        usage = KINDS[kind].usage(kind)
        raise ParameterError(f"{where}: expected {usage}; got the sizes {text!r}")
    return dict(zip(names, values, strict=True))


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if re.fullmatch(r"\d+", text):
        return int(text)
    if re.fullmatch(r"\d*\.\d+", text):
        return float(text)
    if re.fullmatch(r"\d+([x/]\d+)+", text):
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
        if rows[i].type == "dropout":
            kept *= 1 - dropped[i]
        elif rows[i].type not in KEEPS_UNITS:
            break
    return 1 - kept


def estimate(layers: str | Iterable[Layer], target: str = "") -> Counted:
    """Count layers that were never built, by formula alone.

    Parameters
    ----------
    layers : str, or descriptions and tables in order
        Text such as ``"conv2d:3->64,k3; relu; linear:1024x10"``, or what a TOML file's ``layers``
        holds. ``docs/parameters.md`` lists the families.
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

"""The tensors that belong to one torch module, also behind parametrisations, masks and packing.

A parametrised ``weight`` is never read as an attribute: that would compute it, and a spectral
norm's computation changes its buffers. Nothing here runs a module.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, NamedTuple

from monitoring.parameters.formula import Formula, Size

Shape = tuple[int, ...]

ABSORBED = ("parametrizations", "_packed_params", "_all_weight_values")
"""Children that hold a layer's own tensors and are no layers themselves."""


class Held(NamedTuple):
    """One tensor of a module: ``name`` below the module, ``logical`` as the layer thinks of it."""

    name: str
    logical: str
    role: Literal["parameter", "buffer", "packed"]
    tensor: Any


@dataclass
class Own:
    """What a module holds itself, and what its parametrisations add to the family's formula."""

    tensors: list[Held] = field(default_factory=list)
    parameter_terms: list[tuple[str, Size]] = field(default_factory=list)
    buffer_terms: list[tuple[str, Size]] = field(default_factory=list)
    absorbed: tuple[str, ...] = ()
    zeros: int = 0
    """Elements of its sparse parameters that are not stored."""
    custom: bool = False
    note: str = ""

    def shapes(self) -> Mapping[str, Shape]:
        """Shapes by logical name, as the layer would have them without any parametrisation."""
        return {held.logical: shape_of(held.tensor) for held in self.tensors}

    def adjusted(self, parameters: Formula, buffers: Formula) -> tuple[Formula, Formula]:
        """The family's formulas with what weight norm, spectral norm and pruning add."""
        for i, (name, size) in enumerate(self.parameter_terms):
            parameters = parameters.plus(f"{name}{i or ''}", **{f"{name}{i or ''}": size})
        for i, (name, size) in enumerate(self.buffer_terms):
            buffers = buffers.plus(f"{name}{i or ''}", **{f"{name}{i or ''}": size})
        if self.zeros:
            parameters = parameters.minus("zeros", zeros=self.zeros)
        return parameters, buffers


def own_tensors(module: Any) -> Own:
    """The tensors of ``module`` itself, not of the layers below it."""
    own = Own()
    _gather(module, "", own)
    if type(module).__name__ == "MultiheadAttention" and "out_proj" in module._modules:
        # The attention's formula covers its output projection: one row for both.
        _gather(module._modules["out_proj"], "out_proj.", own)
        own.absorbed = ("out_proj",)
    for held in own.tensors:
        if is_sparse(held.tensor) and held.role != "buffer":
            dense, kept = held.tensor.numel(), stored(held.tensor).numel()
            own.zeros += dense - kept
            own.note = f"sparse: {kept:,} stored of {dense:,} in {held.logical}"
    return own


@cache
def _layout(layout: Any) -> str:
    """``strided``, ``sparse_coo``, ``sparse_csr``, ...; spelled once, not once a tensor."""
    return str(layout).removeprefix("torch.")


def is_sparse(tensor: Any) -> bool:
    """Whether a tensor leaves zeros out: COO, CSR and their kin."""
    return _layout(tensor.layout).startswith("sparse_")


def stored(tensor: Any) -> Any:
    """The tensor of the numbers that are in memory: a sparse or a nested one keeps it inside."""
    layout = _layout(tensor.layout)
    if layout == "sparse_coo":
        return tensor._values()
    return tensor.values() if layout.startswith("sparse_") or tensor.is_nested else tensor


def index_bytes(tensor: Any) -> int:
    """Bytes that say where the numbers of a sparse tensor stand."""
    layout = _layout(tensor.layout)
    if layout == "sparse_coo":
        parts = [tensor._indices()]
    elif layout in ("sparse_csr", "sparse_bsr"):
        parts = [tensor.crow_indices(), tensor.col_indices()]
    elif layout in ("sparse_csc", "sparse_bsc"):
        parts = [tensor.ccol_indices(), tensor.row_indices()]
    else:
        return 0
    return sum(part.numel() * part.element_size() for part in parts)


def shape_of(tensor: Any) -> Shape:
    """Its shape; of a nested tensor, which has several, that of its numbers in memory."""
    return tuple((stored(tensor) if tensor.is_nested else tensor).shape)


def named_tensors(
    module: Any, prefix: str = "", above: tuple[int, ...] = ()
) -> Iterator[tuple[str, Any, bool]]:
    """Name, tensor and whether it is a buffer, under every name; a cycle of modules is cut."""
    for name, tensor in module._parameters.items():
        if tensor is not None:
            yield prefix + name, tensor, False
    for name, tensor in module._buffers.items():
        if tensor is not None:
            yield prefix + name, tensor, True
    above = (*above, id(module))
    for name, child in module._modules.items():
        if child is not None and id(child) not in above:
            yield from named_tensors(child, f"{prefix}{name}.", above)


def is_lazy(tensor: Any) -> bool:
    """Whether a tensor waits for its input's size."""
    return type(tensor).__name__ in ("UninitializedParameter", "UninitializedBuffer")


def _gather(module: Any, prefix: str, own: Own) -> None:
    names = {name for name, tensor in module._parameters.items() if tensor is not None}
    hooks = {type(hook).__name__: hook for hook in module._forward_pre_hooks.values()}
    for name, tensor in module._parameters.items():
        if tensor is None:
            continue
        logical = name
        if name.endswith("_v") and f"{name[:-2]}_g" in names:
            logical = name[:-2]
            dim = getattr(hooks.get("WeightNorm"), "dim", 0)
            own.parameter_terms.append(("gain", _norm_size(tensor.shape, dim)))
        elif name.endswith("_orig"):
            logical = name.removesuffix("_orig")
        own.tensors.append(Held(prefix + name, prefix + logical, "parameter", tensor))
    for name, tensor in module._buffers.items():
        if tensor is None:
            continue
        own.tensors.append(Held(prefix + name, prefix + name, "buffer", tensor))
        base = name.rpartition("_")[0]
        if f"{base}_orig" in names and not is_lazy(tensor):
            _old_buffer(name, base, module, hooks, own)
    if "parametrizations" in module._modules:
        _gather_parametrized(module._modules["parametrizations"], prefix, own)
    own.tensors.extend(_packed(module, prefix, own))


def _old_buffer(name: str, base: str, module: Any, hooks: Mapping[str, Any], own: Own) -> None:
    """A buffer beside ``<base>_orig``: a pruning mask, or a vector of the old spectral norm."""
    shape = tuple(module._parameters[f"{base}_orig"].shape)
    if name.endswith("_mask"):
        own.buffer_terms.append(("mask", shape))
        mask = module._buffers[name]
        if mask.device.type != "meta":
            kept = int(mask.count_nonzero())
            own.note = f"pruned: the mask keeps {kept} of {mask.numel()} in {base}"
    elif "SpectralNorm" in hooks:
        rows = shape[hooks["SpectralNorm"].dim]
        size = rows if name.endswith("_u") else math.prod(shape) // rows
        own.buffer_terms.append((name[-1], size))


def _gather_parametrized(parametrizations: Any, prefix: str, own: Own) -> None:
    for name, chain in parametrizations._modules.items():
        originals = [t for t in chain._parameters.values() if t is not None]
        frozen = [t for t in chain._buffers.values() if t is not None]
        where = f"{prefix}parametrizations.{name}."
        main = originals[-1] if originals else frozen[-1]
        for key, tensor in (*chain._parameters.items(), *chain._buffers.items()):
            if tensor is not None:
                logical = prefix + (name if tensor is main else f"{name}.{key}")
                role: Literal["parameter", "buffer"] = (
                    "parameter" if key in chain._parameters else "buffer"
                )
                own.tensors.append(Held(where + key, logical, role, tensor))
        for key, step in chain._modules.items():
            _parametrization_terms(step, tuple(main.shape), own)
            for sub, tensor in step.named_parameters():
                path = f"{where}{key}.{sub}"
                own.tensors.append(Held(path, path, "parameter", tensor))
            for sub, tensor in step.named_buffers():
                path = f"{where}{key}.{sub}"
                own.tensors.append(Held(path, path, "buffer", tensor))


def _parametrization_terms(step: Any, shape: Shape, own: Own) -> None:
    kind = type(step).__name__ if type(step).__module__.startswith("torch.") else ""
    if kind == "_WeightNorm":
        own.parameter_terms.append(("gain", _norm_size(shape, step.dim)))
    elif kind == "_SpectralNorm":
        if len(shape) > 1:
            rows = shape[step.dim]
            own.buffer_terms += [("u", rows), ("v", math.prod(shape) // rows)]
    elif kind == "_Orthogonal":
        if "base" in step._buffers:
            side = max(shape[-2:])
            own.buffer_terms.append(("base", (*shape[:-2], side, side)))
    else:
        own.custom = True
        own.note = own.note or "a custom parametrisation"


def _norm_size(shape: Shape, dim: int | None) -> int:
    # Old API: None, new API: -1 for one norm over the whole tensor.
    return 1 if dim is None or dim == -1 else shape[dim]


def _packed(module: Any, prefix: str, own: Own) -> Iterator[Held]:
    """Tensors of a quantised layer, unpacked: they are neither parameters nor buffers."""
    if not any(".quantized" in cls.__module__ for cls in type(module).__mro__):
        return
    found: dict[str, Any] = {}
    if hasattr(module, "get_weight"):
        found = {**module.get_weight(), **module.get_bias()}
    elif callable(getattr(module, "weight", None)):
        found = {"weight": module.weight()}
        if callable(getattr(module, "bias", None)):
            found["bias"] = module.bias()
    if found:
        own.note = "quantised: packed, not trainable"
    for name, tensor in found.items():
        if tensor is not None:
            yield Held(prefix + name, prefix + name, "packed", tensor)

"""Counts a torch module layer by layer: what it holds beside what its family's formula says.

Walks the module tree once: no forward pass, no random number, no hook, no
attribute read that a property could compute. Tensors' values are read only to say how many entries
a pruning mask keeps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from models.base import Role
from monitoring.parameters.counted import ParameterError, Row, Verdict
from monitoring.parameters.families import Count
from monitoring.parameters.formula import NOTHING, Formula
from monitoring.parameters.torch.dropout import expected_active, rates
from monitoring.parameters.torch.layers import Found, reader_of
from monitoring.parameters.torch.storage import Ledger
from monitoring.parameters.torch.tensors import (
    ABSORBED,
    Held,
    Own,
    index_bytes,
    is_lazy,
    is_sparse,
    named_tensors,
    own_tensors,
    shape_of,
    stored,
)
from monitoring.parameters.torch.unregistered import candidates

_WRAPPERS = {
    "OptimizedModule": "_orig_mod",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
}
"""Wrappers that only prefix the names of what they wrap."""


@dataclasses.dataclass(slots=True)
class _Sums:
    """Running sums over the tensors of one row."""

    held: int = 0
    trainable: int = 0
    buffers: int = 0
    optimizer: int = 0
    bytes: int = 0
    aliased: int = 0
    aliased_trainable: int = 0
    aliased_buffers: int = 0

    def add(self, held: Held, fresh: int) -> None:
        """Add a tensor of which ``fresh`` elements were not counted before."""
        numel = stored(held.tensor).numel()
        self.bytes += fresh * held.tensor.element_size()
        self.bytes += index_bytes(held.tensor) if fresh else 0
        if held.role == "buffer":
            self.buffers += numel
            self.aliased_buffers += numel - fresh
            return
        self.held += numel
        self.aliased += numel - fresh
        # The bias of a quantised layer says requires_grad and is packed all the same.
        if held.tensor.requires_grad and held.role != "packed":
            self.trainable += numel
            self.aliased_trainable += numel - fresh


class ModuleWalk:
    """Adds the rows of modules and of bare tensors to ``rows``, each element of memory once.

    The rows come in the order of the module tree; a transformer layer's check over its parts comes
    before them as a subtotal. ``optimizer``'s state is counted beside the parameters it is for.
    """

    def __init__(self, rows: list[Row], aliases: dict[str, str], optimizer: Any = None) -> None:
        self.rows = rows
        self.aliases = aliases
        self._ledger = Ledger()
        self._seen: dict[int, str] = {}
        self._shapes: list[tuple[str, tuple[int, ...]]] = []
        self._rates: dict[int, tuple[float, float]] = {}
        self._loose: list[tuple[str, Any]] = []
        self._optimizer = _optimizer_sizes(optimizer)
        self._wrapped: list[str] = []

    def visit(self, module: Any, path: str) -> None:
        """Add the rows of ``module`` and of everything below it."""
        kind = type(module).__name__
        if kind in _WRAPPERS and type(module).__module__.startswith("torch."):
            self._wrapped.append(kind)
            self.visit(module._modules[_WRAPPERS[kind]], path)
            return
        _require_constructed(module, path)
        if id(module) in self._seen:
            self.rows.append(self._repeated(module, path))
            return
        self._seen[id(module)] = path
        self._loose.extend(candidates(module, path))
        for key, rate in rates(module).items() if kind == "Sequential" else ():
            self._rates.setdefault(key, rate)
        own, found = own_tensors(module), reader_of(type(module))
        whole = found is not None and found.reader.whole
        at, shapes_at = len(self.rows), len(self._shapes)
        if own.tensors or (found is not None and not whole):
            self.rows.append(self._layer(module, path, own, None if whole else found))
        for name, child in module._modules.items():
            if child is not None and name not in ABSORBED and name not in own.absorbed:
                self.visit(child, f"{path}.{name}" if path else name)
        if found is not None and whole:
            self.rows.insert(at, self._subtotal(module, path, found, at, shapes_at))

    def tensor(self, tensor: Any, path: str, buffer: bool = False, role: Role = "learned") -> None:
        """Add the row of a tensor that no module holds: no layer says how large it should be."""
        kind = type(tensor).__name__
        if is_lazy(tensor):
            self.rows.append(Row(path, kind, verdict="undetermined", note="waits for its size"))
            return
        own = Own([Held("", "", "buffer" if buffer else "parameter", tensor)])
        row = self._held(path, kind, own)
        note = f"sparse: {row.held:,} stored of {tensor.numel():,}" if is_sparse(tensor) else ""
        sizes = "x".join(map(str, shape_of(tensor)))
        row = dataclasses.replace(row, config=sizes, verdict="no_formula", note=note, role=role)
        # A plain tensor, as in a state dict, does not say whether it was trained.
        self.rows.append(row if kind == "Parameter" else dataclasses.replace(row, frozen=0))

    def count_unregistered(self) -> None:
        """Add a row per tensor or module that only a plain attribute, list or dict reaches."""
        for path, thing in self._loose:
            if hasattr(thing, "_modules"):
                self._loose_module(thing, path)
            elif not is_lazy(thing):
                fresh = self._ledger.claim(stored(thing), path).fresh
                if fresh:
                    self.rows.append(self._loose_row(path, type(thing).__name__, fresh, thing))

    def notes(self) -> list[str]:
        """What the reader of the report should know beside the rows."""
        notes = [f"inside {kind}: names without its prefix" for kind in self._wrapped]
        left = sum(self._optimizer.values())
        if left:
            notes.append(f"the optimizer keeps {left} scalars for tensors this model does not hold")
        return notes

    # One layer

    def _layer(self, module: Any, path: str, own: Own, found: Found | None) -> Row:
        row = self._held(path, type(module).__name__, own)
        shapes = {} if _waits(own) else own.shapes()
        prefix = f"{path}." if path else ""
        self._shapes.extend((prefix + name, shape) for name, shape in shapes.items())
        if _waits(own):
            return dataclasses.replace(
                row, verdict="undetermined", note="lazy: waits for its input's size"
            )
        if found is None:
            if row.held:
                return dataclasses.replace(row, verdict="no_formula")
            return dataclasses.replace(row, formula=NOTHING)
        row = _judge(row, module, own, found, shapes)
        if id(module) in self._rates and row.formula is not None:
            biases = sum(h.tensor.numel() for h in own.tensors if h.logical == "bias")
            active = expected_active(row.held - biases, biases, *self._rates[id(module)])
            row = dataclasses.replace(row, expected_active=active)
        return row

    def _held(self, path: str, kind: str, own: Own) -> Row:
        """The row of these tensors, without a verdict; claims their memory."""
        sums = _Sums()
        owners: dict[str, None] = {}
        dtypes: dict[str, None] = {}
        for held in own.tensors:
            if is_lazy(held.tensor):
                continue
            full = ".".join(filter(None, (path, held.name)))
            fresh, owner = self._ledger.claim(stored(held.tensor), full)
            if owner is not None:
                owners[owner] = None
                self.aliases[full] = owner
            sums.add(held, fresh)
            if held.role != "buffer":
                dtypes[str(held.tensor.dtype).removeprefix("torch.")] = None
                sums.optimizer += self._optimizer.pop(id(held.tensor), 0)
        return Row(
            path,
            kind,
            held=sums.held,
            trainable=sums.trainable,
            frozen=sums.held - sums.trainable,
            buffers=sums.buffers,
            optimizer=sums.optimizer,
            bytes=sums.bytes,
            dtype=", ".join(dtypes),
            aliased=sums.aliased,
            aliased_trainable=sums.aliased_trainable,
            aliased_buffers=sums.aliased_buffers,
            alias_of=tuple(owners),
            note=own.note,
        )

    def _subtotal(self, module: Any, path: str, found: Found, at: int, shapes_at: int) -> Row:
        below = [row for row in self.rows[at:] if not row.subtotal]
        skip = len(path) + 1 if path else 0
        shapes = {name[skip:]: shape for name, shape in self._shapes[shapes_at:]}
        row = Row(
            path,
            type(module).__name__,
            held=sum(part.held for part in below),
            trainable=sum(part.trainable for part in below),
            frozen=sum(part.frozen for part in below),
            buffers=sum(part.buffers for part in below),
            subtotal=True,
        )
        if any(part.verdict == "undetermined" for part in below):
            return dataclasses.replace(row, verdict="undetermined")
        custom = any(part.verdict in ("no_formula", "mismatch") for part in below)
        return _judge(row, module, Own(custom=custom), found, shapes)

    # A module met again, and what is not registered

    def _repeated(self, module: Any, path: str) -> Row:
        """One row for a module that was counted at an earlier path; lists its tensors' aliases."""
        first = self._seen[id(module)]
        held = trainable = buffers = 0
        for name, tensor, is_buffer in named_tensors(module):
            self.aliases[f"{path}.{name}"] = f"{first}.{name}" if first else name
            numel = 0 if is_lazy(tensor) else stored(tensor).numel()
            buffers += numel if is_buffer else 0
            held += 0 if is_buffer else numel
            trainable += numel if tensor.requires_grad and not is_buffer else 0
        return Row(
            path,
            type(module).__name__,
            held=held,
            trainable=trainable,
            frozen=held - trainable,
            buffers=buffers,
            aliased=held,
            aliased_trainable=trainable,
            aliased_buffers=buffers,
            alias_of=(first or "the model itself",),
            formula=Formula("shared", {"shared": held}),
            note="the same module as there",
        )

    def _loose_module(self, module: Any, path: str) -> None:
        if id(module) in self._seen:
            return
        self._seen[id(module)] = path
        _require_constructed(module, path)
        tensors = [*module.parameters(), *module.buffers()]
        known = [stored(t) for t in tensors if not is_lazy(t)]
        fresh = sum(self._ledger.claim(t, path).fresh for t in known)
        if fresh:
            self.rows.append(self._loose_row(path, type(module).__name__, fresh, tensors[0]))

    def _loose_row(self, path: str, kind: str, fresh: int, example: Any) -> Row:
        return Row(
            path,
            kind,
            unregistered=fresh,
            formula=NOTHING,
            dtype=str(example.dtype).removeprefix("torch."),
            verdict="no_formula",
            note="not registered: state_dict() and parameters() do not see it",
        )


def _require_constructed(module: Any, path: str) -> None:
    if not hasattr(module, "_parameters"):
        kind = type(module).__name__
        raise ParameterError(
            f"{path or kind}: {kind} has no parameters, not even an empty list of them; "
            "call super().__init__() first in its __init__"
        )


def _waits(own: Own) -> bool:
    return any(is_lazy(held.tensor) for held in own.tensors)


def _judge(
    row: Row, module: Any, own: Own, found: Found, shapes: Mapping[str, tuple[int, ...]]
) -> Row:
    """``row`` with its formula, by the layer's attributes, and the verdict."""
    try:
        count = found.reader.declared(module, shapes)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        # A layer whose parts were swapped for others (an adapter, another norm) has no formula.
        return dataclasses.replace(row, verdict="no_formula", note=f"parts replaced: {error}")
    parameters, buffers = own.adjusted(count.parameters, count.buffers)
    verdict: Verdict = "match"
    if (row.held, row.buffers) != (parameters.value, buffers.value):
        verdict = _unequal(row, module, own, found, shapes)
    return dataclasses.replace(
        row,
        config=count.config,
        formula=parameters,
        buffers_formula=buffers if buffers.value or row.buffers else None,
        keras=count.keras,
        verdict=verdict,
        note=row.note or _padding(module),
    )


def _unequal(
    row: Row, module: Any, own: Own, found: Found, shapes: Mapping[str, tuple[int, ...]]
) -> Verdict:
    """Why formula and held differ: grown tensors, a stranger's subclass, or a true mismatch."""
    if found.reader.held is not None:
        try:
            count = found.reader.held(module, shapes)
        except (KeyError, IndexError, TypeError, ValueError):
            # The tensors are not even of this family's shapes.
            count = Count(NOTHING)
        parameters, buffers = own.adjusted(count.parameters, count.buffers)
        if (row.held, row.buffers) == (parameters.value, buffers.value):
            return "stale_attr"
    return "no_formula" if own.custom or not found.exact else "mismatch"


def _padding(module: Any) -> str:
    padding = getattr(module, "padding_idx", None)
    return "" if padding is None else f"row {padding} is padding: it counts, lookups never train it"


def _optimizer_sizes(optimizer: Any) -> dict[int, int]:
    """Scalars an optimizer keeps, by the id of the parameter they belong to."""
    if optimizer is None:
        return {}
    sizes: dict[int, int] = {}
    for parameter, state in optimizer.state.items():
        values = state.values() if isinstance(state, Mapping) else ()
        sizes[id(parameter)] = sum(_scalars(value) for value in values)
    return sizes


def _scalars(value: Any) -> int:
    if hasattr(value, "numel"):
        return int(value.numel())
    return 1 if isinstance(value, int | float) and not isinstance(value, bool) else 0

"""Tells whether a model changed: a cheap signature per step, and digests of the content.

The signature says that tensors were added, replaced, resized, cast or frozen. It does not see new
values in the same tensor, and it does not look at ``_version``: fused optimizers and writes through
``.data`` pass that counter by. The digests see every bit and cost a read of every byte.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from models.base import Learner
from monitoring.parameters.counted import Counted, ParameterError
from monitoring.parameters.torch.tensors import named_tensors

Signature = tuple[tuple[str, int, tuple[int, ...], str, bool], ...]


def signature(model: Any) -> Signature:
    """``(name, id, shape, dtype, requires_grad)`` of every parameter and buffer of a torch module.

    Equal signatures in one process mean the same tensors, as long as the earlier ones are alive: an
    id may be given again after its tensor is gone. Tied tensors appear under each name.
    """
    return tuple(
        [
            (name, id(t), tuple(t.shape), str(t.dtype), t.requires_grad)
            for name, t, _ in named_tensors(model)
        ]
    )


def structure_digest(report: Counted) -> str:
    """SHA-256 over paths, types, sizes, dtypes, roles, what trains and what is aliased.

    It changes when a layer is added, grown, cast, frozen or untied, and not when values do; it is
    the same in every process.
    """
    h = hashlib.sha256()
    for r in report.rows:
        fields = (r.path, r.type, r.config, r.role, r.unit, r.held, r.trainable, r.buffers)
        for value in (*fields, r.dtype, r.aliased, r.unregistered, *r.alias_of):
            _update(h, str(value).encode())
        h.update(b"\n")
    for path, owner in sorted(report.aliases.items()):
        _update(h, path.encode())
        _update(h, owner.encode())
    return h.hexdigest()


def content_digests(model: Any) -> dict[str, str]:
    """SHA-256 per tensor over path, role, dtype, shape and little-endian bytes; by ``role:path``.

    Parameters
    ----------
    model : torch.nn.Module, models.base.Learner, or mapping of path to array
        A member's tensors are the arrays and numbers in its ``state()``; a member with a digest
        of its own is that one entry.

    Raises
    ------
    ParameterError
        For anything else, and for a tensor without values (meta device, lazy).
    """
    return {
        f"{role}:{path}": _digest(path, role, dtype, shape, raw)
        for path, role, dtype, shape, raw in _contents(model)
    }


def content_root(model: Any) -> str:
    """One SHA-256 over :func:`content_digests`, sorted: equal for equal content, in any order."""
    h = hashlib.sha256()
    for _, digest in sorted(content_digests(model).items()):
        h.update(bytes.fromhex(digest))
    return h.hexdigest()


Content = tuple[str, str, str, tuple[int, ...], bytes | memoryview]


def _contents(model: Any) -> Iterator[Content]:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module):
        for path, tensor, is_buffer in named_tensors(model):
            dtype, shape, raw = _tensor_bytes(tensor, path)
            yield path, "buffer" if is_buffer else "parameter", dtype, shape, raw
    elif isinstance(model, Learner) and type(model).digest is not Learner.digest:
        # Such a member's state holds a pickle, whose bytes differ where the content does not.
        yield "", "state", "digest", (), bytes.fromhex(model.digest())
    elif isinstance(model, Learner):
        yield from _state(model.state(), "")
    elif isinstance(model, Mapping):
        yield from _state(model, "")
    else:
        raise ParameterError(
            "content digest: expected a torch module, a member or a mapping of arrays; "
            f"got {type(model).__name__}"
        )


def _tensor_bytes(tensor: Any, path: str) -> tuple[str, tuple[int, ...], memoryview]:
    import torch

    if tensor.device.type == "meta":
        raise ParameterError(f"content digest: {path} has no values (it is on the meta device)")
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    # numpy has no bfloat16: bytes as they lie, swapped where the machine is big-endian.
    raw = flat.view(torch.uint8).numpy()
    if sys.byteorder == "big":
        raw = raw.reshape(-1, tensor.element_size())[:, ::-1]
    shape = tuple(tensor.shape)
    return str(tensor.dtype).removeprefix("torch."), shape, _memory(raw)


def _memory(array: Any) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _state(value: Any, path: str) -> Iterator[Content]:
    if isinstance(value, Mapping):
        for key in sorted(value):
            yield from _state(value[key], f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from _state(item, f"{path}[{i}]")
    elif isinstance(value, np.ndarray):
        array = np.ascontiguousarray(value)
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        yield path, "state", little.dtype.name, value.shape, _memory(little)
    elif isinstance(value, bytes):
        yield path, "state", "bytes", (len(value),), value
    elif isinstance(value, float):
        yield path, "state", "float", (), value.hex().encode()
    elif value is None or isinstance(value, bool | int | str):
        yield path, "state", type(value).__name__, (), str(value).encode()
    else:
        raise ParameterError(
            f"content digest: {path}: expected an array or a plain value, "
            f"got {type(value).__name__}"
        )


def _digest(path: str, role: str, dtype: str, shape: Iterable[int], raw: bytes | memoryview) -> str:
    h = hashlib.sha256()
    for part in (path, role, dtype, ",".join(map(str, shape))):
        _update(h, part.encode())
    h.update(raw)
    return h.hexdigest()


def _update(h: Any, raw: bytes) -> None:
    # The length in front keeps ("ab", "c") and ("a", "bc") apart.
    h.update(len(raw).to_bytes(8, "little"))
    h.update(raw)

"""The Open Inference Protocol, version 2, in JSON: what clients of KServe and Triton speak.

A shard is one model, under its own name: an input for each value of an event, by its place there,
and a few outputs. Inference is a what-if, as clients take it to change nothing; whoever says
``"parameters": {"mode": "event"}`` appends the event and waits for its score. ``api.py`` asks;
nothing here does.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import msgspec

from stream.decode.payload import encoded
from stream.http.openapi.document import event_parts
from stream.http.problem import Problem
from stream.http.recommend import now
from stream.settings.paths import place
from stream.settings.schema import Config

EVENTS = 100
"""Events in one request at most: they are asked about between two steps."""

SERVER = {"name": "millrace", "version": version("millrace"), "extensions": []}

_WHOLE = [f"{sign}INT{bits}" for sign in ("U", "") for bits in (8, 16, 32, 64)]
DATATYPES = frozenset(["BOOL", *_WHOLE, "FP16", "FP32", "FP64", "BYTES"])
"""Of the protocol."""
BINARY = "inference-header-content-length"
"""The header of a request that has tensors in binary behind its JSON."""

_DATATYPES = {bool: "BOOL", int: "INT64", float: "FP64", str: "BYTES"}


class Tensor(msgspec.Struct):
    """One value of each of ``n`` events: ``shape`` ``[n]`` or ``[n, 1]``."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]
    parameters: dict[str, Any] = {}


class Wanted(msgspec.Struct):
    """An output that is asked for."""

    name: str
    parameters: dict[str, Any] = {}


class Asked(msgspec.Struct):
    """A request for inference; without ``outputs`` all are wanted."""

    inputs: list[Tensor]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[Wanted] = []

    @property
    def appends(self) -> bool:
        """Whether the event is to be appended; raises :class:`Problem` for a mode there is not."""
        mode = self.parameters.get("mode", "what-if")
        if mode not in ("what-if", "event"):
            raise _invalid(f"parameters.mode: expected 'what-if' or 'event', got {mode!r}")
        return bool(mode == "event")


class Inference:
    """One configuration's model.

    Parameters
    ----------
    config : Config
        Of a shard that scores events.
    newest_ms : callable
        The newest event time scored; 0 before the first.
    """

    def __init__(self, config: Config, newest_ms: Callable[[], int] = lambda: 0) -> None:
        self._config, self._newest_ms = config, newest_ms
        self._parts = {part.name: part for part in event_parts(config)}
        self._members = [member.name for member in config.members]
        said = "BYTES" if config.target.type == "classes" else "FP64"
        self._outputs = {
            "id": ("BYTES", [-1]),
            "score": ("FP64", [-1]),
            "alert": ("BOOL", [-1]),
            **({"prediction": ("BYTES", [-1])} if said == "BYTES" else {}),
            "members": (said, [-1, len(self._members)]),
            **({"reasons": ("BYTES", [-1])} if config.reasons is not None else {}),
        }

    def metadata(self) -> dict[str, Any]:
        """What the model takes and gives; ``members`` names those of the columns."""
        inputs = [
            {"name": p.name, "datatype": _DATATYPES[type(p.example)], "shape": [-1]}
            | ({} if p.needed else {"optional": True})
            for p in self._parts.values()
        ]
        outputs = [
            {"name": name, "datatype": kind, "shape": shape}
            for name, (kind, shape) in self._outputs.items()
        ]
        told = {"name": self._config.name, "platform": "millrace"}
        return told | {"inputs": inputs, "outputs": outputs, "members": self._members}

    def asked(self, body: bytes) -> tuple[Asked, list[bytes]]:
        """A request, and its events as JSON; raises :class:`Problem`.

        An ``id`` or a time that is left out is a new one, and now.
        """
        try:
            asked = msgspec.json.decode(body, type=Asked)
        except (msgspec.MsgspecError, RecursionError) as error:
            wrong = isinstance(error, msgspec.ValidationError)
            raise Problem("invalid" if wrong else "malformed", str(error)) from error
        columns: dict[str, list[Any]] = {}
        for tensor in asked.inputs:
            if tensor.name in columns:
                raise _invalid(f"inputs: expected each once, got {tensor.name[:80]!r} again")
            columns[tensor.name] = _column(tensor)
        if unknown := sorted({*columns} - {*self._parts}):
            raise _invalid(f"inputs: expected some of {', '.join(self._parts)}; got {unknown[0]!r}")
        if unknown := sorted({w.name for w in asked.outputs} - {*self._outputs}):
            known = ", ".join(self._outputs)
            raise _invalid(f"outputs: expected some of {known}; got {unknown[0]!r}")
        sizes = {len(column) for column in columns.values()}
        if len(sizes) != 1 or not 1 <= (n := sizes.pop()) <= EVENTS:
            raise _invalid(f"inputs: expected tensors of one length of 1..{EVENTS}")
        if n > 1 and asked.appends:
            raise _invalid(f"parameters.mode: expected one event where it is appended, got {n}")
        return asked, [self._event({k: c[i] for k, c in columns.items()}) for i in range(n)]

    def _event(self, given: Mapping[str, Any]) -> bytes:
        """The event with the given values, and those that a server may choose."""
        event = self._config.event
        chosen = {place(event.id): lambda: str(uuid.uuid4()), place(event.time): self._now}
        values = [(self._parts[name].place, value) for name, value in given.items()]
        left_out = (part for name, part in self._parts.items() if name not in given)
        for part in left_out:
            if part.place in chosen:
                values.append((part.place, chosen[part.place]()))
            elif part.envelope:
                values.append((part.place, part.example))
        return encoded(values)

    def _now(self) -> Any:
        return now(self._config, self._newest_ms())

    def answer(self, asked: Asked, answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The answer to a request, of score records or what-ifs of its events, in order."""
        names, n = [w.name for w in asked.outputs] or list(self._outputs), len(answers)
        outputs = []
        for name in names:
            kind, shape = self._outputs[name]
            if name == "members":
                data = [row[name].get(m, "") for row in answers for m in self._members]
            elif name == "reasons":
                told = [row.get(name) for row in answers]
                data = ["" if why is None else msgspec.json.encode(why).decode() for why in told]
            else:
                data = ["" if row[name] is None else row[name] for row in answers]
            outputs.append({"name": name, "datatype": kind, "shape": [n, *shape[1:]], "data": data})
        model = {"model_name": self._config.name, "model_version": str(answers[0]["seq"])}
        return model | ({"id": asked.id} if asked.id else {}) | {"outputs": outputs}


def _column(tensor: Tensor) -> list[Any]:
    """The values of a tensor of shape ``[n]`` or ``[n, 1]``, which may come nested."""
    if tensor.datatype not in DATATYPES:
        known = ", ".join(sorted(DATATYPES))
        raise _invalid(
            f"inputs: {tensor.name[:80]!r}: expected a datatype of {known}; got "
            f"{tensor.datatype[:20]!r}"
        )
    shape, data = tensor.shape, tensor.data
    if len(shape) == 2 and all(isinstance(row, list) and len(row) == 1 for row in data):
        data = [row[0] for row in data]
    if len(shape) not in (1, 2) or shape[1:] not in ([], [1]) or shape[0] != len(data):
        raise _invalid(
            f"inputs: {tensor.name[:80]!r}: expected shape [n] or [n, 1] of n values, got {shape} "
            f"of {len(data)}"
        )
    return data


def _invalid(detail: str) -> Problem:
    return Problem("invalid", detail)

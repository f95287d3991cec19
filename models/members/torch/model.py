"""A torch network as a member: a built-in one, or any ``nn.Module`` that the configuration names.

The only module that imports torch. Never uses ``torch.load`` or pickle: the state is plain arrays.
Touches no global random generator: dropout draws from a generator state that is part of the member.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn

from models.base import (
    F64,
    FeatureBatch,
    FeatureSchema,
    MillraceError,
    Model,
    Parameter,
    Role,
    State,
    StateError,
)
from models.loading import LoadError, load_attribute
from models.members.torch.standardise import Standardiser
from models.prior import MeanPrior
from models.settings import Settings, refused
from models.task import BINARY, Task


class TorchError(MillraceError):
    """A module cannot do what a member must do."""


class TorchParams(Settings):
    """Parameters of ``type = "torch"``."""

    module: str | None = Field(
        None,
        description="`package.module:attr` or `path/to/file.py:attr`: an `nn.Module` class or a"
        " factory; gets `n_dense`, `hashed_buckets` and `outputs` if it takes them;"
        " `forward(dense[, hashed])` gives `(n,)` or `(n, 1)` logits or numbers, `(n, outputs)` of"
        " classes. Default: the built-in network",
    )
    parameters: dict[str, Any] = Field({}, description="further arguments of `module`")
    hidden: tuple[Annotated[int, Field(ge=1, le=65536)], ...] = Field(
        (32, 16), description="widths of the built-in network's layers, 1..65536 each"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="of the built-in network")
    embedding_dim: int = Field(
        8, ge=1, le=256, description="of the built-in network, for each hashed column"
    )
    optimizer: Literal["adam", "adamw", "sgd"] = Field("adam", description="with torch's defaults")
    learning_rate: float = Field(0.001, gt=0)
    micro_batch: int = Field(
        32, ge=1, le=65536, description="rows in one optimizer step; what remains is a smaller one"
    )
    epochs: int = Field(1, ge=1, le=100, description="passes over the rows of one call")
    standardise: bool = Field(
        True, description="dense inputs become (v - mean) / deviation, over the rows learned"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.module is None:
            if self.parameters:
                raise refused(("parameters",), "expected only beside `module`", self.parameters)
            return self
        for key in ("hidden", "dropout", "embedding_dim"):
            if key in self.model_fields_set:
                problem = "expected only without `module`: it is of the built-in network"
                raise refused((key,), problem, getattr(self, key))
        try:
            if not callable(load_attribute(self.module)):
                raise refused(("module",), "expected a class or a function", self.module)
        except LoadError as error:
            raise refused(("module",), str(error), self.module) from error
        return self


_OPTIMIZERS: dict[str, Any] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}


class TorchModel(Model):
    """One network, trained by micro-batches in the order of the rows.

    Each step minimises ``mean(w * BCE(logit, y))`` over its rows. A step whose loss or gradient is
    not finite (or too large to be squared) is left out and counted in :attr:`skipped`.

    Runs on one thread with torch's deterministic algorithms, both set for the time of a call only:
    sums that are split over threads give other bits. A score's last bits may depend on the number
    of rows scored together, and training on how rows are cut into calls: a replay repeats both.
    A module with batch normalisation cannot learn a single row; give it a ``LayerNorm``.

    The built-in network scores 0 until it has learned a row: its random weights on raw inputs gave
    0.99, and alerts, for as long as labels were on their way. A module of one's own may have been
    trained before, and is believed.
    """

    Params = TorchParams

    def __init__(
        self, params: TorchParams, schema: FeatureSchema, seed: int, task: Task = BINARY
    ) -> None:
        self._params = params
        self._task = task
        self._name = params.module or "the built-in network"
        self._rng = torch.Generator().manual_seed(seed & (2**64 - 1)).get_state()
        self.skipped = 0
        self._ready = params.module is not None
        self._standardiser = Standardiser(len(schema.dense))
        with self._own_world():
            self._module = _build(params, schema, task.k)
        self._reads_hashed = _positional(self._module.forward) >= 2
        trained = [p for p in self._module.parameters() if p.requires_grad]
        if not trained:
            raise TorchError(f"{self._name}: expected parameters to train, got none")
        optimizer = _OPTIMIZERS[params.optimizer]
        self._optimizer = optimizer(trained, lr=params.learning_rate)
        hashed = np.zeros((2, len(schema.hashed)), np.uint32)
        self.score(FeatureBatch(schema, np.zeros((2, len(schema.dense)), np.float32), hashed))
        self.state()

    def score(self, x: FeatureBatch) -> F64:
        """See :meth:`models.base.Model.score`: one forward pass, without dropout."""
        with self._own_world(keep=False), torch.inference_mode():
            self._module.eval()
            outputs = self._forward(*self._inputs(x)).numpy().astype(np.float64)
        links = self._links(outputs.reshape(len(x), self._task.k))
        return links if self._ready else np.zeros_like(links)

    def _links(self, outputs: F64) -> F64:
        """The links of the module's outputs ``(n, k)``."""
        return outputs

    def _loss(self, outputs: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
        """What a step makes small."""
        return nn.functional.binary_cross_entropy_with_logits(outputs, truth, weight)

    def _observe(self, y: F64, w: F64) -> None:
        """Take truths in before they are learned."""

    def _wanted(self, y: F64) -> F64:
        """What the module should give for these truths."""
        return y

    def learn(self, x: FeatureBatch, y: F64, w: F64) -> None:
        """See :meth:`models.base.Model.learn`; rows of weight 0 are left out."""
        rows = np.flatnonzero(w > 0)
        self._ready |= len(rows) > 0
        with self._own_world():
            self._module.train()
            for epoch in range(self._params.epochs):
                for start in range(0, len(rows), self._params.micro_batch):
                    chunk = rows[start : start + self._params.micro_batch]
                    if epoch == 0:
                        self._observe(y[chunk], w[chunk])
                    if epoch == 0 and self._params.standardise:
                        self._standardiser.update(x.dense[chunk])
                    self._step(x.take(chunk), y[chunk], w[chunk])

    def _step(self, x: FeatureBatch, y: F64, w: F64) -> None:
        truth, weight = (torch.from_numpy(a).to(torch.float32) for a in (self._wanted(y), w))
        self._optimizer.zero_grad()
        logits = self._forward(*self._inputs(x))
        loss = self._loss(logits, truth, weight)
        loss.backward()
        gradients = [p.grad for p in self._module.parameters() if p.grad is not None]
        # Squares: a gradient whose square overflows would silence Adam's second moment for good.
        squares = torch.stack([g.square().sum() for g in (loss.detach(), *gradients)])
        if bool(torch.isfinite(squares).all()):
            self._optimizer.step()
        else:
            self.skipped += 1

    def _inputs(self, x: FeatureBatch) -> tuple[Tensor, Tensor]:
        dense = x.dense.astype(np.float64)
        if self._params.standardise:
            dense = self._standardiser.transform(dense)
        # ``to`` copies into memory aligned by torch: what BLAS computes may depend on alignment.
        return (
            torch.from_numpy(dense).to(torch.float32),
            torch.from_numpy(x.hashed.astype(np.int64)),
        )

    def _forward(self, dense: Tensor, hashed: Tensor) -> Tensor:
        logits = self._module(dense, hashed) if self._reads_hashed else self._module(dense)
        n, k = len(dense), self._task.k
        shapes: tuple[tuple[int, ...], ...] = ((n,), (n, 1)) if k == 1 else ((n, k),)
        if not isinstance(logits, Tensor) or logits.shape not in shapes:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise TorchError(f"{self._name}: expected logits of shape {shapes[0]}, got {shape}")
        return logits.reshape(shapes[0]).to(torch.float32)

    @contextlib.contextmanager
    def _own_world(self, keep: bool = True) -> Iterator[None]:
        """This member's generator, one thread and deterministic algorithms; then all as before.

        ``keep``: the generator goes on from here (scoring leaves it as it was).

        Threads and algorithms are settings of the whole process. They are set on the engine's
        thread only while it computes, and one service process runs one engine.
        """
        threads = torch.get_num_threads()
        strict = torch.are_deterministic_algorithms_enabled()
        before = torch.default_generator.get_state()
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
        torch.default_generator.set_state(self._rng)
        try:
            yield
        finally:
            if keep:
                self._rng = torch.default_generator.get_state()
            torch.default_generator.set_state(before)
            torch.use_deterministic_algorithms(strict)
            torch.set_num_threads(threads)

    def parameters(self) -> Sequence[Parameter]:
        """Parameters and buffers by their names in the module, then optimizer and inputs."""
        rows = []
        for name, p in self._module.named_parameters():
            rows.append(_row(name, "learned", p, p.requires_grad))
        for name, b in self._module.named_buffers():
            rows.append(_row(name, "statistic", b))
        for name, kept in self._optimizer_tensors().items():
            rows += [_row(f"optimizer.{name}.{k}", "optimizer", v) for k, v in kept.items()]
        if self._params.standardise:
            rows += self._standardiser.parameters("standardiser")
        return [*rows, _row("rng", "rng", self._rng, False)]

    def tensors(self) -> dict[str, NDArray[Any]]:
        """See :meth:`models.base.Model.tensors`: the parameters that are trained."""
        named = self._module.named_parameters()
        return {name: p.detach().numpy() for name, p in named if p.requires_grad}

    def counted(self) -> nn.Module:
        """See :meth:`models.base.Model.counted`: the module."""
        return self._module

    def _tensors(self) -> dict[str, Tensor]:
        return {**dict(self._module.named_parameters()), **dict(self._module.named_buffers())}

    def _optimizer_tensors(self) -> dict[str, dict[str, Tensor]]:
        """Parameter name to what the optimizer keeps for it (nothing before its first step)."""
        kept = {}
        for name, p in self._module.named_parameters():
            state = self._optimizer.state.get(p, {})
            kept[name] = {k: v for k, v in sorted(state.items()) if isinstance(v, Tensor)}
        return {name: tensors for name, tensors in kept.items() if tensors}

    def state(self) -> State:
        """Every tensor as an array: module, optimizer, generator; the inputs' statistics."""
        return {
            "format": 1,
            "module": {name: _array(t) for name, t in self._tensors().items()},
            "optimizer": {
                name: {k: _array(v) for k, v in kept.items()}
                for name, kept in self._optimizer_tensors().items()
            },
            "rng": _array(self._rng),
            "standardiser": self._standardiser.state(),
            "skipped": self.skipped,
            "ready": self._ready,
        }

    def restore(self, state: State) -> None:
        """See :meth:`models.base.Model.restore`; names, shapes and types must all fit."""
        tensors = self._tensors()
        if state.get("format") != 1 or list(state["module"]) != list(tensors):
            raise StateError(
                f"{self._name}: expected format 1 and tensors {', '.join(tensors)}; got format"
                f" {state.get('format')!r} and {', '.join(state.get('module', ()))}"
            )
        named = dict(self._module.named_parameters())
        fresh = {name: _fitting(name, state["module"][name], t) for name, t in tensors.items()}
        kept: dict[Tensor, dict[str, Tensor]] = {}
        for name, arrays in state["optimizer"].items():
            if name not in named:
                raise StateError(f"{self._name}: optimizer: {name!r} is no parameter of it")
            kept[named[name]] = {
                k: torch.from_numpy(np.array(a))
                if a.ndim == 0
                else _fitting(f"optimizer.{name}.{k}", a, named[name])
                for k, a in arrays.items()
            }
        self._standardiser.restore(state["standardiser"])
        self._rng = _fitting("rng", state["rng"], self._rng)
        with torch.no_grad():
            for name, t in tensors.items():
                t.copy_(fresh[name])
        self._optimizer.state.clear()
        self._optimizer.state.update(kept)
        self.skipped = int(state["skipped"])
        self._ready = bool(state["ready"])


class TorchClassModel(TorchModel):
    """One network of ``k`` logits: each step minimises the mean of ``w * cross_entropy``."""

    def _loss(self, outputs: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
        losses = nn.functional.cross_entropy(outputs, truth.to(torch.int64), reduction="none")
        return (weight * losses).mean()


class TorchNumberModel(TorchModel):
    """One network of a number: each step minimises the mean of ``w * (z - t)^2``.

    ``t`` is the truth less the mean of those so far, over their deviation, and so is what the
    network gives: one learning rate does for minutes and for millions.
    """

    def __init__(
        self, params: TorchParams, schema: FeatureSchema, seed: int, task: Task = BINARY
    ) -> None:
        self._truths = MeanPrior()
        super().__init__(params, schema, seed, task)

    def _observe(self, y: F64, w: F64) -> None:
        self._truths.learn(y, w)

    def _links(self, outputs: F64) -> F64:
        return self._truths.output() + self._truths.scale * outputs

    def _loss(self, outputs: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
        return (weight * (outputs - truth).square()).mean()

    def _wanted(self, y: F64) -> F64:
        return (y - self._truths.output()) / self._truths.scale

    def parameters(self) -> list[Parameter]:
        """Those of the network, and what is known of the truths."""
        known = self._truths.state()
        return [
            *super().parameters(),
            *(
                Parameter(f"truths.{name}", "statistic", a.shape, "float64", a.size, a.nbytes)
                for name, a in known.items()
            ),
        ]

    def state(self) -> State:
        """See :meth:`models.base.Model.state`."""
        return super().state() | {"truths": self._truths.state()}

    def restore(self, state: State) -> None:
        """See :meth:`models.base.Model.restore`."""
        super().restore(state)
        self._truths.restore(state["truths"])


class Network(nn.Module):
    """Dense columns and one embedding for each hashed column, through ReLU layers, to links.

    Parameters
    ----------
    n_dense : int
        Number of dense columns.
    hashed_buckets : sequence of int
        Number of codes of each hashed column; each gets a table of that many rows.
    hidden : sequence of int
        Widths of the hidden layers; none gives a linear model.
    dropout : float
        Share of each hidden layer's outputs that is dropped while learning.
    embedding_dim : int
        Columns of each embedding table.
    outputs : int
        Links of a score.
    """

    def __init__(
        self,
        n_dense: int,
        hashed_buckets: Sequence[int],
        hidden: Sequence[int] = (32, 16),
        dropout: float = 0.0,
        embedding_dim: int = 8,
        outputs: int = 1,
    ) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(b, embedding_dim) for b in hashed_buckets)
        width = n_dense + embedding_dim * len(hashed_buckets)
        layers: list[nn.Module] = []
        for size in hidden:
            layers += [nn.Linear(width, size), nn.ReLU(), nn.Dropout(dropout)]
            width = size
        self.layers = nn.Sequential(*layers, nn.Linear(width, outputs))

    def forward(self, dense: Tensor, hashed: Tensor) -> Tensor:
        """``dense`` float32 ``(n, d)``, ``hashed`` int64 ``(n, k)`` to links ``(n, outputs)``."""
        embedded = [table(hashed[:, j]) for j, table in enumerate(self.embeddings)]
        logits: Tensor = self.layers(torch.cat([dense, *embedded], dim=1))
        return logits


def _build(params: TorchParams, schema: FeatureSchema, outputs: int) -> nn.Module:
    """The module, on the processor, in float32 or float64."""
    sizes: dict[str, Any] = {
        "n_dense": len(schema.dense),
        "hashed_buckets": tuple(column.buckets for column in schema.hashed),
        "outputs": outputs,
    }
    if params.module is None:
        return Network(**sizes, **params.model_dump(include={"hidden", "dropout", "embedding_dim"}))
    factory = load_attribute(params.module)
    accepted = inspect.signature(factory).parameters
    wanted = {k: v for k, v in sizes.items() if k in accepted}
    try:
        module = factory(**{**wanted, **params.parameters})
    except Exception as error:  # a user's code may raise anything
        raise TorchError(f"{params.module} cannot be built: {error}") from error
    if not isinstance(module, nn.Module):
        raise TorchError(f"{params.module}: expected an nn.Module, got {type(module).__name__}")
    return module


def _positional(function: Any) -> int:
    """How many positional arguments ``function`` takes."""
    kinds = [p.kind for p in inspect.signature(function).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return 2
    named = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(kind in named for kind in kinds)


def _array(t: Tensor) -> np.ndarray[Any, Any]:
    try:
        return t.detach().cpu().numpy().copy()
    except (TypeError, RuntimeError) as error:
        raise TorchError(f"expected tensors that numpy can hold, got {t.dtype}: {error}") from error


def _fitting(name: str, array: Any, like: Tensor) -> Tensor:
    """``array`` as a tensor of its own; raises unless shape and type are those of ``like``."""
    wanted = _array(like)
    if not isinstance(array, np.ndarray) or (array.shape, array.dtype) != (
        wanted.shape,
        wanted.dtype,
    ):
        raise StateError(
            f"{name}: expected an array {wanted.dtype} {wanted.shape}, got {array!r:.60}"
        )
    return torch.from_numpy(array.copy()).clone()


def _row(path: str, role: Role, t: Tensor, trainable: bool = True) -> Parameter:
    dtype = str(t.dtype).removeprefix("torch.")
    size = t.numel()
    return Parameter(path, role, tuple(t.shape), dtype, size, size * t.element_size(), trainable)

"""What the compiled members share: checked arguments, one kernel for scoring and learning, state.

A compiled member is a bundle of numpy arrays (a ``NamedTuple``) and one Numba kernel that walks the
rows in order. Scoring, learning, and scoring each row before learning it are the same walk with
other switches, so the three can never disagree. Kernels have explicit signatures: they are compiled
when the member's module is imported (or loaded from Numba's cache) and never within the stream.
They use no ``fastmath``: a replay must give the same bits. Nothing here draws randomness.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Annotated, Any, ClassVar

import numba
import numpy as np
from numba import boolean, float32, float64, int64, uint32, void
from numpy.typing import NDArray
from pydantic import Field

from models.base import (
    F32,
    F64,
    U32,
    FeatureBatch,
    FeatureSchema,
    Model,
    Parameter,
    Role,
    State,
    StateError,
    contiguous,
)
from models.kernels.common import LEARN, SCORE
from models.kernels.trees import used_part
from models.members.weights import by_class
from models.settings import Settings
from models.task import BINARY, Task

NONE = np.zeros(0)


class WeightedSettings(Settings):
    """Parameters of a member that can weigh classes."""

    class_weights: dict[str, Annotated[float, Field(gt=0, le=1000)]] = Field(
        {},
        description="how many rows a row of each class counts for, by the label's value; "
        "1 for the others; scores are corrected for it",
    )


def explaining(arrays: Any) -> Any:
    """The type of a kernel ``(dense, hashed, exact, arrays, out, told)`` for bundles like this."""
    rows = (float32[:, ::1], uint32[:, ::1])
    return void(*rows, boolean, numba.typeof(arrays), float64[::1], float64[:, ::1])


def signature(arrays: Any) -> Any:
    """The type of a kernel ``(dense, hashed, y, w, out, mode, arrays)`` for bundles like this.

    ``out`` is flat: the links of a row stand side by side.
    """
    rows = float64[::1]
    return void(float32[:, ::1], uint32[:, ::1], rows, rows, rows, int64, numba.typeof(arrays))


class CompiledModel(Model):
    """A member whose whole life is a bundle of arrays and one kernel.

    What a class counts for is weighed before the kernel: it sees rows as often as their class
    weighs, and the logarithm of that weight is taken off the class's link after it.

    Subclasses set ``_kernel``, ``_arrays`` (the bundle), and name in ``_roles`` the arrays that are
    state (``"bins.edge"``: of a bundle within), each with its role in the parameter table.
    """

    _kernel: ClassVar[Any]
    _explain: ClassVar[Any] = None
    """The kernel ``(dense, hashed, exact, arrays, out, told)``: scores rows, in the same bits as
    ``_kernel``, and adds to ``told`` what columns do to them."""
    _roles: ClassVar[dict[str, Role]]
    _version: ClassVar[int] = 1
    _learning: ClassVar[tuple[str, ...]] = ()
    """Arrays of the state that no score reads: what the next split or drift is decided by."""
    unlocked_us = 0.3
    apart = True

    def __init__(
        self,
        schema: FeatureSchema,
        arrays: Any,
        task: Task = BINARY,
        class_weights: Mapping[str, float] | None = None,
    ) -> None:
        self._dense = len(schema.dense)
        self._hashed = len(schema.hashed)
        self._k = task.k
        self._task = task
        self._by_class, self._weighed = dict(class_weights or {}), -1
        self._class_weights = np.ones(max(task.k, 2)) if class_weights else None
        self._weigh()
        self._arrays = arrays

    def _weigh(self) -> None:
        """What each class counts for, in place: anew wherever others entered since."""
        if self._class_weights is not None and self._weighed != (n := len(self._task.names)):
            self._class_weights[:] = by_class("class_weights", self._by_class, self._task)
            self._weighed = n

    def score(self, x: FeatureBatch) -> F64:
        """See :meth:`models.base.Model.score`; a row's score does not depend on its neighbours."""
        return self._walk(x, NONE, NONE, SCORE)

    def learn(self, x: FeatureBatch, y: F64, w: F64) -> None:
        """See :meth:`models.base.Model.learn`; ``n`` rows at once equal ``n`` single calls."""
        self._walk(x, y, w, LEARN)

    def score_learn(self, x: FeatureBatch, y: F64, w: F64) -> F64:
        """Score each row, then learn it: ``(n, 1)`` strictly prequential scores in one pass."""
        return self._walk(x, y, w, SCORE | LEARN)

    def _rows(self, x: FeatureBatch) -> tuple[F32, U32]:
        """Check what a kernel cannot, since out-of-range columns would be read as memory."""
        n = len(x)
        dense = contiguous(x.dense, np.float32)
        hashed = contiguous(x.hashed, np.uint32)
        if dense.shape != (n, self._dense) or hashed.shape != (n, self._hashed):
            raise ValueError(
                f"{type(self).__name__}: expected {self._dense} dense and {self._hashed} hashed "
                f"columns, got {dense.shape} and {hashed.shape}; build the batch from its schema"
            )
        return dense, hashed

    def contributions(self, x: FeatureBatch, exact: bool) -> F64 | None:
        """See :meth:`models.base.Model.contributions`: by the member's own kernel, if it has one.

        Weights of classes shift every link alike.
        """
        return None if self._explain is None else self._told(x, exact)[1]

    def telling(self, x: FeatureBatch) -> tuple[F64, F64 | None]:
        """See :meth:`models.base.Model.telling`: one pass of the member's kernel for it."""
        if self._explain is None:
            return self.score(x), None
        links, told = self._told(x, exact=False)
        return self._corrected(links), told

    def _told(self, x: FeatureBatch, exact: bool) -> tuple[F64, F64]:
        """Links ``(n, 1)`` as the kernel knows them, and what columns do to them."""
        links, told = np.zeros((len(x), 1)), np.zeros((len(x), self._dense + self._hashed))
        type(self)._explain(*self._rows(x), exact, self._arrays, links.reshape(-1), told)
        return links, told

    def _corrected(self, links: F64) -> F64:
        """The kernel's links, in place, without what classes were weighed with."""
        self._weigh()
        if self._class_weights is not None:
            offset = np.log(self._class_weights)
            links -= offset if self._k > 1 else offset[1] - offset[0]
        return links

    def _walk(self, x: FeatureBatch, y: F64, w: F64, mode: int) -> F64:
        n, (dense, hashed) = len(x), self._rows(x)
        rows = n if mode & LEARN else 0
        y, w = (contiguous(a, np.float64) for a in (y, w))
        if y.shape != (rows,) or w.shape != (rows,):
            raise ValueError(
                f"{type(self).__name__}: expected y and w of shape ({rows},), "
                f"got {y.shape} and {w.shape}"
            )
        self._weigh()
        if self._class_weights is not None and rows:
            w = w * self._class_weights[y.astype(np.int64)]
        out = np.zeros(n * self._k if mode & SCORE else 0)
        type(self)._kernel(dense, hashed, y, w, out, mode, self._arrays)
        return self._corrected(out.reshape(-1, self._k))

    def parameters(self) -> Sequence[Parameter]:
        """One row for each array of the state, in the order of the bundle."""
        return list(table(self._roles, self._used()))

    def _used(self) -> dict[str, NDArray[Any]]:
        """The state's arrays, cut to the part in use; views."""
        return {name: self._held(name) for name in self._roles}

    def tensors(self) -> dict[str, NDArray[Any]]:
        """See :meth:`models.base.Model.tensors`: learned arrays of the bundle itself, whole; the
        bundles within it are trees and bins."""
        return {
            name: self._held(name)
            for name, role in self._roles.items()
            if role == "learned" and "." not in name
        }

    def _held(self, name: str) -> NDArray[Any]:
        held: NDArray[Any] = attrgetter(name)(self._arrays)
        return held

    def state(self) -> State:
        """See :meth:`models.base.Model.state`: the arrays in use, copied."""
        return {k: a.copy() if k in self._roles else a for k, a in self._digested().items()}

    def _digested(self) -> State:
        return {"version": self._version, **self._used()}

    def view(self) -> State:
        """See :meth:`models.base.Learner.view`: without what only learning reads."""
        used = {k: a for k, a in self._used().items() if k not in self._learning}
        return {"version": self._version, **{k: a.copy() for k, a in used.items()}}

    def restore(self, state: State) -> None:
        """See :meth:`models.base.Model.restore`."""
        self._take(state, tuple(self._roles))

    def restore_view(self, view: State) -> None:
        """See :meth:`models.base.Learner.restore_view`."""
        self._take(view, tuple(name for name in self._roles if name not in self._learning))

    def _take(self, state: State, names: tuple[str, ...]) -> None:
        """Take over the named arrays."""
        self._check(state, names)
        for name in names:
            copy_prefix(self._held(name), state[name])

    def _check(self, state: State, names: tuple[str, ...]) -> None:
        """Raise :class:`StateError` unless these arrays of ``state`` fit into the bundle."""
        who = type(self).__name__
        if state.get("version") != self._version:
            raise StateError(
                f"{who}: expected state version {self._version}, got {state.get('version')!r}"
            )
        for name in names:
            have, got = self._held(name), state.get(name)
            if not isinstance(got, np.ndarray) or got.dtype != have.dtype:
                raise StateError(
                    f"{who}.{name}: expected an array of {have.dtype}, got {got!r:.60}"
                )
            if not self._fits(name, got.shape, have.shape):
                raise StateError(
                    f"{who}.{name}: expected shape {have.shape}, got {got.shape}; "
                    "the state is of a member with other columns or sizes"
                )

    def _fits(self, name: str, got: tuple[int, ...], have: tuple[int, ...]) -> bool:
        """Whether an array of shape ``got`` can be restored into one of shape ``have``."""
        return got == have


class TreeModel(CompiledModel):
    """A member of trees in an arena (``models/kernels/trees.py``), named ``trees`` in its bundle.

    Its state holds the arena up to the furthest node and leaf ever in use.
    """

    _version = 2  # 1: histograms by the bins' ids
    _by_leaf: ClassVar[tuple[str, ...]] = ()
    """Arrays of the bundle beside the arena that have a row for each leaf."""

    def __init__(
        self,
        schema: FeatureSchema,
        arrays: Any,
        task: Task = BINARY,
        class_weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(schema, arrays, task, class_weights)
        # The kernel plants the trees: a helper called from here would be compiled for it alone.
        nothing = np.zeros((0, len(schema.dense)), np.float32)
        codes = np.zeros((0, len(schema.hashed)), np.uint32)
        self.learn(FeatureBatch(schema, nothing, codes), NONE, NONE)

    def _used(self) -> dict[str, NDArray[Any]]:
        used = used_part(self._arrays.trees)
        cut = {f"trees.{name}": end for name, end in used.items()}
        cut |= dict.fromkeys(self._by_leaf, used["known"])
        return {name: a[: cut.get(name)] for name, a in super()._used().items()}

    def _fits(self, name: str, got: tuple[int, ...], have: tuple[int, ...]) -> bool:
        if name.startswith("trees.") or name in self._by_leaf:
            return got[1:] == have[1:] and got[0] <= have[0]
        return got == have


def copy_prefix(target: NDArray[Any], source: NDArray[Any]) -> None:
    """Copy ``source`` into the first rows of ``target`` and zero the rest."""
    target[: len(source)] = source
    target[len(source) :] = 0


def table(roles: dict[str, Role], arrays: dict[str, NDArray[Any]]) -> Iterable[Parameter]:
    """Parameter rows of these arrays; a generator's state is no parameter that learning trains."""
    for name, role in roles.items():
        a = arrays[name]
        trainable = role not in ("hyper", "rng")
        yield Parameter(name, role, a.shape, str(a.dtype), a.size, a.nbytes, trainable)

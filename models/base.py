"""The contract between features, members and the engine: typed columns in, link scores out.

Everything under ``models/`` meets here and nothing here knows of Kafka, HTTP or Prometheus. The
engine (``stream/step/engine.py``) calls these types; members implement :class:`Model`. Nothing in
this package reads a clock, does I/O or draws an unseeded random number.
"""

from __future__ import annotations

import hashlib
import struct
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

BOOL = NDArray[np.bool_]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]

State = dict[str, Any]
"""What a part hands to a checkpoint: a tree of ``dict`` (string keys), ``list``, ``str``,
``bytes``, ``int``, ``float``, ``bool``, ``None`` and numpy arrays. Arrays are copies: the caller
may write them to disk while the part goes on changing.

It is what the part knows, never how it is set: a part built under other settings takes it over and
goes by its own limits, seeds and thresholds. What belongs to a member or a column stands beside its
name: a fresh part restores what the state tells of the names that the part has, starts anew with
the others, and raises :class:`StateError` where what is told does not fit."""

Role = Literal[
    "learned", "statistic", "optimizer", "control", "hyper", "rng", "raw_sample", "opaque"
]


class MillraceError(Exception):
    """Root of every error this program raises on purpose.

    ``retriable`` says whether the same call may succeed later without anybody's doing.
    """

    retriable = False


class StateError(MillraceError):
    """A state does not fit the part that should restore it (other shape, version or type)."""


class OtherVersion(StateError):
    """A state is whole, but of another version of a library: that version can restore it."""


class HashedColumn(NamedTuple):
    """A categorical column: values are ``0 <= code < buckets``."""

    name: str
    buckets: int


@dataclass(frozen=True, slots=True)
class FeatureSchema:
    """Names of a :class:`FeatureBatch`'s columns, in order; fixed for the life of a model."""

    dense: tuple[str, ...]
    hashed: tuple[HashedColumn, ...] = ()


@dataclass(frozen=True, slots=True)
class FeatureBatch:
    """The features of ``n`` events, as columns.

    Parameters
    ----------
    schema : FeatureSchema
    dense : float32 array ``(n, d)``
        Finite always: missing numbers were imputed by the feature stage.
    hashed : uint32 array ``(n, k)``
        Codes of the categorical columns, ``0 <= code < buckets``.
    """

    schema: FeatureSchema
    dense: F32
    hashed: U32

    def __len__(self) -> int:
        return len(self.dense)

    def take(self, rows: NDArray[Any] | slice) -> FeatureBatch:
        """The given rows, in the given order."""
        return FeatureBatch(self.schema, self.dense[rows], self.hashed[rows])


@dataclass(frozen=True, slots=True)
class EventColumns:
    """``n`` decoded events, as columns: what the codec hands to the feature stage.

    Parameters
    ----------
    event_time_ms : int64 array ``(n,)``
        UTC milliseconds since the epoch.
    numbers : mapping of field name to float64 array ``(n,)``
        Numbers and booleans (0 or 1); ``nan`` where the field was missing or null.
    categories : mapping of field name to uint64 array ``(n,)``
        xxh3-64 of the UTF-8 text; 0 where missing.
    entities : mapping of field name to uint64 array ``(n,)``
        xxh3-64 of the UTF-8 text of the entity's key; 0 where missing (no window is kept then).
    """

    event_time_ms: I64
    numbers: Mapping[str, F64]
    categories: Mapping[str, U64]
    entities: Mapping[str, U64]

    def __len__(self) -> int:
        return len(self.event_time_ms)

    def take(self, rows: I64) -> EventColumns:
        """The given rows, in the given order."""
        return EventColumns(
            self.event_time_ms[rows],
            {name: column[rows] for name, column in self.numbers.items()},
            {name: column[rows] for name, column in self.categories.items()},
            {name: column[rows] for name, column in self.entities.items()},
        )


@dataclass(frozen=True, slots=True)
class Parameter:
    """One row of a member's parameter table.

    ``count`` is the number of scalars, ``nbytes`` what they occupy (0 where it cannot be told),
    ``trainable`` whether ``learn`` may change them.
    """

    path: str
    role: Role
    shape: tuple[int, ...]
    dtype: str
    count: int
    nbytes: int
    trainable: bool = True


class Learner(ABC):
    """What learns. All of its state is reachable through :meth:`state`.

    Two learners built with the same arguments and fed the same calls hold the same state, bit for
    bit.
    """

    apart: bool = False
    """Whether another thread may make and restore one beside the engine's: that touches nothing
    shared, and no setting of the process."""

    trained: bool = False
    """Whether its model is trained elsewhere and installed: labels teach it nothing."""

    skipped: int = 0
    """Updates left out because they could not be made (a gradient that is no number); part of the
    state where a learner counts any."""

    @abstractmethod
    def parameters(self) -> Sequence[Parameter]:
        """The parameter table, in a stable order; counting changes nothing."""

    @abstractmethod
    def state(self) -> State:
        """Everything :meth:`restore` needs, as copies."""

    @abstractmethod
    def restore(self, state: State) -> None:
        """Become the learner that gave ``state``. Raises :class:`StateError` if it does not fit."""

    def view(self) -> State:
        """What scoring reads of :meth:`state`, as copies; all of it where nobody knows better."""
        return self.state()

    def restore_view(self, view: State) -> None:
        """Score from now on as the learner that gave ``view`` does; it may not learn any more.

        Raises :class:`StateError` if it does not fit.
        """
        self.restore(view)

    def tensors(self) -> Mapping[str, NDArray[Any]]:
        """The arrays of weights that learning moves, by path, in a stable order; views to read.

        What is counted but has no norm worth watching (nodes and leaves of trees) is left out.
        """
        return {}

    def replaced(self) -> int:
        """How many parts (trees of a forest) were replaced after drift, since it is new."""
        return 0

    def counted(self) -> Any:
        """What the parameters are counted on: a torch module, a River estimator, or itself."""
        return self

    def digest(self) -> str:
        """Hex digest of the state; equal for equal ones, also across a save and a restore."""
        return state_digest(self._digested())

    def _digested(self) -> State:
        """What the digest is of: :meth:`state`, but nothing of it need be a copy."""
        return self.state()

    def digests_state(self) -> bool:
        """Whether the digest is that of what is saved, so that a saved state alone gives it."""
        return type(self).digest is Learner.digest


class Model(Learner):
    """A learner of the ensemble.

    Scores live in link space: ``k = 1`` logit for a binary target, identity for regression, ``k``
    columns for ``k`` classes.
    """

    unlocked_us: float = 0.0
    """Microseconds that learning a row takes, about, if other threads can run Python meanwhile:
    what takes longest begins first. 0: they cannot, and the model stays in the engine's thread."""

    def parts(self) -> Sequence[Model]:
        """What may score and learn the same rows side by side, in place of the whole."""
        return (self,)

    def joined(self, links: Sequence[F64]) -> F64:
        """What :meth:`score` gives, from what each of :meth:`parts` gave."""
        [whole] = links
        return whole

    @abstractmethod
    def score(self, x: FeatureBatch) -> F64:
        """Link scores ``(n, k)``, float64, finite. Must not change what :meth:`state` returns."""

    @abstractmethod
    def learn(self, x: FeatureBatch, y: F64, w: F64) -> None:
        """Learn ``n`` rows in order: ``y`` the task's truths, ``w`` weights >= 0, each ``(n,)``."""

    def contributions(self, x: FeatureBatch, exact: bool) -> F64 | None:
        """What each column does to the one link of each row; ``None``: that cannot be told.

        ``(n, d + k)``, dense columns first. What is left of a link is the same for all rows, or
        nearly. ``exact``: by Shapley values, even where something quicker would do.
        """
        return None

    def telling(self, x: FeatureBatch) -> tuple[F64, F64 | None]:
        """What :meth:`score` gives and, quickly, :meth:`contributions`, in one pass if it can."""
        return self.score(x), self.contributions(x, exact=False)


def contiguous(values: Any, dtype: Any) -> NDArray[Any]:
    """The values as kernels take them: C-contiguous, writeable, of this type; as they are if so.

    ``numpy.require`` gives the same, and takes 1.5 us to find that nothing is to be done: a step
    of 64 events spent a twentieth of its time on that.
    """
    if isinstance(values, np.ndarray) and values.dtype == dtype and values.flags.carray:
        return values
    return np.require(values, dtype, ["C", "W"])


def state_digest(state: Any) -> str:
    """SHA-256 over a canonical walk of a :data:`State` tree, as 64 hex digits.

    Dicts are walked by sorted key; arrays by dtype, shape and little-endian contiguous bytes;
    floats by their IEEE-754 bits. Raises :class:`StateError` naming the path of a value of any
    other type.

    >>> state_digest({"a": 1}) == state_digest({"a": 1.0})
    False
    """
    h = hashlib.sha256()
    _walk(h, state, "state")
    return h.hexdigest()


def _walk(h: Any, value: Any, path: str) -> None:
    if value is None or isinstance(value, bool):
        h.update(b"c" + repr(value).encode())
    elif isinstance(value, int):
        h.update(b"i%d;" % value)
    elif isinstance(value, float):
        h.update(b"f" + struct.pack("<d", value))
    elif isinstance(value, str):
        raw = value.encode()
        h.update(b"s%d;" % len(raw) + raw)
    elif isinstance(value, bytes):
        h.update(b"b%d;" % len(value) + value)
    elif isinstance(value, np.ndarray):
        array = np.ascontiguousarray(value)
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        h.update(f"a{little.dtype.str}{little.shape};".encode())
        h.update(little.reshape(-1).view(np.uint8))
    elif isinstance(value, dict):
        h.update(b"d%d;" % len(value))
        for key in sorted(value):
            _walk(h, key, path)
            _walk(h, value[key], f"{path}.{key}")
    elif isinstance(value, list | tuple):
        h.update(b"l%d;" % len(value))
        if all(type(item) is str for item in value):
            # Of all items' names, say: ten times as fast as one by one.
            h.update(b"".join([b"s%d;%b" % (len(raw), raw) for raw in map(str.encode, value)]))
            return
        for i, item in enumerate(value):
            _walk(h, item, f"{path}[{i}]")
    else:
        raise StateError(f"{path}: expected a plain value or an array, got {type(value).__name__}")

"""What scorers hand to the learner: rows as they were scored, with what their labels tell.

A record holds up to :data:`ROWS` rows of one scorer, as they stood in its pending store. It names
the settings that they mean something under. Nothing here learns or scores.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import msgspec
import numpy as np
import zstandard
from numpy.typing import NDArray

from models.base import BOOL, F64, I64, FeatureSchema
from models.task import Task
from monitoring.drift.monitor import Alarm
from stream.contract.records import NewRecord
from stream.settings.schema import Config
from stream.settings.upgrade import digest, plain
from stream.step.learn import Learning
from stream.step.lifecycle.challengers import Said

ROWS = 256
"""Rows in one record at most: a step of the learner takes whole records."""
LEVEL = 1
"""Of zstd: 4 times smaller, and level 3 a tenth smaller for twice the time."""


MOST_BYTES = 64 << 20
"""That a record may unpack to, as what a producer compressed may."""


class Foreign(ValueError):
    """A record of another process that this one can do nothing with."""


def meaning(config: Config) -> str:
    """Digest of the settings that rows and members mean something under."""
    ranks = () if config.reco is None else ("reco",)
    return _meaning(config, "seed", "target", "features", "members", "ensemble", *ranks)


def told_meaning(config: Config) -> str:
    """The same of what scorers tell each other of events and labels, whatever members they have."""
    return _meaning(config, "target")


def _meaning(config: Config, *keys: str) -> str:
    tree = plain(config)
    return digest({key: tree[key] for key in keys} | {"fields": tree["event"]["fields"]})


def check_meaning(got: str, expected: str) -> None:
    """Raise :class:`Foreign` where a record means something under other settings."""
    if got != expected:
        raise Foreign(
            "expected one made under the same target and fields, of rows and members also the same"
            f" seed, features, members and ensemble (digest {expected[:12]}), got one of others"
            f" ({got[:12]}): give all processes of the service the same file"
        )


def packed(raws: Sequence[bytes], partition: int) -> tuple[list[NewRecord], bytes]:
    """Records of these bytes, compressed, and a digest of the bytes."""
    h = hashlib.blake2b(digest_size=16)
    for raw in raws:
        h.update(b"%d;" % len(raw) + raw)
    compress = zstandard.ZstdCompressor(LEVEL).compress
    return [NewRecord(None, compress(raw), partition) for raw in raws], h.digest()


def plain_bytes(raw: bytes, most: int = MOST_BYTES) -> bytes:
    """What was compressed; raises ``ValueError`` where it says to be longer than ``most``, or not
    how long, and :class:`zstandard.ZstdError`."""
    said = zstandard.frame_content_size(raw)
    if not 0 <= said <= most:
        raise ValueError(f"expected up to {most:,} bytes once decompressed, got {said:,}")
    return zstandard.ZstdDecompressor().decompress(raw)


class Example(msgspec.Struct, frozen=True, array_like=True):
    """Rows that are judged, learned, or both in this order.

    ``version`` is the newest that the scorer had taken over, ``watermark_ms`` the newest event time
    that it had scored. ``waited``: all of them had waited for silence. ``rows`` are of the pending
    store's type, byte by byte across all of them, ``y`` truths, ``w`` weights, of rows that are
    judged alone none. ``said``: what challengers that had learned their fill said of them.
    """

    meaning: str
    version: int
    watermark_ms: int
    judged: bool
    learned: bool
    waited: bool
    rows: bytes
    y: bytes
    w: bytes
    said: dict[str, bytes] = {}


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Example).decode


def _across(rows: NDArray[Any]) -> bytes:
    """First byte of all rows, then the second: zstd makes a tenth less of it in half the time."""
    lying = np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), -1)
    return np.ascontiguousarray(lying.T).tobytes()


def upright(raw: bytes, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The rows again; raises ``ValueError`` for another number of bytes."""
    lying = np.frombuffer(raw, np.uint8).reshape(dtype.itemsize, -1)
    return np.ascontiguousarray(lying.T).reshape(-1).view(dtype)


class _Call(NamedTuple):
    rows: NDArray[Any]
    y: F64
    w: F64
    watermark_ms: int
    judged: bool
    learned: bool
    waited: bool
    said: Said


class Handing(Learning):
    """Stands where rows are judged and learned, and collects them for the learner.

    Attributes
    ----------
    version : int
        By which the scorer scores now.
    tell_known : callable, optional
        Takes rows that are known to be positive, which others are told.
    beside : callable
        :meth:`Challengers.said <stream.step.lifecycle.challengers.Challengers.said>`.
    """

    version = 0
    meaning = ""
    tell_known: Callable[[NDArray[Any]], None] | None = None
    beside: Callable[[I64], Said]
    _calls: tuple[_Call, ...] = ()

    def told(self, rows: NDArray[Any], truth: F64) -> None:
        """See :meth:`Learning.told`."""
        super().told(rows, truth)
        positive = self._task.positive(truth)
        if self.tell_known is not None and positive.any():
            self.tell_known(rows[positive])

    def judge(self, numbers: I64, rows: NDArray[Any], truth: F64, watermark_ms: int) -> list[Alarm]:
        """See :meth:`Learning.judge`; the learner raises the alarms."""
        said = self.beside(numbers)
        call = _Call(rows, truth, truth[:0], watermark_ms, True, False, False, said)
        self._calls = (*self._calls, call)
        return []

    def learn(
        self,
        rows: NDArray[Any],
        y: F64,
        w: F64,
        watermark_ms: int,
        waited: bool,
        numbers: I64 | None = None,
    ) -> None:
        """See :meth:`Learning.learn`; what was judged just before goes once, to be both."""
        last = self._calls[-1] if self._calls else None
        said: Said = {}
        both = last is not None and last.rows is rows and last.y is y and not last.learned
        before = self._calls
        if both and last is not None:
            before, said = before[:-1], last.said
        self._calls = (*before, _Call(rows, y, w, watermark_ms, both, True, waited, said))

    def take(self, partition: int) -> tuple[list[NewRecord], bytes]:
        """The records for what came since the last call, and a digest of what they hold."""
        return packed(self.examples(), partition)

    def examples(self) -> list[bytes]:
        """Those for what came since the last call."""
        raws = [
            _encode(
                Example(
                    *(self.meaning, self.version, call.watermark_ms),
                    *(call.judged, call.learned, call.waited),
                    _across(call.rows[start : start + ROWS]),
                    call.y[start : start + ROWS].tobytes(),
                    call.w[start : start + ROWS].tobytes(),
                    {key: z[start : start + ROWS].tobytes() for key, z in call.said.items()},
                )
            )
            for call in self._calls
            for start in range(0, len(call.rows), ROWS)
        ]
        self._calls = ()
        return raws


class Rows(NamedTuple):
    """An example with its arrays, ``(n,)`` each; ``said`` is what challengers said."""

    example: Example
    rows: NDArray[Any]
    y: F64
    w: F64
    said: Said

    @property
    def done(self) -> tuple[bool, bool, bool]:
        """What becomes of the rows."""
        return self.example.judged, self.example.learned, self.example.waited


class Reader:
    """Reads examples; kernels trust what it lets through.

    Parameters
    ----------
    meant : str
        The :func:`meaning` of the settings.
    dtype : numpy.dtype
        Of the rows.
    """

    def __init__(self, meant: str, dtype: np.dtype[Any], schema: FeatureSchema, task: Task) -> None:
        self._meant = meant
        self._dtype = dtype
        self._buckets = np.array([column.buckets for column in schema.hashed], np.uint32)
        self._task = task

    def read(self, raw: bytes | None) -> Rows:
        """The rows of a record; raises :class:`Foreign`."""
        try:
            plain = plain_bytes(raw or b"")
        except (zstandard.ZstdError, ValueError) as error:
            raise Foreign(f"expected an example of a scorer, got {error}") from error
        return self.rows(plain)

    def rows(self, raw: bytes) -> Rows:
        """Those of an example that is not compressed; raises :class:`Foreign`."""
        try:
            found = _decode(raw)
            check_meaning(found.meaning, self._meant)
            rows = upright(found.rows, self._dtype)
            y, w = (np.frombuffer(part, np.float64) for part in (found.y, found.w))
            shape = len(rows), self._task.k
            said = {k: np.frombuffer(z, np.float64).reshape(shape) for k, z in found.said.items()}
        except Foreign:
            raise
        except (msgspec.MsgspecError, ValueError) as error:
            raise Foreign(f"expected an example of a scorer, got {error}") from error
        if not len(rows) or len(y) != len(rows) or len(w) != (len(rows) if found.learned else 0):
            got = f"{len(rows)} rows, {len(y)} truths and {len(w)} weights"
            raise Foreign(f"expected a truth and a weight for each row, got {got}")
        if not self._possible(rows, y, w):
            raise Foreign("expected codes of the features, truths of the target, and weights")
        return Rows(found, rows, y, w, said)

    def _possible(self, rows: NDArray[Any], y: F64, w: F64) -> bool:
        good, codes = possible(y, self._task), rows["hashed"] < self._buckets
        return bool(good.all() and codes.all() and np.isfinite(w).all() and (w >= 0).all())


def possible(y: F64, task: Task) -> BOOL:
    """Which of these can be truths of a target, ``(n,)``."""
    good: BOOL = np.isfinite(y)
    if task.type != "number":
        good &= (y >= 0) & (y < max(task.k, 2)) & (y == np.floor(y))
    return good


def joined(parts: Sequence[Rows]) -> Rows:
    """Examples that are done alike, one after another, as one with the newest watermark."""
    if len(parts) == 1:
        return parts[0]
    rows, y, w = (
        np.concatenate(kind)
        for kind in ([p.rows for p in parts], [p.y for p in parts], [p.w for p in parts])
    )
    shape: dict[str, tuple[int, ...]] = {k: z.shape[1:] for p in parts for k, z in p.said.items()}
    said = {
        key: np.concatenate([p.said.get(key, np.full((len(p.rows), *k), np.nan)) for p in parts])
        for key, k in shape.items()
    }
    newest = max(parts, key=lambda part: part.example.watermark_ms)
    return Rows(newest.example, rows, y, w, said)


def runs(found: Sequence[Rows]) -> list[Rows]:
    """Examples in their order, those next to each other that are done alike as one."""
    return [joined(list(run)) for _, run in groupby(found, lambda part: part.done)]

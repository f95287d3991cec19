"""Bytes to typed columns: every bad byte of the stream ends here, with its reason.

The decoders are built once from the configuration's event schema. A record that does not fit
becomes a :class:`Bad`, never an exception, and never stops its batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.base import F64, I64, U64, EventColumns
from stream.contract.commands import Command
from stream.contract.hashing import hash_text
from stream.contract.records import UNREADABLE, Record, Slice
from stream.decode.letters import Bad, Reason
from stream.settings.schema import Config

T = TypeVar("T")
ID_BYTES = 256
"""Longest event id, in UTF-8 bytes."""
DEPTH = 64
"""Deepest nesting of a record. A fixed number: the decoder's own limit depends on how much stack is
left, so that a step and its replay could decide differently."""
_LATEST_MS = 253_402_300_800_000  # year 10000: what RFC 3339 can no longer write


class Events(msgspec.Struct, frozen=True):
    """Decoded events: row ``i`` of every column is ``records[i]``.

    ``id_hash`` uint64 ``(n,)`` is xxh3-64 of the id's UTF-8 text; ``label`` int8 ``(n,)`` is 0, 1,
    or -1 where the event carries none.
    """

    records: list[Record]
    ids: list[str]
    id_hash: U64
    columns: EventColumns
    label: NDArray[np.int8]

    def take(self, rows: I64) -> Events:
        """The given rows, in the given order."""
        c = self.columns
        columns = EventColumns(
            c.event_time_ms[rows],
            {k: v[rows] for k, v in c.numbers.items()},
            {k: v[rows] for k, v in c.categories.items()},
            {k: v[rows] for k, v in c.entities.items()},
        )
        picked = rows.tolist()
        return Events(
            [self.records[i] for i in picked],
            [self.ids[i] for i in picked],
            self.id_hash[rows],
            columns,
            self.label[rows],
        )


class Labels(msgspec.Struct, frozen=True):
    """Decoded labels: ``y`` float64 ``(n,)`` of 0 and 1, ``labelled_at_ms`` -1 where not given."""

    records: list[Record]
    id_hash: U64
    y: F64
    labelled_at_ms: I64


class Codec:
    """Typed decoders for one configuration."""

    def __init__(self, config: Config) -> None:
        self._decoders = {config.topics.events: self.events, config.topics.labels: self.labels}
        self._limit = config.limits.record_bytes
        # The structs' fields follow from the configuration: no type checker can know them.
        self._event: Any = msgspec.json.Decoder(_event_struct(config))
        self._label: Any = msgspec.json.Decoder(_label_struct(config))
        self._command = msgspec.json.Decoder(Command)
        self._values = config.label.values
        self._inline = config.label.inline
        self._label_time = config.label.time is not None
        self._time = _TIME[config.event.time_format]
        kinds = [(n, f"f{i}", f.kind) for i, (n, f) in enumerate(config.event.fields.items())]
        self._numbers = [(n, a) for n, a, k in kinds if k in ("number", "boolean")]
        self._categories = [(n, a) for n, a, k in kinds if k == "category"]
        self._entities = [(n, a) for n, a, k in kinds if k == "entity"]

    def ahead(self, piece: Slice) -> Slice:
        """The slice with its records decoded, for a step to come; in any thread."""
        decode = self._decoders.get(piece.range.topic)
        if decode is None:
            return piece
        return Slice(piece.range, piece.records, (self, decode(piece.records)))

    def decoded(self, piece: Slice, decode: Callable[[Sequence[Record]], T]) -> T:
        """What :meth:`ahead` of this very codec made of the slice, else what ``decode`` makes."""
        if piece.ahead is not None and piece.ahead[0] is self:
            made: T = piece.ahead[1]
            return made
        return decode(piece.records)

    def events(self, records: Sequence[Record]) -> tuple[Events, list[Bad]]:
        """Columns of the good events and the bad records, each in input order."""
        bad: list[Bad] = []
        good: list[Record] = []
        rows: list[Any] = []
        ids: list[str] = []
        times: list[int] = []
        labels: list[int] = []
        decode = self._event.decode
        for record in records:
            try:
                row = decode(self._payload(record))
                times.append(self._time(row.time))
                ids.append(_identifier(row.id))
                labels.append(self._value(row.label) if self._inline else -1)
            except _Refused as refusal:
                bad.append(Bad(record, refusal.reason, refusal.error))
            except (msgspec.MsgspecError, ValueError) as error:
                bad.append(Bad(record, _reason(error), str(error)))
            else:
                good.append(record)
                rows.append(row)
                continue
            # Keep the lists aligned when only a later part of the record was refused.
            del times[len(good) :], ids[len(good) :], labels[len(good) :]
        columns = EventColumns(
            event_time_ms=np.array(times, dtype=np.int64),
            numbers={n: _numbers([getattr(r, a) for r in rows]) for n, a in self._numbers},
            categories={n: _hashes([getattr(r, a) for r in rows]) for n, a in self._categories},
            entities={n: _hashes([getattr(r, a) for r in rows]) for n, a in self._entities},
        )
        hashes = np.array([hash_text(i) for i in ids], dtype=np.uint64)
        return Events(good, ids, hashes, columns, np.array(labels, dtype=np.int8)), bad

    def labels(self, records: Sequence[Record]) -> tuple[Labels, list[Bad]]:
        """Columns of the good labels and the bad records, each in input order."""
        bad: list[Bad] = []
        good: list[Record] = []
        rows: list[tuple[int, int, int]] = []
        for record in records:
            try:
                row = self._label.decode(self._payload(record))
                at = -1 if not self._label_time or row.time is None else self._time(row.time)
                rows.append((hash_text(_identifier(row.id)), self._value(row.label), at))
                good.append(record)
            except _Refused as refusal:
                bad.append(Bad(record, refusal.reason, refusal.error))
            except (msgspec.MsgspecError, ValueError) as error:
                bad.append(Bad(record, _reason(error), str(error)))
        return Labels(
            good,
            np.array([r[0] for r in rows], dtype=np.uint64),
            np.array([r[1] for r in rows], dtype=np.float64),
            np.array([r[2] for r in rows], dtype=np.int64),
        ), bad

    def command(self, record: Record) -> Command | Bad:
        """The operator's command in a control record."""
        try:
            return self._command.decode(self._payload(record))
        except _Refused as refusal:
            return Bad(record, refusal.reason, refusal.error)
        except (msgspec.MsgspecError, ValueError) as error:
            return Bad(record, "command", str(error))

    def _payload(self, record: Record) -> bytes:
        if record.value is None:
            for name, reason in record.headers:
                if name == UNREADABLE:
                    raise _Refused("malformed", f"the log could not read it: {reason.decode()}")
            raise _Refused("null", "expected a JSON object, got a null value")
        if len(record.value) > self._limit:
            size = len(record.value)
            raise _Refused(
                "oversized",
                f"expected at most limits.record_bytes = {self._limit}, got {size} bytes",
            )
        value = record.value
        if len(value) > 2 * DEPTH:  # a shorter one has no room for more, each with its end
            brackets = value.count(b"[") + value.count(b"{")
            if brackets > DEPTH and _depth(value) > DEPTH:
                raise _Refused("malformed", f"expected at most {DEPTH} nested levels")
        return value

    def _value(self, value: object) -> int:
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if text not in self._values:
            known = ", ".join(self._values)
            raise _Refused("label_value", f"expected one of {known}; got {text[:80]!r}")
        return self._values[text]


class _Refused(Exception):
    def __init__(self, reason: Reason, error: str) -> None:
        super().__init__(error)
        self.reason = reason
        self.error = error


def _depth(value: bytes) -> int:
    """How deep the brackets outside of text nest, at most; any bytes, not only JSON."""
    depth = deepest = 0
    in_text = escaped = False
    for byte in value:
        if in_text:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                in_text = False
        elif byte == 0x22:
            in_text = True
        elif byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


def _reason(error: Exception) -> Reason:
    return "schema" if isinstance(error, msgspec.ValidationError) else "malformed"


def _identifier(value: str | int) -> str:
    text = value if isinstance(value, str) else str(value)
    size = len(text.encode())
    if not 1 <= size <= ID_BYTES:
        raise _Refused("schema", f"expected an id of 1..{ID_BYTES} bytes, got {size}")
    return text


def _from_seconds(value: float) -> int:
    return _from_ms(round(value * 1000))


def _from_ms(value: float) -> int:
    if not 0 <= value < _LATEST_MS or value != int(value):
        raise _Refused("schema", f"expected an event time of 1970..9999 in ms, got {value}")
    return int(value)


def _from_datetime(value: datetime) -> int:
    return _from_ms(round(value.timestamp() * 1000))


_TIME: dict[str, Callable[[Any], int]] = {
    "s": _from_seconds,
    "ms": _from_ms,
    "rfc3339": _from_datetime,
}
_TIME_TYPE: dict[str, Any] = {
    "s": float,
    "ms": int | float,
    "rfc3339": Annotated[datetime, msgspec.Meta(tz=True)],
}
_KIND: dict[str, Any] = {
    "number": float,
    "boolean": bool,
    "category": str | int,
    "entity": str | int,
    "text": msgspec.Raw,
}


def _event_struct(config: Config) -> type[msgspec.Struct]:
    """A struct with ``id``, ``time``, ``label`` if inline, and ``f0``, ``f1``... for the fields."""
    event = config.event
    required: list[Any] = [("id", str | int), ("time", _TIME_TYPE[event.time_format])]
    optional: list[Any] = []
    rename = {"id": event.id, "time": event.time}
    if config.label.inline:
        required.append(("label", bool | int | str))
        rename["label"] = config.label.field
    for i, (name, field) in enumerate(event.fields.items()):
        rename[f"f{i}"] = field.path or name
        kind = _KIND[field.kind]
        if field.kind == "text":
            optional.append((f"f{i}", kind, msgspec.Raw(b"")))
        elif field.required:
            required.append((f"f{i}", kind))
        else:
            optional.append((f"f{i}", kind | None, None))
    return msgspec.defstruct(
        "Event",
        [*required, *optional],
        rename=rename,
        forbid_unknown_fields=event.unknown_fields == "reject",
        gc=False,
    )


def _label_struct(config: Config) -> type[msgspec.Struct]:
    label = config.label
    fields: list[Any] = [("id", str | int), ("label", bool | int | str)]
    rename = {"id": config.label_event_id, "label": label.field}
    if label.time:
        fields.append(("time", _TIME_TYPE[config.event.time_format] | None, None))
        rename["time"] = label.time
    return msgspec.defstruct("Label", fields, rename=rename, gc=False)


def _numbers(values: list[float | bool | None]) -> F64:
    return np.array([math.nan if v is None else v for v in values], dtype=np.float64)


def _hashes(values: list[str | int | None]) -> U64:
    return np.array(
        [0 if v is None else hash_text(v if isinstance(v, str) else str(v)) for v in values],
        dtype=np.uint64,
    )

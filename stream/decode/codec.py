"""Bytes to typed columns: every bad byte of the stream ends here, with its reason.

The decoders are built once from the configuration's event schema. A record that does not fit
becomes a :class:`DeadLetter`, never an exception, and never stops its batch.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec
import numpy as np

from models.base import BOOL, F64, I64, U64, EventColumns
from models.task import json_text
from stream.contract.commands import COMMAND, Command
from stream.contract.hashing import hash_text, hash_texts
from stream.contract.letters import DeadLetter, Reason
from stream.contract.records import Record, Slice
from stream.decode.coerce import BadValue, coercion, number_in_text
from stream.decode.formats import Schemas, Unpack, number_of, unpacker
from stream.decode.payload import Misfit, Value, all_shallow, decoder, shallow
from stream.decode.times import BadTime, event_times, label_times, plainly
from stream.settings.paths import place, pointed
from stream.settings.schema import SCHEMA_TYPES, Config, FieldSettings

T = TypeVar("T")
PIECE = 256
"""Records that are decoded together; one bad one among them makes all be decoded once more."""
ID_BYTES = 256
"""Longest event id, in UTF-8 bytes."""
FINITE: Any = Annotated[float, msgspec.Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
"""A number that JSON can write: other formats have infinite ones too."""


class Events(msgspec.Struct, frozen=True):
    """Decoded events: row ``i`` of every column is ``records[i]``.

    ``id_hash`` uint64 ``(n,)`` is xxh3-64 of the id's UTF-8 text; ``label`` float64 ``(n,)`` is a
    truth, ``nan`` where the event carries none; ``newcomers`` see :class:`Labels`.
    """

    records: list[Record]
    ids: list[str]
    id_hash: U64
    columns: EventColumns
    label: F64
    newcomers: Mapping[float, str] = {}

    def split(self, n: int) -> tuple[Events, Events]:
        """The first ``n`` events and the rest."""
        if n >= len(self.records):
            return self, self.take(np.empty(0, dtype=np.int64))
        return self.take(np.arange(n)), self.take(np.arange(n, len(self.records)))

    def take(self, rows: I64) -> Events:
        """The given rows, in the given order."""
        picked = rows.tolist()
        return Events(
            [self.records[i] for i in picked],
            [self.ids[i] for i in picked],
            self.id_hash[rows],
            self.columns.take(rows),
            self.label[rows],
            self.newcomers,
        )


class Labels(msgspec.Struct, frozen=True):
    """Decoded labels: ``y`` float64 ``(n,)``, truths, ``labelled_at_ms`` -1 where not given.

    ``corrects`` says which take the place of older ones. Of a class that is none of the
    configuration's the step knows the truth, if it has one: here ``y`` is :func:`provisional`, and
    ``newcomers`` says the class's name.
    """

    records: list[Record]
    id_hash: U64
    y: F64
    labelled_at_ms: I64
    corrects: BOOL
    newcomers: Mapping[float, str] = {}

    def take(self, rows: I64) -> Labels:
        """The given rows, in the given order."""
        picked = [self.records[i] for i in rows.tolist()]
        columns = (self.id_hash[rows], self.y[rows], self.labelled_at_ms[rows])
        return Labels(picked, *columns, self.corrects[rows], self.newcomers)

    def runs(self) -> Iterator[Labels]:
        """The labels in order: those between corrections together, each correction alone."""
        if not self.corrects.any():
            yield self
            return
        alone = self.corrects
        begins = np.append(True, alone[1:] | alone[:-1])
        for rows in np.split(np.arange(len(alone)), np.flatnonzero(begins)[1:]):
            yield self.take(rows)


class Keyed(NamedTuple):
    """What a good record is filed under: its event's id, and the text its partition follows."""

    id: str
    key: str


Rows = tuple[list[Record], list[Any], list[DeadLetter]]
"""The good records, the row of each, and the bad records, each in input order."""


class Codec:
    """Typed decoders for one configuration.

    A record is refused by its bytes alone. What else may go wrong here (no memory, a defect) is
    raised: a step that fails is the service's to isolate, and a replay then does as it did.
    """

    def __init__(self, config: Config) -> None:
        self._decoders = {config.topics.events: self.events, config.topics.labels: self.labels}
        self._limit = config.limits.record_bytes
        self.schemas = Schemas()
        self._unpack_event = unpacker(config.event.format, self.schemas)
        self._unpack_label = unpacker(config.label.format, self.schemas)
        formats = {
            config.topics.events: config.event.format,
            config.topics.labels: config.label.format,
        }
        self._by_schema = {topic for topic, kind in formats.items() if kind in SCHEMA_TYPES}
        time = event_times(config)
        # The structs' fields follow from the configuration: no type checker can know them.
        self._event = _event_decoder(config, time.kind)
        label_time = label_times(config)
        self._label = _label_decoder(config, label_time.kind)
        self._command = msgspec.json.Decoder(COMMAND)
        self._members = config.learners
        self._configured = config.members
        self._task = config.task()
        self._inline = config.label.inline
        self._event_time = pointed(place(config.event.time))
        self._label_time = config.label.time and pointed(place(config.label.time))
        self._to_ms, self._label_to_ms = time.to_ms, label_time.to_ms
        fields = [
            (n, attrgetter(f"f{i}"), f) for i, (n, f) in enumerate(config.event.fields.items())
        ]
        self._numbers = [
            (n, of, math.nan if f.default is None else float(f.default))
            for n, of, f in fields
            if f.kind in ("number", "boolean")
        ]
        self._categories = [(n, of, f.default) for n, of, f in fields if f.kind == "category"]
        self._entities = [(n, of, f.default) for n, of, f in fields if f.kind == "entity"]

    def ahead(self, piece: Slice) -> Slice:
        """The slice with its records decoded, for a step to come; in any thread, never raising.

        Where decoding fails the slice stays as it is: the step meets the same failure, or none.
        """
        decode = self._decoders.get(piece.range.topic)
        if decode is None or self.unknown([piece]):
            return piece
        try:
            made = decode(piece.records)
        except Exception:  # noqa: BLE001 - whatever it is, the step is the one that may fail of it
            return piece
        # Again: the step under way may have let go of a schema meanwhile.
        return piece if self.unknown([piece]) else Slice(piece.range, piece.records, (self, made))

    def unknown(self, slices: Iterable[Slice]) -> list[int]:
        """Numbers of schemas that records name and that are not here, in order.

        Those that the registry has must be adopted before the step of these records.
        """
        found = {
            number_of(record.value)
            for piece in slices
            if piece.range.topic in self._by_schema
            for record in piece.records
            if record.value
        }
        return sorted(n for n in found if n >= 0 and n not in self.schemas)

    def decoded(self, piece: Slice, decode: Callable[[Sequence[Record]], T]) -> T:
        """What :meth:`ahead` of this very codec made of the slice, else what ``decode`` makes."""
        if piece.ahead is not None and piece.ahead[0] is self:
            made: T = piece.ahead[1]
            return made
        return decode(piece.records)

    def events(self, records: Sequence[Record]) -> tuple[Events, list[DeadLetter]]:
        """Columns of the good events and the bad records, each in input order."""
        good, rows, bad = self._event_rows(records)
        columns = EventColumns(
            event_time_ms=np.array([r.time for r in rows], dtype=np.int64),
            numbers={n: _numbers([*map(of, rows)], d) for n, of, d in self._numbers},
            categories={n: _hashes([*map(of, rows)], d) for n, of, d in self._categories},
            entities={n: _hashes([*map(of, rows)], d) for n, of, d in self._entities},
        )
        ids = [r.id for r in rows]
        truths = _truths([r.label for r in rows] if self._inline else [math.nan] * len(rows))
        return Events(good, ids, hash_texts(ids), columns, *truths), bad

    def labels(self, records: Sequence[Record]) -> tuple[Labels, list[DeadLetter]]:
        """Columns of the good labels and the bad records, each in input order."""
        good, rows, bad = self._label_rows(records)
        y, newcomers = _truths([r[1] for r in rows])
        return Labels(
            good,
            hash_texts([r[0] for r in rows]),
            y,
            np.array([r[2] for r in rows], dtype=np.int64),
            np.array([r[3] for r in rows], dtype=np.bool_),
            newcomers,
        ), bad

    def event_keys(self, records: Sequence[Record]) -> tuple[list[Keyed], list[DeadLetter]]:
        """Keys of the good events and the bad records: those that :meth:`events` gives.

        An event is filed under its first entity field, so that what belongs together stays in
        order; under its id where it has none.
        """
        _, rows, bad = self._event_rows(records)
        _, of, default = self._entities[0] if self._entities else ("", attrgetter("id"), None)
        keys = map(of, rows)
        known = (default if key is None else key for key in keys)
        return [
            Keyed(r.id, r.id if key is None else str(key))
            for r, key in zip(rows, known, strict=True)
        ], bad

    def label_keys(self, records: Sequence[Record]) -> tuple[list[Keyed], list[DeadLetter]]:
        """Keys of the good labels, their event's id, and the bad records."""
        _, rows, bad = self._label_rows(records)
        return [Keyed(r[0], r[0]) for r in rows], bad

    def command(self, record: Record) -> Command | DeadLetter:
        """The operator's command in a control record; it names only what exists."""
        try:
            command: Command = self._command.decode(shallow(self._payload(record)))
            command.check(self._members, self._task, self._configured)
            return command
        except _Refused as refusal:
            return DeadLetter(record, refusal.reason, refusal.error)
        except (msgspec.MsgspecError, ValueError) as error:
            return DeadLetter(record, "command", str(error))

    def _event_rows(self, records: Sequence[Record]) -> Rows:
        return self._each(records, self._unpack_event, self._event, self._events_meant)

    def _label_rows(self, records: Sequence[Record]) -> Rows:
        return self._each(records, self._unpack_label, self._label, self._labels_meant)

    def _each(
        self,
        records: Sequence[Record],
        unpack: Unpack | None,
        read: Callable[[Any], Any],
        meant: Callable[[list[Any]], list[Any]] = list,
    ) -> Rows:
        """The good records, the row of each, and the bad records.

        ``read`` makes it of a record's JSON, or of what ``unpack`` makes of its bytes; ``meant``
        makes of rows what their values mean. All of a piece at once, one by one took a quarter
        longer; where a record is bad, one by one all the same, to tell which.
        """
        good: list[Record] = []
        rows: list[Any] = []
        bad: list[DeadLetter] = []
        for first in range(0, len(records), PIECE):
            piece = records[first : first + PIECE]
            try:
                rows += self._rows(piece, unpack, read, meant)
                good += piece
            except (_Refused, msgspec.MsgspecError, ValueError):
                for record in piece:
                    try:
                        rows += self._rows([record], unpack, read, meant)
                        good.append(record)
                    except _Refused as refusal:
                        bad.append(DeadLetter(record, refusal.reason, refusal.error))
                    except (msgspec.MsgspecError, ValueError) as error:
                        bad.append(DeadLetter(record, _reason(error), plainly(error)))
        return good, rows, bad

    def _rows(
        self,
        records: Sequence[Record],
        unpack: Unpack | None,
        read: Callable[[Any], Any],
        meant: Callable[[list[Any]], list[Any]],
    ) -> list[Any]:
        """The rows of records; raises what is wrong with one of them."""
        payloads = list(map(self._payload, records))
        if unpack is None:
            return meant(list(map(read, all_shallow(payloads))))
        return meant(list(map(read, map(unpack, records, payloads))))

    def _events_meant(self, rows: list[Any]) -> list[Any]:
        """Events' structs: the times in UTC ms, the ids as texts, inline labels as truths."""
        try:
            times = list(map(self._to_ms, [row.time for row in rows]))
        except BadTime as error:
            raise _refused_at(error, self._event_time) from error
        ids = _identifiers([row.id for row in rows])
        for row, at, identifier in zip(rows, times, ids, strict=True):
            row.time, row.id = at, identifier
        if self._inline:
            for row, value in zip(rows, self._values([row.label for row in rows]), strict=True):
                row.label = value
        return rows

    def _labels_meant(self, rows: list[Any]) -> list[tuple[str, float | str, int, bool]]:
        """Of each label its event, the truth or the newcomer, when it was labelled, whether it
        corrects an older one.

        In UTC ms, -1 where not given.
        """
        at = [-1] * len(rows)
        if self._label_time is not None:
            try:
                at = [-1 if r.time is None else self._label_to_ms(r.time) for r in rows]
            except BadTime as error:
                raise _refused_at(error, self._label_time) from error
        ids, values = _identifiers([row.id for row in rows]), [row.label for row in rows]
        corrects = [row.corrects is True for row in rows]
        return list(zip(ids, self._values(values), at, corrects, strict=True))

    def _payload(self, record: Record) -> bytes:
        if record.value is None or len(record.value) > self._limit:
            raise self._unusable(record)
        return record.value

    def _unusable(self, record: Record) -> _Refused:
        if record.value is not None:
            size = len(record.value)
            error = f"expected at most limits.record_bytes = {self._limit}, got {size} bytes"
            return _Refused("oversized", error)
        if record.unreadable:
            return _Refused("malformed", f"the log could not read it: {record.unreadable}")
        return _Refused("null", "expected an object, got a null value")

    def _values(self, values: list[Any]) -> list[float | str]:
        """:meth:`_value` of each."""
        [kind, *others] = {*map(type, values)}
        if others or kind not in (bool, int, str):
            # Equal ones may be written differently: 1 and true, 0.0 and -0.0.
            return list(map(self._value, values))
        meant = {value: self._value(value) for value in {*values}}
        return list(map(meant.__getitem__, values))

    def _value(self, value: bool | float | str) -> float | str:
        """The truth that a label's value means, or the class that may enter by it."""
        y = self._task.truth(value)
        if not math.isnan(y):
            return y
        newcomer = self._task.newcomer(value)
        if newcomer is None:
            got = json_text(value)[:80]
            raise _Refused("label_value", f"expected {self._task.expected}; got {got!r}")
        return newcomer


class _Refused(Exception):
    def __init__(self, reason: Reason, error: str) -> None:
        super().__init__(error)
        self.reason = reason
        self.error = error


def _reason(error: Exception) -> Reason:
    return "schema" if isinstance(error, msgspec.ValidationError | Misfit) else "malformed"


def _refused_at(error: ValueError, where: str) -> _Refused:
    return _Refused("schema", f"{error} - at `{where}`")


def _identifiers(values: list[str | int]) -> list[str]:
    """Ids as texts."""
    texts = list(map(str, values))
    sizes = {*map(len, texts)}
    # So few characters fit into the bytes, whatever they are.
    if 1 <= min(sizes) <= max(sizes) <= ID_BYTES // 4:
        return texts
    return list(map(_fitting, texts))


def _fitting(text: str) -> str:
    size = len(text) if text.isascii() else len(text.encode())
    if not 1 <= size <= ID_BYTES:
        raise _Refused("schema", f"expected an id of 1..{ID_BYTES} bytes, got {size}")
    return text


def _kind(field: FieldSettings) -> Any:
    """What the JSON value of a field must be."""
    if field.kind == "text":
        return msgspec.Raw
    if field.kind == "number":
        return FINITE if field.decimal is None else FINITE | str
    if field.values is not None:
        return bool | int | str
    return bool if field.kind == "boolean" else str | int


def _event_decoder(config: Config, time: Any) -> Callable[[Any], Any]:
    """Reads rows with ``id``, ``time``, ``label`` if inline, and the fields as ``f0``, ``f1``..."""
    event = config.event
    values = [Value("id", place(event.id), str | int), Value("time", place(event.time), time)]
    if config.label.inline:
        values.append(Value("label", place(config.label.field), _truth_kind(config)))
    values += [
        Value(f"f{i}", event.place(name), _kind(field), field.needed)
        for i, (name, field) in enumerate(event.fields.items())
    ]
    strict, plain = event.unknown_fields == "reject", event.format != "json"
    read = decoder("Event", values, strict, plain)
    coercions = [
        (f"f{i}", made, pointed(event.place(name)))
        for i, (name, field) in enumerate(event.fields.items())
        if (made := coercion(field)) is not None
    ]
    coercions += _truth_coercions(config) if config.label.inline else []
    return _coerced(read, coercions) if coercions else read


Coercion = tuple[str, Callable[[Any], Any], str]
"""An attribute, what makes of its value the meant one, and where it stands in a record."""


def _coerced(decode: Callable[[Any], Any], coercions: list[Coercion]) -> Callable[[Any], Any]:
    """Reads rows with these attributes as they are meant; those that need none pay nothing."""

    def read(payload: Any) -> Any:
        row = decode(payload)
        for name, meant, where in coercions:
            value = getattr(row, name)
            if value is not None:
                try:
                    setattr(row, name, meant(value))
                except BadValue as error:
                    raise _refused_at(error, where) from error
        return row

    return read


def _label_decoder(config: Config, time: Any) -> Callable[[Any], Any]:
    """Reads rows with ``id``, ``label``, and ``time`` if the configuration names one."""
    label = config.label
    values = [
        Value("id", place(config.label_event_id), str | int),
        Value("label", place(label.field), _truth_kind(config)),
        Value("corrects", place(label.corrects), bool, required=False),
    ]
    if label.time is not None:
        values.append(Value("time", place(label.time), time, required=False))
    read = decoder("Label", values, plain=label.format != "json")
    coercions = _truth_coercions(config)
    return _coerced(read, coercions) if coercions else read


def _truth_kind(config: Config) -> Any:
    """What the JSON value of a truth must be."""
    kind = config.task().json
    return kind if config.label.decimal is None else kind | str


def _truth_coercions(config: Config) -> list[Coercion]:
    label = config.label
    if label.decimal is None:
        return []
    return [("label", number_in_text(label.decimal, label.thousands), pointed(place(label.field)))]


def provisional(name: str) -> float:
    """In place of the truth of a class that may enter: a number below 0, by its name alone."""
    return -1.0 - float(hash_text(name) >> 11)


def _truths(labels: list[float | str]) -> tuple[F64, dict[float, str]]:
    """Truths, provisional ones of newcomers among them, and the names of these."""
    if str not in set(map(type, labels)):
        return np.array(labels, dtype=np.float64), {}
    newcomers = {provisional(name): name for name in labels if isinstance(name, str)}
    y = [provisional(label) if isinstance(label, str) else label for label in labels]
    return np.array(y, dtype=np.float64), newcomers


def _numbers(values: list[float | bool | None], missing: float) -> F64:
    if not math.isnan(missing):  # which None is as a number
        values = [missing if v is None else v for v in values]
    return np.array(values, dtype=np.float64)


def _hashes(values: list[str | int | None], default: object) -> U64:
    found = hash_texts(list(map(str, values)))
    if None not in values:
        return found
    missing = 0 if default is None else hash_text(str(default))
    found[[v is None for v in values]] = missing
    return found

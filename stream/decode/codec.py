"""Bytes to typed columns: every bad byte of the stream ends here, with its reason.

The decoders are built once from the configuration's event schema. A record that does not fit
becomes a :class:`DeadLetter`, never an exception, and never stops its batch.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from operator import attrgetter
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.base import BOOL, F64, I64, U64, EventColumns
from models.task import json_text
from stream.contract.commands import COMMAND, Command, meant_by
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
PIECE = 1024
"""Records that are decoded together, and made columns of while they are in the cache; a bad one
among them makes its half be decoded once more, and the half of that."""
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
    """What a good record is filed under: its event's id, and the text its partition follows; of an
    event also its time."""

    id: str
    key: str
    time_ms: int = -1


class Meant(NamedTuple):
    """What rows mean beyond their form, ``n`` each: ids as texts, times in UTC ms, -1 where not
    given, and truths or the names of newcomers."""

    ids: list[str]
    times_ms: I64
    values: list[float | str]

    def and_of(self, more: Meant) -> Meant:
        """With that of further rows."""
        times_ms = np.concatenate([self.times_ms, more.times_ms])
        return Meant(self.ids + more.ids, times_ms, self.values + more.values)


NOTHING = Meant([], np.empty(0, np.int64), [])
Columns = tuple[list[str], tuple[NDArray[Any], ...], dict[float, str]]
"""Ids, arrays ``(n,)``, and the names of newcomers by their provisional truths."""
Sifted = tuple[Sequence[Record], list[Any], Meant, list[DeadLetter]]
"""The good records, the row of each, what they mean, and the bad records, each in input order."""


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
        self._to_ms, self._label_to_ms = time.all_ms, label_time.all_ms
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
        good, parts, bad = self._each_event(records, self._event_columns)
        ids, known, names = _columns(parts)
        id_hash, times, label, *columns = known
        fields = iter(columns)
        numbers, categories, entities = (
            {n: next(fields) for n, *_ in kind}
            for kind in (self._numbers, self._categories, self._entities)
        )
        found = EventColumns(times, numbers, categories, entities)
        return Events(good, ids, id_hash, found, label, names), bad

    def _event_columns(self, rows: list[Any], meant: Meant) -> Columns:
        y, names = _truths(meant.values)
        numbers = [_numbers([*map(of, rows)], d) for _, of, d in self._numbers]
        categories = [_hashes([*map(of, rows)], d, few=True) for _, of, d in self._categories]
        entities = [_hashes([*map(of, rows)], d) for _, of, d in self._entities]
        known = (hash_texts(meant.ids), meant.times_ms, y, *numbers, *categories, *entities)
        return meant.ids, known, names

    def labels(self, records: Sequence[Record]) -> tuple[Labels, list[DeadLetter]]:
        """Columns of the good labels and the bad records, each in input order."""
        good, parts, bad = self._each_label(records, _label_columns)
        _, (id_hash, times, y, corrects), names = _columns(parts)
        return Labels(good, id_hash, y, times, corrects, names), bad

    def event_keys(self, records: Sequence[Record]) -> tuple[list[Keyed], list[DeadLetter]]:
        """Keys of the good events and the bad records: those that :meth:`events` gives.

        An event is filed under its first entity field, so that what belongs together stays in
        order; under its id where it has none.
        """
        _, of, default = self._entities[0] if self._entities else ("", attrgetter("id"), None)

        def keyed(rows: list[Any], meant: Meant) -> list[Keyed]:
            keys = (default if key is None else key for key in map(of, rows))
            return [
                Keyed(i, i if key is None else str(key), ms)
                for i, key, ms in zip(meant.ids, keys, meant.times_ms.tolist(), strict=True)
            ]

        _, parts, bad = self._each_event(records, keyed)
        return list(chain.from_iterable(parts)), bad

    def label_keys(self, records: Sequence[Record]) -> tuple[list[Keyed], list[DeadLetter]]:
        """Keys of the good labels, their event's id, and the bad records."""
        _, parts, bad = self._each_label(records, lambda _, meant: meant.ids)
        return [Keyed(i, i) for i in chain.from_iterable(parts)], bad

    def command(self, record: Record) -> Command | DeadLetter:
        """The operator's command in a control record; it names only what exists."""
        try:
            payload = shallow(self._payload(record))
            try:
                command: Command = self._command.decode(payload)
            except msgspec.ValidationError as error:
                raise ValueError(meant_by(str(error), msgspec.json.decode(payload))) from error
            command.check(self._members, self._task, self._configured)
            return command
        except _Refused as refusal:
            return DeadLetter(record, refusal.reason, refusal.error)
        except (msgspec.MsgspecError, ValueError) as error:
            return DeadLetter(record, "command", str(error))

    def _each_event(
        self, records: Sequence[Record], made: Callable[[list[Any], Meant], T]
    ) -> tuple[list[Record], list[T], list[DeadLetter]]:
        return self._each(records, self._unpack_event, self._event, self._events_meant, made)

    def _each_label(
        self, records: Sequence[Record], made: Callable[[list[Any], Meant], T]
    ) -> tuple[list[Record], list[T], list[DeadLetter]]:
        return self._each(records, self._unpack_label, self._label, self._labels_meant, made)

    def _each(
        self,
        records: Sequence[Record],
        unpack: Unpack | None,
        read: Callable[[Any], Any],
        meant: Callable[[list[Any]], Meant],
        made: Callable[[list[Any], Meant], T],
    ) -> tuple[list[Record], list[T], list[DeadLetter]]:
        """The good records, what is ``made`` of the rows of each piece, and the bad records.

        ``read`` makes a row of a record's JSON, or of what ``unpack`` makes of its bytes; ``meant``
        makes of rows what their values mean.
        """
        good: list[Record] = []
        parts: list[T] = []
        bad: list[DeadLetter] = []
        for first in range(0, len(records), PIECE) or [0]:
            piece = records[first : first + PIECE]
            kept, rows, found, letters = self._sifted(piece, unpack, read, meant)
            parts.append(made(rows, found))
            good += kept
            bad += letters
        return good, parts, bad

    def _sifted(
        self,
        records: Sequence[Record],
        unpack: Unpack | None,
        read: Callable[[Any], Any],
        meant: Callable[[list[Any]], Meant],
    ) -> Sifted:
        """All at once, one by one took a quarter longer; where one is bad, each half by itself."""
        try:
            rows = self._rows(records, unpack, read)
            return records, rows, meant(rows), []
        except (_Refused, msgspec.MsgspecError, ValueError) as error:
            if len(records) == 1:
                reason = error.reason if isinstance(error, _Refused) else _reason(error)
                said = error.error if isinstance(error, _Refused) else plainly(error)
                return [], [], meant([]), [DeadLetter(records[0], reason, said)]
        half = len(records) // 2
        one = self._sifted(records[:half], unpack, read, meant)
        other = self._sifted(records[half:], unpack, read, meant)
        kept, both = [*one[0], *other[0]], one[2].and_of(other[2])
        return kept, one[1] + other[1], both, one[3] + other[3]

    def _rows(
        self, records: Sequence[Record], unpack: Unpack | None, read: Callable[[Any], Any]
    ) -> list[Any]:
        """The rows of records; raises what is wrong with one of them."""
        payloads = [record.value or b"" for record in records]
        whole = b"".join(payloads)
        if len(whole) > self._limit or not all(payloads):  # one of them may be
            payloads = list(map(self._payload, records))
        if unpack is None:
            return list(map(read, all_shallow(payloads, whole)))
        return list(map(read, map(unpack, records, payloads)))

    def _events_meant(self, rows: list[Any]) -> Meant:
        """Of events, whose labels are truths where inline."""
        try:
            times_ms = self._to_ms([row.time for row in rows])
        except BadTime as error:
            raise _refused_at(error, self._event_time) from error
        ids = _identifiers([row.id for row in rows])
        if self._inline:
            return Meant(ids, times_ms, self._values([row.label for row in rows]))
        return Meant(ids, times_ms, [math.nan] * len(rows))

    def _labels_meant(self, rows: list[Any]) -> Meant:
        """Of labels: the ids are their events', the times those when they were made."""
        times_ms = np.full(len(rows), -1)
        if self._label_time is not None:
            try:
                times_ms = _where_given([row.time for row in rows], self._label_to_ms)
            except BadTime as error:
                raise _refused_at(error, self._label_time) from error
        ids, values = _identifiers([row.id for row in rows]), [row.label for row in rows]
        return Meant(ids, times_ms, self._values(values))

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
        kinds = {*map(type, values)}
        if len(kinds) > 1 or not kinds <= {bool, int, str}:
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


def _texts(values: list[Any]) -> list[str]:
    return values if {*map(type, values)} <= {str} else list(map(str, values))


def _identifiers(values: list[str | int]) -> list[str]:
    """Ids as texts."""
    texts = _texts(values)
    sizes = {*map(len, texts)} or {1}
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


def _hashes(values: list[str | int | None], default: object, few: bool = False) -> U64:
    """Hashes of the values' texts; ``few``: of many values most are equal to others."""
    texts = _texts(values)
    if few and len(distinct := [*{*texts}]) < len(texts) // 2:
        by_text = dict(zip(distinct, hash_texts(distinct).tolist(), strict=True))
        found = np.array(list(map(by_text.__getitem__, texts)), np.uint64)
    else:
        found = hash_texts(texts)
    if None not in values:
        return found
    missing = 0 if default is None else hash_text(str(default))
    found[[v is None for v in values]] = missing
    return found


def _where_given(times: list[Any], to_ms: Callable[[list[Any]], I64]) -> I64:
    """The times, -1 where there is none."""
    if None not in times:
        return to_ms(times)
    given = [i for i, at in enumerate(times) if at is not None]
    found = np.full(len(times), -1)
    found[given] = to_ms([times[i] for i in given])
    return found


def _label_columns(rows: list[Any], meant: Meant) -> Columns:
    y, names = _truths(meant.values)
    corrects = [row.corrects for row in rows]
    corrected = np.zeros(len(rows), np.bool_)
    if True in corrects:
        corrected[:] = [said is True for said in corrects]
    return meant.ids, (hash_texts(meant.ids), meant.times_ms, y, corrected), names


def _columns(parts: list[Columns]) -> Columns:
    """Those of all parts, one at least."""
    if len(parts) == 1:
        return parts[0]
    ids, known, names = zip(*parts, strict=True)
    arrays = tuple(map(np.concatenate, zip(*known, strict=True)))
    return [*chain.from_iterable(ids)], arrays, dict(chain.from_iterable(n.items() for n in names))

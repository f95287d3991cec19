"""Bodies to records: what can never be scored is refused here, before it reaches the log.

The rules are the engine's own (``stream/decode/codec.py``), so that an event the edge takes is one
the engine can read; what depends on the engine's state (a repeated id, an event time ahead of the
clock) still becomes a dead letter there. The bytes go to the log as they came.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import msgspec
import numpy as np

from stream.contract.letters import DeadLetter
from stream.contract.records import NewRecord, Record
from stream.decode.cloudevents import CONTENT_TYPE, STRUCTURED
from stream.decode.codec import Keyed
from stream.decode.explain import explained
from stream.decode.feedback import codec_of
from stream.decode.times import misread, period_of
from stream.http.body import NDJSON
from stream.http.problem import Problem
from stream.settings.schema import SCHEMA_TYPES, Config, InputFormat

T = TypeVar("T")
SHOWN = 20
"""Refused records that one problem names."""

_STATUS_ORDER = (("malformed", "malformed"), ("oversized", "too-large"))


class Accepted(NamedTuple):
    """Records ready to append and, in the same order, the ids in them; and what is odd of them."""

    ids: list[str]
    records: list[NewRecord]
    notes: list[str]


class _Kind(NamedTuple):
    """Records of one kind: their topic, how they are written, and who checks them.

    It is the codec that the engine decodes with; its keys are the records'.
    """

    topic: str
    format: InputFormat
    check: Callable[[Sequence[Record]], tuple[list[Keyed], list[DeadLetter]]]


class Ingest:
    """Splits and checks the bodies of one configuration.

    CloudEvents come in structured. Topics whose records name a schema are not written from here.
    """

    def __init__(self, config: Config) -> None:
        self._codec, self._config = codec_of(config), config
        topics, codec = config.topics, self._codec
        self._event = _Kind(topics.events, config.event.format, codec.event_keys)
        self._label = _Kind(topics.labels, config.label.format, codec.label_keys)

    def events(self, body: bytes, media: str) -> Accepted:
        """The events of a JSON object, a JSON array or NDJSON lines.

        Raises
        ------
        Problem
            ``malformed``, ``too-large`` or ``invalid``, naming each refused record by its index;
            one bad record refuses the whole body, so that nothing is half appended.
            ``media-type`` where the topic does not hold JSON.
        """
        return self._accept(self._event, *_split(body, media))

    def event(self, body: bytes) -> tuple[str, NewRecord]:
        """The one event of a JSON object; raises as :meth:`events`."""
        one = self._accept(self._event, [body.strip()], batch=False)
        return one.ids[0], one.records[0]

    def labels(self, body: bytes, media: str) -> Accepted:
        """The labels of a JSON object, a JSON array or NDJSON lines; raises as :meth:`events`."""
        return self._accept(self._label, *_split(body, media))

    def command(self, body: bytes, actor: str) -> NewRecord:
        """The operator's command, with ``actor`` set to the caller whatever the body says."""
        _json(body, msgspec.Raw)
        command = self._codec.command(_read("", body.strip(), 0))
        if isinstance(command, DeadLetter):
            raise _refusal([command], [_error(command, batch=False)])
        return NewRecord(None, msgspec.json.encode(msgspec.structs.replace(command, actor=actor)))

    def _accept(self, kind: _Kind, values: Sequence[bytes], batch: bool) -> Accepted:
        if kind.format in SCHEMA_TYPES:
            raise Problem(
                "media-type",
                f"expected JSON on the topic, which holds {kind.format}: write there with a "
                "serializer of the registry",
            )
        cloud = kind.format == "cloudevents"
        headers = ((CONTENT_TYPE, STRUCTURED.encode()),) if cloud else ()
        keyed, bad = kind.check([_read(kind.topic, value, i) for i, value in enumerate(values)])
        if bad:
            told = bad[:SHOWN]
            raise _refusal(bad, [_error(b, batch) | self._explained(b) for b in told])
        records = [
            NewRecord(one.key.encode(), value, headers=headers)
            for one, value in zip(keyed, values, strict=True)
        ]
        times = np.array([one.time_ms for one in keyed if one.time_ms >= 0], np.int64)
        notes = misread(period_of(times), self._config.event.time_format)
        return Accepted([one.id for one in keyed], records, list(notes))

    def _explained(self, bad: DeadLetter) -> dict[str, str]:
        """What was got, and what to do, where that can be told."""
        told = explained(bad, self._config)
        return {key: told[key] for key in ("got", "advice") if key in told}


def _read(topic: str, value: bytes, index: int) -> Record:
    """A record as the engine will read it; its offset is the index in the body."""
    return Record(topic, 0, index, None, value)


def _refusal(bad: Sequence[DeadLetter], errors: list[dict[str, str]]) -> Problem:
    reasons = {b.reason for b in bad}
    for reason, kind in _STATUS_ORDER:
        if reason in reasons:
            return Problem(kind, _summary(len(bad)), errors=errors)
    return _invalid(errors, len(bad))


def _split(body: bytes, media: str) -> tuple[list[bytes], bool]:
    """The records in a body, and whether it is a batch (then errors name an index)."""
    if media == NDJSON:
        values = [line.strip() for line in body.split(b"\n")]
        values = [line for line in values if line]
        batch = True
    else:
        whole = body.strip()
        batch = whole.startswith(b"[")
        values = _elements(whole) if batch else [whole]
    if not values:
        raise _invalid([{"path": "$", "error": "expected at least one record, got none"}])
    return values, batch


def _elements(array: bytes) -> list[bytes]:
    return [bytes(raw) for raw in _json(array, list[msgspec.Raw])]


def _json(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise Problem("malformed", f"expected JSON: {error}") from error
    except RecursionError as error:
        raise Problem("malformed", "expected JSON nested less deeply") from error


def _invalid(errors: list[dict[str, str]], count: int = 1) -> Problem:
    return Problem("invalid", _summary(count), errors=errors)


def _summary(count: int) -> str:
    return f"{count} record(s) refused, nothing was appended; `errors` names the first {SHOWN}"


def _error(bad: DeadLetter, batch: bool) -> dict[str, str]:
    root = f"$[{bad.record.offset}]" if batch else "$"
    text, found, path = bad.error.partition(" - at `$")
    return {"path": root + path.rstrip("`") if found else root, "error": text}

"""Bodies to records: what can never be scored is refused here, before it reaches the log.

The rules are the engine's own (``stream/decode/codec.py``), so that an event the edge takes is one
the engine can read; what depends on the engine's state (a repeated id, an event time ahead of the
clock) still becomes a dead letter there. The bytes go to the log as they came.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from stream.contract.commands import Command
from stream.contract.records import NewRecord, Record
from stream.decode.codec import Codec
from stream.decode.letters import Bad
from stream.http.body import NDJSON
from stream.http.problem import Problem
from stream.settings.schema import Config

SHOWN = 20
"""Refused records that one problem names."""

_STATUS_ORDER = (("malformed", "malformed"), ("oversized", "too-large"))


class Accepted(NamedTuple):
    """Records ready to append and, in the same order, the ids in them."""

    ids: list[str]
    records: list[NewRecord]


class Ingest:
    """Splits and checks the bodies of one configuration."""

    def __init__(self, config: Config) -> None:
        self._codec = Codec(config)
        self._members = tuple(member.name for member in config.members)
        self._event_keys = _key_decoder(config.event.id, _entity_path(config))
        self._label_keys = _key_decoder(config.label_event_id, None)

    def events(self, body: bytes, media: str) -> Accepted:
        """The events of a JSON object, a JSON array or NDJSON lines.

        Raises
        ------
        Problem
            ``malformed``, ``too-large`` or ``invalid``, naming each refused record by its index;
            one bad record refuses the whole body, so that nothing is half appended.
        """
        values, batch = _split(body, media)
        self._refuse(self._checked(self._codec.events, values)[1], batch)
        return self._accept(values, self._event_keys)

    def event(self, body: bytes) -> tuple[str, NewRecord]:
        """The one event of a JSON object; raises as :meth:`events`."""
        value = body.strip()
        self._refuse(self._checked(self._codec.events, [value])[1], batch=False)
        (event_id,), (record,) = self._accept([value], self._event_keys)
        return event_id, record

    def labels(self, body: bytes, media: str) -> Accepted:
        """The labels of a JSON object, a JSON array or NDJSON lines; raises as :meth:`events`."""
        values, batch = _split(body, media)
        self._refuse(self._checked(self._codec.labels, values)[1], batch)
        return self._accept(values, self._label_keys)

    def command(self, body: bytes, actor: str) -> NewRecord:
        """The operator's command, with ``actor`` set to the caller whatever the body says."""
        _require_json(body)
        (command, *_), bad = self._checked(self._commands, [body.strip()])
        self._refuse(bad, batch=False)
        member = getattr(command, "member", None)
        if member is not None and member not in self._members:
            known = ", ".join(self._members)
            error = f"expected one of {known}; got {member[:80]!r}"
            raise _invalid([{"path": "$.member", "error": error}])
        return NewRecord(None, msgspec.json.encode(msgspec.structs.replace(command, actor=actor)))

    def _commands(self, records: Sequence[Record]) -> tuple[list[Command | None], list[Bad]]:
        outcome = self._codec.command(records[0])
        return ([None], [outcome]) if isinstance(outcome, Bad) else ([outcome], [])

    def _checked(self, check: Any, values: Sequence[bytes]) -> Any:
        try:
            return check([Record("", 0, i, None, value) for i, value in enumerate(values)])
        except RecursionError as error:
            raise Problem("malformed", "expected JSON nested less deeply") from error

    def _refuse(self, bad: Sequence[Bad], batch: bool) -> None:
        if not bad:
            return
        errors = [_error(b, batch) for b in bad[:SHOWN]]
        reasons = {b.reason for b in bad}
        for reason, kind in _STATUS_ORDER:
            if reason in reasons:
                raise Problem(kind, _summary(len(bad)), errors=errors)
        raise _invalid(errors, len(bad))

    def _accept(self, values: Sequence[bytes], keys: msgspec.json.Decoder[Any]) -> Accepted:
        ids: list[str] = []
        records: list[NewRecord] = []
        for value in values:
            row = keys.decode(value)
            ids.append(str(row.id))
            key = row.id if row.entity is None else row.entity
            records.append(NewRecord(str(key).encode(), value))
        return Accepted(ids, records)


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
    _require_json(array)
    return [bytes(raw) for raw in msgspec.json.decode(array, type=list[msgspec.Raw])]


def _require_json(body: bytes) -> None:
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except msgspec.MsgspecError as error:
        raise Problem("malformed", f"expected JSON: {error}") from error
    except RecursionError as error:
        raise Problem("malformed", "expected JSON nested less deeply") from error


def _invalid(errors: list[dict[str, str]], count: int = 1) -> Problem:
    return Problem("invalid", _summary(count), errors=errors)


def _summary(count: int) -> str:
    return f"{count} record(s) refused, nothing was appended; `errors` names the first {SHOWN}"


def _error(bad: Bad, batch: bool) -> dict[str, str]:
    root = f"$[{bad.record.offset}]" if batch else "$"
    text, found, path = bad.error.partition(" - at `$")
    return {"path": root + path.rstrip("`") if found else root, "error": text}


def _entity_path(config: Config) -> str | None:
    """The JSON name of the first declared entity field; its value is the event's key."""
    for name, field in config.event.fields.items():
        if field.kind == "entity":
            return field.path or name
    return None


def _key_decoder(id_name: str, entity_name: str | None) -> msgspec.json.Decoder[Any]:
    """A decoder of nothing but what the record's key is made of."""
    fields: list[Any] = [("id", str | int)]
    rename = {"id": id_name}
    if entity_name is not None and entity_name != id_name:
        fields.append(("entity", str | int | None, None))
        rename["entity"] = entity_name
    struct = msgspec.defstruct("Keys", fields, rename=rename, gc=False)
    if len(fields) == 1:
        struct.entity = None  # type: ignore[attr-defined]
    return msgspec.json.Decoder(struct)

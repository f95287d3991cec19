"""Why a record was refused, in words that help: the value, how it should be written, what to set.

What to write in the configuration is said in the words of ``docs/configuration.md``.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Mapping

import msgspec

from stream.contract.letters import DeadLetter
from stream.decode.coerce import marks_of
from stream.decode.feedback import KINDS as FEEDBACK
from stream.decode.times import likely_format, time_rule
from stream.settings.paths import place, pointed
from stream.settings.schema import Config, TimeFormat
from stream.settings.shape import Place

SHOWN = 60
"""Characters of a wrong value, and names of a row's fields, that are shown at most."""

TIMESTAMP, KIND = "timestamp", "event"
"""The time of every record of a ranking, and which kind of record it is."""
KINDS = tuple(str(kind.__struct_config__.tag) for kind in FEEDBACK)

_WRITTEN = {
    "number": "a number without currency or separators",
    "boolean": "true or false",
    "category": "text or a whole number",
    "entity": "text or a whole number",
}


def explained(letter: DeadLetter, config: Config) -> dict[str, str]:
    """The field and the value that a record was refused for, where one was, and what to do."""
    paths = _paths(config)
    field = _field(letter)
    named = {pointed(where): path for path, where in paths.items()}
    if "missing required field" in letter.error:
        # An object that is missing stands for the first value that is read in it.
        within = (path for where, path in named.items() if where.startswith(f"$.{field}."))
        field = next(within, field)
    field = named.get(f"$.{field}", field)
    row = _row(letter, paths)
    found = {}
    if field is not None:
        found["field"] = field
        value = row[field] if field in row else _deep(letter.record.value or b"", field)
        found["got"] = "none" if value is None else _short(bytes(value).decode(errors="replace"))
    advice = _advice(letter, config, field, row)
    return found | ({"advice": advice} if advice else {})


def _deep(raw: bytes, field: str) -> msgspec.Raw | None:
    """The value at a path such as ``items[3].id``, if there is one."""
    try:
        value = msgspec.json.decode(raw)
        for name, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", field):
            value = value[int(index)] if index else value[name]
    except (msgspec.MsgspecError, LookupError, TypeError, RecursionError, UnicodeDecodeError):
        return None
    return msgspec.Raw(msgspec.json.encode(value))


def _field(letter: DeadLetter) -> str | None:
    around = re.search(r" - at `\$\.(.+?)`", letter.error)
    named = re.search(r"field `(.+?)`", letter.error)
    return ".".join(found[1] for found in (around, named) if found) or None


def _paths(config: Config) -> dict[str, Place]:
    """What the configuration reads, by its path or name as written there."""
    event, label = config.event, config.label
    written = [event.id, event.time, config.label_event_id, label.field, label.time]
    paths = {path: place(path) for path in written if path is not None}
    return paths | {f.path or name: event.place(name) for name, f in event.fields.items()}


def _row(letter: DeadLetter, paths: Mapping[str, Place]) -> Mapping[str, msgspec.Raw]:
    """The row's values by name, and those at paths that lead deeper by their path."""
    raw = letter.record.value or b""
    try:
        row = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
        whole = msgspec.json.decode(raw)
        for path, where in paths.items():
            try:
                value = functools.reduce(operator.getitem, where, whole)
            except (LookupError, TypeError):
                row.pop(path, None)
            else:
                row[path] = msgspec.Raw(msgspec.json.encode(value))
        return row
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return {}


def _advice(
    letter: DeadLetter, config: Config, field: str | None, row: Mapping[str, msgspec.Raw]
) -> str:
    if letter.reason == "schema" and field is not None:
        of_label = letter.record.topic == config.topics.labels
        return (_label_schema if of_label else _event_schema)(letter, config, field, row)
    if letter.reason == "label_value":
        value = re.search(r"got '(.*)'", letter.error)
        return _TRUTHS[config.target.type](config, value[1] if value else "")
    return {
        "label_class": "raise target.max_classes, or say under [label.values] which class it is of",
        "malformed": "each row must be one JSON object",
        "oversized": "raise limits.record_bytes",
        "event_time_ahead": "put the rows in the order of their event times, or raise limits.ahead",
        "duplicate_event": 'name a field that is unique to each event: [event] id = "..."',
        "label_orphan": "lengthen label.horizon if labels come later than that",
    }.get(letter.reason, "")


def _event_schema(
    letter: DeadLetter, config: Config, field: str, row: Mapping[str, msgspec.Raw]
) -> str:
    event = config.event
    if "unknown field" in letter.error:
        return 'write unknown_fields = "ignore" under [event]'
    for key, name in (("id", event.id), ("time", event.time)):
        if field == name and field not in row:
            return f'name the field: [event] {key} = "..."; {_has(row)}'
    if field == (event.time if config.reco is None else TIMESTAMP):
        return _time(row[field], "[event]", event.time_format, event.time_zone)
    if config.reco is not None and field == KIND:
        return f"write one of {', '.join(KINDS)}"
    if config.reco is not None and not field.startswith("fields"):
        return "write text, between quotes" if "Expected `str" in letter.error else ""
    for name, settings in event.fields.items():
        if field == (settings.path or name):
            if bytes(row.get(field, b"null")) == b"null":
                where = f"; {_has(row)}" if field not in row else ""
                kind = settings.kind
                return (
                    f'if it may be missing: [event.fields] {name} = {{ kind = "{kind}", '
                    f"required = false }}{where}"
                )
            other = f' or, if it is text: [event.fields] {name} = "category"'
            other = other if settings.kind in ("number", "boolean") else ""
            given = msgspec.json.decode(row.get(field, b"null"))
            if settings.kind == "number" and (marks := _marks(given)):
                other = f' or say how it is: [event.fields] {name} = {{ kind = "number", {marks} }}'
            return f"write {_WRITTEN.get(settings.kind, settings.kind)}{other}"
    return ""


def _label_schema(
    letter: DeadLetter, config: Config, field: str, row: Mapping[str, msgspec.Raw]
) -> str:
    label = config.label
    for key, name in (("event_id", config.label_event_id), ("field", label.field)):
        if field == name and field not in row:
            return f'name the field: [label] {key} = "..."; {_has(row)}'
    if field == label.time:
        return _time(row[field], "[label]", config.label_time_format, config.event.time_zone)
    if field != label.field:
        return ""
    if config.target.type == "number":
        return _one_number(config, msgspec.json.decode(row[field]))
    return "write true, false, a whole number or text"


def _yes_or_no(config: Config, value: str) -> str:
    return f"say what it means under [label.values], such as {_quoted(value)} = 1"


def _one_class(config: Config, value: str) -> str:
    known = _quoted(next(iter(config.task().names), "..."))
    return (
        "add it to target.classes, or say under [label.values] which class it is of, such as "
        f"{_quoted(value)} = {known}"
    )


def _one_number(config: Config, value: object) -> str:
    marks = _marks(value)
    # With a point and nothing else it is read: what is wrong is how much it says.
    how = f" or say how it is: [label] {marks}" if marks not in ("", 'decimal = "."') else ""
    return f"write {config.task().expected} without currency or separators{how}"


_TRUTHS: dict[str, Callable[[Config, str], str]] = {
    "binary": _yes_or_no,
    "classes": _one_class,
    "number": _one_number,
}
"""By target, how a truth may be written, or what may be said of how it is."""


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()


def _marks(value: object) -> str:
    """The settings by which a text is a number, as TOML; empty where it is none."""
    marks = marks_of([value]) if isinstance(value, str) else None
    if marks is None:
        return ""
    names = (("decimal", marks[0]), ("thousands", marks[1]))
    return ", ".join(f'{name} = "{mark}"' for name, mark in names if mark)


def _time(value: msgspec.Raw, table: str, configured: TimeFormat, zone: str | None) -> str:
    """The format that reads the value, else how the configured one writes."""
    likely = likely_format(value)
    if likely is not None:
        return f'write time_format = "{likely}" under {table}'
    example = msgspec.json.encode(time_rule(configured, zone).example).decode()
    return f'write it as {example} (time_format = "{configured}")'


def _has(row: Mapping[str, msgspec.Raw]) -> str:
    return f"the row has {_short(', '.join(row))}" if row else "the row is no JSON object"


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."

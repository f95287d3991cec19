"""The dead letters of a played file: counted, the first ones told with their rows, all written.

What to write in the configuration is said in the words of ``docs/configuration.md``. Nothing here
decides what becomes a dead letter.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import msgspec

from stream.contract.letters import DeadLetter
from stream.decode.times import TIME_RULES, BadTime
from stream.settings.schema import Config, TimeFormat
from stream.tools.files import FileError

TOLD = 5
"""Dead letters that are told one by one."""
SHOWN = 60
"""Characters of a wrong value, and names of a row's fields, that are shown at most."""

_WRITTEN = {
    "number": "a number without currency or separators",
    "boolean": "true or false",
    "category": "text or a whole number",
    "entity": "text or a whole number",
}


class Refused:
    """Takes dead letters; use it as a context manager.

    Parameters
    ----------
    config : Config
    path : Path or None
        Where to write all of them, as JSON Lines of ``reason``, ``error``, ``row`` (from 1),
        ``file`` and ``raw``.

    Attributes
    ----------
    reasons : Counter
    first : list of dict
        The first :data:`TOLD`, with the value they were refused for and what to do.
    """

    def __init__(self, config: Config, path: Path | None = None) -> None:
        self.reasons: Counter[str] = Counter()
        self.first: list[dict[str, Any]] = []
        self._config = config
        self._path = path
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        if self._path is not None:
            try:
                self._file = self._path.open("wb")
            except OSError as error:
                raise FileError(f"{self._path}: cannot be written: {error.strerror}") from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()

    def take(self, letter: DeadLetter, file: str, row: int) -> None:
        """One dead letter of row ``row``, from 1, of ``file``."""
        self.reasons[letter.reason] += 1
        told: dict[str, Any] = {
            "reason": letter.reason, "error": letter.error, "row": row, "file": file,
        }  # fmt: skip
        if self._file is not None:
            raw = (letter.value or b"").decode(errors="replace")
            self._file.write(msgspec.json.encode(told | {"raw": raw}) + b"\n")
        if len(self.first) < TOLD:
            self.first.append(told | explained(letter, self._config))


def explained(letter: DeadLetter, config: Config) -> dict[str, str]:
    """The field and the value that a record was refused for, where one was, and what to do."""
    field = _field(letter)
    row = _row(letter)
    found = {}
    if field is not None:
        found["field"] = field
        found["got"] = (
            _short(bytes(row[field]).decode(errors="replace")) if field in row else "none"
        )
    advice = _advice(letter, config, field, row)
    return found | ({"advice": advice} if advice else {})


def _field(letter: DeadLetter) -> str | None:
    named = re.search(r"field `(.+?)`|at `\$\.(.+?)`", letter.error)
    return (named[1] or named[2]) if named else None


def _row(letter: DeadLetter) -> Mapping[str, msgspec.Raw]:
    try:
        return msgspec.json.decode(letter.record.value or b"", type=dict[str, msgspec.Raw])
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
        text = msgspec.json.encode(value[1] if value else "").decode()
        return f"say what it means under [label.values], such as {text} = 1"
    return {
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
    if field == event.time:
        return _time(row[field], "[event]", event.time_format)
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
        return _time(row[field], "[label]", config.label_time_format)
    return "write true, false, a whole number or text" if field == label.field else ""


def _time(value: msgspec.Raw, table: str, configured: TimeFormat) -> str:
    """The format that reads the value, else how the configured one writes."""
    fits = [name for name, rule in TIME_RULES.items() if _reads(rule.read, value)]
    if "s" in fits and "ms" in fits:  # seconds of this century have ten digits
        fits.remove("s" if len(bytes(value).partition(b".")[0]) > 11 else "ms")
    if fits:
        return f'write time_format = "{fits[0]}" under {table}'
    example = msgspec.json.encode(TIME_RULES[configured].example).decode()
    return f'write it as {example} (time_format = "{configured}")'


def _reads(read: Any, value: msgspec.Raw) -> bool:
    try:
        read(value)
    except BadTime:
        return False
    return True


def _has(row: Mapping[str, msgspec.Raw]) -> str:
    return f"the row has {_short(', '.join(row))}" if row else "the row is no JSON object"


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."

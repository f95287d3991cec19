"""`millrace init`: a commented configuration from the first rows of a file.

Each guess stands in the text with its reason; what is missing is said in a sentence. The rows are
read, never executed; names and values reach the text only as quoted strings.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from models.base import MillraceError
from models.settings import Feature, column_names
from stream.contract.records import Record
from stream.decode.codec import Codec
from stream.decode.coerce import number_in_text
from stream.settings.load import parse
from stream.settings.shape import Place
from stream.tools.draft.columns import FEW, Column, columns_of, moments, shown
from stream.tools.draft.ranking import columns_of_interactions, looks_so, ranking
from stream.tools.draft.written import head, key_of, quoted, time_lines, toml
from stream.tools.files import read_rows

SAMPLE = 10_000
"""Rows that guesses are made of."""
_TIME = re.compile(r"time|date|created|occurred|(^|[_.\- ])(ts|at)$", re.I)
_LATER = re.compile(r"report|label|charge|updat|modif|settle|known", re.I)
_LABEL = re.compile(r"label|fraud|target|^y$|^class$|click|convert|churn|outcome|chargeback", re.I)
_AMOUNT = re.compile(r"amount|price|value|total|sum|cost|amt|quantity", re.I)
_POSITIVE = re.compile(r"^(1|y|yes|t|true|fraud|bad|positive|pos|up|click(ed)?|churn(ed)?)$", re.I)


_FEATURE: TypeAdapter[Any] = TypeAdapter(Feature)


class Draft(NamedTuple):
    """A configuration's text, how many rows it was made of, and of these the dead letters.

    ``truth`` is the column that is learned, if there is one.
    """

    text: str
    rows: int
    refused: int
    truth: str | None


class _Truth(NamedTuple):
    """The column of the truth, what it is of, and how ``[target]`` and ``[label]`` have it."""

    column: Column
    why: str
    target: dict[str, Any]
    label: dict[str, Any]
    silence: str
    """What an event without a label comes to."""


_Timed = tuple[Column, tuple[str, str | None]]


class _Parts(NamedTuple):
    """What the columns are for."""

    id: Column
    time: Column
    time_format: tuple[str, str | None]
    truth: _Truth | None
    label_time: tuple[Column, str] | None
    fields: list[Column]


def draft(path: Path, label: str | None = None, item: str | None = None) -> Draft:
    """The configuration that fits the first rows of a file.

    ``label`` names the column of the truth; without it one of two values is, if its name says so.
    ``item`` names the column of items that users do something with: then a ranking is drafted.
    Raises :class:`MillraceError` with what is missing where there can be none.
    """
    rows = list(islice((row for batch in read_rows(path) for row in batch), SAMPLE))
    columns, odd = columns_of(rows)
    if item is not None:
        return _of_items(path, columns, item, len(rows))
    parts = _parts(path, columns, label)
    text = _written(path, parts, odd)
    config = parse(tomllib.loads(text), str(path))
    _, bad = Codec(config).events([Record("", 0, i, None, row) for i, row in enumerate(rows)])
    return Draft(text, len(rows), len(bad), parts.truth and parts.truth.column.name)


def _of_items(path: Path, columns: list[Column], item: str, rows: int) -> Draft:
    """A ranking."""
    has = _has(path, columns)
    time, written = _timed(path, columns, has)[0]
    text = ranking(path, columns_of_interactions(columns, time, item, has), time, written)
    parse(tomllib.loads(text), str(path))
    refused = sum(c.rows - len(c.values) for c in columns if c.name == item)
    return Draft(text, rows, refused, item)


def _has(path: Path, columns: list[Column]) -> str:
    if not columns:
        raise MillraceError(f"{path}: expected rows of JSON objects with values, got none")
    return f"it has {', '.join(shown(c.name) for c in columns[:20])}"


def _timed(path: Path, columns: list[Column], has: str) -> list[_Timed]:
    """The columns of moments, the likeliest time of the event first, which every row has."""
    timed = [(c, found) for c in columns if (found := moments(c)) is not None]
    # Small whole numbers can be moments by chance: those need a name that says so.
    timed = [t for t in timed if isinstance(t[0].values[0], str) or _TIME.search(t[0].name)]
    timed.sort(
        key=lambda t: (
            len(t[0].values) < t[0].rows,
            not _TIME.search(t[0].name),
            bool(_LATER.search(t[0].name)),
        )
    )
    if not timed or len(timed[0][0].values) < timed[0][0].rows:
        raise MillraceError(
            f"{path}: no column is a time in every row; an event needs one, such as epoch "
            f"milliseconds or RFC 3339 under a name like 'time'; {has}"
        )
    return timed


def _parts(path: Path, columns: list[Column], named: str | None) -> _Parts:
    has = _has(path, columns)
    timed = _timed(path, columns, has)
    time, time_format = timed[0]
    ids = [c for c in columns if c.unique and c is not time and c.name != named]
    ids.sort(key=lambda c: (c.name.lower() not in ("id", "event_id", "uuid"), c.kind == "number",
                            not re.search("id$|key$", c.name, re.I)))  # fmt: skip
    if not ids:
        items = looks_so(columns)
        raise MillraceError(
            f"{path}: no column has a text or whole number of its own in every row; an event needs "
            f"a unique id, such as the row's number; {has}; what users do with items needs none: "
            f"--item {items.name if items else 'COLUMN'}"
        )
    rest = [c for c in columns if c is not time and c is not ids[0]]
    truth = _guessed(rest) if named is None else _named(named, rest, has)
    label = truth.column if truth else None
    later = [
        t
        for t in timed
        # Where the clock of a pattern stood is told once, for both.
        if label
        and t[0] is not time
        and _LATER.search(t[0].name)
        and t[1][1] in (None, time_format[1])
    ]
    label_time = (later[0][0], later[0][1][0]) if later else None
    fields = [c for c in rest if c is not label and not (label_time and c is label_time[0])]
    for column in fields:
        if any(column is c for c, _ in timed):
            column.kind, column.settings = "text", {}
            column.why = "a time that is not the event's"
            if label is not None and label_time is None:
                column.why += "; where the label was made then: [label] time"
        elif label is not None and column.tells(label):
            column.kind, column.settings = "text", {}
            column.why = "its value alone says the label: not used, lest it is known only later"
    if all(c.kind == "text" for c in fields):
        raise MillraceError(
            f"{path}: beside id, time and label no column is a number, a boolean, a category or a "
            f"key: there is nothing to learn from; {has}"
        )
    return _Parts(ids[0], time, time_format, truth, label_time, fields)


def _guessed(columns: list[Column]) -> _Truth | None:
    """The first of two values whose name says that it is the truth."""
    found = [c for c in columns if _LABEL.search(c.name) and len(set(c.texts)) == 2]
    return _yes_or_no(found[0], "two values and a name that says so") if found else None


def _named(name: str, columns: list[Column], has: str) -> _Truth:
    """The truth that somebody named: yes or no, one of several classes, or a number."""
    column = next((c for c in columns if c.name == name), None)
    if column is None:
        raise MillraceError(f"--label {name}: expected a column beside id and time; {has}")
    texts = sorted(set(column.texts))
    if len(texts) < 2:
        raise MillraceError(f"--label {name}: expected two values at least, got {len(texts)}")
    if len(texts) == 2:
        return _yes_or_no(column, "two values")
    if column.kind == "number" and isinstance(column.values[0], str):
        marks = {k: v for k, v in column.settings.items() if k in ("decimal", "thousands")}
        return _Truth(column, column.why, {"type": "number"}, marks, "is not learned")
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in column.values)
    if numbers and not (
        column.kind == "category" and all(isinstance(v, int) for v in column.values)
    ):
        why = f"numbers from {min(column.values)} to {max(column.values)}"
        if len(texts) <= FEW and all(isinstance(v, int) for v in column.values):
            why += '; if they stand for classes: [target] type = "classes", max_classes = '
            why += str(len(texts))
        return _Truth(column, why, {"type": "number"}, {}, "is not learned")
    if len(texts) > FEW or not all(isinstance(v, str | int) for v in column.values):
        raise MillraceError(
            f"--label {name}: expected numbers, or at most {FEW} classes as text or whole numbers; "
            f"got {len(texts):,} different values"
        )
    why = f"{len(texts)} classes"
    return _Truth(column, why, {"type": "classes", "classes": texts}, {}, "is not learned")


def _yes_or_no(column: Column, why: str) -> _Truth:
    counts = Counter(column.texts)
    texts = sorted(counts)
    said = next((t for t in texts if _POSITIVE.match(t)), None)
    positive = min(texts, key=lambda t: counts[t]) if said is None else said
    why += f"; 1 is {shown(positive)}" + (", a guess: the rarer one" if said is None else "")
    values = {t: int(t == positive) for t in texts}
    return _Truth(column, why, {}, {"values": values}, "counts as 0")


def _written(path: Path, parts: _Parts, odd: list[str]) -> str:
    fields = {column.name: column for column in parts.fields}
    lines = [
        *head(path, parts.id.rows),
        "[event]",
        "# a value of its own in every row",
        f"id = {quoted(_path(parts.id.place))}",
        f"time = {quoted(_path(parts.time.place))}",
        *time_lines(parts.time.values[0], *parts.time_format),
        "",
        "[event.fields]",
        *(line for key, column in fields.items() for line in _field(key, column)),
        *(f"# left out: {sentence}" for sentence in odd),
        "",
        *_target(parts),
        *_label(parts),
        *_features(fields),
        *_MEMBERS,
    ]
    return "\n".join(lines) + "\n"


_MEMBERS = (
    "[[members]]",
    'name = "logistic"',
    'type = "logistic"',
    "",
    "[[members]]",
    'name = "forest"',
    'type = "forest"',
    "",
    "[ensemble]",
    'combine = "stack"',
)


def _field(key: str, column: Column) -> list[str]:
    settings: dict[str, Any] = {"kind": column.kind} | column.settings
    if len(column.place) > 1:
        settings["path"] = _path(column.place)
    short = quoted(column.kind) if len(settings) == 1 else toml(settings)
    return [f"# {column.why}", f"{key_of(key)} = {short}"]


def _target(parts: _Parts) -> list[str]:
    if parts.truth is None or not parts.truth.target:
        return []
    settings = parts.truth.target
    return ["[target]", *(f"{key} = {toml(value)}" for key, value in settings.items()), ""]


def _label(parts: _Parts) -> list[str]:
    truth = parts.truth
    if truth is None:
        return [
            "[label]",
            "# No column looks like the truth: two values and a name such as fraud or clicked.",
            "# Send labels as records of their own, or draft again with --label COLUMN.",
            'field = "label"',
            "",
        ]
    lines = [
        "[label]",
        f"# {truth.why}",
        f"field = {quoted(_path(truth.column.place))}",
        *(f"{key} = {toml(value)}" for key, value in truth.label.items()),
    ]
    if parts.label_time is not None:
        column, time_format = parts.label_time
        lines += [
            "# a later time beside the label",
            f"time = {quoted(_path(column.place))}",
            f"time_format = {quoted(time_format)}",
        ]
    return [*lines, f"# a guess: after so long an event without a label {truth.silence}",
            'horizon = "30d"', ""]  # fmt: skip


def _features(fields: dict[str, Column]) -> list[str]:
    """Numbers and categories as they are, the calendar, and windows of keys over the amount."""
    numbers = [k for k, c in fields.items() if c.kind in ("number", "boolean")]
    amounts = [k for k in numbers if fields[k].kind == "number"]
    amount = next((k for k in amounts if _AMOUNT.search(k)), amounts[0] if amounts else None)
    made: list[dict[str, Any]] = [{"type": "number", "field": k} for k in numbers]
    for feature in made:
        if feature["field"] == amount and _heavy(fields[feature["field"]]):
            feature["transform"] = "log1p"
    made += [{"type": "category", "field": k} for k, c in fields.items() if c.kind == "category"]
    for key in [k for k, c in fields.items() if c.kind == "entity"][:4]:
        window = {"type": "window", "entity": key, "windows": ["1d", "7d"]}
        stats = (
            ["count", "since_last"] if amount is None else ["count", "mean", "ratio", "since_last"]
        )
        made.append(window | ({} if amount is None else {"value": amount}) | {"stats": stats})
    made.append({"type": "calendar"})
    names = _names(made)
    lines = []
    for name, feature in zip(names, made, strict=True):
        if feature["type"] == "window":
            over = "" if amount is None else f", over {shown(amount)}, the amount as it seems"
            lines.append(f"# events of one key{over}")
        lines += ["[[features]]", f"name = {quoted(name)}"]
        lines += [f"{key} = {toml(value)}" for key, value in feature.items()] + [""]
    return lines


def _heavy(column: Column) -> bool:
    decimal = column.settings.get("decimal")
    read = float if decimal is None else number_in_text(decimal, column.settings.get("thousands"))
    values = sorted(map(read, column.values)) if column.kind == "number" else []
    return bool(values) and values[0] >= 0 and values[-1] > 10 * max(values[len(values) // 2], 1e-9)


def _names(features: list[dict[str, Any]]) -> list[str]:
    """A name for each feature whose columns no other has."""
    taken: set[str] = set()
    names: list[str] = []
    for feature in features:
        stem = str(feature.get("field") or feature.get("entity") or "calendar")
        stem = re.sub(r"[^a-zA-Z0-9_-]+", "_", stem).strip("_-")
        stem = (stem if stem[:1].isalpha() else f"f_{stem}")[:50]
        n = 1
        while True:
            name = stem if n == 1 else f"{stem}_{n}"
            columns = column_names(_FEATURE.validate_python(feature | {"name": name}))
            if name not in names and taken.isdisjoint(columns):
                break
            n += 1
        names.append(name)
        taken.update(columns)
    return names


def _path(place: Place) -> str:
    """A place as settings write it."""
    if all(re.fullmatch(r"[A-Za-z_][\w -]*", str(part)) for part in place):
        return ".".join(map(str, place))
    return "".join("/" + str(p).replace("~", "~0").replace("/", "~1") for p in place)


def write_draft(data: Path, out: Path, label: str | None = None, item: str | None = None) -> Draft:
    """The draft, written to ``out``; raises :class:`MillraceError`, also where that exists."""
    made = draft(data, label, item)
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(made.text)
    except FileExistsError as error:
        raise MillraceError(f"--out {out}: exists: name another file, or delete it") from error
    except OSError as error:
        raise MillraceError(f"--out {out}: cannot be written: {error.strerror}") from error
    return made

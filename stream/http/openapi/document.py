"""The OpenAPI 3.1 description, built from the configuration: its fields, labels and members.

Served at ``/openapi.json`` and tested against the running API.
"""

from __future__ import annotations

import json
import math
from importlib.metadata import version
from typing import Any, NamedTuple

import msgspec

from models.task import NAME_LENGTH, Task
from stream.contract.commands import COMMANDS, WHOLE, fields, names
from stream.decode.codec import ID_BYTES
from stream.decode.coerce import json_values, number_pattern
from stream.decode.payload import Tree, encoded, tree
from stream.decode.times import event_times, label_times
from stream.encode.scores import json_schema
from stream.http.body import JSON, NDJSON
from stream.http.live.recent import KEPT
from stream.http.openapi import inference, ranking
from stream.http.problem import KINDS, MEDIA_TYPE
from stream.settings.paths import place
from stream.settings.schema import Config, FieldSettings
from stream.settings.shape import Place
from stream.step.scores import PLACE

Json = dict[str, Any]

_TEXT_OR_INTEGER: Json = {
    "type": ["string", "integer"],
    "description": "an integer is written without a decimal point and counts as its decimal text",
}
_KIND: dict[str, tuple[Json, Any]] = {
    "number": ({"type": "number"}, 12.5),
    "boolean": ({"type": "boolean"}, True),
    "category": (_TEXT_OR_INTEGER, "books"),
    "entity": (_TEXT_OR_INTEGER, "c-17"),
    "text": ({}, "free text, not used"),
}
_OPEN = ("protocol", "misdirected", "failed", "overloaded")
_READ = (*_OPEN, "unauthorized", "log-unavailable")
_INPUT = (*_READ, "malformed", "forbidden", "slow-body", "too-large", "media-type", "invalid")


def document(config: Config, takes: bool = True) -> Json:
    """The whole description for one configuration; ``takes``: whether records are taken in."""
    inputs = _inputs(config)
    if not takes:
        inputs = {path: told for path, told in inputs.items() if path == "/v1/what-if"}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"Millrace: {config.name}",
            "version": version("millrace"),
            "description": "Scores events as they arrive and learns from the labels that follow.",
        },
        "paths": inputs | _reads() | _health() | inference.paths(config),
        "components": {
            "schemas": {
                **_records(config),
                "Command": _command(config),
                "Appended": _APPENDED,
                "Problem": _PROBLEM,
                **inference.schemas(config),
            },
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}] if config.http.tokens else [],
    }


def _records(config: Config) -> Json:
    if config.reco is not None:
        return ranking.schemas(config)
    score = _score(config)
    return {
        "Event": _event(config),
        "Label": _label(config),
        "Score": score,
        "WhatIf": _what_if(score),
    }


def _inputs(config: Config) -> Json:
    every = _events(config)
    if config.reco is None:
        return every
    content = {"many": _many("Event"), "json": lambda name: _content(_ref(name))}
    scored = every["/v1/score"]["post"]["responses"]
    problems = {code: told for code, told in scored.items() if code != "200"}
    appended = every["/v1/events"]["post"]["responses"]["202"]
    del every["/v1/labels"], every["/v1/what-if"]
    return every | ranking.paths(config, _post, content, problems, appended)


def _events(config: Config) -> Json:
    appended = {"description": "Appended, durably", "content": _content(_ref("Appended"))}
    return {
        "/v1/events": _post(
            "append_events",
            f"Append events to topic {config.topics.events!r} without waiting; scope score.",
            _many("Event"),
            {"202": appended} | _problems(*_INPUT),
        ),
        "/v1/score": _post(
            "score_event",
            f"Append one event and wait for its score, at most {config.http.score_timeout} ms; "
            "scope score. A 504 means late, not lost.",
            _content(_ref("Event")),
            {"200": {"description": "The committed score", "content": _content(_ref("Score"))}}
            | _problems(*_INPUT, "being-scored", "dead-lettered", "late"),
        ),
        "/v1/what-if": _post(
            "what_if",
            "What the score of an event would be, if it came next; changes nothing. `seq` and "
            "`digest` are of the step it was made under; scope score.",
            _content(_ref("Event")),
            {"200": {"description": "As a score", "content": _content(_ref("WhatIf"))}}
            | _problems(*_INPUT, "unscorable", "late", "stopping", "not-ready"),
        ),
        "/v1/labels": _post(
            "append_labels",
            "Append the truth about events by their id; scope label. Sending one twice does no "
            "harm: the second is counted as a duplicate.",
            _many("Label"),
            {"202": appended} | _problems(*_INPUT),
        ),
        "/v1/control": _post(
            "command",
            "Append an operator's command; it takes effect at the next step; scope admin.",
            _content(_ref("Command")),
            {"202": appended} | _problems(*_INPUT),
        ),
    }


def _reads() -> Json:
    limit = {
        "name": "limit",
        "in": "query",
        "schema": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 50},
        "description": "how many of the newest",
    }
    records = _content(
        {
            "type": "object",
            "required": ["records"],
            "properties": {"records": {"type": "array", "items": {"type": "object"}}},
        }
    )
    some = _content({"type": "object"})
    tail = (*_READ, "query")
    event_id = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "/v1/scores/{id}": _get(
            "score",
            f"The score record of an event, if it is among the newest {KEPT:,}.",
            _content(_ref("Score")),
            (*_READ, "not-found"),
            [event_id],
        ),
        "/v1/reasons/{id}": _get(
            "reasons",
            "Why an event has its score: `then`, as told with it; `now`, as it would be of the "
            "event as it was scored, if it waits for its horizon.",
            some,
            (*_READ, "not-found", "late", "stopping", "not-ready"),
            [event_id],
        ),
        "/v1/models": _get("models", "Members, weights and states.", some, _READ),
        "/v1/parameters": _get("parameters", "Parameter tables by member.", some, _READ),
        "/v1/audit": _get("audit", "The newest audit records.", records, tail, [limit]),
        "/v1/dead-letters": _get(
            "dead_letters",
            "The newest dead letters: reason, error, position, raw bytes; scope admin.",
            records,
            (*tail, "forbidden"),
            [limit],
        ),
        "/v1/live": _get(
            "live",
            "Server-sent events: a `snapshot` about once a second, one `history` after the first.",
            {"text/event-stream": {"schema": {"type": "string"}}},
            _READ,
        ),
    }


def _health() -> Json:
    state = _content(
        {
            "type": "object",
            "required": ["status", "detail"],
            "properties": {"status": {"const": "ok"}, "detail": {"type": "string"}},
        }
    )
    text = {"text/plain": {"schema": {"type": "string"}}}
    page = {"text/html": {"schema": {"type": "string"}}}
    paths = {
        "/metrics": _get("metrics", "Prometheus metrics.", text, _OPEN),
        "/livez": _get("livez", "Whether the loop moves.", state, (*_OPEN, "not-live")),
        "/readyz": _get("readyz", "Whether events are scored.", state, (*_OPEN, "not-ready")),
        "/openapi.json": _get("openapi", "This document.", _content({"type": "object"}), _OPEN),
        "/": _get("page", "The live page.", page, _OPEN),
    }
    for path in paths.values():
        path["get"]["security"] = []
    return paths


def _event(config: Config) -> Json:
    return _object(event_parts(config), config.event.unknown_fields == "ignore")


def event_parts(config: Config) -> list[Part]:
    """Every value that an event has."""
    event = config.event
    time = event_times(config)
    parts = [
        Part(place(event.id), _ID, "e-1"),
        Part(place(event.time), time.schema, time.example),
    ]
    if config.label.inline:
        parts.append(Part(place(config.label.field), *_truth(config)))
    for name, field in event.fields.items():
        schema, example = _field(field)
        schema = schema if field.needed else _nullable(schema)
        parts.append(Part(event.place(name), schema, example, field.needed))
    if event.format == "cloudevents":
        read = {part.place for part in parts}
        attributes = {"id": "e-1", "source": "/shop", "type": "payment"}
        parts.append(Part(("specversion",), {"const": "1.0"}, "1.0", envelope=True))
        parts += [
            Part((name,), {"type": "string", "minLength": 1}, example, envelope=True)
            for name, example in attributes.items()
            if (name,) not in read
        ]
    return parts


def _truth(config: Config) -> tuple[Json, Any]:
    """The schema of a label's value, and an example."""
    task, label = config.task(), config.label
    if task.texts is not None:
        values = json_values(task.texts)
        return {"enum": values}, values[0]
    if task.type == "classes":
        text = {"type": "string", "minLength": 1, "maxLength": NAME_LENGTH}
        return text, next(iter(task.names), "refund")
    within = _within(task)
    example = next(iter(within.values()), 1.5)
    if label.decimal is not None:
        return _number_or_text(label.decimal, label.thousands) | within, example
    return {"type": "number", **within}, example


def _number_or_text(decimal: str, thousands: str | None) -> Json:
    return {"type": ["number", "string"], "pattern": f"^(?:{number_pattern(decimal, thousands)})$"}


def _within(task: Task) -> Json:
    """The bounds of a score, and of a truth that is a number."""
    ends = (("minimum", task.low), ("maximum", task.high))
    return {name: end for name, end in ends if math.isfinite(end)}


def _label(config: Config) -> Json:
    label = config.label
    parts = [
        Part(place(config.label_event_id), _ID, "e-1"),
        Part(place(label.field), *_truth(config)),
    ]
    if label.time:
        time = label_times(config)
        parts.append(Part(place(label.time), _nullable(time.schema), time.example, False))
    parts.append(Part(place(label.corrects), _nullable({"type": "boolean"}), False, False))
    return _object(parts)


def _score(config: Config) -> Json:
    """A score record of what the target is."""
    schema = json_schema(config.target.type)
    schema["properties"]["score"] = {"type": "number", **_within(config.task())}
    if config.reasons is not None:
        schema["properties"]["reasons"] = _REASONS
    return schema


def _what_if(score: Json) -> Json:
    """A score record without its place in the log, with the digest of the step it is made under."""
    told = {k: v for k, v in score["properties"].items() if k not in PLACE}
    needed = [name for name in score["required"] if name not in PLACE]
    digest = {"digest": {"type": "string", "pattern": "^[0-9a-f]{32}$"}}
    return score | {"properties": told | digest, "required": [*needed, "digest"]}


def _field(field: FieldSettings) -> tuple[Json, Any]:
    """What a field takes, and an example."""
    schema, example = _KIND[field.kind]
    if field.decimal is not None:
        return _number_or_text(field.decimal, field.thousands), example
    if field.values is not None:
        values = json_values(field.values)
        if field.kind == "boolean":
            return {"enum": values}, values[0]
        return {**schema, "type": ["string", "integer", "boolean"]}, values[0]
    return schema, example


class Part(NamedTuple):
    """A value of an object; ``envelope``: its format needs it, and nothing here reads it."""

    place: Place
    schema: Json
    example: Any
    needed: bool = True
    envelope: bool = False

    @property
    def name(self) -> str:
        """Where it stands, with dots between."""
        return ".".join(map(str, self.place))


def _object(parts: list[Part], more: bool = True) -> Json:
    """The schema of an object with these parts, and an example of it."""
    schema = _nested(tree((p.place, p) for p in parts), more)
    example = json.loads(encoded((p.place, p.example) for p in parts))
    return {**schema, "examples": [example]}


def _nested(node: Tree, more: bool) -> Json:
    children: dict[Any, Json] = {
        part: child.schema if isinstance(child, Part) else _around(child, more)
        for part, child in node.items()
    }
    needed: list[Any] = [part for part, child in node.items() if _needed(child)]
    if any(isinstance(part, int) for part in node):
        items = [children.get(i, {}) for i in range(1 + max(children))]
        return {"type": "array", "prefixItems": items, "minItems": max(needed, default=-1) + 1}
    closed = {} if more else {"additionalProperties": False}
    return {"type": "object", "required": needed, "properties": children, **closed}


def _around(node: Tree, more: bool) -> Json:
    schema = _nested(node, more)
    return schema if _needed(node) else _nullable(schema)


def _needed(node: Any) -> bool:
    return node.needed if isinstance(node, Part) else any(map(_needed, node.values()))


def _command(config: Config) -> Json:
    """The table of commands, with what their fields may name; the server sets the actor."""
    members = list(config.learners)
    known: dict[str, Json] = {"member": {"enum": members, "examples": members[:1]}}
    known["place"] = {"enum": [*members, WHOLE], "examples": members[:1]}
    if (between := config.task().thresholds) is not None:
        ends = zip(("exclusiveMinimum", "exclusiveMaximum"), between, strict=True)
        known["threshold"] = {key: end for key, end in ends if math.isfinite(end)}
    several, examples = [], []
    for name, kind in COMMANDS.items():
        if {what for field in fields(kind) if (what := names(field))} - known.keys():
            continue  # nothing here that it could be about
        one: Json = msgspec.json.schema(kind)["$defs"][kind.__name__]
        del one["properties"]["actor"]
        for field in fields(kind):
            if (what := names(field)) is not None:
                one["properties"][field.name] |= known[what]
        told = one["properties"].items()
        several.append(one | {"title": name})
        examples.append(
            {"command": name} | {k: v["examples"][0] for k, v in told if "examples" in v}
        )
    return {"oneOf": several, "examples": examples}


_ID: Json = {
    **_TEXT_OR_INTEGER,
    "minLength": 1,
    "maxLength": ID_BYTES,
    "description": f"1..{ID_BYTES} bytes of UTF-8; {_TEXT_OR_INTEGER['description']}",
}

_APPENDED: Json = {
    "type": "object",
    "required": ["topic", "count", "partitions"],
    "properties": {
        "topic": {"type": "string"},
        "count": {"type": "integer", "minimum": 1},
        "partitions": {
            "type": "array",
            "description": "where the records went, by partition",
            "items": {
                "type": "object",
                "required": ["partition", "first", "last", "count"],
                "properties": {
                    name: {"type": "integer", "minimum": 0}
                    for name in ("partition", "first", "last", "count")
                },
            },
        },
        "notes": {
            "type": "array",
            "description": "what is odd of records that were taken all the same",
            "items": {"type": "string"},
        },
    },
}

_REASONS: Json = {
    "type": "object",
    "description": "`base`, `rest` and the weights of `top` add up to `link`, the score's logit",
    "required": ["link", "base", "rest", "top"],
    "properties": {
        **{name: {"type": "number"} for name in ("link", "base", "rest")},
        "top": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["reason", "weight"],
                "properties": {
                    "reason": {"type": "string"},
                    "weight": {"type": "number", "exclusiveMinimum": 0},
                    "text": {"type": "string"},
                },
            },
        },
        "members": {
            "type": "object",
            "description": "of what-ifs and reasons: by member, what each reason does",
        },
    },
}

_PROBLEM: Json = {
    "type": "object",
    "description": "RFC 9457",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"enum": [f"urn:millrace:{kind}" for kind in KINDS]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["path", "error"],
                "properties": {
                    "path": {"type": "string"},
                    "error": {"type": "string"},
                    "got": {"type": "string", "description": "the value, shortened"},
                    "advice": {"type": "string", "description": "what to write or to configure"},
                },
            },
        },
        "reason": {"type": "string", "description": "of a dead letter"},
    },
}


def _nullable(schema: Json) -> Json:
    if "enum" in schema:
        return {"enum": [*schema["enum"], None]}
    if not schema:
        return schema
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return {**schema, "type": [*kinds, "null"]}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _content(schema: Json) -> Json:
    return {JSON: {"schema": schema}}


def _many(name: str) -> Json:
    one = _ref(name)
    several = {"type": "array", "items": one, "minItems": 1}
    lines = {**several, "description": "one a line, without brackets and commas"}
    return {JSON: {"schema": {"oneOf": [one, several]}}, NDJSON: {"schema": lines}}


def _problems(*kinds: str) -> Json:
    titles: dict[str, list[str]] = {}
    for kind in kinds:
        status, title = KINDS[kind]
        titles.setdefault(str(status), []).append(title)
    content = {MEDIA_TYPE: {"schema": _ref("Problem")}}
    return {s: {"description": "; ".join(t), "content": content} for s, t in titles.items()}


def _post(name: str, description: str, content: Json, responses: Json) -> Json:
    body = {"required": True, "content": content}
    return {
        "post": {
            "operationId": name,
            "description": description,
            "requestBody": body,
            "responses": responses,
        }
    }


def _get(
    name: str, description: str, content: Json, kinds: tuple[str, ...], parameters: Any = ()
) -> Json:
    good = {"200": {"description": "What was asked for", "content": content}}
    return {
        "get": {
            "operationId": name,
            "description": description,
            "parameters": list(parameters),
            "responses": good | _problems(*kinds),
        }
    }

"""The OpenAPI description against the specification, the codec and the running API."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import msgspec
import pytest

from stream.contract.commands import Command
from stream.contract.records import Batch, Record
from stream.decode.codec import Codec
from stream.http.openapi.document import document
from stream.run.assemble import build_engine
from stream.settings.load import parse
from stream.settings.schema import Config
from tests.support.factory import records
from tests.support.http_fake import RAW, config, event
from tests.support.schemathesis_run import run

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "seconds": {"event": {**RAW["event"], "time_format": "s"}},
    "rfc3339": {"event": {**RAW["event"], "time_format": "rfc3339"}},
    "strict": {"event": {**RAW["event"], "unknown_fields": "reject"}},
    "renamed": {
        "event": {
            **RAW["event"],
            "fields": {
                "amount": {"kind": "number", "path": "amt", "required": False},
                "who": {"kind": "entity", "path": "customer"},
                "note": "text",
            },
        }
    },
    "nested": {
        "event": {
            "id": "meta.id",
            "time": "meta.at",
            "time_format": "%d.%m.%Y %H:%M",
            "time_zone": "Europe/Berlin",
            "unknown_fields": "reject",
            "fields": {
                "amount": {"kind": "number", "path": "items.1.price"},
                "customer": {"kind": "entity", "path": "who.id", "required": False},
            },
        },
        "label": {"event_id": "about.id", "field": "result.fraud", "time": "result.at"},
    },
    "coerced": {
        "event": {
            **RAW["event"],
            "time_format": "ns",
            "fields": {
                "amount": {"kind": "number", "decimal": ",", "thousands": "."},
                "customer": {"kind": "entity", "values": {"a": "b"}, "default": "none"},
                "online": {"kind": "boolean", "values": {"Y": 1, "N": 0}, "default": False},
            },
        }
    },
    "cloudevents": {
        "event": {
            "format": "cloudevents",
            "fields": {"amount": {"kind": "number", "path": "data.amount"}},
        }
    },
    "number in text": {
        "target": {"type": "number", "minimum": 0.0},
        "label": {"decimal": ",", "thousands": "."},
    },
    "inline": {"label": {"field": "clicked", "inline": True, "values": {"yes": 1, "-1": 0}}},
}


def _config(variant: str) -> Config:
    return parse(RAW | VARIANTS[variant], variant)


def _schema(doc: dict[str, Any], name: str) -> jsonschema_rs.Draft202012Validator:
    ref = {"$ref": f"#/components/schemas/{name}", "components": doc["components"]}
    return jsonschema_rs.Draft202012Validator(ref)


def _examples(doc: dict[str, Any], name: str) -> Any:
    return doc["components"]["schemas"][name]["examples"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_examples_fit_the_schema_and_the_codec(variant: str) -> None:
    """What the description shows is what it says, and what the engine takes."""
    cfg = _config(variant)
    doc = document(cfg)
    codec = Codec(cfg)
    checks: list[tuple[str, Any]] = [("Event", codec.events), ("Label", codec.labels)]
    for name, check in checks:
        for example in _examples(doc, name):
            _schema(doc, name).validate(example)
            good, bad = check([Record("t", 0, 0, None, msgspec.json.encode(example))])
            assert bad == []
            assert len(good.records) == 1


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_missing_field_is_refused_by_both(variant: str) -> None:
    """Every field the schema requires is one the codec requires, and no other."""
    cfg = _config(variant)
    doc = document(cfg)
    schema, codec = _schema(doc, "Event"), Codec(cfg)
    (example,) = _examples(doc, "Event")
    for field in example:
        less = {k: v for k, v in example.items() if k != field}
        bad = codec.events([Record("t", 0, 0, None, msgspec.json.encode(less))])[1]
        assert schema.is_valid(less) == (bad == []), field


def test_every_label_value_is_taken() -> None:
    """Each value of the schema's list is one the codec maps to 0 or 1."""
    for variant in ("plain", "inline"):
        cfg = _config(variant)
        properties = document(cfg)["components"]["schemas"]["Label"]["properties"]
        for value in properties[cfg.label.field]["enum"]:
            label = {"payment_id": 1, cfg.label.field: value}
            _, bad = Codec(cfg).labels([Record("t", 0, 0, None, json.dumps(label).encode())])
            assert bad == []


@pytest.mark.parametrize(
    ("target", "bounds"),
    [
        ({"type": "binary"}, {"minimum": 0, "maximum": 1}),
        ({"type": "classes", "classes": ["a", "b"]}, {"minimum": 0, "maximum": 1}),
        ({"type": "classes", "max_classes": 3}, {"minimum": 0, "maximum": 1}),
        ({"type": "number", "minimum": 0}, {"minimum": 0}),
    ],
)
def test_a_score_of_the_engine_fits_the_schema(
    target: dict[str, Any], bounds: dict[str, float]
) -> None:
    """Of each kind of target; every part is described, the score with its bounds."""
    members = [{"name": "linear", "type": "logistic"}]
    cfg = parse(RAW | {"target": target, "members": members}, target["type"])
    piece = records("events", 0, [event()])
    [made] = build_engine(cfg, None).step(Batch(1, event()["time"], [piece])).scores
    whole, doc = json.loads(made.value or b""), document(cfg)
    _schema(doc, "Score").validate(whole)
    parts = doc["components"]["schemas"]["Score"]["properties"]
    assert list(parts) == list(whole)
    assert parts["score"] == {"type": "number", **bounds}


def test_commands_in_the_schema_are_commands() -> None:
    """Each command of the description is one the engine knows."""
    cfg = config()
    doc = document(cfg)
    for example in _examples(doc, "Command"):
        _schema(doc, "Command").validate(example)
        record = Record("control", 0, 0, None, msgspec.json.encode(example))
        assert isinstance(Codec(cfg).command(record), Command)


def test_security_follows_the_tokens() -> None:
    """The description asks for a token exactly when one is configured, never for probes."""
    token = {"name": "a", "sha256": "0" * 64, "scopes": ["score"]}
    assert document(config())["security"] == []
    doc = document(config(tokens=[token]))
    assert doc["security"] == [{"token": []}]
    assert doc["paths"]["/livez"]["get"]["security"] == []
    assert "security" not in doc["paths"]["/v1/score"]["post"]


def test_the_api_keeps_its_description(capfd: pytest.CaptureFixture[str]) -> None:
    """Schemathesis finds nothing: statuses, schemas, refusals, methods and tokens are as told."""
    status = run(examples=5, seed=1, phases="coverage,fuzzing")
    assert status == 0, capfd.readouterr().out

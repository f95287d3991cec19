"""The Open Inference Protocol of one shard, for its OpenAPI description."""

from __future__ import annotations

from typing import Any

from stream.http.body import JSON
from stream.http.problem import INFERENCE, KINDS
from stream.settings.schema import Config

Json = dict[str, Any]
_TENSOR: Json = {
    "type": "object",
    "required": ["name", "shape", "datatype", "data"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "datatype": {"type": "string"},
        "data": {"type": "array"},
    },
}
_NAMED: Json = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}


def schemas(config: Config) -> Json:
    """What the protocol's paths take and answer."""
    if config.reco is not None:
        return {}
    request = {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "parameters": {
                "type": "object",
                "properties": {"mode": {"enum": ["what-if", "event"], "default": "what-if"}},
            },
            "inputs": {"type": "array", "items": _TENSOR, "minItems": 1},
            "outputs": {"type": "array", "items": _NAMED},
        },
    }
    answer = {
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {
            "id": {"type": "string"},
            "model_name": {"const": config.name},
            "model_version": {"type": "string", "description": "the step it was made under"},
            "outputs": {"type": "array", "items": _TENSOR},
        },
    }
    refused = {
        "type": "object",
        "required": ["error"],
        "properties": {"error": {"type": "string"}},
    }
    return {"InferenceRequest": request, "Inference": answer, "InferenceError": refused}


def paths(config: Config) -> Json:
    """The protocol's paths, with the errors that its clients read."""
    if config.reco is not None:
        return {}
    model = f"{INFERENCE}/models/{config.name}"
    told = ("unauthorized", "overloaded", "failed")
    health = ("overloaded", "failed")
    found = {
        INFERENCE: _get("server", "Which server this is.", told),
        model: _get("model", "What the model takes and gives.", told),
        f"{model}/ready": _get("model_ready", "Whether events are scored.", (*health, "not-ready")),
        f"{INFERENCE}/health/live": _get("live_v2", "Whether it lives.", (*health, "not-live")),
        f"{INFERENCE}/health/ready": _get(
            "ready_v2", "Whether it is ready.", (*health, "not-ready")
        ),
    }
    for path, methods in found.items():
        if path.endswith(("/live", "/ready")):
            methods["get"]["security"] = []
    refusals = (*told, "malformed", "forbidden", "slow-body", "too-large", "media-type", "invalid")
    waits = ("unscorable", "being-scored", "log-unavailable", "stopping", "not-ready", "late")
    return found | {
        f"{model}/infer": {
            "post": {
                "operationId": "infer",
                "description": "What the scores of events would be, each by itself; with "
                '`"parameters": {"mode": "event"}` one event is appended, and its score answered; '
                "scope score.",
                "requestBody": {"required": True, "content": _content("InferenceRequest")},
                "responses": {"200": {"description": "Scores", "content": _content("Inference")}}
                | _errors(*refusals, *waits),
            }
        }
    }


def _get(name: str, description: str, kinds: tuple[str, ...]) -> Json:
    good = {"description": "What was asked for", "content": {JSON: {"schema": {"type": "object"}}}}
    return {
        "get": {
            "operationId": name,
            "description": description,
            "responses": {"200": good} | _errors("protocol", "misdirected", *kinds),
        }
    }


def _content(name: str) -> Json:
    return {JSON: {"schema": {"$ref": f"#/components/schemas/{name}"}}}


def _errors(*kinds: str) -> Json:
    statuses = sorted({KINDS[kind][0] for kind in kinds})
    return {
        str(status): {"description": "Refused", "content": _content("InferenceError")}
        for status in statuses
    }

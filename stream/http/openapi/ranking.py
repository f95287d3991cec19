"""What the API of a shard that ranks takes and answers, for its OpenAPI description."""

from __future__ import annotations

from typing import Any, Union

import msgspec

from stream.decode.feedback import KINDS, Rank, Recommend
from stream.decode.times import event_times
from stream.settings.schema import Config
from stream.step.ranking.answers import Answer

Json = dict[str, Any]
_TEMPLATE = "#/components/schemas/{name}"


class Named(msgspec.Struct):
    """An item in an answer."""

    item: str
    score: float | None
    propensity: float
    features: dict[str, float] | msgspec.UnsetType = msgspec.UNSET
    rating: float | msgspec.UnsetType = msgspec.UNSET


class Answered(msgspec.Struct):
    """An answer of ``/rank`` or ``/recommend``; ``took`` in milliseconds."""

    took: float
    items: list[Named]
    id: str
    fallback: bool
    left_out: dict[str, int]
    seq: int


def schemas(config: Config) -> Json:
    """Records as ``Event``, committed answers as ``Score``, and what the two paths exchange."""
    kinds: Any = (Union[KINDS], Answer, Answered)  # noqa: UP007 - made of the table
    (event, score, _), parts = msgspec.json.schema_components(kinds, ref_template=_TEMPLATE)
    time = event_times(config)
    for name in (kind.__name__ for kind in KINDS):
        parts[name]["properties"]["timestamp"] = time.schema
    for kind in (Rank, Recommend):
        parts[f"{kind.__name__}Request"] = _asked(parts[kind.__name__])
    return parts | {"Event": event, "Score": score}


def _asked(record: Json) -> Json:
    """A request without what the server adds: which it is, and its id and moment."""
    properties = {k: v for k, v in record["properties"].items() if k != "event"}
    added = ("event", "id", "timestamp")
    return record | {
        "properties": properties,
        "required": [name for name in record["required"] if name not in added],
    }


def paths(config: Config, post: Any, content: Any, problems: Json, appended: Json) -> Json:
    """The paths in Metarank's words; the rest is given by ``document.py``."""
    explain = {
        "name": "explain",
        "in": "query",
        "schema": {"type": "boolean", "default": False},
        "description": "tell what each member says of each item",
    }
    found = {
        "/feedback": post(
            "feedback",
            "Append what users did, what items are, and which lists were shown; scope score.",
            content["many"],
            {"202": appended} | problems,
        )
    }
    for kind, told in (
        ("Rank", "Put the given items in order for a user; scope score."),
        ("Recommend", "Find items for a user; scope score."),
    ):
        answer = {"description": "The committed answer", "content": content["json"]("Answered")}
        path = post(
            kind.lower(), told, content["json"](f"{kind}Request"), {"200": answer} | problems
        )
        path["post"]["parameters"] = [explain]
        found[f"/{kind.lower()}/{config.service}"] = path
    return found

"""JSON behind a schema's number: decoded, and checked against the schema that it was written by.

Nothing is fetched for a ``$ref``, and patterns take time that grows with the text alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urljoin

import jsonschema_rs
import msgspec

from stream.contract.schemas import Schema
from stream.decode.payload import Misfit, shallow
from stream.settings.paths import pointed

_BASE = "json-schema:///"
"""Where names without a place of their own stand, to the validator."""


def json_schema_reader(schema: Schema) -> Callable[[bytes], Any]:
    """What reads data and checks it by the schema; raises ``ValueError`` where none can."""
    root = msgspec.json.decode(shallow(schema.text.encode()))
    base = root.get("$id", _BASE) if isinstance(root, dict) else _BASE
    try:
        parts = [
            (urljoin(base, name), msgspec.json.decode(shallow(text.encode())))
            for name, text in schema.references
        ]
        validator = jsonschema_rs.validator_for(
            root,
            registry=jsonschema_rs.Registry(parts) if parts else None,
            offline=True,
            # An error must not hold the value.
            mask="the value",
            pattern_options=jsonschema_rs.RegexOptions(),
        )
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, TypeError) as error:
        raise ValueError(f"it is not JSON Schema: {error}") from error

    def read(data: bytes) -> Any:
        value = msgspec.json.decode(shallow(data))
        try:
            validator.validate(value)
        except jsonschema_rs.ValidationError as error:
            where = pointed(tuple(error.instance_path))
            raise Misfit(f"{error.message} - at `{where}`") from error
        return value

    return read

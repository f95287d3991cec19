"""The dashboards read by Grafana's own models, since no Grafana runs in the tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from monitoring.show.dashboards.build import BOARDS, rendered

UNMODELLED = {
    "/annotations/list/0/titleFormat",
    "/annotations/list/0/step",
    "/templating/list/1/definition",
    "/templating/list/2/definition",
}
"""What is the data source's own in an annotation or variable, and so in no model."""

register_default_plugins()


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each scalar of a JSON value under its path."""
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(part, f"{path}/{key}")
    else:
        yield path, value


def unread(text: str) -> set[str]:
    """Paths of what Grafana's models do not hold after they read a dashboard."""
    board = Dashboard.from_json(json.loads(text))
    read = dict(leaves(json.loads(JSONEncoder().encode(board))))
    return {path for path, value in leaves(json.loads(text)) if read.get(path) != value}


@pytest.mark.parametrize("name", BOARDS)
def test_grafana_knows_every_key(name: str) -> None:
    """Grafana's models read a dashboard and write the same: no key is misspelt or misplaced."""
    assert unread(rendered(name)) == UNMODELLED


@pytest.mark.parametrize("key", ["legendFormat", "unit", "decimals", "steps", "colorMode"])
def test_a_misspelt_key_is_noticed(key: str) -> None:
    """A key of a query, a field, thresholds or options that Grafana does not know is found."""
    assert unread(rendered("overview").replace(f'"{key}"', f'"{key}s"')) > UNMODELLED

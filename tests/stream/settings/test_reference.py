"""The reference of the configuration is what the settings classes say."""

from __future__ import annotations

import re
from pathlib import Path

from models.members.catalogue import MEMBERS
from models.settings import parse_duration
from stream.settings.reference import markdown
from stream.settings.schema import Config

PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"


def rows(page: str, heading: str) -> dict[str, list[str]]:
    """The table under a heading: key to the other cells."""
    below = page.split(f"{heading}\n", 1)[1].split("\n#", 1)[0]
    cells = [re.split(r"(?<!\\) ?\| ?", line)[1:-1] for line in below.splitlines() if "| `" in line]
    return {row[0].strip("`"): row[1:] for row in cells}


def test_the_page_is_what_is_generated() -> None:
    """docs/configuration.md is up to date; `make docs` writes it."""
    assert PAGE.read_text(encoding="utf-8") == markdown(), "run `make docs`"


def test_every_key_has_a_meaning() -> None:
    """No cell of the last column is empty: a key that nobody explains is a defect."""
    lines = [line for line in markdown().splitlines() if line.startswith("| `")]
    assert [line for line in lines if line.endswith("|  |")] == []


def test_defaults_are_the_ones_that_hold() -> None:
    """Durations are written as text and parse back to the default; numbers and text likewise."""
    found = rows(markdown(), "## `[checkpoints]`")
    fields = Config.model_fields["checkpoints"].default
    assert parse_duration(found["interval"][1].strip('`"')) == fields.interval
    assert found["recovery_budget"][:2] == ["duration", '`"3s"`']
    assert found["keep"] == ["integer", "`3`", "generations kept (2..1000)"]
    assert found["on_divergence"][1] == '`"stop"`'


def test_required_keys_say_so() -> None:
    """A key without a default is marked."""
    found = rows(markdown(), "## Top level")
    assert {k for k, cells in found.items() if cells[1] == "**required**"} == {
        name for name, field in Config.model_fields.items() if field.is_required()
    }


def test_every_member_type_has_its_parameters() -> None:
    """Each built-in type's own settings stand under a heading of its own."""
    page = markdown()
    for name in MEMBERS:
        assert rows(page, f'### Members with `type = "{name}"`')

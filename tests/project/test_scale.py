"""`make bench-scale`: the model of many scorers, by few payments."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.__main__ import SUITES
from benchmarks.scale import labels
from benchmarks.scale.model import measure, modelled, picture
from benchmarks.scale.versions import BATCH


def test_the_model_says_what_its_costs_come_to() -> None:
    """Bytes are those of four scorers; one scorer has a core for events and versions; more score
    more, and no more than risk of the others' events lets each take in."""
    costs, checked = measure(6 * BATCH, 1)
    for name in ("example_bytes", "risk_bytes"):
        assert abs(checked[name]["off"]) < 0.1
    one, many = modelled(costs, 1, 10.0), modelled(costs, 1000, 10.0)
    used = one.events_per_s * costs.scorer_us / 1e6 + costs.take_ms / 1e4
    assert used == pytest.approx(1)
    assert one.written_mb_per_s * 1e6 == pytest.approx(
        one.events_per_s * costs.example_bytes + costs.version_bytes / 10
    )
    assert one.events_per_s < many.events_per_s < 1e6 / costs.foreign_us / (1 - 1 / 1000)
    assert many.learned < one.learned <= 1
    drawn = ElementTree.fromstring(picture(costs, 10.0, checked))
    assert len(drawn.findall("{http://www.w3.org/2000/svg}circle")) == 2


def test_labels_in_any_partition_are_measured_by_what_is_handed_on() -> None:
    """Each way joins every label, or says so; bytes are handed on by one of them alone."""
    found = labels.measure(2 * BATCH, 1, (2,))["2"]
    assert found["routes_bytes"] > 16
    assert min(found["any_us"]["min"], found["partition_us"]["min"], found["all_read_all_us"]) > 0


def test_each_figure_of_a_table_is_one_that_its_program_gives() -> None:
    """A row whose name nobody gives would be missing from the table without a word."""
    for suite, rows in SUITES.items():
        for row in rows:
            program = Path("benchmarks", *row.program.split("."))
            source = program.with_suffix(".py") if program.with_suffix(".py").exists() else program
            text = (source / "__main__.py" if source.is_dir() else source).read_text()
            stem = row.target.rpartition("_")[0]  # of one that is made of several names
            given = f'"{row.target}"' in text or f'"{stem}_{{' in text
            assert given, (suite, row)

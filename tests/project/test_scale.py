"""`make bench-scale`: the model of many scorers, by few payments."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks.__main__ import SUITES
from benchmarks.handbook.protocol import Payments
from benchmarks.ranking.streams import generated
from benchmarks.scale import labels, ranking
from benchmarks.scale.handbook import Service, play
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


def played(
    scorers: int, shared: bool = False, order: int | None = None
) -> tuple[list[str], list[float], str]:
    """Ids, scores and the members' digest after nine days of payments, six hours a hop."""
    rng, n = np.random.default_rng(5), 1500
    times = np.sort(rng.integers(0, 9 * 86_400, n)) + 1_522_540_800
    customer, terminal = rng.integers(0, 50, n), rng.integers(0, 20, n)
    fraud = (rng.random(n) < 0.1).astype(np.int64)
    amount = rng.exponential(50, n).round(2)
    payments = Payments(np.arange(n), times, times // 86_400, customer, terminal, amount, fraud)
    service = Service(Path("examples/handbook.toml"), scorers, "1ms", shared)
    play(service, payments, 6 * 3_600_000, order)
    scores = np.concatenate(service.scores).tolist()
    return service.ids, scores, service.learner.engine.ensemble.digest()


def test_scorers_that_share_the_members_score_as_by_a_version_every_hop() -> None:
    """What is measured without versions is what they would give, to the last bit."""
    ids, scores, digest = played(3)
    assert (ids, scores, digest) == played(3, shared=True)
    assert len(set(ids)) == 1500
    assert len(set(scores)) > 200  # two days of them by members that have learned


def test_labels_of_a_hop_come_in_another_order_by_a_seed() -> None:
    """One process alone: as many learned, by members that are others, alike for one seed."""
    straight, one, again, two = (played(0, order=order) for order in (None, 1, 1, 2))
    assert one == again
    assert len({straight[2], one[2], two[2]}) == 3
    assert straight[0] == one[0]


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


def test_a_scorer_s_lists_are_one_process_s_where_news_come_at_once() -> None:
    """The benchmark of rankings: the same hits by a scorer that is never behind."""
    stream = generated("drift", 500)
    one, scorer = (ranking.play(stream, scorers, "exclude", 1) for scorers in (0, 1))
    many = ranking.play(stream, 3, "exclude", 16)
    assert one["hit_10"] == scorer["hit_10"] > 0.1
    assert one["mrr_10"] == scorer["mrr_10"]
    assert many["hit_10"] > 0.1
    assert many["learner_us"] > 0

"""The part of a service that one process does: names, shares, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stream.settings.load import ConfigError, environments, load, parse
from stream.settings.upgrade import journaled, recorded
from stream.tools.rehearse import part
from tests.stream.step.ranking.scaled import raw as ranking_raw
from tests.stream.step.roles.scaled import FEATURES, of_role, raw, whole

ROOT = Path(__file__).parents[3]


def test_processes_of_one_file_have_names_and_folders_of_their_own(tmp_path: Path) -> None:
    """And keep them where the configuration is read from the journal."""
    tree = raw(tmp_path, 2)
    configs = [of_role(tree, "scorer", 0), of_role(tree, "scorer", 1), of_role(tree, "learner")]
    names = ["test-scorer-0", "test-scorer-1", "test-learner"]
    assert [c.name for c in configs] == names
    assert len({c.state_dir for c in configs} | {c.journal_topic for c in configs}) == 6
    for c in configs:
        assert c.processes == tuple(names)
        assert (c.service, c.examples_topic, c.models_topic) == (
            *("test", "examples-test", "models-test"),
        )
        assert recorded(journaled(c), "here") == c


def test_the_environment_tells_processes_of_one_file_apart() -> None:
    """By as many scorers as the file says, or another number; a file for one process has none."""
    scaled, alone = (ROOT / "examples" / f"fraud{name}.toml" for name in ("-scaled", ""))
    for count, scorers in ((None, 2), (3, 3)):
        found = {n: load(scaled, one) for n, one in environments(scaled, {}, count).items()}
        assert [*found] == ["learner", *(f"scorer-{i}" for i in range(scorers))]
        assert all(c.name == f"{c.service}-{name}" for name, c in found.items())
        assert {c.shard.count for c in found.values()} == {scorers}
    with pytest.raises(ConfigError, match=r"shard\.role: expected 'scorer' or 'learner'"):
        environments(alone, {})


@pytest.mark.parametrize(("partitions", "count"), [(1, 1), (4, 2), (7, 3), (5, 5)])
def test_each_partition_is_read_by_one_scorer(tmp_path: Path, partitions: int, count: int) -> None:
    """Shares are disjoint and complete; models and control are read by all."""
    tree = raw(tmp_path, count, topics={"partitions": partitions})
    scorers = [of_role(tree, "scorer", i) for i in range(count)]
    for topic in ("events", "labels"):
        for p in range(partitions):
            assert sum(c.reads(topic, p) for c in scorers) == 1
    assert all(c.reads(c.models_topic, 0) and c.reads("control", 0) for c in scorers)
    assert all(any(c.reads("events", p) for p in range(partitions)) for c in scorers)


TERMINAL = {"name": "shop", "type": "window", "entity": "terminal", "windows": ["7d"]}
AT_ONCE = {"name": "shop", "type": "risk", "entity": "terminal", "delay": "0s", "windows": ["7d"]}
LOOSE = {"kind": "number", "required": False}

SOON = {"name": "rate", "type": "risk", "delay": "0s", "windows": ["1d"]}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"features": [*FEATURES, TERMINAL]}, "features[4].entity: expected 'customer'"),
        ({"features": [*FEATURES, AT_ONCE]}, "features[4].delay: expected more than 0"),
        (
            {"features": [FEATURES[0] | {"scale": "standard"}]},
            "features[0].scale: expected 'none'",
        ),
        (
            {"event": {"fields": {"amount": LOOSE, "customer": "entity", "category": "category"}}},
            "event.fields.amount.default: expected a number",
        ),
        ({"shard": {"role": "scorer", "count": 2, "index": 2}}, "shard.index: expected less than"),
        ({"shard": {"role": "scorer", "count": 3}}, "topics.partitions: expected at least"),
        ({"shard": {"role": "learner", "entity": "shop"}}, "shard.entity: expected an entity"),
        ({"shard": {"count": 2}}, "shard.count: expected shard.role"),
        ({"guard": {"on_worse": "propose"}}, "guard.on_worse: expected shard.role = 'all'"),
        ({"topics": {"partitions": 2, "journal": "j"}}, "topics.journal: expected none"),
        (
            {"topics": {"partitions": 2, "labels": "examples-test"}},
            "topics.labels: expected a name of its own, got 'examples-test', as shard.service",
        ),
        ({"state_dir": 5}, "state_dir: expected a path"),
        (
            {"target": {"type": "classes", "classes": ["a"], "max_classes": 4}},
            "target.max_classes: expected shard.role = 'all'",
        ),
        (
            {"target": {"type": "ranking"}, "shard": {"role": "scorer", "labels": "any"}},
            "shard.labels: expected shard.role = 'all'",
        ),
        (
            {"target": {"type": "ranking"}, "shard": {"role": "scorer", "entity": "item"}},
            "shard.entity: expected shard.role = 'all'",
        ),
        (
            # A record need not tell it, though a field is required.
            {
                "target": {"type": "ranking"},
                "event": {"fields": {"price": "number"}},
                "features": [FEATURES[0] | {"field": "price"}],
            },
            "event.fields.price.default: expected a number",
        ),
        (
            {
                "target": {"type": "ranking"},
                "event": {"fields": {"price": {"kind": "number", "default": 1}}},
                "features": [{"name": "u", "type": "number", "field": "utility"}],
            },
            "event.fields.utility.default: expected a number",
        ),
        (
            {"target": {"type": "ranking"}, "features": [SOON | {"entity": "item"}]},
            "features[0].delay: expected more than 0 of an entity other than 'user' or 'session'",
        ),
        (
            {"log": {"type": "embedded", "path": "log.db"}},
            "log.type: expected 'kafka' beside shard.role",
        ),
    ],
)
def test_what_a_part_of_a_service_cannot_do_is_refused(
    tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    """With its path and the reason, before anything is scored locally wrong."""
    tree = raw(tmp_path, 1) | {"shard": {"role": "scorer"}, "topics": {"partitions": 2}} | changes
    with pytest.raises(ConfigError) as refused:
        parse(tree, "test")
    assert any(line.startswith(problem) for line in refused.value.problems), refused.value


def test_check_says_what_a_process_does(tmp_path: Path) -> None:
    """Which partitions, from whom, to whom; nothing of one process that does all."""
    tree = raw(tmp_path, 2)
    assert part(of_role(tree, "scorer", 1)).startswith("scorer 1 of 2: partitions 1, 3 of events")
    assert part(of_role(tree, "learner")).startswith("learner: judges and learns what 2 scorers")
    assert part(whole(tree)) == ""
    ranks = ranking_raw(2)
    assert part(of_role(ranks, "scorer", 1)).startswith(
        "scorer 1 of 2: partitions 1, 3 of events; answers requests by all that models-shop says"
    )
    assert "2 scorers hand it over in examples-shop" in part(of_role(ranks, "learner"))
    assert part(whole(ranks)) == ""
    trained = tree | {"members": [{"name": "trees", "type": "refit"}]}
    assert "examples-test, trains trees by it; a version" in part(of_role(trained, "learner"))
    assert "train" not in part(of_role(trained, "scorer", 1))
    assert (of_role(trained, "scorer").trains, whole(trained).trains) == ((), ("trees",))
    anywhere = raw(tmp_path, 2, shard={"labels": "any"})
    told = part(of_role(anywhere, "scorer", 1))
    assert "each of labels that is 1 modulo 2; labels go on to their event's scorer in" in told
    with pytest.raises(ConfigError, match=r"shard\.labels: expected shard\.role"):
        parse(anywhere | {"shard": {"labels": "any"}}, "test")

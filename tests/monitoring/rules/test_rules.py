"""Prometheus rules: each alert fires when it should, and a changed threshold is noticed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from benchmarks import drift
from stream.cli.main import app
from tests.support.tools import all_metric_names, program

ROOT = Path(__file__).parents[3]
RULES = ROOT / "monitoring" / "rules" / "millrace.yml"
CASES = sorted(Path(__file__).parent.glob("*.test.yml"))

EXPOSED = all_metric_names()
"""Every series of a service, whatever its target."""

pytestmark = pytest.mark.prometheus


def cases(alert: str | None = None) -> dict[str, dict[str, Any]]:
    """The case files by name, with all their cases or those of one alert."""
    files = {path.name: yaml.safe_load(path.read_text(encoding="utf-8")) for path in CASES}
    for file in files.values():
        file["tests"] = [
            case
            for case in file["tests"]
            if alert in (None, *(check["alertname"] for check in case["alert_rule_test"]))
        ]
    return {name: file for name, file in files.items() if file["tests"]}


def promtool(folder: Path, rules: str, alert: str | None = None) -> str:
    """Run the cases, or those of one alert, against rules of this text; returns what failed."""
    (folder / "millrace.yml").write_text(rules, encoding="utf-8")
    files = cases(alert)
    for name, file in files.items():
        if alert is not None:
            only_of(file, alert)
        (folder / name).write_text(yaml.safe_dump(file), encoding="utf-8")
    command = [program("promtool", "prometheus"), "test", "rules", *files]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ("FAILED" in done.stdout + done.stderr) == (done.returncode != 0)
    return done.stdout + done.stderr if done.returncode else ""


def only_of(file: dict[str, Any], alert: str) -> None:
    """Leave the checks of other alerts out."""
    for case in file["tests"]:
        checks = case["alert_rule_test"]
        case["alert_rule_test"] = [c for c in checks if c["alertname"] == alert]


def alerts() -> dict[str, str]:
    """Each alert's expression."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return {r["alert"]: r["expr"] for g in groups for r in g["rules"] if "alert" in r}


THRESHOLD = re.compile(r"(?<=[<>=] )[0-9.]+")
"""A number that an expression compares with."""
MUTATIONS = [
    (alert, i, factor)
    for alert, expr in alerts().items()
    for i, value in enumerate(THRESHOLD.findall(expr))
    for factor in ((0.8, 1.25) if float(value) else (0.8,))
]


def mutated(alert: str, i: int, factor: float) -> str:
    """The rules that ``alert`` needs, with its ``i``-th threshold moved (0 becomes negative)."""
    tree = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    for group in tree["groups"]:
        group["rules"] = [r for r in group["rules"] if r.get("alert", alert) == alert]
    tree["groups"] = [g for g in tree["groups"] if g["rules"]]
    [rule] = [r for g in tree["groups"] for r in g["rules"] if "alert" in r]
    found = list(THRESHOLD.finditer(rule["expr"]))[i]
    value = float(found[0])
    moved = value * factor if value else factor - 1
    rule["expr"] = f"{rule['expr'][: found.start()]}{moved:.4f}{rule['expr'][found.end() :]}"
    used = set(re.findall(r"millrace:[a-z0-9_:]+", rule["expr"]))
    for group in tree["groups"]:
        group["rules"] = [r for r in group["rules"] if r.get("record", "") in used or r is rule]
    tree["groups"] = [g for g in tree["groups"] if g["rules"]]
    return yaml.safe_dump(tree)


def test_the_rules_do_what_their_cases_say(tmp_path: Path) -> None:
    """Every alert fires, resolves and keeps quiet as tests/monitoring/rules/ says."""
    assert promtool(tmp_path, RULES.read_text(encoding="utf-8")) == ""


@pytest.mark.parametrize(("alert", "i", "factor"), MUTATIONS)
def test_a_moved_threshold_is_noticed(tmp_path: Path, alert: str, i: int, factor: float) -> None:
    """With any threshold a fifth lower or a quarter higher that alert's cases fail."""
    assert f"alertname: {alert}" in promtool(tmp_path, mutated(alert, i, factor), alert)


def test_every_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    """The cases cover all alerts, both ways."""
    checks = [c for f in cases().values() for case in f["tests"] for c in case["alert_rule_test"]]
    fires = {c["alertname"] for c in checks if c["exp_alerts"]}
    quiet = {c["alertname"] for c in checks if not c["exp_alerts"]}
    assert fires == quiet == set(alerts())


def test_the_benchmark_measures_the_rules_that_are_shipped() -> None:
    """benchmarks/drift.py simulates the alerts with the numbers they have."""
    expected = [drift.SCORE_DRIFT, drift.WINDOW, drift.WINDOW, drift.LEARNED]
    found = [float(n) for n in THRESHOLD.findall(alerts()["MillraceScoreDrift"])]
    assert found == expected
    assert 'signal="ensemble"' in alerts()["MillraceDrift"]


def test_every_alert_says_what_to_do() -> None:
    """Each has a severity, a summary and a description."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    for rule in (r for g in groups for r in g["rules"] if "alert" in r):
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}


def test_every_runbook_page_is_there_and_complete() -> None:
    """Each alert's page names it and says what it means, what to look at and what to do."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    books: dict[str, list[str]] = {}
    for rule in (r for g in groups for r in g["rules"] if "alert" in r):
        books.setdefault(rule["annotations"]["runbook"], []).append(rule["alert"])
    for book, names in books.items():
        text = (ROOT / book).read_text(encoding="utf-8")
        assert [n for n in names if n not in text] == []
        for heading in ("## What it means", "## What to look at", "## What to do"):
            assert heading in text, f"{book}: {heading}"
    written = {f"docs/runbooks/{p.name}" for p in (ROOT / "docs" / "runbooks").glob("*.md")}
    assert written - {"docs/runbooks/README.md"} == set(books)


def test_runbooks_name_only_commands_and_metrics_that_exist() -> None:
    """Each `millrace ...` command is one of the program's, each metric one of the service's."""
    metrics = EXPOSED | {n.removesuffix("_bucket") for n in EXPOSED}
    for page in (ROOT / "docs" / "runbooks").glob("*.md"):
        text = page.read_text(encoding="utf-8")
        for line in re.findall(r"^\s*(millrace .*)$", text, re.MULTILINE):
            command: Any = typer.main.get_command(app)
            for word in line.split()[1:]:
                if not hasattr(command, "commands"):
                    break
                assert word in command.commands, f"{page.name}: {line}"
                command = command.commands[word]
        names = set(re.findall(r"\bmillrace_[a-z0-9_]+", text))
        assert names <= metrics, page.name


def test_the_rules_use_only_metrics_that_exist() -> None:
    """Every name in an expression is one that the service exposes, or a recorded one."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    rules = [r for g in groups for r in g["rules"]]
    recorded = {r["record"] for r in rules if "record" in r}
    used = {n for r in rules for n in re.findall(r"millrace[a-z0-9_:]+", r["expr"])}
    assert used <= recorded | EXPOSED | {"millrace"}

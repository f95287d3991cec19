"""Prometheus rules: each alert fires when it should, and a changed threshold is noticed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.tools import metric_names, program

ROOT = Path(__file__).parent.parent
RULES = ROOT / "monitoring" / "rules" / "millrace.yml"
CASES = ROOT / "tests" / "rules" / "millrace.test.yml"

pytestmark = pytest.mark.prometheus


def promtool(folder: Path, rules: str, alert: str | None = None) -> str:
    """Run the cases, or those of one alert, against rules of this text; returns what failed."""
    cases = yaml.safe_load(CASES.read_text(encoding="utf-8"))
    cases["tests"] = [
        case
        for case in cases["tests"]
        if alert in (None, *(check["alertname"] for check in case["alert_rule_test"]))
    ]
    (folder / "millrace.yml").write_text(rules, encoding="utf-8")
    (folder / "cases.yml").write_text(yaml.safe_dump(cases), encoding="utf-8")
    command = [program("promtool", "prometheus"), "test", "rules", "cases.yml"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )
    assert ("FAILED" in done.stdout + done.stderr) == (done.returncode != 0)
    return done.stdout + done.stderr if done.returncode else ""


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
    """The rules with the ``i``-th threshold of an alert moved (0 becomes negative)."""
    text = RULES.read_text(encoding="utf-8")
    start = text.index(f"alert: {alert}\n")
    found = list(THRESHOLD.finditer(text, text.index("expr:", start)))[i]
    value = float(found[0])
    moved = value * factor if value else factor - 1
    return f"{text[: found.start()]}{moved:.4f}{text[found.end() :]}"


def test_the_rules_do_what_their_cases_say(tmp_path: Path) -> None:
    """Every alert fires, resolves and keeps quiet as tests/rules/ says."""
    assert promtool(tmp_path, RULES.read_text(encoding="utf-8")) == ""


@pytest.mark.parametrize(("alert", "i", "factor"), MUTATIONS)
def test_a_moved_threshold_is_noticed(tmp_path: Path, alert: str, i: int, factor: float) -> None:
    """With any threshold a fifth lower or a quarter higher that alert's cases fail."""
    assert f"alertname: {alert}" in promtool(tmp_path, mutated(alert, i, factor), alert)


def test_every_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    """The cases cover all alerts, both ways."""
    cases = yaml.safe_load(CASES.read_text(encoding="utf-8"))["tests"]
    checks = [check for case in cases for check in case["alert_rule_test"]]
    fires = {c["alertname"] for c in checks if c["exp_alerts"]}
    quiet = {c["alertname"] for c in checks if not c["exp_alerts"]}
    assert fires == quiet == set(alerts())


def test_every_alert_says_what_to_do() -> None:
    """Each has a severity, a summary and a description."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    for rule in (r for g in groups for r in g["rules"] if "alert" in r):
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert set(rule["annotations"]) == {"summary", "description"}


def test_the_rules_use_only_metrics_that_exist() -> None:
    """Every name in an expression is one that the service exposes, or a recorded one."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    rules = [r for g in groups for r in g["rules"]]
    recorded = {r["record"] for r in rules if "record" in r}
    used = {n for r in rules for n in re.findall(r"millrace[a-z0-9_:]+", r["expr"])}
    assert used <= recorded | metric_names() | {"millrace"}

"""The report of a trail: the life of each model as its records and its replay tell it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from stream.state.generations import list_generations
from stream.tools.audit import life
from stream.tools.audit.life import quality_course
from stream.tools.audit.read import read_trail
from stream.tools.replay import rebuilt
from tests.stream.logs.log_file import changed, cut
from tests.stream.tools.audit.audited import millrace, settings
from tests.support.runner import append, caught_up, contents, running
from tests.support.tools import chromium
from tests.support.waiting import DEADLINE_S

COMMANDS: list[dict[str, Any]] = [
    {
        "command": "freeze",
        "member": "mlp",
        "actor": "ops",
        "reason": "<b>drift</b>",
        "ticket": "T-7",
    },
    {"command": "set_threshold", "threshold": 0.4, "actor": "risk"},
]


@pytest.fixture
def page(shard: Path) -> Path:
    """The report of a shard whose operators did something."""
    c = settings(shard)
    append(c, ("control", COMMANDS))
    with running(c) as service:
        caught_up(service, 802)
    millrace("audit", "report", shard / "c.toml", "--html", shard / "life.html")
    return shard / "life.html"


def row_of(html: str, name: str) -> list[str]:
    """The cells of the first row of a page that begins with a name."""
    found = re.search(rf"<tr><th>{name}</th>(.*?)</tr>", html)
    assert found
    return re.findall(r"<td>(.*?)</td>", found[1])


def test_it_tells_each_life_by_the_trail(page: Path) -> None:
    """Versions, labels, parameters, acts and refusals as counted from the records by hand."""
    html = page.read_text()
    records = [json.loads(line) for line in read_trail(settings(page.parent))]
    for name in ("linear", "mlp"):
        own = [r for r in records if r["model"] == name]
        whole = [r for r in own if "held" in r]
        cells = [f"0 to {whole[-1]['version_to']}", str(sum(r["n_updates"] for r in whole))]
        cells += [str(whole[0]["held"]), str(whole[-1]["held"]), f"{whole[-1]['bytes']:,}"]
        acts = "1" if name == "mlp" else "0"
        changes = sum(r["event"] == "hyper_changed" for r in own)
        assert row_of(html, name) == [*cells, "0", acts, "0", "0", str(changes)]
    assert "by command of ops (T-7: &lt;b&gt;drift&lt;/b&gt;)" in html
    assert "from 0.5 to 0.4, by command of risk" in html
    assert "<b>" not in html
    assert "Trail: ok" in html


def test_quality_is_that_of_the_steps_done_again(
    ran: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last point is what a checkpoint of the last step would hold; `--since` begins later."""
    c = settings(ran)
    journal = [json.loads(raw or b"") for raw in contents(c, c.journal_topic)]
    course = quality_course(c, None)
    assert [point.at_ms for point in course] == [step["clock_ms"] for step in journal]
    with rebuilt(c, len(journal)) as past:
        report = past.follower.engine.quality.snapshot().report()
    assert course[-1].figures == {name: windows["fading"] for name, windows in report.items()}
    since = journal[-3]["clock_ms"]
    later = [step["clock_ms"] for step in journal if step["clock_ms"] >= since]
    assert [point.at_ms for point in quality_course(c, since)] == later
    most = len(journal) * 2 // 3
    monkeypatch.setattr(life, "SAMPLES", most)
    sampled = quality_course(c, None)
    assert len(sampled) <= most
    assert sampled[-1] == course[-1]


def test_without_a_journal_that_reaches_back_it_says_so(shard: Path) -> None:
    """From the oldest checkpoint, or not at all; and a crafted record stops nothing."""
    c = settings(shard)
    journal = c.journal_topic
    clocks = [json.loads(raw or b"")["clock_ms"] for raw in contents(c, journal)]
    cut(shard / "log.db", journal, 5)
    oldest = min(int(path.name) for path in list_generations(c.state_dir))
    assert quality_course(c, None)[0].at_ms == clocks[oldest]
    for path in list_generations(c.state_dir):
        shutil.rmtree(path)
    with changed(shard / "log.db", "audit") as rows:
        rows[0][1] = rows[0][1].replace(b'"n_updates"', b'"breaches"')
    target = shard / "life.html"
    given = "audit", "report", shard / "c.toml", "--html", target, "--json"
    found = json.loads(millrace(*given, status=10))
    assert (found["trail"], found["quality"].partition(":")[0]) == ("broken", "not known")
    assert "not as the service writes it" in target.read_text()


@pytest.mark.browser
def test_it_opens_without_a_complaint_wide_and_narrow(page: Path) -> None:
    """Every chart is drawn, nothing is fetched, and nothing but tables is wider than the screen."""
    complaints: list[str] = []
    with chromium() as browser:
        for width in (1280, 390):
            tab = browser.new_page(viewport={"width": width, "height": 900})
            tab.set_default_timeout(DEADLINE_S * 1000)
            tab.on("pageerror", lambda error: complaints.append(str(error)))
            tab.on("console", lambda message: complaints.append(message.text))
            tab.on("request", lambda r: complaints.append(r.url) if "http" in r.url[:4] else None)
            tab.goto(page.as_uri())
            tab.wait_for_selector("#chart-2 .main-svg")
            assert tab.evaluate("document.documentElement.scrollWidth") == width
    assert complaints == []

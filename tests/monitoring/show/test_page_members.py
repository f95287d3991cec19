"""The live page of members: the second stage of a ranking, and who learned what was corrected."""

from __future__ import annotations

import os
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect

from stream.demo.demo import demo_config
from stream.demo.shop import DEEDS, ShopSimulator
from stream.run.front import Front
from stream.settings.load import parse
from tests.monitoring.show.test_live_page import browser, opened
from tests.support.factory import config, event, label, truth
from tests.support.runner import append, caught_up, running
from tests.support.waiting import DEADLINE_S, wait_until

__all__ = ["browser"]
pytestmark = pytest.mark.browser

DEEDS_PLAYED = 3_000
ARRIVAL = {"field": "fraud", "horizon": "2h", "learning": "arrival"}


def url_of(front: Front) -> str:
    assert front.server is not None
    return f"http://127.0.0.1:{front.server.port}"


def test_the_second_stage_is_drawn_beside_the_recommender(browser: Browser, tmp_path: Path) -> None:
    """Its quality, its weights and whose order is shown; its members hold parameters."""
    raw = demo_config(tmp_path, 0, "shop").model_dump(mode="json", exclude_none=True)
    shop = parse(raw, "test")
    made = ShopSimulator(3, 200, drift=False, events=DEEDS_PLAYED)
    records = [r for part in made.chunks(1000) for r in DEEDS.events(part.events, 3)]
    with running(shop) as service:
        front = Front(service)
        front.start()
        service.log.append(shop.topics.events, records)
        caught_up(service, len(records))
        wait_until(lambda: front.snapshot()["stage"]["judged"] > 0, "judged places")
        wait_until(lambda: front.history()["points"][-1:], "a point")
        before = len(front.history()["points"])
        wait_until(lambda: len(front.history()["points"]) > before, "a point of the end")
        stage = front.snapshot()["stage"]
        with opened(browser, url_of(front)) as (page, complaints):
            expect(page.locator("#stage-quality .main-svg").first).to_be_visible()
            expect(page.locator("#stage-weights .main-svg").first).to_be_visible()
            said = page.locator("#stage-quality").get_attribute("aria-label") or ""
            assert said.startswith("Log loss of members over candidates, with 0 drift alarms")
            assert "latest: ensemble 0." in said
            signals = page.locator("#drift-table tbody th").all_text_contents()
            assert {"ensemble", "ensemble over candidates", "crossed over candidates"} < {*signals}
            scorers = page.locator("#stage-table tbody th").all_text_contents()
            assert scorers == ["ensemble", "linear", "crossed"]
            page.select_option("#stage-metric", "roc_auc")
            name = page.locator("#stage-quality .ytitle")
            expect(name).to_have_text("ROC AUC")
            whose = "the members'" if stage["leads"] else "the recommender's"
            expect(page.locator('[data-value="leads"]')).to_have_text(whose)
            row = page.locator(
                "#members-table tbody tr", has=page.get_by_role("rowheader", name="crossed")
            )
            assert row.locator("td").last.inner_text() != "0"
            folder = Path(os.environ.get("LIVE_PAGE_SHOTS", tmp_path))
            page.screenshot(path=folder / "stage.png", full_page=True)
        front.stop()
    assert complaints == []


def test_who_is_stale_is_shown_with_what_to_do(browser: Browser, tmp_path: Path) -> None:
    """Once a label that members learned is corrected; over HTTP too."""
    c = config(tmp_path, http={"port": 0}, label=ARRIVAL, history={"disk": "1MB"})
    n = 200
    with running(c) as service:
        front = Front(service)
        front.start()
        url = url_of(front)

        def stale() -> list[str]:
            answer = httpx.get(f"{url}/v1/models", trust_env=False, timeout=DEADLINE_S).json()
            return [m["name"] for m in answer["members"] if m["stale"]]

        labels = [label(i) for i in range(n)]
        append(c, ("events", [event(i) for i in range(n)]), ("labels", labels))
        caught_up(service, 2 * n)
        with opened(browser, url) as (page, complaints):
            expect(page.locator("#members-table tbody tr").first).to_be_visible()
            expect(page.locator("#stale-note")).to_be_hidden()
            assert stale() == []
            append(c, ("labels", [label(n - 3, not truth(n - 3)) | {"corrects": True}]))
            names = [m["name"] for m in front.models()["members"]]
            wait_until(lambda: stale() == names, "stale members")
            expect(page.locator("#stale-note")).to_contain_text("millrace control rebuild CONFIG")
            expect(page.locator("#stale-note")).to_contain_text(", ".join(names))
            expect(page.locator("#members-table tbody tr").first).to_contain_text("up, stale")
            folder = Path(os.environ.get("LIVE_PAGE_SHOTS", tmp_path))
            page.screenshot(path=folder / "stale.png", full_page=True)
        front.stop()
    assert complaints == []

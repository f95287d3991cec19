"""The live page in headless Chromium: what it shows is what the service says, and nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from playwright.sync_api import Browser, Page, expect
from prometheus_client.parser import text_string_to_metric_families

from monitoring import show
from monitoring.quality.measures import METRICS
from stream.http.server import Server
from stream.run.front import Front
from stream.settings.schema import Config
from tests.support.factory import config, event, label, truth
from tests.support.runner import append, caught_up, running
from tests.support.tools import chromium
from tests.support.waiting import DEADLINE_S, wait_until

pytestmark = pytest.mark.browser

EVENTS, TURN, BAD, LATE = 10_000, 6000, 7, 100
"""At ``TURN`` the truth turns: 2,000 labels warmed the models up, 2,000 told what is usual."""
CHARTS = ("quality", "flow", "latency", "scores", "alerts", "weights", "parameters")
DESK: Any = {"width": 1280, "height": 900}
PHONE: Any = {"width": 390, "height": 844}
SMALL: Any = {"width": 320, "height": 600}


class Live(NamedTuple):
    """A service that has learned, drifted and rests."""

    front: Front
    config: Config
    url: str


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, without a window."""
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Two parts of a stream, the truth reversed in the second; bad records in between."""
    directory = tmp_path_factory.mktemp("live")
    c = config(directory, http={"port": 0}, limits={"batch": 100})
    with running(c) as service:
        front = Front(service)
        front.start()
        assert front.server is not None
        labelled = EVENTS - LATE
        first = [event(i) for i in range(TURN)]
        append(c, ("events", first), ("labels", [label(i) for i in range(TURN)]))
        wait_until(lambda: told(front)["millrace_labels_total", "joined"] == TURN, "first part")
        wait_until(lambda: front.history()["points"], "a point")
        rest = [b"{"] * BAD + [event(i) for i in range(TURN, EVENTS)]
        wrong = [label(i, not truth(i)) for i in range(TURN, labelled)]
        append(c, ("events", rest), ("labels", wrong))
        caught_up(service, EVENTS + BAD + labelled)
        wait_until(lambda: told(front)["millrace_labels_total", "joined"] == labelled, "readings")
        wait_until(lambda: "ensemble" in marks(front), "a drift mark of the ensemble")
        wait_until(lambda: sum(service.lag.values()) == 0, "an empty backlog")
        yield Live(front, c, f"http://127.0.0.1:{front.server.port}")
        front.stop()


def told(front: Front) -> dict[tuple[str, ...], float]:
    """Every series of /metrics by its name and label values, ``model`` left out."""
    families = text_string_to_metric_families(front.metrics().decode())
    return {
        (s.name, *(v for k, v in sorted(s.labels.items()) if k != "model")): s.value
        for family in families
        for s in family.samples
    }


def points(front: Front) -> list[Any]:
    """The ring of the charts."""
    found: list[Any] = front.history()["points"]
    return found


def marks(front: Front) -> set[str]:
    """Whose drift the charts mark."""
    return {of for point in points(front) for _, of in point["drift"]}


@contextmanager
def opened(browser: Browser, url: str) -> Iterator[tuple[Page, list[str]]]:
    """The page in a context of its own, and what it complains of or asks others for."""
    context = browser.new_context(viewport=DESK)
    context.set_default_timeout(DEADLINE_S * 1000)
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda m: complaints.append(m.text) if m.type != "log" else None)
    page.on(
        "request",
        lambda r: None if r.url.startswith((url, "data:", "blob:")) else complaints.append(r.url),
    )
    page.goto(url)
    yield page, complaints
    context.close()


@pytest.fixture(scope="module")
def watched(browser: Browser, live: Live) -> Iterator[tuple[Page, list[str]]]:
    """One page with numbers and charts, for all tests that only look: opening one takes seconds."""
    with opened(browser, live.url) as (page, complaints):
        ready(page)
        yield page, complaints


@pytest.fixture
def page(watched: tuple[Page, list[str]]) -> Page:
    """The open page, at its desk size and in the light scheme."""
    page, _ = watched
    page.set_viewport_size(DESK)
    page.emulate_media(color_scheme="light")
    return page


def ready(page: Page) -> None:
    """Wait for numbers and charts."""
    expect(page.locator("#state")).to_have_text("running")
    for chart in CHARTS:
        expect(page.locator(f"#{chart} .main-svg").first).to_be_attached(timeout=DEADLINE_S * 1000)


def tile(page: Page, name: str) -> float:
    """A number as shown, without its separators."""
    return float((page.locator(f'[data-value="{name}"]').text_content() or "").replace(",", ""))


def rows(page: Page, table: str) -> dict[str, list[str]]:
    """A table's rows by their first cell."""
    found = page.locator(f"#{table} tbody tr").all()
    texts = [[c.text_content() or "" for c in row.locator("th, td").all()] for row in found]
    return {first: rest for first, *rest in texts}


def test_the_numbers_are_those_of_the_metrics(page: Page, live: Live) -> None:
    """Tiles and tables say what /metrics says."""
    metrics = told(live.front)
    assert tile(page, "scored") == EVENTS == metrics["millrace_events_scored_total",]
    assert tile(page, "joined") == EVENTS - LATE == metrics["millrace_labels_total", "joined"]
    assert tile(page, "alerts") == metrics["millrace_alerts_total",] > 0
    assert tile(page, "pending") == LATE == metrics["millrace_pending_labels",]
    assert tile(page, "dead") == BAD == metrics["millrace_dead_letters_total", "malformed"]
    assert tile(page, "lag") == 0
    alarms = sum(v for k, v in metrics.items() if k[0] == "millrace_drift_alarms_total")
    assert tile(page, "alarms") == alarms > 0
    page.locator("#quality-table").evaluate("t => t.closest('details').open = true")
    shown = rows(page, "quality-table")
    for i, name in enumerate(METRICS):
        for scorer in ("ensemble", "linear", "prior"):
            gauge = metrics[f"millrace_quality_{name}", "arrival", scorer, "sliding"]
            assert shown[scorer][i] == ("–" if gauge != gauge else f"{gauge:.4f}")
    members = rows(page, "members-table")
    for member in ("linear", "prior"):
        weight = metrics["millrace_ensemble_weight_ratio", member]
        assert members[member][2] == f"{weight:.3f}"
        held = sum(v for k, v in metrics.items() if k[:2] == ("millrace_parameters", member))
        assert float(members[member][-1].replace(",", "")) == held
    limit = metrics["millrace_limit", "pending"]
    expect(page.locator("#limits")).to_contain_text(f"{LATE} of {limit:,.0f}")


def test_every_chart_is_drawn(page: Page, tmp_path: Path) -> None:
    """Each chart holds data and paints it, with marks where drift was found."""
    for chart in CHARTS:
        data = page.locator(f"#{chart}").evaluate("c => c.data.map(t => t.y.length)")
        assert data
        assert all(data)
        label_text = page.locator(f"#{chart}").get_attribute("aria-label") or ""
        assert re.search(r"\d", label_text), label_text
    for chart in ("quality", "flow", "weights", "parameters"):
        assert page.locator(f"#{chart} .js-line").first.get_attribute("d")
    assert page.locator("#scores .bars .point path").count() > 5
    assert page.locator("#quality .shapelayer path").count() > 0
    folder = Path(os.environ.get("LIVE_PAGE_SHOTS", tmp_path))
    page.screenshot(path=folder / "live.png", full_page=True)
    assert (folder / "live.png").stat().st_size > 50_000


def test_numbers_do_not_wait_for_charts(browser: Browser, live: Live) -> None:
    """Without the charts' script, of 5 MB, every number and table is there, and a word about it."""
    context = browser.new_context(viewport=DESK)
    context.route("**/plotly.min.js", lambda route: route.abort())
    page = context.new_page()
    page.goto(live.url)
    expect(page.locator('[data-value="scored"]')).to_have_text(f"{EVENTS:,}")
    expect(page.locator("#flow")).to_have_text("Charts could not be loaded; see the table")
    for table in ("recent", "quality", "members", "audit", "flow"):
        expect(page.locator(f"#{table}-table tbody tr").first).to_be_attached()
    context.close()


def test_the_classes_are_named_by_the_configuration(page: Page, live: Live) -> None:
    """Chart and table say the label's own field and values, whatever is learned."""
    field = live.config.label.field
    expect(page.locator("#scores-table thead")).to_contain_text(f"{field} = true")
    assert page.locator("#scores").evaluate("c => c.data.map(t => t.name)") == [
        f"{field} = false",
        f"{field} = true",
    ]
    files = (Path(next(iter(show.__path__))) / "page").iterdir()
    assert not [f.name for f in files if "fraud" in f.read_text().lower()]


def test_the_latest_and_the_highest_scores_are_listed(page: Page) -> None:
    """Newest first, or highest first; with what each member said."""
    page.locator("#order").select_option("latest")
    expect(page.locator("#recent-table tbody tr").first).to_contain_text(f"e{EVENTS - 1}")
    page.locator("#order").select_option("highest")
    shown = [float(cells[1]) for cells in rows(page, "recent-table").values()]
    assert shown == sorted(shown, reverse=True)
    assert len(shown) == 10
    expect(page.locator("#recent-table thead")).to_contain_text("linear")


def test_an_event_is_looked_up_by_its_id(browser: Browser, live: Live) -> None:
    """The score record of an id; of an unknown one, however it is spelled, a sentence."""
    with opened(browser, live.url) as (page, _):
        expect(page.locator("#recent-table td").first).to_be_attached()
        page.locator("#event-id").fill(f"e{EVENTS - 2}")
        page.locator("#lookup button").click()
        expect(page.locator("#found-table tbody tr")).to_contain_text(f"e{EVENTS - 2}")
        hostile = "<img src=x onerror=alert(1)>/../%2e?a#b"
        page.locator("#event-id").fill(hostile)
        page.locator("#event-id").press("Enter")
        expect(page.locator("#found-note")).to_contain_text(hostile)
        expect(page.locator("#found")).to_be_hidden()
        assert page.locator("img").count() == 0


def test_an_audit_record_is_a_sentence_and_whole_behind_a_click(page: Page) -> None:
    """What happened is told in words; the record opens, and stays open while others come."""
    drift = page.locator("#audit-table tr", has_text="drift").first
    expect(drift).to_contain_text(re.compile(r"betting: [\d.]+ over [\d.]+"))
    expect(drift.locator("pre")).to_be_hidden()
    drift.locator("summary").click()
    expect(drift.locator("pre")).to_contain_text('"event": "drift"')


def test_a_command_asks_for_an_admins_token(browser: Browser, live: Live) -> None:
    """A viewer's token does not do; an admin's does, and is kept nowhere but in memory."""
    names = {"viewer": ["score"], "operator": ["admin"]}
    tokens = [
        {"name": n, "sha256": hashlib.sha256(n.encode()).hexdigest(), "scopes": s}
        for n, s in names.items()
    ]
    with another(live, tokens=tokens) as url, opened(browser, url) as (page, _):
        page.locator("#token").fill("viewer")
        page.keyboard.press("Enter")
        ready(page)
        page.locator("#member").select_option("linear")
        page.get_by_role("button", name="Freeze").click()
        expect(page.locator("#control-note")).to_contain_text("scope 'admin'")
        page.locator("#admin").fill("operator")
        page.keyboard.press("Enter")
        expect(page.locator("#control-note")).to_contain_text("from the next step")
        expect(page.locator("#members-table")).to_contain_text("frozen")
        page.get_by_role("button", name="Release").click()
        expect(page.locator("#members-table")).not_to_contain_text("frozen")
        page.locator("#new-threshold").fill("0.25")
        page.get_by_role("button", name="Set").click()
        expect(page.locator("#audit-table")).to_contain_text("to 0.25, by command of operator")
        stored = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")
        assert "operator" not in stored


def test_the_last_minutes_are_there_at_once(page: Page, live: Live) -> None:
    """A page that was just opened draws the service's history, not only its own."""
    first = live.front.history()["points"][0]["t"]
    earliest = page.locator("#flow").evaluate("c => c.data[0].x[0].getTime()")
    assert earliest == first


def test_another_metric_can_be_chosen(page: Page) -> None:
    """The quality chart shows the metric of the menu, by keyboard too."""
    page.locator("#metric").focus()
    page.keyboard.press("B")
    expect(page.locator("#metric")).to_have_value("brier")
    expect(page.locator("#quality .ytitle")).to_have_text("Brier score")
    assert page.locator("#quality").evaluate("c => c.data[0].name") == "ensemble"
    details = page.locator("details:has(#quality-table)")
    details.evaluate("d => d.open = false")
    details.locator("summary").press("Enter")
    expect(page.locator("#quality-table")).to_be_visible()


def test_audit_records_and_dead_letters_are_listed(page: Page, live: Live) -> None:
    """The newest audit records and dead letters with reason and place, never a payload."""
    expect(page.locator("#dead-reasons")).to_have_text(f"malformed {BAD}")
    assert page.locator("#dead-table tbody tr").count() == BAD
    expect(page.locator("#dead-table tbody tr").first).to_contain_text("events/0")
    expect(page.locator("#audit-table")).to_contain_text("drift")
    assert all("value" not in d for d in live.front.snapshot()["last_dead_letters"])


@pytest.mark.parametrize("size", [PHONE, SMALL], ids=["390", "320"])
def test_a_phone_needs_no_sideways_scrolling(page: Page, size: Any) -> None:
    """The page is as wide as the screen; wide tables scroll inside their own box."""
    page.set_viewport_size(size)
    wide, screen = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= screen == size["width"]
    cue = "e => getComputedStyle(e).backgroundImage.includes('linear-gradient')"
    assert page.locator(".scroll").first.evaluate(cue)


def test_an_announcement_is_for_screen_readers_only(page: Page) -> None:
    """However long its text, nothing of it covers what is seen."""
    said = page.locator("#announce")
    text = said.text_content()
    said.evaluate("e => { e.textContent = 'Drift alarm: betting on forest, '.repeat(40) }")
    box = said.bounding_box()
    said.evaluate("(e, text) => { e.textContent = text }", text)
    assert box is not None
    assert (box["width"], box["height"]) == (1, 1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_colour_schemes_are_readable(page: Page, scheme: Any) -> None:
    """The system's scheme holds until the button is pressed; texts have a contrast of 4.5."""
    other = {"light": "dark", "dark": "light"}[scheme]
    page.evaluate("localStorage.clear()")
    page.emulate_media(color_scheme=other)
    page.emulate_media(color_scheme=scheme)
    for name in (scheme, other):
        expect(page.locator("html")).to_have_attribute("data-theme", name)
        pressed = str(name == "dark").lower()
        expect(page.locator("#theme")).to_have_attribute("aria-pressed", pressed)
        for selector in ("dd.quiet", "dt", "h2", "#state", "a", "thead th", "tbody th"):
            assert contrast(page, selector) >= 4.5, f"{selector} in {name}"
        page.locator("#theme").press("Enter")
    expect(page.locator("html")).to_have_attribute("data-theme", scheme)


CONTRAST = """selector => {
  const node = document.querySelector(selector);
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  let back = node;
  while (back && (parse(getComputedStyle(back).backgroundColor)[3] ?? 1) === 0) {
    back = back.parentElement;
  }
  return [parse(getComputedStyle(node).color), parse(getComputedStyle(back).backgroundColor)];
}"""


def contrast(page: Page, selector: str) -> float:
    """Contrast ratio of an element's text to what is behind it (WCAG 2.2, 1.4.3)."""
    # In one go: the page draws its tables anew every second.
    colours = page.evaluate(CONTRAST, selector)

    def luminance(rgb: list[float]) -> float:
        parts = [c / 255 for c in rgb[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    dark, light = sorted(luminance(c) for c in colours)
    return (light + 0.05) / (dark + 0.05)


def test_every_chart_has_a_name_a_heading_and_a_table(page: Page) -> None:
    """Who cannot see a chart finds its numbers in a table of the page, under a heading."""
    assert page.locator("h1").count() == 1
    for region in page.locator("main section").all():
        heading = region.get_attribute("aria-labelledby")
        assert page.locator(f"h2#{heading}").count() == 1
    for table in ("quality", "flow", "scores", "members", "drift", "audit", "dead"):
        assert page.locator(f"#{table}-table thead th").count() > 2
    assert page.locator("[aria-live=polite]").count() == 1
    assert page.locator("a, button, select, summary, [tabindex]").first.text_content() == (
        "Skip to the numbers"
    )


TARGETS = {
    "classes": {"type": "classes", "classes": ["low", "high"]},
    "number": {"type": "number"},
}


@pytest.mark.parametrize(
    ("task", "said", "drawn", "title"),
    [
        (
            "classes",
            ["Prediction", "Balanced accuracy", "Kappa"],
            ["wrong", "right"],
            "Scores of right and wrong predictions; over a half: ",
        ),
        ("number", ["Mean absolute error", "RMSE"], ["all scored"], "Scores as made: 400"),
    ],
)
def test_the_page_speaks_of_the_target(
    browser: Browser, tmp_path: Path, task: str, said: list[str], drawn: list[str], title: str
) -> None:
    """Its metrics, its predictions and its scores, with nothing that it does not have."""
    c = config(
        tmp_path,
        http={"port": 0},
        target=TARGETS[task],
        features=[{"name": "amount", "type": "number", "field": "amount"}],
        members=[{"name": "linear", "type": "logistic"}],
    )
    labels = [
        label(i, event(i)["amount"] if task == "number" else ("low", "high")[truth(i)])
        for i in range(300)
    ]
    with running(c) as service, ExitStack() as stack:
        front = Front(service)
        front.start()
        stack.callback(front.stop)
        assert front.server is not None
        # Quality counts what was scored by members that had learned.
        append(c, ("events", [event(i) for i in range(200)]), ("labels", labels[:200]))
        wait_until(lambda: told(front)["millrace_labels_total", "joined"] == 200, "first labels")
        append(c, ("events", [event(i) for i in range(200, 400)]), ("labels", labels[200:]))
        wait_until(lambda: told(front)["millrace_labels_total", "joined"] == 300, "all labels")
        wait_until(lambda: any(p["quality"]["ensemble"][0] for p in points(front)), "a point")
        page, complaints = stack.enter_context(
            opened(browser, f"http://127.0.0.1:{front.server.port}")
        )
        ready(page)
        heads = page.locator("#recent-table thead, #quality-table thead")
        for head in said:
            assert any(head in text for text in heads.all_text_contents())
        assert page.locator("#scores").evaluate("c => c.data.map(t => t.name)") == drawn
        assert (page.locator("#scores").get_attribute("aria-label") or "").startswith(title)
        values = page.locator("#quality").evaluate("c => c.data[0].y")
        assert values[-1] in [p["quality"]["ensemble"][0] for p in points(front)]
        assert values[-1] > 0
        for table in ("recent", "quality", "scores"):
            assert not re.search("undefined|NaN", page.locator(f"#{table}-table").inner_html())
        newest = page.locator("#recent-table tbody tr").first
        expect(newest).to_contain_text("e399")
        if task == "classes":
            expect(newest).to_contain_text(re.compile("low|high"))
        expect(page.locator("#set-threshold")).to_be_hidden()
        folder = Path(os.environ.get("LIVE_PAGE_SHOTS", tmp_path))
        page.screenshot(path=folder / f"live-{task}.png", full_page=True)
        assert complaints == []


@contextmanager
def another(
    live: Live, observe: Callable[..., None] = lambda *_: None, **http: Any
) -> Iterator[str]:
    """A second server of the same service."""
    settings = live.config.model_copy(
        update={"http": type(live.config.http)(**({"port": 0} | http))}
    )
    server = Server(settings, live.front, live.front.waiters, observe)
    server.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        assert server.stop(DEADLINE_S)


def test_a_token_is_asked_for_once(browser: Browser, live: Live) -> None:
    """Without one the page asks, a wrong one is told, the right one holds for the tab."""
    digest = hashlib.sha256(b"correct-horse").hexdigest()
    token = {"name": "viewer", "sha256": digest, "scopes": ["score"]}
    with another(live, tokens=[token]) as url, opened(browser, url) as (page, _):
        expect(page.locator("#token")).to_be_focused()
        page.keyboard.type("battery-staple")
        page.keyboard.press("Enter")
        expect(page.locator("#banner")).to_contain_text("does not know")
        expect(page.locator('[data-value="scored"]')).to_have_text("–")
        page.keyboard.type("correct-horse")
        page.keyboard.press("Enter")
        ready(page)
        expect(page.locator("#ask")).to_be_hidden()
        page.reload()
        ready(page)
        assert json.dumps(page.context.cookies()) == "[]"


def test_a_lost_connection_is_told_and_found_again(browser: Browser, live: Live) -> None:
    """The page says that its numbers are old, and goes on when the service is back."""
    with ExitStack() as stack:
        with another(live) as url:
            page, _ = stack.enter_context(opened(browser, url))
            ready(page)
        expect(page.locator("#state")).to_have_text("disconnected")
        expect(page.locator("#banner")).to_contain_text("Trying again")
        stack.enter_context(another(live, port=int(url.rpartition(":")[2])))
        expect(page.locator("#state")).to_have_text("running")
        expect(page.locator("#banner")).to_be_hidden()


def test_nothing_is_complained_of_and_nobody_else_asked(
    watched: tuple[Page, list[str]], live: Live
) -> None:
    """Scripts hold to a policy without eval or inline code, and no request leaves the service."""
    page, complaints = watched
    response = page.request.get(live.url)
    policy = response.headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "default-src 'none';" in policy
    assert complaints == []

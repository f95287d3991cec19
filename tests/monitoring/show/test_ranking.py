"""What a shard that ranks tells: its metrics and members beside what its engine counted."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from playwright.sync_api import expect
from prometheus_client.parser import text_string_to_metric_families

from monitoring.quality.ranks import METRICS
from monitoring.quality.rated import METRICS as RATED
from monitoring.show.dashboards.build import BOARDS
from monitoring.show.metrics import MillraceCollector, _ranking, exposition, registry
from monitoring.show.readings import RANKING, Readings, Telemetry
from stream.run.front import Front
from stream.run.readings import parameter_counts, readings
from stream.settings.ranking import RATINGS, RECOMMENDER
from stream.step.ranking.engine import RankingEngine
from tests.stream.step.ranking.scaled import Shop as Spread
from tests.stream.step.ranking.scaled import Traffic, home, raw
from tests.stream.step.ranking.test_roles import MEMBERS as STAGE
from tests.support.factory import DAY_MS, START_MS, interaction, ranking_config, wish
from tests.support.runner import append, caught_up, running
from tests.support.tools import chromium
from tests.support.waiting import DEADLINE_S, wait_until

Series = dict[tuple[str, ...], float]
TAKEN, ASKED, NEW = 600, 40, 5
MEMBERS = ("popular", "cooccurrence", "sessions")
SCORERS = ("ratings", "bias_factors", "item_knn", "user_knn")


class Shop(NamedTuple):
    """A shard at rest: what it told before its first record, and what it tells now."""

    front: Front
    engine: RankingEngine
    before: Series
    now: Series


def series(text: bytes) -> Series:
    """Every series by its name and label values."""
    return {
        (s.name, *(v for _, v in sorted(s.labels.items()))): s.value
        for family in text_string_to_metric_families(text.decode())
        for s in family.samples
    }


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Ratings, requests of users that are known and that are not, and one item taken twice."""
    config = ranking_config(tmp_path_factory.mktemp("shop"), http={"port": 0}, reco={"ratings": {}})
    with running(config) as service:
        front = Front(service)
        front.start()
        before = series(front.metrics())
        asked = [wish(i) for i in range(ASKED)]
        asked += [wish(ASKED + i, user=f"new{i}", count=40) for i in range(NEW)]
        append(config, ("events", [interaction(i, value=1 + i % 5) for i in range(TAKEN)] + asked))
        caught_up(service, TAKEN + ASKED + NEW)
        wait_until(lambda: front.score("r0") is not None, "the first answer")
        best = front.score("r0")
        assert best is not None
        item = best.decode().partition('"items":[{"id":"')[2].partition('"')[0]
        hits = [interaction(TAKEN + i, ranking="r0", item=item, user="u0") for i in range(2)]
        append(config, ("events", hits))
        caught_up(service, TAKEN + ASKED + NEW + 2)
        late = {"event": "item", "item": "m0", "timestamp": START_MS + 3 * DAY_MS}
        append(config, ("events", [late]))
        caught_up(service, TAKEN + ASKED + NEW + 3)
        wait_until(
            lambda: series(front.metrics())["millrace_valued_lists_total", "shop"] == ASKED + NEW,
            "the readings",
        )
        assert isinstance(service.engine, RankingEngine)
        wait_until(lambda: front.history()["points"], "a point")
        yield Shop(front, service.engine, before, series(front.metrics()))
        front.stop()


def test_every_series_exists_before_the_first_record(shop: Shop) -> None:
    """What rankings have beside other services is there from the start: counts at 0."""
    of_rankings = {family.name for family in _ranking(Readings("shop", MEMBERS, "ranking"))}
    names = (*of_rankings, *(f"millrace_quality_{m}" for m in (*METRICS, *RATED)))

    def such(found: Series) -> set[tuple[str, ...]]:
        return {key for key in found if key[0].removesuffix("_total") in names}

    assert such(shop.before) == such(shop.now)
    assert len({key[0] for key in such(shop.now)}) == len(names)
    assert shop.before["millrace_listed_items_total", "shop", "taken"] == 0


def test_counts_are_the_engines(shop: Shop) -> None:
    """Interactions, lists, fallbacks and short answers as they were sent."""
    now = shop.now
    assert now["millrace_events_scored_total", "shop"] == ASKED + NEW
    assert now["millrace_fallback_answers_total", "shop"] == NEW
    assert now["millrace_short_answers_total", "shop"] == NEW
    assert now["millrace_cold_interactions_total", "shop"] == 20
    assert now["millrace_listed_items_total", "shop", "shown"] == 3 * ASKED + 30 * NEW
    assert now["millrace_listed_items_total", "shop", "taken"] == 1
    assert now["millrace_labels_total", "shop", "joined"] == TAKEN + 2
    assert now["millrace_ranking_known", "shop", "users"] == 20
    assert now["millrace_ranking_known", "shop", "items"] == 30
    assert now["millrace_ranking_evicted_total", "shop", "items"] == 0
    assert now["millrace_limit", "items"] == 100_000


def test_what_is_shown_is_told(shop: Shop) -> None:
    """Lists of the unknown hold the whole catalogue; the ten most shown items have their share."""
    assert shop.now["millrace_catalogue_coverage_ratio", "shop"] == 1
    assert shop.now["millrace_shown_top_10_ratio", "shop"] == shop.engine.shown.top()
    assert 1 / 3 < shop.engine.shown.top() < 1


def test_what_lists_are_worth_is_told(shop: Shop) -> None:
    """Of those whose horizon is over: nothing was drawn, so that the best was shown."""
    assert shop.now["millrace_valued_lists_total", "shop"] == ASKED + NEW
    assert shop.now["millrace_policy_effective_lists", "shop"] == pytest.approx(45, rel=1e-2)
    found = {shop.now["millrace_policy_value_ratio", e, "shop"] for e in ("shown", "snips", "dr")}
    assert [pytest.approx(1 / 45, rel=1e-2)] * len(found) == list(found)


def test_quality_is_the_reports(shop: Shop) -> None:
    """Each gauge is the report's figure of that scorer and window."""
    for name, windows in shop.engine.quality.report().items():
        for window in ("fading", "sliding"):
            for metric in RATED if name in SCORERS else METRICS:
                key = (f"millrace_quality_{metric}", "arrival", name, "shop", window)
                assert shop.now[key] == windows[window][metric]
            key = ("millrace_quality_effective_samples", "all", "arrival", name, "shop", window)
            assert shop.now[key] == windows[window]["effective_samples"] > 0


def test_members_have_shares_and_learn_as_one(shop: Shop) -> None:
    """`/v1/models` lists each member with its share of the weights and what all learned."""
    told = shop.front.models()
    assert [m["name"] for m in told["members"]] == list(MEMBERS)
    assert math.isclose(sum(abs(m["weight"]) for m in told["members"]), 1)
    assert {(m["updates"], m["up"], m["frozen"]) for m in told["members"]} == {
        (TAKEN + 2, True, False)
    }
    assert shop.now["millrace_updates_applied_total", RECOMMENDER, "shop"] == TAKEN + 2
    assert shop.now["millrace_member_up", RECOMMENDER, "shop"] == 1
    assert all(("millrace_ensemble_weight_ratio", m, "shop") in shop.now for m in MEMBERS)


def test_a_frozen_recommender_is_told(shop: Shop) -> None:
    """What stops all members stands under the name that commands know."""
    shop.engine.ensemble.freeze(RECOMMENDER)
    read = readings(shop.engine, parameter_counts(shop.engine))
    shop.engine.ensemble.release(RECOMMENDER)
    found = series(exposition(registry(MillraceCollector(lambda: read, Telemetry()))))
    assert found["millrace_member_frozen", RECOMMENDER, "shop"] == 1


def test_parameters_stand_under_the_members_that_hold_them(shop: Shop) -> None:
    """Each member's own, the rest under the recommender; none is left out."""
    counted = parameter_counts(shop.engine)
    assert {member for member, _, _ in counted} == {*MEMBERS, RECOMMENDER, RATINGS}
    held = sum(p.count for rows in shop.engine.ensemble.parameters().values() for p in rows)
    assert sum(counted.values()) == held


def test_readings_name_all_that_is_counted(shop: Shop) -> None:
    """No key of the readings is one that nobody shows."""
    assert set(readings(shop.engine, {}).ranking) == set(RANKING)


def test_a_shard_that_only_learns_is_not_said_to_stand_still(shop: Shop) -> None:
    """Probes and the page have nothing to say where interactions come and nobody asks."""
    assert shop.front.snapshot()["amiss"] == ""


def test_every_panel_of_the_dashboard_has_numbers(shop: Shop) -> None:
    """Each series that a query of `quality-ranking` names holds a number after a run.

    Drift has none yet: its first bet comes after more interactions.
    """
    finite = {name for (name, *_), value in shop.now.items() if math.isfinite(value)}
    finite |= {name for name, *_ in shop.now} & {"millrace_drift_statistic"}
    queries = [t["expr"] for p in BOARDS["quality-ranking"]["panels"] for t in p.get("targets", ())]
    used = {name for q in queries for name in re.findall(r"millrace_[a-z0-9_]+", q)}
    assert len(queries) > 10
    assert used <= finite


def test_services_that_rank_nothing_have_no_such_series() -> None:
    """The families are there, without a sample."""
    read = Readings("fraud", ("linear",))
    text = exposition(registry(MillraceCollector(lambda: read, Telemetry())))
    assert b"# TYPE millrace_listed_items_total counter\n" in text
    assert "millrace_listed_items_total" not in {name for name, *_ in series(text)}


@pytest.mark.browser
def test_the_page_shows_lists_and_no_alerts(shop: Shop) -> None:
    """Lists, hit rates, members and what is shown; nothing of alerts, labels or truths."""
    assert shop.front.server is not None
    complaints: list[str] = []
    with chromium() as browser:
        page = browser.new_page()
        page.set_default_timeout(DEADLINE_S * 1000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda m: complaints.append(m.text) if m.type != "log" else None)
        page.goto(f"http://127.0.0.1:{shop.front.server.port}")
        for chart in ("quality", "flow", "catalogue", "weights", "parameters"):
            expect(page.locator(f"#{chart} .main-svg").first).to_be_attached()
        expect(page.locator('[data-value="scored"]')).to_have_text(str(ASKED + NEW))
        expect(page.locator('[data-value="joined"]')).to_have_text(str(TAKEN + 2))
        expect(page.locator('[data-value="known_items"]')).to_have_text("30")
        newest = page.locator("#recent-table tbody tr").first
        expect(newest).to_contain_text(f"r{ASKED + NEW - 1}")
        expect(newest).to_contain_text("what is popular")
        assert page.locator("#metric option").all_text_contents()[0] == "Hit rate at 10"
        members = page.locator("#members-table tbody th").all_text_contents()
        assert members == [*MEMBERS, RECOMMENDER, RATINGS]
        assert page.locator("#member option").all_text_contents() == [RECOMMENDER, RATINGS]
        judged = page.locator("#quality-table tbody th").all_text_contents()
        assert judged == ["ensemble", *MEMBERS, *SCORERS]
        parts = page.locator('section:visible:not([aria-labelledby="h-audit"])').all_inner_texts()
        seen = " ".join(parts).lower()
        expect(page.locator("#set-threshold")).to_be_hidden()
        page.fill("#event-id", "r0")
        page.click("#lookup button")
        expect(page.locator("#found-table tbody")).to_contain_text("u0")
    assert [word for word in ("alert", "label", "truth", "event") if word in seen] == []
    assert complaints == []


def test_scorers_tell_of_what_waits_and_of_risk_that_they_share() -> None:
    """Their second stage has the risk; versions come with what was handed over, and are not old
    where nothing of it waits."""
    spread, traffic = Spread(raw(2, **STAGE)), Traffic(3)
    for record in traffic.records(60):
        spread.score(home(record, 4) % 2, ("events", home(record, 4), [record]))
    first = [readings(part.engine, {}) for part in spread.scorers]
    told = [read.shared for read in first if read.shared is not None]
    assert [(s.deeds, s.deeds_ahead) for s in told] == [(s.deeds, s.deeds) for s in told]
    assert all(s.deeds and math.isnan(s.age_s) and s.risk_lag_s is not None for s in told)
    assert [read.cold for read in first] == [True, True]
    spread.settle()
    later = [readings(part.engine, {}) for part in (*spread.scorers, spread.learner)]
    shares = [read.shared for read in later if read.shared is not None]
    assert [(s.deeds_ahead, s.age_s, s.missed) for s in shares] == [(0, 0, False)] * 3
    assert shares[2].deeds == sum(s.deeds or 0 for s in told)
    assert shares[2].risk_lag_s is None
    assert [read.cold for read in later] == [False] * 3
    assert [bool(read.beside) for read in later] == [True] * 3

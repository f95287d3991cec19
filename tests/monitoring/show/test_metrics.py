"""The exposition: every series from the start, bounded, right, and clean to promtool."""

from __future__ import annotations

import ast
import math
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from models.base import StateError
from models.task import SHARES
from monitoring.drift.monitor import DriftMonitor
from monitoring.histogram import Histogram
from monitoring.quality.measures import METRICS
from monitoring.quality.quality import Quality
from monitoring.show.metrics import MillraceCollector, exposition, registry
from monitoring.show.readings import LABEL_RESULTS, MAX_HTTP_SERIES, Readings, Telemetry
from tests.support.tools import program

MEMBERS = ("linear", "forest")
Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def telemetry() -> Telemetry:
    """A process with one known route."""
    return Telemetry({"version": "0.1.0", "python": "3.11"}, [("/metrics", "GET", 200)])


def empty(members: tuple[str, ...] = MEMBERS) -> Readings:
    """An engine that has seen nothing, as the service publishes it at the start."""
    names = ("ensemble", *members)
    quality = Quality(names, 0.5).snapshot()
    return Readings(
        "fraud",
        members,
        consumed={"events": 0, "labels": 0},
        dead_letters={"malformed": 0, "schema": 0},
        arrival=quality,
        matured=quality,
        drift=DriftMonitor(names).readings(),
        parameters={(m, "learned", True): 0 for m in members},
        features={"amount.missing": 0.0, "customer.entities": 0.0, "customer.late": 0.0},
        feature_shifts={"amount": (math.nan, math.nan)},
        limits={"pending": 1000.0},
        alert_budget=20.0,
        audit={"created": 0},
    )


def busy() -> Readings:
    """The same engine after some work."""
    rng = np.random.default_rng(5)
    p = rng.random((400, 3))
    y = (rng.random(400) < p[:, 0]).astype(float)
    quality = Quality(("ensemble", *MEMBERS), 0.5)
    quality.update(p, y, p[:, 0] >= 0.5)
    drift = DriftMonitor(("ensemble", *MEMBERS))
    drift.update(np.vstack([rng.random((2500, 3)) / 5, np.full((500, 3), 2.0)]))
    scores = Histogram(SHARES)
    scores.observe_many(p[:, 0])
    return replace(
        empty(),
        consumed={"events": 400, "labels": 410},
        scored=400,
        updates={"linear": 400, "forest": 200},
        labels={"joined": 400, "duplicate": 10},
        dead_letters={"malformed": 3, "schema": 0},
        watermark_ms=1_500,
        arrival=quality.snapshot(),
        drift=drift.readings(),
        weights={"linear": 0.7, "forest": 0.3},
        down=frozenset({"forest"}),
        member_errors={("forest", "score_not_finite"): 2},
        skipped={"linear": 4},
        reactions={("member_reset", "forest"): 1},
        parameters={("linear", "learned", True): 8, ("forest", "learned", True): 100},
        features={"amount.missing": 2.0, "customer.entities": 9.0, "customer.late": 1.0},
        feature_shifts={"amount": (0.4, 0.2)},
        scores=scores,
    )


def scrape(readings: Readings, process: Telemetry | None = None) -> Series:
    """Every series of one scrape, read back by the client's own parser."""
    text = exposition(registry(MillraceCollector(lambda: readings, process or telemetry())))
    return {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for family in text_string_to_metric_families(text.decode())
        for s in family.samples
    }


def get(series: Series, name: str, **labels: str) -> float:
    """One series by its labels."""
    return series["millrace_" + name, tuple(sorted(labels.items()))]


def test_every_series_exists_before_the_first_event() -> None:
    """An engine that has seen nothing already has each series that a busy one has."""
    assert set(scrape(empty())) == set(scrape(busy()))
    bare = {name for name, _ in scrape(Readings("fraud", MEMBERS))}
    assert {f"millrace_quality_{m}" for m in METRICS} <= bare
    assert all(
        get(scrape(empty()), "labels_total", model="fraud", result=r) == 0 for r in LABEL_RESULTS
    )


def test_values_are_those_of_the_readings() -> None:
    """Counters, gauges and info carry the numbers that were published."""
    series = scrape(busy())
    assert get(series, "events_consumed_total", topic="labels") == 410
    assert get(series, "labels_total", model="fraud", result="duplicate") == 10
    assert get(series, "updates_applied_total", model="fraud", member="forest") == 200
    assert get(series, "last_event_timestamp_seconds", model="fraud") == 1.5
    assert get(series, "member_up", model="fraud", member="forest") == 0
    assert get(series, "member_up", model="fraud", member="linear") == 1
    assert get(series, "ensemble_weight_ratio", model="fraud", member="linear") == 0.7
    assert (
        get(series, "parameters", model="fraud", member="linear", role="learned", trainable="true")
        == 8
    )
    assert get(series, "feature_missing_total", feature="amount") == 2
    assert get(series, "feature_events_total", feature="customer", result="late") == 1
    assert get(series, "feature_psi", feature="amount") == 0.4
    assert get(series, "feature_ks_ratio", feature="amount") == 0.2
    assert get(series, "limit", bound="pending") == 1000
    failed = {"model": "fraud", "member": "forest", "reason": "score_not_finite"}
    assert get(series, "member_errors_total", **failed) == 2
    assert get(series, "member_skipped_updates_total", model="fraud", member="linear") == 4
    began = {"model": "fraud", "member": "forest", "reaction": "member_reset"}
    assert get(series, "drift_reactions_total", **began) == 1
    assert get(series, "build_info", version="0.1.0", python="3.11") == 1
    betting = {"model": "fraud", "detector": "betting", "signal": "linear"}
    assert get(series, "drift_alarms_total", **betting) == 1


def test_quality_gauges_are_those_of_the_report() -> None:
    """Each quality gauge is the report's value; a maturity without outcomes is nan, not 0."""
    readings = busy()
    series = scrape(readings)
    assert readings.arrival is not None
    report = readings.arrival.report()
    for name, windows in report.items():
        for window in ("fading", "sliding"):
            labels = {"model": "fraud", "member": name, "window": window}
            for metric in METRICS:
                got = get(series, f"quality_{metric}", **labels, maturity="arrival")
                assert got == windows[window][metric]
                waiting = get(series, f"quality_{metric}", **labels, maturity="matured")
                assert math.isnan(waiting)
            labels |= {"maturity": "arrival", "class": "1"}
            positives = windows[window]["effective_positives"]
            assert get(series, "quality_effective_samples", **labels) == positives
    at_budget = {
        name: get(
            *(series, "alert_precision_at_budget_ratio"),
            **{"model": "fraud", "member": name, "maturity": "arrival"},
        )
        for name in report
    }
    assert at_budget == readings.arrival.precision_at_budget(20.0)
    outcomes = {
        o: get(series, "labelled_outcomes_total", model="fraud", outcome=o)
        for o in ("tp", "fp", "fn", "tn")
    }
    assert outcomes == readings.arrival.outcomes()


def test_histograms_are_cumulative() -> None:
    """Buckets count all values up to their bound; the last one and the count agree."""
    readings = busy()
    series = scrape(readings)
    counts = readings.scores.counts.cumsum().tolist()
    bounds = [*(str(b) for b in SHARES), "+Inf"]
    assert [get(series, "score_ratio_bucket", model="fraud", le=b) for b in bounds] == counts
    assert get(series, "score_ratio_count", model="fraud") == 400
    assert get(series, "score_ratio_sum", model="fraud") == readings.scores.total


def test_series_stay_bounded() -> None:
    """16 members, more routes and more features than allowed stay under 2,600 series."""
    members = tuple(f"member{i}" for i in range(16))
    readings = replace(empty(members), features={f"f{i}.missing": 0.0 for i in range(200)})
    process = telemetry()
    for i in range(1000):
        process.observe_http(f"/{i}", "GET", 200, 0.1)
    series = scrape(readings, process)
    assert len(process.http) == MAX_HTTP_SERIES + 1
    assert get(
        series, "http_request_duration_seconds_count", route="other", method="OTHER", code="0"
    )
    assert sum(name == "millrace_feature_missing_total" for name, _ in series) == 50
    assert len(series) < 2600


def test_scrape_reads_once_and_computes_a_report_once() -> None:
    """A scrape takes the readings once; a second one reuses the snapshot's report."""
    readings, reads = busy(), []

    def read() -> Readings:
        reads.append(1)
        return readings

    alone = registry(MillraceCollector(read, telemetry()))
    assert not reads
    exposition(alone)
    assert readings.arrival is not None
    first = readings.arrival.report()
    exposition(alone)
    assert len(reads) == 2
    assert readings.arrival.report() is first


def test_scrape_beside_a_busy_loop_is_consistent() -> None:
    """While another thread counts, each histogram's count is its last bucket and only grows."""
    process, readings = telemetry(), empty()
    collector = MillraceCollector(lambda: readings, process)
    done = threading.Event()

    def work() -> None:
        i = 0
        while not done.is_set():
            process.stages["step"].observe(0.001)
            process.observe_http(f"/{i % 100}", "GET", 200, 0.01)
            process.lag["events", i % 50] = i
            i += 1

    worker = threading.Thread(target=work)
    worker.start()
    counts = []
    try:
        for _ in range(30):
            samples = {
                (s.name, s.labels.get("le")): s.value
                for family in collector.collect()
                if family.name == "millrace_stage_duration_seconds"
                for s in family.samples
                if s.labels["stage"] == "step"
            }
            name = "millrace_stage_duration_seconds"
            assert samples[f"{name}_count", None] == samples[f"{name}_bucket", "+Inf"]
            counts.append(samples[f"{name}_count", None])
    finally:
        done.set()
        worker.join()
    assert counts == sorted(counts)


def test_telemetry_counts_checkpoints() -> None:
    """A published checkpoint shows its time, size and duration; failures are counted apart."""
    process = telemetry()
    process.checkpointed(2_000, 0.3, 4096)
    process.checkpoint_failures += 1
    series = scrape(empty(), process)
    assert get(series, "checkpoint_last_success_timestamp_seconds") == 2
    assert get(series, "checkpoint_size_bytes") == 4096
    assert get(series, "checkpoint_duration_seconds_count") == 1
    assert get(series, "checkpoint_failures_total") == 1


@given(
    st.lists(st.floats(-1e6, 1e6), max_size=50),
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8, unique=True).map(sorted),
)
def test_histogram_counts_like_its_definition(values: list[float], bounds: list[float]) -> None:
    """One by one or at once, the same counts and the same sum, which a restore keeps."""
    single, many, again = Histogram(bounds), Histogram(bounds), Histogram(bounds)
    for value in values:
        single.observe(value)
    many.observe_many(np.array(values))
    for i, bound in enumerate(bounds):
        assert many.counts[: i + 1].sum() == sum(v <= bound for v in values)
    again.restore(many.state())
    for h in (single, again, many.copy()):
        assert h.counts.tolist() == many.counts.tolist()
        assert h.total == many.total
    with pytest.raises(StateError, match=r"histogram\.counts: expected"):
        Histogram([*bounds, 2e6]).restore(many.state())


def test_import_registers_nothing_in_the_global_registry() -> None:
    """The process-wide registry of prometheus_client knows no series of ours."""
    assert b"millrace_" not in prometheus_client.generate_latest(prometheus_client.REGISTRY)


def test_two_modules_alone_import_the_client() -> None:
    """No other module of the three packages imports what prometheus_client makes series with."""
    root = Path(__file__).parents[3]
    importers = set()
    for path in (
        p for name in ("stream", "monitoring", "models") for p in root.glob(f"{name}/**/*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            made = [n for n in names if n != "prometheus_client.parser"]  # which reads others'
            if any(n.split(".")[0] == "prometheus_client" for n in made):
                importers.add(path.relative_to(root).as_posix())
    assert importers == {"monitoring/show/metrics.py", "monitoring/show/series.py"}


@pytest.mark.prometheus
@pytest.mark.parametrize("readings", [empty(), busy()], ids=["empty", "busy"])
def test_exposition_is_clean_to_promtool(readings: Readings) -> None:
    """``promtool check metrics`` finds nothing to say about any family."""
    text = exposition(registry(MillraceCollector(lambda: readings, telemetry())))
    found = subprocess.run(
        [program("promtool", "prometheus"), "check", "metrics"],
        input=text,
        capture_output=True,
        check=False,
    )
    assert (found.returncode, found.stdout + found.stderr) == (0, b"")

"""The quality gauges of /metrics after a replayed file equal scikit-learn's on the same scores."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from models.base import F64
from stream.demo.demo import demo_config
from stream.demo.player import write_jsonl
from stream.demo.simulator import Simulator
from stream.run.front import Front
from stream.settings.load import parse
from tests.support.runner import append, caught_up, contents, running
from tests.support.waiting import DEADLINE_S, wait_until

EVENTS = 8_000
MEMBERS = ("logistic", "bayes")


class Replayed(NamedTuple):
    """Gauges by (metric, scorer), and per scorer the labelled scores, truths and alerts."""

    gauges: dict[tuple[str, str], float]
    scores: dict[str, F64]
    truth: F64
    alerts: dict[str, F64]


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> Replayed:
    """A simulated file through the service: its events, then the labels that were reported."""
    directory = tmp_path_factory.mktemp("gauges")
    file = directory / "payments.jsonl"
    write_jsonl(file, Simulator(5, 100, 40, fraud_share=0.05, drift=False, events=EVENTS))
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    events = [{k: v for k, v in r.items() if k not in ("fraud", "reported_at")} for r in rows]
    labels = [
        {k: r[k] for k in ("payment_id", "fraud", "reported_at")}
        for r in rows
        if r["reported_at"] is not None
    ]
    raw = demo_config(directory, 0).model_dump(mode="json", exclude_none=True)
    raw["members"] = [m for m in raw["members"] if m["name"] in MEMBERS]
    raw["label"]["horizon"] = "3650d"
    config = parse(raw, "test")
    half = EVENTS // 2
    with running(config) as service:
        front = Front(service)
        front.start()
        assert front.server is not None
        # Half the labels before the other half of the events, so that members have learned.
        known = {r["payment_id"] for r in rows[:half]}
        early = [x for x in labels if x["payment_id"] in known]
        late = [x for x in labels if x["payment_id"] not in known]
        append(config, ("events", events[:half]), ("labels", early))
        caught_up(service, half + len(early))
        append(config, ("events", events[half:]), ("labels", late))
        caught_up(service, EVENTS + len(labels))
        url = f"http://127.0.0.1:{front.server.port}/metrics"
        wait_until(lambda: joined(scraped(url)) == len(labels), "the readings")
        text = scraped(url)
        front.stop()
    return collected(text, [json.loads(v or b"") for v in contents(config, "scores")], labels)


def scraped(url: str) -> str:
    """The exposition, over HTTP."""
    return httpx.get(url, trust_env=False, timeout=DEADLINE_S).text


def samples(text: str) -> Iterator[Any]:
    """Every sample of an exposition."""
    for family in text_string_to_metric_families(text):
        yield from family.samples


def joined(text: str) -> float:
    """Labels joined so far."""
    return next(
        s.value
        for s in samples(text)
        if s.name == "millrace_labels_total" and s.labels["result"] == "joined"
    )


def collected(text: str, scores: list[dict[str, Any]], labels: list[dict[str, Any]]) -> Replayed:
    """What both sides look at: gauges, and the labelled scores of the scores topic."""
    truth_of = {x["payment_id"]: float(x["fraud"]) for x in labels}
    found = [s for s in scores if s["id"] in truth_of]
    assert len(found) == len(labels)
    kept = [s for s in found if not s.get("cold")]  # those are nobody's
    by_scorer = {"ensemble": np.array([s["score"] for s in kept])}
    by_scorer |= {m: np.array([s["members"][m] for s in kept]) for m in MEMBERS}
    alerts = {name: (p >= 0.5).astype(float) for name, p in by_scorer.items()}
    alerts["ensemble"] = np.array([float(s["alert"]) for s in kept])
    gauges = {
        (s.name.removeprefix("millrace_quality_"), s.labels["member"]): s.value
        for s in samples(text)
        if s.name.startswith("millrace_quality_")
        and (s.labels.get("window"), s.labels.get("maturity")) == ("sliding", "arrival")
        and "class" not in s.labels
    }
    return Replayed(gauges, by_scorer, np.array([truth_of[s["id"]] for s in kept]), alerts)


def calibration(y: F64, p: F64) -> float:
    """Expected calibration error over 15 equal bins, by scikit-learn's curve and bin sizes."""
    fraction, mean = calibration_curve(y, p, n_bins=15)
    sizes = np.histogram(p, bins=np.linspace(0, 1, 16))[0]
    return float((np.abs(fraction - mean) * sizes[sizes > 0]).sum() / len(p))


@pytest.mark.parametrize("scorer", ["ensemble", *MEMBERS])
def test_gauges_equal_scikit_learn(replayed: Replayed, scorer: str) -> None:
    """Each quality gauge of the sliding window is what scikit-learn says of the same scores."""
    y, p, alert = replayed.truth, replayed.scores[scorer], replayed.alerts[scorer]
    expected = {
        "accuracy": sk.accuracy_score(y, alert),
        "precision": sk.precision_score(y, alert, zero_division=np.nan),
        "recall": sk.recall_score(y, alert),
        "f1": sk.f1_score(y, alert),
        "roc_auc": sk.roc_auc_score(y, p),
        "pr_auc": sk.average_precision_score(y, p),
        "log_loss": sk.log_loss(y, p),
        "brier": sk.brier_score_loss(y, p),
        "calibration_error": calibration(y, p),
    }
    found = {metric: replayed.gauges[metric, scorer] for metric in expected}
    assert found == pytest.approx(expected, rel=1e-6, nan_ok=True)


def test_the_replay_is_worth_comparing(replayed: Replayed) -> None:
    """Thousands of labels of both classes, alerts of both kinds, and a model that has learned."""
    assert len(replayed.truth) > 3_500
    assert replayed.truth.sum() > 100
    assert 0 < replayed.gauges["precision", "ensemble"] <= 1
    assert replayed.gauges["roc_auc", "ensemble"] > 0.6

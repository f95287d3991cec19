"""The Grafana dashboards as code: ``python -m monitoring.dashboards.build`` writes the JSON files.

``docker-compose.yml`` mounts this folder into Grafana. Each panel has a unit and a description, and
each query names only series of ``monitoring/metrics.py``. Never imported by the service.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from monitoring.dashboards.grafana import Panel, Query, dashboard, panel, row, steps

OVERVIEW = Path(__file__).with_name("overview.json")

_PROCESS = 'job="$job"'
_MODEL = 'job="$job", model="$model"'
_ENSEMBLE = f'{_MODEL}, member="ensemble"'


def _rate(metric: str, matchers: str, by: str) -> str:
    return f"sum by ({by}) (rate({metric}{{{matchers}}}[$__rate_interval]))"


def _quantiles(metric: str, matchers: str) -> list[Query]:
    buckets = _rate(f"{metric}_bucket", matchers, "le")
    return [(f"histogram_quantile({q}, {buckets})", f"p{q * 100:g}") for q in (0.5, 0.9, 0.99)]


def _quality(metric: str, window: str, maturity: str = "arrival", scorer: str = _ENSEMBLE) -> str:
    return f'millrace_quality_{metric}{{{scorer}, window="{window}", maturity="{maturity}"}}'


def _stat(
    title: str, text: str, unit: str, query: str, red: float | None = None, **defaults: Any
) -> Panel:
    """One number, red from ``red`` on."""
    colours: list[tuple[str, float | None]] = [("green", None)]
    if red is not None:
        colours.append(("red", red))
    return panel(
        title,
        text,
        unit,
        [(query, "")],
        kind="stat",
        width=4,
        height=4,
        **{"thresholds": steps(*colours), **defaults},
    )


def _status() -> list[Panel]:
    letters = _rate("millrace_dead_letters_total", _PROCESS, "job")
    consumed = _rate("millrace_events_consumed_total", _PROCESS, "job")
    scored = _rate("millrace_events_scored_total", _MODEL, "model")
    turn = f"time() - millrace_loop_heartbeat_timestamp_seconds{{{_PROCESS}}}"
    saved = f"time() - millrace_checkpoint_last_success_timestamp_seconds{{{_PROCESS}}}"
    down = f"sum(1 - millrace_member_up{{{_MODEL}}})"
    good: dict[str, Any] = {"decimals": 3, "thresholds": steps(("red", None), ("green", 0.3))}
    return row(
        "Status",
        [
            _stat(
                "Loop", "Time since its last turn; more than 30 s raises an alert.", "s", turn, 30
            ),
            _stat("Scored", "Events scored a second.", "ops", scored),
            _stat(
                "F1",
                "Of the ensemble, fading, by labels as they arrive. The alert's target is 0.3.",
                "none",
                _quality("f1", "fading"),
                **good,
            ),
            _stat("Members down", "Members that do not score.", "none", down, 1),
            _stat(
                "Dead letters",
                "Share of the records read that were not taken in.",
                "percentunit",
                f"{letters} / {consumed}",
                0.01,
            ),
            _stat("Checkpoint", "Age of the newest checkpoint.", "s", saved, 900),
        ],
    )


def _flow() -> list[Panel]:
    stages = _rate("millrace_stage_duration_seconds_bucket", _PROCESS, "le, stage")
    return row(
        "Flow",
        [
            panel(
                "Records read",
                "By topic; labels come later than their events.",
                "ops",
                [(_rate("millrace_events_consumed_total", _PROCESS, "topic"), "{{topic}}")],
            ),
            panel(
                "Latency of a decision",
                "Event time to score. Large where old events are played back.",
                "s",
                _quantiles("millrace_event_latency_seconds", _MODEL),
            ),
            panel(
                "Not read yet",
                "Records that wait in the log.",
                "short",
                [
                    (
                        f"sum by (topic) (millrace_consumer_lag_messages{{{_PROCESS}}})",
                        "{{topic}}",
                    )
                ],
                min=0,
            ),
            panel(
                "Stages of the loop",
                "99th percentile of one turn's stages.",
                "s",
                [(f"histogram_quantile(0.99, {stages})", "{{stage}}")],
                width=12,
            ),
            panel(
                "HTTP requests",
                "By route and status code.",
                "reqps",
                [
                    (
                        _rate(
                            "millrace_http_request_duration_seconds_count", _PROCESS, "route, code"
                        ),
                        "{{route}} {{code}}",
                    )
                ],
                width=12,
            ),
        ],
    )


def _judged() -> list[Panel]:
    windows = [(w, m) for w in ("fading", "sliding") for m in ("arrival", "matured")]
    return row(
        "Quality of the scores as they were made",
        [
            panel(
                "F1 against its target",
                "`arrival` is fast and flattering: frauds are reported first. `matured` waits.",
                "none",
                [*[(_quality("f1", w, m), f"{w}, {m}") for w, m in windows], ("0.3", "target")],
                min=0,
                max=1,
            ),
            panel(
                "Precision and recall",
                "Of the ensemble's alerts, fading.",
                "percentunit",
                [(_quality(m, "fading"), m) for m in ("precision", "recall")],
                min=0,
                max=1,
            ),
            panel(
                "Outcomes that still count",
                "Effective samples of the fading window by true class: few frauds, noisy figures.",
                "short",
                [(_quality("effective_samples", "fading"), "class {{class}}")],
                min=0,
            ),
            panel(
                "Average precision by scorer",
                "PR AUC over the sliding window: does the ensemble beat its members?",
                "none",
                [(_quality("pr_auc", "sliding", scorer=_MODEL), "{{member}}")],
                width=12,
                min=0,
                max=1,
            ),
            panel(
                "Log loss by scorer",
                "Fading; in nats, lower is better.",
                "none",
                [(_quality("log_loss", "fading", scorer=_MODEL), "{{member}}")],
                width=12,
                min=0,
            ),
        ],
    )


def _labelled() -> list[Panel]:
    return row(
        "Labels",
        [
            panel(
                "Labels by what became of them",
                "`expired` counts events that reached their horizon without a label.",
                "ops",
                [(_rate("millrace_labels_total", _MODEL, "result"), "{{result}}")],
            ),
            panel(
                "Delay of labels",
                "Event time to label.",
                "s",
                _quantiles("millrace_label_delay_seconds", _MODEL),
            ),
            panel(
                "Waiting",
                "Scored events that wait for their label, and labels that wait for their event.",
                "short",
                [
                    (f"millrace_pending_labels{{{_MODEL}}}", "events"),
                    (f"millrace_early_labels{{{_MODEL}}}", "labels"),
                ],
                min=0,
            ),
        ],
    )


def _ecdf(offset: str = "") -> str:
    """The scores' distribution function: classic buckets hold it, so KS needs no state."""
    buckets, count = (
        f"rate(millrace_score_ratio_{part}{{{_MODEL}}}[5m]{offset})" for part in ("bucket", "count")
    )
    return f"({buckets} / ignoring (le) group_left {count})"


def _drifting() -> list[Panel]:
    return row(
        "Scores and drift",
        [
            panel(
                "Scores",
                "How many scores fall into each bin, over time.",
                "percentunit",
                [(_rate("millrace_score_ratio_bucket", _MODEL, "le"), "{{le}}")],
                kind="heatmap",
            ),
            panel(
                "Shift of the scores",
                "Kolmogorov-Smirnov distance of the last 5 minutes' scores to those an hour "
                "before, and the population stability index that the service keeps.",
                "none",
                [
                    (f"max(abs({_ecdf()} - {_ecdf(' offset 1h')}))", "KS"),
                    (f"millrace_score_psi{{{_MODEL}}}", "PSI"),
                ],
                min=0,
            ),
            panel(
                "Drift alarms",
                "By detector and scorer since the start; orange marks on every panel show when.",
                "short",
                [(f"millrace_drift_alarms_total{{{_MODEL}}}", "{{detector}} {{signal}}")],
                min=0,
            ),
        ],
    )


def _learning() -> list[Panel]:
    return row(
        "Members",
        [
            panel(
                "Weights",
                "Of the members in the ensemble.",
                "percentunit",
                [(f"millrace_ensemble_weight_ratio{{{_MODEL}}}", "{{member}}")],
            ),
            panel(
                "Labels learned",
                "A flat line while labels join means that a member does not learn.",
                "ops",
                [(_rate("millrace_updates_applied_total", _MODEL, "member"), "{{member}}")],
            ),
            panel(
                "Parameters",
                "Scalars that each member holds.",
                "short",
                [(f"sum by (member) (millrace_parameters{{{_MODEL}}})", "{{member}}")],
            ),
        ],
    )


def _durable() -> list[Panel]:
    return row(
        "Checkpoints, dead letters, restarts",
        [
            panel(
                "Checkpoint size",
                "Of the newest generation.",
                "bytes",
                [(f"millrace_checkpoint_size_bytes{{{_PROCESS}}}", "size")],
                min=0,
            ),
            panel(
                "Dead letters",
                "Records that were not taken in, by reason.",
                "ops",
                [(_rate("millrace_dead_letters_total", _PROCESS, "reason"), "{{reason}}")],
            ),
            panel(
                "Since the start",
                "Restarts by how the session before ended, and failed checkpoints.",
                "short",
                [
                    (f"millrace_restarts_total{{{_PROCESS}}}", "restart, {{reason}}"),
                    (f"millrace_checkpoint_failures_total{{{_PROCESS}}}", "checkpoint failed"),
                ],
                min=0,
            ),
        ],
    )


def overview() -> dict[str, Any]:
    """The dashboard that answers: does it run, does it score well, does it learn."""
    rows = [_status(), _flow(), _judged(), _labelled(), _drifting(), _learning(), _durable()]
    return dashboard("millrace-overview", "Millrace overview", rows)


def rendered() -> str:
    """The text of ``overview.json``."""
    return json.dumps(overview(), indent=2) + "\n"


if __name__ == "__main__":
    OVERVIEW.write_text(rendered(), encoding="utf-8")

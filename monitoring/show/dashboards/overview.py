"""The overview: does it run, does it score well, does it learn."""

from __future__ import annotations

from typing import Any

from monitoring.show.dashboards.grafana import Panel, dashboard, panel, row, steps
from monitoring.show.dashboards.queries import (
    MODEL,
    PROCESS,
    quality,
    quantiles,
    rate,
    series,
    stat,
)


def _status() -> list[Panel]:
    letters = rate("millrace_dead_letters_total", PROCESS, "job")
    consumed = rate("millrace_events_consumed_total", PROCESS, "job")
    scored = rate("millrace_events_scored_total", MODEL, "model")
    turn = f"time() - millrace_loop_heartbeat_timestamp_seconds{{{PROCESS}}}"
    saved = f"time() - millrace_checkpoint_last_success_timestamp_seconds{{{PROCESS}}}"
    down = f"sum(1 - millrace_member_up{{{MODEL}}})"
    good: dict[str, Any] = {"decimals": 3, "thresholds": steps(("red", None), ("green", 0.3))}
    return row(
        "Status",
        [
            stat(
                "Loop", "Time since its last turn; more than 30 s raises an alert.", "s", turn, 30
            ),
            stat("Scored", "Events scored a second.", "ops", scored),
            stat(
                "F1",
                "Of the ensemble, fading, by labels as they arrive. The alert's target is 0.3.",
                "none",
                quality("f1", "fading"),
                **good,
            ),
            stat("Members down", "Members that do not score.", "none", down, 1),
            stat(
                "Dead letters",
                "Share of the records read that were not taken in.",
                "percentunit",
                f"{letters} / {consumed}",
                0.01,
            ),
            stat("Checkpoint", "Age of the newest checkpoint.", "s", saved, 900),
        ],
    )


def _flow() -> list[Panel]:
    stages = rate("millrace_stage_duration_seconds_bucket", PROCESS, "le, stage")
    return row(
        "Flow",
        [
            panel(
                "Records read",
                "By topic; labels come later than their events.",
                "ops",
                [(rate("millrace_events_consumed_total", PROCESS, "topic"), "{{topic}}")],
            ),
            panel(
                "Latency of a decision",
                "Event time to score. Large where old events are played back.",
                "s",
                quantiles("millrace_event_latency_seconds", MODEL),
            ),
            panel(
                "Not read yet",
                "Records that wait in the log.",
                "short",
                [
                    (
                        f"sum by (topic) (millrace_consumer_lag_messages{{{PROCESS}}})",
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
                        rate(
                            "millrace_http_request_duration_seconds_count", PROCESS, "route, code"
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
                [*[(quality("f1", w, m), f"{w}, {m}") for w, m in windows], ("0.3", "target")],
                min=0,
                max=1,
            ),
            panel(
                "Precision and recall",
                "Of the ensemble's alerts, fading.",
                "percentunit",
                [(quality(m, "fading"), m) for m in ("precision", "recall")],
                min=0,
                max=1,
            ),
            panel(
                "Outcomes that still count",
                "Effective samples of the fading window by true class: few frauds, noisy figures.",
                "short",
                [(quality("effective_samples", "fading"), "class {{class}}")],
                min=0,
            ),
            panel(
                "Average precision by scorer",
                "PR AUC over the sliding window: does the ensemble beat its members?",
                "none",
                [(quality("pr_auc", "sliding", scorer=MODEL), "{{member}}")],
                width=12,
                min=0,
                max=1,
            ),
            panel(
                "Log loss by scorer",
                "Fading; in nats, lower is better.",
                "none",
                [(quality("log_loss", "fading", scorer=MODEL), "{{member}}")],
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
                [(rate("millrace_labels_total", MODEL, "result"), "{{result}}")],
                width=6,
            ),
            panel(
                "Delay of labels",
                "Event time to label.",
                "s",
                quantiles("millrace_label_delay_seconds", MODEL),
                width=6,
            ),
            panel(
                "Coverage",
                "Share of the events past the horizon that got a label; quality knows no others.",
                "percentunit",
                series("label_coverage_ratio", MODEL, "coverage"),
                width=6,
                min=0,
                max=1,
            ),
            panel(
                "Waiting",
                "Scored events that wait for their label, and labels that wait for their event.",
                "short",
                [
                    (f"millrace_pending_labels{{{MODEL}}}", "events"),
                    (f"millrace_early_labels{{{MODEL}}}", "labels"),
                ],
                width=6,
                min=0,
            ),
        ],
    )


def _shift(bounds: str) -> str:
    """Kolmogorov-Smirnov over these bounds: classic buckets are the distribution function."""

    def ecdf(offset: str) -> str:
        buckets = f"rate(millrace_score_ratio_bucket{{{MODEL}{bounds}}}[5m]{offset})"
        count = f"rate(millrace_score_ratio_count{{{MODEL}}}[5m]{offset})"
        return f"({buckets} / ignoring (le) group_left {count})"

    return f"max(abs({ecdf('')} - {ecdf(' offset 1h')}))"


def _drifting() -> list[Panel]:
    return row(
        "Scores and drift",
        [
            panel(
                "Scores",
                "How many scores fall into each bin, over time.",
                "percentunit",
                [(rate("millrace_score_ratio_bucket", MODEL, "le"), "{{le}}")],
                kind="heatmap",
            ),
            panel(
                "Shift of the scores",
                "Kolmogorov-Smirnov distance of the last 5 minutes' scores to those an hour "
                "before, over all bounds and over those from 0.1 on (what alerts), and the "
                "population stability index that the service keeps.",
                "none",
                [
                    (_shift(""), "KS"),
                    (_shift(', le=~"0[.][1-9].*"'), "KS from 0.1 on"),
                    (f"millrace_score_psi{{{MODEL}}}", "PSI"),
                ],
                min=0,
            ),
            panel(
                "Drift alarms",
                "By detector and scorer since the start; orange marks on every panel show when.",
                "short",
                [(f"millrace_drift_alarms_total{{{MODEL}}}", "{{detector}} {{signal}}")],
                min=0,
            ),
        ],
    )


def _members() -> list[Panel]:
    return row(
        "Members",
        [
            panel(
                "Weights",
                "Of the members in the ensemble.",
                "percentunit",
                series("ensemble_weight_ratio", MODEL, "{{member}}"),
            ),
            panel(
                "Up",
                "1 where the member scores; 0 in quarantine.",
                "none",
                series("member_up", MODEL, "{{member}}"),
                min=0,
                max=1,
            ),
            panel(
                "Labels learned",
                "A flat line while labels join means that a member does not learn.",
                "ops",
                [(rate("millrace_updates_applied_total", MODEL, "member"), "{{member}}")],
            ),
        ],
    )


def _learning() -> list[Panel]:
    norms = rate("millrace_update_norm_bucket", MODEL, "le, member")
    return row(
        "Learning",
        [
            panel(
                "Size of an update",
                "99th percentile of the change of the weights over their norm, where measured.",
                "none",
                [(f"histogram_quantile(0.99, {norms})", "{{member}}")],
            ),
            panel(
                "Parameters",
                "Scalars that each member holds.",
                "short",
                [(f"sum by (member) (millrace_parameters{{{MODEL}}})", "{{member}}")],
            ),
            panel(
                "Passed budgets",
                "By member and rule since the start; the audit trail says what was done.",
                "short",
                series("audit_violations_total", MODEL, "{{member}} {{rule}}"),
                min=0,
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
                series("checkpoint_size_bytes", PROCESS, "size"),
                min=0,
            ),
            panel(
                "Dead letters",
                "Records that were not taken in, by reason.",
                "ops",
                [(rate("millrace_dead_letters_total", PROCESS, "reason"), "{{reason}}")],
            ),
            panel(
                "Since the start",
                "Restarts by how the session before ended, and failed checkpoints.",
                "short",
                [
                    *series("restarts_total", PROCESS, "restart, {{reason}}"),
                    *series("checkpoint_failures_total", PROCESS, "checkpoint failed"),
                ],
                min=0,
            ),
        ],
    )


def overview() -> dict[str, Any]:
    """The dashboard to begin with."""
    rows = [
        _status(),
        _flow(),
        _judged(),
        _labelled(),
        _drifting(),
        _members(),
        _learning(),
        _durable(),
    ]
    return dashboard("millrace-overview", "Millrace overview", rows)

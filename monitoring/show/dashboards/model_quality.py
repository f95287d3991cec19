"""Every quality metric, by scorer and by maturity of the labels; scores, outcomes, drift."""

from __future__ import annotations

from typing import Any

from monitoring.show.dashboards.grafana import Panel, dashboard, panel, row
from monitoring.show.dashboards.queries import ENSEMBLE, MODEL, PROCESS, quality, rate, series

_METRICS = {
    "roc_auc": ("ROC AUC", "Does the score rank frauds first? 0.5 is chance."),
    "pr_auc": ("Average precision", "Ranking where frauds are rare; chance is their share."),
    "recall": ("Recall", "Share of the frauds that were alerted."),
    "precision": ("Precision", "Share of the alerts that were right."),
    "accuracy": ("Accuracy", "Share of right decisions; misleading where frauds are rare."),
    "log_loss": ("Log loss", "In nats; lower is better."),
    "brier": ("Brier score", "Mean squared error of the probability; lower is better."),
    "calibration_error": ("Calibration error", "Mean gap of probability and frequency, 15 bins."),
}


def _by_scorer() -> list[Panel]:
    return row(
        "Ensemble and members over the sliding window, labels as they arrive",
        [
            panel(title, text, "none", [(quality(m, "sliding", scorer=MODEL), "{{member}}")], min=0)
            for m, (title, text) in _METRICS.items()
        ]
        + [
            panel(
                "Precision at the alert budget",
                "Frauds among as many of the highest scores as may alert (`quality.alert_budget`).",
                "percentunit",
                series(
                    "alert_precision_at_budget_ratio", f'{MODEL}, maturity="arrival"', "{{member}}"
                ),
                min=0,
            ),
            panel(
                "Estimate before labels",
                "Expected accuracy from the scores alone; as good as their calibration.",
                "none",
                series("quality_expected_accuracy", MODEL, "expected accuracy"),
                max=1,
            ),
        ],
    )


def _matured() -> list[Panel]:
    return row(
        "Arrived against matured labels, ensemble",
        [
            panel(
                _METRICS[m][0],
                "`arrival` is fast and flattering, `matured` is final and late.",
                "none",
                [(quality(m, "sliding", w), w) for w in ("arrival", "matured")],
                min=0,
            )
            for m in ("roc_auc", "recall", "precision")
        ],
    )


def _outcomes() -> list[Panel]:
    samples = f'{ENSEMBLE}, maturity="arrival"'
    return row(
        "Outcomes",
        [
            panel(
                "Decisions by what they turned out to be",
                "Of the ensemble; tp and fn are frauds.",
                "ops",
                [(rate("millrace_labelled_outcomes_total", MODEL, "outcome"), "{{outcome}}")],
            ),
            panel(
                "Effective samples",
                "What the figures above rest on, by window and true class.",
                "short",
                series("quality_effective_samples", samples, "{{window}} class {{class}}"),
                min=0,
            ),
            panel(
                "Alerts and threshold",
                "Alerts a second, and the score from which on there is one.",
                "short",
                [
                    (rate("millrace_alerts_total", MODEL, "model"), "alerts"),
                    *series("threshold_ratio", MODEL, "threshold"),
                ],
                min=0,
            ),
        ],
    )


def _scores() -> list[Panel]:
    statistic = f"millrace_drift_statistic{{{MODEL}}}"
    return row(
        "Scores by truth and drift",
        [
            *(
                panel(
                    f"Scores of {name}",
                    "How many fall into each bin, over time, once the truth is known.",
                    "percentunit",
                    [
                        (
                            rate(
                                "millrace_labelled_score_ratio_bucket",
                                f'{MODEL}, truth="{truth}"',
                                "le",
                            ),
                            "{{le}}",
                        )
                    ],
                    kind="heatmap",
                )
                for truth, name in enumerate(("genuine events", "frauds"))
            ),
            panel(
                "Detectors against their thresholds",
                "Statistic over threshold by detector and scorer; an alarm at 1.",
                "none",
                [(f"{statistic} / millrace_drift_threshold{{{MODEL}}}", "{{detector}} {{signal}}")],
                min=0,
            ),
            panel(
                "Features, PSI",
                "Against the first 10,000 events; above 0.25 is a major shift.",
                "none",
                series("feature_psi", PROCESS, "{{feature}}"),
                width=12,
                min=0,
            ),
            panel(
                "Features, KS",
                "Largest gap of the distribution functions to the first 10,000 events.",
                "none",
                series("feature_ks_ratio", PROCESS, "{{feature}}"),
                width=12,
                min=0,
            ),
        ],
    )


def model_quality() -> dict[str, Any]:
    """The dashboard for the question: how good are the scores, and whose are better."""
    rows = [_by_scorer(), _matured(), _outcomes(), _scores()]
    return dashboard("millrace-quality", "Millrace model quality", rows)

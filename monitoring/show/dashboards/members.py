"""Members: weights, health, what they learn, what they hold, what the auditor wrote."""

from __future__ import annotations

from typing import Any

from monitoring.show.dashboards.grafana import Panel, dashboard, panel, row
from monitoring.show.dashboards.queries import MODEL, PROCESS, quality, quantiles, rate, series


def _health() -> list[Panel]:
    return row(
        "Members in the ensemble",
        [
            panel(
                "Weights",
                "Of the members in the ensemble.",
                "percentunit",
                series("ensemble_weight_ratio", MODEL, "{{member}}"),
                width=12,
            ),
            panel(
                "Log loss by scorer",
                "Over the sliding window; who deserves a weight?",
                "none",
                [(quality("log_loss", "sliding", scorer=MODEL), "{{member}}")],
                width=12,
                min=0,
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
                "Frozen",
                "1 where the member scores and does not learn.",
                "none",
                series("member_frozen", MODEL, "{{member}}"),
                min=0,
                max=1,
            ),
            panel(
                "Failures",
                "Of each member since the start; left out: steps without a finite gradient.",
                "short",
                [
                    *series("member_errors_total", MODEL, "{{member}} {{reason}}"),
                    *series("member_skipped_updates_total", MODEL, "{{member}} left out"),
                ],
                min=0,
            ),
        ],
    )


def _parameters() -> list[Panel]:
    def total(by: str, matchers: str = "") -> str:
        return f"sum by ({by}) (millrace_parameters{{{MODEL}{matchers}}})"

    return row(
        "Parameters",
        [
            panel("By member", "Scalars held.", "short", [(total("member"), "{{member}}")], min=0),
            panel(
                "By role",
                "Learned weights, statistics, optimizer state and the rest, all members.",
                "short",
                [(total("role"), "{{role}}")],
                min=0,
            ),
            panel(
                "Trainable by member",
                "Scalars that learning changes.",
                "short",
                [(total("member", ', trainable="true"'), "{{member}}")],
                min=0,
            ),
        ],
    )


def _learning() -> list[Panel]:
    return row(
        "Learning and audit",
        [
            panel(
                "Labels learned",
                "By member; flat while labels join means that it does not learn.",
                "ops",
                [(rate("millrace_updates_applied_total", MODEL, "member"), "{{member}}")],
                width=6,
            ),
            panel(
                "Size of an update",
                "Change of the weights over their norm, where it was measured, all members.",
                "none",
                quantiles("millrace_update_norm", MODEL),
                width=6,
            ),
            panel(
                "Audit records",
                "By event since the start.",
                "short",
                series("audit_records_total", PROCESS, "{{event}}"),
                width=6,
                min=0,
            ),
            panel(
                "Passed budgets",
                "By member and rule since the start.",
                "short",
                series("audit_violations_total", MODEL, "{{member}} {{rule}}"),
                width=6,
                min=0,
            ),
        ],
    )


def members() -> dict[str, Any]:
    """The dashboard for the question: what does each member do and hold."""
    rows = [_health(), _parameters(), _learning()]
    return dashboard("millrace-members", "Millrace members and parameters", rows)

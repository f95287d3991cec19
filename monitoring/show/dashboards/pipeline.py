"""The pipeline: what comes in, how fast it goes through, what it holds against its limits."""

from __future__ import annotations

from typing import Any

from monitoring.show.dashboards.grafana import Panel, dashboard, panel, row
from monitoring.show.dashboards.queries import MODEL, PROCESS, quantiles, rate, series


def _in_and_out() -> list[Panel]:
    stages = rate("millrace_stage_duration_seconds_bucket", PROCESS, "le, stage")
    busy = rate("millrace_stage_duration_seconds_sum", PROCESS, "stage")
    return row(
        "Throughput and latency",
        [
            panel(
                "Records read",
                "By topic; labels come later than their events.",
                "ops",
                [(rate("millrace_events_consumed_total", PROCESS, "topic"), "{{topic}}")],
            ),
            panel(
                "Not read yet",
                "By topic and partition.",
                "short",
                series("consumer_lag_messages", PROCESS, "{{topic}} {{partition}}"),
                min=0,
            ),
            panel(
                "Age of the newest event",
                "Time since the newest event time scored; large where old events are played back.",
                "s",
                [(f"time() - millrace_last_event_timestamp_seconds{{{MODEL}}}", "age")],
            ),
            panel(
                "Stages",
                "99th percentile of one turn's stages.",
                "s",
                [(f"histogram_quantile(0.99, {stages})", "{{stage}}")],
            ),
            panel(
                "Share of time by stage",
                "Seconds a second; a step near 1 is all that one shard can do.",
                "percentunit",
                [(busy, "{{stage}}")],
                min=0,
            ),
            panel(
                "Latency of a decision",
                "Event time to score.",
                "s",
                quantiles("millrace_event_latency_seconds", MODEL),
            ),
        ],
    )


def _http() -> list[Panel]:
    durations = rate("millrace_http_request_duration_seconds_bucket", PROCESS, "le, route")
    return row(
        "HTTP",
        [
            panel(
                "Requests",
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
            panel(
                "Duration",
                "99th percentile by route, to the start of the response.",
                "s",
                [(f"histogram_quantile(0.99, {durations})", "{{route}}")],
                width=12,
            ),
        ],
    )


def _held() -> list[Panel]:
    waiting = {
        "pending": f"millrace_pending_labels{{{MODEL}}}",
        "early_labels": f"millrace_early_labels{{{MODEL}}}",
    }

    def limit(bound: str) -> str:
        return f'millrace_limit{{{PROCESS}, bound="{bound}"}}'

    return row(
        "What is held, against its limits",
        [
            panel(
                "Waiting events and labels",
                "Share of `limits.pending` and `limits.early_labels`; at 1 the oldest is let go.",
                "percentunit",
                [(f"{held} / on (job, instance) {limit(b)}", b) for b, held in waiting.items()],
                min=0,
            ),
            panel(
                "Let go before their horizon",
                "Events since the start that were never learned, for lack of room.",
                "short",
                series("pending_evicted_total", MODEL, "evicted"),
                min=0,
            ),
            panel(
                "Entities",
                "Remembered by each feature with windows.",
                "short",
                series("feature_entities", PROCESS, "{{feature}}"),
                min=0,
            ),
            panel(
                "Entity tables",
                "Memory of each.",
                "bytes",
                series("feature_table_bytes", PROCESS, "{{feature}}"),
                min=0,
            ),
            panel(
                "Entities and events not kept",
                "By feature and reason.",
                "ops",
                [
                    (
                        rate("millrace_feature_events_total", PROCESS, "feature, result"),
                        "{{feature}} {{result}}",
                    )
                ],
            ),
            panel(
                "Values imputed",
                "Missing values of each feature.",
                "ops",
                [(rate("millrace_feature_missing_total", PROCESS, "feature"), "{{feature}}")],
            ),
        ],
    )


def _saved() -> list[Panel]:
    age = f"time() - millrace_checkpoint_last_success_timestamp_seconds{{{PROCESS}}}"
    return row(
        "Checkpoints and what went wrong",
        [
            panel("Age of the checkpoint", "Of the newest one.", "s", [(age, "age")], min=0),
            panel(
                "Writing a checkpoint",
                "Snapshot to publication.",
                "s",
                quantiles("millrace_checkpoint_duration_seconds", PROCESS),
            ),
            panel(
                "Checkpoint size",
                "Of the newest generation.",
                "bytes",
                series("checkpoint_size_bytes", PROCESS, "size"),
                min=0,
            ),
            panel(
                "Dead letters",
                "Since the start, by reason.",
                "short",
                series("dead_letters_total", PROCESS, "{{reason}}"),
                min=0,
            ),
            panel(
                "Commands",
                "Operators' commands applied since the start.",
                "short",
                series("commands_total", MODEL, "commands"),
                min=0,
            ),
            panel(
                "Replays that differed",
                "Steps whose replay gave other bits; anything but 0 is a defect.",
                "short",
                series("replay_divergences_total", PROCESS, "diverged"),
                min=0,
            ),
        ],
    )


def pipeline() -> dict[str, Any]:
    """The dashboard for the question: where do records wait, and what fills up."""
    rows = [_in_and_out(), _http(), _held(), _saved()]
    return dashboard("millrace-pipeline", "Millrace pipeline", rows)

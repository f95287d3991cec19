"""Every panel, once: title, unit, what a reader should know, and queries with their legends.

Says nothing of where a panel stands: ``build.py`` does.
"""

from __future__ import annotations

from monitoring.show.dashboards.grafana import Json, Query, number, panel


def _rate(counter: str, by: str) -> Query:
    return f"sum by ({by}) (rate({counter}[R]))", _legend(by)


def _p99(buckets: str, by: str) -> Query:
    return f"histogram_quantile(0.99, {_rate(buckets, f'le, {by}')[0]})", _legend(by)


def _quantiles(buckets: str) -> list[Query]:
    rates, _ = _rate(buckets, "le")
    return [(f"histogram_quantile({q}, {rates})", f"p{q * 100:g}") for q in (0.5, 0.9, 0.99)]


def _legend(by: str) -> str:
    return " ".join(f"{{{{{label}}}}}" for label in by.split(", "))


def _quality(metrics: str, matchers: str) -> str:
    """The first of these metrics that the target has."""
    return " or ".join(f"millrace_quality_{m}{matchers}" for m in metrics.split(" or "))


def _scorers(metrics: str, window: str = "sliding") -> Query:
    return _quality(metrics, f'{{M, window="{window}", maturity="arrival"}}'), "{{member}}"


def _ensemble(metrics: str, window: str, maturity: str = "arrival") -> str:
    matchers = f'{{M, member="ensemble", window="{window}", maturity="{maturity}"}}'
    return _quality(metrics, matchers)


def beside(panel: Json, **other: str) -> Json:
    """The panel over the second stage of the chosen model, with ``other`` in its place."""
    model = 'model="$model"'
    targets = [
        t | {"expr": t["expr"].replace(model, 'model="${model}-members"')} for t in panel["targets"]
    ]
    return panel | {"targets": targets} | other


def _distance(bounds: str) -> str:
    """Kolmogorov-Smirnov over these bounds: classic buckets are the distribution function."""

    def ecdf(offset: str) -> str:
        buckets = f"rate(millrace_score_ratio_bucket{{M{bounds}}}[5m]{offset})"
        # A histogram with bounds below 0, of a number, has no `_count`.
        count = f'rate(millrace_score_ratio_bucket{{M, le="+Inf"}}[5m]{offset})'
        return f"({buckets} / ignoring (le) group_left {count})"

    return f"max(abs({ecdf('')} - {ecdf(' offset 1h')}))"


# fmt: off
# A table: the formatter would spread a panel over seven lines where two or three will do.

# What stands for quality whatever the target is
_F1, _LOSS = "f1 or macro_f1 or r2", "log_loss or mae or mrr"

# Single numbers
LOOP = number("Loop", "s", "Time since its last turn; more than 30 s raises an alert.",
    "time() - millrace_loop_heartbeat_timestamp_seconds{P}", {None: "green", 30: "red"})
SCORED = number("Scored", "ops", "Events scored a second.",
    "sum by (model) (rate(millrace_events_scored_total{M}[R]))", {None: "green"})
F1_NOW = number("F1", "none",
    "Of the ensemble, fading, by labels as they arrive; of classes macro F1, of numbers R2. The "
    "alert's target for F1 is 0.3.",
    _ensemble(_F1, "fading"), {None: "red", 0.3: "green"}, decimals=3)
HIT_NOW = number("Hit rate at 10", "percentunit",
    "Share of the items taken that stood among the first 10 before they were learned, fading.",
    _ensemble("hit_10", "fading"), {None: "green"})
DOWN = number("Members down", "none", "Members that do not score.",
    "sum(1 - millrace_member_up{M})", {None: "green", 1: "red"})
REFUSED = number("Dead letters", "percentunit", "Share of the records read that were not taken in.",
    "sum by (job) (rate(millrace_dead_letters_total{P}[R]))"
    " / sum by (job) (rate(millrace_events_consumed_total{P}[R]))", {None: "green", 0.01: "red"})
SAVED = number("Checkpoint", "s", "Age of the newest checkpoint.",
    "time() - millrace_checkpoint_last_success_timestamp_seconds{P}", {None: "green", 900: "red"})

# Throughput and latency
READ = panel("Records read", "ops", "By topic; labels come later than their events.",
    _rate("millrace_events_consumed_total{P}", "topic"))
LAG = panel("Not read yet", "short", "Records that wait in the log.",
    ("sum by (topic) (millrace_consumer_lag_messages{P})", "{{topic}}"))
LAGS = panel("Not read yet", "short", "By topic and partition.",
    ("millrace_consumer_lag_messages{P}", "{{topic}} {{partition}}"))
NEWEST = panel("Age of the newest event", "s",
    "Time since the newest event time scored; large where old events are played back.",
    ("time() - millrace_last_event_timestamp_seconds{M}", "age"), min=None)
LATENCY = panel("Latency of a decision", "s",
    "Event time to score. Large where old events are played back.",
    *_quantiles("millrace_event_latency_seconds_bucket{M}"))
STAGES = panel("Stages of the loop", "s", "99th percentile of one turn's stages.",
    _p99("millrace_stage_duration_seconds_bucket{P}", "stage"))
BUSY = panel("Share of time by stage", "percentunit",
    "Seconds a second; a step near 1 is all that one shard can do.",
    _rate("millrace_stage_duration_seconds_sum{P}", "stage"))
REQUESTS = panel("HTTP requests", "reqps", "By route and status code.",
    _rate("millrace_http_request_duration_seconds_count{P}", "route, code"))
DURATION = panel("Duration", "s", "99th percentile by route, to the start of the response.",
    _p99("millrace_http_request_duration_seconds_bucket{P}", "route"))

# Quality
F1 = panel("F1 against its target", "none",
    "`arrival` is fast and flattering: frauds are reported first. `matured` waits. Of classes "
    "macro F1, of numbers R2.",
    *((_ensemble(_F1, w, m), f"{w}, {m}")
      for w in ("fading", "sliding") for m in ("arrival", "matured")), ("0.3", "target"), max=1)
ALERTED = panel("Precision and recall", "percentunit", "Of the ensemble's alerts, fading.",
    *((_ensemble(m, "fading"), m) for m in ("precision", "recall")), max=1)
COUNTING = panel("Outcomes that still count", "short",
    "Effective samples of the fading window by true class: few frauds, noisy figures.",
    (_ensemble("effective_samples", "fading"), "class {{class}}"))
LOSS_FADING, LOSS = (panel("Loss by scorer", "none",
    f"{window.capitalize()}: log loss in nats, of numbers mean absolute error; lower is better. Of "
    "rankings the mean reciprocal rank; higher is better.",
    _scorers(_LOSS, window)) for window in ("fading", "sliding"))
SLIDING = [panel(title, "none", text, _scorers(metric)) for metric, title, text in (
    ("roc_auc", "ROC AUC", "Does the score rank frauds first? 0.5 is chance."),
    ("pr_auc", "Average precision",
     "Over the sliding window; chance is the frauds' share. Does the ensemble beat its members?"),
    ("recall", "Recall", "Share of the frauds that were alerted."),
    ("precision", "Precision", "Share of the alerts that were right."),
    ("accuracy", "Accuracy", "Share of right decisions; misleading where frauds are rare."),
    ("log_loss", "Log loss", "In nats over the sliding window, lower is better."),
    ("brier", "Brier score", "Mean squared error of the probability; lower is better."),
    ("calibration_error", "Calibration error", "Mean gap of probability and frequency, 15 bins."),
)]
_PROMISED = (
    ("coverage", "Coverage of what is promised",
     "Share of truths within the interval, or the set, that was promised to hold them."),
    ("width", "Width of what is promised", "Mean width of the intervals, or size of the sets."),
)
SLIDING_CLASSES = [panel(title, "none", text, _scorers(metric), min=None)
    for metric, title, text in (
    ("accuracy", "Accuracy", "Share of right predictions; misleading where one class is common."),
    ("balanced_accuracy", "Balanced accuracy", "Mean of the classes' recall."),
    ("macro_f1", "Macro F1", "Mean of the classes' F1, each as much."),
    ("weighted_f1", "Weighted F1", "Mean of the classes' F1, by how often each was true."),
    ("kappa", "Kappa", "Agreement beyond chance; 0 is chance."),
    ("kappa_temporal", "Temporal kappa", "How far predictions beat the truth before them; 0: no."),
    ("log_loss", "Log loss", "In nats over the sliding window, lower is better."),
    ("top_2_accuracy", "Top 2 accuracy", "Share of truths among the two likeliest classes."),
    *_PROMISED,
)]
SLIDING_NUMBERS = [panel(title, "none", text, _scorers(metric), min=None)
    for metric, title, text in (
    ("mae", "Mean absolute error", "In the target's unit over the sliding window."),
    ("rmse", "RMSE", "Root of the mean squared error: large errors count more."),
    ("r2", "R2", "Share of the truths' variance that is explained; 0: as good as their mean."),
    ("bias", "Bias", "Mean error; above 0 where too much is predicted."),
    *_PROMISED,
)]


HIT = panel("Hit rate at 10", "percentunit",
    "Of the ranking: the newest 1,000 interactions count most in the fading window.",
    *((_ensemble("hit_10", w), w) for w in ("fading", "sliding")))
SLIDING_RANKS = [panel(title, "none", text, _scorers(metric)) for metric, title, text in (
    ("hit_10", "Hit rate at 10",
     "Share of the items taken that stood among the first 10 before they were learned."),
    ("mrr", "Mean reciprocal rank", "Mean of 1 / rank of the items taken; 1: always first."),
    ("ndcg_10", "NDCG at 10", "As the hit rate; the nearer to the top the more."),
    ("hit_20", "Hit rate at 20", "Among the first 20."),
)]
RATED, RATED_FADING = ([panel(f"{title}, {window}", "none", text, (_quality(metric,
    f'{{M, window="{window}", maturity="arrival"}}'), "{{member}}")) for metric, title, text in (
    ("rmse", "RMSE of ratings", "Of each as it was foretold before it was learned."),
    ("mae", "Mean absolute error of ratings", "In the ratings' unit, as it was foretold."),
)] for window in ("sliding", "fading"))
RATINGS = panel("Ratings that still count", "short",
    "Effective samples of the fading window: those that a rating was foretold for.",
    ('millrace_quality_effective_samples{M, member="ratings", window="fading"}', "ratings"))


def _matured(**titles: str) -> list[Json]:
    return [panel(title, "none", "`arrival` is fast and flattering, `matured` is final and late.",
        *((_ensemble(metric, "sliding", m), m) for m in ("arrival", "matured")))
        for metric, title in titles.items()]


CLASSES = panel("Classes", "short",
    "Those known so far; where others may enter, as many as there may be.",
    ("millrace_classes{M}", "known"), ('millrace_limit{P, bound="classes"}', "at most"))
MATURED = _matured(roc_auc="ROC AUC", recall="Recall", precision="Precision")
MATURED_CLASSES = _matured(
    accuracy="Accuracy", balanced_accuracy="Balanced accuracy", macro_f1="Macro F1")
MATURED_NUMBERS = _matured(mae="Mean absolute error", rmse="RMSE", coverage="Coverage")
AT_BUDGET = panel("Precision at the alert budget", "percentunit",
    "Frauds among as many of the highest scores as may alert (`quality.alert_budget`).",
    ('millrace_alert_precision_at_budget_ratio{M, maturity="arrival"}', "{{member}}"))
EXPECTED = panel("Estimate before labels", "none",
    "Expected accuracy from the scores alone; as good as their calibration.",
    ("millrace_quality_expected_accuracy{M}", "expected accuracy"), min=None, max=1)

# Rankings
LISTED = panel("Items of lists by what became of them", "ops",
    "`untaken`: not taken by the horizon; `evicted`: let go before it, for lack of room.",
    _rate("millrace_listed_items_total{M}", "result"))
ANSWERS = panel("Answers", "percentunit",
    "Share of the answers to users of whom nothing is known, which hold what is popular, and of "
    "those with fewer items than asked for.",
    *((f"{_rate(f'millrace_{name}_answers_total{{M}}', 'model')[0]}"
       " / sum by (model) (rate(millrace_events_scored_total{M}[R]))", name)
      for name in ("fallback", "short")), max=1)
COLD = panel("Cold interactions", "percentunit",
    "Share of the interactions that were of users of whom nothing was known.",
    ("sum by (model) (rate(millrace_cold_interactions_total{M}[R]))"
     " / sum by (model) (rate(millrace_interactions_total{M}[R]))", "cold"), max=1)
SPREAD = panel("What is shown of the catalogue", "percentunit",
    "Of the newest 10,000 places of lists: the share of the known items that had one, and the "
    "share that the ten most shown items had.",
    ("millrace_catalogue_coverage_ratio{M}", "coverage"),
    ("millrace_shown_top_10_ratio{M}", "the ten most shown"), max=1)
VALUE = panel("Lists whose first item is taken", "percentunit",
    "`shown`: of the newest 10,000 lists whose horizon is over; the others estimate it with the "
    "best item first, from lists that were drawn.",
    ("millrace_policy_value_ratio{M}", "{{estimator}}"))
TAKEN_AFTER = panel("From list to taking", "s", "Until an item of a list was taken.",
    *_quantiles("millrace_label_delay_seconds_bucket{M}"))
EFFECTIVE = panel("Lists that the estimates rest on", "short",
    "The newest 10,000 lists come to so many drawn by the best ranking.",
    ("millrace_policy_effective_lists{M}", "effective"))
KNOWN = panel("Users and items", "short", "Those that are known.",
    ("millrace_ranking_known{M}", "{{side}}"))
FORGOTTEN = panel("Users and items let go", "ops",
    "For lack of room (`reco.users`, `reco.items`): the longest idle first.",
    _rate("millrace_ranking_evicted_total{M}", "side"))

# The second stage of rankings
LEADS = panel("Whose order is shown", "none",
    "1 while members put the candidates in order, 0 while the recommender does.",
    ("millrace_members_lead{M}", "members lead"), max=1)
OF_PLACES = [panel(title, "none", text, (_quality(metric,
    '{B, window="sliding", maturity="arrival"}'), "{{member}}")) for metric, title, text in (
    ("roc_auc", "ROC AUC", "Do places that were taken score higher than others? 0.5 is chance."),
    ("pr_auc", "Average precision", "Over the sliding window; chance is the share that is taken."),
    ("log_loss", "Log loss", "In nats over the sliding window, lower is better."),
    ("calibration_error", "Calibration error", "Mean gap of probability and frequency, 15 bins."),
)]
PLACES_COUNT = panel("Places that still count", "short",
    "Effective samples of the fading window: places that were taken (class 1) and not (0).",
    ('millrace_quality_effective_samples{B, member="ensemble", window="fading", '
     'maturity="arrival"}', "class {{class}}"))
OF_PLACES_BY_TRUTH = [panel(f"Scores of places {name}", "percentunit",
    "How many fall into each bin, over time, once it is known.",
    _rate(f'millrace_labelled_score_ratio_bucket{{B, truth="{truth}"}}', "le"), kind="heatmap")
    for truth, name in (("0", "not taken"), ("1", "taken"))]

# Labels and outcomes
LABELS = panel("Labels by what became of them", "ops",
    "`expired` counts events that reached their horizon without a label.",
    _rate("millrace_labels_total{M}", "result"))
DELAY = panel("Delay of labels", "s", "Event time to label.",
    *_quantiles("millrace_label_delay_seconds_bucket{M}"))
COVERAGE = panel("Coverage", "percentunit",
    "Share of the events past the horizon that got a label; quality knows no others.",
    ("millrace_label_coverage_ratio{M}", "coverage"), max=1)
WAITING = panel("Waiting", "short",
    "Scored events that wait for their label, and labels that wait for their event.",
    ("millrace_pending_labels{M}", "events"), ("millrace_early_labels{M}", "labels"))
OUTCOMES = panel("Decisions by what they turned out to be", "ops",
    "Of the ensemble; tp and fn are frauds.",
    _rate("millrace_labelled_outcomes_total{M}", "outcome"))
SAMPLES = panel("Effective samples", "short",
    "What the figures above rest on, by window and true class.",
    ('millrace_quality_effective_samples{M, member="ensemble", maturity="arrival"}',
     "{{window}} class {{class}}"))
ALERTS = panel("Alerts and threshold", "short",
    "Alerts a second, and the score from which on there is one.",
    ("sum by (model) (rate(millrace_alerts_total{M}[R]))", "alerts"),
    ("millrace_threshold_ratio{M}", "threshold"))

# Scores and drift
SCORES = panel("Scores", "percentunit", "How many scores fall into each bin, over time.",
    _rate("millrace_score_ratio_bucket{M}", "le"), kind="heatmap")
BY_TRUTH, BY_RIGHT = ([panel(f"Scores of {name}", "percentunit",
    "How many fall into each bin, over time, once the truth is known.",
    _rate(f'millrace_labelled_score_ratio_bucket{{M, truth="{truth}"}}', "le"), kind="heatmap")
    for truth, name in groups.items()] for groups in (
        {"0": "genuine events", "1": "frauds"},
        {"wrong": "wrong predictions", "right": "right predictions"}))
SHIFT = panel("Shift of the scores", "none",
    "Kolmogorov-Smirnov distance of the last 5 minutes' scores to those an hour before, over all "
    "bounds and over those from 0.1 on (what alerts), and the population stability index that the "
    "service keeps.",
    (_distance(""), "KS"), (_distance(', le=~"(0[.])?[1-9].*"'), "KS from 0.1 on"),
    ("millrace_score_psi{M}", "PSI"))
ALARMS = panel("Drift alarms", "short",
    "By detector and scorer since the start; orange marks on every panel show when.",
    ("millrace_drift_alarms_total{M}", "{{detector}} {{signal}}"))
DETECTORS = panel("Detectors against their thresholds", "none",
    "Statistic over threshold by detector and scorer; an alarm at 1.",
    ("millrace_drift_statistic{M} / millrace_drift_threshold{M}", "{{detector}} {{signal}}"))
PSI = panel("Features, PSI", "none",
    "Against the first 10,000 events; above 0.25 is a major shift.",
    ("millrace_feature_psi{P}", "{{feature}}"))
KS = panel("Features, KS", "none",
    "Largest gap of the distribution functions to the first 10,000 events.",
    ("millrace_feature_ks_ratio{P}", "{{feature}}"))

# Members
WEIGHTS = panel("Weights", "percentunit", "Of the members in the ensemble.",
    ("millrace_ensemble_weight_ratio{M}", "{{member}}"), min=None)
UP = panel("Up", "none", "1 where the member scores; 0 in quarantine.",
    ("millrace_member_up{M}", "{{member}}"), max=1)
FROZEN = panel("Frozen", "none", "1 where the member scores and does not learn.",
    ("millrace_member_frozen{M}", "{{member}}"), max=1)
CHALLENGERS = panel("Challengers", "none",
    "Evidence that each is better than its member, of what is needed; proposed at 1.",
    ("millrace_challenger_evidence_ratio{M}", "{{member}} {{lane}}"))
CHALLENGER_LOSS = panel("Loss of challengers", "none",
    "Mean loss of scores as made, of members and their challengers, since the challenge began.",
    ("millrace_challenger_loss{M}", "{{member}} {{lane}} {{of}}"))
CHALLENGER_ALERTS = panel("Alerts of challengers", "short",
    "Events on which both would have alerted, or one of them alone.",
    ("millrace_challenger_alerts{M}", "{{member}} {{lane}} {{by}}"))
GUARD = panel("Worse than it was", "none",
    "Evidence that a member, or the ensemble, is worse than its last good version, of what is"
    " needed; going back is proposed at 1.",
    ("millrace_guard_evidence_ratio{M}", "{{member}}"))
FAILURES = panel("Failures", "short",
    "Of each member since the start; left out: steps without a finite gradient.",
    ("millrace_member_errors_total{M}", "{{member}} {{reason}}"),
    ("millrace_member_skipped_updates_total{M}", "{{member}} left out"))
LEARNED = panel("Labels learned", "ops",
    "A flat line while labels join means that a member does not learn.",
    _rate("millrace_updates_applied_total{M}", "member"))
UPDATE = panel("Size of an update", "none",
    "Change of the weights over their norm, where it was measured, all members.",
    *_quantiles("millrace_update_norm_bucket{M}"))
UPDATES = panel("Size of an update", "none",
    "99th percentile of the change of the weights over their norm, where measured.",
    _p99("millrace_update_norm_bucket{M}", "member"))
BUDGETS = panel("Passed budgets", "short",
    "By member and rule since the start; the audit trail says what was done. Refused in a row: a"
    " member that learns nothing any more.",
    ("millrace_audit_violations_total{M}", "{{member}} {{rule}}"),
    ("millrace_refused_updates{M}", "{{member}} refused in a row"))
AUDIT = panel("Audit records", "short", "By event since the start.",
    ("millrace_audit_records_total{P}", "{{event}}"))
PARAMETERS = panel("Parameters by member", "short", "Scalars that each member holds.",
    ("sum by (member) (millrace_parameters{M})", "{{member}}"))
ROLES = panel("Parameters by role", "short",
    "Learned weights, statistics, optimizer state and the rest, all members.",
    ("sum by (role) (millrace_parameters{M})", "{{role}}"))
TRAINABLE = panel("Trainable parameters by member", "short", "Scalars that learning changes.",
    ('sum by (member) (millrace_parameters{M, trainable="true"})', "{{member}}"))

# What is held
HELD = panel("Waiting events and labels", "percentunit",
    "Share of `limits.pending` and `limits.early_labels`; at 1 the oldest is let go.",
    *((f'millrace_{held}{{M}} / on (job, instance) millrace_limit{{P, bound="{bound}"}}', bound)
      for bound, held in (("pending", "pending_labels"), ("early_labels", "early_labels"))))
EVICTED = panel("Let go before their horizon", "short",
    "Events since the start that were never learned, for lack of room.",
    ("millrace_pending_evicted_total{M}", "evicted"))
ENTITIES = panel("Entities", "short", "Remembered by each feature with windows.",
    ("millrace_feature_entities{P}", "{{feature}}"))
TABLES = panel("Entity tables", "bytes", "Memory of each.",
    ("millrace_feature_table_bytes{P}", "{{feature}}"))
NOT_KEPT = panel("Entities and events not kept", "ops", "By feature and reason.",
    _rate("millrace_feature_events_total{P}", "feature, result"))
IMPUTED = panel("Values imputed", "ops", "Missing values of each feature.",
    _rate("millrace_feature_missing_total{P}", "feature"))

# What was saved, and what went wrong
AGE = panel("Age of the checkpoint", "s", "Of the newest one.",
    ("time() - millrace_checkpoint_last_success_timestamp_seconds{P}", "age"))
WRITING = panel("Writing a checkpoint", "s", "Snapshot to publication.",
    *_quantiles("millrace_checkpoint_duration_seconds_bucket{P}"))
SIZE = panel("Checkpoint size", "bytes", "Of the newest generation.",
    ("millrace_checkpoint_size_bytes{P}", "size"))
LETTERS = panel("Dead letters", "ops", "Records that were not taken in, by reason.",
    _rate("millrace_dead_letters_total{P}", "reason"))
ALL_LETTERS = panel("Dead letters", "short", "Since the start, by reason.",
    ("millrace_dead_letters_total{P}", "{{reason}}"))
RESTARTS = panel("Since the start", "short",
    "Restarts by how the session before ended, and failed checkpoints.",
    ("millrace_restarts_total{P}", "restart, {{reason}}"),
    ("millrace_checkpoint_failures_total{P}", "checkpoint failed"))
COMMANDS = panel("Commands", "short", "Operators' commands applied since the start.",
    ("millrace_commands_total{M}", "commands"))
DIVERGED = panel("Replays that differed", "short",
    "Steps whose replay gave other bits; anything but 0 is a defect.",
    ("millrace_replay_divergences_total{P}", "diverged"))

# A service of many processes: all of them in one job
VERSIONS = panel("Newest version", "short",
    "Published by the learner, and scored by each scorer: a line that stands still is behind.",
    ("millrace_version{P}", "{{model}}"))
BEHIND = panel("Versions behind the learner", "short",
    "Of each scorer; what grows is not taken over.",
    ('max by (service) (millrace_version{P, role="learner"})'
     ' - on (service) group_right max by (service, model) (millrace_version{P, role="scorer"})',
     "{{model}}"))
VERSION_AGE = panel("Age of the members that score", "s",
    "Event time between what the version knew and the newest event; see shard.every.",
    ("millrace_version_age_seconds{P}", "{{model}}"))
OTHERS = panel("Members that differ", "short",
    "Scorers whose members have another digest than the learner's of the same number; anything but"
    " 0 is a defect.",
    ('count by (service) ((millrace_version_digest{P, role="scorer"}'
     ' and on (service, model, instance) (millrace_version{P, role="scorer"} == on (service)'
     ' group_left max by (service) (millrace_version{P, role="learner"})))'
     ' != on (service) group_left max by (service) (millrace_version_digest{P, role="learner"}))'
     ' or sum by (service) (0 * millrace_version{P})', "{{service}}"))
EXAMPLES = panel("Examples not read yet", "short",
    "Of each scorer, that wait for the learner: partitions are scorers.",
    ('millrace_consumer_lag_messages{P, topic=~"examples-.+"}', "{{topic}} {{partition}}"))
SHARED = panel("Events not read yet", "short", "Of each scorer, in its partitions of all inputs.",
    ('sum by (instance) (millrace_consumer_lag_messages{P, topic!~"examples-.+"})', "{{instance}}"))
RISK_LAG = panel("Risk of second entities: behind the others", "s",
    "Event time by which what other scorers told is behind the newest event; counts are exact while"
    " it is shorter than the features' delay.",
    ("millrace_risk_lag_seconds{P}", "{{model}}"))
RISK_LACKING = panel("Events scored by risk that lacked something", "ops",
    "Of each scorer: others had not told yet what may have counted. The trail says from when to"
    " when.",
    _rate("millrace_risk_lacking_events_total{P}", "model"))
HANDED = panel("Labels handed on", "ops",
    "By each scorer, of labels that stand in any partition: to the owner of the event's id, and by"
    " it to who holds the event. Two for a label of one that is neither.",
    _rate("millrace_labels_handed_total{P}", "model"))
ON_THE_WAY = panel("Records of labels not read yet", "short",
    "Of each scorer, told by the others: labels, and which events they hold. Labels without an"
    " event wait at the owner until all are past their horizon.",
    ('millrace_consumer_lag_messages{P, topic=~"routes-.+"}', "{{topic}} {{partition}}"))
ELSEWHERE = panel("Labels without an event yet, events known to wait elsewhere", "short",
    "Of each scorer; memory of the second is some 20 bytes each.",
    ("millrace_early_labels{P}", "labels {{model}}"),
    ("millrace_events_elsewhere{P}", "events {{model}}"))
SPREAD_EVENTS = panel("Events scored", "ops", "By each scorer: a share of the partitions each.",
    _rate("millrace_events_scored_total{P}", "model"))
SPREAD_LABELS = panel("Labels and examples", "ops",
    "Labels that scorers joined; of the learner the examples that it took.",
    ('sum by (model) (rate(millrace_labels_total{P, result="joined"}[R]))', "{{model}}"))
SPREAD_ORPHANS = panel("Labels without an event", "ops",
    "Of each scorer: a label that went to another partition than its event is one, unless labels"
    " may stand in any; then its owner alone tells.",
    ('sum by (model) (rate(millrace_labels_total{P, result="orphan"}[R]))', "{{model}}"))
SPREAD_FOREIGN = panel("Records of other settings", "ops",
    "Of each process: examples or versions of a process that runs another file.",
    ('sum by (instance) (rate(millrace_dead_letters_total{P, reason="foreign"}[R]))',
     "{{instance}}"))
JUDGED = panel("Quality, judged by the learner", "none",
    "Of the scores of all scorers, sliding, labels as they arrive: F1, of classes macro F1, of "
    "numbers R2, of rankings the hit rate at 10.",
    (" or ".join(f'millrace_quality_{m}{{P, window="sliding", maturity="arrival"}}'
      for m in ("f1", "macro_f1", "r2", "hit_10")) , "{{model}} {{member}}"), min=None)
DEEDS = panel("Rankings: what users did, handed over and taken", "ops",
    "What scorers hand over, with what is told of items and users, and what the learner takes.",
    ('sum by (model) (rate(millrace_deeds_total{P}[R]))', "{{model}}"))
DEEDS_AHEAD = panel("Rankings: not given back yet", "short",
    "Of each scorer: it counts at once for the user himself, for others when it comes back.",
    ("millrace_deeds_ahead{P}", "{{model}}"))
DEEDS_MISSED = panel("Rankings: versions missing", "short",
    "1 while a scorer waits for all that is known; it answers by what it knew.",
    ("millrace_deeds_missed{P}", "{{model}}"))

# Read replicas
REPLICA_LAG = panel("Replicas: behind", "s", "Time since each last stood at the journal's end.",
    ("millrace_replica_lag_seconds{M}", "{{instance}}"))
REPLICA_STEP = panel("Replicas: steps not proved yet", "short",
    "Journaled steps that each has not done again yet.",
    ("millrace_replica_lag_steps{M}", "{{instance}}"))
REPLICA_DIFFERS = panel("Replicas that differ", "short",
    "1 once a step gave other bits than the service's; it answers nothing any more.",
    ("millrace_replica_diverged{M}", "{{instance}}"))

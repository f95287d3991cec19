"""The parameter auditor: what it records, what it undoes, and that it is part of the state."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.base import F64, FeatureBatch, Model, Parameter, State
from monitoring.audit.audited import RANGES, ROWS, AuditedMember
from monitoring.audit.budgets import EVENTS, RULES
from monitoring.audit.trail import Exit, verify
from stream.contract.outputs import Outputs
from stream.demo.clicks import CLICKS, ClickSimulator
from stream.demo.player import PAYMENTS
from stream.demo.simulator import NEVER, Simulator
from stream.run.assemble import build_engine
from stream.run.readings import readings
from stream.settings.load import parse
from stream.settings.upgrade import journaled
from stream.state.generations import Snapshot, StateDirectory
from stream.state.platform import fingerprint
from stream.step.reconfigure import reconfigure
from stream.step.scoring import ScoringEngine
from tests.support.factory import HOUR_MS, START_MS, Feed, config, decoded, event, label, traffic

EXAMPLES = Path(__file__).parents[3] / "examples"

MEMBERS = [
    {"name": "linear", "type": "logistic"},
    {"name": "crossed", "type": "crossed", "table_bits": 10},
    {"name": "forest", "type": "forest", "trees": 3, "max_leaves": 64, "grace": 20},
    {"name": "bayes", "type": "river", "model": "river.naive_bayes.GaussianNB"},
    {"name": "mlp", "type": "torch", "hidden": [4], "embedding_dim": 2},
]


class Vector(Model):
    """A member of one weight vector; each row adds its dense columns, a growing one lengthens."""

    def __init__(self, size: int = 5) -> None:
        self.w = np.zeros(size)
        self.scale, self.grow, self.swaps, self.step = 1e-3, 0, 0, 0.0

    def score(self, x: FeatureBatch) -> F64:
        return np.full((len(x), 1), float(np.clip(np.nan_to_num(self.w[0]), -9, 9)))

    def learn(self, x: FeatureBatch, y: F64, w: F64) -> None:
        self.w = np.append(self.w, np.zeros(self.grow))
        self.w = self.w + (self.step or self.scale * float(x.dense.astype(np.float64).sum()))

    def tensors(self) -> dict[str, NDArray[Any]]:
        return {"w": self.w}

    def replaced(self) -> int:
        return self.swaps

    def parameters(self) -> Sequence[Parameter]:
        n = len(self.w)
        return [Parameter("w", "learned", (n,), "float64", n, 8 * n)]

    def state(self) -> State:
        return {"w": self.w.copy()}

    def restore(self, state: State) -> None:
        self.w = state["w"].copy()


def build(directory: Path, vector: Vector | None = None, **changes: Any) -> ScoringEngine:
    """An engine on the small configuration; ``vector`` takes the place of its second member."""
    engine = build_engine(config(directory, **changes), None)
    if vector is not None:
        engine.ensemble.members["prior"] = vector
    return engine


def run(engine: ScoringEngine, feed: Feed, n: int, **options: Any) -> list[Outputs]:
    """Step through the usual traffic."""
    return [engine.step(feed.batch(*parts)) for parts in traffic(n, **options)]


def trail(outputs: Sequence[Outputs]) -> list[dict[str, Any]]:
    """All audit records."""
    return [record for out in outputs for record in decoded(list(out.audit))]


def one(
    engine: ScoringEngine, feed: Feed, i: int, n: int = 1, **options: Any
) -> list[dict[str, Any]]:
    """One step: ``n`` events from ``i`` on, with their labels; its audit records."""
    span = range(i, i + n)
    parts = (("events", [event(j) for j in span]), ("labels", [label(j) for j in span]))
    return trail([engine.step(feed.batch(*parts, **options))])


def of(records: Sequence[Mapping[str, Any]], event: str, model: str = "") -> list[Any]:
    """Records of one event (and member)."""
    return [r for r in records if r["event"] == event and model in ("", r["model"])]


def lines(outputs: Sequence[Outputs]) -> list[bytes]:
    """The records' bytes."""
    return [r.value or b"" for out in outputs for r in out.audit]


def budget(rule: str, limit: float, action: str) -> dict[str, Any]:
    """An ``[audit]`` section with one budget for every member."""
    own = {"after": 0} if rule == "update_norm" else {}
    return {"each": {rule: {"limit": limit, "action": action} | own}, "summary_every": 100}


# ---------------------------------------------------------------------- what is recorded


def test_the_trail_of_a_run_verifies(tmp_path: Path) -> None:
    """Every member is created once and summed up when due, in one unbroken chain."""
    engine = build(tmp_path, members=MEMBERS, audit={"summary_every": 100})
    outputs = run(engine, Feed(), 500)
    assert verify(lines(outputs)).outcome is Exit.OK
    records = trail(outputs)
    assert [r["model"] for r in of(records, "created")] == list(engine.ensemble.names)
    for name in engine.ensemble.names:
        seen = [r for r in records if r["model"] == name and "n_updates" in r]
        assert [r["n_updates"] for r in seen] == [0, 110, 120, 120, 100]  # 40 in most steps
        assert all(a["version_to"] == b["version_from"] for a, b in pairwise(seen))
        assert all(r["verdict"] == "match" for r in seen)


def test_a_summary_counts_and_measures(tmp_path: Path) -> None:
    """Counts are those of the parameter table, digests and norms those of the arrays."""
    engine = build(tmp_path, audit={"summary_every": 100})
    records = trail(run(engine, Feed(), 200, lag=50))
    [summary] = of(records, "summary", "linear")
    table = engine.ensemble.members["linear"].parameters()
    learned = sum(p.count for p in table if p.role == "learned")
    assert summary["roles"]["learned"] == learned
    assert summary["held"] == sum(p.count for p in table if p.role in ("learned", "statistic"))
    [row] = summary["tensors"]
    assert (row["path"], row["held"], row["nonfinite"]) == ("weight", learned, 0)
    assert 0 < row["untrained"] < learned  # some buckets of the category were never seen
    assert float.fromhex(row["norm"]) > 0
    assert float.fromhex(summary["update_norm"]["relative"]) > 0


def test_the_root_is_the_members_digest(tmp_path: Path) -> None:
    """Right after a summary the member still has the digest that is on record."""
    engine = build(tmp_path, members=MEMBERS, audit={"summary_every": 40})
    newest = {r["model"]: r for r in trail(run(engine, Feed(), 80, lag=0)) if "root" in r}
    for name, member in engine.ensemble.members.items():
        assert (newest[name]["version_to"], newest[name]["root"]) == (2, member.digest())


def test_a_record_names_the_inputs_since_the_last_one(tmp_path: Path) -> None:
    """Ranges of consecutive records of a member join without a gap and without overlap."""
    engine = build(tmp_path, audit={"summary_every": 100})
    records = trail(run(engine, Feed(), 1000))
    seen = of(records, "summary", "linear")
    assert len(seen) > 3
    for topic in ("events", "labels"):
        spans = [(a, b) for r in seen for t, _, a, b in r["ranges"] if t == topic]
        assert spans[0][0] == 0
        assert all(a[1] + 1 == b[0] for a, b in pairwise(spans))
    steps = [r["steps"] for r in seen]
    assert all(a[1] + 1 == b[0] for a, b in pairwise(steps))


def test_no_value_of_an_event_is_on_record(tmp_path: Path) -> None:
    """Neither ids nor entities nor the log's amounts appear in any record."""
    engine = build(tmp_path, members=MEMBERS, audit={"summary_every": 20})
    feed = Feed()
    events = [
        event(i, id=f"SECRET-{i}", customer=f"CUSTOMER-{i}", amount=987654.25 + i)
        for i in range(60)
    ]
    labels = [{"id": f"SECRET-{i}", "fraud": i % 3 == 0} for i in range(60)]
    outputs = [engine.step(feed.batch(("events", events), ("labels", labels)))]
    text = b"".join(lines(outputs))
    assert not any(word in text for word in (b"SECRET", b"CUSTOMER", b"98765", b"terminal"))


def test_growth_and_pruning_are_told_between_summaries(tmp_path: Path) -> None:
    """Another shape of a learned array is on record after at most 256 labels."""
    vector = Vector()
    engine = build(tmp_path, vector)
    feed = Feed()
    records = trail(run(engine, feed, 80, lag=0))
    vector.grow = 3
    [grown] = of(one(engine, feed, 80, 256), "grown")
    vector.grow, vector.w = 0, vector.w[:2]
    [pruned] = of(one(engine, feed, 336, 256), "pruned")
    assert of(records, "grown") == []
    assert (grown["model"], grown["held"], pruned["held"]) == ("prior", 8, 2)
    assert grown["structure"] != pruned["structure"]
    assert [row["held"] for row in grown["layers"]] == [8]


def test_a_swapped_part_is_told(tmp_path: Path) -> None:
    """A member that replaced a part after drift says how many."""
    vector = Vector()
    engine = build(tmp_path, vector)
    feed = Feed()
    run(engine, feed, 40, lag=0)
    vector.swaps = 2
    [swapped] = of(one(engine, feed, 40), "swapped")
    assert (swapped["replaced"], swapped["ranges"]) == (2, [["labels", 0, 40, 40]])


def test_records_stay_small(tmp_path: Path) -> None:
    """Rows and ranges are bounded; what is left out is counted."""

    class Many(Vector):
        def tensors(self) -> dict[str, NDArray[Any]]:
            return {f"w{i}": self.w[:1] for i in range(ROWS + 1)}

    engine = build(tmp_path, Many(), audit={"summary_every": 1})
    for partition in range(RANGES + 9):
        engine.auditor.taking("more", partition, 0, 5)
    [record] = of(trail([engine.step(Feed().batch(("events", [event(0)])))]), "created", "prior")
    assert "tensors" not in record
    assert (record["tensors_left_out"], record["ranges_left_out"]) == (ROWS + 1, 9)
    assert len(json.dumps(record)) < 16_000


def test_every_event_stands_in_the_metrics_from_the_start(tmp_path: Path) -> None:
    """Records, violations and norms have their series before anything happened."""
    engine = build(tmp_path)
    shown = readings(engine, {})
    assert set(shown.audit) == set(EVENTS)
    assert set(shown.audit_violations) == {(m, r) for m in ("linear", "prior") for r in RULES}
    assert set(shown.update_norms) == {"linear", "prior"}


def test_events_outside_the_envelope_say_so(tmp_path: Path) -> None:
    """Each record carries whether its event was expected."""
    engine = build(tmp_path, audit={"summary_every": 100, "expected_events": ["created"]})
    records = trail(run(engine, Feed(), 300))
    assert {r["event"] for r in records if r["inside"]} == {"created"}
    assert of(records, "summary")


# ---------------------------------------------------------------------- what is enforced

HUGE = 3e38
"""The largest amounts are legal: finite in float32."""


def poisoned(engine: ScoringEngine, feed: Feed) -> list[dict[str, Any]]:
    """Quiet traffic, one step whose labels belong to absurd events, quiet traffic again."""
    records = trail(run(engine, feed, 200, lag=0))
    bad = [event(i, amount=HUGE) for i in range(1000, 1010)]
    labels = [label(i) for i in range(1000, 1010)]
    records += trail([engine.step(feed.batch(("events", bad), ("labels", labels)))])
    more = [event(i) for i in range(2000, 2080)]
    return records + trail(
        [
            engine.step(
                feed.batch(("events", more), ("labels", [label(i) for i in range(2000, 2080)]))
            )
        ]
    )


RAW = [{"name": "amount", "type": "number", "field": "amount"}]
SGD = {"name": "prior", "type": "river", "model": "river.linear_model.LogisticRegression"}


def test_a_poisoned_update_is_rejected(tmp_path: Path) -> None:
    """The member is bit for bit as if the poisoned labels had never come; the rest learns them."""
    members = [{"name": "linear", "type": "logistic"}, SGD]
    audit = {"member": {"prior": {"update_norm": {"limit": 1e6, "action": "reject", "after": 0}}}}
    engine = build(tmp_path, members=members, features=RAW, audit=audit)
    free = build(tmp_path, members=members, features=RAW)
    records = poisoned(engine, Feed())
    poisoned(free, Feed())
    [rejected] = of(records, "rejected")
    assert (rejected["model"], rejected["rows"], rejected["undone"]) == ("prior", 10, True)
    assert rejected["ranges"] == [["labels", 0, 200, 209]]
    assert rejected["inside"] is False
    [breach] = rejected["breaches"]
    assert (breach["rule"], breach["action"]) == ("update_norm", "reject")
    assert float.fromhex(breach["got"]) > 1e6
    linear, prior = (engine.ensemble.members[name] for name in ("linear", "prior"))
    assert linear.digest() == free.ensemble.members["linear"].digest()
    assert prior.digest() != free.ensemble.members["prior"].digest()
    assert max(abs(w) for w in prior.tensors()["estimator.weights"]) < 1e6
    assert max(abs(w) for w in free.ensemble.members["prior"].tensors()["estimator.weights"]) > 1e6
    assert engine.counts["updates.prior"] == 280
    assert engine.counts["updates.linear"] == 290
    assert engine.auditor.violations == {"prior/update_norm": 1}
    assert not engine.ensemble.quarantined


def test_an_update_is_judged_once_the_member_has_found_its_scale(tmp_path: Path) -> None:
    """Not before it learned `after` labels, nor where its own recent updates are as large."""
    spec = {"limit": 0.5, "action": "reject", "after": 3, "times": 4}
    audit = {"member": {"prior": {"update_norm": spec}}}
    vector = Vector()
    engine, feed = build(tmp_path, vector, audit=audit), Feed()
    for i, (relative, refused) in enumerate(
        ((9.0, 0), (7.0, 0), (8.0, 0), (35.0, 0), (150.0, 1), (130.0, 0), (600.0, 1), (700.0, 2))
    ):
        # A step that moves the vector by so many times its norm, or 1 where that is smaller.
        size = max(1.0, float(np.linalg.norm(vector.w)))
        vector.step = relative * size / math.sqrt(len(vector.w))
        one(engine, feed, i)
        assert engine.auditor.refused() == {"linear": 0, "prior": refused}
    assert engine.auditor.violations == {"prior/update_norm": 3}


@pytest.mark.parametrize("seed", range(20))
def test_the_usual_update_is_that_of_a_reference(seed: int) -> None:
    """The largest of the last 64 kept, or by row for as many rows, through a checkpoint."""
    rng = np.random.default_rng(seed)
    watched = AuditedMember()
    done = [(int(rng.integers(1, 50)), float(rng.exponential())) for _ in range(100)]
    for rows, norm in done:
        watched.kept(rows, norm)
        watched.kept(rows, None)
        watched.kept(rows, math.inf)
    again = AuditedMember()
    again.restore(watched.state())
    for n in (1, 7, 400):
        largest = max(norm for _, norm in done[-64:])
        by_row = max(norm / rows for rows, norm in done[-64:])
        assert again.usual(n) == pytest.approx(max(largest, n * by_row))


@pytest.mark.parametrize("example", ["fraud.toml", "clicks.toml"])
def test_the_documented_budget_leaves_shipped_members_alone(example: str) -> None:
    """`limit = 10` for every member of the examples: all learn, none is refused."""
    raw = tomllib.loads((EXAMPLES / example).read_text())
    documented = {"limit": 10, "action": "reject"}
    raw["audit"] = raw.get("audit", {}) | {"each": {"update_norm": documented}}
    raw["label"] |= {"learning": "arrival", "at_horizon": "drop"}
    stream, writing = (
        (Simulator(3, 300, 100, drift=False, events=4000), PAYMENTS)
        if example == "fraud.toml"
        else (ClickSimulator(3, drift=False, events=4000), CLICKS)
    )
    engine, feed = build_engine(parse(raw, example), None), Feed()
    for chunk in stream.chunks(200):
        told = chunk.events.copy()
        told["reported_at_ms"] = told["event_time_ms"] + 1
        labels = [r.value for r in writing.labels(told, 3)]
        if writing is CLICKS:  # which tells clicks alone
            for i in np.flatnonzero(chunk.events["reported_at_ms"] == NEVER).tolist():
                labels[i] = (labels[i] or b"").replace(b'"clicked":true', b'"clicked":false')
        events = [r.value for r in writing.events(chunk.events, 3)]
        engine.step(feed.batch(("events", events), ("labels", labels)))
    assert not engine.auditor.violations
    assert min(engine.counts[f"updates.{name}"] for name in engine.ensemble.names) > 3000


def test_a_rejected_update_leaves_no_trace(tmp_path: Path) -> None:
    """After a rejection the member equals one that was given the other labels only."""
    audit = {"each": {"update_norm": {"limit": 1e6, "action": "reject", "after": 0}}}
    engine, clean = (build(tmp_path, vector, audit=audit) for vector in (Vector(), Vector()))
    feed, quiet = Feed(), Feed()
    batches = [feed.batch(*parts) for parts in traffic(120, lag=0)]
    for i, parts in enumerate(traffic(120, lag=0)):
        if i == 1:
            engine.ensemble.members["prior"].scale = 1e30  # type: ignore[attr-defined]
        engine.step(batches[i])
        engine.ensemble.members["prior"].scale = 1e-3  # type: ignore[attr-defined]
        if i != 1:
            clean.step(quiet.batch(*parts))
        else:
            clean.ensemble.freeze("prior")
            clean.step(quiet.batch(*parts))
            clean.ensemble.release("prior")
    assert engine.ensemble.members["prior"].digest() == clean.ensemble.members["prior"].digest()
    assert engine.counts["updates.prior"] == clean.counts["updates.prior"] == 80


def test_quarantine_restores_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    """A quarantined member is out, as it was before the breach; released, it learns on."""
    vector = Vector()
    engine = build(tmp_path, vector, audit=budget("update_norm", 1e6, "quarantine"))
    feed = Feed()
    run(engine, feed, 40, lag=0)
    good = vector.digest()
    vector.scale = 1e30
    records = one(engine, feed, 40)
    [quarantined] = of(records, "quarantined")
    assert (quarantined["cause"], quarantined["undone"]) == ("budget", True)
    assert engine.ensemble.quarantined == {"prior"}
    assert vector.digest() == good
    vector.scale = 1e-3
    out = engine.step(feed.batch(("control", [{"command": "release", "member": "prior"}])))
    assert [r["event"] for r in decoded(list(out.audit))] == ["released"]
    one(engine, feed, 41)
    assert vector.digest() != good


def test_nan_puts_a_member_out_by_default(tmp_path: Path) -> None:
    """Without any configuration a member whose weights are no numbers leaves, as it is."""
    vector = Vector()
    engine = build(tmp_path, vector)
    feed = Feed()
    run(engine, feed, 40, lag=0)
    vector.scale = float("inf")
    records = one(engine, feed, 40, 256)
    [quarantined] = of(records, "quarantined")
    assert quarantined["breaches"][0]["rule"] == "nonfinite"
    assert (quarantined["undone"], quarantined["ranges"]) == (False, [["labels", 0, 40, 295]])
    out = engine.step(feed.batch(("events", [event(i) for i in range(296, 315)])))
    assert len(out.scores) == 19
    assert all(s["members"]["linear"] == pytest.approx(s["members"]["prior"]) for s in
               decoded(list(out.scores)))  # fmt: skip


def test_a_large_member_is_searched_for_nan_by_the_rows_it_learned(tmp_path: Path) -> None:
    """The search costs at most 256 scalars a label, and comes all the same."""
    vector = Vector(256 * 300)
    engine = build(tmp_path, vector)
    feed = Feed()
    run(engine, feed, 40, lag=0)
    vector.w[0] = np.nan
    found = []
    for i in range(40, 400):
        if of(one(engine, feed, i), "quarantined"):
            found.append(i)
    assert found == [299]


def test_a_failed_member_is_undone_where_its_state_was_kept(tmp_path: Path) -> None:
    """A member that raises in the middle of its rows goes back to before them, if it can."""

    class Broken(Vector):
        def learn(self, x: FeatureBatch, y: F64, w: F64) -> None:
            super().learn(x, y, w)
            if self.swaps:
                raise RuntimeError("half way")

    vector = Broken()
    engine = build(tmp_path, vector, audit=budget("update_norm", 1e6, "reject"))
    feed = Feed()
    run(engine, feed, 40, lag=0)
    good, vector.swaps = vector.digest(), 1
    records = one(engine, feed, 40)
    [quarantined] = of(records, "quarantined")
    assert (quarantined["cause"], quarantined["undone"]) == ("error", True)
    assert vector.digest() == good
    assert engine.counts["member_errors.prior.learn_raised"] == 1


@pytest.mark.parametrize(
    ("rule", "limit"), [("parameters", 10), ("bytes", 80), ("growth_per_hour", 5)]
)
def test_growth_past_a_budget_is_rejected_update_by_update(
    tmp_path: Path, rule: str, limit: float
) -> None:
    """A member of 5 scalars may grow by 5, whichever way that is said; more is undone."""
    vector = Vector()
    audit = {"member": {"prior": {rule: {"limit": limit, "action": "reject"}}}}
    engine = build(tmp_path, vector, audit=audit)
    feed = Feed()
    run(engine, feed, 40, lag=0)
    vector.grow = 2
    records = []
    for i in range(40, 45):
        records += one(engine, feed, i)
    assert [r["held"] for r in of(records, "grown")] == [7, 9]
    assert len(of(records, "rejected")) == 3
    assert len(vector.w) == 9


def test_growth_is_counted_anew_each_hour(tmp_path: Path) -> None:
    """The hour is that of the steps' clock."""
    vector = Vector()
    audit = {"member": {"prior": {"growth_per_hour": {"limit": 4, "action": "reject"}}}}
    engine = build(tmp_path, vector, audit=audit)
    feed = Feed()
    clock = START_MS + 400 * 24 * HOUR_MS
    run(engine, feed, 40, lag=0)
    vector.grow, held = 2, []
    for i in range(40, 50):
        one(engine, feed, i, clock_ms=clock + (HOUR_MS if i >= 45 else 0))
        held.append(len(vector.w))
    assert held == [7, 9, 9, 9, 9, 11, 13, 13, 13, 13]


def test_the_total_budget_acts_on_the_member_that_passes_it(tmp_path: Path) -> None:
    """All members together have a limit; the one whose update goes past it is undone."""
    vector = Vector()
    engine = build(tmp_path, vector)
    limit = sum(w.held for w in engine.auditor._watched.values())
    assert limit == 0
    run(engine, Feed(), 40, lag=0)
    limit = sum(w.held for w in engine.auditor._watched.values())
    vector = Vector()
    audit = {"total": {"parameters": {"limit": limit + 3, "action": "reject"}}}
    engine, feed = build(tmp_path, vector, audit=audit), Feed()
    run(engine, feed, 40, lag=0)
    vector.grow = 2
    for i in range(40, 43):
        one(engine, feed, i)
    assert len(vector.w) == 7
    assert engine.auditor.violations == {"prior/parameters": 2}
    assert engine.counts["updates.linear"] == 43


def test_a_warning_changes_nothing(tmp_path: Path) -> None:
    """Budgets that only warn leave a record and count; members are as without them."""
    audit = budget("parameters", 1, "warn")
    audit["each"]["update_norm"] = {"limit": 0, "action": "warn", "after": 0, "times": 0}
    engine, free = build(tmp_path, audit=audit), build(tmp_path)
    records = trail(run(engine, Feed(), 200))
    run(free, Feed(), 200)
    assert {b["rule"] for r in of(records, "warned") for b in r["breaches"]} == {
        "parameters",
        "update_norm",
    }
    assert engine.ensemble.digest() == free.ensemble.digest()
    assert engine.auditor.violations["linear/update_norm"] > 0
    [first] = of(records, "created", "linear")
    assert first["budgets"] == [
        {"rule": "parameters", "limit": (1.0).hex(), "got": first["held"], "ok": False}
    ]


# ---------------------------------------------------------------------- part of the state


def test_a_resumed_trail_is_the_same(tmp_path: Path) -> None:
    """An engine loaded from a checkpoint writes, record for record, what the other one writes."""
    audit = {
        "summary_every": 60,
        "each": {
            "update_norm": {"limit": 0.2, "action": "reject", "after": 0, "times": 0},
            "growth_per_hour": {"limit": 200_000, "action": "warn"},
        },
    }
    c = config(tmp_path, members=MEMBERS, audit=audit)
    directory = StateDirectory(tmp_path / "state").open()
    engine, feed = build_engine(c, directory.pending), Feed()
    parts = traffic(800, lag=50)
    for part in parts[:8]:
        engine.step(feed.batch(*part))
    snapshot = Snapshot(
        "test", engine.seq, engine.digest, 0, {}, journaled(c), fingerprint(), engine.state(),
        engine.files(),
    )  # fmt: skip
    directory.publish(directory.write(snapshot), keep=3)
    [loaded] = directory.usable(lambda m: None)
    again = build_engine(c, directory.pending)
    again.restore(loaded.state, loaded.segments)
    batches = [feed.batch(*part) for part in parts[8:]]
    first = [engine.step(batch) for batch in batches]
    second = [again.step(batch) for batch in batches]
    assert lines(first) == lines(second)
    assert {r["event"] for r in trail(first)} >= {"summary", "rejected", "grown"}
    assert again.state_digest() == engine.state_digest()
    directory.close()


def test_the_state_digest_covers_the_auditor(tmp_path: Path) -> None:
    """What the auditor remembers is state: another memory, another digest."""
    engine = build(tmp_path)
    run(engine, Feed(), 100)
    before = engine.state_digest()
    state = engine.auditor.state()
    state["watched"]["linear"]["version"] += 1
    engine.auditor.restore(state)
    assert engine.state_digest() != before


def test_a_checkpoint_step_records_every_root(tmp_path: Path) -> None:
    """The step that a checkpoint is taken of says what each member is after it."""
    engine, feed = build(tmp_path, members=MEMBERS), Feed()
    run(engine, feed, 100)
    batch = feed.batch(("events", [event(500)]), ("labels", [label(90)]))
    out = engine.step(type(batch)(batch.seq, batch.clock_ms, batch.slices, checkpoint=True))
    [record] = of(trail([out]), "checkpointed")
    assert out.journal.checkpoint
    assert record["step"] == engine.seq
    assert record["roots"] == engine.ensemble.roots()
    assert set(record["roots"]) == {*engine.ensemble.names, "ensemble"}
    contents = engine.contents(engine.counts)
    assert {key: record[key] for key in contents} == contents


def test_every_part_of_the_state_is_in_the_record_of_a_checkpoint(tmp_path: Path) -> None:
    """A part that joins the engine's state joins what is compared."""
    engine = build_engine(config(tmp_path), None)
    otherwise = {"seq", "digest", "ensemble", "trail"}
    clock = {"clock_ms", "watermark_ms", "threshold"}
    assert set(engine.contents(engine.counts)["parts"]) == set(
        engine.state()
    ) - otherwise - clock | {"clock"}


def test_another_configuration_is_on_record(tmp_path: Path) -> None:
    """Members added, removed and changed are named, and the chain goes on."""
    old, feed = build(tmp_path, audit={"summary_every": 100}), Feed()
    outputs = run(old, feed, 400)
    members = [
        {"name": "linear", "type": "logistic", "learning_rate": 0.1},
        {"name": "new", "type": "constant"},
    ]
    engine = build(tmp_path, members=members)
    switch = list(reconfigure(old, engine, journaled(engine.config)).audit)
    raw = [*lines(outputs), *(r.value or b"" for r in switch)]
    feed.seq += 1
    parts = (("events", [event(900)]), ("labels", [label(380)]))
    raw += lines([engine.step(feed.batch(*parts))])
    verdict = verify(raw)
    assert (verdict.outcome, verdict.head.seq) == (Exit.OK, len(raw))
    records = decoded(switch)
    assert [(r["event"], r["model"]) for r in records] == [
        ("reconfigured", "service"),
        ("member_removed", "prior"),
        ("hyper_changed", "linear"),
        ("member_added", "new"),
    ]
    assert records[2]["changed"] == ["learning_rate"]


def test_a_member_that_stays_keeps_its_history(tmp_path: Path) -> None:
    """Versions count on over a switch that does not touch the member."""
    old, feed = build(tmp_path, audit={"summary_every": 100}), Feed()
    run(old, feed, 90, lag=0)
    engine = build(tmp_path, audit={"summary_every": 5})
    switch = list(reconfigure(old, engine, journaled(engine.config)).audit)
    feed.seq += 1
    assert [r["event"] for r in decoded(switch)] == ["reconfigured"]
    [summary] = of(one(engine, feed, 900), "summary", "linear")
    assert (summary["version_to"], summary["n_updates"]) == (4, 91)
    assert engine.seq == feed.seq

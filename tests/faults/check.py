"""What must hold whatever was broken, seen from outside.

I1: one score or dead letter for each input record. I2: the journal is gapless. I3: the state is
that of a fault-free run. I4: each label that came in time is learned once.

:func:`check` reads everything that stands in a shard's topics and compares it with two things: what
each input record must have become (``fates``; knows nothing of the engine), and what a fault-free
engine makes of the journal from step 1 (no checkpoint, no service).
"""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from monitoring.audit.trail import Exit, verify
from stream.contract.records import (
    JournalRecord,
    NewRecord,
    Range,
    Record,
    Slice,
    decode_journal,
)
from stream.contract.routing import places
from stream.run.assemble import build_engine
from stream.settings.schema import Config
from stream.settings.upgrade import recorded
from stream.state.artefacts import FOLDER, Artefacts
from stream.state.backfill import entered
from stream.state.follow import Follower, Means
from stream.state.generations import StateDirectory, list_generations
from stream.state.recovery import recover
from stream.state.topics import Standing
from stream.step.engine import Engine
from stream.step.ranking.engine import RankingEngine
from tests.faults.shard import Shard
from tests.faults.traffic import Traffic

INPUTS = ("control", "events", "labels")
OUTPUTS = ("scores", "dead_letters", "audit")
Place = tuple[str, int, int]
"""Topic, partition, offset of an input record."""


@dataclass
class Verdict:
    """What :func:`check` found; ``ok`` when every invariant holds."""

    records: int = 0
    steps: int = 0
    scored: int = 0
    labels_applied: int = 0
    dead_letters: int = 0
    lost: int = 0
    duplicated: int = 0
    learned_once: bool = False
    journal_gapless: bool = False
    outputs_equal: bool = False
    state_equal: bool = False
    trail_ok: bool = False
    generations_checked: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every invariant holds."""
        return not self.problems

    def found(self, problem: str) -> None:
        """Note what is wrong; only the first few of a kind are of use."""
        if len(self.problems) < 20:
            self.problems.append(problem)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def check(shard: Shard, traffic: Traffic, reconfigured: bool = False) -> Verdict:
    """Check a shard whose service has ended.

    ``reconfigured``: its configuration changed on the way, and may have let events go that wait.

    1. The journal is gapless and its ranges cover each input record once (I2).
    2. Each input record became what it must, once (I1, I4).
    3. A fault-free engine gives the same outputs, byte for byte, and the same state (I3).
    4. The audit trail verifies.
    """
    verdict = Verdict()
    inputs = {shard.topic(name): shard.records(name) for name in INPUTS}
    outputs = {name: shard.records(name) for name in OUTPUTS}
    journal = journal_of(shard)
    verdict.records = sum(len(rows) for parts in inputs.values() for rows in parts)
    verdict.steps = len(journal)
    _check_journal(journal, inputs, verdict)
    fates = _fates(shard, traffic, inputs, reconfigured)
    applied = _check_fates(shard, fates, outputs, verdict)
    engine, expected = reference(shard, journal, inputs)
    _check_outputs(expected, outputs, verdict)
    _check_state(shard, engine, verdict)
    _check_learned(engine, applied, verdict)
    trail = verify(r.value or b"" for r in outputs["audit"][0])
    verdict.trail_ok = trail.outcome is Exit.OK and trail.head.seq == len(outputs["audit"][0])
    if not verdict.trail_ok:
        verdict.found(f"audit trail: {trail}")
    return verdict


def journal_of(shard: Shard) -> list[JournalRecord]:
    """Every committed journal record, as it stands in the topic."""
    return [decode_journal(r.value or b"") for r in shard.records("journal")[0]]


def _check_journal(
    journal: list[JournalRecord], inputs: dict[str, list[list[Record]]], verdict: Verdict
) -> None:
    before = len(verdict.problems)
    for i, record in enumerate(journal, 1):
        if record.seq != i:
            verdict.found(f"journal: record {i} has seq {record.seq}")
            break
    taken: dict[tuple[str, int], list[Range]] = defaultdict(list)
    for record in journal:
        for r in record.ranges:
            taken[(r.topic, r.partition)].append(r)
    for topic, parts in inputs.items():
        for number, rows in enumerate(parts):
            _check_cover(f"{topic}/{number}", taken[(topic, number)], rows, verdict)
    verdict.journal_gapless = len(verdict.problems) == before


def _check_cover(where: str, ranges: list[Range], rows: list[Record], verdict: Verdict) -> None:
    """Each record that stands in the partition lies in one range; ranges count right."""
    offsets = [r.offset for r in rows]
    at = 0
    for r in ranges:
        count = 0
        if at < len(offsets) and offsets[at] < r.first:
            verdict.found(f"{where}: offset {offsets[at]} is in no journaled range")
            verdict.lost += 1
            while at < len(offsets) and offsets[at] < r.first:
                at += 1
        while at < len(offsets) and offsets[at] <= r.last:
            at, count = at + 1, count + 1
        if count != r.count:
            verdict.found(f"{where}: range {r.first}..{r.last} counts {r.count}, found {count}")
    if at != len(offsets):
        verdict.found(f"{where}: {len(offsets) - at} records after the last journaled range")


def _check_fates(
    shard: Shard,
    fates: Iterable[tuple[Place, str]],
    outputs: dict[str, list[list[Record]]],
    verdict: Verdict,
) -> int:
    """Compare what each record became with what it must become; returns the labels applied."""
    scores = Counter[Place]()
    events = shard.topic("events")
    for part in outputs["scores"]:
        for record in part:
            score = _json(record)
            scores[(events, score["partition"], score["offset"])] += 1
    letters = Counter(_origin(r) for part in outputs["dead_letters"] for r in part)
    verdict.scored, verdict.dead_letters = scores.total(), letters.total()
    applied = 0
    for place, expected in fates:
        got = (scores.pop(place, 0), letters.pop(place, 0))
        if expected == "either":  # a late label: applied or a dead letter
            expected = "applied" if got == (0, 0) else "dead"
        if expected == "once":  # an event again, whose like may have been let go
            expected = "score" if got == (1, 0) else "dead"
        wanted = {"score": (1, 0), "dead": (0, 1), "applied": (0, 0)}[expected]
        applied += expected == "applied" and place[0] == shard.topic("labels")
        if got != wanted:
            verdict.lost += sum(wanted) > sum(got)
            verdict.duplicated += sum(got) > max(1, sum(wanted))
            verdict.found(f"{place}: expected {expected}, got {got} (scores, dead letters)")
    if scores or letters:
        verdict.duplicated += scores.total() + letters.total()
        verdict.found(f"outputs of no input: {list(scores)[:3]} {list(letters)[:3]}")
    verdict.labels_applied = applied
    return applied


_GOOD = {"event": "score", "feedback": "applied"}


def _fates(
    shard: Shard, traffic: Traffic, inputs: dict[str, list[list[Record]]], reconfigured: bool
) -> Iterable[tuple[Place, str]]:
    """Each input record's place and what it must become, from the order within partitions.

    What a changed configuration lets go is not known again: the second of a kind may be the first.
    """
    scored: set[str] = set()
    for part in inputs[shard.topic("events")]:
        for record in part:
            kind = traffic.kind(record.value)
            known = kind.what in _GOOD
            good = known and kind.id not in scored
            scored |= {kind.id} if good else set()
            again = "once" if reconfigured and known else "dead"
            yield _place(record), _GOOD[kind.what] if good else again
    labelled: set[str] = set()
    unsure = set(traffic.retracted)  # whether a label comes first, nobody outside can tell
    values = [r.value for part in inputs[shard.topic("labels")] for r in part]
    kinds = [traffic.kind(value) for value in values]
    replaced = {kind.id for kind in kinds if kind.what == "correction"}
    for part in inputs[shard.topic("labels")]:
        for record in part:
            kind = traffic.kind(record.value)
            if kind.what == "correction" or (kind.what == "label" and kind.id in unsure):
                unsure.add(kind.id)
                yield _place(record), "either"
                continue
            good = kind.what == "label" and kind.id in scored and kind.id not in labelled
            labelled |= {kind.id} if good else set()
            # A second one that waits for its event, which is gone, may be corrected there.
            again = "either" if kind.what == "label" and kind.id in replaced else "dead"
            fate = again if not good else "either" if kind.late else "applied"
            yield _place(record), "either" if reconfigured and kind.what == "label" else fate
    for part in inputs[shard.topic("control")]:
        for record in part:
            what = traffic.kind(record.value).what
            yield _place(record), {"bad": "dead", "either": "either"}.get(what, "applied")


def reference(
    shard: Shard,
    journal: list[JournalRecord],
    inputs: dict[str, list[list[Record]]] | None = None,
) -> tuple[Engine, dict[str, list[list[NewRecord]]]]:
    """A fresh engine after every journaled step, and the outputs by topic and partition."""
    if inputs is None:
        inputs = {shard.topic(name): shard.records(name) for name in INPUTS}
    cursor = {(t, i): iter(rows) for t, parts in inputs.items() for i, rows in enumerate(parts)}
    first = journal[0].body.get("config") if journal else None

    def build(config: Config) -> Engine:
        return build_engine(config, None)

    # Where it gives other bits than the journal, outputs and state are compared all the same.
    engine = build(recorded(first, "the journal") if first else shard.config)
    nothing = StateDirectory(shard.directory / "nothing")
    past = partial(entered, shard.log, nothing, build, lambda: None)
    artefacts = Artefacts(shard.directory / "replayed")
    means = Means(build, past, artefacts, nothing.entered)
    follower = Follower(engine, Standing(), means, "warn")
    partitions = {"scores": shard.config.topics.partitions, "dead_letters": 1, "audit": 1}
    made: dict[str, list[list[NewRecord]]] = {
        name: [[] for _ in range(count)] for name, count in partitions.items()
    }
    for record in journal:
        slices = [
            Slice(r, [next(cursor[(r.topic, r.partition)]) for _ in range(r.count)])
            for r in record.ranges
        ]
        out = follower.apply(record, slices)
        for name, rows in (
            ("scores", out.scores),
            ("dead_letters", out.letters()),
            ("audit", out.audit),
        ):
            for row, at in zip(rows, places(name, rows, partitions[name]), strict=True):
                made[name][at].append(row)
    return follower.engine, made


def _check_outputs(
    expected: dict[str, list[list[NewRecord]]],
    outputs: dict[str, list[list[Record]]],
    verdict: Verdict,
) -> None:
    before = len(verdict.problems)
    for name, parts in expected.items():
        for number, rows in enumerate(parts):
            wanted = [(r.key, r.value, r.headers) for r in rows]
            got = [(r.key, r.value, r.headers) for r in outputs[name][number]]
            if wanted != got:
                pairs = zip(wanted, got, strict=False)
                first = next(
                    (i for i, (w, g) in enumerate(pairs) if w != g), min(len(wanted), len(got))
                )
                verdict.found(
                    f"{name}/{number}: {len(wanted)} records expected, {len(got)} found; they"
                    f" differ from number {first}: {wanted[first : first + 1]} and"
                    f" {got[first : first + 1]}"
                )
    verdict.outputs_equal = len(verdict.problems) == before


def _check_state(shard: Shard, engine: Engine, verdict: Verdict) -> None:
    """Each generation alone, replayed to the journal's end, is the fault-free engine."""
    wanted = engine.state_digest()
    before = len(verdict.problems)
    for path in list_generations(shard.config.state_dir):
        digest, from_seq = restored_digest(shard, path)
        verdict.generations_checked += 1
        if from_seq != int(path.name):
            verdict.found(f"generation {path.name}: was not used, recovery began at {from_seq}")
        if digest != wanted:
            verdict.found(f"generation {path.name}: state {digest}, expected {wanted}")
    if verdict.generations_checked == 0:
        verdict.found("no generation was written")
    verdict.state_equal = len(verdict.problems) == before


def restored_digest(shard: Shard, generation: Path) -> tuple[str, int]:
    """State digest after a recovery that sees this one generation, and where it began."""
    scratch = shard.directory / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    directory = StateDirectory(scratch).open()
    try:
        (directory.generations / generation.name).symlink_to(generation.resolve())
        directory.artefacts.path.rmdir()
        directory.artefacts.path.symlink_to((shard.config.state_dir / FOLDER).resolve())
        recovered = recover(
            shard.log,
            directory,
            shard.config,
            lambda config: build_engine(config, directory.pending),
            lambda: None,
        )
        digest = recovered.engine.state_digest()
        recovered.engine.close()
        return digest, recovered.from_seq
    finally:
        directory.close()
        shutil.rmtree(scratch)


def _check_learned(engine: Engine, applied: int, verdict: Verdict) -> None:
    """I4: as many labels joined as were applied; each joined or timed-out event learned once.

    Or it waits for its horizon, where silence tells negatives.
    """
    if isinstance(engine, RankingEngine):
        _check_taken(engine, verdict)
        return
    joined = engine.counts["labels.joined"]
    taken = joined + engine.counts["labels.corrected"]
    learned = engine.counts["learned"]
    timed_out = engine.counts["labels.timed_out"]
    waiting = len(engine.pending.unlearned())
    # A retracted one was learned or not: the event is learned again, with whatever comes then.
    retracted = engine.counts["labels.retracted"]
    once = 0 <= joined + timed_out - learned - waiting <= retracted
    verdict.learned_once = taken == applied and once
    if not verdict.learned_once:
        verdict.found(
            f"labels: {applied} applied by their fates, {taken} joined or corrected, {joined}"
            f" joined, {retracted} retracted, {timed_out} timed out,"
            f" {learned} learned, {waiting} known and not learned yet"
        )


def _check_taken(engine: RankingEngine, verdict: Verdict) -> None:
    """Each interaction that was taken in was learned, or came while nothing learns."""
    counts = engine.counts
    taken, learned = counts["feedback.interaction"], counts["learned"]
    verdict.learned_once = taken == learned + counts["feedback.unlearned"]
    if not verdict.learned_once:
        verdict.found(f"interactions: {taken} taken in, {learned} learned")


def _json(record: Record) -> dict[str, Any]:
    import json

    found: dict[str, Any] = json.loads(record.value or b"")
    return found


def _origin(letter: Record) -> Place:
    headers = dict(letter.headers)
    return headers["topic"].decode(), int(headers["partition"]), int(headers["offset"])


def _place(record: Record) -> Place:
    return record.topic, record.partition, record.offset

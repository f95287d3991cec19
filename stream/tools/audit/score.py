"""A score taken apart: what said so, from which features, and the same bits once more.

The score stands in its topic, its step in the journal, the members' versions in the trail. The step
is done again beside the service, on a state rebuilt for it; nothing of the service changes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from models.base import MillraceError
from monitoring.audit.budgets import REACTIONS
from monitoring.audit.trail import Exit
from stream.contract.hashing import hash_text
from stream.contract.log import Log
from stream.contract.outputs import Outputs, Scored
from stream.contract.records import JournalRecord, Record
from stream.encode.scores import reader, writer
from stream.run.assemble import open_log, wall_clock_ms
from stream.settings.schema import Config, process
from stream.state.follow import Diverged
from stream.state.recovery import OUT_OF_REACH
from stream.step.engine import Engine
from stream.step.ranking.engine import RankingEngine
from stream.step.ranking.scorer import RankingScorer
from stream.step.roles.scorer import ScorerEngine
from stream.step.scoring import ScoringEngine, scoring
from stream.tools.audit.places import Watched, answer_reader
from stream.tools.audit.read import read_trail, records_of
from stream.tools.audit.verify import verify_trail
from stream.tools.replay import rebuilt
from stream.tools.scaled.whom import ask_who_scores, reader_of

PIECE = 10_000
"""Records of a partition that are searched at a time, from its end: what is held in memory."""


class NoScore(MillraceError):
    """No score of this id is in the topic; the message says what became of it."""


def explain_score(config: Config, identifier: str) -> dict[str, Any]:
    """The newest score of an event, as committed and as its step gives it once more.

    1. The score in its topic. 2. The step in the journal, done again on the state before it: its
    score, the features that it was made of, the members' versions. 3. The trail, verified, and its
    record of each of these versions.

    ``exit`` in the result is 0 for the same bits, 13 for others, 14 where journal and checkpoints
    do not reach back to the step, or what ``audit verify`` says of the trail.

    Of a shard that ranks the answer to a request is its score: in place of features it has places,
    each with what the members said of its item.

    Raises :class:`NoScore`, or :class:`~stream.tools.scaled.whom.AskAnother` of a learner.
    """
    ask_who_scores(config, identifier)
    log = open_log(config, wall_clock_ms)
    try:
        found = _committed(log, config, identifier)
        if found is None:
            raise NoScore(_fate(log, config, identifier))
        record, score = found
        step = next((r for r in log.journal(score["seq"] - 1)), None)
    finally:
        log.close()
    told: dict[str, Any] = {
        "id": identifier,
        "exit": int(Exit.OK),
        "committed": {
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
        },
        "score": score,
    }
    verified = verify_trail(config, None, None, None, checkpoints=False)
    trail = records_of(read_trail(config))
    told["trail"] = {k: verified[k] for k in ("outcome", "exit", "records", "where", "not_checked")}
    told |= _again(config, record, score, step, trail)
    told["exit"] = told["exit"] or verified["exit"]
    return told


# ------------------------------------------------------------------ where it stands


def _newest(log: Log, topic: str, fits: Callable[[Record], bool]) -> Record | None:
    """The newest record of a topic that fits."""
    newest_first = (r for piece in log.back(topic, PIECE) for r in reversed(piece))
    return next((r for r in newest_first if fits(r)), None)


def _committed(log: Log, config: Config, identifier: str) -> tuple[Record, dict[str, Any]] | None:
    """The newest score of this id and shard."""
    read, parts = _reader(config), _forms(identifier)

    def score(record: Record) -> dict[str, Any] | None:
        if not _holds(record.value, parts):
            return None
        try:
            found = read(record.value or b"")
        except ValueError:
            return None
        whose = found["id"], found.get("model")
        return found if whose == (identifier, config.name) else None

    record = _newest(log, config.topics.scores, lambda r: score(r) is not None)
    found = None if record is None else score(record)
    return None if record is None or found is None else (record, found)


def _reader(config: Config) -> Callable[[bytes], dict[str, Any]]:
    if config.reco is not None:
        return answer_reader()
    return reader(config.scores.format, config.target.type)


def _forms(identifier: str) -> list[bytes]:
    """How the id may stand in a record: as it is, and as writers of JSON escape it."""
    escaped = json.dumps(identifier)[1:-1].encode(), msgspec.json.encode(identifier)[1:-1]
    return [identifier.encode(), *escaped]


def _holds(value: bytes | None, forms: Sequence[bytes]) -> bool:
    return value is not None and any(form in value for form in forms)


def _fate(log: Log, config: Config, identifier: str) -> str:
    """What became of an event without a score."""
    whole = re.compile(
        b"|".join(rb"(?<![\w-])" + re.escape(form) + rb"(?![\w-])" for form in _forms(identifier))
    )
    topics = config.topics

    def fits(record: Record) -> bool:
        return whole.search(record.value or b"") is not None

    letter = _newest(
        log,
        topics.dead_letters,
        lambda r: dict(r.headers).get("topic") == topics.events.encode() and fits(r),
    )
    event = _newest(log, topics.events, fits)
    if letter is not None:
        told = {name: value.decode("utf-8", "replace") for name, value in letter.headers}
        where = f"{told['topic']}/{told['partition']} offset {told['offset']}"
        return (
            f"{identifier}: never scored: a dead letter holds this id: {told['reason']}:"
            f" {told['error']} ({where}; {topics.dead_letters}/{letter.partition} offset"
            f" {letter.offset})"
        )
    if event is None:
        return (
            f"{identifier}: never seen: {topics.scores}, {topics.dead_letters} and {topics.events}"
            " do not hold this id, as far back as they are kept"
        )
    where = f"{event.topic}/{event.partition} offset {event.offset}"
    step = next((record.seq for record in log.journal() if _took(record, event)), None)
    if (other := reader_of(config, event.topic, event.partition)) is not None:
        return f"{identifier}: stands at {where}, which is read by {other}"
    if step is None:
        return f"{identifier}: not scored yet: it stands at {where}, and no step has taken it"
    return (
        f"{identifier}: step {step} took it from {where}, but {topics.scores} does not hold its"
        " score any more"
    )


def _took(step: JournalRecord, event: Record) -> bool:
    return any(
        (r.topic, r.partition) == (event.topic, event.partition)
        and r.first <= event.offset <= r.last
        for r in step.ranges
    )


# ------------------------------------------------------------------ once more


def _again(
    config: Config,
    record: Record,
    score: dict[str, Any],
    step: JournalRecord | None,
    trail: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """What its step says of a score when it is done again."""
    seq = score["seq"]
    if step is None or step.seq != seq:
        why = f"the journal does not hold step {seq} any more"
        return {"exit": int(Exit.MISSING), "replay": f"out of reach: {why}"}
    try:
        with rebuilt(config, seq - 1) as past:
            engine, from_step = past.follower.engine, past.follower.from_seq
            if isinstance(engine, RankingEngine):
                engine.candidates = Watched(engine.candidates, score["id"])
            before, head = engine.auditor.versions(), engine.trail.head()
            roots: dict[str, str | None] = {**engine.ensemble.roots()}
            by = _taken_over(engine)
            done = [outputs for _, outputs in past.onward(seq)]
            if not done:
                why = f"the records that step {seq} took are gone"
                return {"exit": int(Exit.MISSING), "replay": f"out of reach: {why}"}
            [outputs] = done
            if by != _taken_over(engine):  # within the step, before what was asked
                roots = dict.fromkeys(roots)
            divergences = past.follower.divergences
            made, row = _of_event(outputs, score)
            told: dict[str, Any] = {
                **_said(engine, score["id"]),
                "versions": _versions(made, before, roots, seq, head.seq, trail),
                "step": {
                    "seq": seq,
                    "clock_ms": step.clock_ms,
                    "digest": outputs.journal.digest,
                    "journal_digest": step.digest,
                    "from_checkpoint": from_step,
                    **_standing(engine, trail),
                    **_taken_over(engine),
                },
            }
    except Diverged as error:
        return {"exit": int(Exit.MODEL_MISMATCH), "replay": str(error)}
    except OUT_OF_REACH as error:
        return {"exit": int(Exit.MISSING), "replay": f"out of reach: {error}"}
    number = int.from_bytes((record.value or b"")[1:5], "big")
    # In the format of then: that of today may be another.
    bits = None if row is None else writer(engine.config, number)(outputs).scores[row].value
    same = bits == record.value and outputs.journal.digest == step.digest and not divergences
    known = told["step"]["trail_record"] is not False
    return told | {
        "exit": int(Exit.OK if same and known else Exit.MODEL_MISMATCH),
        "replay": "the same bits" if same else "other bits",
    }


def _of_event(outputs: Outputs, score: dict[str, Any]) -> tuple[Scored | None, int | None]:
    """The run of the step that the event was scored in, and its row among the step's scores."""
    row = 0
    for scored in outputs.scored:
        for record, identifier in zip(scored.records, scored.ids, strict=True):
            place = record.partition, record.offset
            if (identifier, *place) == (score["id"], score["partition"], score["offset"]):
                return scored, row
            row += 1
    return None, None


def _said(engine: Engine, identifier: str) -> dict[str, Any]:
    """What was said of the event, from what."""
    if isinstance(engine, RankingEngine):
        watched = engine.candidates
        return {"places": watched.places if isinstance(watched, Watched) else None}
    engine = scoring(engine)
    return {"features": _features(engine, identifier), "threshold": engine.threshold}


def _features(engine: ScoringEngine, identifier: str) -> dict[str, Any] | None:
    """The columns that members saw, as they wait for the label; ``None`` once they wait no more."""
    numbers = engine.pending.find(np.array([hash_text(identifier)], dtype=np.uint64))
    if numbers[0] < 0:
        return None
    row, schema = engine.pending.take(numbers)[0], engine.features.schema
    dense = dict(zip(schema.dense, map(float, row["dense"]), strict=True))
    hashed = {c.name: int(v) for c, v in zip(schema.hashed, row["hashed"], strict=True)}
    return dense | hashed


def _versions(
    made: Scored | None,
    before: dict[str, int],
    roots: Mapping[str, str | None],
    seq: int,
    head: int,
    trail: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Of each member the version that scored, its digest, and the trail's newest record of it.

    A member that had learned, or was taken over, within the step when it scored has no ``root``: no
    state was kept there.
    """
    anew = {r["model"] for r in trail if r.get("step") == seq and r["event"] in REACTIONS}
    told = {}
    for name, version in (made.versions if made is not None else before).items():
        known = version == before[name] and name not in anew
        records = [
            r
            for r in trail
            if r["model"] == name and "root" in r and (r["seq"] <= head or r.get("step") == seq)
            if isinstance(r.get("version_to"), int) and r["version_to"] <= version
        ]
        last = records[-1] if records else None
        told[name] = {
            "version": version,
            "root": roots[name] if known else None,
            "record": None if last is None else last["seq"],
            "record_version": None if last is None else last["version_to"],
            "record_root": None if last is None else last["root"],
        }
    return told


def _taken_over(engine: Engine) -> dict[str, Any]:
    """Of a scorer the learner's version that it scored by: it is taken over before events."""
    if not isinstance(engine, ScorerEngine | RankingScorer):
        return {}
    current = engine.versions.current
    learner = f"{engine.config.service}-{process('learner', 0)}"
    version = {"of": learner, "number": current.number, "digest": current.digest}
    return {"version": version}


def _standing(engine: Engine, trail: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The trail's head after the step, and whether the trail holds this very record."""
    head = engine.trail.head()
    theirs = {r["seq"]: r["hash"] for r in trail}
    known = theirs.get(head.seq) == head.hash if head.seq else None
    return {"trail_seq": head.seq, "trail_hash": head.hash, "trail_record": known}

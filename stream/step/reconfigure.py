"""From one configuration to the next: what keeps its state, what starts new, what is lost.

Called by the service for a new configuration and by recovery for a journaled one, with the same
result: :func:`compare` says what will become of each part, :func:`reconfigure` lets a fresh engine
take over by ``restore(old.state())`` what does not change, as from a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from models.base import MillraceError, State
from models.ensemble.group import Spec, place_of
from models.features.stage import FeatureStage
from models.members import catalogue
from models.settings import Feature, feature_fields
from models.task import TaskType
from stream.contract.commands import WHOLE
from stream.contract.letters import DeadLetter
from stream.contract.outputs import Outputs
from stream.contract.records import Slice
from stream.settings.schema import Config, FieldSettings, MemberSettings
from stream.settings.specs import defined, with_ensemble
from stream.settings.upgrade import digest, encoded
from stream.step.backfill import Backfill, completed, covered
from stream.step.engine import Engine
from stream.step.lifecycle import challengers, guard, refits
from stream.step.lifecycle.beside import unheld
from stream.step.lifecycle.warm import warmed
from stream.step.ranking import changes as ranking
from stream.step.ranking.engine import RankingEngine
from stream.step.scoring import ScoringEngine, scoring

BOUNDS = frozenset({"max_entities"})
"""What a feature's definition may say without deciding what its columns mean."""
PACE = frozenset({"learn_every"})
"""What a member's definition may say without deciding what the model is."""


NAMED = ("names", "voters", "frozen", "quarantined", "taught")
"""Where an ensemble's state names members."""


class Irreconcilable(MillraceError):
    """A running shard cannot take this configuration over."""


class Changes(NamedTuple):
    """What one configuration makes of the parts of another.

    ``kept``, ``taught``, ``fresh`` and ``lost`` name, for people, parts that keep their state, come
    from a backfill, start new, or are gone with their state; ``moved`` inputs with another topic.
    With ``from_past`` a backfill can teach what starts new.
    ``staying`` are the members, ``unchanged`` the features that mean what they meant;
    ``differences`` holds for each member in both the keys that differ; ``misread`` names the old
    features of which a field is read as something else now.
    """

    kept: list[str]
    taught: list[str]
    fresh: list[str]
    lost: list[str]
    moved: list[str]
    same_columns: bool
    same_combiner: bool
    staying: list[str]
    unchanged: list[str]
    differences: dict[str, list[str]]
    misread: frozenset[str]
    from_past: bool = True

    def lines(self) -> list[str]:
        """One line for each part."""
        return (
            [f"keeps its state: {name}" for name in self.kept]
            + [f"has learned from the past: {name}" for name in self.taught]
            + [f"starts new: {name}" for name in self.fresh + self.moved]
            + [f"its state is lost: {name}" for name in self.lost]
        )


def compare(old: Engine, new: Engine, past: ScoringEngine | None = None) -> Changes:
    """What becomes of each part of ``old`` in ``new``, a fresh engine; changes neither.

    A member stays while its definition and the columns it sees mean what they meant; a combiner
    while it is of the same kind and any member stays; a feature's memory while there is one of the
    same kind and its fields are read as before; pending events while all columns mean the same. The
    ensemble's quality and drift, counts, clocks and the trail always go on. With a ``past``, an
    engine like ``new`` that was taught, nothing starts new, and a part that it replaces is not
    lost.

    Raises :class:`Irreconcilable` for a change that no acceptance makes possible.
    """
    _refuse(old.config, new.config)
    if isinstance(old, RankingEngine) and isinstance(new, RankingEngine):
        return _compare_rankings(old, new)
    old, new = scoring(old), scoring(new)
    members = _members(old.config, new.config, old.ensemble.specs)
    kept, fresh, gone = _becomes(old.config, new.config, members, old.features, new.features)
    if past is not None and past.task.names != old.task.names[: len(past.task.names)]:
        raise Irreconcilable(
            f"backfill: expected the past to name classes as the stream did ({old.task.names}), got"
            f" {past.task.names}: the log no longer holds the labels by which they entered. Do "
            "without the backfill"
        )
    held_rows, lost_rows = _pending(old, past, members.same_columns)
    known, forgotten = _history(old, new, past, members.same_columns)
    seconds = [at.spec for at in old.challengers.standings() if at.member == WHOLE]
    if not all(_sees(new.config, members.same_columns, spec) for spec in seconds):
        forgotten = [*forgotten, "challenger of the ensemble (columns or settings changed)"]
    return Changes(
        kept=kept + held_rows + known,
        taught=fresh if past else [],
        fresh=[] if past else fresh,
        lost=_lost(old, new, past, members.staying, members.same_combiner)
        + gone
        + lost_rows
        + forgotten,
        moved=_renamed(old.config, new.config),
        **members._asdict(),
    )


class _Members(NamedTuple):
    """What one configuration makes of the features and members of another; see :class:`Changes`."""

    same_columns: bool
    same_combiner: bool
    staying: list[str]
    unchanged: list[str]
    differences: dict[str, list[str]]
    misread: frozenset[str]


def _members(old: Config, new: Config, specs: Mapping[str, Spec]) -> _Members:
    """``specs``: of members of ``old`` that another definition made."""
    misread = _misread(old, new)
    meant, means = _meaning(old, misread), _meaning(new)
    before = {m.name: m for m in old.members}
    running = {name: defined(before[name], spec) for name, spec in specs.items()}
    differences = {
        member.name: (
            [] if _seen(before[member.name], meant) == _seen(member, means) else ["columns"]
        )
        + _changed(before[member.name], running.get(member.name), member, new.member_type)
        for member in new.members
        if member.name in before
    }
    staying = [name for name, keys in differences.items() if PACE.issuperset(keys)]
    return _Members(
        same_columns=meant == means,
        same_combiner=old.ensemble.combine == new.ensemble.combine and bool(staying),
        staying=staying,
        unchanged=[f["name"] for f in means if f in meant],
        differences=differences,
        misread=misread,
    )


def _becomes(
    old: Config, new: Config, members: _Members, theirs: FeatureStage, ours: FeatureStage
) -> tuple[list[str], list[str], list[str]]:
    """What keeps its state of members, combiner and features, what starts new; features lost."""
    kept = [f"member {name}" for name in members.staying]
    fresh = [f"member {m.name}" for m in new.members if m.name not in members.staying]
    (kept if members.same_combiner else fresh).append("combiner")
    before, after = theirs.memories(), ours.memories()
    held = {memory for name, memory in before.items() if name not in members.misread}
    for name, memory in after.items():
        (kept if memory in held else fresh).append(f"feature {name}")
    gone = [
        f"feature {name}"
        for name, memory in before.items()
        if name in members.misread or memory not in after.values()
    ]
    return kept, fresh, gone


def _compare_rankings(old: RankingEngine, new: RankingEngine) -> Changes:
    """The recommender and ratings stay, or start new; so does what members of the second stage
    hold."""
    staying = ranking.staying(old, new)
    lost = [
        f"{name} as it was"
        for name in ranking.learners(old)
        if old.counts[f"updates.{name}"] and name not in staying
    ]
    kept = [f"{len(old.catalogue)} items"]
    fresh = [name for name in ranking.learners(new) if name not in staying]
    members = _members(old.config, new.config, {})
    one, other = old.reranker, new.reranker
    if one is not None and other is not None:
        theirs = _becomes(old.config, new.config, members, one.features, other.features)
        kept, fresh, gone = kept + theirs[0], fresh + theirs[1], theirs[2]
        if one.counts["learned"]:
            before = {m.name for m in old.config.members}
            lost += [f"member {name}" for name in sorted(before.difference(members.staying))] + gone
    elif one is not None:
        lost += [f"member {m.name}" for m in old.config.members]
    elif other is not None:
        fresh += [f"member {m.name}" for m in new.config.members]
    lists = f"{len(old.pending)} waiting parts of lists"
    if members.same_columns and (one is None) == (other is None):
        kept.append(lists)
    elif len(old.pending):
        lost.append(f"{lists} (the columns changed)")
    found = members._replace(
        same_columns=lists in kept,
        staying=[*staying, *members.staying],
        differences=ranking.differences(old, new) | members.differences,
    )
    return Changes(
        kept=[*staying, *kept],
        taught=[],
        fresh=fresh,
        lost=lost,
        moved=_renamed(old.config, new.config),
        from_past=False,
        **found._asdict(),
    )


def _lost(
    old: ScoringEngine,
    new: ScoringEngine,
    past: ScoringEngine | None,
    staying: Collection[str],
    same_combiner: bool,
) -> list[str]:
    """Members and the combiner that have learned, and go with nothing in their place."""
    if old.counts["learned"] == 0:
        return []
    names, before = new.ensemble.names, old.ensemble.names
    lost = [f"member {n} as it was" for n in names if n in before and n not in staying]
    gone = [f"member {name}" for name in before if name not in names]
    if past is not None:
        return gone
    begins_anew = not same_combiner and old.ensemble.combiner.parameters()
    return lost + gone + ([f"combiner {old.config.ensemble.combine}"] if begins_anew else [])


def _pending(
    old: ScoringEngine, past: ScoringEngine | None, same_columns: bool
) -> tuple[list[str], list[str]]:
    """Of the events that wait for a label, those that stay and those that are lost."""
    if same_columns:
        return [f"{len(old.pending)} pending events"] if len(old.pending) else [], []
    if past is None:
        kept, lost, why = 0, old.pending.waiting, "the columns changed"
    else:
        kept, lost = covered(old, past)
        why = "the columns changed, and they are from before the past that was learned"
    return (
        [f"{kept} pending events"] if kept else [],
        [f"{lost} pending events ({why})"] if lost else [],
    )


def _history(
    old: ScoringEngine, new: ScoringEngine, past: ScoringEngine | None, same_columns: bool
) -> tuple[list[str], list[str]]:
    """Of the rows that were learned, those that stay and those that are lost."""
    if not len(old.history):
        return [], []
    rows = f"{len(old.history)} learned rows"
    if not new.config.history.keep:
        return [], [f"{rows} (history.keep is 0)"]
    if same_columns:
        return [rows], []
    return ([], []) if past is not None else ([], [f"{rows} (the columns changed)"])


def reconfigure(
    old: Engine,
    new: Engine,
    tree: dict[str, Any],
    past: Backfill | None = None,
    asked: Slice | None = None,
) -> Outputs:
    """Let ``new``, a fresh engine, go on from ``old``; returns what the switch makes visible.

    1. ``new`` restores the state of what stays, and what ``past`` teaches it.
    2. Members that are new learn from the history, where no past taught them.
    3. What its settings no longer allow leaves: early labels.
    4. The trail tells what the new configuration did to which member.
    5. The switch takes the next ``seq`` and is chained into the digest, with that of ``past``.

    ``asked`` is the one record of the command that asked for it, if one did. ``tree`` is the new
    configuration as the journal holds it: its bytes are hashed, and no later version writes the
    same. Neither ``old`` nor ``past`` is changed. Events that wait, and rows that were learned, are
    held by both engines from then on: one of the two takes steps, the other is closed.
    """
    changes = compare(old, new, past.engine if past else None)
    rows = dict(old.stores())
    if isinstance(old, RankingEngine) and isinstance(new, RankingEngine):
        state = _carried_ranking(old, new, changes)
    else:
        state = carried(old.state(), changes, old.config, new.config)
        if past is not None or not changes.same_columns:
            for part in [p for p in ("challengers", "guard") if p in state]:
                state[part] = unheld(state[part])
    body: dict[str, Any] = {"config": tree}
    cause = encoded(tree)
    if past is not None:
        staying = changes.staying, changes.unchanged
        state, rows["pending"] = completed(state, scoring(old), past.engine, *staying)
        if not changes.same_columns:
            rows["history"] = past.engine.history.rows()
        body["backfill"] = {"after": past.after, "digest": past.engine.state_digest()}
        cause += encoded(body["backfill"])
    new.restore(state, rows)
    new.ledger.unsaved.update(old.ledger.unsaved)
    new.auditor.begin(old.seq + 1, new.clock_ms)
    taught = _taught(new, changes.staying, past)
    new.auditor.reconfigured(
        {"config": digest(tree)} | ({"backfill": body["backfill"]} if past else {}),
        [name for name in new.ensemble.names if name not in old.ensemble.names],
        [name for name in old.ensemble.names if name not in new.ensemble.names],
        {name: keys for name, keys in changes.differences.items() if keys},
        {name: {"backfill" if past else "history": told} for name, told in taught.items()},
        *by(old, new, asked),
    )
    if isinstance(new, ScoringEngine):
        gone = "not what it was under this configuration"
        new.challengers.left(scoring(old).challengers, gone)
    new.reconfigured(combiner_is_new=not changes.same_combiner)
    new.tree = tree
    return new.switched(body, cause, asked)


def _taught(
    new: Engine, staying: Collection[str], past: Backfill | None
) -> dict[str, dict[str, Any]]:
    """What each new member has learned before it came, and by what: the past, or the history."""
    fresh = [name for name in new.ensemble.names if name not in staying]
    if past is not None:
        counts = past.engine.counts
        told = {"after": past.after, "digest": past.engine.state_digest()}
        return {name: told | {"updates": counts[f"updates.{name}"]} for name in fresh}
    if not isinstance(new, ScoringEngine):
        return {}
    new.rebuilds.begun(fresh, new.seq)
    for name in fresh:  # whatever another model learned under the name
        new.counts.pop(f"updates.{name}", None)
    found = warmed(new.ensemble, new.features.schema, new.history, fresh)
    new.counts.update({f"updates.{name}": told["rows"] for name, told in found.items()})
    return found


def by(
    old: Engine, new: Engine, asked: Slice | None, otherwise: str = "configuration"
) -> tuple[str, str, dict[str, Any]]:
    """Cause, actor and detail of what asked for the switch, for the trail.

    ``otherwise``: the cause where no command did.
    """
    if asked is None:
        return otherwise, "engine", {}
    r, command = asked.range, old.codec.command(asked.records[0])
    assert not isinstance(command, DeadLetter)  # else nobody would have switched
    new.auditor.taking(r.topic, r.partition, r.first, r.last)
    where = {"topic": r.topic, "partition": r.partition, "offset": r.first}
    return "command", command.actor or "engine", command.grounds() | where


def _sees(config: Config, same_columns: bool, spec: Spec) -> bool:
    """Whether a whole ensemble that challenges can go on under this configuration."""
    if not same_columns:
        return False
    try:
        with_ensemble(config, spec)
    except (MillraceError, ValueError):
        return False
    return True


def carried(state: State, changes: Changes, old: Config, new: Config) -> State:
    """The state without what belongs to parts that are others now.

    Parts find what is theirs by name, so a member that does not stay loses its name.
    """
    gone = {m.name for m in old.members}.difference(changes.staying)

    def nameless(names: list[str]) -> list[str]:
        return ["" if name in gone else name for name in names]

    def without(known: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in known.items() if place_of(name) not in gone}

    ensemble, drift = state["ensemble"], state["drift"]
    kept = state | {
        "features": _remembered(state["features"], old.features, changes.misread),
        "ensemble": ensemble
        | {
            key: without(ensemble[key])
            for key in ("members", "challengers", "last_good", "specs", "challenger_specs")
            if key in ensemble
        }
        | {key: nameless(ensemble[key]) for key in NAMED if key in ensemble},
        "quality": state["quality"] | {"names": nameless(state["quality"]["names"])},
        "matured": state["matured"] | {"names": nameless(state["matured"]["names"])},
        "drift": drift | {"names": nameless(drift["names"])},
        "pending": _nameless(state["pending"], nameless),
        "auditor": state["auditor"] | {"watched": without(state["auditor"]["watched"])},
        "ledger": state["ledger"]
        | {key: without(state["ledger"][key]) for key in ("versions", "alarmed")},
    }
    if "history" in state:
        parts = state["history"]["parts"]
        parts = [part | {"members": nameless(part["members"])} for part in parts]
        kept["history"] = state["history"] | {"parts": parts}
    for part in [
        p for p in ("reactions", "challengers", "guard", "refits", "rebuilds") if p in state
    ]:
        kept[part] = {
            key: known if key == "counts" else without(known) for key, known in state[part].items()
        }
    if "reasons" in state:
        usual = state["reasons"]
        kept["reasons"] = usual | {key: without(usual[key]) for key in ("usual", "taken")}
    if (threshold := new.task().alert_at) != old.task().alert_at:
        kept["threshold"] = threshold  # else an operator's command holds
    if not changes.same_combiner:
        del kept["ensemble"]["combiner"]
    if not changes.same_columns:
        del kept["pending"], kept["drift"]["columns"]
        kept.pop("history", None)
        kept.pop("reasons", None)
        kept["maturity"] = state["maturity"] | {"ends": [], "shares": []}
    if "challengers" in kept:
        seen = partial(_sees, new, changes.same_columns)
        kept["challengers"] = challengers.carried(kept["challengers"], seen)
    added = {m.name for m in new.members} != {m.name for m in old.members}
    whole = changes.same_combiner and not gone and not added
    kept.setdefault("refits", refits.nothing())
    return guard.carried(kept, new.guard.on_worse != "none", whole)


def _nameless(pending: State, nameless: Callable[[list[str]], list[str]]) -> State:
    """The pending store's state, by other names of the members whose links its rows hold."""
    older = [[before, nameless(names)] for before, names in pending.get("older", ())]
    found = pending | {"members": nameless(pending["members"])}
    return found | ({"older": older} if older else {})


def _carried_ranking(old: RankingEngine, new: RankingEngine, changes: Changes) -> State:
    """As :func:`carried`, of a shard that ranks: the second stage's state stands in one part."""
    state = ranking.carried(old.state(), old, new)
    if new.reranker is None or old.reranker is None:
        if not changes.same_columns:
            del state["pending"]
        if new.reranker is not None:
            state["reranker"] = new.reranker.state()
            empty = {k: v for k, v in new.ensemble.state().items() if k not in state["ensemble"]}
            state["ensemble"] = state["ensemble"] | empty | {"voters": []}
            del state["ensemble"]["combiner"]
        return state
    own = ("pending", "ensemble", "auditor", "ledger")
    inner = state["reranker"] | {key: state[key] for key in own}
    inner = carried(inner, changes, old.config, new.config)
    outer = {key: inner.pop(key) for key in own if key in inner}
    return {k: v for k, v in state.items() if k not in own} | outer | {"reranker": inner}


def _remembered(state: State, features: Sequence[Feature], misread: Collection[str]) -> State:
    """The features' state without the memory of those that are misread: it loses its kind."""
    numbers = [f.name for f in features if f.type == "number"]
    kinds = zip(numbers, state["number_kinds"], strict=True)
    return state | {
        "number_kinds": ["" if name in misread else kind for name, kind in kinds],
        "table_kinds": {n: kind for n, kind in state["table_kinds"].items() if n not in misread},
    }


def _refuse(old: Config, new: Config) -> None:
    """Raise for what a shard keeps for life: its names, and what its labels mean."""
    for key in ("type", "classes", "max_classes"):
        kept, asked = (getattr(config.target, key, None) for config in (old, new))
        if kept != asked:
            raise Irreconcilable(
                f"target.{key}: expected {kept!r}, got {asked!r}; what was learned and counted is"
                " about the labels as they were. Put it back, or begin a new shard with a name and"
                " a state_dir of its own"
            )
    if old.shard.role != "all" and _layout(old) != _layout(new):
        raise Irreconcilable(
            f"shard.count, topics.partitions: expected {_layout(old)}, got {_layout(new)}; windows "
            "and waiting events stay with the partitions they came from. Put them back; `millrace "
            "shard move` gives a service that is stopped another number of scorers"
        )
    if (old.shard.labels, new.shard.labels) == ("any", "partition"):
        raise Irreconcilable(
            "shard.labels: expected 'any', got 'partition'; labels are under way between scorers."
            " Put it back"
        )
    for key, before, after in (
        ("name", old.name, new.name),
        ("topics.journal", old.journal_topic, new.journal_topic),
        ("topics.audit", old.topics.audit, new.topics.audit),
    ):
        if before != after:
            raise Irreconcilable(
                f"{key}: expected {before!r}, got {after!r}; journal and trail are one chain each,"
                " in one topic, for the life of a shard. Put the old name back, or begin a new"
                " shard with a name and a state_dir of its own"
            )


def _layout(config: Config) -> tuple[int, int]:
    """What decides which scorer reads which partition."""
    scorer = config.shard.role == "scorer"
    return config.shard.count if scorer else 0, config.topics.partitions


def _renamed(old: Config, new: Config) -> list[str]:
    """Inputs that come from another topic now, and outputs that go to another one."""
    told = [
        f"topics.{role}: {after}, read from its beginning or from where it was left; what nobody "
        f"has read of {before} yet stays there"
        for role, before, after in (
            (role, getattr(old.topics, role), getattr(new.topics, role))
            for role in ("control", "events", "labels")
        )
        if before != after
    ]
    return told + [
        f"topics.{role}: {after} from here on; what was written to {before} stays there"
        for role, before, after in (
            (role, getattr(old.topics, role), getattr(new.topics, role))
            for role in ("scores", "dead_letters")
        )
        if before != after
    ]


def _meaning(config: Config, misread: Collection[str] = ()) -> list[dict[str, Any]]:
    """What the columns mean, feature by feature; those that are ``misread`` mean what none does."""
    features: tuple[Feature, ...] = config.features
    return [
        feature.model_dump(mode="json", exclude=set(BOUNDS))
        | ({"misread": True} if feature.name in misread else {})
        for feature in features
    ]


def _seen(member: MemberSettings, meaning: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of what the columns mean, what the member sees."""
    return [feature for feature in meaning if member.sees(feature["name"])]


def _misread(old: Config, new: Config) -> frozenset[str]:
    """Features of ``old`` with a field that the new event schema reads as something else."""
    before, after = old.event, new.event
    other = {
        name
        for name, field in before.fields.items()
        if name in after.fields
        and not (
            before.place(name) == after.place(name) and _reads_alike(field, after.fields[name])
        )
    }
    return frozenset(
        f.name for f in old.features if any(field in other for field, _ in feature_fields(f))
    )


def _reads_alike(one: FieldSettings, other: FieldSettings) -> bool:
    """Whether a value that one of them took, the other takes for the same if it takes it.

    Marks in text differ only from other marks: without any, text was refused.
    """
    marks = {(field.decimal, field.thousands) for field in (one, other) if field.decimal}
    same = (one.kind, one.values, one.default) == (other.kind, other.values, other.default)
    return same and len(marks) < 2


def _changed(
    one: MemberSettings, running: MemberSettings | None, other: MemberSettings, task: TaskType
) -> list[str]:
    """Keys in which a definition differs; none where a promoted challenger was made by it."""
    keys = differing_keys(one, other, task)
    if keys and running is not None and not differing_keys(running, other, task):
        return []
    return keys


def differing_keys(one: MemberSettings, other: MemberSettings, task: TaskType) -> list[str]:
    """Keys in which two members' definitions differ; a default that is written out does not."""
    a, b = _definition(one, task), _definition(other, task)
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))


def _definition(member: MemberSettings, task: TaskType) -> dict[str, Any]:
    params = catalogue.member_class(member.type, task).Params.model_validate(member.params)
    own = {"type": member.type, "learn_every": member.learn_every}
    return params.model_dump(mode="json") | own

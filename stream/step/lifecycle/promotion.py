"""Another ensemble takes the place of the one that scores: a step of its own, and the way back.

What challenged it does, for a ``promote`` or by evidence, or what made room before, for a
``rollback``. Called by the service, and by recovery for the journal's record of it, with the same
result. The configuration that holds from there on has the other members and combiner;
``stream/step/reconfigure.py`` does the same where an operator brings one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.base import State
from monitoring.audit.budgets import AuditEvent
from stream.contract.commands import WHOLE, Promote, Rollback
from stream.contract.outputs import Outputs
from stream.contract.records import Slice
from stream.settings.upgrade import digest, encoded
from stream.step.engine import Engine, Models
from stream.step.lifecycle import second
from stream.step.lifecycle.challengers import OTHER
from stream.step.reconfigure import by, carried, compare
from stream.step.scoring import ScoringEngine, scoring


def exchange(
    old: Engine,
    new: Engine,
    tree: dict[str, Any],
    asked: Slice | None = None,
    models: Models | None = None,
) -> Outputs:
    """Let ``new``, a fresh engine of another ensemble, go on from ``old``.

    1. ``new`` takes over everything but the members and the combiner: windows, waiting events,
       history, counts, clocks, quality of the ensemble, the trail. These it takes from what
       challenges, or of a rollback from ``models``.
    2. What made room is a version, and after a promotion challenges from here on.
    3. The trail tells it.
    4. The switch takes the next ``seq`` and is chained into the digest.

    ``tree`` is the new configuration as the journal holds it; ``asked`` the one record of the
    command, ``None``: the evidence was enough. ``old`` is not changed; see
    :func:`~stream.step.reconfigure.reconfigure` for the rows that it holds. Raises
    :class:`~stream.contract.commands.CommandRefused` where nothing challenges.
    """
    command = None if asked is None else old.codec.command(asked.records[0])
    back = command.models(old) if isinstance(command, Rollback) else {}
    old, new = scoring(old), scoring(new)
    number = command.number if isinstance(command, Promote) else 0
    if back:
        state = (models or {})[WHOLE, back[WHOLE]].state()
    else:
        state = second.Whole(old.challengers.second(number).ensemble).state()
    new.restore(_state(old, new, state), old.stores())
    new.drift.renew(WHOLE)
    for name in new.ensemble.names:
        new.counts[f"updates.{name}"] = new.ensemble.labelled
    new.ledger.unsaved.update(old.ledger.unsaved)
    new.auditor.begin(old.seq + 1, new.clock_ms)
    cause, actor, where = by(old, new, asked, "challenge")
    new.keep_whole(old, "rolled_back" if back else "promoted")
    if back:
        new.challengers.left(old.challengers, OTHER)
        detail = {"to": back[WHOLE]}
    else:
        detail = new.challengers.promoted(old.challengers, number, second.of(old.config))
    event: AuditEvent = "rolled_back" if back else "challenger_promoted"
    new.auditor.record(event, cause, WHOLE, detail | where, actor)
    told = {"version": back[WHOLE]} if back else {"challenger": {"number": detail["number"]}}
    _tell(old, new, told, digest(tree), (cause, actor, where))
    new.reconfigured(combiner_is_new=True)
    new.tree = tree
    new.checkpoint_wanted = True  # a start need not do it again
    return new.switched({"config": tree, "promoted": True}, encoded(tree), asked)


def _tell(
    old: ScoringEngine,
    new: ScoringEngine,
    told: Mapping[str, Any],
    config: str,
    by_whom: tuple[str, str, dict[str, Any]],
) -> None:
    """Who came, and who went, of the members."""
    before, after = old.ensemble.names, new.ensemble.names
    gone = [name for name in before if name not in after]
    new.auditor.reconfigured(
        {"config": config}, list(after), gone, {}, dict.fromkeys(after, told), *by_whom
    )


def _state(old: ScoringEngine, new: ScoringEngine, other: State) -> State:
    """The state of ``old`` with another ensemble, whose members are nobody's it had."""
    changes = compare(old, new)._replace(staying=[], same_combiner=False)
    state = carried(old.state(), changes, old.config, new.config)
    promises = {k: v for k, v in state["ensemble"].items() if k == "promises"}
    ensemble = other | promises
    running: State = {"running": {}}  # those of the members go with them
    return state | {"ensemble": ensemble, "challengers": state["challengers"] | running}

"""What challenged the whole ensemble takes its place: a step of its own, and the way back.

Called by the service for a ``promote`` or by evidence, and by recovery for the journal's record of
it, with the same result. The configuration that holds from there on has the other members and
combiner; ``stream/step/reconfigure.py`` does the same where an operator brings one.
"""

from __future__ import annotations

from typing import Any

from models.base import State
from stream.contract.commands import WHOLE, Promote
from stream.contract.outputs import Outputs
from stream.contract.records import Slice
from stream.settings.upgrade import digest, encoded
from stream.step.engine import Engine
from stream.step.lifecycle import second
from stream.step.reconfigure import by, carried, compare
from stream.step.scoring import ScoringEngine, scoring


def promote(old: Engine, new: Engine, tree: dict[str, Any], asked: Slice | None = None) -> Outputs:
    """Let ``new``, a fresh engine of what challenges ``old``'s ensemble, go on from ``old``.

    1. ``new`` takes over everything but the members and the combiner: windows, waiting events,
       history, counts, clocks, quality of the ensemble, the trail. These it takes from the
       challenger.
    2. What made room challenges from here on.
    3. The trail tells it.
    4. The switch takes the next ``seq`` and is chained into the digest.

    ``tree`` is the new configuration as the journal holds it; ``asked`` the one record of the
    command, ``None``: the evidence was enough. ``old`` is not changed. Raises
    :class:`~stream.contract.commands.CommandRefused` where nothing challenges.
    """
    old, new = scoring(old), scoring(new)
    number = _number(old, asked)
    challenger = old.challengers.second(number).ensemble
    new.restore(_state(old, new, challenger.state()), old.rows())
    new.drift.renew(WHOLE)
    for name in new.ensemble.names:
        new.counts[f"updates.{name}"] = challenger.labelled
    new.ledger.unsaved |= old.ledger.unsaved
    new.auditor.begin(old.seq + 1, new.clock_ms)
    cause, actor, where = by(old, new, asked, "challenge")
    detail = new.challengers.promoted(old.challengers, number, second.of(old.config))
    new.auditor.record("challenger_promoted", cause, WHOLE, detail | where, actor)
    after = new.ensemble.names
    told = {"challenger": {"number": detail["number"]}}
    new.auditor.reconfigured(
        {"config": digest(tree)},
        list(after),
        [name for name in old.ensemble.names if name not in after],
        {},
        dict.fromkeys(after, told),
        *(cause, actor, where),
    )
    new.reconfigured(combiner_is_new=True)
    new.tree = tree
    new.checkpoint_wanted = True  # a start need not do it again
    return new.switched({"config": tree, "promoted": True}, encoded(tree), asked)


def _number(old: ScoringEngine, asked: Slice | None) -> int:
    """Which challenger the command means; 0: the one that won, or the only one."""
    command = old.codec.command(asked.records[0]) if asked is not None else None
    return command.number if isinstance(command, Promote) else 0


def _state(old: ScoringEngine, new: ScoringEngine, challenger: State) -> State:
    """The state of ``old`` with another ensemble, whose members are nobody's it had."""
    changes = compare(old, new)._replace(staying=[], same_combiner=False)
    state = carried(old.state(), changes, old.config, new.config)
    promises = {k: v for k, v in state["ensemble"].items() if k == "promises"}
    ensemble = challenger | promises
    running: State = {"running": {}}  # those of the members go with them
    return state | {"ensemble": ensemble, "challengers": state["challengers"] | running}

"""From one configuration to the next: what keeps its state, what starts new, what is lost.

Called by recovery for a journaled switch and by the service for a new one, always with the same
result: a part whose definition is unchanged keeps its state.
"""

from __future__ import annotations

import hashlib

import msgspec
import numpy as np

from stream.contract.records import NewRecord
from stream.settings.schema import Config, MemberSettings, journaled
from stream.step.engine import Engine
from stream.step.pending import WAITING


class Changes(msgspec.Struct):
    """Names of parts that keep their state, start new, or are gone with their state.

    ``audit``: the records of the switch, to be committed with it.
    """

    kept: list[str]
    fresh: list[str]
    lost: list[str]
    audit: list[NewRecord] = []

    def lines(self) -> list[str]:
        """One line for each part, for people."""
        return (
            [f"keeps its state: {name}" for name in self.kept]
            + [f"starts new: {name}" for name in self.fresh]
            + [f"its state is lost: {name}" for name in self.lost]
        )


def reconfigure(old: Engine, new: Engine) -> tuple[Engine, Changes]:
    """Move the state of unchanged parts from ``old`` into ``new``, a fresh engine.

    1. Features with the same definition; 2. members with the same definition and columns;
    3. the combiner, if its members are the same; 4. pending events, if the columns are the same;
    5. what watches, if the members are the same; 6. clocks, counts and the trail, always.

    ``new`` takes the ``seq`` after ``old``'s and chains the switch into the digest.
    """
    changes = Changes([], [], [])
    same_columns = old.features.schema == new.features.schema
    changes.kept += [f"feature {n}" for n in new.features.adopt(old.features)]
    kept_features = set(changes.kept)
    changes.fresh += [
        f"feature {f.name}" for f in new.config.features if f"feature {f.name}" not in kept_features
    ]
    _move_members(old, new, same_columns, changes)
    _move_pending(old, new, same_columns, changes)
    new.clock_ms, new.join.watermark_ms = old.clock_ms, old.watermark_ms
    new.counts.update(old.counts)
    new.early.restore(old.early.state())
    if old.config.ensemble.threshold == new.config.ensemble.threshold:
        new.threshold = old.threshold
    new.seq = old.seq + 1
    _audit(old, new, same_columns)
    changes.audit = new.audit_records()
    new.digest = _chain(old.digest, new)
    old.pending.close()
    return new, changes


def _encoded(config: Config) -> bytes:
    return msgspec.json.encode(journaled(config), order="sorted")


def _chain(digest: str, new: Engine) -> str:
    raw = bytes.fromhex(digest) + _encoded(new.config) + bytes.fromhex(new.trail.head().hash)
    return hashlib.blake2b(raw, digest_size=16).hexdigest()


def _audit(old: Engine, new: Engine, same_columns: bool) -> None:
    """The trail goes on in ``new``: what the new configuration did to which member."""
    before = {m.name: m for m in old.config.members}
    after = {m.name: m for m in new.config.members}
    changed = {
        name: ([] if same_columns else ["columns"]) + _differences(before[name], member)
        for name, member in after.items()
        if name in before
    }
    changed = {name: keys for name, keys in changed.items() if keys}
    kept = [name for name in after if name in before and name not in changed]
    new.auditor.follow(old.auditor, kept, new.seq, new.clock_ms)
    new.auditor.reconfigured(
        hashlib.sha256(_encoded(new.config)).hexdigest(),
        [name for name in after if name not in before],
        [name for name in before if name not in after],
        changed,
    )
    new.reactions.follow(old.reactions, kept)


def _differences(one: MemberSettings, other: MemberSettings) -> list[str]:
    """Keys in which two members' definitions differ."""
    a, b = one.model_dump(mode="json"), other.model_dump(mode="json")
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))


def _move_members(old: Engine, new: Engine, same_columns: bool, changes: Changes) -> None:
    before = {m.name: m for m in old.config.members}
    kept = []
    for member in new.config.members:
        if same_columns and before.get(member.name) == member:
            kept.append(member.name)
        else:
            changes.fresh.append(f"member {member.name}")
        if member.name in before and member.name not in kept:
            changes.lost.append(f"member {member.name} as it was")
    names = {m.name for m in new.config.members}
    changes.lost += [f"member {name}" for name in before if name not in names]
    new.ensemble.adopt(old.ensemble, kept)
    changes.kept += [f"member {name}" for name in kept]
    same = old.ensemble.names == new.ensemble.names and len(kept) == len(names)
    if same and old.config.ensemble.combine == new.config.ensemble.combine:
        new.ensemble.adopt_combiner(old.ensemble)
        changes.kept.append("combiner")
    else:
        changes.fresh.append("combiner")
    if old.ensemble.names == new.ensemble.names:
        new.quality.restore(old.quality.state())
        new.matured.restore(old.matured.state())
        changes.kept.append("quality")
    else:
        changes.fresh.append("quality")
    # The detectors watch the columns too.
    if old.ensemble.names == new.ensemble.names and same_columns:
        new.drift.restore(old.drift.state())
        changes.kept.append("drift")
    else:
        changes.fresh.append("drift")


def _move_pending(old: Engine, new: Engine, same_columns: bool, changes: Changes) -> None:
    """Carry waiting events over; a new member's score for them is the neutral logit 0."""
    n = len(old.pending)
    if not same_columns or old.features.entity_fields != new.features.entity_fields:
        if old.pending.waiting:
            changes.lost.append(f"{old.pending.waiting} pending events (the columns changed)")
        return
    for start in range(old.pending.head, old.pending.tail, 65_536):
        numbers = np.arange(start, min(start + 65_536, old.pending.tail), dtype=np.int64)
        rows, truth = old.pending.take(numbers), old.pending.truth(numbers)
        moved = np.zeros(len(rows), dtype=new.pending.dtype)
        for name in rows.dtype.names or ():
            if name != "links":
                moved[name] = rows[name]
        for i, name in enumerate(new.ensemble.names):
            if name in old.ensemble.names:
                moved["links"][:, i] = rows["links"][:, old.ensemble.names.index(name)]
        held = new.pending.hold(moved)
        done = truth != WAITING
        if done.any():
            new.pending.settle(held[done], truth[done])
    changes.kept.append(f"{n} pending events")

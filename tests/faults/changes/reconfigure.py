"""A random change of the configuration between lives that SIGKILL ends, at random moments.

Each life starts under the configuration of the one before or under a changed one, replays what it
must under the old one, switches, goes on, and is killed: some while they switch. Some are asked to
switch by a command, and the next start has the file. What stands in the
topics at the end, and in every generation, must be what a process makes of the journal that was
never killed.
"""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from stream.settings.upgrade import FORMAT, digest
from stream.state.backfill import in_force
from tests.faults.check import Verdict, check, journal_of
from tests.faults.crash import EXTRA, Feeder, Progress, Tally, finish, one_life
from tests.faults.shard import Shard
from tests.faults.traffic import Traffic
from tests.faults.worker import Worker

Raw = dict[str, Any]


def _choose(*keys: str, values: list[Any]) -> Callable[[random.Random, Raw], None]:
    """A change that puts one of the values where the keys lead."""

    def change(rng: random.Random, raw: Raw) -> None:
        node = raw
        for key in keys[:-1]:
            node = node.setdefault(key, {})
        now = node.get(keys[-1])
        node[keys[-1]] = rng.choice([value for value in values if value != now])

    return change


def _shuffle_members(rng: random.Random, raw: Raw) -> None:
    before = list(raw["members"])
    while raw["members"] == before:
        rng.shuffle(raw["members"])


def _extra_member(rng: random.Random, raw: Raw) -> None:
    """The extra member comes, at any place, or goes."""
    members = [m for m in raw["members"] if m["name"] != "extra"]
    if len(members) == len(raw["members"]):
        members.insert(rng.randrange(len(members) + 1), EXTRA)
    raw["members"] = members


def _member(name: str, key: str, values: list[Any]) -> Callable[[random.Random, Raw], None]:
    def change(rng: random.Random, raw: Raw) -> None:
        member = next(m for m in raw["members"] if m["name"] == name)
        member[key] = rng.choice([value for value in values if value != member.get(key)])

    return change


def _feature(at: int, key: str, values: list[Any]) -> Callable[[random.Random, Raw], None]:
    def change(rng: random.Random, raw: Raw) -> None:
        feature = raw["features"][at]
        feature[key] = rng.choice([value for value in values if value != feature.get(key)])

    return change


COMBINERS = ["stack", "stacking", "mean_logit", "bagging", "boosting", "weighted_vote"]
CHANGES: dict[str, Callable[[random.Random, Raw], None]] = {
    "seed": _choose("seed", values=[1, 2, 3]),
    "threshold": _choose("ensemble", "threshold", values=[0.2, 0.5, 0.7]),
    "combine": _choose("ensemble", "combine", values=COMBINERS),
    "on_alarm": _choose("drift", "on_alarm", values=["none", "reset", "challenge"]),
    "early_labels": _choose("limits", "early_labels", values=[2, 5, 100_000]),
    "pending": _choose("limits", "pending", values=[300, 2_000, 100_000]),
    "batch": _choose("limits", "batch", values=[32, 128, 256]),
    "horizon": _choose("label", "horizon", values=["2d", "4d"]),
    "budget": _choose("audit", "each", values=[{}, {"update_norm": {"limit": 0.5}}]),
    "summaries": _choose("audit", "summary_every", values=[50, 500]),
    "keep": _choose("checkpoints", "keep", values=[2, 3, 5]),
    "order": _shuffle_members,
    "extra": _extra_member,
    "pace": _member("bayes", "learn_every", [1, 2, 5]),
    "another linear": _member("linear", "learning_rate", [0.1, 0.5]),
    "another prior": _member("prior", "probability", [0.1, 0.3]),
    "entities": _feature(2, "max_entities", [4, 1_000]),
    "columns": _feature(0, "scale", ["none", "standard"]),
    "windows": _feature(3, "windows", [["7d"], ["1d", "3d"]]),
}
"""What may change: every kind of part that keeps, loses or goes by something."""


COLD = frozenset({"early_labels", "pending", "batch", "horizon", "keep"})
"""Changes that need a restart."""


@dataclass
class Switches:
    """What was changed, and how many of the changes reached the journal."""

    asked: Counter[str] = field(default_factory=Counter)
    journaled: int = 0
    commanded: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        changes = dict(sorted(self.asked.items()))
        return {"changes": changes, "switches": self.journaled, "commanded": self.commanded}


def reconfigure(
    shard: Shard, kills: int, seed: int, events: int | None, progress: Progress
) -> tuple[Verdict, Tally, Switches]:
    """Kill the service ``kills`` times, change it before two lives of three, drain, check."""
    rng = random.Random(f"reconfigure {seed}")
    traffic = Traffic(seed)
    feeder = Feeder(shard, traffic, events if events is not None else 150 * kills)
    tally, switches = Tally(), Switches()
    shard.log.create_topics()
    typical_start_s = 2.0
    while tally.hits < kills:
        later: Raw | None = None
        if rng.random() < 0.66:
            name = rng.choice(sorted(CHANGES))
            raw = copy.deepcopy(shard.raw)
            CHANGES[name](rng, raw)
            switches.asked[name] += 1
            if name not in COLD and rng.random() < 0.5 and shard.log.journal_tail() is not None:
                base = digest(in_force(shard.log, shard.config))
                tree = raw | {"format": FORMAT}
                shard.log.append(shard.topic("control"), [traffic.configure(base, tree)])
                later = raw
            else:
                shard.change(raw)
        with Worker(shard.path, "--accept-changes") as worker:
            one_life(worker, feeder, rng, typical_start_s, tally, shard)
            tally.ended(worker)
            if worker.restored_s is not None:
                typical_start_s = worker.restored_s - worker.started_s
        if later is not None:
            shard.change(later)
        progress("kills", tally.hits, kills)
    progress("draining", kills, kills)
    finish(shard, feeder, tally, "--accept-changes")
    progress("checking", kills, kills)
    journal = [record for record in journal_of(shard) if record.kind == "reconfigured"]
    switches.journaled = len(journal)
    switches.commanded = sum(bool(record.ranges) for record in journal)
    return check(shard, traffic, reconfigured=True), tally, switches

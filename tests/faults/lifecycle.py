"""Commands of every kind among events, labels and SIGKILLs, in random orders.

Each round is a shard of its own: its operator challenges, promotes, drops, installs, rolls back,
pins, configures and more, every few events, while the guard rolls back and drift begins challenges
by itself. Lives end at random moments, at a named place of the code, or within an exchange of the
whole ensemble: by commands, and in every second round by evidence, with no command. In the end
topics, state and generations must be what one process makes of the journal that was never killed.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

from stream.contract.commands import COMMANDS, WHOLE
from stream.settings.upgrade import FORMAT, digest, journaled
from stream.state.artefacts import FOLDER, Artefacts
from stream.state.backfill import in_force
from tests.faults.check import Verdict, check
from tests.faults.crash import (
    EXTRA,
    PASSED,
    Feeder,
    Progress,
    Tally,
    append,
    die,
    finish,
    one_life,
)
from tests.faults.shard import TASKS, Shard
from tests.faults.traffic import Kind, Piece, Traffic
from tests.faults.worker import Worker

TARGETS = ("binary", "classes", "number")
"""What rounds take in turn; nothing can be challenged where items are ranked."""
PLACES = tuple(n for n in PASSED if not n.startswith(("restore.", "stop.", "configure.")))
"""Named places that a life passes whatever is asked of it."""
OPTIONS = ("--accept-changes",)
"""A start goes back to the file's configuration: what a command brought is gone again."""
EXCHANGE = ("configure.before", "configure.after")
"""Named places around one ensemble's taking another's place."""
OF_ALL = ("drop", "challenge", "promote", "promote", "rollback")
"""What is asked for, in turn, while a life is to end there."""
AUTO: dict[str, Any] = {
    "members": [{"name": "base", "type": "constant"}],
    "challengers": {"block": "1h", "rows": 20, "promote": "auto"},
}
"""A shard in which whatever learns is better, and takes the place by itself."""
EITHER = Kind("either")
MANY = 30
"""Events in a piece while evidence is to come."""
SPECS = ['{"type": "logistic", "learning_rate": 0.2}', '{"type": "crossed", "table_bits": 8}', ""]
SECOND = """{"combine": "weighted_vote", "members": [{"name": "other", "type": "crossed",
"table_bits": 8}, {"name": "linear", "type": "logistic"}, {"name": "base", "type": "constant"}]}"""
"""A whole ensemble, with a name that the first one's members may have too."""


@dataclass
class Told:
    """Commands by name: how many were sent, and how many were followed."""

    sent: Counter[str] = field(default_factory=Counter)
    followed: Counter[str] = field(default_factory=Counter)
    exchanged: Counter[str] = field(default_factory=Counter)
    """What put another model, or all of them, in place: by event and cause."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        both = {n: f"{self.followed[n]} of {self.sent[n]}" for n in sorted(COMMANDS)}
        return {"commands_followed": both, "exchanged": dict(sorted(self.exchanged.items()))}


class Operator(Traffic):
    """:class:`Traffic` with commands of every kind.

    Parameters
    ----------
    seed : int
    shard : Shard
        Whose members, versions and configuration the commands name.

    Attributes
    ----------
    of_all : bool
        Whether commands are about the whole ensemble.
    quiet : bool
        Whether there are none, and many events.
    """

    def __init__(self, seed: int, shard: Shard) -> None:
        super().__init__(seed)
        self._shard = shard
        self.sent: Counter[str] = Counter()
        self.of_all = self.quiet = False
        self._in_turn = cycle(OF_ALL)

    def kind(self, value: bytes | None) -> Kind:
        """As :meth:`Traffic.kind`; also of what the service's own side process asked for, which
        may come too late."""
        if value is not None and value not in self._kinds and b'"actor":"rebuild"' in value:
            return EITHER
        return super().kind(value)

    def piece(self, events: int) -> Any:
        """As :meth:`Traffic.piece`, and a command after four of five."""
        for piece in super().piece(MANY if self.quiet else events):
            if piece.topic != "control":
                yield piece
        if self._rng.random() < 0.8 and not self.quiet:
            yield Piece("control", [self._command()])

    def begin(self) -> Piece:
        """Another ensemble challenges, and will soon be better, if anything is."""
        fields = {"member": WHOLE, "spec": SECOND, "alpha": 0.9, "block": "1h", "deadline": "300d"}
        return self._sent("challenge", fields)

    def _sent(self, name: str, fields: dict[str, Any]) -> Piece:
        self.sent[name] += 1
        return Piece("control", [self._record("operator", {"command": name} | fields, EITHER)])

    def _command(self) -> Any:
        # What ends a challenge needs one that runs.
        name = self._rng.choice([*sorted(COMMANDS), "challenge", "challenge"])
        if self.of_all:
            name = next(self._in_turn)
        [record] = self._sent(name, MAKERS[name](self)).records
        return record

    def member(self) -> str:
        """A member's name, now and then of one that may have come by a command."""
        names = [m["name"] for m in self._shard.raw["members"]]
        return self._rng.choice([*names, *names, EXTRA["name"]])

    def artefact(self) -> str:
        """The digest of a kept model, of whichever member, or of none."""
        kept = sorted(Artefacts(self._shard.config.state_dir / FOLDER).sizes())
        return self._rng.choice([*kept, *kept, "0" * 64])

    def to(self) -> str:
        """A version as a rollback names it."""
        if self.of_all:
            return "last_good"
        return self._rng.choice(["last_good", str(self._rng.randrange(80)), self.artefact()[:8]])

    def challenge(self) -> dict[str, Any]:
        """Another model, or the same anew; soon decided."""
        member = self.place()
        several = 1 if self.of_all else self._rng.choice([1, 1, 2, 3])
        specs = [SECOND] if member == WHOLE else SPECS
        made = [spec or SPECS[0] for spec in self._rng.choices(specs, k=several)]
        spec = f"[{', '.join(made)}]" if several > 1 else self._rng.choice(specs)
        terms = {"alpha": self._rng.choice([0.05, 0.9]), "block": "1h", "deadline": "2d"}
        if member != WHOLE and self._rng.random() < 0.25:
            return {"member": member, "artefact": self.artefact()} | terms
        return {"member": member, "spec": spec} | terms

    def place(self) -> str:
        """A member's name, or that of all of them."""
        return WHOLE if self.of_all else self._rng.choice([self.member(), self.member(), WHOLE])

    def number(self) -> int:
        """Which of a place's challengers: mostly that there is, or all."""
        return 0 if self.of_all else self._rng.choice([0, 0, 1, 2, 3])

    def accepts(self) -> bool:
        """Whether a rebuild may let go of what the history does not have."""
        return self._rng.random() < 0.7

    def retract(self) -> dict[str, Any]:
        """The label of some event, told or not."""
        event = f"e{self._rng.randrange(1 + self._next)}"
        self.retracted.add(event)
        return {"id": event}

    def asked(self) -> dict[str, Any]:
        """Another threshold, a member more or less."""
        raw = self._shard.raw | {"format": FORMAT}
        if self._shard.config.target.type == "binary":
            threshold = round(self._rng.uniform(0.2, 0.7), 2)
            raw |= {"ensemble": raw["ensemble"] | {"threshold": threshold}}
        if self._rng.random() < 0.5:
            raw |= {"members": [*raw["members"], EXTRA]}
        base = digest(journaled(self._shard.config))
        if self._shard.log.journal_tail() is not None:
            base = digest(in_force(self._shard.log, self._shard.config))
        return {"base": base, "settings": json.dumps(raw), "accept": True}


MAKERS: dict[str, Callable[[Operator], dict[str, Any]]] = {
    "freeze": lambda o: {"member": o.member()},
    "release": lambda o: {"member": o.member()},
    "set_threshold": lambda o: {"threshold": 0.4},
    "checkpoint": lambda o: {},
    "install": lambda o: {"member": o.member(), "artefact": o.artefact()},
    "rollback": lambda o: {"member": o.place(), "to": o.to()},
    "pin": lambda o: {"member": o.member(), "version": o.to(), "until": "2026-01-03T00:00:00Z"},
    "retract": Operator.retract,
    "rebuild": lambda o: {"member": o.member(), "accept": o.accepts()},
    "withdraw": lambda o: {"member": o.member()},
    "configure": Operator.asked,
    "challenge": Operator.challenge,
    "promote": lambda o: {"member": o.place(), "number": o.number()},
    "drop": lambda o: {"member": o.place(), "number": o.number()},
}
"""The fields of each command of ``stream/contract/commands.py``."""


def lifecycle(
    directory: Path, log: dict[str, Any] | None, rounds: int, seed: int, progress: Progress
) -> tuple[dict[str, Any], Told]:
    """So many rounds; gives what was found, and what was told."""
    told, tally, problems = Told(), Tally(), {}
    for i in range(rounds):
        wins = i % 2 == 1
        changes = TASKS[TARGETS[i % len(TARGETS)]] | (AUTO if wins else {})
        shard = Shard(directory / f"round-{i}", log, **changes)
        verdict = _round(shard, seed * 1_000 + i, tally, told, wins)
        if verdict.problems:
            problems[f"round {i}"] = verdict.problems
        shard.renew_log()
        progress("rounds", i + 1, rounds)
    return tally.as_dict() | {"problems": problems}, told


def _round(shard: Shard, seed: int, tally: Tally, told: Told, wins: bool) -> Verdict:
    """Lives that die in an exchange, at a named place, at any moment; one that ends in order.

    ``wins``: the exchange is one that no command asks for.
    """
    rng = random.Random(f"lifecycle {seed}")
    traffic = Operator(seed, shard)
    feeder = Feeder(shard, traffic, 10_000)
    shard.log.create_topics()
    if wins:
        append(shard, traffic.begin())
    for name, at in ((rng.choice(EXCHANGE), 2 if wins else 3), (rng.choice(PLACES), 6)):
        traffic.quiet = wins and name in EXCHANGE
        traffic.of_all = not wins and name in EXCHANGE
        point = f"{name}=kill@{rng.randrange(1, at)}"
        with Worker(shard.path, *OPTIONS, MILLRACE_FAILPOINT=point) as w:
            w.wait_for("restored")  # not all is to wait for the first step
            die(w, feeder, name)
            tally.ended(w)
            tally.hits += 1
            tally.states[name] += 1
        traffic.of_all = traffic.quiet = False
    with Worker(shard.path, *OPTIONS) as worker:
        one_life(worker, feeder, rng, 2.0, tally, shard)
        tally.ended(worker)
    feeder.done = True
    finish(shard, feeder, tally, *OPTIONS)
    told.sent += traffic.sent
    told.followed += _followed(shard)
    told.exchanged += _exchanged(shard)
    return check(shard, traffic)


def _followed(shard: Shard) -> Counter[str]:
    """Commands by name that became no dead letter."""
    letters = {r.value for part in shard.records("dead_letters") for r in part}
    told = [r.value for part in shard.records("control") for r in part if r.value not in letters]
    return Counter(json.loads(value or b"")["command"] for value in told)


def _exchanged(shard: Shard) -> Counter[str]:
    """Promotions and rollbacks of members and of whole ensembles, by cause."""
    audit = [json.loads(r.value or b"{}") for part in shard.records("audit") for r in part]
    found = Counter[str]()
    for r in audit:
        if r["event"] in ("challenger_promoted", "rolled_back"):
            whose = "ensemble" if r["model"] == WHOLE else "member"
            found[f"{r['event']} {whose} by {r['cause']}"] += 1
    return found

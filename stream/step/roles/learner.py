"""The step of the learner: what labels told scorers is judged and learned, and versions published.

Rows come as they were scored. It scores nothing and knows no features' windows: those are the
scorers'. Challengers learn here; scorers, which have them with the next version, tell with each row
what they said of it. The guard, which must see an event as it is scored, has no place here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stream.contract.commands import (
    WHOLE,
    Challenge,
    Command,
    Configure,
    Drop,
    Promote,
    Rebuild,
    Retract,
    Withdraw,
)
from stream.contract.letters import DeadLetter
from stream.contract.records import Slice
from stream.step.engine import Engine, Handed, Made
from stream.step.roles.examples import Foreign, Reader, Rows, meaning, runs
from stream.step.roles.versions import Outgoing, Taken, pieces, viewed
from stream.step.scoring import ScoringEngine

NOT_HERE = (Configure, Rebuild, Retract, Withdraw)
"""Commands about what only one process can do that sees events and labels and learns."""


class LearnerEngine(ScoringEngine):
    """Takes examples; gives versions.

    Attributes
    ----------
    versions : Outgoing
    """

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        config = self.config
        self._meaning = meaning(config)
        self._reader = Reader(self._meaning, self.pending.dtype, self.features.schema, self.task)
        self.versions = Outgoing(config.shard.every)
        self._handlers = {
            config.topics.control: self._control,
            config.examples_topic: self._examples,
        }

    def _control(self, piece: Slice, out: Made) -> None:
        """Follow commands; scorers know at once what they changed."""
        taken = []
        for record in piece.records:
            if _not_here(self.codec.command(record)):
                error = "expected shard.role = 'all', where one process scores and learns"
                out.letters.append(DeadLetter(record, "command", error))
            else:
                taken.append(record)
        before = self.counts["commands"]
        super()._control(Slice(piece.range, taken), out)
        self.versions.wanted |= self.counts["commands"] > before

    def _examples(self, piece: Slice, out: Made) -> None:
        """Judge and learn, runs of what is done alike at a time."""
        found: list[Rows] = []
        told = self.challengers.counts.total()
        for record in piece.records:
            try:
                found.append(self._reader.read(record.value))
            except Foreign as error:
                out.letters.append(DeadLetter(record, "foreign", str(error)))
        for example, rows, y, w, said in runs(found):
            self.join.watermark_ms = max(self.join.watermark_ms, example.watermark_ms)
            self.challengers.passed(self.watermark_ms)
            numbers = np.arange(len(rows), dtype=np.int64)
            if example.judged:
                out.alarms += self.learning.judge(numbers, rows, y, self.watermark_ms)
                self.challengers.judge_said(said, rows, y, self.threshold)
            if example.learned:
                self.learning.learn(rows, y, w, self.watermark_ms, example.waited, numbers)
            self.counts["examples"] += len(rows)
        self.versions.wanted |= self.challengers.counts.total() > told
        if found:
            newest = found[-1].example
            taken = Taken(piece.range.next_offset, newest.version, newest.watermark_ms)
            self.versions.learned(piece.range.partition, taken)
            self._time_passed()

    def _handed(self) -> tuple[Handed, bytes]:
        """A version, if one is due; the trail's record of it covers what it holds."""
        if not self.versions.due(self.watermark_ms):
            return {}, b""
        view = viewed(self.ensemble, self.challengers.led())
        version = self.versions.next(self.watermark_ms, self.ensemble.view_digest(view))
        self.counts["versions"] += 1
        detail = {
            "number": version.number,
            "digest": version.digest,
            "at_ms": version.at_ms,
            "examples": {
                str(p): taken.next_offset for p, taken in sorted(self.versions.taken.items())
            },
        }
        self.auditor.record("version_published", "learning", "ensemble", detail)
        return {self.config.models_topic: pieces(view, version, self._meaning)}, b""

    def reconfigured(self, combiner_is_new: bool) -> None:
        """See :meth:`Engine.reconfigured`: scorers under this configuration wait for its members,
        which may have learned the history."""
        super().reconfigured(combiner_is_new)
        self.versions.wanted = True
        self.checkpoint_wanted = True  # a step is taken for it, though nothing comes

    def _keep_all(self) -> None:
        Engine._keep_all(self)  # without the guard, which would begin to compare

    def _parts(self) -> dict[str, Any]:
        return super()._parts() | {"versions": self.versions}


def _not_here(command: Command | DeadLetter) -> bool:
    """Whether it is about what only one process can do; a second ensemble, which sees events as
    they are scored, is."""
    whole = isinstance(command, Challenge | Drop | Promote) and command.member == WHOLE
    return whole or isinstance(command, NOT_HERE)

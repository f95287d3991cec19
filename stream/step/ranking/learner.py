"""The step of the learner of a service that ranks: deeds are put into one order and learned.

It answers nobody and holds no lists. What it learns it gives back as news, one version a step, from
which scorers come to know the same.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from models.base import State
from models.reco.recommender import Interactions
from stream.contract.letters import DeadLetter
from stream.contract.records import Slice
from stream.decode.feedback import Interaction
from stream.step.engine import Handed, Made
from stream.step.ranking.engine import RankingEngine
from stream.step.ranking.known import digest_of, scored_by, whole_of
from stream.step.ranking.news import FIRST, OWN, chained, read
from stream.step.roles.examples import Foreign, Reader, Rows, meaning, runs
from stream.step.roles.packing import packed
from stream.step.roles.versions import Outgoing, Taken, cut


class RankingLearner(RankingEngine):
    """Takes deeds; gives news.

    Attributes
    ----------
    versions : Outgoing
    """

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        config = self.config
        self._meaning = meaning(config)
        self.versions = Outgoing(config.shard.every)
        self._reader: Reader | None = None
        if (stage := self.reranker) is not None:
            parts_of = stage.features.schema, stage.task
            self._reader = Reader(self._meaning, self.pending.dtype, *parts_of)
        self._deeds: list[bytes] = []
        self._upto: dict[int, int] = {}
        self._asked = self._apart = self._tried = False
        self._taught, self._taught_ms = False, 0
        self._stood = ""  # the digest of all that is known, where nothing has changed since
        self._handlers = {
            config.topics.control: self._control,
            config.examples_topic: self._examples,
        }

    def _control(self, piece: Slice, out: Made) -> None:
        """Follow commands; what they do to what is known no deeds tell."""
        for record in piece.records:
            before = self.counts["commands"]
            super()._control(Slice(piece.range, [record]), out)
            followed = self.counts["commands"] > before
            self._apart |= followed and not isinstance(self.codec.command(record), OWN)

    def _examples(self, piece: Slice, out: Made) -> None:
        """Take deeds in, in their order."""
        found: list[Rows] = []
        for record in piece.records:
            try:
                told, deeds = read(record.value, self._meaning)
                rows = self._reader.rows if self._reader else None
                places = [] if rows is None else [rows(raw) for raw in told.places]
            except Foreign as error:
                out.letters.append(DeadLetter(record, "foreign", str(error)))
                continue
            found += places
            scorer = record.partition
            self._watermark_ms = max(self._watermark_ms, told.watermark_ms)
            for what, time_ms in deeds:
                if isinstance(what, Interaction):
                    self._waits(what, time_ms)
                else:
                    self._learn(out)
                    self._told(what, time_ms)
            self._deeds += told.deeds
            self._upto[scorer] = told.upto
            self._asked |= told.asks
            if self.reranker is not None and told.sides:
                self.reranker.tried(told.sides)
                self._tried = True
            self.counts["deeds.taken"] += len(deeds)
            taken = Taken(record.offset + 1, told.version, told.watermark_ms)
            self.versions.learned(scorer, taken)
        self._learn(out)
        if self.reranker is not None:
            for run in runs(found):
                out.alarms += self.reranker.learn(run)
                self._taught |= run.example.learned
                self.counts["examples"] += len(run.rows)

    def _teach(self, given: Interactions, out: Made) -> list[str]:
        """See :meth:`RankingEngine._teach`; of an update that was undone no deeds tell."""
        learn = self._learners
        held = super()._teach(given, out)
        self._apart |= held != learn or self._learners != learn
        return held

    def _forget_evicted(self) -> None:
        """Not yet: scorers, too, forget where a version ends."""

    def _handed(self) -> tuple[Handed, bytes]:
        """The news, if there are any."""
        stage = self.reranker
        due = self._taught and self.watermark_ms >= self._taught_ms + self.config.shard.every
        if not (self._deeds or self._apart or self._asked or self._tried or due):
            return {}, b""
        super()._forget_evicted()
        config, current = self.config, self.versions.current
        whole = whole_of(self) if self._apart or self._asked else None
        raw = packed(
            {
                "deeds": self._deeds,
                "upto": sorted([scorer, number] for scorer, number in self._upto.items()),
                "learned": self._learners,
                "choices": self.recommender.choices(),
                "before": self._stood,
                "whole": whole,
                "apart": self._apart,
                "members": scored_by(self) if due else None,
                "trials": [0.0, 0.0] if stage is None else stage.trials.tolist(),
            }
        )
        version = self.versions.next(self.watermark_ms, chained(current.digest or FIRST, raw))
        if whole is not None:
            detail = {"number": version.number, "digest": version.digest, "at_ms": version.at_ms}
            self.auditor.record("version_published", "learning", "ensemble", detail)
        self.counts["versions"] += 1
        if due or self._apart:
            self._taught, self._taught_ms = False, self.watermark_ms
        self._deeds, self._stood = [], ""
        self._asked = self._apart = self._tried = False
        covered = bytes.fromhex(version.digest)
        return {config.models_topic: cut(raw, version, self._meaning)}, covered

    def contents(self, counts: Counter[str]) -> dict[str, Any]:
        """See :meth:`Engine.contents`; the next news tell scorers what they should know by now."""
        self._stood = digest_of(self)
        return super().contents(counts)

    def reconfigured(self, combiner_is_new: bool) -> None:
        """See :meth:`Engine.reconfigured`: scorers must know what no deeds tell."""
        super().reconfigured(combiner_is_new)
        self._apart = True
        self.checkpoint_wanted = True  # a step is taken for it, though nothing comes

    def _marks(self) -> State:
        upto = [[scorer, number] for scorer, number in sorted(self._upto.items())]
        own = {"upto": upto, "apart": self._apart, "stood": self._stood}
        own |= {"taught": self._taught, "taught_ms": self._taught_ms}
        return super()._marks() | {"news": own}

    def _restore_marks(self, state: State) -> None:
        super()._restore_marks(state)
        own = state["news"]
        self._upto = dict(own["upto"])
        self._apart, self._stood = own["apart"], own["stood"]
        self._taught, self._taught_ms = own["taught"], own["taught_ms"]

    def _parts(self) -> dict[str, Any]:
        return super()._parts() | {"versions": self.versions}

"""Trains members between the steps of a run without a service, as they fall due."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import structlog

from stream.contract.records import Batch, Record, Slice, range_of
from stream.step.scoring import ScoringEngine

logger = structlog.get_logger()


class Refitting:
    """Answers for one engine, whose steps nobody journals."""

    def __init__(self, engine: ScoringEngine) -> None:
        self._engine = engine
        self._refused: dict[str, int] = {}

    def answer(self, clock_ms: int) -> None:
        """Train and install what is asked for; each in a step of its own."""
        for batch in self._batches(clock_ms):
            self._engine.step(batch)

    def _batches(self, clock_ms: int) -> Iterator[Batch]:
        engine, topic = self._engine, self._engine.config.topics.control
        for name, seq in list(engine.refits.asked.items()):
            if self._refused.get(name) == seq:
                continue
            # LightGBM, and the kernel that walks its trees, for who has such a member.
            from models.members.refit.fit import Refused
            from stream.run.refit.train import trained

            schema, present = engine.features.schema, engine.ensemble.members[name]
            try:
                fitted = trained(name, present, engine.history.learned(), schema)
            except Refused as error:
                self._refused[name] = seq
                logger.warning("refit_refused", member=name, reason=str(error))
                continue
            model = engine.ensemble.made(name, 0, engine.ensemble.specs.get(name))
            model.restore(fitted.state)
            digest = model.digest()
            command = {"command": "install", "member": name, "artefact": digest}
            sent = engine.counts[f"consumed.{topic}"]
            record = Record(topic, 0, sent, None, msgspec.json.encode(command))
            models = {(name, digest): model}
            slices = [Slice(range_of([record]), [record])]
            yield Batch(engine.seq + 1, clock_ms, slices, models=models)

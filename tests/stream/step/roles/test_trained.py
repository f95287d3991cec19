"""Members that are trained, in a service of scorers: by the learner, for all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from stream.contract.outputs import Outputs
from stream.contract.records import Batch
from stream.run.refit.at_once import Refitting
from tests.stream.step.roles.scaled import CLOCK_MS, Part, Scaled, contents, raw, whole
from tests.stream.step.roles.test_roles import digest_of, fed
from tests.support.factory import decoded, traffic

LINEAR = {"name": "linear", "type": "logistic"}
TREES = {
    **{"name": "trees", "type": "refit", "every": "5h", "features": ["amount"]},
    **{"trees": 10, "leaves": 4, "least": 5, "positives": 20, "learning_rate": 0.3},
}
"""Of events a minute apart: due after 300."""


def scaled(directory: Path, count: int = 2, **changes: Any) -> Scaled:
    """A service with a member that learns and one that is trained."""
    return Scaled(raw(directory, count, members=[LINEAR, TREES], **changes))


def trained(part: Part) -> list[Outputs]:
    """Train what is asked for and let a step install it."""
    outputs: list[Outputs] = []
    step = part.engine.step

    def kept(batch: Batch) -> None:
        part.batches.append(batch)
        outputs.append(step(batch))

    part.engine.step = kept
    Refitting(part.engine).answer(CLOCK_MS)
    part.engine.step = step
    return outputs


def answered(many: Scaled) -> list[Outputs]:
    """The same of the learner, whose versions go to scorers."""
    outputs = trained(many.learner)
    for made in outputs:
        many.models += contents(made.handed.get(many.learner.config.models_topic, ()))
    return outputs


def own(batch: Batch, part: Part) -> Batch:
    """The batch with models of its own: those of a step are in an engine from then on."""
    models = {}
    for (name, digest), model in batch.models.items():
        models[name, digest] = part.engine.ensemble.fresh(name, 0)
        models[name, digest].restore(model.state())
    return msgspec.structs.replace(batch, models=models)


def test_the_learner_alone_falls_due_and_trains_and_scorers_follow_at_once(tmp_path: Path) -> None:
    """By the event time of its examples, though no version is due; scorers keep no history."""
    many = scaled(tmp_path, shard={"every": "30d"})
    fed(many, 440)
    learner = many.learner.engine
    [seq] = learner.refits.asked.values()
    assert learner.checkpoint_wanted
    assert len(learner.history) == learner.counts["learned"] == 390
    before = learner.versions.current.number
    [made] = answered(many)
    told = [r["event"] for r in decoded(list(made.audit))]
    assert told == ["installed", "installed", "version_published"]  # of the command, of the member
    assert (learner.refits.asked, learner.versions.current.number) == ({}, before + 1)
    assert 0 < seq < learner.seq
    for i, scorer in enumerate(many.scorers):
        engine = scorer.engine
        assert (engine.refits.asked, len(engine.history)) == ({}, 0)
        assert not engine.checkpoint_wanted
        assert digest_of(scorer) != digest_of(many.learner)
        many.score(i)
        assert digest_of(scorer) == digest_of(many.learner)
        trees = engine.ensemble.members["trees"]
        assert trees.digest() == learner.ensemble.members["trees"].digest()
        assert len(trees.counted().trees.root) == 10


@pytest.mark.parametrize("labels", ["partition", "any"])
def test_what_it_trains_is_what_one_process_would(tmp_path: Path, labels: str) -> None:
    """The same rows, the same model, the same scores from then on, bit for bit; a second training
    compares with what scorers said by the first."""
    tree = raw(tmp_path, shard={"labels": labels}, members=[LINEAR, TREES | {"every": "365d"}])
    one, many = Part(whole(tree)), Scaled(tree)
    models = []
    for i, parts in enumerate(traffic(1200)):
        given = [(t, 0, v) for t, v in parts]
        expected, got = one.step(*given), many.score(0, *given)
        many.learn()
        for a, b in zip(expected.scored, got.scored, strict=True):
            assert (a.members == b.members).all()
            assert (a.output == b.output).all()
        if i in (12, 24):
            for part in (one, many.learner):
                assert part.engine.refits.ask("trees", part.engine.seq)
            trained(one)
            answered(many)
            models.append(one.engine.ensemble.members["trees"].digest())
            assert many.learner.engine.ensemble.members["trees"].digest() == models[-1]
    assert len(set(models)) == 2
    [whole_rows], [handed] = one.engine.history.learned(), many.learner.engine.history.learned()
    for column in ("links", "dense", "hashed", "event_time_ms", "id", "cold"):
        assert np.array_equal(whole_rows.rows[column], handed.rows[column]), column
    assert np.array_equal(whole_rows.y, handed.y)
    assert np.array_equal(whole_rows.w, handed.w)
    assert one.engine.ensemble.digest() == many.learner.engine.ensemble.digest()


def test_all_go_on_from_their_state_and_replay_to_the_same_bits(tmp_path: Path) -> None:
    """Before, between and after a member falls due and another model is installed."""
    many = scaled(tmp_path)
    fed(many, 440)
    answered(many)
    for i in range(2):
        many.score(i)
    for part in (many.learner, *many.scorers):
        wanted = part.engine.digest, part.engine.state_digest()
        again = Part(part.config)
        for batch in part.batches:
            again.engine.step(own(batch, again))
            if batch.seq % 3 == 0:
                restored = Part(part.config)
                restored.engine.restore(again.engine.state(), again.engine.rows())
                again = restored
        assert (again.engine.digest, again.engine.state_digest()) == wanted

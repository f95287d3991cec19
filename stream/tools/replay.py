"""The state as of a journaled step, rebuilt beside the running service, which it leaves alone."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from stream.contract.log import Log
from stream.contract.outputs import Outputs
from stream.contract.records import Slice
from stream.run.assemble import build_engine, open_log, wall_clock_ms
from stream.settings.schema import Config
from stream.state.artefacts import FOLDER, Artefacts
from stream.state.follow import Follower, steps
from stream.state.generations import Snapshot, StateDirectory, snapshot_of
from stream.state.recovery import recover


class Rebuilt(NamedTuple):
    """An engine as of a step, in a directory of its own."""

    log: Log
    follower: Follower

    def onward(self, until: int) -> Iterator[tuple[Sequence[Slice], Outputs]]:
        """The steps after it, done again up to another one: what each took, and what comes out.

        A step whose records are gone for good, and which is no part of the state, is left out.
        Raises one of :data:`~stream.state.recovery.OUT_OF_REACH`.
        """
        follower = self.follower
        ids = dict(follower.standing.ids)
        after = follower.engine.seq
        for record, slices in steps(self.log, after, until, lambda: follower.engine.codec, ids):
            if slices is None:
                follower.skip(record)
            else:
                yield slices, follower.apply(record, slices)


@contextmanager
def rebuilt(config: Config, seq: int, from_start: bool = False) -> Iterator[Rebuilt]:
    """The state as of step ``seq``, from the newest checkpoint before it or from the first step.

    Raises as :func:`~stream.state.recovery.recover`.
    """
    log = open_log(config, wall_clock_ms)
    with tempfile.TemporaryDirectory(prefix="millrace-replay-") as scratch:
        directory = StateDirectory(Path(scratch), None if from_start else config.state_dir).open()
        directory.artefacts = Artefacts(directory.path / FOLDER, config.state_dir / FOLDER)
        try:
            follower = recover(
                log,
                directory,
                config,
                lambda c: build_engine(c, directory.pending),
                lambda: None,
                seq,
            )
            yield Rebuilt(log, follower)
            follower.engine.close()
        finally:
            directory.close()
            log.close()


def replay_to(config: Config, seq: int, target: Path | None, from_start: bool) -> dict[str, Any]:
    """Rebuild the state as of step ``seq`` and say what it is; write it to ``target``, if given.

    Raises :class:`~stream.state.follow.Diverged` when a step gives other bits than the journal's.
    """
    with rebuilt(config, seq, from_start) as (log, recovered):
        engine = recovered.engine
        found = {
            "seq": engine.seq,
            "digest": engine.digest,
            "journal_digest": _journaled(log, seq),
            "state_digest": engine.state_digest(),
            "from_checkpoint": recovered.from_seq,
            "replayed_steps": recovered.replayed_steps,
            "replayed_records": recovered.replayed_records,
            "divergences": recovered.divergences,
            "seconds": round(recovered.seconds, 3),
        }
        if target is not None:
            snapshot = snapshot_of(engine, recovered.standing, wall_clock_ms())
            found["generation"] = str(_publish(snapshot, target))
    return found


def _publish(snapshot: Snapshot, target: Path) -> Path:
    directory = StateDirectory(target).open()
    try:
        return directory.publish(directory.write(snapshot), keep=1_000)
    finally:
        directory.close()


def _journaled(log: Log, seq: int) -> str:
    record = next(iter(log.journal(seq - 1)), None)
    return record.digest if record is not None else ""

"""What it takes to put another version in a member's place: the pause between two steps.

``python -m benchmarks.lifecycle.versions [--quick]``. The compiled members of the fraud example
learn payments; then each is rolled back to a version from the middle. Milliseconds of processor
time: of the loop, which waits for its own alone, noticing the command and its step; of the threads
beside it, reading the artefact and making the model before, and the digest of what made room after.
"""

from __future__ import annotations

import gc
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import traffic
from benchmarks.common import arguments, show, target
from stream.contract.records import Batch, NewRecord
from stream.run.assemble import build_engine
from stream.state.artefacts import Artefacts
from stream.state.held import Held

BATCH = 4096


def measured(events: int) -> dict[str, Any]:
    """By member: bytes of its artefact, and what a rollback takes."""
    made = traffic.batches(traffic.pieces(traffic.simulator(events), BATCH))
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as directory:
        engine = build_engine(traffic.config(Path(directory)), None)
        for batch in made:
            middle = batch.seq == len(made) // 2
            engine.step(msgspec.structs.replace(batch, checkpoint=middle))
        gc.collect()
        gc.freeze()  # as the service does
        artefacts = Artefacts(Path(directory) / "artefacts")
        artefacts.save(engine.ledger.unsaved)
        held = Held(artefacts, lambda engine, digest: None)
        for i, name in enumerate(engine.ensemble.names):
            digest = engine.ledger.versions()[name][-1].digest
            command = json.dumps({"command": "rollback", "to": digest, "member": name})
            piece = traffic.piece_slice("control", i, [NewRecord(None, command.encode())])
            marks = [(time.thread_time(), time.process_time())]
            for ready in (False, True):
                while ready and not held.ready:
                    time.sleep(0.001)
                slices = held.sift(engine, [] if ready else [piece])
                marks.append((time.thread_time(), time.process_time()))
            models = held.models(engine, slices)
            engine.step(Batch(engine.seq + 1, engine.clock_ms, slices, models=models))
            done = time.thread_time()
            while not engine.ledger.settled:
                time.sleep(0.001)
            waited, ended = time.thread_time(), time.process_time()
            (first, before), _, (noticed, after) = marks
            found[name] = {
                "artefact_bytes": artefacts.sizes()[digest],
                "beside_ms": 1000 * (after - before - (noticed - first)),
                "noticing_ms": 1000 * (noticed - first),
                "step_ms": 1000 * (done - noticed),
                "digest_beside_ms": 1000 * (ended - after - (waited - noticed)),
            }
        held.close()
    return found


def main() -> None:
    """The command line."""
    given = arguments(__doc__)
    events = (4 if given.quick else 50) * BATCH
    members = measured(events)
    longest = max(one["step_ms"] for one in members.values())
    found = {"members": members, "targets": {"longest_ms": target(longest, 5.0, at_least=False)}}
    show("versions put back", {"events": events} | found, given.json)


if __name__ == "__main__":
    main()

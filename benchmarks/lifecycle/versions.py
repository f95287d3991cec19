"""What it takes to put another version in a member's place: the pause between two steps.

``python -m benchmarks.lifecycle.versions [--quick]``. The compiled members of the fraud example
learn payments; then each is rolled back to a version from the middle. Milliseconds of processor
time: reading and restoring the artefact, and the step of the command.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import traffic
from benchmarks.common import arguments, show
from stream.contract.records import Batch, NewRecord
from stream.run.assemble import build_engine
from stream.state.artefacts import Artefacts

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
        artefacts = Artefacts(Path(directory) / "artefacts")
        artefacts.save(engine.ledger.unsaved)
        for i, name in enumerate(engine.ensemble.names):
            digest = engine.ledger.versions()[name][-1].digest
            command = json.dumps({"command": "rollback", "to": digest, "member": name})
            piece = traffic.piece_slice("control", i, [NewRecord(None, command.encode())])
            started = time.process_time()
            models = artefacts.models(engine, [piece])
            read = time.process_time()
            engine.step(Batch(engine.seq + 1, engine.clock_ms, [piece], models=models))
            done = time.process_time()
            found[name] = {
                "artefact_bytes": artefacts.sizes()[digest],
                "read_ms": 1000 * (read - started),
                "step_ms": 1000 * (done - read),
            }
    return found


def main() -> None:
    """The command line."""
    given = arguments(__doc__)
    events = (4 if given.quick else 50) * BATCH
    show("versions put back", {"events": events, "members": measured(events)}, given.json)


if __name__ == "__main__":
    main()

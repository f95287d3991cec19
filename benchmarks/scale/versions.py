"""What a version of the learner weighs, and what making one and taking one over takes.

``python -m benchmarks.scale.versions [--quick]``. The members of the fraud example learn payments;
then versions are made of them and taken over by fresh ones. Milliseconds by the clock, which the
loop stands still for, and of processor time; the least of several. ``whole_bytes`` is what the
whole state would weigh.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import traffic
from benchmarks.common import arguments, show
from stream.run.assemble import build_scoring
from stream.settings import specs
from stream.step.roles.examples import meaning
from stream.step.roles.versions import Incoming, Version, pieces, viewed

BATCH = 4096
TIMES = 9


def least(what: str, work: Callable[[], object]) -> dict[str, float]:
    """Milliseconds by the clock, and of processor time."""
    clock, cpu = [], []
    for _ in range(TIMES):
        started, spent = time.perf_counter(), time.process_time()
        work()
        clock.append(1000 * (time.perf_counter() - started))
        cpu.append(1000 * (time.process_time() - spent))
    return {f"{what}_ms": min(clock), f"{what}_cpu_ms": min(cpu)}


def measured(events: int) -> dict[str, Any]:
    """Bytes of a version, and what both sides spend on it."""
    with tempfile.TemporaryDirectory() as directory:
        config = traffic.config(Path(directory))
        engine, taker = (build_scoring(config, None) for _ in range(2))
        for batch in traffic.batches(traffic.pieces(traffic.simulator(events), BATCH)):
            engine.step(batch)
        meant, ensemble = meaning(config), engine.ensemble
        vouched = partial(specs.check, task=config.target.type, known=config.members)

        def make() -> list[Any]:
            view = viewed(ensemble)
            return pieces(view, Version(1, 0, ensemble.view_digest(view)), meant)

        def take() -> None:
            coming, found = Incoming(meant, taker.ensemble.crew, vouched), None
            for record in made:
                found = coming.take(record.value) or found
            if found is None:
                raise RuntimeError("expected a whole version")
            taker.ensemble.restore_view(found.state)
            if taker.ensemble.view_digest(found.view, found.roots) != found.version.digest:
                raise RuntimeError("expected the digest of what was given")

        made = make()
        whole = pieces(ensemble.state(), Version(1, 0, ""), meant)
        sizes = {
            name: sum(
                len(r.value or b"")
                for r in pieces({"members": {name: view}}, Version(1, 0, ""), "")
            )
            for name, view in viewed(ensemble)["members"].items()
        }
        return {
            "bytes": sum(len(r.value or b"") for r in made),
            "whole_bytes": sum(len(r.value or b"") for r in whole),
            "bytes_by_member": sizes,
            **least("make", make),
            **least("take", take),
            "mb_per_s_at_10_s": sum(len(r.value or b"") for r in made) / 1e7,
        }


def main() -> None:
    """The command line."""
    given = arguments(__doc__)
    events = (4 if given.quick else 50) * BATCH
    show("versions for scorers", {"events": events} | measured(events), given.json)


if __name__ == "__main__":
    main()

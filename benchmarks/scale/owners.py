"""What an owner of labels in any partition keeps of others' events: memory, longest batch, stops.

Run ``python -m benchmarks.scale.owners [--ids N] [--json] [--quick]``. A table is told of N events
in batches of 4,096, and once three quarters are there, with each batch of half as many that left;
of each batch the longest, by processor time. Then what a checkpoint does of it in the loop, and a
start.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from benchmarks.common import arguments, show, target
from benchmarks.service.waiting import ids
from models.base import state_digest
from stream.step.roles.holders import Holders

BATCH = 4_096


def measured(n: int) -> dict[str, Any]:
    """All of it, of one table."""
    held, took, left = Holders(), [], 0
    for first in range(0, n, BATCH):
        began = time.thread_time()
        held.add(ids(first, BATCH), 1 + first // BATCH % 3)
        if first > 3 * n // 4:
            held.remove(ids(left, BATCH // 2), 1 + left // BATCH % 3)
            left += BATCH // 2
        took.append(time.thread_time() - began)
    began = time.thread_time()
    state = held.state()  # what goes on record
    digest = state_digest(state)
    state = held.state()  # what is written
    stopped = time.thread_time() - began
    again = Holders()
    began = time.thread_time()
    again.restore(state)
    restored = time.thread_time() - began
    assert state_digest(again.state()) == digest
    return {
        "ids": len(held),
        "bytes_an_id": round(held.nbytes / len(held), 1),
        "longest_batch_cpu_ms": round(1000 * max(took), 1),
        "usual_batch_cpu_ms": round(1000 * float(np.median(took)), 2),
        "checkpoint_cpu_ms": target(round(1000 * stopped), 500, False),
        "restored_cpu_s": round(restored, 2),
    }


def _more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ids", type=int, default=10_000_000)


def main() -> None:
    """Measure and print."""
    given = arguments(__doc__, _more)
    show("owners", measured((500_000 if given.quick else given.ids) // BATCH * BATCH), given.json)


if __name__ == "__main__":
    main()

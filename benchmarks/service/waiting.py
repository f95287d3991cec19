"""Very many events that wait for their labels: memory a row, the longest wait, the way back.

The longest batch comes with its cause: processor time of its own, waits for the disk, and how often
others had the core meanwhile. ``checkpoint_ms``: for how long a checkpoint stops the store, a batch
of rows and of labels of rows anywhere after the one before; ``first_checkpoint_ms``: without one.

Run ``python -m benchmarks.service.waiting [--rows N] [--json] [--quick]``. Rows as
``examples/fraud.toml`` holds them, in batches of 4,096; each batch one row in ten of a batch of
long ago gets its label. Then the store is closed over its files and restored, as at a start. Files
take about 210 bytes a row: 100 million rows (a 30-day horizon at 40 events/s) want 21 GB of disk.
"""

from __future__ import annotations

import argparse
import gc
import resource
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import traffic
from benchmarks.common import arguments, show, target
from models.base import U64, State
from monitoring.audit.contents import parts_of
from stream.run.assemble import build_engine
from stream.step.pending.segments import Kept, Source
from stream.step.pending.store import Pending

BATCH = 4096


def ids(first: int, n: int) -> U64:
    """Ids of the rows from ``first`` on: as hashes of texts are, like drawn at random."""
    x = np.arange(first + 1, first + 1 + n, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    return x ^ (x >> np.uint64(31))


def empty(directory: Path) -> Pending:
    """A store of the example's rows, with its files in ``directory``."""
    engine = build_engine(traffic.config(directory), directory)
    kind, members = engine.pending.dtype, engine.ensemble.names
    engine.close()
    return Pending(kind, members, directory, 2**40)


def fill(store: Pending, rows: int) -> dict[str, Any]:
    """Hold so many rows; the longest that one batch took to be held, and to find labels' rows."""
    rng = np.random.default_rng(1)
    block = np.zeros(BATCH, store.dtype)
    block["dense"] = rng.standard_normal(block["dense"].shape)
    held: list[Batch] = []
    gc.collect()
    gc.freeze()  # as the service does: looking through all libraries would take a batch 90 ms
    found_s, most, cpu = 0.0, 0.0, time.process_time()
    for first in range(0, rows, BATCH):
        block["id"] = ids(first, BATCH)
        block["event_time_ms"] = np.arange(first, first + BATCH) * 25
        before = Batch.now()
        store.hold(block)
        held.append(Batch(*(b - a for a, b in zip(before, Batch.now(), strict=True))))
        wanted, began = ids(first // 2, BATCH // 10), time.perf_counter()
        found = store.find(wanted)
        found_s = max(found_s, time.perf_counter() - began)
        store.settle(found, np.zeros(len(found)))
        most = max(most, store.index_bytes / len(store)) if len(store) > 10**6 else 0.0
    spent = time.process_time() - cpu
    longest = max(held)
    return {
        "rows": len(store),
        "bytes_a_row": round(store.index_bytes / len(store), 1),
        "bytes_a_row_at_most": round(most, 1),
        "longest_hold_ms": round(1000 * longest.seconds, 1),
        "of_that": {
            "cpu_ms": round(1000 * longest.cpu_s, 1),
            "page_faults": longest.faults,
            "waits_for_the_disk": longest.waits,
            "stopped_for_others": longest.stopped,
        },
        "longest_hold_cpu_ms": round(1000 * max(batch.cpu_s for batch in held), 1),
        "longest_find_ms": round(1000 * found_s, 1),
        "usual_hold_ms": round(1000 * float(np.median([batch.seconds for batch in held])), 2),
        "cpu_us_a_row": round(1e6 * spent / rows, 2),
    }


class Batch(NamedTuple):
    """What a batch took of this thread, or up to when; the times that it waited or was stopped."""

    seconds: float
    cpu_s: float
    faults: int
    waits: int
    stopped: int

    @classmethod
    def now(cls) -> Batch:
        """All so far."""
        used = resource.getrusage(resource.RUSAGE_THREAD)
        return cls(
            *(time.perf_counter(), time.thread_time()),
            *(used.ru_minflt + used.ru_majflt, used.ru_nvcsw, used.ru_nivcsw),
        )


def checkpoint(store: Pending) -> tuple[dict[str, float], State]:
    """What the loop does of a checkpoint: how long that takes, and the state."""
    before = Batch.now()
    state = store.state()
    rows, labels = [file.sha256() for file in store.files()], store.label_digests()
    given = dict.fromkeys(("clock_ms", "watermark_ms", "threshold"), 0)
    parts_of(given | {"counts": {}, "pending": state}, rows, labels)
    state = store.state()  # the writer's
    store.files()
    after = Batch.now()
    took = {"wall": after.seconds - before.seconds, "cpu": after.cpu_s - before.cpu_s}
    return {name: round(1000 * s, 1) for name, s in took.items()}, state


def more(store: Pending, rows: int) -> dict[str, Any]:
    """A batch more of rows, and of labels of rows anywhere; what settling these took."""
    block = np.zeros(BATCH, store.dtype)
    block["id"] = ids(rows, BATCH)
    store.hold(block)
    told = np.unique(np.random.default_rng(2).integers(rows // 2, rows, BATCH))
    began = time.thread_time()
    store.settle(told, np.zeros(len(told)))
    return {"settle_cpu_ms": round(1000 * (time.thread_time() - began), 1)}


def measure(rows: int, directory: Path) -> dict[str, Any]:
    """Fill a store, and restore another one from its files."""
    for part in ("one", "kept", "other"):
        (directory / part).mkdir()
    store = empty(directory / "one")
    found = fill(store, rows)
    for file in store.files():  # as checkpoints have, while rows came
        file.sha256()
    found["first_checkpoint_ms"] = checkpoint(store)[0]
    found |= more(store, rows)
    found["checkpoint_ms"], state = checkpoint(store)
    files: dict[int, Source] = {}
    for file in store.files():
        files[file.number] = kept = directory / "kept" / f"{file.number}.seg"
        file.place(kept)
        if (known := file.place_ids(kept.with_suffix(".ids"))) is not None:
            files[file.number] = Kept(kept, file.sha256(), kept.with_suffix(".ids"), known[1])
    other = empty(directory / "other")
    start = Batch.now()
    other.restore(state, files)
    end = Batch.now()
    found["restored_s"] = round(end.seconds - start.seconds, 1)
    found["restored_cpu_s"] = round(end.cpu_s - start.cpu_s, 1)
    assert len(other) == len(store)
    assert (other.find(ids(0, BATCH)) == store.find(ids(0, BATCH))).all()
    other.close()
    store.close()
    return found


def _more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--directory", type=Path, help="where the files go, else the temporary one")


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__, _more)
    rows = 1_000_000 if options.quick else options.rows
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        found = measure(rows // BATCH * BATCH, Path(name))
    found["targets"] = {
        "bytes_a_row": target(found["bytes_a_row"], 24, False),
        "longest_hold_ms": target(found["longest_hold_ms"], 100, False),
        "restored_s": target(found["restored_s"], 15, False),
    }
    show("waiting", found, options.json)


if __name__ == "__main__":
    main()

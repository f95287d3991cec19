"""Trains one member on what was learned: called between two steps, or as a process of its own.

``trainer.py`` runs it as a process: one thread, what others leave of the processor's time, at most
:data:`MEMORY` bytes, ended with its parent. It reads a generation, writes an artefact, and prints
one line of JSON. It never touches a log, and whenever it is killed nothing is lost.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np

from models.base import FeatureBatch, FeatureSchema, Model
from models.features.stage import FeatureStage
from models.members.refit.fit import Fitted, Refitted, Refused, Rows, fit
from stream.run.assemble import member_maker, pending_row
from stream.run.refit.answer import Answer
from stream.settings.upgrade import settings
from stream.state.artefacts import FOLDER, Artefacts
from stream.state.generations import CheckpointError, list_generations, load, read_manifest
from stream.step.lifecycle.history import Learned, learned_of, opened

MEMORY = 8 << 30
_NICE = 15
_PR_SET_PDEATHSIG = 1


def trained(name: str, member: Model, learned: Iterable[Learned], schema: FeatureSchema) -> Fitted:
    """A state for the member, by all rows that were learned; raises :class:`Refused`.

    ``schema`` names the rows' columns, of which the member may see some.
    """
    # As it was configured: with only some of the columns it stands in a Narrow.
    refit = cast(Refitted, member.counted())
    dense = [schema.dense.index(column) for column in refit.schema.dense]
    hashed = [schema.hashed.index(column) for column in refit.schema.hashed]
    parts: list[tuple[Any, ...]] = []
    for part in learned:
        n = len(part.y)
        said = (
            part.rows["links"][:, list(part.members).index(name), 0]
            if name in part.members
            else np.full(n, np.nan)
        )
        rows = part.rows
        parts.append(
            (
                rows["dense"][:, dense],
                rows["hashed"][:, hashed],
                *(part.y, part.w, rows["event_time_ms"], said),
            )
        )
    if not parts:
        raise Refused("expected rows that were learned, got none; history.keep says how long")
    columns = [np.ascontiguousarray(np.concatenate(column)) for column in zip(*parts, strict=True)]
    return fit(refit, Rows(FeatureBatch(refit.schema, *columns[:2]), *columns[2:]))


def train(state_dir: Path, generation: Path, name: str) -> Answer:
    """Train the member on the history of a generation, and put the artefact beside it."""
    manifest = read_manifest(generation)
    loaded = load(generation, manifest)
    # Code that a member names is not run: only this one is built.
    config = settings(manifest.config, str(generation))
    history, row = loaded.state["history"], pending_row(config)
    segments = opened(history, loaded.segments.get("history", {}), row)
    schema, task = FeatureStage(config.features).schema, config.task()
    state = loaded.state["ensemble"]
    make, spec = member_maker(config, schema, task), state.get("specs", {}).get(name)
    member, made = (make(name, 0, spec) for _ in range(2))
    member.restore(state["members"][name])
    rows = learned_of(history, segments, row, 0, manifest.seq)
    try:
        fitted = trained(name, member, rows, schema)
    except Refused as error:
        return Answer(refused=str(error))
    made.restore(fitted.state)
    digest = made.digest()
    Artefacts(state_dir / FOLDER).put(digest, lambda: fitted.state)
    return Answer(digest, fitted.figures)


def make_way(process: int) -> None:
    """Let a process that has one thread take what others leave of the processors."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, process, _NICE)  # for where nothing is idle
    # What is nice takes turns all the same: a thread of the service that woke up where it ran
    # waited for it. What is idle makes way at once; not so in a session of its own, where Linux
    # shares processors among sessions (autogroup).
    if sys.platform == "linux":
        with suppress(OSError):
            os.sched_setscheduler(process, os.SCHED_IDLE, os.sched_param(0))


def step_back(parent: int) -> None:
    """Take what others leave, and end with the parent."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)  # it has ended before that was asked for
    os.setpgrp()  # who ends the service from a terminal ends this by its end
    make_way(os.getpid())
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    memory = MEMORY if most == resource.RLIM_INFINITY else min(MEMORY, most)
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))


def by_what_is_there(state_dir: Path, generation: Path, make: Callable[[Path], Answer]) -> Answer:
    """What is made of a generation; of the newest one, where that makes room before it is read.

    Whoever makes way for others may come to it late, and each command takes a checkpoint.
    """
    while True:
        try:
            return make(generation)
        except (CheckpointError, FileNotFoundError):
            newest = next(iter(list_generations(state_dir)), generation)
            if newest == generation:
                raise
            generation = newest


def main() -> None:
    """Train, and say what it came to."""
    state_dir, generation, name, parent = sys.argv[1:]
    step_back(int(parent))
    place = Path(state_dir)
    answer = by_what_is_there(place, Path(generation), lambda path: train(place, path, name))
    sys.stdout.write(msgspec.json.encode(answer).decode())


if __name__ == "__main__":
    main()

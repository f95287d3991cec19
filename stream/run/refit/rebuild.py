"""Lets one member learn the history anew, as it is corrected: a process beside the service.

``trainer.py`` runs it as it runs ``train.py``. It reads a generation, writes an artefact, and
prints one line of JSON. The history is the member's whole past if learning it as it was gives the
very member that serves; else it is rebuilt only where somebody accepted that.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from models.base import FeatureBatch, FeatureSchema, Model
from models.features.stage import FeatureStage
from stream.run.assemble import member_maker, pending_row
from stream.run.refit.answer import Answer
from stream.run.refit.train import by_what_is_there, step_back
from stream.settings.upgrade import is_given, settings
from stream.state.artefacts import FOLDER, Artefacts
from stream.state.generations import load, read_manifest
from stream.step.lifecycle.history import Learned, learned_of, opened


def taught(member: Model, learned: Iterable[Learned], schema: FeatureSchema, every: int) -> int:
    """The member learns each ``every``-th of the rows, oldest first; how many there were."""
    number = 0
    for part in learned:
        own = np.arange(number, number + len(part.y)) % every == 0
        number += len(part.y)
        rows = part.rows if own.all() else part.rows[own]
        x = FeatureBatch(
            schema, np.ascontiguousarray(rows["dense"]), np.ascontiguousarray(rows["hashed"])
        )
        member.learn(x, np.ascontiguousarray(part.y[own]), np.ascontiguousarray(part.w[own]))
    return number


def rebuild(state_dir: Path, generation: Path, name: str, tree: dict[str, Any]) -> Answer:
    """Rebuild the member by the history of a generation, and put the artefact beside it.

    ``tree`` is the service's configuration: code that a member names is run by its word alone.
    """
    manifest = read_manifest(generation)
    given = settings(tree, "the service")
    if not is_given(manifest.config, str(generation), given):
        return Answer(refused="the configuration has changed meanwhile; ask again")
    loaded = load(generation, manifest)
    state, row = loaded.state, pending_row(given)
    segments = opened(state["history"], loaded.segments.get("history", {}), row)
    schema, task = FeatureStage(given.features).schema, given.task()
    task.restore(state)
    make, spec = member_maker(given, schema, task), state["ensemble"].get("specs", {}).get(name)
    every = next(m.learn_every for m in given.members if m.name == name)
    serving, as_it_was, as_corrected = (make(name, 0, spec) for _ in range(3))
    serving.restore(state["ensemble"]["members"][name])
    wanted = serving.digest()

    def learn(member: Model, corrected: int) -> int:
        rows = learned_of(state["history"], segments, row, corrected=corrected)
        return taught(member, rows, schema, every)

    rebuilds = state["rebuilds"]
    accepted = bool(rebuilds["accepted"].get(name))
    known = rebuilds["known"].get(name, 0)
    with ThreadPoolExecutor(1) as beside:
        # Side by side where neither can touch what is the other's.
        compared = beside.submit(lambda: None if accepted else learn(as_it_was, known))
        if not serving.apart:
            compared.result()
        rows = learn(as_corrected, manifest.seq)
        compared.result()
    if not accepted and as_it_was.digest() != wanted:
        return Answer(
            refused="the history is not its whole past: it was installed, reset, rolled back or"
            " frozen, the ensemble drew its weights, the columns changed, or history.keep and"
            " history.disk were too short; ask with accept to have it learn the history alone"
        )
    digest = as_corrected.digest()
    Artefacts(state_dir / FOLDER).put(digest, as_corrected.state)
    return Answer(digest, {"rows": rows}, upto=manifest.seq)


def main() -> None:
    """Rebuild, and say what it came to."""
    state_dir, generation, name, parent = sys.argv[1:]
    step_back(int(parent))
    tree = msgspec.json.decode(sys.stdin.buffer.read(), type=dict[str, Any])
    place = Path(state_dir)
    answer = by_what_is_there(
        place, Path(generation), lambda path: rebuild(place, path, name, tree)
    )
    sys.stdout.write(msgspec.json.encode(answer).decode())


if __name__ == "__main__":
    main()

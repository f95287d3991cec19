"""What it takes to learn a whole history anew, and to find in it what is corrected.

``python -m benchmarks.lifecycle.rebuilds [--quick]``. Rows as wide as the handbook's payments, on
disk; the members of its example, one after another. Seconds of processor time.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import arguments, show, target
from models.features.stage import FeatureStage
from stream.run.assemble import member_maker, pending_row
from stream.run.refit.rebuild import taught
from stream.settings.load import load
from stream.settings.schema import HistorySettings
from stream.step.lifecycle.history import History, Place

EXAMPLE = Path(__file__).parents[2] / "examples" / "handbook.toml"
STEP = 50_000


def measured(rows: int) -> dict[str, Any]:
    """Seconds to find 500 events, and of each member to learn ``rows``."""
    config = load(EXAMPLE, {})
    schema, row = FeatureStage(config.features).schema, pending_row(config)
    rng = np.random.default_rng(1)
    names = [member.name for member in config.members]
    make = member_maker(config, schema, config.task())
    with tempfile.TemporaryDirectory() as directory:
        history = History(HistorySettings(disk="2GB"), row, names, Path(directory))
        made = np.zeros(STEP, row)
        for seq in range(1, rows // STEP + 1):
            made["id"] = rng.integers(0, 2**63, STEP)
            made["dense"] = rng.normal(size=made["dense"].shape)
            y = (made["dense"][:, 0] + rng.normal(size=STEP) > 3).astype(np.float64)
            history.hold(made, y, np.ones(STEP), seq, 1)
        began = time.process_time()
        history.places(made["id"][:500].copy(), Place(-1, 0))
        found = {"find_s": time.process_time() - began}
        for name in names:
            member, began = make(name, 0), time.process_time()
            taught(member, history.learned(), schema, 1)
            found[name] = time.process_time() - began
        history.close()
    return found


def main() -> None:
    """The command line."""
    given = arguments(__doc__)
    rows = 100_000 if given.quick else 1_000_000
    took = measured(rows)
    slowest = max(seconds for what, seconds in took.items() if what != "find_s")
    found = {"seconds": took, "targets": {"slowest_s": target(slowest, 15.0, at_least=False)}}
    show("members rebuilt", {"rows": rows} | found, given.json)


if __name__ == "__main__":
    main()

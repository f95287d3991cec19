"""Tables on a terminal."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from monitoring.table import show, table

NAMES = ["trees.background_histogram", "GradientBoostedTreesMember", "precision_at_budget"]
SENTENCE = "size = 10 * 14 * 64 * 2, of which half is used"


@pytest.mark.parametrize("width", [20, 80, 200])
def test_names_stay_whole_at_any_width(width: int) -> None:
    """Names are neither cut nor folded; a sentence folds, and loses nothing, before a line does."""
    file = StringIO()
    made = table(["layer", "type", "metric", "formula"], folds=("formula",))
    made.add_row(*NAMES, SENTENCE)
    console = Console(file=file, width=width, soft_wrap=True)
    show(made, console)
    printed = file.getvalue()
    assert all(name in printed for name in NAMES)
    folded = "".join(line[sum(len(n) + 2 for n in NAMES) :] for line in printed.splitlines()[2:])
    assert "".join(folded.split()) == "".join(SENTENCE.split())
    assert max(len(line.rstrip()) for line in printed.splitlines()) <= max(width, 88)
    assert console.width == width

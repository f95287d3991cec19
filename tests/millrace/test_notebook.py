"""The notebook in ``examples/`` runs from its first cell to its last."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "fraud.ipynb"


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cells, one after another, in one namespace; each has shown something or nothing."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    cells = [
        c for c in json.loads(NOTEBOOK.read_text("utf-8"))["cells"] if c["cell_type"] == "code"
    ]
    for i, cell in enumerate(cells):
        exec(compile("".join(cell["source"]), f"cell {i}", "exec"), namespace)  # noqa: S102
    assert list(tmp_path.iterdir()) == []  # it writes into a directory of its own


def test_the_notebook_shows_no_path_of_a_machine() -> None:
    """Outputs are kept for readers; they hold no traceback and no absolute path."""
    text = NOTEBOOK.read_text("utf-8")
    assert "Traceback" not in text
    assert '"/' not in text
    assert "Warning" not in text

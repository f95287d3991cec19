"""Tables on a terminal of any width: names and numbers stay whole, sentences fold."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

_WIDE = 10_000
_LEAST = 8
"""Columns that fold get so many characters at least."""

SHOWN = {
    "binary": ("roc_auc", "pr_auc", "f1", "precision", "recall", "accuracy", "log_loss"),
    "classes": ("accuracy", "balanced_accuracy", "macro_f1", "kappa", "log_loss"),
    "number": ("mae", "rmse", "r2", "bias"),
    "ranking": ("hit_10", "hit_20", "mrr", "ndcg_10"),
}
"""Metrics of each kind of target that a table of 80 columns has room for."""


def table(
    heads: Sequence[str],
    folds: Collection[str] = (),
    right: Collection[str] = (),
    title: str | None = None,
) -> Table:
    """An empty table; ``folds`` are the columns that may be cut into several lines."""
    made = Table(
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        title=title,
        title_justify="left",
    )
    for head in heads:
        made.add_column(
            head,
            justify="right" if head in right else "left",
            no_wrap=head not in folds,
            overflow="fold",
        )
    return made


def show(made: Table, console: Console) -> None:
    """Print it; where even the narrowest is wider than the terminal, that breaks its lines."""
    folding = [column for column in made.columns if not column.no_wrap]
    for column in folding:
        column.max_width = _LEAST
    options = console.options.update(width=_WIDE)
    least = Measurement.get(console, options, made).maximum  # the minimum cuts at spaces
    for column in folding:
        column.max_width = None
    width = console.width
    console.width = max(width, least)
    console.print(made)
    console.width = width

"""``millrace evaluate`` of a configuration that ranks; no logic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.text import Text

from models.base import MillraceError
from monitoring.table import show, table
from monitoring.terminal import styled
from stream.cli.refused import print_refused
from stream.cli.terminal import err, out, print_json

if TYPE_CHECKING:
    from stream.settings.schema import Config


def tell_ranks(
    config: Config,
    data: Path,
    ranks_out: Path | None,
    batch: int,
    report: Path | None,
    dead_letters_out: Path | None,
    as_json: bool,
) -> None:
    """Evaluate a file of interactions; see ``millrace evaluate``."""
    from stream.tools.ranking.evaluate import evaluate_ranks

    summary = evaluate_ranks(config, data, ranks_out, batch, err, report, dead_letters_out)
    tell_ranked(summary, as_json)


def tell_ranked(summary: dict[str, Any], as_json: bool) -> None:
    """What a played file gave; the exit status says whether it was of any use."""
    print_refused(err, summary)
    if as_json:
        print_json(summary)
    else:
        print_ranks(out, summary)
    if not summary["scored"]:
        raise typer.Exit(3)


def refuse(what: str, **options: object) -> None:
    """Raise where an option is given that says nothing here."""
    for name, value in options.items():
        if value is not None:
            raise MillraceError(f"--{name.replace('_', '-')}: expected none with {what}")


def _print_quality(console: Console, quality: dict[str, dict[str, Any]], title: str) -> None:
    metrics = list(next(iter(quality.values())))
    made = table(["", *metrics], right=metrics, title=title)
    for name, values in quality.items():
        made.add_row(name, *("-" if values[m] is None else f"{values[m]:.4f}" for m in metrics))
    show(made, console)


def print_ranks(console: Console, summary: dict[str, Any]) -> None:
    """The summary's counts in one line and its quality as a table."""
    counts = ("events", "positives", "scored", "users", "items", "dead_letters")
    parts = ((f"{name} ", styled(summary[name], "bold")) for name in counts)
    console.print(Text("  ").join(Text.assemble(*part) for part in parts))
    _print_quality(console, summary["quality"], "Rankings as they were made")
    if "ratings" in summary:
        _print_quality(console, summary["ratings"]["quality"], "Ratings as they were foretold")
    best = summary["beside_best"]
    if best is not None:
        console.print(
            f"beside {best['member']}, its best member: {best['hit_10']:+.4f} of hit_10, McNemar's"
            f" p {best['p']:.2g}; {summary['positives'] / max(summary['seconds'], 1e-9):,.0f}"
            " interactions/s"
        )
    if summary["second_stage"] is not None:
        _print_stage(console, summary["second_stage"], summary["answers"])
    if summary["value"] is not None:
        _print_value(console, summary["value"])
    for note in summary["notes"]:
        console.print(note)


def _print_stage(console: Console, stage: dict[str, Any], answers: int) -> None:
    """How well members tell the places that are taken, and how often they led."""
    metrics = list(stage["quality"]["ensemble"])
    made = table(["", *metrics], right=metrics, title="Places of lists, taken or not")
    for name, values in stage["quality"].items():
        made.add_row(name, *("-" if values[m] is None else f"{values[m]:.4f}" for m in metrics))
    show(made, console)
    console.print(
        f"members put {stage['led']:,} of {answers:,} answers in order; {stage['learned']:,} of"
        f" {stage['places']:,} places are learned"
    )


def _print_value(console: Console, value: dict[str, dict[str, float | None]]) -> None:
    """How often the first item is taken: of what was shown, and of the best by each estimator."""
    columns = ("value", "low", "high")
    made = table(["", *columns], right=list(columns), title="Lists whose first item is taken")
    for name, told in _ESTIMATES.items():
        figures = (value[name][column] for column in columns)
        made.add_row(told, *("-" if f is None else f"{f:.4f}" for f in figures))
    show(made, console)
    lists = value["lists"]
    console.print(
        f"{lists['all']:,.0f} lists whose horizon is over, for the best ranking worth"
        f" {lists['effective']:,.1f}; bounds hold with 95 %"
    )


_ESTIMATES = {
    "shown": "as shown",
    "ips": "the best first, IPS",
    "snips": "the best first, SNIPS",
    "dr": "the best first, DR",
}

"""A report as a table for people."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from monitoring.parameters.counted import Counted, Row, Totals
from monitoring.parameters.formula import Formula
from monitoring.table import show, table

_COLUMNS = ("layer", "type", "sizes", "formula", "parameters", "buffers", "verdict", "note")
_STYLE = {
    "match": "green",
    "mismatch": "bold red",
    "stale_attr": "bold red",
    "undetermined": "yellow",
    "no_formula": "yellow",
}


def render(report: Counted, console: Console) -> None:
    """Print one line per row, then the totals and the notes; subtotals are in italics.

    Columns that no row fills are left out.
    """
    rows = [_cells(row, report.kind != "estimate") for row in report.rows]
    filled = {name for cells in rows for name, text in cells.items() if text}
    columns = [name for name in _COLUMNS if name in filled]
    made = table(columns, ("sizes", "formula", "note"), right=("parameters", "buffers"))
    for row, cells in zip(report.rows, rows, strict=True):
        style = "italic" if row.subtotal else "" if _says_anything(row) else "dim"
        made.add_row(*(cells[name] for name in columns), style=style)
    console.print(Text(report.target, style="bold"))
    show(made, console)
    for line in _summary(report):
        console.print(line, highlight=False, markup=False)


def _cells(row: Row, judged: bool) -> dict[str, str]:
    verdict = f"[{_STYLE[row.verdict]}]{row.verdict}[/]"
    return {
        "layer": escape(row.path) or ".",
        "type": escape(row.type),
        "sizes": escape(row.config),
        "formula": _formula(row.formula),
        "parameters": f"{row.held:,}" + ("" if row.unit == "scalar" else f" {row.unit}"),
        "buffers": f"{row.buffers:,}" if row.buffers else "",
        "verdict": verdict if judged else "",
        "note": escape(_note(row)),
    }


def _says_anything(row: Row) -> bool:
    return bool(row.held or row.buffers or row.unregistered or row.verdict != "match")


def _formula(formula: Formula | None) -> str:
    if formula is None:
        return "-"
    if formula.text == formula.numbers:
        return formula.text
    return f"{formula.text} = {formula.numbers}"


def _note(row: Row) -> str:
    notes = [row.note] if row.note else []
    if row.role != "learned":
        notes.insert(0, row.role)
    if row.alias_of and "the same module" not in row.note:
        notes.append(f"shares {row.aliased:,} with {', '.join(row.alias_of)}")
    elif row.alias_of:
        notes.append(", ".join(row.alias_of))
    if row.unregistered:
        notes.append(f"{row.unregistered:,} scalars")
    if row.keras is not None:
        notes.append(f"Keras: {row.keras.text} = {row.keras.value:,}")
    if row.expected_active is not None:
        notes.append(f"expected active under dropout: {_decimal(row.expected_active)}")
    return "; ".join(notes)


def _decimal(value: float) -> str:
    return f"{value:,.1f}".removesuffix(".0")


def _summary(report: Counted) -> list[str]:
    totals = report.totals
    lines = [
        f"parameters  {totals.held:,}  (trainable {totals.trainable:,}, frozen {totals.frozen:,})"
    ]
    lines += [f"{name:<11} {value:,}" for name, value in _others(totals)]
    if totals.expected_active is not None:
        lines.append(f"active      {_decimal(totals.expected_active)} expected in a training step")
    if totals.keras is not None:
        lines.append(f"Keras       {totals.keras:,} by its convention")
    if report.kind != "estimate":
        lines.append(f"verdict     {totals.verdict}")
    if not totals.exact:
        lines.append("exact       no: walked without knowing the model's kind")
    return lines + [f"note        {note}" for note in report.notes]


def _others(totals: Totals) -> list[tuple[str, int]]:
    named = [
        ("buffers", totals.buffers),
        ("optimizer", totals.optimizer),
        ("unregistered", totals.unregistered),
        ("bytes", totals.bytes),
    ]
    shown = {"learned", "optimizer"}
    named += [(role, n) for role, n in totals.roles.items() if role not in shown]
    named += [(f"{unit}s", n) for unit, n in totals.units.items() if unit != "scalar"]
    return [(name, value) for name, value in named if value]

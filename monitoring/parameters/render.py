"""A report as a table for people. Called by ``command.py`` and by whoever has a rich console."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from monitoring.parameters.formula import Formula
from monitoring.parameters.report import Report, Row, Totals

_STYLE = {
    "match": "green",
    "mismatch": "bold red",
    "stale_attr": "bold red",
    "undetermined": "yellow",
    "no_formula": "yellow",
}


def render(report: Report, console: Console) -> None:
    """Print one line per row, then the totals and the notes; subtotals are in italics."""
    table = Table(title=report.target, title_justify="left", header_style="bold", pad_edge=False)
    for name in ("layer", "type", "sizes", "formula"):
        table.add_column(name, overflow="fold")
    for name in ("parameters", "buffers"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    has_notes = any(row.note or row.keras or row.alias_of for row in report.rows)
    if has_notes:
        table.add_column("note", overflow="fold")
    for row in report.rows:
        cells = [
            row.path or ".",
            row.type,
            row.config,
            _formula(row.formula),
            f"{row.held:,}" + ("" if row.unit == "scalar" else f" {row.unit}"),
            f"{row.buffers:,}" if row.buffers else "",
            f"[{_STYLE[row.verdict]}]{row.verdict}[/]" if report.kind != "estimate" else "formula",
        ]
        style = "italic" if row.subtotal else "dim" if not _says_anything(row) else None
        table.add_row(*cells, *([_note(row)] if has_notes else []), style=style)
    console.print(table)
    for line in _summary(report):
        console.print(line, highlight=False)


def _says_anything(row: Row) -> bool:
    return bool(row.held or row.buffers or row.unregistered or row.verdict != "match")


def _formula(formula: Formula | None) -> str:
    if formula is None:
        return "-"
    if formula.text == "0":
        return "0"
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
        notes.append(f"expected active under dropout: {row.expected_active:,g}")
    return "; ".join(notes)


def _summary(report: Report) -> list[str]:
    totals = report.totals
    lines = [
        f"parameters  {totals.held:,}  (trainable {totals.trainable:,}, frozen {totals.frozen:,})"
    ]
    lines += [f"{name:<11} {value:,}" for name, value in _others(totals)]
    if totals.expected_active is not None:
        lines.append(f"active      {totals.expected_active:,g} expected in a training step")
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

"""A report as a table for people."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.text import Text

from monitoring.parameters.counted import Counted, Row, Totals
from monitoring.parameters.formula import Formula
from monitoring.table import show, table
from monitoring.terminal import plain, styled

_COLUMNS = (
    *("layer", "type", "sizes", "output", "formula", "parameters", "buffers", "verdict", "note"),
)
_DETAILS = ("type", "sizes", "output", "formula", "note")
_FOLDS = ("sizes", "formula", "note")
_READABLE = 24
"""Characters below which a formula or a note is folded too often to be read."""
_LABEL = 12
_GAP = 2
"""Characters between two columns; one stands behind the last."""
_STYLE = {
    "match": "green",
    "mismatch": "bold red",
    "stale_attr": "bold red",
    "undetermined": "yellow",
    "no_formula": "yellow",
}


def render(report: Counted, console: Console) -> None:
    """Print the rows, then the totals and the notes; subtotals are in italics.

    Columns that no row fills are left out. Where a line per row does not fit the console, type,
    sizes, formula and note follow the row's name; names stay whole at any width.
    """
    judged = report.kind != "estimate"
    rows = [_cells(row, judged) for row in report.rows]
    columns = [name for name in _COLUMNS if any(cells[name] for cells in rows)]
    width = sum(_GAP + max(len(name), *(_least(name, cells) for cells in rows)) for name in columns)
    if width > console.width + 1:
        columns = [name for name in columns if name not in _DETAILS]
        _join_details(rows, columns, console.width)
    made = table(columns, (*_FOLDS, "layer"), right=("parameters", "buffers"))
    made.columns[0].min_width = max(_longest_line(cells["layer"]) for cells in rows)
    for row, cells in zip(report.rows, rows, strict=True):
        style = "italic" if row.subtotal else "" if _says_anything(row) else "dim"
        texts = [
            Text(cells[name], _STYLE[row.verdict] if name == "verdict" else "") for name in columns
        ]
        made.add_row(*texts, style=style)
    console.print(styled(report.target, "bold"))
    show(made, console)
    for line in _summary(report):
        for part in textwrap.wrap(plain(line), console.width, subsequent_indent=" " * _LABEL):
            console.print(part, highlight=False, markup=False)


def _least(name: str, cells: Mapping[str, str]) -> int:
    """How narrow a cell of a line per row may become."""
    return min(len(cells[name]), _READABLE) if name in _FOLDS else len(cells[name])


def _join_details(rows: Sequence[dict[str, str]], columns: Sequence[str], width: int) -> None:
    """Write what a row says beside its numbers after its name, folded to what they leave."""
    numbers = sum(
        _GAP + max(len(name), *(len(cells[name]) for cells in rows)) for name in columns[1:]
    )
    room = max(width - numbers - 1, *(len(cells["layer"]) for cells in rows))
    for cells in rows:
        leaving = f"to {cells['output']}" if cells["output"] else ""
        kind = " ".join(filter(None, (cells["type"], cells["sizes"], leaving)))
        formula = "" if cells["formula"] in ("-", "0") else cells["formula"]
        detail = "; ".join(filter(None, (kind, formula, cells["note"])))
        lines = textwrap.wrap(
            f"{cells['layer']}  {detail}",
            room,
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        cells["layer"] = "\n".join(lines)


def _longest_line(text: str) -> int:
    return max(map(len, text.splitlines()))


def _cells(row: Row, judged: bool) -> dict[str, str]:
    cells = {
        "layer": row.path or ".",
        "type": row.type,
        "sizes": row.config,
        "output": row.output,
        "formula": _formula(row.formula),
        "parameters": f"{row.held:,}" + ("" if row.unit == "scalar" else f" {row.unit}"),
        "buffers": f"{row.buffers:,}" if row.buffers else "",
        "verdict": row.verdict if judged else "",
        "note": _note(row),
    }
    return {name: plain(text) for name, text in cells.items()}


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

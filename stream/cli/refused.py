"""The dead letters of a played file, told on a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console


def print_refused(console: Console, summary: dict[str, Any]) -> None:
    """The first dead letters with their rows; what to do about each kind once."""
    told: set[str] = set()
    for letter in summary["first_dead_letters"]:
        got = f": {letter['got']}" if "got" in letter else ""
        advice = letter.get("advice", "")
        console.print(
            f"{letter['file']} row {letter['row']}: {letter['reason']}: {letter['error']}{got}"
        )
        if advice and advice not in told:
            console.print(f"  {advice}")
            told.add(advice)
    more = summary["dead_letters"] - len(summary["first_dead_letters"])
    if more > 0:
        console.print(f"and {more:,} more dead letters; --dead-letters-out FILE writes them all")

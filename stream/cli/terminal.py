"""What every `millrace` command shares: reading the configuration, printing, errors to exit status.

No logic of any command.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from models.base import MillraceError
from monitoring.table import SHOWN, show, table
from monitoring.terminal import Terminal, in_json, styled

out = Terminal()
err = Terminal(stderr=True)

ConfigPath = Annotated[Path, typer.Argument(help="TOML configuration.", metavar="CONFIG")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object for machines.")]


@contextmanager
def reported() -> Iterator[None]:
    """Print our own errors as one message and turn them into the exit status."""
    from stream.contract.log import Fenced, LogError
    from stream.settings.load import ConfigError
    from stream.settings.upgrade import UnreadableConfig
    from stream.state.follow import Diverged
    from stream.state.generations import CheckpointError, Locked
    from stream.tools.operate import CommandRefused

    try:
        yield
    except (ConfigError, CommandRefused) as error:
        _tell(error)
        raise typer.Exit(2) from error
    except (CheckpointError, Locked, Diverged, UnreadableConfig) as error:
        _tell(error)
        raise typer.Exit(4) from error
    except (Fenced, LogError, MillraceError) as error:
        _tell(error)
        raise typer.Exit(3) from error


def _tell(error: Exception) -> None:
    first, *more = str(error).split("\n")
    err.print(styled("error", "bold red"), first)
    for line in more:
        err.print(" ", line)


def tell_unexpected(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """A traceback on standard error; what stands in its message is text there too."""
    for part in traceback.format_exception(kind, error, trace):
        for line in part.rstrip("\n").split("\n"):
            err.print(line)


def load(path: Path) -> Any:
    """The configuration in a file, with the environment laid over it."""
    from stream.settings.load import foreign
    from stream.settings.load import load as read

    if names := foreign(os.environ):
        err.print(
            styled("warning", "yellow"),
            f"environment: {', '.join(names)}: no part of the configuration is called so; not used",
        )
    return read(path, os.environ)


def print_json(value: object) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(in_json(value) + "\n")


def print_rows(
    rows: list[dict[str, Any]], as_json: bool, folds: Sequence[str] = (), none: str = "none"
) -> None:
    """Rows of one shape as a table, or as JSON; ``none`` is said where there are none."""
    if as_json:
        print_json(rows)
        return
    if not rows:
        out.print(none)
        return
    made = table(list(rows[0]), folds)
    for row in rows:
        made.add_row(*map(str, row.values()))
    show(made, out)


def print_quality(console: Console, summary: dict[str, Any]) -> None:
    """The summary's counts in one line and its quality as a table."""
    labelled = () if summary["target"] == "ranking" else ("labels",)
    counts = ("events", "scores", *labelled, "dead_letters")
    parts = ((f"{name} ", styled(summary[name], "bold")) for name in counts)
    console.print(Text("  ").join(Text.assemble(*part) for part in parts))
    reasons = summary.get("dead_letter_reasons") or {}
    if reasons:
        console.print("dead letters: " + ", ".join(f"{k} {v:,}" for k, v in reasons.items()))
    metrics = SHOWN[summary["target"]]
    unit = f", in {summary['unit']}" if "unit" in summary else ""
    title = f"Quality of the scores as they were made{unit}"
    made = table(["", *metrics], right=metrics, title=title)
    members = summary.get("members", {})
    for name, values in summary["quality"].items():
        failed = members.get(name, {}).get("state", "working") != "working"
        cells = ["-" if (v := values.get(m)) is None else f"{v:.4f}" for m in metrics]
        made.add_row(f"{name} (failed)" if failed else name, *cells)
    show(made, console)

"""The `millrace ray` commands: a service's processes as actors of Ray; no logic."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from stream.cli.terminal import ConfigPath, Json, err, out, print_json, print_rows, reported

ray_app = typer.Typer(
    help="Run the scorers and the learner of a service as supervised actors of Ray.",
    no_args_is_help=True,
)
Address = Annotated[
    str | None,
    typer.Option(
        help="Of a Ray that is there; default: one of the service's own, on this machine alone.",
        metavar="HOST:PORT",
    ),
]
Wait = Annotated[float, typer.Option(min=0, help="Seconds, for each part of it.")]


@ray_app.command()
def up(
    config: ConfigPath, address: Address = None, wait: Wait = 180.0, as_json: Json = False
) -> None:
    """Start all processes of CONFIG, each started again when it ends, and wait until all are ready.

    Where one ends before it was ready none is left. Ray must be there: `pip install millrace[ray]`.
    """
    from stream.run.placed.cluster import Placement

    with reported(), err.status("Starting"):
        rows = Placement(config, os.environ, address).up(wait)
    _tell(rows, as_json)


@ray_app.command()
def status(config: ConfigPath, address: Address = None, as_json: Json = False) -> None:
    """Show each process: its state, where it is, how often it was started, how it ended last."""
    from stream.run.placed.cluster import Placement

    with reported():
        rows = Placement(config, os.environ, address).status()
    _tell(rows, as_json)


@ray_app.command()
def down(
    config: ConfigPath, address: Address = None, wait: Wait = 180.0, as_json: Json = False
) -> None:
    """End all in order, scorers first, each with a checkpoint; then a Ray of the service's own."""
    from stream.run.placed.cluster import Placement

    with reported(), err.status("Ending"):
        rows = Placement(config, os.environ, address).down(wait)
    if as_json:
        print_json(rows)
    else:
        out.print(f"{len(rows)} processes ended in order")


def _tell(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(rows)
        return
    heads = ("name", "state", "pid", "actor", "node", "url", "starts", "status")
    shown = [{h: "" if (v := row.get(h)) is None else v for h in heads} for row in rows]
    print_rows(shown, as_json, ("url",))
    for row in rows:
        if row.get("said"):
            out.print(f"{row['name']} ended with status {row['status']}; it said:\n{row['said']}")

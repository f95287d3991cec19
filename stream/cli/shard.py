"""The `millrace shard` commands: another number of scorers; no logic."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from stream.cli.terminal import ConfigPath, Json, err, out, print_json, print_rows, reported

shard_app = typer.Typer(
    help="Give a service of many processes another number of scorers.", no_args_is_help=True
)
Count = Annotated[int, typer.Option(help="How many scorers there shall be.", min=1, max=1024)]


@shard_app.command("plan")
def plan(config: ConfigPath, count: Count, as_json: Json = False) -> None:
    """Say what would move, as of the newest checkpoints, and about how long it takes.

    Changes nothing; scorers may run. CONFIG is the file that they run under.
    """
    from stream.tools.scaled.move import plan as planned

    with reported():
        found = planned(config, os.environ, count)
    if as_json:
        print_json(found._asdict() | {"ways": [way._asdict() for way in found.ways]})
        return
    rows = [
        {
            "from": f"scorer-{way.source}",
            "to": f"scorer-{way.to}",
            "partitions": ", ".join(map(str, way.partitions)),
            "rows": f"{way.rows:,}",
            "MB": f"{way.bytes / 1e6:,.1f}",
        }
        for way in found.ways
    ]
    print_rows(rows, as_json, ("partitions",))
    total, size = sum(w.rows for w in found.ways), sum(w.bytes for w in found.ways)
    out.print(
        f"{found.before} scorers become {found.after}: {total:,} events that wait, "
        f"{size / 1e6:,.1f} MB, are written anew in about {found.seconds:,.1f} s"
    )


@shard_app.command("move")
def move(config: ConfigPath, count: Count, as_json: Json = False) -> None:
    """Let there be so many scorers, with all that the stopped ones hold; the learner may run.

    Give it the state directories of all scorers. Until its one transaction nothing has changed;
    after it, set `shard.count` in the file and start the new scorers.
    """
    from stream.tools.scaled.move import move as moved

    with reported():
        done = moved(config, os.environ, count, err.print)
    if as_json:
        print_json(done)
        return
    out.print(
        f"{done['before']} scorers became {done['count']}, with {done['rows']:,} events that wait,"
        f" in {done['seconds']:,.1f} s. Set shard.count = {done['count']} in {config}, and start"
        " them; the learner takes the new number at its next start"
    )

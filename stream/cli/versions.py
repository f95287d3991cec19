"""The `millrace models` commands: which versions of members are kept; no logic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stream.cli.terminal import ConfigPath, Json, load, out, print_json, print_rows, reported

models_app = typer.Typer(
    help="List the kept versions of members, take one out to a file, bring one in.",
    no_args_is_help=True,
)


@models_app.command("list")
def list_(config: ConfigPath, as_json: Json = False) -> None:
    """List the kept versions as of the newest checkpoint, with how good each was then."""
    from stream.tools.versions import listed, shown

    with reported():
        loaded = load(config)
        rows = listed(loaded)
    print_rows(rows if as_json else shown(rows, loaded), as_json, ("cause",), "none is kept yet")


@models_app.command("export")
def export(
    config: ConfigPath,
    version: Annotated[str, typer.Argument(help="8 or more digits of the version's digest.")],
    to_file: Annotated[Path, typer.Argument(help="Where to write it.")],
    as_json: Json = False,
) -> None:
    """Write a kept version to a file, for another shard with the same member."""
    from stream.tools.versions import export as write

    with reported():
        digest = write(load(config), version, to_file)
    if as_json:
        print_json({"artefact": digest, "file": str(to_file)})
    else:
        out.print(f"{to_file} is artefact {digest}")


@models_app.command("import")
def import_(
    config: ConfigPath,
    member: Annotated[str, typer.Argument(help="The member that it is a version of.")],
    file: Annotated[Path, typer.Argument(help="As `models export` wrote it.")],
    as_json: Json = False,
) -> None:
    """Put a version from a file beside the checkpoints; a command then installs it."""
    from stream.tools.versions import bring

    with reported():
        digest = bring(load(config), member, file)
    if as_json:
        print_json({"artefact": digest})
    else:
        out.print(f"kept; install it by: millrace control install {config} {member} {digest}")

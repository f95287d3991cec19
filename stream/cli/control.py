"""The `millrace control` commands, made of the table of commands; no logic.

What a person writes is checked as a record is, by ``stream/tools/operate.py``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from stream.cli.terminal import ConfigPath, Json, load, out, print_json, reported
from stream.contract.commands import COMMANDS, Command, fields

control_app = typer.Typer(
    help="Append a command to the control topic; the service answers with an audit record.",
    no_args_is_help=True,
)

Wait = Annotated[float, typer.Option(min=0, help="Seconds until a service follows it.")]


def word(name: str) -> str:
    """What a command is called on the command line: ``set_threshold`` is ``threshold``."""
    return name.removeprefix("set_").replace("_", "-")


def _parameter(field: msgspec.inspect.Field) -> inspect.Parameter:
    """A field as text: an argument where it is required, else an option."""
    told = field.type.extra_json_schema if isinstance(field.type, msgspec.inspect.Metadata) else {}
    help_ = (told or {}).get("description")
    given: Any = (
        typer.Argument(help=help_, metavar=field.name.upper())
        if field.required
        else typer.Option(help=help_)
    )
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        annotation=Annotated[str if field.required else str | None, given],
        default=inspect.Parameter.empty if field.required else None,
    )


def _made(name: str, kind: type[Command]) -> Callable[..., None]:
    def send(config: Path, as_json: bool, wait: float, **values: str | None) -> None:
        from stream.tools.operate import send_command

        given = {field: value for field, value in values.items() if value is not None}
        with reported():
            where = send_command(load(config), name, given, wait)
        if as_json:
            print_json(where)
            return
        place = f"{where['topic']}/{where['partition']} at offset {where['offset']}"
        seq = where["seq"]
        followed = "not followed yet" if seq is None else f"followed by step {seq:,}"
        out.print(f"appended to {place}; {followed}")

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter("config", keyword, annotation=ConfigPath),
        *map(_parameter, fields(kind)),
        inspect.Parameter("wait", keyword, annotation=Wait, default=5.0),
        inspect.Parameter("as_json", keyword, annotation=Json, default=False),
    ]
    made: Any = send
    made.__signature__ = inspect.Signature(parameters)
    made.__annotations__ = {p.name: p.annotation for p in parameters}
    made.__doc__ = kind.__doc__
    return send


for _name, _kind in COMMANDS.items():
    control_app.command(word(_name))(_made(_name, _kind))

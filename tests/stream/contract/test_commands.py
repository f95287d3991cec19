"""One table: what a command is decides how it comes in, what it does and what is told of it."""

from __future__ import annotations

import getpass
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from stream.cli.control import control_app, word
from stream.cli.reference import markdown
from stream.contract.commands import COMMANDS, fields
from stream.contract.letters import DeadLetter
from stream.contract.records import Record
from stream.decode.codec import Codec
from stream.http.ingest import Ingest
from stream.http.openapi.document import document
from stream.http.problem import Problem
from stream.run.assemble import build_engine
from tests.stream.cli.test_cli import toml
from tests.support.factory import Feed, config, decoded, raw_config
from tests.support.runner import contents

PAGE = Path(__file__).parents[3] / "docs" / "commands.md"
WRONG: dict[str, dict[str, Any]] = {
    "member": {"command": "freeze", "member": "nosuchmember"},
    "too large": {"command": "set_threshold", "threshold": 7.5},
    "not a number": {"command": "set_threshold", "threshold": "nan"},
    "lines of its own": {"command": "checkpoint", "reason": "none\n      8  released by root"},
    "longer than a line": {"command": "checkpoint", "ticket": "T" * 101},
    "at the bound": {"command": "set_threshold", "threshold": 0},
}
"""What no engine would follow, each with one wrong field."""


def control(path: Path, command: dict[str, Any]) -> Any:
    """Give a command on the command line."""
    own = {field.name: field.required for field in fields(COMMANDS[command["command"]])}
    words = []
    for name, value in command.items():
        if name != "command":
            words += [str(value)] if own[name] else [f"--{name}", str(value)]
    return CliRunner().invoke(control_app, [word(command["command"]), str(path), *words])


@pytest.mark.parametrize("command", WRONG.values(), ids=WRONG)
def test_every_entrance_refuses_what_no_engine_would_follow(
    tmp_path: Path, command: dict[str, Any]
) -> None:
    """Command line, HTTP and codec name the field, and nothing is appended."""
    c, path = config(tmp_path), tmp_path / "c.toml"
    path.write_text(toml(raw_config(tmp_path)))
    raw = json.dumps(command).encode()
    field = list(command)[1]
    letter = Codec(c).command(Record("control", 0, 0, None, raw))
    assert isinstance(letter, DeadLetter)
    assert letter.reason == "command"
    assert letter.error.endswith(f"at `$.{field}`")
    with pytest.raises(Problem) as refused:
        Ingest(c).command(raw, "http")
    assert refused.value.kind == "invalid"
    assert refused.value.members["errors"][0]["path"] == f"$.{field}"
    done = control(path, command)
    assert done.exit_code == 2
    assert f"{field} {str(command[field])!r}" in done.stderr
    assert "Nothing was appended" in done.stderr
    assert not (tmp_path / "log.db").exists()


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (
            {"command": "rollback", "to": "LAST"},
            "Expected `last_good`, a step, or 8 or more digits of a digest; got 'LAST'",
        ),
        (
            {"command": "freeze", "member": "linear", "reason": "a\nb"},
            "Expected text without control characters; got 'a\\nb'",
        ),
        (
            {"command": "challenge", "member": "linear", "block": "0d"},
            "Expected event time above 0, as `1d`; left out: as configured; got '0d'",
        ),
    ],
)
def test_a_pattern_is_told_as_what_it_means(
    tmp_path: Path, command: dict[str, Any], expected: str
) -> None:
    """By the codec, and so by HTTP, and by the command line."""
    path = tmp_path / "c.toml"
    path.write_text(toml(raw_config(tmp_path)))
    record = Record("control", 0, 0, None, json.dumps(command).encode())
    letter = Codec(config(tmp_path)).command(record)
    assert isinstance(letter, DeadLetter)
    assert letter.error.startswith(expected)
    assert expected in control(path, command).stderr


@pytest.mark.parametrize(
    ("target", "threshold", "error"),
    [
        ({"type": "number"}, 7.5, None),
        ({"type": "number"}, -3, None),
        ({"type": "classes", "classes": ["a", "b"], "alert": "a"}, 0.4, None),
        (
            {"type": "classes", "classes": ["a", "b"], "alert": "a"},
            7.5,
            "Expected above 0 and below 1; got 7.5 - at `$.threshold`",
        ),
        (
            {"type": "classes", "classes": ["a", "b"]},
            0.4,
            "Expected no threshold: target.alert names no class that alerts; got 0.4"
            " - at `$.threshold`",
        ),
    ],
)
def test_a_threshold_is_one_of_the_target(
    tmp_path: Path, target: dict[str, Any], threshold: float, error: str | None
) -> None:
    """Of a number any, of a probability one within its bounds, none where nothing alerts."""
    members = [{"name": "linear", "type": "logistic"}]
    features = [{"name": "amount", "type": "number", "field": "amount"}]
    c = config(tmp_path, target=target, members=members, features=features)
    raw = json.dumps({"command": "set_threshold", "threshold": threshold}).encode()
    found = Codec(c).command(Record("control", 0, 0, None, raw))
    assert (found.error if isinstance(found, DeadLetter) else None) == error


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "configure"])
def test_a_command_does_the_same_from_every_entrance(tmp_path: Path, name: str) -> None:
    """Command line and HTTP append the same record; an engine answers it with the table's event."""
    c, path = config(tmp_path), tmp_path / "c.toml"
    path.write_text(toml(raw_config(tmp_path)))
    examples = document(c)["components"]["schemas"]["Command"]["examples"]
    command = next(e for e in examples if e["command"] == name)
    command |= {"reason": "drift of the week", "ticket": "OPS-7"}
    assert control(path, command).exit_code == 0
    (appended,) = contents(c, c.topics.control)
    claimed = command | {"actor": "somebody else"}
    by_http = Ingest(c).command(json.dumps(claimed).encode(), "somebody").value
    records = [json.loads(value or b"") for value in (appended, by_http)]
    assert [r.pop("actor") for r in records] == [f"os:{getpass.getuser()}", "somebody"]
    assert records == [command, command]
    engine, feed = build_engine(c, None), Feed()
    engine.step(msgspec.structs.replace(feed.batch(), checkpoint=True))  # versions are kept
    if name in ("promote", "drop"):
        begun = {"command": "challenge", "member": command["member"]}
        engine.step(feed.batch(("control", [begun])))
    if name in ("rebuild", "withdraw"):
        engine.step(feed.batch(("control", [{"command": "rebuild", "member": "linear"}])))
        command |= {"member": "linear"}
    if name == "retract":
        engine.step(feed.batch(("labels", [{"id": command["id"], "fraud": True}])))
    batch = feed.batch(("control", [command]))
    named = engine.wanted(batch.slices)
    models = {(member, digest): engine.ensemble.fresh(member, 0) for member, digest in named}
    out = engine.step(msgspec.structs.replace(batch, models=models))
    record = next(r for r in decoded(out.audit) if "reason" in r)
    told = record["event"], record["reason"], record["ticket"]
    assert told == (COMMANDS[name].event, "drift of the week", "OPS-7")


def test_every_field_says_what_it_takes() -> None:
    """Its description stands in the schema, the help and the page."""
    schemas = document(config(Path()))["components"]["schemas"]["Command"]["oneOf"]
    for name, kind in COMMANDS.items():
        (schema,) = (s for s in schemas if s["title"] == name)
        assert schema["description"] == kind.__doc__
        for field in fields(kind):
            assert schema["properties"][field.name]["description"] in markdown()


def test_the_page_is_what_is_generated() -> None:
    """docs/commands.md is up to date; `make docs` writes it."""
    assert PAGE.read_text(encoding="utf-8") == markdown(), "run `make docs`"


NEW = '''
class Forget(Command, frozen=True, tag="forget_it"):
    """A command that was not in the table before."""

    event = "refit"
    member: Member
    rows: Annotated[int, msgspec.Meta(ge=1, description="how many", examples=[3])] = 7

    def apply(self, engine: Controlled) -> Done:
        engine.forgotten = (self.member, self.rows)
        return Done(self.member, {"rows": self.rows})


COMMANDS: '''
PROGRAM = """
import importlib.util, json, sys
from pathlib import Path

name = "stream.contract.commands"
spec = importlib.util.find_spec(name)
module = sys.modules[name] = importlib.util.module_from_spec(spec)
source = Path(spec.origin).read_text().replace("COMMANDS: ", sys.argv[1], 1)
exec(compile(source, spec.origin, "exec"), module.__dict__)

from typer.testing import CliRunner
from stream.cli.control import control_app
from stream.cli.reference import markdown
from stream.http.openapi.document import document
from stream.run.assemble import build_engine
from tests.support.factory import Feed, config, decoded
from tests.support.runner import contents

path = Path(sys.argv[2])
c = config(path.parent)
send = lambda *words: CliRunner().invoke(control_app, ["forget-it", str(path), *words]).exit_code
command = {"command": "forget_it", "member": "linear", "rows": 5}
assert send("nobody") == send("linear", "--rows", "0") == 2
assert send("linear", "--rows", "5") == 0
(record,) = contents(c, c.topics.control)
assert json.loads(record).items() >= command.items()
assert document(c)["components"]["schemas"]["Command"]["examples"][-1] == command | {"rows": 3}
engine = build_engine(c, None)
out = engine.step(Feed().batch(("control", [record])))
assert engine.forgotten == ("linear", 5)
assert decoded(out.audit)[-1]["event"] == "refit"
assert "millrace control forget-it CONFIG MEMBER [--rows]" in markdown()
"""


def test_a_new_command_is_one_struct(tmp_path: Path) -> None:
    """A struct more in the table: command line, HTTP, engine and page know it."""
    path = tmp_path / "c.toml"
    path.write_text(toml(raw_config(tmp_path)))
    run = [sys.executable, "-c", PROGRAM, NEW, str(path)]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

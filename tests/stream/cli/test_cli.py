"""The `millrace` command, as a person or a script calls it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from stream.cli.terminal import tell_unexpected
from tests.support.factory import event, label, raw_config
from tests.support.runner import append
from tests.support.waiting import DEADLINE_S, wait_until

EXAMPLE = Path(__file__).parents[3] / "examples" / "fraud.toml"
COMMAND = [sys.executable, "-P", "-m", "stream.cli"]


def millrace(*args: object, status: int = 0, cwd: Path | None = None) -> str:
    """Run the command; returns its standard output."""
    done = subprocess.run(
        [*COMMAND, *map(str, args)],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return done.stdout + (done.stderr if status else "")


def toml(value: dict[str, Any]) -> str:
    """A raw configuration as TOML (only what the tests' configurations hold)."""
    lines = [f"{k} = {json.dumps(v)}" for k, v in value.items() if not _table(v)]
    for key, table in value.items():
        if isinstance(table, dict):
            lines += [f"[{key}]", *_items(table)]
        elif _table(table):
            for item in table:
                lines += [f"[[{key}]]", *_items(item)]
    return "\n".join(lines) + "\n"


def _table(value: object) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and isinstance(value[0], dict))


def _items(table: dict[str, Any]) -> list[str]:
    out = []
    for key, value in table.items():
        inline = isinstance(value, dict)
        text = ", ".join(f"{k} = {json.dumps(v)}" for k, v in value.items()) if inline else ""
        out.append(f"{key} = {{ {text} }}" if inline else f"{key} = {json.dumps(value)}")
    return out


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration file on the embedded log."""
    path = tmp_path / "c.toml"
    path.write_text(toml(raw_config(tmp_path)))
    return path


def test_check_says_yes(file: Path) -> None:
    """A good file is summed up; --json gives the whole configuration with its defaults."""
    assert "is valid" in millrace("check", file)
    found = json.loads(millrace("check", file, "--json"))
    assert found["config"]["limits"]["batch"] == 4096
    assert found["pending"]["per_s"] == found["pending"]["events"] / (30 * 86_400)


def test_check_reports_every_mistake(file: Path, tmp_path: Path) -> None:
    """Five mistakes, five lines, exit status 2."""
    raw = raw_config(tmp_path)
    raw["label"]["horizon"] = "soon"
    raw["ensemble"] = {"threshold": 2}
    raw["members"][0]["type"] = "logistik"
    raw["features"][0]["field"] = "amont"
    raw["log"]["pth"] = "x"
    file.write_text(toml(raw))
    printed = millrace("check", file, status=2)
    assert "5 problem(s)" in printed
    for path in (
        "label.horizon",
        "ensemble.threshold",
        "members[0].type",
        "features[0]",
        "log.pth",
    ):
        assert path in printed
    found = json.loads(subprocess.run(
        [*COMMAND, "check", str(file), "--json"], capture_output=True, text=True, check=False
    ).stdout)  # fmt: skip
    assert len(found["problems"]) == 5


def test_a_file_is_evaluated_the_same_twice(tmp_path: Path) -> None:
    """Same seed, same file; same file, same summary to the byte; scores agree with scikit-learn."""
    data = tmp_path / "f.jsonl"
    millrace("simulate", "--events", 3000, "--seed", 7, "--out", data)
    first = data.read_bytes()
    millrace("simulate", "--events", 3000, "--seed", 7, "--out", data)
    assert data.read_bytes() == first
    config = tmp_path / "c.toml"
    config.write_text(
        (Path(__file__).parents[3] / "examples" / "fraud.toml")
        .read_text()
        .replace('state_dir = "state/fraud"', f'state_dir = "{tmp_path}/state"')
    )
    scores = tmp_path / "s.parquet"
    run = ["evaluate", config, "--data", data, "--label-delay", "1d", "--json"]
    summary = millrace(*run, "--scores-out", scores)
    assert millrace(*run) == summary
    found = json.loads(summary)
    assert found["events"] == found["scores"] == 3000
    table = pq.read_table(scores).to_pydict()
    learned = [i for i, cold in enumerate(table["cold"]) if not cold]
    y, p = ([table[column][i] for i in learned] for column in ("label", "score"))
    quality = found["quality"]["ensemble"]
    assert quality["roc_auc"] == pytest.approx(roc_auc_score(y, p), abs=1e-6)
    assert quality["log_loss"] == pytest.approx(log_loss(y, p), abs=1e-6)


def test_wrong_input_is_explained(file: Path, tmp_path: Path) -> None:
    """A missing file, an unknown format and a wrong delay are sentences, not tracebacks."""
    out = millrace("evaluate", file, "--data", tmp_path / "none.jsonl", status=3)
    assert "none.jsonl" in out
    out = millrace("evaluate", file, "--data", file, status=3)
    assert ".jsonl" in out
    data = tmp_path / "d.jsonl"
    data.write_text(json.dumps(event(1)) + "\n")
    out = millrace("evaluate", file, "--data", data, "--label-delay", "soon", status=3)
    assert "expected a duration" in out
    for text in (out,):
        assert "Traceback" not in text


def test_what_a_record_says_is_no_markup(file: Path, tmp_path: Path) -> None:
    """Keys that look like markup or move the cursor are told; no line is forged."""
    data = tmp_path / "d.jsonl"
    rows = [event(i) | {key: 1} for i, key in enumerate((r"\[/nope]", "\x1b[2J\ndone", "\u202e"))]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    file.write_text(file.read_text().replace("[event]", '[event]\nunknown_fields = "reject"'))
    out = millrace("evaluate", file, "--data", data, status=3)
    assert "Traceback" not in out
    assert r"\[/nope]" in out
    assert r"\u001b[2J\ndone" in out
    assert not {"\x1b", "\u202e"} & set(out)
    assert "done" not in out.splitlines()


def test_an_unexpected_error_is_text_too(capsys: pytest.CaptureFixture[str]) -> None:
    """A traceback keeps its own lines; its message makes none."""
    error = ValueError("\x1b[2J\u202e[bold]")
    tell_unexpected(type(error), error, None)
    assert capsys.readouterr().err == "ValueError: \\u001b[2J\\u202e[bold]\n"


def test_the_daemon_runs_until_a_signal(file: Path, tmp_path: Path) -> None:
    """`run` scores what comes, answers commands, and on SIGTERM saves its state and ends with 0."""
    from stream.settings.load import load

    config = load(file, {})
    append(config, ("events", [event(i) for i in range(50)]), ("labels", [label(1)]))
    daemon = subprocess.Popen(
        [*COMMAND, "run", str(file)], stderr=subprocess.PIPE, env=os.environ | {"TERM": "dumb"}
    )
    try:
        sent = json.loads(millrace("control", "freeze", file, "linear", "--json"))
        assert sent["topic"] == "control"
        assert sent["seq"] >= 1
        refused = millrace("control", "rollback", file, "last_good", "--member", "linear", status=2)
        assert "refused it: linear: expected a version that is kept" in refused
        wait_until(lambda: len(_audit(config)) >= 3, "the command's audit record")
        events = [json.loads(a)["event"] for a in _audit(config)]
        assert events == ["created", "created", "frozen"]
    finally:
        daemon.send_signal(signal.SIGTERM)
        _, log = daemon.communicate(timeout=DEADLINE_S)
    assert daemon.returncode == 0, log.decode()
    generation, *_ = json.loads(millrace("state", file, "--json"))
    assert generation["verdict"] == "good"
    replayed = json.loads(millrace("replay", file, "--to", generation["seq"], "--json"))
    assert replayed["digest"] == replayed["journal_digest"] == generation["digest"]
    topics = {
        r["topic"]: r["records"] for r in json.loads(millrace("topics", "list", file, "--json"))
    }
    assert topics == {"control": 2, "events": 50, "labels": 1}
    told = millrace("control", "release", file, "linear", "--wait", 0)
    assert told == "appended to control/0 at offset 2; not followed yet\n"


def _audit(config: Any) -> list[bytes]:
    from tests.support.runner import contents

    return [v for v in contents(config, "audit") if v]


def test_the_demo_sums_up_in_json() -> None:
    """A short demo scores every good event, learns labels and does better than chance."""
    found = json.loads(millrace("demo", "--seconds", 4, "--port", 0, "--json"))
    assert found["scores"] == found["events"] - found["dead_letters"]
    assert found["labels"] > 0
    assert found["quality"]["ensemble"]["roc_auc"] > 0.55
    assert set(found["quality"]) >= {"ensemble", "mlp", "bayes"}


def test_the_demo_of_a_number_shows_its_errors() -> None:
    """The table that a demo ends with has the metrics of its kind's target."""
    printed = millrace("demo", "--kind", "arrival", "--seconds", 2, "--rate", 300, "--port", 0)
    assert " mae " in printed
    assert "roc_auc" not in printed
    assert "events/s" in printed


def test_the_demo_of_a_shop_answers_lists() -> None:
    """Every request that was read is answered; the table has the ranking, and its members."""
    options = ("--kind", "shop", "--seconds", 3, "--rate", 500, "--port", 0)
    found = json.loads(millrace("demo", *options, "--json"))
    assert found["dead_letters"] <= found["events"] // 100
    assert found["lists"]["shown"] >= found["scores"] > 0
    assert set(found["quality"]) == {"ensemble", "popular", "cooccurrence", "sessions"}


def test_a_state_without_a_checkpoint_says_so(file: Path, tmp_path: Path) -> None:
    """Before the first checkpoint `state` says what a start does; for machines it is no row."""
    assert f"no checkpoint in {tmp_path / 'state'} yet" in millrace("state", file)
    assert json.loads(millrace("state", file, "--json")) == []


def test_simulations_are_summed_up_for_machines(tmp_path: Path) -> None:
    """`simulate --json` says what went where: to a file, and to the topics of a log."""
    out = tmp_path / "f.jsonl"
    found = json.loads(millrace("simulate", "--events", 30, "--out", out, "--json"))
    assert found == {"file": str(out), "events": 30}
    found = json.loads(
        millrace("simulate", "--events", 30, "--config", EXAMPLE, "--json", cwd=tmp_path)
    )
    assert found == {"events": 30, "labels": 0}


IMPORTING = """
import sys, threading, types
daemon = types.ModuleType("stream.run.daemon")
def run_daemon(name):
    print("importing", flush=True)
    threading.Event().wait()
daemon.__getattr__ = run_daemon
sys.modules["stream.run.daemon"] = daemon
from stream.cli.main import app
app(["run", "c.toml"])
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_importing_ends_a_start(number: signal.Signals) -> None:
    """The first start compiles for half a minute; a signal meanwhile ends it as later: status 0."""
    started = subprocess.Popen([sys.executable, "-c", IMPORTING], stdout=subprocess.PIPE)
    assert started.stdout is not None
    assert started.stdout.readline() == b"importing\n"
    started.send_signal(number)
    started.communicate(timeout=DEADLINE_S)
    assert started.returncode == 0


def test_help_names_every_command() -> None:
    """The first thing a person sees lists what there is."""
    printed = millrace("--help")
    for command in ("demo", "run", "check", "simulate", "evaluate", "control", "topics", "replay"):
        assert command in printed
    assert "millrace" in millrace("version")


def test_a_token_is_shown_once_with_its_hash() -> None:
    """The configuration gets the hash; the token's text stands nowhere else."""
    import hashlib
    import re

    printed = millrace("token", "--name", "app")
    token = re.search(r"shown once\): (\S+)", printed)
    assert token is not None
    assert hashlib.sha256(token[1].encode()).hexdigest() in printed
    found = json.loads(millrace("token", "--name", "app", "--json"))
    assert found["sha256"] == hashlib.sha256(found["token"].encode()).hexdigest()

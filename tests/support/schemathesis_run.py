"""The API against its own description: `python -m tests.support.schemathesis_run --examples 2000`.

Starts a real server over the in-memory backend, with a token, and runs the schemathesis command
against `/openapi.json`; the exit status is schemathesis' own, 0 when every check held.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.http_fake import config, running
from tests.support.waiting import DEADLINE_S

TOKEN = "schemathesis"
HOOKS = """
import json
import schemathesis

@schemathesis.serializer("application/x-ndjson")
def ndjson(context, value):
    rows = value if isinstance(value, list) else [value]
    return chr(10).join(json.dumps(row) for row in rows).encode()

@schemathesis.hook
def map_body(context, body):
    # What JSON Schema cannot say. 5.0 is an integer to it, the codec wants no decimal point; and an
    # id's length counts characters to it, UTF-8 bytes to the codec.
    if isinstance(body, dict):
        return {key: map_body(context, value) for key, value in body.items()}
    if isinstance(body, list):
        return [map_body(context, value) for value in body]
    if isinstance(body, str) and len(body) <= 256 < len(body.encode()):
        return body[:64]
    return int(body) if isinstance(body, float) and body.is_integer() else body

@schemathesis.hook
def before_call(context, case, kwargs):
    # Nor can it say that a configuration's text is JSON, that of a challenger's definition JSON of
    # a member, and that one of the whole ensemble has to be there.
    body = case.body
    if isinstance(body, dict) and body.get("command") == "configure":
        if isinstance(body.get("settings"), str):
            case.body = {**body, "settings": json.dumps({"format": body["settings"]})}
        return
    if not isinstance(body, dict) or body.get("command") != "challenge":
        return
    spec, whole = body.get("spec", ""), body.get("member") == "ensemble"
    if isinstance(spec, str) and (whole or spec) and len(spec) <= 10_000:
        member = {"type": "logistic"}
        several = {"combine": "stack", "members": [{"name": "linear", **member}]}
        case.body = {**body, "spec": json.dumps(several if whole else member)}
"""


def run(examples: int, seed: int, phases: str = "examples,coverage,fuzzing,stateful") -> int:
    """Run with this many examples an operation; schemathesis' exit status."""
    token = {
        "name": "all",
        "sha256": hashlib.sha256(TOKEN.encode()).hexdigest(),
        "scopes": ["admin"],
    }
    with (
        tempfile.TemporaryDirectory() as scratch,
        running(config(tokens=[token])) as it,
    ):
        directory = Path(scratch)
        (directory / "ndjson_hooks.py").write_text(HOOKS)
        (directory / "schemathesis.toml").write_text('hooks = "ndjson_hooks.py"\n')
        command = [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{it.url}/openapi.json"),
            *("--header", f"Authorization: Bearer {TOKEN}"),
            *("--max-examples", str(examples), "--seed", str(seed), "--phases", phases),
            # A stream that never ends is no request and answer; test_api.py reads it.
            # And no schema says that a shape is that of its data; a client library reads it.
            *("--exclude-path", "/v1/live", "--exclude-path", "/v2/models/test/infer"),
            *("--request-timeout", f"{DEADLINE_S:g}", "--suppress-health-check", "all"),
            *("--continue-on-failure", "--workers", "1"),
        ]
        return subprocess.run(command, cwd=directory, check=False).returncode


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=100, help="for each operation")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    return run(arguments.examples, arguments.seed)


if __name__ == "__main__":
    sys.exit(main())

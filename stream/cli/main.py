"""The `millrace` command: reads arguments, calls the part that does the work, prints. No logic.

Exit status: 0 done, 1 failed, 2 wrong usage or configuration, 3 the service stopped itself (its
message says why), 4 the state cannot be used; `evaluate` and `audit verify` have their own (see
their help).
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer

from monitoring.terminal import styled
from stream.cli.audit import audit_app
from stream.cli.control import control_app
from stream.cli.ranking import refuse, tell_ranked, tell_ranks
from stream.cli.ray import ray_app
from stream.cli.refused import print_refused
from stream.cli.scaled import tell_scaled
from stream.cli.shard import shard_app
from stream.cli.terminal import (
    ConfigPath,
    Json,
    err,
    load,
    out,
    print_json,
    print_quality,
    print_rows,
    reported,
    tell_unexpected,
)
from stream.cli.versions import models_app
from stream.demo.kinds import KindName

app = typer.Typer(
    name="millrace",
    help="Score events as they arrive, learn from late labels, account for every change.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
topics_app = typer.Typer(help="List or create the topics of a configuration.", no_args_is_help=True)
app.add_typer(control_app, name="control")
app.add_typer(topics_app, name="topics")
app.add_typer(audit_app, name="audit")
app.add_typer(models_app, name="models")
app.add_typer(ray_app, name="ray")
app.add_typer(shard_app, name="shard")


def main() -> None:
    """Entry point: pins the hash seed, then runs the command."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        # Some River estimators iterate over sets of text: their order must not change from one
        # process to the next, or a replay would give other bits.
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-P", "-m", "stream.cli", *sys.argv[1:]])
    os.umask(0o077)  # what libraries write is its owner's alone too
    sys.excepthook = tell_unexpected
    # Standard output is the command's answer: a warning in it would spoil what --json prints.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    app(prog_name="millrace")


@app.command()
def version(as_json: Json = False) -> None:
    """Print the version of Millrace and of what bits depend on."""
    from importlib.metadata import version as installed

    from stream.state.platform import fingerprint

    found = {"millrace": installed("millrace")} | fingerprint()
    if as_json:
        print_json(found)
        return
    for name, value in found.items():
        out.print(f"{name:10} {value}")


@app.command()
def check(config: ConfigPath, as_json: Json = False) -> None:
    """Validate a configuration and try its members; list every problem with its path.

    Each member scores and learns a few made-up events of the schema. Exit status 2 if any problem.
    """
    from models.settings import format_duration
    from stream.settings.load import ConfigError
    from stream.settings.upgrade import plain as as_plain
    from stream.tools.rehearse import holds, part, rehearse

    try:
        loaded = load(config)
        if problems := rehearse(loaded):
            raise ConfigError(str(config), problems)
    except ConfigError as error:
        if as_json:
            print_json({"ok": False, "problems": error.problems})
        else:
            err.print(styled(config, "bold red"), f"{len(error.problems)} problem(s)", sep=": ")
            for problem in error.problems:
                err.print(f"  {problem}")
        raise typer.Exit(2) from error
    if as_json:
        waiting = holds(loaded)._asdict()
        print_json({"ok": True, "config": as_plain(loaded), "pending": waiting})
        return
    valid = f"is valid: shard {loaded.name!r}, {loaded.log.type} log"
    out.print(styled(config, "bold green"), valid)
    if loaded.reco is not None:
        out.print(f"  ranks by: {', '.join(loaded.reco.members.names)}")
    else:
        out.print(f"  features: {', '.join(f.name for f in loaded.features)}")
        out.print(f"  members:  {', '.join(f'{m.name} ({m.type})' for m in loaded.members)}")
    if told := part(loaded):
        out.print(f"  part:     {told}")
    found = holds(loaded)
    out.print(
        f"  waiting:  {found.events:,} events at most, {found.bytes / 1e9:,.1f} GB: up to "
        f"{found.per_s:,.1f} a second for a horizon of {format_duration(loaded.label.horizon)}"
    )


@app.command()
def init(
    data: Annotated[Path, typer.Option(help="JSON Lines, CSV or Parquet, events as they come.")],
    to_file: Annotated[
        Path | None, typer.Option("--out", help="Where to write it; default: print it.")
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(help="The column to learn: yes or no, one of several classes, or a number."),
    ] = None,
    item: Annotated[
        str | None,
        typer.Option(help="The column of items, where rows are what users do with items: ranking."),
    ] = None,
) -> None:
    """Draft a configuration from the first rows of a file, each guess with its reason."""
    from stream.tools.draft.text import draft, write_draft

    with reported():
        made = (
            draft(data, label, item) if to_file is None else write_draft(data, to_file, label, item)
        )
    if to_file is None:
        for line in made.text.removesuffix("\n").split("\n"):
            out.print(line)
        return
    drafted = f"drafted from {made.rows:,} rows: read its comments"
    out.print(styled(to_file, "bold green"), drafted)
    if made.refused:
        out.print(f"  {made.refused:,} of these rows would be dead letters")
    if made.truth is None:
        out.print("  no column looks like the truth: --label COLUMN names the one to learn")
    out.print(f"  then: millrace evaluate {to_file} --data {data}")


@app.command()
def run(
    config: ConfigPath,
    accept_changes: Annotated[
        bool, typer.Option(help="Let a changed configuration drop the state of what it changed.")
    ] = False,
) -> None:
    """Run the service until SIGTERM or Ctrl-C; a second signal ends it at once."""
    # Importing compiles kernels at the first start, half a minute: nothing is to be saved yet.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    from stream.run.daemon import run_daemon

    with reported():
        run_daemon(load(config), accept_changes)


@app.command()
def replica(
    config: ConfigPath,
    port: Annotated[int, typer.Option(help="HTTP port; 0: any free one.")] = 8081,
    directory: Annotated[
        Path | None,
        typer.Option(help="Where to keep its working files; default: a new temporary directory."),
    ] = None,
) -> None:
    """Follow a service beside it and answer what-ifs, reasons and reads, until SIGTERM or Ctrl-C.

    Does every journaled step again and compares its bits; reads the service's log and `state_dir`
    and writes to neither. Exit status 4: a step gave other bits.
    """
    for number in (signal.SIGTERM, signal.SIGINT):  # as for `run`
        signal.signal(number, lambda *_: os._exit(0))
    from stream.run.daemon import run_replica

    with reported():
        loaded = load(config)
        http = loaded.http.model_copy(update={"enabled": True, "port": port})
        run_replica(loaded.model_copy(update={"http": http}), directory)


@app.command("apply")
def apply_(
    config: ConfigPath,
    accept: Annotated[
        bool, typer.Option(help="Let go of the state of what the file changes.")
    ] = False,
    dry_run: Annotated[bool, typer.Option(help="Show the difference only.")] = False,
    reason: Annotated[str, typer.Option(help="Why, for whoever reads the audit trail.")] = "",
    ticket: Annotated[str, typer.Option(help="Where it was decided.")] = "",
    wait: Annotated[float, typer.Option(min=0, help="Seconds until somebody takes it.")] = 30.0,
    as_json: Json = False,
) -> None:
    """Let the running service go on under a changed file, without a restart.

    Shows each setting that changes, what keeps its state, what starts new and what is lost; says
    which step took it.
    """
    from stream.tools.operate import CommandRefused, apply_configuration, difference

    with reported():
        loaded = load(config)
        found = difference(loaded)
        if not as_json:
            for line in found.lines():
                out.print(line)
        if found.restart:
            named = "; ".join(found.restart)
            raise CommandRefused(f"needs a restart: {named}. Nothing was appended")
        if found.changes and found.changes.lost and not accept and not dry_run:
            raise CommandRefused("state would be lost: say --accept. Nothing was appended")
        grounds = {"reason": reason, "ticket": ticket}
        given = {key: text for key, text in grounds.items() if text}
        taken = (
            {}
            if dry_run or found.same
            else apply_configuration(loaded, found.base, accept, given, wait)
        )
    if as_json:
        print_json({"base": found.base, "changes": found.lines()} | taken)
    elif taken:
        out.print(f"holds from step {taken['seq']} on; start with this file from now on")
    else:
        out.print("nothing was appended")


Kind = Annotated[
    KindName,
    typer.Option(
        help="Card payments with fraud, clicked impressions, support tickets for five teams, "
        "minutes until deliveries arrive, or what users of a shop look at and buy."
    ),
]


@app.command()
def demo(
    kind: Kind = "payments",
    seconds: Annotated[float, typer.Option(help="How long to run; 0: until Ctrl-C.")] = 60,
    rate: Annotated[float, typer.Option(help="Events per second.")] = 1500,
    seed: Annotated[int, typer.Option(help="Of the simulated stream.")] = 7,
    port: Annotated[int, typer.Option(help="HTTP port; 0: any free one.")] = 8080,
    directory: Annotated[
        Path | None, typer.Option(help="Where to keep log and state; default: a new temporary one.")
    ] = None,
    story: Annotated[
        bool,
        typer.Option(
            help="With somebody who promotes a challenger and undoes a week of wrong labels."
        ),
    ] = False,
    scaled: Annotated[
        str | None,
        typer.Option(
            help="Payments over two scorers and a learner, on this Kafka broker.",
            metavar="HOST:PORT",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Start everything on the embedded log: simulator, service, HTTP; ends with a summary.

    With `--scaled` on a Kafka broker, as processes of their own.
    """
    if scaled is not None:
        if kind != "payments" or story:
            raise typer.BadParameter("--scaled plays payments alone, without --story")
        tell_scaled(scaled, seconds, rate, seed, port, directory, as_json)
        return
    with err.status("Starting; the first start compiles kernels, about half a minute"):
        from stream.demo.demo import run_demo

    with reported():
        shown = None if as_json else out
        summary = run_demo(kind, seconds, rate, seed, port, directory, shown, story)
    if as_json:
        print_json(summary)
    else:
        for line in summary.get("story", []):
            out.print(line)
        if report := summary.get("report"):
            out.print(f"audit report: {report}")
        print_quality(out, summary)
        if lists := summary.get("lists"):
            out.print(
                f"{summary['scores']:,} lists of {lists['shown']:,} items, {lists['hits']:,} of "
                f"them taken; {lists['fallbacks']:,} lists for users of whom nothing was known"
            )
        out.print(
            f"{summary['events_per_s']:,.0f} events/s, first score after "
            f"{summary['first_score_s']} s, {summary['checkpoints']} checkpoints, "
            f"journal digest {summary['digest']}"
        )


@app.command()
def simulate(
    events: Annotated[int, typer.Option(help="Events to make; 0: without end.", min=0)] = 10_000,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 7,
    to_file: Annotated[
        Path | None, typer.Option("--out", help="JSON Lines file, events with their truth.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Configuration whose log gets events and labels.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Events per second; default: no limit.")
    ] = None,
    drift: Annotated[bool, typer.Option(help="Change what predicts in the middle.")] = True,
    bad_share: Annotated[float, typer.Option(help="Share of malformed records.")] = 0.0,
    kind: Kind = "payments",
    as_json: Json = False,
    clicks: Annotated[bool, typer.Option("--clicks", help="Short for --kind clicks.")] = False,
) -> None:
    """Make a stream with drift and late labels: to a file, or to a log."""
    from stream.demo.demo import simulate_to_file, simulate_to_log

    if (to_file is None) == (config is None):
        raise typer.BadParameter("give either --out FILE or --config CONFIG")
    if clicks:
        kind = "clicks"
    with reported():
        if to_file is not None:
            made = simulate_to_file(to_file, kind, events, seed, drift, err)
        elif config is not None:
            made = simulate_to_log(load(config), kind, events, seed, drift, rate, bad_share, err)
    if as_json:
        print_json(made)
    else:
        out.print(", ".join(f"{name} {value}" for name, value in made.items()))


@app.command()
def evaluate(
    config: ConfigPath,
    data: Annotated[Path, typer.Option(help="JSON Lines, CSV or Parquet with the truth in it.")],
    label_delay: Annotated[
        str | None, typer.Option(help='Release each label this long after its event, such as "7d".')
    ] = None,
    scores_out: Annotated[
        Path | None, typer.Option(help="Write every score to this Parquet file.")
    ] = None,
    batch: Annotated[
        int, typer.Option(help="Events in one step at most; 1: strictly prequential.", min=1)
    ] = 512,
    report: Annotated[Path | None, typer.Option(help="Write charts to this HTML file.")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="The labels, if they stand in a file of their own.")
    ] = None,
    dead_letters_out: Annotated[
        Path | None,
        typer.Option(help="Write each dead letter with its row to this JSON Lines file."),
    ] = None,
    ranks_out: Annotated[
        Path | None, typer.Option(help="Write the rank of each item taken to this Parquet file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Score a file prequentially with the service's own engine, learning each label when due.

    Of a configuration that ranks: rank each item that was taken before it is learned. Exit status
    3: nothing could be scored; 4: a member failed.
    """
    from stream.tools.evaluate import evaluate_file

    with reported():
        loaded = load(config)
        if loaded.reco is not None:
            refuse("[reco]", label_delay=label_delay, labels=labels, scores_out=scores_out)
            tell_ranks(loaded, data, ranks_out, batch, report, dead_letters_out, as_json)
            return
        refuse("a target that is no ranking", ranks_out=ranks_out)
        summary = evaluate_file(
            *(loaded, data, label_delay, scores_out, batch, err, report),
            labels=labels,
            dead_letters_out=dead_letters_out,
        )
    _tell_played(summary, as_json)


def _tell_played(summary: dict[str, Any], as_json: bool) -> None:
    """What a played file gave; the exit status says whether it was of any use."""
    if summary.get("target") == "ranking":
        tell_ranked(summary, as_json)
        return
    print_refused(err, summary)
    if as_json:
        print_json(summary)
    else:
        print_quality(out, summary)
        for note in summary["notes"]:
            out.print(note)
    if not summary["scores"]:
        raise typer.Exit(3)
    if any(member["state"] != "working" for member in summary["members"].values()):
        raise typer.Exit(4)


@app.command()
def warm(
    config: ConfigPath,
    data: Annotated[Path, typer.Option(help="Past events: JSON Lines, CSV or Parquet.")],
    labels: Annotated[
        Path | None, typer.Option(help="The labels, if they stand in a file of their own.")
    ] = None,
    label_delay: Annotated[
        str | None, typer.Option(help='Release each label this long after its event, such as "7d".')
    ] = None,
    batch: Annotated[int, typer.Option(help="Events in one step at most.", min=1)] = 512,
    as_json: Json = False,
) -> None:
    """Play history into a new shard's own log and state; `run` then goes on from there.

    It learns what `evaluate` would have learned; every step is journaled and audited. Where items
    are ranked DATA holds interactions. Exit status as that of `evaluate`.
    """
    from stream.tools.past.warm import warm as play

    with reported():
        summary = play(load(config), data, labels, label_delay, batch, err)
    _tell_played(summary, as_json)


@app.command()
def backfill(
    config: ConfigPath,
    reach: Annotated[
        str | None,
        typer.Option(
            help="How far back the log must reach, by event time; default: `label.horizon`."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Teach what CONFIG adds to a running shard from the log's past; its next start takes it over.

    Features and members that the shard does not have learn beside the service from every step that
    the log still holds. What is learned is kept: run it again to catch up. Exit status 3: the log
    does not reach back far enough; 4: a member failed.
    """
    from stream.tools.past.backfill import backfill as catch_up

    with reported():
        found = catch_up(load(config), reach, err)
    if as_json:
        print_json(found)
    else:
        for part in found["parts"]:
            out.print(f"has learned from the past: {part}")
        out.print(
            f"caught up at step {found['to_step']:,}, from step {found['from_step']:,} on: "
            f"{found['learned']:,} labels learned in all; {found['records']:,} records now, "
            f"{found['records_per_s']:,} a second"
        )
        if found["dead_letters"]:
            told = ", ".join(f"{name} {n:,}" for name, n in found["dead_letters"].items())
            out.print(f"not taken in under this configuration: {told}")
        for name in found["failed_members"]:
            out.print(f"member {name} failed and would enter in quarantine")
        out.print(f"now stop the service and start it with this configuration: {config}")
    if found["failed_members"]:
        raise typer.Exit(4)


@topics_app.command("list")
def list_topics(config: ConfigPath, as_json: Json = False) -> None:
    """Input topics with their oldest offset and what waits to be read."""
    from stream.tools.operate import topic_table

    with reported():
        rows = topic_table(load(config), create=False)
    print_rows(rows, as_json)


@topics_app.command("create")
def create_topics(config: ConfigPath, as_json: Json = False) -> None:
    """Create the topics that are missing."""
    from stream.tools.operate import topic_table

    with reported():
        rows = topic_table(load(config), create=True)
    print_rows(rows, as_json)


@app.command()
def state(config: ConfigPath, as_json: Json = False) -> None:
    """List the checkpoint generations and say which one a start would load."""
    from stream.tools.operate import generations

    with reported():
        loaded = load(config)
        rows = generations(loaded)
    none = (
        f"no checkpoint in {loaded.state_dir} yet: a start replays the journal from its beginning"
    )
    print_rows(rows, as_json, ("verdict", "digest"), none)


@app.command()
def replay(
    config: ConfigPath,
    to: Annotated[int, typer.Option("--to", help="The journaled step to rebuild the state of.")],
    directory: Annotated[
        Path | None, typer.Option("--out", help="Write that state as a generation here.")
    ] = None,
    from_start: Annotated[
        bool, typer.Option(help="Ignore checkpoints: replay every step from the first.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Rebuild the state as of a journaled step and print its digests."""
    from stream.tools.replay import replay_to

    with reported():
        found = replay_to(load(config), to, directory, from_start)
    if as_json:
        print_json(found)
    else:
        for name, value in found.items():
            out.print(f"{name:16} {value}")


@app.command()
def params(
    target: Annotated[
        str,
        typer.Argument(
            help="`linear:256x128`, `net.toml`, `net.safetensors`, `file.py:attr`,"
            " `package.module:attr`, or a member as `CONFIG.toml#MEMBER`: from"
            " the newest checkpoint if there is one."
        ),
    ],
    as_json: Json = False,
) -> None:
    """Count parameters layer by layer, beside what each layer's formula says.

    Exit status 1: some layer holds another number than its formula says.
    """
    from monitoring.parameters.command import params_command
    from stream.tools.audit.verify import count_saved

    config, _, member = target.partition("#")
    with reported():
        found = count_saved(load(Path(config)), member) if member else target
        raise typer.Exit(params_command(found, as_json, out, err))


@app.command()
def token(
    name: Annotated[str, typer.Option(help="Who will use it.")] = "client", as_json: Json = False
) -> None:
    """Make a bearer token for HTTP, and the lines that configure its hash."""
    from stream.tools.operate import new_token

    secret, sha256 = new_token()
    if as_json:
        print_json({"token": secret, "name": name, "sha256": sha256, "scopes": ["score", "label"]})
        return
    out.print(f"token (shown once): {secret}")
    out.print("add to the configuration:")
    out.print("")
    out.print("[[http.tokens]]")
    out.print(f'name = "{name}"')
    out.print(f'sha256 = "{sha256}"')
    out.print('scopes = ["score", "label"]')

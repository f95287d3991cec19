"""The `millrace audit` commands: arguments in, tables out. No logic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from monitoring.terminal import styled
from stream.cli.terminal import (
    ConfigPath,
    Json,
    err,
    load,
    out,
    print_json,
    print_rows,
    reported,
)

audit_app = typer.Typer(
    help="Read and verify the audit trail: one record for each change of a model.",
    no_args_is_help=True,
)


def _event(name: str | None) -> str | None:
    from monitoring.audit.budgets import EVENTS

    if name is not None and name not in EVENTS:
        raise typer.BadParameter(f"expected one of {', '.join(EVENTS)}; got {name!r}")
    return name


def _moment(text: str) -> int:
    from stream.run.assemble import wall_clock_ms
    from stream.tools.audit.read import moment

    try:
        return moment(text, wall_clock_ms())
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


Moment = Annotated[
    int | None,
    typer.Option(
        help="By the steps' clock: a time (RFC 3339), or so long ago, such as `7d`.",
        parser=_moment,
        metavar="TIME",
    ),
]


@audit_app.command()
def show(
    config: ConfigPath,
    limit: Annotated[int, typer.Option(help="The newest so many records.", min=1)] = 20,
    member: Annotated[str | None, typer.Option(help="Only records of this member.")] = None,
    event: Annotated[
        str | None, typer.Option(help="Only this event, such as `frozen`.", callback=_event)
    ] = None,
    actor: Annotated[
        str | None, typer.Option(help="Only what this token or user asked for.")
    ] = None,
    since: Moment = None,
    until: Moment = None,
    as_json: Json = False,
) -> None:
    """List the newest records; `--json` prints them whole."""
    from stream.tools.audit.read import Wanted, brief
    from stream.tools.audit.read import show as records

    wanted = Wanted(member, event, actor, since, until)
    with reported():
        found = records(load(config), limit, wanted)
    if as_json:
        print_json(found)
    for record in () if as_json else found:
        out.print(brief(record))


@audit_app.command()
def score(
    config: ConfigPath,
    identifier: Annotated[str, typer.Argument(help="Id of the event.", metavar="ID")],
    as_json: Json = False,
) -> None:
    """A score taken apart: members and their versions, features, step, chain; and once more.

    Its step is done again on the state before it, from the newest checkpoint or from the beginning.
    Exit status: 0 the same bits, 13 other bits, 14 journal and checkpoints do not reach back to it,
    10 to 12 and 14 as of `audit verify`; 3 no such score, and what became of the event.
    """
    from stream.tools.audit.score import explain_score

    with reported(), err.status("Doing the step again"):
        found = explain_score(load(config), identifier)
    if as_json:
        print_json(found)
    else:
        _print_score(found)
    raise typer.Exit(found["exit"])


def _print_score(found: dict[str, Any]) -> None:
    from monitoring.audit.words import short

    made, ranks = found["score"], found["score"].get("event") == "ranking"
    out.print(styled(found["id"], "bold"), _said(made), sep=": ", end="")
    out.print(f"; step {made['seq']}, event {made['partition']}@{made['offset']}")
    if "versions" in found:
        said = "prediction" if "probabilities" in made else "score"
        shown = ("version", "root", "record", "record_version", "record_root")
        rows = [
            {"member": name}
            | ({} if ranks else {said: short(made["members"].get(name))})
            | {key: short(version[key]) for key in shown}
            for name, version in found["versions"].items()
        ]
        print_rows(rows, as_json=False)
        if ranks:
            _print_places(found["places"] or [])
        else:
            features = found["features"] or {}
            rows = [{"feature": name, "value": short(value)} for name, value in features.items()]
            print_rows(rows, False, none="features: they wait for no label any more")
        step = found["step"]
        out.print(f"step     digest {step['digest']}, in the journal {step['journal_digest']}")
        if (taken := step.get("version")) is not None:
            digest = taken["digest"] or "none yet"
            out.print(f"version  {taken['number']} of {taken['of']}, {digest}")
        out.print(f"trail    record {step['trail_seq']} after it, {step['trail_hash']}")
    trail = found["trail"]
    out.print(f"trail    {trail['outcome']}: {trail['records']} records {trail['where']}")
    colour = "red" if found["exit"] else "green"
    out.print("replay  ", styled(found["replay"], f"bold {colour}"))
    for text in trail["not_checked"]:
        out.print(" ", styled("not checked", "yellow"), text)


def _print_places(places: list[dict[str, Any]]) -> None:
    """The places of a ranking, and what members said of each."""
    from monitoring.audit.words import short

    said: list[dict[str, float]] = [place.get("members", {}) for place in places]
    # Of items that nobody took nothing is said.
    names = list(dict.fromkeys(name for theirs in said for name in theirs))
    rows = [
        {"item": place["id"], "score": short(place["score"])}
        | {"propensity": short(place["propensity"])}
        | {name: short(theirs.get(name, "")) for name in names}
        for place, theirs in zip(places, said, strict=True)
    ]
    print_rows(rows, False, none="places: none")


def _said(score: dict[str, Any]) -> str:
    """What a score record says: its number, or its class and the likeliest five, or its items.

    >>> _said({"score": 12.5, "interval": [10.0, 15.0], "alert": True})
    '12.5 (10 to 15), an alert'
    >>> _said({"prediction": "high", "probabilities": {"low": 0.25, "high": 0.75}, "alert": False})
    'high (high 0.75, low 0.25), no alert'
    >>> _said({"event": "ranking", "items": [{"id": "boots"}, {"id": "parka"}]})
    '2 items'
    """
    if score.get("event") == "ranking":
        return f"{len(score['items'])} items"
    alert = "an alert" if score["alert"] else "no alert"
    return f"{_verdict(score)}, {alert}"


def _verdict(score: dict[str, Any]) -> str:
    if "probabilities" not in score:
        ends = " to ".join(f"{end:.6g}" for end in score.get("interval") or ())
        return f"{score['score']:.6g}" + (f" ({ends})" if ends else "")
    likeliest = sorted(score["probabilities"].items(), key=lambda each: -each[1])[:5]
    shares = ", ".join(f"{name} {p:.6g}" for name, p in likeliest)
    return f"{score['prediction'] or 'no class'} ({shares})"


@audit_app.command()
def explain(
    config: ConfigPath,
    member: Annotated[str, typer.Argument(help="A member's name.", metavar="MEMBER")],
    layer: Annotated[
        str | None, typer.Option(help="Only arrays whose path begins so, such as `hidden.0`.")
    ] = None,
    since: Moment = None,
    latest: Annotated[
        bool, typer.Option("--latest", help="What came since the member's newest record.")
    ] = False,
    most: Annotated[int, typer.Option(help="Rows of each table.", min=1)] = 10,
    as_json: Json = False,
) -> None:
    """What moved a member most: stretches by the trail, updates and events done again.

    The stretch between two records of it in which its arrays went furthest is replayed beside the
    service; with `--latest`, and where the trail tells of none, what came since. Exit status 14:
    journal and checkpoints do not reach back to it.
    """
    from stream.tools.audit.explain import explain as explained

    with reported(), err.status("Doing the steps again"):
        found = explained(load(config), member, layer, since, most, latest)
    if as_json:
        print_json(found)
    else:
        _print_moves(found)
    raise typer.Exit(found["exit"])


def _print_moves(found: dict[str, Any]) -> None:
    from monitoring.audit.words import short
    from stream.tools.audit.read import at_time

    for row in found["stretches"]:
        spans = {k: "..".join(map(short, row[k])) for k in ("versions", "steps")}
        row |= {"at": at_time(row["at"])} | spans
        row |= {} if row["record"] else {"record": "not yet"}
    for row in found["updates"]:
        places = [f"{topic}/{p}@{first}..{last}" for topic, p, first, last in row.pop("ranges")]
        row["records"] = " ".join(places)
    for row in found["events"]:
        row["event"] = row["event"] or f"#{row.pop('id_hash')}"
        row.pop("id_hash", None)
    for part in ("stretches", "updates", "events"):
        rows = [{key: short(value) for key, value in row.items()} for row in found[part]]
        out.print(styled(part, "bold"))
        print_rows(rows, as_json=False)
    out.print("replay  ", styled(found["replay"], "red" if found["exit"] else "green"))


@audit_app.command()
def report(
    config: ConfigPath,
    html: Annotated[Path, typer.Option("--html", help="Where to write it.")],
    since: Moment = None,
    as_json: Json = False,
) -> None:
    """The life of each model as one HTML file: versions, growth, drift, acts, refusals, quality.

    Quality is drawn by doing the steps again beside the service: all that journal and checkpoints
    still hold, or those since a time. Exit status as that of `audit verify`.
    """
    from stream.tools.audit.life import write_life

    with reported(), err.status("Doing the steps again"):
        found = write_life(load(config), html, since)
    if as_json:
        print_json(found)
    else:
        out.print(f"{found['records']} records of {', '.join(found['members'])} in {found['file']}")
        out.print(f"trail {found['trail']}; quality: {found['quality']}")
    raise typer.Exit(found["exit"])


@audit_app.command()
def verify(
    config: Annotated[
        Path | None,
        typer.Argument(
            help="TOML configuration, or a certificate; not needed with --file.",
            metavar="[CONFIG]",
        ),
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="An exported trail instead of the topic.")
    ] = None,
    public_key: Annotated[
        Path | None, typer.Option(help="Ed25519 public key, PEM; default: that of audit.key.")
    ] = None,
    anchor: Annotated[
        Path | None,
        typer.Option(help="Anchors kept elsewhere; default: the service's own file."),
    ] = None,
    checkpoint: Annotated[
        bool, typer.Option("--checkpoint", help="Check the saved members against the trail too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Verify the chain, the signatures, the newest anchor, and with `--checkpoint` what is saved.

    What could not be compared is told. Exit status: 0 whole, 10 a record was changed, removed,
    reordered or of another trail, 11 the tail was cut, 12 a signature is missing or of another key,
    13 a checkpoint is not the one on record, 14 something that must vouch for it is missing.

    A certificate is verified by `--public-key` alone, and against an exported trail by `--file`.
    """
    from stream.tools.audit.certificate import is_certificate, verify_certificate
    from stream.tools.audit.verify import verify_trail

    with reported():
        if config is not None and is_certificate(config):
            if anchor is not None or checkpoint:
                raise typer.BadParameter("a certificate takes --public-key and --file alone")
            found = verify_certificate(config, public_key, file)
        else:
            loaded = None if config is None else load(config)
            found = verify_trail(loaded, file, public_key, anchor, checkpoint)
    if as_json:
        print_json(found)
    else:
        colour = "green" if found["exit"] == 0 else "red"
        outcome = styled(found["outcome"], f"bold {colour}")
        out.print(outcome, f"{found['records']} records", sep=": ", end="")
        out.print(f", {found['signatures_checked']} signatures checked, head {found['head_hash']}")
        if found["exit"]:
            err.print(f"  at {found['where']}: got {found['got']}")
            err.print(f"  expected {found['expected'] or 'what the trail says'}")
        for row in found.get("generations", ()):
            out.print(f"  generation {row['seq']}: {row['verdict']}")
        if "certificate" in found:
            _print_certificate(found["certificate"])
        for text in found["not_checked"]:
            out.print(" ", styled("not checked", "yellow"), text)
    raise typer.Exit(found["exit"])


def _print_certificate(stated: dict[str, Any]) -> None:
    from monitoring.audit.words import number, short
    from stream.tools.audit.certificate import FIGURES, MEMBER
    from stream.tools.audit.read import at_time

    out.print(f"  shard {stated['certificate']}, {at_time(stated['at'])}")
    facts = {"configuration": stated["config"], **stated["code"]}
    for name, value in facts.items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if name == "ran_on" else value
        out.print(f"  {name} {text}")
    rows = [
        {"member": name} | {key: short(number(one.get(key))) for key in MEMBER}
        for name, one in stated["members"].items()
    ]
    print_rows(rows, as_json=False)
    rows = [
        {"score of": name} | {k: short(number(v)) for k, v in figures.items() if k in FIGURES}
        for name, figures in (stated["quality"] or {}).items()
    ]
    print_rows(rows, as_json=False, none="no figures of quality: no checkpoint yet")


@audit_app.command()
def diff(
    config: ConfigPath,
    first: Annotated[int, typer.Option("--from", help="`seq` of a record of a member.")],
    last: Annotated[int, typer.Option("--to", help="`seq` of another record of it.")],
    as_json: Json = False,
) -> None:
    """What changed between two records of one member: words first, then what moved most."""
    from monitoring.audit.words import short
    from stream.tools.audit.read import diff as differences

    with reported():
        rows = differences(load(config), first, last)
    if not as_json:
        for row in rows:
            change = "" if row["change"] is None else f"{row['change']:+.2%}"
            row |= {"from": short(row["from"]), "to": short(row["to"]), "change": change}
    print_rows(rows, as_json, ("from", "to"), "no difference")


@audit_app.command()
def export(
    config: ConfigPath,
    target: Annotated[
        Path | None, typer.Option("--out", help="The trail as JSON lines, byte for byte.")
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(help="What ran and what its models hold, in one signed file: audit.key."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the trail, or a certificate of the shard, or both; files are written anew."""
    from stream.tools.audit.certificate import certify
    from stream.tools.audit.read import export as write

    if target is None and certificate is None:
        raise typer.BadParameter("give --out FILE, --certificate FILE or both")
    found: dict[str, Any] = {}
    with reported():
        loaded = load(config)
        if certificate is not None:  # first: the trail in the other file goes at least as far
            found |= {"certificate": certify(loaded, certificate)}
        if target is not None:
            found |= write(loaded, target)
    if as_json:
        print_json(found)
        return
    if target is not None:
        out.print(f"{found['records']} records in {found['file']}")
    if certificate is not None:
        head = found["certificate"]["head"]["seq"]
        out.print(f"certificate up to record {head} in {certificate}")

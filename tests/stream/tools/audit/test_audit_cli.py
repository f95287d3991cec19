"""`millrace audit` and `millrace params`: what an operator, or an attacker, finds out."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from monitoring.audit.trail import Trail, head_after, make_anchor, read_anchor
from stream.contract.outputs import Outputs
from stream.contract.records import JournalRecord, NewRecord
from stream.run.assemble import open_log, wall_clock_ms
from stream.state.anchors import FILE, Anchors
from stream.state.generations import list_generations, read_manifest
from stream.tools.audit.read import read_topic, read_trail
from stream.tools.audit.verify import check_generations
from stream.tools.replay import replay_to
from tests.stream.logs.log_file import changed, cut, left, revalued
from tests.stream.tools.audit.audited import FOREIGN, KEY, millrace, settings
from tests.support import crafted
from tests.support.crafted import change_arrays, change_rest, evil_member
from tests.support.factory import config, event
from tests.support.runner import append, caught_up, contents, running


def verify(directory: Path, *options: object, status: int = 0) -> dict[str, Any]:
    """``audit verify --json``."""
    found = json.loads(
        millrace("audit", "verify", directory / "c.toml", "--json", *options, status=status)
    )
    assert found["exit"] == status
    return found  # type: ignore[no-any-return]


def rewrite(directory: Path, lines: list[bytes]) -> Path:
    """A trail file of these lines."""
    path = directory / "trail.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


# ---------------------------------------------------------------------- the trail


def test_an_untouched_shard_verifies(ran: Path) -> None:
    """Chain, signatures, anchor and every saved generation, over two sessions."""
    found = verify(ran, "--checkpoint")
    lines = read_trail(settings(ran))
    assert found["outcome"] == "ok"
    assert found["records"] == found["head_seq"] == found["signatures_checked"] == len(lines)
    assert found["anchor_seq"] == len(lines)  # the stop anchored the rest
    assert len(found["generations"]) >= 2
    assert {g["verdict"] for g in found["generations"]} == {"match"}
    assert "ok" in millrace("audit", "verify", ran / "c.toml")


def test_an_exported_trail_verifies_alone(ran: Path, tmp_path: Path) -> None:
    """The file holds the committed bytes; no configuration is needed to check it."""
    target = tmp_path / "t.jsonl"
    found = json.loads(millrace("audit", "export", ran / "c.toml", "--out", target, "--json"))
    assert target.read_bytes().splitlines() == read_trail(settings(ran))
    out = json.loads(
        millrace("audit", "verify", "--file", target, "--public-key", ran / "public.pem", "--json")
    )
    assert (out["exit"], out["signatures_checked"]) == (0, found["records"])


@pytest.mark.parametrize(
    ("harm", "status", "outcome"),
    [
        ("flip", 10, "broken"),
        ("delete", 10, "broken"),
        ("reorder", 10, "broken"),
        ("cut", 11, "truncated"),
        ("resign", 12, "bad_signature"),
        ("unsign", 12, "bad_signature"),
    ],
)
def test_tampering_is_told_apart(shard: Path, harm: str, status: int, outcome: str) -> None:
    """Each way to falsify a trail has an exit status of its own."""
    lines = read_trail(settings(shard))
    if harm == "flip":
        lines[3] = lines[3].replace(b'"cause":"', b'"cause":"x')
    elif harm == "delete":
        del lines[3]
    elif harm == "reorder":
        lines[2], lines[3] = lines[3], lines[2]
    elif harm == "cut":
        del lines[-1]
    else:
        key = FOREIGN if harm == "resign" else None
        trail, old = Trail("test", key), [json.loads(line) for line in lines]
        fixed = ("v", "trail", "seq", "prev", "at", "event", "cause", "actor", "model", "hash")
        lines = [
            trail.record(
                r["event"],
                at_ms=r["at"],
                cause=r["cause"],
                actor=r["actor"],
                model=r["model"],
                detail={k: v for k, v in r.items() if k not in (*fixed, "sig")},
            )
            for r in old
        ]
    assert verify(shard, "--file", rewrite(shard, lines), status=status)["outcome"] == outcome


def test_a_record_changed_in_the_log_itself_is_found(shard: Path) -> None:
    """The command reads the topic, not a copy."""
    with changed(shard / "log.db", "audit") as rows:
        rows[1][1] = rows[1][1].replace(b"created", b"creatid")
    found = verify(shard, status=10)
    assert found["where"] == "record 2: hash"
    assert "broken" in millrace("audit", "verify", shard / "c.toml", status=10)


def test_a_foreign_key_is_a_bad_signature(ran: Path) -> None:
    """The trail was not signed by whoever holds this key; nor was the anchor."""
    verify(ran, "--public-key", ran / "foreign.pem", status=12)
    empty = ran / "none.jsonl"
    empty.write_text("")
    found = verify(ran, "--public-key", ran / "foreign.pem", "--anchor", empty, status=12)
    assert found["where"] == "record 1: sig"


def test_an_anchor_kept_elsewhere_shows_a_cut_tail(shard: Path, tmp_path: Path) -> None:
    """Whoever cuts topic and anchors alike is found out by a copy of the anchors."""
    kept = tmp_path / "kept.jsonl"
    kept.write_bytes((shard / "state" / FILE).read_bytes())
    lines = read_trail(settings(shard))[:5]
    first = (shard / "state" / FILE).read_bytes().splitlines()[0]
    (shard / "state" / FILE).write_bytes(first + b"\n")
    verify(shard, "--file", rewrite(shard, lines[: read_anchor(first).seq]))
    verify(shard, "--file", rewrite(shard, lines), "--anchor", kept, status=11)


@pytest.mark.parametrize("kept", [0, 5])
def test_a_cut_tail_shows_against_the_journal(shard: Path, kept: int) -> None:
    """Whoever cuts the topic, down to nothing, and deletes the anchors has not cut the journal."""
    left(shard / "log.db", "audit", range(kept))
    (shard / "state" / FILE).unlink()
    found = verify(shard, status=11)
    assert found["got"] == f"record {kept}"


def test_a_journal_that_is_gone_vouches_for_nothing(shard: Path) -> None:
    """Records without the steps that wrote them."""
    journal = settings(shard).journal_topic
    cut(shard / "log.db", journal, len(contents(settings(shard), journal)))
    assert verify(shard, status=14)["where"] == journal


def test_nothing_is_not_whole(shard: Path, tmp_path: Path) -> None:
    """An empty trail, an empty anchor file, no anchors after so many records: missing, not ok."""
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    (shard / "state" / FILE).rename(tmp_path / "kept.jsonl")
    assert verify(shard, "--file", empty, status=14)["where"] == "trail"
    assert verify(shard, status=14)["where"].endswith(FILE)
    assert verify(shard, "--anchor", empty, status=14)["where"] == str(empty)
    verify(shard, "--anchor", tmp_path / "kept.jsonl")
    millrace("audit", "verify", "--file", empty, status=14)


def test_a_key_that_should_be_there_is_missing(shard: Path, tmp_path: Path) -> None:
    """Signatures that nobody can check do not pass for checked."""
    target = tmp_path / "t.jsonl"
    millrace("audit", "export", shard / "c.toml", "--out", target)
    text = millrace("audit", "verify", "--file", target, status=14)
    assert "expected --public-key" in text
    (shard / "key.pem").unlink()
    assert verify(shard, status=14)["where"] == "audit.key"
    verify(shard, "--public-key", shard / "public.pem")


def test_another_shards_trail_is_another_trail(shard: Path) -> None:
    """Whole, anchored and signed by the same key: still not this shard's."""
    trail = Trail("other", KEY)
    lines = [trail.record("created", at_ms=0, cause="x", actor="x", model="x") for _ in range(20)]
    found = verify(shard, "--file", rewrite(shard, lines), status=10)
    assert (found["where"], found["expected"], found["got"]) == ("record 1: trail", "test", "other")
    anchor = shard / "other.jsonl"
    anchor.write_bytes(make_anchor("other", trail.head(), KEY) + b"\n")
    assert verify(shard, "--anchor", anchor, status=10)["where"] == str(anchor)


def test_half_a_line_at_the_end_of_the_anchors_is_told(shard: Path) -> None:
    """A killed process leaves it; the anchor before it is whole."""
    path = shard / "state" / FILE
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"anchor":')
    found = verify(shard)
    assert "was cut while it was written" in str(found["not_checked"])
    path.write_bytes(path.read_bytes() + b"\n")
    verify(shard, status=10)
    path.write_bytes(path.read_bytes() + whole)
    assert "was cut while it was written" in str(verify(shard)["not_checked"])


def test_what_was_not_checked_is_told(shard: Path, tmp_path: Path) -> None:
    """Each kind of absence that is no fault stands in the verdict."""
    target = tmp_path / "t.jsonl"
    millrace("audit", "export", shard / "c.toml", "--out", target)
    told = str(verify(shard)["not_checked"])
    assert "an anchor kept elsewhere" in told
    assert "with --checkpoint only" in told
    args = ("--file", target, "--public-key", shard / "public.pem")
    text = millrace("audit", "verify", *args)
    assert "not checked its end: no anchor was given" in text
    assert "not checked the journal" in text


def test_a_witness_elsewhere_hears_every_anchor(shard: Path, tmp_path: Path) -> None:
    """Who rewrites all that this machine holds is found out; one that is gone is missing."""
    witness = tmp_path / "witness.jsonl"
    text = (
        (shard / "c.toml")
        .read_text()
        .replace("anchor_every", f'witness = "{witness}"\nanchor_every')
    )
    (shard / "c.toml").write_text(text)
    assert verify(shard, status=14)["where"] == str(witness)
    with running(settings(shard)) as service:
        caught_up(service, 800)
    assert (
        witness.read_bytes().splitlines()[-1:]
        == ((shard / "state" / FILE).read_bytes().splitlines()[-1:])
    )
    told = verify(shard, "--checkpoint")["not_checked"]
    assert told == []
    (shard / "state" / FILE).write_bytes(b"")
    lines = read_trail(settings(shard))[:-1]
    verify(shard, "--file", rewrite(shard, lines), status=11)


def test_a_topic_witnesses_the_trail_with_its_steps(shard: Path) -> None:
    """Who cuts the trail and the file of anchors is found out by the topic; an empty one is
    missing. On an embedded log it lies where the trail does, which is told."""
    text = (shard / "c.toml").read_text()
    (shard / "c.toml").write_text(f'{text}\n[topics]\nwitness = "heads"\n')
    assert verify(shard, status=14)["where"] == "topic heads"
    with running(settings(shard)) as service:
        caught_up(service, 800)
        append(settings(shard), ("events", [event(i) for i in range(400, 450)]))
        caught_up(service, 850)
    lines = read_trail(settings(shard))
    witnessed = [
        read_anchor(line, KEY.public_key()) for line in read_topic(settings(shard), "heads")
    ]
    assert witnessed[-1] == head_after(lines[-1])
    assert "an anchor kept elsewhere" in str(verify(shard)["not_checked"])
    (shard / "state" / FILE).write_bytes(b"")
    verify(shard, "--file", rewrite(shard, lines[:-1]), status=11)
    revalued(shard / "log.db", "heads", lambda value: b"{}")
    assert verify(shard, status=12)["where"] == "topic heads"


def test_a_witness_is_not_outvoted(shard: Path, tmp_path: Path) -> None:
    """Who has taken the key and written a shorter trail can let a witness keep its head, too; what
    it has kept before stays."""
    kept = tmp_path / "kept.jsonl"
    shutil.copy(shard / "state" / FILE, kept)
    lines = read_trail(settings(shard))[:-3]
    shorter = make_anchor("test", head_after(lines[-1]), KEY) + b"\n"
    (shard / "state" / FILE).write_bytes(shorter)
    forged = rewrite(shard, lines)
    verify(shard, "--file", forged)
    kept.write_bytes(kept.read_bytes() + shorter)
    verify(shard, "--file", forged, "--anchor", kept, status=11)


def test_usage_errors_are_no_verdict(ran: Path, tmp_path: Path) -> None:
    """A missing file or key ends with the status of a failure, not with a verdict's."""
    millrace("audit", "verify", "--file", tmp_path / "none", status=3)
    millrace("audit", "verify", status=3)
    millrace("audit", "verify", ran / "c.toml", "--public-key", tmp_path / "none", status=3)


# ---------------------------------------------------------------------- checkpoints


def alter(generation: Path, array: str) -> None:
    """Change one weight by one bit, and make the generation look whole."""

    def flip(arrays: dict[str, Any]) -> None:
        [name] = [n for n in arrays if n.endswith(array)]
        arrays[name].reshape(-1).view("u1")[0] ^= 1

    change_arrays(generation, flip)


@pytest.mark.parametrize(
    "array", ["members/linear/weight", "members/mlp/module/layers.0.bias", "mlp/rng"]
)
def test_one_altered_bit_of_a_saved_model_is_a_mismatch(shard: Path, array: str) -> None:
    """The generation passes its own checksums and fails against the trail."""
    newest = list_generations(shard / "state")[0]
    alter(newest, array)
    read_manifest(newest)
    assert verify(shard)["exit"] == 0
    found = verify(shard, "--checkpoint", status=13)
    assert found["outcome"] == "model_mismatch"
    verdicts = {g["seq"]: g["verdict"] for g in found["generations"]}
    assert verdicts.pop(int(newest.name)).startswith(array.split("/")[-3 if "module" in array
                                                                    else -2])  # fmt: skip
    assert set(verdicts.values()) == {"match"}
    assert "generation" in millrace("audit", "verify", shard / "c.toml", "--checkpoint", status=13)


def test_an_older_generation_that_was_altered_is_found_too(shard: Path) -> None:
    """A start may fall back to it."""
    alter(list_generations(shard / "state")[-1], "members/linear/weight")
    verify(shard, "--checkpoint", status=13)


def test_a_generation_that_the_trail_does_not_know_is_a_mismatch(shard: Path) -> None:
    """A state put there by somebody else, however whole, is not vouched for."""
    c = settings(shard)
    replay_to(c, 3, shard / "elsewhere", from_start=True)
    [foreign] = list_generations(shard / "elsewhere")
    shutil.copytree(foreign, shard / "state" / "generations" / foreign.name)
    found = verify(shard, "--checkpoint", status=13)
    assert "the trail has no record of this checkpoint" in str(found["generations"])


def test_a_damaged_generation_is_a_mismatch(shard: Path) -> None:
    """What fails its own checksums cannot be compared and is reported as such."""
    (list_generations(shard / "state")[0] / "state.msgpack").write_bytes(b"")
    assert "cannot be used" in str(verify(shard, "--checkpoint", status=13)["generations"])


def other_positions(manifest: dict[str, Any]) -> None:
    manifest["positions"][-1][2] += 1


def other_seed(manifest: dict[str, Any]) -> None:
    manifest["config"]["seed"] = 7


PARTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "clock": lambda rest: rest.update(threshold=0.25),
    "counts": lambda rest: rest["counts"].update(alerts=10_000),
    "pending": lambda rest: rest["pending"].update(newest=3),
    "auditor": lambda rest: rest["auditor"].update(learned=1),
    "trail": lambda rest: rest["trail"].update(hash="0" * 64),
}


@pytest.mark.parametrize("part", PARTS)
def test_one_altered_value_of_any_part_is_a_mismatch(shard: Path, part: str) -> None:
    """Threshold, counters, labels that wait, the trail's head: all of a checkpoint is on record."""
    change_rest(list_generations(shard / "state")[0], PARTS[part])
    found = verify(shard, "--checkpoint", status=13)
    assert found["got"].startswith(f"{part}: expected")


@pytest.mark.parametrize(
    ("part", "array"),
    [
        ("features", "features/numbers"),
        ("quality", "quality/p"),
        ("drift", "drift/bets_bets"),
        ("pending", "pending/truth/0"),
        ("pending", "pending/marks/0"),
        ("tallies", "tallies/scores/counts"),
    ],
)
def test_one_altered_bit_of_any_array_is_a_mismatch(shard: Path, part: str, array: str) -> None:
    """Windows, quality, drift and truths that wait."""

    def flip(arrays: dict[str, Any]) -> None:
        arrays[f"/{array}"].reshape(-1).view("u1")[0] ^= 1

    change_arrays(list_generations(shard / "state")[0], flip)
    assert verify(shard, "--checkpoint", status=13)["got"].startswith(f"{part}: expected")


def test_one_altered_bit_of_a_waiting_row_is_a_mismatch(shard: Path) -> None:
    """What an event was scored on is what its label will teach."""
    newest = list_generations(shard / "state")[0]
    [segment] = newest.glob("pending-*.seg")
    raw = bytearray(segment.read_bytes())
    raw[40] ^= 1
    crafted.rewrite(newest, segment.name, bytes(raw))
    assert verify(shard, "--checkpoint", status=13)["got"].startswith("pending: expected")


@pytest.mark.parametrize("change", [other_positions, other_seed])
def test_an_altered_manifest_is_a_mismatch(
    shard: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    """Where inputs go on, and under which configuration."""
    crafted.reseal(list_generations(shard / "state")[0], change)
    verify(shard, "--checkpoint", status=13)


def test_checkpoints_that_are_gone_are_missing(shard: Path) -> None:
    """The trail tells of them."""
    shutil.rmtree(shard / "state" / "generations")
    assert verify(shard, "--checkpoint", status=14)["got"] == "none"


def test_code_that_a_crafted_generation_names_is_not_run(shard: Path, tmp_path: Path) -> None:
    """Neither the verifier nor the counter builds what no trail and no file vouches for."""
    newest = list_generations(shard / "state")[0]
    mark = evil_member(newest, tmp_path)
    found = verify(shard, "--checkpoint", status=13)
    assert "neither the one on record in the trail nor the given one" in str(found["generations"])
    text = millrace("params", f"{shard / 'c.toml'}#mlp", status=4)
    assert "nothing that it names was loaded" in text
    replay_to(settings(shard), 3, None, from_start=False)
    assert not mark.exists()


def test_a_member_is_counted_under_the_configuration_on_record(shard: Path) -> None:
    """The file was changed since; the trail vouches for what the checkpoint was taken under."""
    before = millrace("params", f"{shard / 'c.toml'}#mlp", "--json")
    text = (shard / "c.toml").read_text()
    (shard / "c.toml").write_text(text.replace("[4]", "[8]"))
    assert millrace("params", f"{shard / 'c.toml'}#mlp", "--json") == before


# ---------------------------------------------------------------------- reading


def test_show_lists_the_newest_records(ran: Path) -> None:
    """A line each for people, whole records for machines; of one member on request."""
    lines = millrace("audit", "show", ran / "c.toml", "--limit", "3").splitlines()
    assert len(lines) == 3
    assert lines[-1].split()[2:4] == ["checkpointed", "service"]
    records = json.loads(millrace("audit", "show", ran / "c.toml", "--member", "mlp", "--json"))
    assert {r["model"] for r in records} == {"mlp"}
    assert records[0]["event"] == "created"
    shown = millrace("audit", "show", ran / "c.toml", "--limit", "1000")
    assert "parameters match" in shown


def test_diff_names_what_changed(ran: Path) -> None:
    """Two records of a member: weights moved, the structure did not; what moved most is first."""
    records = json.loads(millrace("audit", "show", ran / "c.toml", "--member", "linear", "--json"))
    first, last = [r["seq"] for r in records if "tensors" in r][-2:]
    args = ("audit", "diff", ran / "c.toml", "--from", first, "--to", last)
    listed = json.loads(millrace(*args, "--json"))
    moved = [row["change"] for row in listed if row["change"] is not None]
    assert [row["change"] for row in listed[-len(moved) :]] == moved
    assert [abs(c) for c in moved] == sorted((abs(c) for c in moved), reverse=True)
    rows = {r["what"]: r for r in listed}
    versions = rows["version_to"]
    assert versions["change"] == (versions["to"] - versions["from"]) / versions["from"]
    assert rows["version_to"]["to"] > rows["version_to"]["from"]
    assert isinstance(rows["tensors[weight].norm"]["to"], float)
    assert not {"structure", "held", "model"} & rows.keys()
    assert "tensors[weight].norm" in millrace(*args)
    other = next(r["seq"] for r in json.loads(millrace("audit", "show", ran / "c.toml", "--json"))
                 if r["model"] == "mlp")  # fmt: skip
    text = millrace("audit", "diff", ran / "c.toml", "--from", first, "--to", other, status=3)
    assert "expected two records of one member" in text
    millrace("audit", "diff", ran / "c.toml", "--from", first, "--to", 9999, status=3)


def test_params_counts_descriptions_and_saved_members(ran: Path) -> None:
    """The published count of a layer, and the layers of a member as the checkpoint holds it."""
    assert "32,896" in millrace("params", "linear:256x128")
    found = json.loads(millrace("params", f"{ran / 'c.toml'}#mlp", "--json"))
    [created] = [
        r
        for r in json.loads(millrace("audit", "show", ran / "c.toml", "--limit", 99, "--json"))
        if r["event"] == "created" and r["model"] == "mlp"
    ]
    assert found["totals"]["held"] == created["held"]
    millrace("params", f"{ran / 'c.toml'}#nobody", status=3)
    millrace("params", "nonsense", status=2)


# ---------------------------------------------------------------------- anchors


def outputs(trail: Trail, n: int) -> Outputs:
    """A committed step with ``n`` audit records."""
    made = [trail.record("x", at_ms=0, cause="x", actor="x", model="x") for _ in range(n)]
    audit = [NewRecord(None, raw, 0) for raw in made]
    return Outputs([], [], audit, JournalRecord(1, 0, ""), head=trail.head())


def test_anchors_fall_due_by_records_and_at_the_end(tmp_path: Path) -> None:
    """One each time enough was committed, one for the rest; a restart goes on after them."""
    c = config(tmp_path, audit={"anchor_every": 3})
    c.state_dir.mkdir()
    trail, anchors = Trail("test"), Anchors(c, KEY)
    for n in (2, 2, 0, 1, 1):
        anchors.committed(outputs(trail, n))
    again = Anchors(c, KEY)
    again.committed(outputs(trail, 2))
    again.committed(outputs(trail, 1))
    again.close()
    again.close()
    lines = (c.state_dir / FILE).read_bytes().splitlines()
    heads = [read_anchor(line, KEY.public_key()) for line in lines]
    assert [h.seq for h in heads] == [4, 8, 9]
    assert heads[-1] == trail.head()


def test_a_topic_is_told_at_first_when_due_and_before_a_checkpoint(tmp_path: Path) -> None:
    """In the step's own outputs, and as it is otherwise; without a topic nothing is added."""
    c = config(tmp_path, audit={"anchor_every": 3}, topics={"witness": "heads"})
    trail, anchors = Trail("test"), Anchors(c, KEY)
    made = [outputs(trail, n) for n in (2, 2, 1, 1, 1)]
    saved = msgspec.structs.replace(made[4].journal, checkpoint=True)
    made[4] = msgspec.structs.replace(made[4], journal=saved)
    told = [
        [(r.key, read_anchor(r.value or b"").seq) for r in anchors.witnessed(out).anchors]
        for out in made
    ]
    assert told == [[(b"test", 2)], [], [(b"test", 5)], [], [(b"test", 7)]]
    assert Anchors(config(tmp_path), KEY).witnessed(made[0]) == made[0]


def test_a_torn_anchor_is_passed_over(tmp_path: Path) -> None:
    """A process that died while writing leaves half a line; the next one begins anew."""
    c = config(tmp_path, audit={"anchor_every": 1})
    c.state_dir.mkdir()
    trail, anchors = Trail("test"), Anchors(c, None)
    anchors.committed(outputs(trail, 1))
    path = c.state_dir / FILE
    path.write_bytes(path.read_bytes() + b'{"anchor":')
    again = Anchors(c, None)
    again.committed(outputs(trail, 1))
    lines = path.read_bytes().splitlines()
    assert [read_anchor(lines[0]).seq, read_anchor(lines[-1]).seq] == [1, 2]


def test_a_full_disk_does_not_stop_the_service(tmp_path: Path) -> None:
    """Without a place to write the anchor is tried again with the next commit."""
    c = config(tmp_path, audit={"anchor_every": 1})
    trail, anchors = Trail("test"), Anchors(c, None)
    anchors.committed(outputs(trail, 1))
    c.state_dir.mkdir()
    anchors.committed(outputs(trail, 1))
    assert read_anchor((c.state_dir / FILE).read_bytes()).seq == 2


# ---------------------------------------------------------------------- reading


CRAFTED: list[Any] = [
    {},
    [],
    7,
    {"seq": 0},
    {"at": -1},
    {"at": 10**30},
    {"at": True},
    {"model": None},
    {"event": ["x"]},
    {"event": "checkpointed"},
    {"event": "checkpointed", "held": 7, "roots": [], "step": 3},
    {"event": "checkpointed", "step": [3]},
    {"breaches": 7, "ranges": [], "undone": True},
    {"breaches": [{"rule": 1}], "ranges": [[]]},
    {"n_updates": 1},
    {"statistic": [], "threshold": {}},
    {"from": {}, "to": 1, "root": 1, "version_to": "x"},
    {"error": {"a": "\x1b[2J"}},
    {"statistic": math.nan, "threshold": 1},
    {
        **{"version_from": 0, "version_to": 1, "n_updates": 1, "steps": [1, 1]},
        **{"held": 1, "bytes": 1, "verdict": "match"},
        "tensors": [{"path": "weight", "delta_norm": "0x1.8p+99999"}],
    },
]
"""What a trail may hold that no service wrote: each beside what every record has."""


def crafted_lines(seq: int) -> list[bytes]:
    common = {"seq": seq, "at": 0, "event": "frozen", "cause": "x", "actor": "x", "model": "linear"}
    common |= {"prev": "", "hash": ""}
    deep = b'{"a":' * 900 + b"1" + b"}" * 900
    lines = [
        json.dumps(common | change if change and isinstance(change, dict) else change).encode()
        for change in CRAFTED
    ]
    nested = json.dumps(common | {"deep": 0}).encode().replace(b'"deep": 0', b'"deep": ' + deep)
    return [*lines, nested, b"[" * 100_000, b"\xff", b""]


def test_a_crafted_trail_is_read_without_a_traceback(shard: Path) -> None:
    """Whatever stands in the topic: what is no record is left out, what cannot be told is told."""
    c = settings(shard)
    good = len(read_trail(c))
    log = open_log(c, wall_clock_ms)
    log.append("audit", [NewRecord(b"test", line) for line in crafted_lines(good + 1)])
    log.close()
    shown = millrace("audit", "show", shard / "c.toml", "--limit", 1000)
    assert "not as the service writes it: see audit verify" in shown
    millrace("audit", "show", shard / "c.toml", "--json")
    millrace("audit", "diff", shard / "c.toml", "--from", 1, "--to", good + 1)
    millrace("audit", "score", shard / "c.toml", "e250", status=10)
    millrace("audit", "explain", shard / "c.toml", "linear")
    millrace("audit", "report", shard / "c.toml", "--html", shard / "life.html", status=10)
    verify(shard, "--checkpoint", status=10)


def test_a_crafted_record_of_a_checkpoint_matches_none(shard: Path) -> None:
    """It may continue the chain where nothing is signed."""
    c = settings(shard)
    rows = check_generations(c, crafted_lines(1), lambda _: "")
    assert rows
    assert "match" not in {row["verdict"] for row in rows}


@pytest.mark.parametrize(
    ("options", "fits"),
    [
        (["--event", "summary"], lambda r: r["event"] == "summary"),
        (["--actor", "ops"], lambda r: r["actor"] == "ops"),
        (["--member", "mlp", "--event", "created"], lambda r: r["seq"] == 2),
        (["--since", "2026-01-01T00:00:00Z"], lambda r: True),
        (["--until", "2026-01-01T00:00:00Z"], lambda r: False),
        (["--since", "1000w"], lambda r: True),
    ],
)
def test_records_are_found_by_time_event_and_actor(
    shard: Path, options: list[str], fits: Callable[[dict[str, Any]], bool]
) -> None:
    """Those of the trail for which each filter holds, in its order."""
    c = settings(shard)
    command = {"command": "freeze", "member": "mlp", "actor": "ops", "ticket": "OPS-7"}
    append(c, ("control", [command | {"reason": "drift"}]))
    with running(c) as service:
        caught_up(service, 801)
    whole = [json.loads(line) for line in read_trail(c)]
    found = json.loads(millrace("audit", "show", shard / "c.toml", "--json", *options))
    assert found == [record for record in whole if fits(record)][-20:]
    told = millrace("audit", "show", shard / "c.toml", "--actor", "ops")
    assert "by command of ops (OPS-7: drift)" in told


@pytest.mark.parametrize(
    "options", [["--since", "yesterday"], ["--until", "1dd"], ["--event", "frozzen"]]
)
def test_a_filter_that_fits_nothing_ever_is_wrong_usage(ran: Path, options: list[str]) -> None:
    """A typo does not look like an empty trail."""
    assert "expected" in millrace("audit", "show", ran / "c.toml", *options, status=2)

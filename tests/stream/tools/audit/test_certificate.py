"""Certificates: what somebody far away learns of a shard, and of whoever tampers with that."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monitoring.audit.trail import Head, make_anchor, sealed
from monitoring.audit.words import number
from stream.settings.upgrade import digest, journaled
from stream.state.anchors import FILE
from stream.state.generations import list_generations
from stream.tools.audit import certificate
from stream.tools.audit.read import read_trail
from stream.tools.audit.verify import count_saved, verify_trail
from stream.tools.replay import rebuilt
from tests.stream.logs.log_file import changed
from tests.stream.tools.audit.audited import FOREIGN, KEY, millrace, settings
from tests.support.factory import event
from tests.support.runner import append, caught_up, running


@pytest.fixture(scope="module")
def away(ran: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a certificate, the trail and the public key, and nothing else."""
    directory = tmp_path_factory.mktemp("away")
    files = directory / "certificate.json", directory / "trail.jsonl"
    millrace("audit", "export", ran / "c.toml", "--certificate", files[0], "--out", files[1])
    for name in ("public.pem", "foreign.pem"):
        shutil.copy(ran / name, directory / name)
    return directory


def verify(directory: Path, *options: object, status: int = 0) -> dict[str, Any]:
    """``audit verify`` of a certificate."""
    certificate = directory / "certificate.json"
    made = millrace("audit", "verify", certificate, *options, "--json", status=status)
    found: dict[str, Any] = json.loads(made)
    assert found["exit"] == status
    return found


def test_a_certificate_says_what_ran(ran: Path, away: Path) -> None:
    """Its figures are those of the state itself; it verifies alone and against the trail."""
    c = settings(ran)
    alone = verify(away, "--public-key", away / "public.pem")
    assert any(text.startswith("the trail itself") for text in alone["not_checked"])
    trail = away / "trail.jsonl"
    found = verify(away, "--public-key", away / "public.pem", "--file", trail)
    lines = [json.loads(line) for line in read_trail(c)]
    stated = found["certificate"]
    assert (found["records"], stated["head"]["seq"]) == (len(lines), len(lines))
    assert stated["config"] == digest(journaled(c))
    assert stated["events"] == Counter(line["event"] for line in lines)
    for name, one in stated["members"].items():
        counted = count_saved(c, name).totals
        assert (one["held"], one["bytes"]) == (counted.held, counted.bytes)
    with rebuilt(c, int(list_generations(c.state_dir)[0].name)) as past:
        report = past.follower.engine.quality.snapshot().report()
    for name, figures in stated["quality"].items():
        for metric, value in figures.items():
            assert number(value) == report[name]["all"][metric]
    text = millrace(
        "audit", "verify", away / "certificate.json", "--public-key", ran / "public.pem"
    )
    assert "linear" in text
    assert stated["code"]["sources"] in text


def test_who_wrote_it_must_be_known(away: Path) -> None:
    """Missing without a key, a bad signature by another; a file that is no key is no verdict."""
    assert verify(away, status=14)["where"] == "key"
    verify(away, "--public-key", away / "foreign.pem", status=12)
    certificate = away / "certificate.json"
    millrace("audit", "verify", certificate, "--public-key", away / "none.pem", status=3)


def change(**parts: Any) -> Callable[[dict[str, Any]], None]:
    return lambda body: body.update(parts)


def lighter(body: dict[str, Any]) -> None:
    body["members"]["mlp"]["held"] -= 1


FORGED: dict[str, tuple[Callable[[dict[str, Any]], None], int]] = {
    "another head": (lambda body: body["head"].update(hash="0" * 64), 10),
    "a later head": (lambda body: body["head"].update(seq=body["head"]["seq"] + 1), 11),
    "an earlier head": (lambda body: body["head"].update(seq=1), 10),
    "other parameters": (lighter, 13),
    "another configuration": (change(config="0" * 64), 13),
    "fewer events": (change(events={}), 13),
    "another checkpoint": (lambda body: body["checkpoint"].update(root="0" * 64), 13),
    "no parts": (lambda body: body.pop("members"), 10),
    "no time": (lambda body: body.pop("at"), 10),
    "a time after all times": (change(at=10**15), 10),
    "no machine": (lambda body: body["code"].update(ran_on="x"), 10),
    "no figures": (change(quality={"ensemble": 7}), 10),
    "another shard": (change(certificate="other"), 10),
    "an anchor that is none": (change(anchors=["{}"]), 12),
}


@pytest.mark.parametrize("forged", FORGED)
def test_whoever_holds_the_key_must_agree_with_the_trail(
    away: Path, tmp_path: Path, forged: str
) -> None:
    """Changed alone it is a bad signature; signed anew the trail says otherwise."""
    harm, status = FORGED[forged]
    body = json.loads((away / "certificate.json").read_bytes())
    signature = body.pop("sig")
    harm(body)
    target = tmp_path / "certificate.json"
    target.write_bytes(sealed(body | {"sig": signature}, None))
    key, trail = away / "public.pem", away / "trail.jsonl"
    verify(tmp_path, "--public-key", key, "--file", trail, status=12)
    target.write_bytes(sealed(body, FOREIGN))
    verify(tmp_path, "--public-key", key, "--file", trail, status=12)
    target.write_bytes(sealed(body, KEY))
    verify(tmp_path, "--public-key", key, "--file", trail, status=status)


@pytest.mark.parametrize("raw", [b"{", b"{}", b'{"a":' * 5000, b'{"sig": "00"}', b"{\xff"])
def test_what_is_no_certificate_is_told(away: Path, tmp_path: Path, raw: bytes) -> None:
    """Broken, or signed by nobody; never a traceback."""
    (tmp_path / "certificate.json").write_bytes(raw)
    path = tmp_path / "certificate.json"
    made = millrace(
        *("audit", "verify", path, "--public-key", away / "public.pem", "--json"),
        status=12 if raw == b"{}" else 10,
    )
    assert json.loads(made)["where"] == str(path)


def test_a_cut_trail_is_not_the_one_certified(away: Path, tmp_path: Path) -> None:
    """It ends before the head."""
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(b"\n".join((away / "trail.jsonl").read_bytes().splitlines()[:-1]) + b"\n")
    verify(away, "--public-key", away / "public.pem", "--file", cut, status=11)


def test_what_a_service_writes_meanwhile_is_not_certified(
    shard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anchors after the head stay out, and so does half a line of a process that was killed."""
    c = settings(shard)
    anchors = c.state_dir / FILE
    anchors.write_bytes(anchors.read_bytes() + b'{"anchor":')

    def verified(*args: Any, **options: Any) -> dict[str, Any]:
        found = verify_trail(*args, **options)
        append(c, ("events", [event(400)]))
        with running(c) as service:
            caught_up(service, 801)
        return found

    before = anchors.read_bytes().splitlines()[:-1]
    monkeypatch.setattr(certificate, "verify_trail", verified)
    certified = "--certificate", shard / "certificate.json"
    millrace("audit", "export", shard / "c.toml", *certified, "--out", shard / "trail.jsonl")
    assert len(anchors.read_bytes().splitlines()) > len(before) + 1
    key = "--public-key", shard / "public.pem"
    found = verify(shard, *key, "--file", shard / "trail.jsonl")
    assert found["certificate"]["anchors"] == [line.decode() for line in before]


@pytest.mark.parametrize("key", [KEY, FOREIGN])
def test_an_older_anchor_that_the_trail_contradicts_is_told(shard: Path, key: Any) -> None:
    """The newest one may be that of whoever wrote the trail anew."""
    anchors = shard / "state" / FILE
    other = make_anchor("test", Head(2, "0" * 64), key)
    anchors.write_bytes(other + b"\n" + anchors.read_bytes())
    export = "audit", "export", shard / "c.toml", "--certificate", shard / "certificate.json"
    assert "certificate: " in millrace(*export, status=3)
    assert not (shard / "certificate.json").exists()


def test_nothing_is_certified_that_does_not_verify(shard: Path) -> None:
    """A broken trail, another checkpoint, no key: an error, and no file."""
    target = shard / "certificate.json"
    export = "audit", "export", shard / "c.toml", "--certificate", target
    with changed(shard / "log.db", "audit") as rows:
        del rows[3]
    assert "see audit verify" in millrace(*export, status=3)
    text = (shard / "c.toml").read_text()
    (shard / "c.toml").write_text(text.replace(f'key = "{shard}/key.pem"', ""))
    assert "expected audit.key" in millrace(*export, status=3)
    assert not target.exists()
    millrace("audit", "export", shard / "c.toml", status=2)

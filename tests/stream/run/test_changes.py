"""The daemon under another configuration than before: what stays, what is refused, what is told."""

from __future__ import annotations

import copy
import json
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

import stream.run.service
import stream.step.lifecycle.challengers
from models.base import MillraceError
from stream.cli.main import app
from stream.run.front import Front
from stream.run.service import ReconfigurationRefused, Service
from stream.settings import upgrade
from stream.settings.load import parse
from stream.settings.schema import Config
from stream.settings.upgrade import UnreadableConfig, digest, journaled
from stream.state.artefacts import FOLDER
from stream.state.generations import list_generations
from stream.step.reconfigure import Irreconcilable
from stream.tools.audit.verify import verify_trail
from stream.tools.operate import CommandRefused, apply_configuration, difference, send_command
from stream.tools.replay import replay_to
from tests.stream.cli.test_cli import toml
from tests.stream.run.test_service import feed, last_seq
from tests.support.factory import config, event, label, raw_config
from tests.support.runner import append, caught_up, contents, running
from tests.support.waiting import DEADLINE_S


def replays(c: Config, seq: int) -> None:
    """The journal replays from the first step to what it holds, and to what was saved."""
    found = replay_to(c, seq, None, from_start=True)
    assert found["digest"] == found["journal_digest"]
    again = replay_to(c, seq, None, from_start=False)
    assert again["state_digest"] == found["state_digest"]


def test_a_changed_configuration_keeps_what_is_unchanged(tmp_path: Path) -> None:
    """A new member starts new, the others keep their state, pending events stay."""
    c = config(tmp_path)
    append(c, *feed(200))
    append(c, ("events", [event(i) for i in range(200, 260)]))
    with running(c) as service:
        caught_up(service, 460)
        before = service.engine.ensemble.members["linear"].digest()  # type: ignore[union-attr]
    more = [{"name": "linear", "type": "logistic"}, {"name": "low", "type": "constant"}]
    changed = config(tmp_path, members=more)
    with pytest.raises(ReconfigurationRefused, match="member prior"), running(changed):
        pass
    with running(changed, accept_changes=True) as service:
        engine = service.engine
        assert engine is not None
        assert engine.ensemble.members["linear"].digest() == before
        assert engine.pending.waiting == 60
        append(changed, ("labels", [label(i) for i in range(200, 260)]))
        caught_up(service, 520)
        assert engine.counts["labels.joined"] == 260
    found = replay_to(changed, last_seq(changed), None, from_start=True)
    assert found["digest"] == found["journal_digest"]
    # Replayed from the first step, the switch happens at the same place and gives the same state.
    again = replay_to(changed, last_seq(changed), None, from_start=False)
    assert again["state_digest"] == found["state_digest"]


def test_a_changed_feature_starts_the_members_new(tmp_path: Path) -> None:
    """Other columns: features that stay keep their state, members and detectors start new."""
    c = config(tmp_path)
    append(c, *feed(200))
    with running(c) as service:
        caught_up(service, 400)
    features = raw_config(tmp_path)["features"]
    features.append({"name": "plain", "type": "number", "field": "amount"})
    changed = config(tmp_path, features=features)
    expected = r"(?s)member linear as it was.*teach what is new first \(`millrace backfill`\)"
    with pytest.raises(ReconfigurationRefused, match=expected), running(changed):
        pass
    append(changed, *feed(100, first=200))
    with running(changed, accept_changes=True) as service:
        caught_up(service, 600)
        assert service.engine is not None
        assert service.engine.counts["scored"] == 300
    found = replay_to(changed, last_seq(changed), None, from_start=True)
    assert found["digest"] == found["journal_digest"]


def test_a_new_member_costs_nobody_anything(tmp_path: Path) -> None:
    """Nothing is lost, so nothing is asked; the combiner goes on with what it knows."""
    stack = {"combine": "stack"}
    c = config(tmp_path, ensemble=stack)
    append(c, *feed(300))
    with running(c) as s:
        caught_up(s, 600)
        assert s.engine is not None
        before = s.engine.ensemble.weights().tolist()
    more = [*raw_config(tmp_path)["members"], {"name": "crossed", "type": "crossed"}]
    changed = config(tmp_path, members=more, ensemble=stack)
    with running(changed) as s:
        assert s.engine is not None
        assert abs(s.engine.ensemble.weights().tolist()[2]) < 0.01 * max(before)
        append(changed, *feed(100, first=300))
        caught_up(s, 800)
    replays(changed, last_seq(changed))
    found = verify_trail(changed, None, None, None, checkpoints=True)
    assert (found["outcome"], len(found["generations"])) == ("ok", 2)


def test_input_goes_on_from_a_renamed_topic(tmp_path: Path) -> None:
    """Steps from before replay under the old names; the new ones are read from their beginning,
    and after a way back the old ones from where they were left."""
    old = config(tmp_path)
    new = config(tmp_path, topics={"events": "payments", "labels": "truth", "scores": "verdicts"})
    append(old, *feed(100))
    with running(old) as s:
        caught_up(s, 200)
    kept = list_generations(old.state_dir)
    append(new, ("payments", [event(i) for i in range(100, 180)]))
    append(new, ("truth", [label(i) for i in range(90, 170)]))
    with running(new) as s:
        caught_up(s, 160)
        assert s.engine is not None
        assert s.engine.counts["dead.label_duplicate"] == 10
        assert s.engine.counts["labels.joined"] == 170
    assert (len(contents(new, "scores")), len(contents(new, "verdicts"))) == (100, 80)
    replays(new, last_seq(new))
    for generation in set(list_generations(new.state_dir)) - set(kept):
        generation.rename(tmp_path / f"taken-away-{generation.name}")
    with running(new) as s:
        assert s.recovered is not None
        assert s.recovered.replayed_steps > 1  # over the switch
    append(old, *feed(20, first=180))
    with running(old) as s:
        caught_up(s, 220)
        assert s.engine is not None
        assert s.engine.counts["scored"] == 200
    assert len(contents(old, "scores")) == 120


def test_an_input_is_not_left_unread_without_a_word(tmp_path: Path) -> None:
    """What the old topic still holds when another one is configured is lost only by consent."""
    old = config(tmp_path)
    append(old, *feed(100))
    with running(old) as s:
        caught_up(s, 200)
    append(old, ("events", [event(i) for i in range(100, 130)]))
    new = config(tmp_path, topics={"events": "payments"})
    with pytest.raises(ReconfigurationRefused, match="30 offsets of events/0"), running(new):
        pass
    with running(new, accept_changes=True) as s:
        append(new, ("payments", [event(i) for i in range(200, 210)]))
        caught_up(s, 110)
        assert s.engine is not None
        assert s.engine.counts["scored"] == 110


@pytest.mark.parametrize(
    ("topics", "error"),
    [({"journal": "diary"}, MillraceError), ({"audit": "trail"}, Irreconcilable)],
)
def test_a_shard_keeps_its_journal_and_its_trail(
    tmp_path: Path, topics: dict[str, str], error: type[Exception]
) -> None:
    """Another topic for either is refused with what to do, and no generation is set aside."""
    c = config(tmp_path)
    append(c, *feed(50))
    with running(c) as s:
        caught_up(s, 100)
    before = list_generations(c.state_dir)
    changed = config(tmp_path, topics=topics)
    key = next(iter(topics))
    match = rf"topics\.{key}: expected .*, got '{topics[key]}'.*begin a new shard"
    with pytest.raises(error, match=match), running(changed, accept_changes=True):
        pass
    assert list_generations(c.state_dir) == before
    with running(c) as s:
        assert s.recovered is not None
        assert s.recovered.replayed_steps == 0


@pytest.mark.parametrize("saved", [True, False])
def test_a_setting_that_is_gone_is_told_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: bool
) -> None:
    """In the newest generation, or in the journal: what, where, who wrote it, and what to do."""
    foreign(monkeypatch)
    c = config(tmp_path)
    append(c, *feed(50))
    with running(c) as s:
        caught_up(s, 100)
    before = list_generations(c.state_dir)
    if not saved:
        before[0].rename(tmp_path / "taken-away")
        before = []
    monkeypatch.undo()
    where = "state: generation 2" if saved else "journal-test: step 1"
    expected = (
        rf"{where}.*written by millrace 99\.1.*\n  limits\.patience: unknown key\n.*begin anew"
    )
    with pytest.raises(UnreadableConfig, match=expected), running(c):
        pass
    assert list_generations(c.state_dir) == before


def foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let another version write configurations, with a setting that this one does not know."""
    real = upgrade.plain

    def plain(config: Config) -> dict[str, Any]:
        tree = real(config)
        return tree | {"limits": tree["limits"] | {"patience": 3}}

    monkeypatch.setattr(upgrade, "plain", plain)
    monkeypatch.setattr(upgrade, "version", lambda _: "99.1")


# ---------------------------------------------------------------------- while it runs


def applied(c: Config, accept: bool = False) -> dict[str, Any]:
    """What ``millrace apply`` does."""
    return apply_configuration(c, difference(c).base, accept, {"reason": "spring"}, DEADLINE_S)


def test_a_changed_file_holds_without_a_restart(tmp_path: Path) -> None:
    """A member more, taken between two steps; what replays, and a start with the file, agree."""
    raw = raw_config(tmp_path, ensemble={"combine": "stack"})
    more = raw | {"members": [*raw["members"], {"name": "crossed", "type": "crossed"}]}
    c, changed = parse(raw, "test"), parse(more, "test")
    append(c, *feed(300))
    with running(c) as s:
        caught_up(s, 600)
        taken = applied(changed)
        append(changed, *feed(100, first=300))
        caught_up(s, 801)
        assert s.engine is not None
        assert s.engine.ensemble.names == ("linear", "prior", "crossed")
        assert s.engine.counts["updates.crossed"] == s.engine.counts["updates.linear"]
        assert s.config == changed
        assert difference(changed).same
    trail = [json.loads(value or b"") for value in contents(changed, "audit")]
    [record] = [r for r in trail if r["event"] == "reconfigured"]
    assert (record["step"], record["reason"]) == (taken["seq"], "spring")
    end = last_seq(changed)
    with running(changed) as s:
        assert s.engine is not None
        assert s.engine.seq == end  # nothing was left to switch to
    replays(changed, end)
    assert verify_trail(changed, None, None, None, checkpoints=True)["outcome"] == "ok"


def test_a_refusal_by_the_running_service_is_told(tmp_path: Path) -> None:
    """As its dead letter says it; with consent the same file is taken."""
    raw = raw_config(tmp_path)
    c, fewer = parse(raw, "test"), parse(raw | {"members": raw["members"][:1]}, "test")
    append(c, *feed(100))
    with running(c) as s:
        caught_up(s, 200)
        with pytest.raises(CommandRefused, match=r"step \d+ refused it: accept: .* member prior"):
            applied(fewer)
        applied(fewer, accept=True)
        caught_up(s, 202)
        assert s.engine is not None
        assert s.engine.ensemble.names == ("linear",)


def test_nobody_takes_what_nobody_runs(tmp_path: Path) -> None:
    """Without a service the command waits in the log, and that is said."""
    c = config(tmp_path)
    append(c, *feed(100))
    with running(c) as s:
        caught_up(s, 200)
    changed = config(tmp_path, ensemble={"threshold": 0.3})
    with pytest.raises(MillraceError, match="control/0 at offset 0; nobody took it"):
        apply_configuration(changed, difference(changed).base, False, {}, 0.0)


def test_the_command_line_shows_the_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stays, starts new, is lost or needs a restart; nothing is sent that cannot hold."""
    raw, path = raw_config(tmp_path), tmp_path / "c.toml"
    c, sent = parse(raw, "test"), []
    append(c, *feed(100))
    with running(c) as s:
        caught_up(s, 200)

    def send(*asked: Any) -> dict[str, Any]:
        sent.append(asked)
        return {"seq": 7}

    monkeypatch.setattr("stream.tools.operate.apply_configuration", send)

    def told(changed: dict[str, Any], *options: str) -> tuple[int, str]:
        path.write_text(toml(changed))
        done = CliRunner().invoke(app, ["apply", str(path), *options])
        return done.exit_code, done.stdout

    more = raw | {"members": [*raw["members"], {"name": "crossed", "type": "crossed"}]}
    code, shown = told(more, "--dry-run")
    assert (code, "starts new: member crossed" in shown, sent) == (0, True, [])
    lower = copy.deepcopy(raw) | {"ensemble": {"threshold": 0.25}, "drift": {"on_alarm": "reset"}}
    lower["members"][1]["learn_every"] = 3
    code, shown = told(lower, "--dry-run")
    assert [line for line in shown.splitlines() if line.startswith("changes: ")] == [
        'changes: drift.on_alarm: "none" -> "reset"',
        "changes: ensemble.threshold: 0.5 -> 0.25",
        "changes: members.prior.learn_every: 1 -> 3",
    ]
    code, shown = told(raw)
    assert (code, "nothing was appended" in shown, sent) == (0, True, [])
    code, shown = told(raw | {"state_dir": str(tmp_path / "elsewhere")})
    assert (code, "needs a restart: state_dir" in shown, sent) == (2, True, [])
    columns = raw | {"features": raw["features"][:-1]}
    code, shown = told(columns, "--dry-run")
    assert (code, "its state is lost: events that wait" in shown, sent) == (0, True, [])
    fewer = raw | {"members": raw["members"][:1]}
    code, shown = told(fewer)
    assert (code, "its state is lost: member prior" in shown, sent) == (2, True, [])
    code, shown = told(fewer, "--accept", "--reason", "spring")
    assert (code, "holds from step 7 on" in shown) == (0, True)
    [(_, base, accept, grounds, _)] = sent
    assert (base, accept, grounds) == (digest(journaled(c)), True, {"reason": "spring"})


def test_http_follows_the_configuration(tmp_path: Path) -> None:
    """Fields, members and commands that requests are checked by, and what is described."""
    raw = raw_config(tmp_path, http={"enabled": True, "port": 0})
    more = copy.deepcopy(raw)
    more["members"].append({"name": "crossed", "type": "crossed"})
    more["event"]["fields"]["country"] = "category"
    c = parse(raw, "test")
    append(c, *feed(100))
    service = Service(c)
    front = Front(service)
    front.start()
    thread = threading.Thread(target=service.run)
    thread.start()
    try:
        assert front.server is not None
        with httpx.Client(
            base_url=f"http://127.0.0.1:{front.server.port}", timeout=DEADLINE_S
        ) as client:
            caught_up(service, 200)
            freeze = {"command": "freeze", "member": "crossed"}
            assert client.post("/v1/control", json=freeze).status_code == 422
            applied(parse(more, "test"))
            caught_up(service, 201)
            assert client.post("/v1/control", json=freeze).status_code == 202
            assert client.post("/v1/events", json=event(900)).status_code == 422
            whole = event(900) | {"country": "ch"}
            assert client.post("/v1/score", json=whole).json()["members"].keys() >= {"crossed"}
            described = client.get("/openapi.json").json()["components"]["schemas"]["Event"]
            assert "country" in described["properties"]
            members = client.get("/v1/models").json()["members"]
            assert [member["name"] for member in members] == ["linear", "prior", "crossed"]
            assert 'member="crossed"' in client.get("/metrics").text
    finally:
        service.stop()
        thread.join(DEADLINE_S)
        front.stop()


# ---------------------------------------------------------------------- promotions that cannot be


ZERO = {"name": "zero", "type": "constant"}
SECOND = {"combine": "stack", "members": [{"name": "fast", "type": "logistic"}]}
SOON = {"block": "30m", "rows": 20, "alpha": 0.2, "promote": "auto", "deadline": "300d"}


def winning(c: Config, s: Service) -> int:
    """Feed it until what challenges the ensemble has won; gives how many events there were."""
    for i in range(0, 3_000, 100):
        append(c, *feed(100, i))
        caught_up(s, 1 + 2 * (i + 100))
        assert s.engine is not None
        if s.engine.challengers.standings()[0].proposed:
            return i + 100
    raise AssertionError("nothing has won")


def test_a_winner_whose_switch_fails_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told once, events are scored on, and a start of what is mended lets it take the place."""
    monkeypatch.setattr(stream.step.lifecycle.challengers, "WARM_UP", 200)
    c = config(tmp_path, members=[ZERO], ensemble={}, challengers=SOON)
    with monkeypatch.context() as broken, running(c) as s, capture_logs() as said:
        broken.setattr(stream.run.service, "exchange", _broken)
        send_command(c, "challenge", {"member": "ensemble", "spec": json.dumps(SECOND)})
        caught_up(s, 1)
        end = winning(c, s)
        append(c, *feed(100, end))
        caught_up(s, 1 + 2 * (end + 100))
        assert s.engine is not None
        assert s.engine.ensemble.names == ("zero",)
        assert s.engine.counts["scored"] == end + 100
        assert s.engine.challengers.standings()[0].proposed
    [line] = [one for one in said if one["event"] == "promotion_refused"]
    assert "not today" in line["error"]
    with running(c) as s:
        append(c, *feed(10, end + 100))
        caught_up(s, 1 + 2 * (end + 110))
        assert s.engine is not None
        assert s.engine.ensemble.names == ("fast",)
        end = last_seq(c)
        held = s.config
    replays(held, end)


def test_an_ensemble_goes_and_comes_back_without_a_step_between(tmp_path: Path) -> None:
    """What made room is there at once, live, in a replay elsewhere, and after a start."""
    c = config(tmp_path, challengers=SOON | {"promote": "propose"})
    append(c, *feed(300))
    with running(c) as s:
        caught_up(s, 600)
        send_command(c, "challenge", {"member": "ensemble", "spec": json.dumps(SECOND)})
        for command in ("promote", "rollback", "promote", "rollback"):
            to = {"to": "last_good"} if command == "rollback" else {}
            send_command(c, command, {"member": "ensemble"} | to)
            if command == "rollback":
                send_command(c, "challenge", {"member": "ensemble", "spec": json.dumps(SECOND)})
        caught_up(s, 607)
        assert s.engine is not None
        assert s.engine.counts["dead.command"] == 0
        assert s.engine.ensemble.names == ("linear", "prior")
        assert len(s.engine.ledger.versions()["ensemble"]) == 4
    end = last_seq(c)
    replays(c, end)
    (c.state_dir / FOLDER).rename(tmp_path / "elsewhere")
    again = replay_to(c, end, None, from_start=True)  # makes what it needs
    assert again["digest"] == again["journal_digest"]
    (tmp_path / "elsewhere").rename(c.state_dir / FOLDER)
    with running(c) as s:
        assert s.engine is not None
        assert (s.engine.seq, s.engine.ensemble.names) == (end, ("linear", "prior"))


def _broken(*_: Any) -> Any:
    raise RuntimeError("not today")

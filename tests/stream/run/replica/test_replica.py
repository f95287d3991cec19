"""A replica beside a service on the embedded log: equal at every step, and never more than it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

import stream.step.lifecycle.challengers
from models.base import MillraceError
from stream.contract.outputs import Outputs
from stream.contract.records import Batch, NewRecord
from stream.run.front import Front
from stream.run.replica.replica import OtherCode, Replica
from stream.run.service import Listener, Service
from stream.run.threads import NoTurn
from stream.state import follow
from stream.state.follow import Diverged
from stream.state.platform import fingerprint
from stream.step.engine import Engine
from stream.tools.operate import apply_configuration, difference, send_command
from stream.tools.past.backfill import backfill
from stream.tools.versions import listed
from tests.stream.logs.log_file import changed
from tests.stream.run.replica.beside import asked, equal, following, level
from tests.stream.run.test_backfill import FOUR, QUIET, begun
from tests.stream.run.test_service import feed
from tests.support.factory import (
    config,
    event,
    interaction,
    new_records,
    ranking_config,
    to_json,
    wish,
)
from tests.support.runner import append, caught_up, contents, running
from tests.support.waiting import DEADLINE_S, wait_until


def timeless(answer: Any) -> dict[str, Any]:
    """A what-if but for when it was asked; one that is a dead letter fails."""
    return {k: v for k, v in answer.items() if k != "scored_at"}


def test_it_says_what_its_service_says(tmp_path: Path) -> None:
    """From a checkpoint and on: the same state, what-ifs and reasons bit for bit, no step more."""
    c = config(tmp_path, reasons={"tell": "asked"})
    append(c, *feed(100))
    with running(c) as service:
        caught_up(service, 200)
    append(c, ("events", [event(i) for i in range(100, 150)]))
    with running(c) as service, following(c, tmp_path / "replica") as (replica, front):
        own = Front(service)
        caught_up(service, 250)
        equal(replica, service)
        append(c, *feed(50, 150))
        caught_up(service, 350)
        equal(replica, service)
        assert replica.recovered is not None
        assert replica.recovered.loaded is not None
        what_if = [NewRecord(None, to_json(event(i))) for i in range(300, 305)]
        assert [timeless(a) for a in front.what_if(what_if, DEADLINE_S)] == [
            timeless(a) for a in own.what_if(what_if, DEADLINE_S)
        ]
        told = front.why("e120", DEADLINE_S)
        assert told == own.why("e120", DEADLINE_S)
        assert told is not None
        assert front.score("e160") == own.score("e160")
        wait_until(lambda: front.models() == own.models(), "the same members over HTTP")
        equal(replica, service)


def test_it_goes_on_when_its_service_is_changed_and_started_again(tmp_path: Path) -> None:
    """Versions put back and installed, a challenger promoted, a member more by `apply`, restarts:
    each is a step. Who begins later finds versions from before where its service keeps them."""
    members = [{"name": "linear", "type": "logistic"}, {"name": "prior", "type": "constant"}]
    c = config(tmp_path, members=members, versions={"every": "1ms"})
    more = config(
        tmp_path,
        members=[*members, {"name": "crossed", "type": "crossed"}],
        versions={"every": "1ms"},
    )
    append(c, *feed(100))
    with following(c, tmp_path / "replica") as (replica, front):
        with running(c) as service:
            caught_up(service, 200)
        append(c, *feed(100, 100))
        with running(c) as service:
            caught_up(service, 400)
            older = next(row["version"] for row in listed(c) if row["member"] == "linear")
            send_command(c, "rollback", {"to": older, "member": "linear"})
            caught_up(service, 401)
            equal(replica, service)
            with following(c, tmp_path / "later") as (later, _):
                level(later, 1)
                send_command(c, "install", {"member": "linear", "artefact": older})
                send_command(c, "challenge", {"member": "linear"})
                append(c, *feed(100, 200))
                caught_up(service, 603)
                send_command(c, "promote", {"member": "linear"})
                caught_up(service, 604)
                equal(later, service)
            equal(replica, service)
            apply_configuration(more, difference(more).base, False, {}, DEADLINE_S)
            append(c, *feed(100, 300))
            caught_up(service, 805)
            equal(replica, service)
            names = [member["name"] for member in front.models()["members"]]
            assert names == ["linear", "prior", "crossed"]
            events = [json.loads(value or b"")["event"] for value in contents(c, "audit")]
            for done in ("rolled_back", "installed", "challenger_promoted", "reconfigured"):
                assert done in events
        with running(more) as service:
            append(c, *feed(10, 400))
            caught_up(service, 825)
            equal(replica, service)
        assert replica.progress.starts == 1


def test_it_follows_a_second_ensemble_into_its_place_and_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By evidence, with no record that asks for it, and by a command; a start goes on from it."""
    monkeypatch.setattr(stream.step.lifecycle.challengers, "WARM_UP", 200)
    soon = {"block": "30m", "rows": 20, "alpha": 0.2, "promote": "auto", "deadline": "300d"}
    worse = [{"name": "zero", "type": "constant"}]
    c = config(tmp_path, members=worse, ensemble={}, challengers=soon)
    better = [{"name": "fast", "type": "logistic"}, {"name": "pairs", "type": "crossed"}]
    spec = json.dumps({"combine": "stack", "members": better})
    with following(c, tmp_path / "replica") as (replica, front), running(c) as service:
        send_command(c, "challenge", {"member": "ensemble", "spec": spec})
        caught_up(service, 1)
        for i in range(30):
            append(c, *feed(100, 100 * i))
            caught_up(service, 1 + 200 * (i + 1))
            if service.config.ensemble.combine == "stack":
                break
        equal(replica, service)
        names = [member["name"] for member in front.models()["members"]]
        assert names == ["fast", "pairs"]
        own = Front(service)
        wait_until(lambda: front.models() == own.models(), "the same challenger over HTTP")
        assert [c["member"] for c in front.models()["challengers"]] == ["ensemble"]
        send_command(c, "promote", {"member": "ensemble"})
        wait_until(lambda: service.config.ensemble.combine == "mean_logit", "the way back")
        send_command(c, "rollback", {"member": "ensemble", "to": "last_good"})
        wait_until(lambda: service.config.ensemble.combine == "stack", "as it was, once more")
        equal(replica, service)
        send_command(c, "rollback", {"member": "ensemble", "to": "last_good"})
        wait_until(lambda: service.config.ensemble.combine == "mean_logit", "the way back")
        append(c, *feed(10, 100 * (i + 1)))
        caught_up(service, 1 + 200 * (i + 1) + 3 + 20)
        equal(replica, service)
    with running(c) as service:
        caught_up(service, 1)
        told = service.engine
        assert told is not None
        assert told.ensemble.names == ("zero",)
        assert len(told.ledger.versions()["ensemble"]) == 4
    rows = [row for row in listed(c) if row["member"] == "ensemble"]
    assert [row["cause"] for row in rows] == ["replaced"] * 4
    assert all(row["bytes"] for row in rows)


def test_it_follows_over_a_backfill(tmp_path: Path) -> None:
    """A member that the past has taught stands there as in its service, which was started anew; a
    replica that begins before the next checkpoint finds it, too."""
    old, new = begun(tmp_path), config(tmp_path, **FOUR)
    with following(old, tmp_path / "replica") as (replica, front):
        with running(old) as service:
            equal(replica, service)
        assert backfill(new, None, QUIET)["parts"] == ["member crossed"]
        with running(new) as service, following(new, tmp_path / "later") as (later, _):
            append(new, *feed(50, 500))
            wait_until(lambda: not sum(service.log.lag().values()), "all to be taken")
            equal(replica, service)
            equal(later, service)
        names = [member["name"] for member in front.models()["members"]]
        assert names == ["linear", "crossed", "prior", "trees"]
        assert replica.progress.starts == 1


def test_it_follows_a_shard_that_ranks(tmp_path: Path) -> None:
    """Its state, its answers and its members are the service's."""
    c = ranking_config(tmp_path)
    append(c, ("events", [interaction(i) for i in range(600)]))
    with running(c) as service, following(c, tmp_path / "replica") as (replica, front):
        own = Front(service)
        append(c, ("events", [wish(i) for i in range(5)]))
        caught_up(service, 605)
        equal(replica, service)
        assert front.score("r4") == own.score("r4")
        wait_until(lambda: front.models() == own.models(), "the same members over HTTP")
        assert "popular" in {member["name"] for member in front.models()["members"]}


def contents_of(directory: Path) -> dict[str, tuple[str, int]]:
    """Digest and time of each file, but for what SQLite shares between processes."""
    return {
        str(path.relative_to(directory)): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mtime_ns,
        )
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not path.name.endswith(("-shm", "-wal"))
    }


def test_it_writes_nothing_where_its_service_does(tmp_path: Path) -> None:
    """Not a byte of log and state_dir is another one after it started, was asked and ended."""
    c = config(tmp_path / "service", versions={"every": "1ms"})
    append(c, *feed(100))
    with running(c) as service:
        caught_up(service, 200)
        seq = service.committer.committed_seq
    before = contents_of(tmp_path / "service")
    with following(c, tmp_path / "replica") as (replica, front):
        level(replica, seq)
        front.what_if([NewRecord(None, to_json(event(200)))], DEADLINE_S)
        with pytest.raises(MillraceError, match="readonly"):
            replica.log.append("events", new_records([event(200)]))
    assert contents_of(tmp_path / "service") == before
    assert list((tmp_path / "replica" / "pending").iterdir()) == []


def spoiled(engine: Engine) -> None:
    """One number of one member is another one."""
    member: Any = engine.ensemble.members["linear"]
    state = member.state()
    name = next(k for k, v in state.items() if getattr(v, "size", 0) and v.dtype.kind == "f")
    state[name].flat[0] += 1e-3
    member.restore(state)


def broken(engine: Engine) -> None:
    """Its next step fails."""

    def step(batch: Batch) -> Outputs:
        raise ZeroDivisionError(batch.seq)

    engine.step = step  # type: ignore[method-assign]


class Heard(Listener):
    """Of which steps one is told."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def stepped(self, engine: Engine, outputs: Outputs, seconds: float) -> None:
        """See :class:`Listener`."""
        self.steps.append(outputs.journal.seq)

    def committed(self, outputs: Outputs, seconds: float) -> None:
        """See :class:`Listener`."""
        self.steps.append(outputs.journal.seq)


@pytest.mark.parametrize(
    ("spoil", "said"), [(spoiled, "gave digest"), (broken, "failed in the replica: ZeroDivision")]
)
def test_it_tells_nothing_once_it_differs(
    tmp_path: Path, spoil: Callable[[Engine], None], said: str
) -> None:
    """What was spoiled is found at the next step, of which nobody is told; 503 with the reason, an
    error at last."""
    c = config(tmp_path, http={"port": 0, "enabled": True})
    append(c, *feed(100))

    def told(front: Any, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{front.server.port}{path}", timeout=DEADLINE_S)

    with (
        running(c) as service,
        following(c, tmp_path / "replica", Diverged) as (replica, front),
    ):
        front.start()
        caught_up(service, 200)
        equal(replica, service)
        assert told(front, "/v1/models").status_code == 200
        asked(replica, spoil)
        proved = replica.progress.verified_seq
        replica.listeners.append(heard := Heard())
        append(c, *feed(50, 100))
        wait_until(lambda: replica.progress.diverged, "the divergence")
        caught_up(service, 300)
        assert service.committer.committed_seq > replica.progress.verified_seq == proved
        assert heard.steps == []
        assert front.score("e149") is None
        with pytest.raises(NoTurn):
            replica.ask(lambda engine: engine.seq, DEADLINE_S)
        for path in ("/readyz", "/v1/models", "/v1/scores/e1", "/v1/live", "/v1/parameters"):
            answer = told(front, path)
            assert answer.status_code == 503, path
            assert said in answer.json()["detail"], path
        asked_if = httpx.post(
            f"http://127.0.0.1:{front.server.port}/v1/what-if",  # type: ignore[union-attr]
            json=event(900),
            timeout=DEADLINE_S,
        )
        assert asked_if.json()["type"] == "urn:millrace:diverged"
        assert told(front, "/livez").status_code == 200
        assert 'millrace_replica_diverged{model="test"} 1.0' in told(front, "/metrics").text


def test_a_journal_that_tells_another_story_is_a_divergence(tmp_path: Path) -> None:
    """One digit of a digest in the log on disk: the step is not what it says."""
    c = config(tmp_path)
    append(c, *feed(100))
    with running(c) as service:
        caught_up(service, 200)
    for directory in (tmp_path / "state" / "generations").iterdir():
        directory.rename(tmp_path / directory.name)
    with changed(tmp_path / "log.db", c.journal_topic) as rows:
        value = rows[0][1]
        at = value.index(b'"digest":"') + len(b'"digest":"')
        other = b"0" if value[at : at + 1] != b"0" else b"1"
        rows[0][1] = value[:at] + other + value[at + 1 :]
    with following(c, tmp_path / "replica", Diverged) as (replica, _):
        wait_until(lambda: replica.progress.diverged, "the divergence")
        assert replica.progress.diverged.startswith("step 1: the replay gave digest")


def test_other_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its steps may be equal by chance: it names what differs and ends."""
    c = config(tmp_path)
    append(c, *feed(20))
    with running(c) as service:
        caught_up(service, 40)
    monkeypatch.setattr(follow, "fingerprint", lambda: fingerprint() | {"kernels": "others"})
    with following(c, tmp_path / "replica", OtherCode) as (replica, _):
        wait_until(replica.stopping.is_set, "the end")


def cut(service: Service, seq: int) -> bool:
    """Whether the journal begins after a step."""
    head = service.log.journal_head()
    return head is not None and head.seq > seq


def test_it_starts_again_where_the_journal_was_let_go(tmp_path: Path) -> None:
    """Held up until its next step is gone, it begins at a newer checkpoint, and says so."""
    log = {"type": "embedded", "path": str(tmp_path / "log.db"), "timeout": "300s"}
    checkpoints = {"interval": "1h", "recovery_budget": "1h", "keep": 2}
    c = config(tmp_path, log=log | {"retention": "1ms"}, checkpoints=checkpoints)
    append(c, *feed(50))
    with following(c, tmp_path / "replica") as (replica, front), running(c) as service:
        caught_up(service, 100)
        equal(replica, service)
        with replica.turns._turn:  # its loop waits here
            for first in (50, 100, 150):
                append(c, *feed(50, first), ("control", [{"command": "checkpoint"}]))
                wait_until(
                    lambda n=first // 50: service.checkpointer.written_total >= n,  # type: ignore[misc]
                    "a checkpoint",
                )
            wait_until(lambda: cut(service, replica.progress.verified_seq + 1), "the cut")
        wait_until(lambda: replica.progress.starts >= 2, "another start")
        equal(replica, service)
        assert front.ready()[0]


def test_it_has_a_directory_of_its_own(tmp_path: Path) -> None:
    """In the service's own it would sweep out, and write."""
    c = config(tmp_path)
    for directory in (c.state_dir, c.state_dir / "replica"):
        with pytest.raises(MillraceError, match="of the replica's own"):
            Replica(c, directory)


def test_it_takes_nothing_in(tmp_path: Path) -> None:
    """Whatever appends is refused with where to send it instead; its description leaves it out."""
    c = config(tmp_path, http={"port": 0, "enabled": True})
    append(c, *feed(20))
    with running(c) as service, following(c, tmp_path / "replica") as (replica, front):
        front.start()
        assert front.server is not None
        caught_up(service, 40)
        equal(replica, service)
        with httpx.Client(
            base_url=f"http://127.0.0.1:{front.server.port}", timeout=DEADLINE_S
        ) as http:
            for path in ("events", "score", "labels", "control"):
                answer = http.post(f"/v1/{path}", json=event(99))
                assert answer.status_code == 405, path
                assert "replica of 'test'" in answer.json()["detail"], path
            inputs = [
                {"name": k, "shape": [1], "datatype": "BYTES", "data": [v]}
                for k, v in event(99).items()
                if isinstance(v, str)
            ]
            numbers = [
                {"name": k, "shape": [1], "datatype": "FP64", "data": [v]}
                for k, v in event(99).items()
                if not isinstance(v, str)
            ]
            infer = {"inputs": [*inputs, *numbers]}
            refused = http.post(
                "/v2/models/test/infer", json=infer | {"parameters": {"mode": "event"}}
            )
            assert refused.status_code == 405
            foretold = http.post("/v2/models/test/infer", json=infer)
            assert foretold.status_code == 200, foretold.text
            assert foretold.json()["model_version"] == str(replica.progress.verified_seq)
            paths = http.get("/openapi.json").json()["paths"]
        assert "/v1/what-if" in paths
        assert "/v1/events" not in paths
        assert service.committer.committed_seq == replica.progress.verified_seq

"""Versions in a service: kept with checkpoints, put back by command, the same in every replay."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from stream.run.service import Service
from stream.settings.schema import Config
from stream.state.artefacts import FOLDER, ArtefactError, Artefacts
from stream.state.generations import CheckpointError
from stream.tools.operate import send_command
from stream.tools.replay import replay_to
from stream.tools.versions import NotKept, bring, export, listed
from tests.stream.cli.test_cli import millrace, toml
from tests.stream.run.test_service import feed, last_seq
from tests.support.factory import config, event, raw_config
from tests.support.runner import append, caught_up, contents, running
from tests.support.waiting import DEADLINE_S, wait_until

MEMBERS = [
    {"name": "linear", "type": "logistic"},
    {"name": "trees", "type": "forest", "trees": 2, "max_leaves": 64, "grace": 20},
]


def shard(directory: Path, **changes: Any) -> Config:
    """A shard whose every checkpoint keeps versions."""
    return config(directory, members=MEMBERS, versions={"every": "1ms"}, **changes)


def begun(directory: Path) -> Config:
    """One that has kept versions of two states, the newer with more labels."""
    c = shard(directory)
    for first in (0, 200):
        append(c, *feed(200, first))
        with running(c) as service:
            caught_up(service, 2 * first + 400)
    return c


def digests(service: Service) -> dict[str, str]:
    """Of each member."""
    assert service.engine is not None
    return {name: member.digest() for name, member in service.engine.ensemble.members.items()}


def same_in_a_replay(c: Config) -> None:
    """From the first step and from the newest checkpoint the state is the same."""
    whole = replay_to(c, last_seq(c), None, from_start=True)
    assert whole["digest"] == whole["journal_digest"]
    assert (
        replay_to(c, last_seq(c), None, from_start=False)["state_digest"] == whole["state_digest"]
    )


def test_a_member_goes_back_and_goes_on(tmp_path: Path) -> None:
    """It learns on from the older version; a restart and a replay find the same."""
    c = begun(tmp_path)
    older = [row["version"] for row in listed(c) if row["member"] == "linear"][-1]
    send_command(c, "rollback", {"to": older[:12], "member": "linear", "reason": "bad labels"})
    with running(c) as service:
        caught_up(service, 801)
        assert digests(service)["linear"] == older
    append(c, *feed(100, 400))
    with running(c) as service:
        caught_up(service, 1001)
        assert digests(service)["linear"] != older
        kept = digests(service)
    with running(c) as service:
        assert digests(service) == kept
    same_in_a_replay(c)
    causes = [row["cause"] for row in listed(c) if row["member"] == "linear"]
    assert causes == ["regular", "rolled_back", "regular", "regular"]


def test_two_commands_at_once_are_two_steps(tmp_path: Path) -> None:
    """The second finds what the first left; records polled with them are taken after them."""
    c = begun(tmp_path)
    append(c, *feed(50, 400))
    first = min(row["step"] for row in listed(c))
    send_command(c, "rollback", {"to": str(first)})
    send_command(c, "rollback", {"to": "last_good"})
    with running(c) as service:
        caught_up(service, 902)
    same_in_a_replay(c)
    assert len(contents(c, "dead-letters")) == 0


def test_one_from_another_shard_is_installed(tmp_path: Path) -> None:
    """Taken out to a file there, brought in here, installed by its digest."""
    there, here = begun(tmp_path / "there"), begun(tmp_path / "here")
    append(there, *feed(100, 700))
    with running(there) as service:
        caught_up(service, 1000)
        wanted = digests(service)["trees"]
    file = tmp_path / "trees.artefact"
    assert export(there, wanted[:10], file) == wanted
    assert bring(here, "trees", file) == wanted
    send_command(here, "install", {"member": "trees", "artefact": wanted})
    with running(here) as service:
        caught_up(service, 801)
        assert digests(service)["trees"] == wanted
    same_in_a_replay(here)
    with pytest.raises(NotKept, match="with which 0 begin"):
        export(there, "0" * 8, file)


def test_one_that_a_promoted_definition_made_is_brought_in(tmp_path: Path) -> None:
    """By that definition, as `install` goes by it; one by the file's own does not fit its place."""
    c = begun(tmp_path)
    before = next(row["version"] for row in listed(c) if row["member"] == "linear")
    spec = '{"type": "crossed", "table_bits": 8}'
    send_command(c, "challenge", {"member": "linear", "spec": spec})
    send_command(c, "promote", {"member": "linear"})
    with running(c) as service:
        caught_up(service, 802)
        wanted = digests(service)["linear"]
    files = [tmp_path / digest for digest in (wanted, before)]
    for file in files:
        export(c, file.name, file)
    shutil.rmtree(c.state_dir / FOLDER)
    assert bring(c, "linear", files[0]) == wanted
    with pytest.raises(ArtefactError, match="does not fit the member"):
        bring(c, "linear", files[1])


def test_what_is_not_there_is_told_and_stays_so(tmp_path: Path) -> None:
    """A dead letter; brought in afterwards it changes nothing of what a replay gives."""
    there, here = begun(tmp_path / "there"), begun(tmp_path / "here")
    append(there, *feed(100, 700))
    with running(there) as service:
        caught_up(service, 1000)
        wanted = digests(service)["linear"]
    send_command(here, "install", {"member": "linear", "artefact": wanted})
    with running(here) as service:
        caught_up(service, 801)
        assert digests(service)["linear"] != wanted
    assert len(contents(here, "dead-letters")) == 1
    file = tmp_path / "linear.artefact"
    export(there, wanted, file)
    bring(here, "linear", file)
    same_in_a_replay(here)


def test_a_replay_without_the_file_says_which(tmp_path: Path) -> None:
    """What was installed from elsewhere cannot be made again: the state is not made without it."""
    there, here = begun(tmp_path / "there"), shard(tmp_path / "here")
    append(here, *feed(50))
    file = tmp_path / "linear.artefact"
    wanted = next(row["version"] for row in listed(there) if row["member"] == "linear")
    export(there, wanted, file)
    bring(here, "linear", file)
    send_command(here, "install", {"member": "linear", "artefact": wanted})
    with running(here) as service:
        caught_up(service, 101)
    for folder in (FOLDER, "generations"):
        shutil.rmtree(here.state_dir / folder)
    with pytest.raises(CheckpointError, match=f"put version {wanted} in the place of linear"):
        replay_to(here, last_seq(here), None, from_start=True)


def test_kept_versions_are_made_again_after_a_loss(tmp_path: Path) -> None:
    """The files of regular ones are a cache: a start without them writes them anew."""
    c = begun(tmp_path)
    before = Artefacts(c.state_dir / FOLDER).sizes().keys()
    for folder in (FOLDER, "generations"):
        shutil.rmtree(c.state_dir / folder)
    with running(c):
        pass
    assert Artefacts(c.state_dir / FOLDER).sizes().keys() >= before


def test_the_list_tells_when_why_and_how_good(tmp_path: Path) -> None:
    """The table fits 80 columns; JSON has whole digests and every measure."""
    begun(tmp_path)
    path = tmp_path / "c.toml"
    path.write_text(toml(raw_config(tmp_path, members=MEMBERS)))
    rows = json.loads(millrace("models", "list", path, "--json"))
    assert {row["member"] for row in rows} == {"linear", "trees"}
    assert all(row["bytes"] and len(row["version"]) == 64 for row in rows)
    assert rows[0]["quality"].keys() >= {"log_loss", "accuracy"}
    text = millrace("models", "list", path)
    assert rows[0]["version"][:12] in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_version_from_before_the_first_label_has_no_figure(tmp_path: Path) -> None:
    """It is listed all the same, for people and for machines."""
    c = config(tmp_path, members=MEMBERS)
    append(c, ("events", [event(0)]))
    with running(c) as service:
        caught_up(service, 1)
    path = tmp_path / "c.toml"
    path.write_text(toml(raw_config(tmp_path, members=MEMBERS)))
    rows = json.loads(millrace("models", "list", path, "--json"))
    assert {row["quality"]["log_loss"] for row in rows} == {None}
    assert "nan" not in millrace("models", "list", path)


def test_events_go_on_while_a_model_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command and what came after it wait; a stop meanwhile leaves them in the log."""
    c = begun(tmp_path)
    older = next(row["version"] for row in listed(c) if row["member"] == "trees")
    gate, read = threading.Event(), Artefacts.model

    def slowly(self: Artefacts, *args: Any) -> Any:
        assert gate.wait(DEADLINE_S)
        return read(self, *args)

    monkeypatch.setattr(Artefacts, "model", slowly)
    send_command(c, "rollback", {"to": older, "member": "trees"})
    send_command(c, "freeze", {"member": "linear"})
    for first in (400, 450):
        with running(c) as service:
            append(c, *feed(50, first))
            caught_up(service, 2 * first + 100)
            assert service.engine is not None
            assert service.engine.ensemble.frozen == frozenset()
            if first == 400:
                service.stop()
                wait_until(lambda: service.health.state == "stopped", "the end of the loop")
            gate.set()
            if first == 450:
                caught_up(service, 1002)
                assert service.engine.ensemble.frozen == {"linear"}
        if first == 400:
            gate.clear()
    same_in_a_replay(c)
    taken = [row for row in listed(c) if row["cause"] == "rolled_back"]
    assert [(row["member"], row["version"]) for row in taken] == [("trees", older)]

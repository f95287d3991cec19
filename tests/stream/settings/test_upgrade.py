"""Configurations of other versions: read as they were meant, or refused in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stream.settings import upgrade
from stream.settings.upgrade import UnreadableConfig, journaled, recorded
from tests.support.factory import config


def test_what_is_journaled_is_read_back(tmp_path: Path) -> None:
    """The very same configuration, and the tree is not changed by reading it."""
    c = config(tmp_path, drift={"on_alarm": "reset"})
    tree = journaled(c)
    before = repr(tree)
    assert recorded(tree, "here") == c
    assert repr(tree) == before


def test_a_tree_without_a_format_is_of_the_first(tmp_path: Path) -> None:
    """What was written before there were formats."""
    c = config(tmp_path)
    tree = journaled(c)
    del tree["format"], tree["written_by"], tree["drift"], tree["quality"]
    assert recorded(tree, "here") == c


def test_an_older_tree_takes_every_step_to_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Renamed, then moved: each step sees the tree as the format before it left it."""

    def rename(tree: dict[str, Any]) -> dict[str, Any]:
        limits = dict(tree["limits"])
        return tree | {"limits": limits | {"size": limits.pop("most")}}

    def move(tree: dict[str, Any]) -> dict[str, Any]:
        limits = dict(tree["limits"])
        return tree | {"limits": limits | {"batch": limits.pop("size")}}

    c = config(tmp_path, limits={"batch": 77})
    tree = journaled(c)
    tree["format"] = 1
    tree["limits"]["most"] = tree["limits"].pop("batch")
    monkeypatch.setattr(upgrade, "FORMAT", 3)
    monkeypatch.setattr(upgrade, "STEPS", {1: rename, 2: move})
    assert recorded(tree, "here") == c
    assert journaled(c)["format"] == 3
    assert recorded(journaled(c), "here") == c


def test_a_dot_in_a_name_of_the_first_format_stays_one(tmp_path: Path) -> None:
    """It was no path then."""
    fields = {"amount": {"kind": "number", "path": "/pay~0load"}, "customer": "entity"}
    features = [{"name": "a", "type": "number", "field": "amount"}]
    event = {"id": "meta.id", "time": "time", "fields": fields}
    tree = journaled(config(tmp_path, event=event, features=features))
    read = recorded(tree | {"format": 1}, "here")
    assert (read.event.id, read.event.time) == ("/meta.id", "time")
    assert read.event.place("amount") == ("/pay~0load",)
    assert recorded(tree, "here").event.id == "meta.id"


def test_a_swap_of_the_second_format_is_a_challenge(tmp_path: Path) -> None:
    """Its bounds in labels are gone: evidence decides."""
    tree = journaled(config(tmp_path))
    tree["drift"] |= {"on_alarm": "swap", "challenger_after": 9, "challenger_until": 99}
    assert recorded(tree | {"format": 2}, "here").drift.on_alarm == "challenge"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"limits": {"patience": 3}}, "limits.patience: unknown key"),
        (
            {"members": [{"name": "a", "type": "logistic", "rate": 1}]},
            r"members\[0\].rate: unknown",
        ),
        ({"members": [{"name": "a", "type": "oracle"}]}, r"members\[0\].type: expected one of"),
        ({"format": 9}, "format: expected at most 3, got 9"),
    ],
)
def test_what_means_nothing_here_is_told(
    tmp_path: Path, change: dict[str, Any], problem: str
) -> None:
    """What, where, which version wrote it, which one reads it, and what to do."""
    tree = journaled(config(tmp_path)) | {"written_by": "millrace 7.2"} | change
    with pytest.raises(UnreadableConfig, match=problem) as caught:
        recorded(tree, "journal-test: step 4")
    for part in ("journal-test: step 4", "written by millrace 7.2", "nothing was changed; start"):
        assert part in str(caught.value)


def test_secrets_and_checks_of_today_are_no_part_of_it(tmp_path: Path) -> None:
    """A password is not written; that it is missing does not make the record unreadable."""
    log = {
        "type": "kafka",
        "bootstrap": "127.0.0.1:9092",
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "PLAIN",
        "sasl_username": "me",
        "sasl_password": "hunter2",
    }
    tree = journaled(config(tmp_path, log=log))
    assert "hunter2" not in str(tree)
    assert recorded(tree, "here").log.type == "kafka"

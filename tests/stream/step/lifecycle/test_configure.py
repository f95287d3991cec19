"""Another configuration by a command: refused in a sentence, or the very switch of a restart."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.base import FeatureBatch
from stream.contract.commands import CommandRefused
from stream.contract.outputs import Outputs
from stream.contract.records import Batch
from stream.run.assemble import build_scoring
from stream.settings.load import parse
from stream.settings.upgrade import digest, journaled
from stream.step.configure import configures
from stream.step.lifecycle import warm
from stream.step.reconfigure import reconfigure
from stream.step.scoring import ScoringEngine
from tests.support.factory import Feed, decoded, raw_config, reasons, traffic

Raw = dict[str, Any]
MORE: Raw = {"name": "more", "type": "crossed", "table_bits": 8}


def raw(directory: Path) -> Raw:
    return raw_config(directory, ensemble={"combine": "stack"})


def patched(before: Raw, patch: Raw) -> Raw:
    """``before`` with values at dotted paths; ``members+`` is one more."""
    after = copy.deepcopy(before)
    for path, value in patch.items():
        if path == "members+":
            after["members"].append(value)
            continue
        *parents, last = path.split(".")
        node = after
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = value
    return after


def trained(before: Raw, steps: int = 8) -> tuple[ScoringEngine, Feed]:
    engine, feed = build_scoring(parse(before, "test"), None), Feed()
    for parts in traffic(40 * steps):
        engine.step(feed.batch(*parts))
    return engine, feed


def asked(engine: ScoringEngine, after: Raw, feed: Feed, **changes: Any) -> Batch:
    """The batch of one command that asks for ``after``."""
    tree = journaled(parse(after, "test"))
    command: Raw = {"command": "configure", "base": digest(engine.tree), "actor": "ann"}
    command |= {"settings": json.dumps(tree), "reason": "spring"} | changes
    return feed.batch(("control", [command]))


def switched(engine: ScoringEngine, batch: Batch) -> tuple[ScoringEngine, Outputs]:
    """As the service goes on."""
    command = configures(engine, batch.slices)
    assert command is not None
    new = engine.admit(command)
    outputs = reconfigure(engine, new, new.tree, asked=batch.slices[0])
    assert isinstance(new, ScoringEngine)
    return new, outputs


HOT: dict[str, Raw] = {
    "a member": {"members+": MORE},
    "the threshold": {"ensemble.threshold": 0.2},
    "drift": {"drift": {"evidence": 1e4}},
    "the guard": {"guard": {"on_worse": "propose"}},
    "a budget": {"audit": {"each": {"update_norm": {"limit": 9.0}}}},
    "a field": {"event.fields.country": {"kind": "category", "required": False}},
    "the combiner": {"ensemble.combine": "mean_logit"},
    "a feature": {"features": [{"name": "amount", "type": "number", "field": "amount"}]},
}


@pytest.mark.parametrize("change", HOT)
def test_a_command_makes_the_switch_of_a_restart(tmp_path: Path, change: str) -> None:
    """But for the record that asked and its counts: the same parts stay, the same learn anew."""
    after = patched(raw(tmp_path), HOT[change])
    engine, feed = trained(raw(tmp_path))
    other, _ = trained(raw(tmp_path))
    new, outputs = switched(engine, asked(engine, after, feed, accept=True))
    restarted = build_scoring(parse(after, "test"), None)
    reconfigure(other, restarted, journaled(restarted.config))
    assert new.ensemble.digest() == restarted.ensemble.digest()
    assert new.tree == restarted.tree
    assert new.counts - restarted.counts == {"commands": 1, "consumed.control": 1}
    [range_] = outputs.journal.ranges
    assert (range_.topic, range_.first, outputs.journal.kind) == ("control", 0, "reconfigured")
    record = decoded(outputs.audit)[0]
    told = [record[key] for key in ("event", "cause", "actor", "reason", "offset")]
    assert told == ["reconfigured", "command", "ann", "spring", 0]
    for parts in traffic(480)[8:]:
        assert new.step(feed.batch(*parts)).dead_letters == []


def refused(engine: ScoringEngine, batch: Batch) -> str:
    """Why a command is refused: at once and, to the letter, in an ordinary step."""
    command = configures(engine, batch.slices)
    assert command is not None
    before = engine.ensemble.digest()
    with pytest.raises(CommandRefused) as error:
        engine.admit(command)
    outputs = engine.step(batch)
    assert reasons(outputs.dead_letters) == ["command"]
    assert outputs.dead_letters[0].error == str(error.value)
    assert engine.ensemble.digest() == before
    return str(error.value)


COLD: dict[str, Raw] = {
    "state_dir": {"state_dir": "elsewhere"},
    "log.path": {"log.path": "elsewhere.db"},
    "http.port": {"http.port": 9000},
    "label.horizon": {"label.horizon": "2d"},
    "audit.anchor_every": {"audit": {"anchor_every": 7}},
    "limits.batch": {"limits": {"batch": 7}},
    "registry": {"registry": {"url": "http://127.0.0.1:1"}},
}


@pytest.mark.parametrize("path", COLD)
def test_what_needs_a_restart_is_named(tmp_path: Path, path: str) -> None:
    """Whatever a thread, a socket, a file or a topic was opened by."""
    engine, feed = trained(raw(tmp_path), steps=1)
    after = patched(raw(tmp_path), COLD[path] | {"members+": MORE})
    found = refused(engine, asked(engine, after, feed))
    assert found.startswith(f"needs a restart: {path}")


def test_who_writes_a_record_names_no_code(tmp_path: Path) -> None:
    """A member of code that none of the running ones names needs a restart with the file."""
    engine, feed = trained(raw(tmp_path), steps=1)
    bayes = {"name": "bayes", "type": "river", "model": "river.naive_bayes.GaussianNB"}
    after = patched(raw(tmp_path), {"members+": bayes})
    found = refused(engine, asked(engine, after, feed))
    assert found == "needs a restart: members[2]: bayes names code that no running member does"


def test_a_lost_update_is_refused(tmp_path: Path) -> None:
    """Who compared with another configuration than is in force has to look again."""
    engine, feed = trained(raw(tmp_path), steps=1)
    after = patched(raw(tmp_path), {"members+": MORE})
    found = refused(engine, asked(engine, after, feed, base="0" * 64))
    assert found.startswith(f"base: expected {digest(engine.tree)}, the configuration in force")


def test_state_is_lost_by_consent_alone(tmp_path: Path) -> None:
    """Without it each part that would go is named."""
    engine, feed = trained(raw(tmp_path))
    after = patched(raw(tmp_path), {"ensemble.combine": "mean_logit"})
    found = refused(engine, asked(engine, after, feed))
    assert found == "accept: state would be lost: combiner stack"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ('{"format": 3}', "log"),
        ('{"format": 99}', "format: expected at most 3, got 99"),
    ],
)
def test_what_is_no_configuration_is_refused(tmp_path: Path, settings: str, expected: str) -> None:
    """In the words that a file would be refused in."""
    engine, feed = trained(raw(tmp_path), steps=1)
    assert expected in refused(engine, asked(engine, raw(tmp_path), feed, settings=settings))


def test_a_check_of_the_whole_holds_for_commands_too(tmp_path: Path) -> None:
    """A budget of nobody: valid by its form, and refused as in a file."""
    engine, feed = trained(raw(tmp_path), steps=1)
    tree = journaled(engine.config)
    tree["audit"] = tree["audit"] | {"member": {"nobody": {"bytes": {"limit": 1.0}}}}
    found = refused(engine, asked(engine, raw(tmp_path), feed, settings=json.dumps(tree)))
    assert "nobody" in found


def test_settings_are_a_table(tmp_path: Path) -> None:
    """What is no JSON object is a dead letter before anything else is looked at."""
    engine, feed = trained(raw(tmp_path), steps=1)
    for settings in ("[1]", "{", "7"):
        out = engine.step(asked(engine, raw(tmp_path), feed, settings=settings))
        assert reasons(out.dead_letters) == ["command"]
        assert out.dead_letters[0].error.endswith("at `$.settings`")


# ---------------------------------------------------------------------- from the history


@pytest.mark.parametrize("rows", [16_384, 100])
def test_a_new_member_learns_the_history_first(
    tmp_path: Path, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest rows in order, as a member that learned them live; the trail says which."""
    monkeypatch.setattr(warm, "ROWS", rows)
    engine, feed = trained(raw(tmp_path), steps=12)
    new, outputs = switched(engine, asked(engine, patched(raw(tmp_path), {"members+": MORE}), feed))
    again = build_scoring(new.config, None).ensemble.members["more"]
    learned = list(engine.history.learned())
    seqs = np.concatenate([part.seq for part in learned])
    for part in learned:
        left = slice(max(0, len(part.seq) - rows), None)
        again.learn(
            FeatureBatch(
                engine.features.schema,
                part.rows["dense"][left].copy(),
                part.rows["hashed"][left].copy(),
            ),
            part.y[left].copy(),
            part.w[left].copy(),
        )
    assert new.ensemble.members["more"].digest() == again.digest()
    taught = min(rows, len(seqs))
    assert new.counts["updates.more"] == taught
    [added] = [r for r in decoded(outputs.audit) if r["event"] == "member_added"]
    assert added["history"] == {
        "rows": taught,
        "first": int(seqs[-taught]),
        "last": int(seqs[-1]),
    }
    assert new.ensemble.combiner.state()["weights"][2] == 0


def test_a_member_that_starts_new_counts_what_it_has_learned(tmp_path: Path) -> None:
    """Not what another model did under its name."""
    engine, feed = trained(raw(tmp_path), steps=12)
    assert engine.counts["updates.linear"] == len(engine.history) > 100
    other = {"members": [{"name": "linear", "type": "logistic", "learning_rate": 0.1}]}
    command = asked(engine, raw(tmp_path) | other, feed, accept=True)
    new, _ = switched(engine, command)
    assert new.counts["updates.linear"] == len(new.history)
    fields = {"features": raw(tmp_path)["features"][:2]}
    again, _ = switched(new, asked(new, raw(tmp_path) | other | fields, feed, accept=True))
    assert again.counts["updates.linear"] == 0

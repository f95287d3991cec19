"""Changes of the configuration one after another while rows of the first ones still wait."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.step.pending import store as module
from stream.step.pending.store import Pending
from stream.step.reconfigure import compare
from stream.step.scoring import ScoringEngine
from tests.stream.step.test_reconfigure import (
    FOREST,
    NEW,
    Raw,
    Stream,
    alarmed,
    engine_of,
    first,
    replayed,
    restored,
    step_alike,
    switched,
)

LINEAR: Raw = {"name": "linear", "type": "logistic"}
PRIOR: Raw = {"name": "prior", "type": "constant", "probability": 0.1}
MEMBERS: dict[str, list[Raw]] = {
    "linear": [LINEAR, LINEAR | {"learning_rate": 0.3}],
    "prior": [PRIOR],
    "forest": [FOREST],
    "new": [NEW, NEW | {"table_bits": 9}],
}
OTHERS: list[Raw] = [
    {},
    {"ensemble": {"combine": "stack", "threshold": 0.4}},
    {"ensemble": {"combine": "mean_logit"}},
    {"drift": {"on_alarm": "reset"}},
    {"quality": {"alert_budget": 3.0}},
    {"guard": {"on_worse": "none"}},
    {"history": {"keep": "12h"}},
]


@pytest.fixture(autouse=True)
def _small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEGMENT_ROWS", 64)


def flatten(pending: Pending) -> None:
    """Let a store hold its rows as if each had been copied by the last change."""
    state, rows = pending.state(), {}
    older = state.pop("older", None)
    for number, held in pending.rows().items():
        begin = max(number * 64, pending.head)
        rows[number] = np.zeros(len(held), pending.dtype)
        rows[number][begin - number * 64 :] = pending.take(
            np.arange(begin, number * 64 + len(held))
        )
    again = Pending(pending.dtype, state["members"], None, pending.room)
    again.restore(state, rows)
    vars(pending).update({k: v for k, v in vars(again).items() if k not in ("_fixed", "open")})
    assert older is None or "older" not in pending.state()


@settings(max_examples=12)
@given(
    steps=st.lists(
        st.tuples(
            st.integers(1, 4),
            st.lists(st.sampled_from(sorted(MEMBERS)), min_size=1, max_size=4, unique=True),
            st.integers(0, 1),
            st.sampled_from(OTHERS),
            st.booleans(),
        ),
        min_size=2,
        max_size=6,
    )
)
def test_chains_of_changes(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[int, list[str], int, Raw, bool]],
) -> None:
    """The service that changed as it ran, one that was restarted each time, and one that copied.

    All three say the same after each step, hold the same at the end, and a replay of the journal
    holds it too.
    """
    tmp_path = tmp_path_factory.mktemp("chain")
    raw = first(tmp_path) | {"guard": {"on_worse": "none"}}
    stream, journal, start = Stream(), [], raw
    engines: list[ScoringEngine] = [alarmed(engine_of(raw)) for _ in range(3)]

    def steps_of(n: int) -> None:
        for _ in range(n):
            journal.append(stream.batch(engines[0].config))
            step_alike(engines, journal[-1])

    steps_of(4)
    for n, names, variant, others, restart in steps:
        members = [MEMBERS[name][variant % len(MEMBERS[name])] for name in names]
        raw = raw | others | {"members": members, "audit": {"summary_every": 200}}
        said = [compare(engine, engine_of(raw)).lines() for engine in engines]
        assert said[0] == said[1] == said[2]
        heads: list[Any] = []
        engines = [switched(engine, raw, heads) for engine in engines]
        journal.append(heads[0])
        stream.switched()
        if restart:
            engines[1] = restored(engines[1], tmp_path)
        flatten(engines[2].pending)
        steps_of(n)
    assert len({engine.state_digest() for engine in engines}) == 1
    assert replayed(alarmed(engine_of(start)), journal).state_digest() == engines[0].state_digest()


def test_old_rows_wait_through_three_changes(tmp_path: Path) -> None:
    """A member added, another one gone, the first one gone: rows of all four layouts wait."""
    raw = first(tmp_path)
    stream, engine = Stream(), alarmed(engine_of(raw))
    plain = alarmed(engine_of(raw))
    raw["audit"] = {"summary_every": 200}
    for members in (
        [LINEAR, PRIOR, FOREST, NEW],
        [LINEAR, FOREST, NEW],
        [LINEAR, FOREST],
    ):
        for _ in range(3):
            step_alike([engine, plain], stream.batch(engine.config))
        engine, plain = (switched(e, raw | {"members": members}, []) for e in (engine, plain))
        stream.switched()
        flatten(plain.pending)
    assert [names for _, names in engine.pending.state()["older"]] == [
        ["linear", "", "forest"],
        ["linear", "", "forest", ""],
        ["linear", "forest", ""],
    ]
    step_alike([engine, plain], stream.batch(engine.config))
    again = restored(engine, tmp_path)
    step_alike([engine, again, plain], stream.batch(engine.config))
    assert engine.state_digest() == plain.state_digest() == again.state_digest()

"""The torch member: equal to a plain loop, replayable to the bit, leaves the process as it was."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from models.base import F64, FeatureBatch, FeatureSchema, HashedColumn, StateError
from models.members.torch.model import Network, TorchError, TorchModel, TorchParams
from models.members.torch.standardise import Standardiser

SCHEMA = FeatureSchema(("a", "b"), (HashedColumn("cat", 8),))


def stream(n: int, seed: int = 0) -> tuple[FeatureBatch, F64]:
    """``n`` rows whose truth depends on ``a`` and ``cat``."""
    rng = np.random.default_rng(seed)
    dense = rng.normal(3.0, 5.0, (n, 2)).astype(np.float32)
    hashed = rng.integers(0, 8, (n, 1)).astype(np.uint32)
    y = (dense[:, 0] - 3 + 4 * (hashed[:, 0] % 2) - 2 > 0).astype(np.float64)
    return FeatureBatch(SCHEMA, dense, hashed), y


def member(seed: int = 1, **params: Any) -> TorchModel:
    """A member with these settings."""
    return TorchModel(TorchParams.model_validate(params), SCHEMA, seed)


def plain_network(seed: int, **sizes: Any) -> Network:
    """The built-in network, seeded the usual way."""
    torch.manual_seed(seed)
    return Network(n_dense=2, hashed_buckets=(8,), **sizes)


@pytest.fixture
def one_thread() -> Any:
    """The reference loops run as the member does."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_training_equals_a_plain_torch_loop(optimizer: str, one_thread: None) -> None:
    """Same seed, micro-batches, weights and dropout: every score equals to the bit."""
    x, y = stream(200)
    w = np.where(np.arange(200) % 3 == 0, 2.0, 0.5)
    model = member(
        5, optimizer=optimizer, learning_rate=0.01, dropout=0.2, standardise=False, epochs=2
    )
    model.learn(x, y, w)

    random_before = torch.get_rng_state()
    network = plain_network(5, dropout=0.2)
    classes = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    steps = classes[optimizer](network.parameters(), lr=0.01)
    dense, hashed = torch.tensor(x.dense), torch.tensor(x.hashed.astype(np.int64))
    truth, weight = (torch.tensor(a, dtype=torch.float32) for a in (y, w))
    for _ in range(2):
        for i in range(0, 200, 32):
            part = slice(i, i + 32)
            loss = nn.functional.binary_cross_entropy_with_logits(
                network(dense[part], hashed[part])[:, 0], truth[part], weight[part]
            )
            steps.zero_grad()
            loss.backward()
            steps.step()
    network.eval()
    with torch.no_grad():
        expected = network(dense, hashed).numpy()
    torch.set_rng_state(random_before)
    assert model.score(x).dtype == np.float64
    assert (model.score(x) == expected).all()


def test_standardised_inputs_follow_the_rows_learned(one_thread: None) -> None:
    """Each micro-batch enters the statistics, then is learned as they say; scoring adds nothing."""
    x, y = stream(100)
    model = member(7, learning_rate=0.01)
    model.score(x)
    model.learn(x, y, np.ones(100))

    random_before = torch.get_rng_state()
    network = plain_network(7)
    steps = torch.optim.Adam(network.parameters(), lr=0.01)
    hashed = torch.tensor(x.hashed.astype(np.int64))
    for i in range(0, 100, 32):
        seen = x.dense[: i + 32].astype(np.float64)
        part = slice(i, i + 32)
        dense = (x.dense[part] - seen.mean(axis=0)) / seen.std(axis=0)
        loss = nn.functional.binary_cross_entropy_with_logits(
            network(torch.tensor(dense, dtype=torch.float32), hashed[part])[:, 0],
            torch.tensor(y[part], dtype=torch.float32),
        )
        steps.zero_grad()
        loss.backward()
        steps.step()
    dense = (x.dense - x.dense.astype(np.float64).mean(axis=0)) / x.dense.std(axis=0, dtype=float)
    with torch.no_grad():
        expected = network(torch.tensor(dense, dtype=torch.float32), hashed).numpy()
    torch.set_rng_state(random_before)
    assert np.allclose(model.score(x), expected, atol=1e-5)


@settings(max_examples=50)
@given(cuts=st.lists(st.integers(0, 60), max_size=5), seed=st.integers(0, 99))
def test_the_standardiser_equals_numpy(cuts: list[int], seed: int) -> None:
    """Mean and deviation of all rows, however they are cut into batches, also far from zero."""
    x = np.random.default_rng(seed).normal(1e6, 3.0, (60, 2))
    x[:, 1] = 5.0
    running = Standardiser(2)
    for part in np.split(x, sorted(cuts)):
        running.update(part)
    got = running.transform(x)
    assert np.allclose(got[:, 0], (x[:, 0] - x[:, 0].mean()) / x[:, 0].std(), atol=1e-6)
    assert np.allclose(got[:, 1], 0.0)


@pytest.mark.parametrize("params", [{}, {"dropout": 0.3}, {"optimizer": "sgd", "hidden": []}])
def test_saved_and_restored_equals_never_saved(params: dict[str, Any]) -> None:
    """Restored in the middle, dropout's draws included: the same scores and digest."""
    x, y = stream(400)
    straight, saved = member(**params), member(**params)
    for i in range(0, 400, 50):
        part = slice(i, i + 50)
        for model in (straight, saved):
            model.learn(x.take(part), y[part], np.ones(50))
        state = saved.state()
        saved = member(seed=99, **params)
        saved.restore(state)
        assert saved.digest() == straight.digest()
    assert (saved.score(x) == straight.score(x)).all()


def test_seeds_and_calls_decide_everything() -> None:
    """Same seed, same digest; another seed, another; the global generator does not matter."""
    x, y = stream(100)
    digests = []
    for seed in (3, 3, 4):
        torch.rand(5)
        model = member(seed, dropout=0.5)
        model.learn(x, y, np.ones(100))
        digests.append(model.digest())
    assert digests[0] == digests[1] != digests[2]


def test_the_process_is_left_as_it_was() -> None:
    """Global generator, threads and algorithms are what they were before each call."""
    x, y = stream(50)
    torch.set_num_threads(2)
    before = torch.get_rng_state(), torch.get_num_threads()
    model = member(dropout=0.5)
    model.learn(x, y, np.ones(50))
    model.score(x)
    assert (torch.get_rng_state() == before[0]).all()
    assert torch.get_num_threads() == before[1]
    assert not torch.are_deterministic_algorithms_enabled()


def test_scoring_changes_no_state() -> None:
    """Not even a module that draws while it scores, or keeps running statistics."""
    x, y = stream(64)
    model = member(dropout=0.5)
    model.learn(x, y, np.ones(64))
    before = model.digest()
    model.score(x)
    assert model.digest() == before


def test_rows_of_weight_0_are_left_out() -> None:
    """They change neither the network nor the inputs' statistics."""
    x, y = stream(64)
    kept = np.arange(64) % 2 == 0
    one, two = member(), member()
    one.learn(x, y, kept.astype(float))
    two.learn(x.take(kept), y[kept], np.ones(32))
    assert one.digest() == two.digest()


def test_it_learns() -> None:
    """After 4,000 rows the built-in network gets 95% of the next right."""
    x, y = stream(5000)
    model = member(learning_rate=0.01)
    model.learn(x.take(slice(4000)), y[:4000], np.ones(4000))
    right = (model.score(x.take(slice(4000, None)))[:, 0] > 0) == (y[4000:] > 0)
    assert right.mean() > 0.95


def test_a_step_that_is_not_finite_is_left_out_and_counted() -> None:
    """Inputs at the end of float32: no weight changes, the count does, the rest learns."""
    x, y = stream(64)
    model = member(standardise=False)
    huge = FeatureBatch(SCHEMA, np.full((32, 2), 3e38, np.float32), x.hashed[:32])
    before = model.state()
    model.learn(huge, 1.0 - y[:32], np.ones(32))
    assert model.skipped == 1
    after = model.state()
    assert all((before["module"][k] == after["module"][k]).all() for k in before["module"])
    model.learn(x, y, np.ones(64))
    assert model.skipped == 1
    assert np.isfinite(model.score(x)).all()
    assert model.digest() != member(standardise=False).digest()


OWN = """
import torch
from torch import nn

class Linear(nn.Module):
    def __init__(self, n_dense, width=1):
        super().__init__()
        self.norm = nn.BatchNorm1d(n_dense)
        self.layer = nn.Linear(n_dense, width)
    def forward(self, dense):
        return self.layer(self.norm(dense))

class Both(nn.Module):
    def __init__(self, n_dense, hashed_buckets):
        super().__init__()
        self.bias = nn.Embedding(hashed_buckets[0], 1)
        self.layer = nn.Linear(n_dense, 1)
    def forward(self, dense, hashed):
        return (self.layer(dense) + self.bias(hashed[:, 0]))[:, 0]

class Fixed(nn.Module):
    def forward(self, dense):
        return dense[:, 0]

class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))
    def forward(self, dense):
        return "logit"

def number(): return 3
def fails(): raise KeyError("on purpose")
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user's file."""
    (tmp_path / "torch_own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "millrace_file_torch_own", raising=False)
    return "torch_own.py"


@pytest.mark.parametrize("name", ["Linear", "Both"])
def test_any_module_is_a_member(own: str, name: str) -> None:
    """With and without hashed columns, buffers included: trains, saves, restores."""
    x, y = stream(320)
    model, twin = member(2, module=f"{own}:{name}"), member(3, module=f"{own}:{name}")
    model.learn(x, y, np.ones(320))
    twin.restore(model.state())
    assert model.score(x).shape == (320, 1)
    assert twin.digest() == model.digest()
    assert (twin.score(x) == model.score(x)).all()


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("Linear", {"width": 2}, r"expected logits of shape \(2,\), got \(2, 2\)"),
        ("Text", {}, r"expected logits of shape \(2,\), got str"),
        ("Fixed", {}, "expected parameters to train, got none"),
        ("number", {}, r"expected an nn\.Module, got int"),
        ("fails", {}, "cannot be built: 'on purpose'"),
    ],
)
def test_a_module_that_does_not_fit_is_refused_at_the_start(
    own: str, name: str, parameters: dict[str, Any], message: str
) -> None:
    """Shape, type and parameters are tried before the first event."""
    with pytest.raises(TorchError, match=message):
        member(module=f"{own}:{name}", parameters=parameters)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"hidden": [0]}, "greater than or equal to 1"),
        ({"optimizer": "rmsprop"}, "'adam', 'adamw' or 'sgd'"),
        ({"learning_rate": 0}, "greater than 0"),
        ({"module": "no_such_module:Net"}, "expected an installed module"),
        ({"module": "torch.nn:Linear", "hidden": [3]}, "it is of the built-in network"),
        ({"parameters": {"width": 2}}, "expected only beside `module`"),
        ({"epoch": 2}, "Extra inputs"),
    ],
)
def test_mistakes_are_found_when_the_configuration_is_read(
    params: dict[str, Any], message: str
) -> None:
    """Each says what was expected."""
    with pytest.raises(ValidationError, match=message):
        TorchParams.model_validate(params)


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing() -> None:
    """Another width, a missing tensor, another type: a StateError, and the member goes on."""
    x, y = stream(64)
    model = member()
    model.learn(x, y, np.ones(64))
    before = model.digest()
    for state, message in [
        (member(hidden=[8]).state(), "expected format 1 and tensors"),
        (
            member(hidden=[32, 8]).state(),
            r"layers\.3\.weight: expected an array float32 \(16, 32\)",
        ),
        ({**model.state(), "format": 2}, "got format 2"),
        ({**model.state(), "rng": np.zeros(3, np.uint8)}, "rng: expected an array uint8"),
        ({**model.state(), "optimizer": {"no": {}}}, "'no' is no parameter"),
    ]:
        with pytest.raises(StateError, match=message):
            model.restore(state)
        assert model.digest() == before


def test_the_parameter_table_counts_every_array() -> None:
    """Scalars of the table equal the state's, optimizer and generator included."""
    x, y = stream(64)
    model = member()
    model.learn(x, y, np.ones(64))
    rows = model.parameters()
    learned = sum(row.count for row in rows if row.role == "learned")
    assert learned == 8 * 8 + (2 + 8) * 32 + 32 + 32 * 16 + 16 + 16 + 1
    optimizer = sum(row.count for row in rows if row.role == "optimizer")
    tensors = sum(row.role == "learned" for row in rows)
    assert optimizer == 2 * learned + tensors
    assert math.isclose(sum(row.nbytes for row in rows if row.role == "learned"), 4 * learned)

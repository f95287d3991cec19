"""Estimates from descriptions, targets of the command line, and the report's own forms."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from river import linear_model
from torch import nn

from models.base import F64, FeatureBatch, Model, Parameter, State
from monitoring.parameters import ParameterError, count, estimate, render, resolve
from monitoring.parameters.command import params_command
from monitoring.parameters.formula import formula

BUILT: dict[str, Callable[[], nn.Module]] = {
    "linear:256x128": lambda: nn.Linear(256, 128),
    "linear:256->128,nobias": lambda: nn.Linear(256, 128, bias=False),
    "bilinear:5x6->7": lambda: nn.Bilinear(5, 6, 7),
    "conv1d:3->8,k5": lambda: nn.Conv1d(3, 8, 5),
    "conv2d:3->64,k3": lambda: nn.Conv2d(3, 64, 3),
    "conv2d:8->16,k3x5,groups=4,bias=false": lambda: nn.Conv2d(8, 16, (3, 5), groups=4, bias=False),
    "convtranspose3d:4->6,k2,groups=2": lambda: nn.ConvTranspose3d(4, 6, 2, groups=2),
    "rnn:10->20": lambda: nn.RNN(10, 20),
    "lstm:10->20,layers=2,bidirectional": lambda: nn.LSTM(10, 20, 2, bidirectional=True),
    "lstm:10->20,layers=3,proj=7": lambda: nn.LSTM(10, 20, 3, proj_size=7),
    "gru:10->20,bias=false": lambda: nn.GRU(10, 20, bias=False),
    "grucell:4x6": lambda: nn.GRUCell(4, 6),
    "embedding:1000x64": lambda: nn.Embedding(1000, 64),
    "layernorm:768": lambda: nn.LayerNorm(768),
    "layernorm:3x4,nobias": lambda: nn.LayerNorm((3, 4), bias=False),
    "rmsnorm:768": lambda: nn.RMSNorm(768),
    "groupnorm:64,groups=8": lambda: nn.GroupNorm(8, 64),
    "batchnorm:64": lambda: nn.BatchNorm2d(64),
    "instancenorm:64,affine": lambda: nn.InstanceNorm1d(64, affine=True),
    "mha:512,heads=8": lambda: nn.MultiheadAttention(512, 8),
    "mha:64,heads=4,kdim=10,vdim=20,bias_kv": lambda: nn.MultiheadAttention(
        64, 4, kdim=10, vdim=20, add_bias_kv=True
    ),
    "encoderlayer:64,ff=100": lambda: nn.TransformerEncoderLayer(64, 4, 100),
    "decoderlayer:64,ff=100,nobias": lambda: nn.TransformerDecoderLayer(64, 4, 100, bias=False),
    "transformer:64,ff=100,encoders=2,decoders=3": lambda: nn.Transformer(
        64, 4, 2, 3, 100, batch_first=True
    ),
    "prelu:16": lambda: nn.PReLU(16),
    "adaptivesoftmax:512->10000,cutoffs=100/1000": lambda: nn.AdaptiveLogSoftmaxWithLoss(
        512, 10_000, [100, 1000]
    ),
    "dropout:0.3": lambda: nn.Dropout(0.3),
    "relu": nn.ReLU,
}


@pytest.mark.parametrize("description", BUILT)
def test_an_estimate_equals_the_layer_once_built(description: str) -> None:
    """The same number without torch and with it, parameters and buffers."""
    built = count(BUILT[description]()).totals
    estimated = estimate(description).totals
    assert (estimated.held, estimated.buffers) == (built.held, built.buffers)


@pytest.mark.parametrize(
    ("description", "torch_count", "keras"),
    [
        ("lstm:10->20", 2560, 2480),
        ("rnn:10->20", 640, 620),
        ("lstm:10->20,bidirectional", 5120, 4960),
        ("batchnorm:64", 128, 256),
        ("gru:10->20", 1920, None),
        ("linear:256x128", 32_896, None),
    ],
)
def test_keras_convention_stands_beside_torch_s(
    description: str, torch_count: int, keras: int | None
) -> None:
    """One bias where torch has two; moving statistics as parameters; its GRU like torch's."""
    totals = estimate(description).totals
    assert (totals.held, totals.keras) == (torch_count, keras)


def test_a_list_of_layers_adds_up_and_shows_its_formulas() -> None:
    """Text with semicolons, and the same as tables with names."""
    text = estimate("linear:256x128; relu; dropout:0.5; linear:128->10")
    tables = estimate(
        [
            {"type": "linear", "inputs": 256, "outputs": 128, "name": "hidden"},
            "relu",
            {"type": "dropout", "p": 0.5},
            {"type": "linear", "inputs": 128, "outputs": 10},
        ]
    )
    assert text.totals.held == tables.totals.held == 32_896 + 1290
    assert text.totals.expected_active == tables.totals.expected_active == 16_448 + 650
    assert tables.rows[0].path == "hidden"
    layer = text.to_dict()["layers"][0]
    assert (layer["formula_text"], layer["formula_numbers"]) == ("i*o + o", "256*128 + 128")


@pytest.mark.parametrize(
    ("description", "says"),
    [
        ("linear:10", "expected linear:INPUTSxOUTPUTS"),
        ("linear:10x0", "expected one whole number of at least 1, got 0"),
        ("linear:10x3,bais=false", "got the option 'bais'"),
        ("conv2d:3->64", "missing a required argument: 'k'"),
        ("conv2d:3->64,k3,groups=2", "expected a divisor of 3, got 2"),
        ("conv2d:3->64,k3x3x3", "expected 1 or 2 sides, got 3"),
        ("gru:3x4,proj=2", "only an lstm"),
        ("dropout:1.5", "expected 0 <= p <= 1"),
        ("linear:2x2; banana:3", "layer 1: expected a layer, got 'banana'; known are"),
        ("layernorm:2.5", "expected sizes of at least 1"),
        (" ", "no layers"),
    ],
)
def test_a_bad_description_says_which_layer_and_what_was_expected(
    description: str, says: str
) -> None:
    """Layer, expectation and what was got."""
    with pytest.raises(ParameterError, match=re.escape(says)):
        estimate(description)


@given(st.text(max_size=30) | st.from_regex(r"[a-z]{3,8}:[0-9x,=a-z>-]{0,15}", fullmatch=True))
@settings(max_examples=200, database=None)
def test_no_text_breaks_the_estimator(text: str) -> None:
    """Any text is a report or a ParameterError."""
    try:
        held = estimate(text).totals.held
    except ParameterError:
        held = 0
    assert held >= 0


def test_formulas_are_exact_whole_numbers() -> None:
    """What is printed is what was computed; a remainder is an error."""
    f = formula("(i/g)*o*k + o", i=64, o=64, k=(3, 3), g=64)
    assert (f.numbers, f.value) == ("(64/64)*64*3*3 + 64", 640)
    with pytest.raises(ValueError, match="leaves a remainder"):
        _ = formula("i/g", i=3, g=2).value


def run(target: str, as_json: bool = False) -> tuple[int, str]:
    """Exit code and output of ``millrace params``."""
    out = io.StringIO()
    console = Console(file=out, width=160)
    code = params_command(target, as_json, console, console)
    return code, out.getvalue()


def test_the_command_prints_a_table_and_json() -> None:
    """Numbers, formula and totals both ways."""
    code, text = run("conv2d:3->64,k3")
    assert code == 0
    assert "3*64*3*3 + 64" in text
    assert "1,792" in text
    code, text = run("conv2d:3->64,k3", as_json=True)
    document = json.loads(text)
    assert (document["kind"], document["totals"]["held"]) == ("estimate", 1792)


@pytest.mark.parametrize("width", [80, 100, 200])
def test_a_table_fits_its_width_with_whole_names(width: int) -> None:
    """Every name and formula is there, and no line is longer than the console."""
    model = nn.Transformer(64, 4, 1, 1, 100, batch_first=True)
    out = io.StringIO()
    render(count(model), Console(file=out, width=width))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    words = {word for line in lines for word in line.split()}
    names = {name for name, part in model.named_modules() if not list(part.children())}
    # The attention's row holds its output projection too.
    assert {name for name in names if not name.endswith("out_proj")} <= words
    assert {"TransformerEncoderLayer", "MultiheadAttention", "4*E*E", "4*64*64"} <= words


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A user's file with models of several kinds."""
    path = tmp_path / f"nets_{tmp_path.name.replace('-', '_')}.py"
    path.write_text(
        "import torch\nfrom torch import nn\nfrom river import linear_model\n"
        "class Net(nn.Sequential):\n    def __init__(self, n=3):\n"
        "        super().__init__(nn.Linear(4, n))\n"
        "def broken():\n    layer = nn.Linear(4, 3)\n"
        "    layer.extra = nn.Parameter(torch.zeros(2))\n    return layer\n"
        "def fails():\n    raise KeyError('data')\n"
        "def needs(width):\n    return nn.Linear(width, 1)\n"
        "ready = nn.Linear(2, 2)\nriver = linear_model.LogisticRegression()\n"
    )
    return path


def test_targets_in_a_file(file: Path) -> None:
    """A class, an instance, a River model; a module is callable and is not called."""
    held = {name: count(resolve(f"{file}:{name}")).totals.held for name in ("Net", "ready")}
    assert held == {"Net": 15, "ready": 6}
    assert run(f"{file}:river")[0] == 0
    assert run("river.linear_model:LogisticRegression")[0] == 0
    assert run("torch.nn:Identity")[0] == 0


def test_exit_codes_tell_a_contradiction_from_a_bad_target(file: Path) -> None:
    """0 counted, 1 a formula is contradicted, 2 nothing to count."""
    assert run(f"{file}:broken")[0] == 1
    for target, says in (
        ("nonsense", "expected a description"),
        (f"{file}:missing", "missing"),
        (f"{file}:fails", "KeyError"),
        (f"{file}:needs", "without arguments"),
        ("no_such_package:net", "no_such_package"),
        ("missing.toml", "missing.toml"),
        ("models.members.constant:ConstantModel", "a member needs its parameters"),
    ):
        code, text = run(target)
        assert code == 2, target
        assert says in text.replace("\n", ""), text


def test_a_toml_file_of_layers(tmp_path: Path) -> None:
    """Descriptions or tables; a file without layers is an error."""
    path = tmp_path / "net.toml"
    path.write_text('[[layers]]\ntype = "conv2d"\ninputs = 3\noutputs = 64\nk = [3, 3]\n')
    assert resolve(str(path)).totals.held == 1792
    path.write_text('layers = ["linear:4x2", "relu"]')
    assert resolve(str(path)).totals.held == 10
    path.write_text("name = 3")
    with pytest.raises(ParameterError, match="expected layers"):
        resolve(str(path))


class Member(Model):
    """A member with a table of every kind of row."""

    def score(self, x: FeatureBatch) -> F64:
        """Not called."""
        raise AssertionError

    def learn(self, x: FeatureBatch, y: F64, w: F64) -> None:
        """Not called."""
        raise AssertionError

    def parameters(self) -> list[Parameter]:
        """Learned, frozen, statistics, optimizer and hyper-parameters."""
        return [
            Parameter("weights", "learned", (4, 3), "float64", 12, 96),
            Parameter("frozen", "learned", (5,), "float32", 5, 20, trainable=False),
            Parameter("means", "statistic", (4,), "float64", 4, 32),
            Parameter("squares", "optimizer", (4, 3), "float64", 12, 96),
            Parameter("rate", "hyper", (), "float64", 1, 8, trainable=False),
        ]

    def state(self) -> State:
        """Empty."""
        return {}

    def restore(self, state: State) -> None:
        """Nothing to restore."""


def test_a_member_is_counted_by_its_own_table() -> None:
    """Learned and statistic scalars are held; the rest stands apart by role."""
    report = count(Member())
    totals = report.totals
    assert (report.kind, totals.held, totals.trainable, totals.frozen) == ("member", 21, 12, 5)
    assert (totals.optimizer, totals.bytes, totals.verdict) == (12, 252, "match")
    assert totals.roles == {"learned": 17, "statistic": 4, "optimizer": 12, "hyper": 1}


def test_a_member_s_table_that_contradicts_itself_is_a_mismatch() -> None:
    """Count against shape, bytes against dtype."""

    class Wrong(Member):
        def parameters(self) -> list[Parameter]:
            return [
                Parameter("a", "learned", (4, 3), "float64", 13, 104),
                Parameter("b", "learned", (4,), "float32", 4, 32),
            ]

    assert [row.verdict for row in count(Wrong()).rows] == ["mismatch", "mismatch"]


def test_a_member_is_counted_by_the_formulas_of_what_it_wraps() -> None:
    """Layers in place of the table's rows for the same tensors; the rest of the table stays."""

    class Wrapping(Member):
        module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))

        def counted(self) -> nn.Module:
            return self.module

        def parameters(self) -> list[Parameter]:
            named = [Parameter(n, "learned", (), "", 1, 0) for n in self.module.state_dict()]
            return [*named, Parameter("squares", "optimizer", (4, 3), "float64", 12, 96)]

    report = count(Wrapping())
    assert [row.path for row in report.rows] == ["0", "1", "squares"]
    assert report.kind == "member"
    assert (report.totals.held, report.totals.buffers, report.totals.optimizer) == (21, 7, 12)


def test_a_river_member_is_counted_by_its_estimator() -> None:
    """Typed rows instead of an opaque one."""

    class Wrapping(Member):
        estimator = linear_model.LogisticRegression()

        def counted(self) -> linear_model.LogisticRegression:
            return self.estimator

    report = count(Wrapping())
    assert [(row.path, row.held) for row in report.rows] == [("weights", 1), ("optimizer", 1)]


def test_an_optimizer_beside_something_else_is_refused() -> None:
    """Only a torch module has one beside it."""
    with pytest.raises(ParameterError, match="only a torch module"):
        count(Member(), optimizer=object())


def test_river_and_descriptions_are_counted_without_torch() -> None:
    """torch is an extra: nothing here may import it."""
    code = (
        "import sys\n"
        "from monitoring.parameters import count, estimate\n"
        "from river import linear_model\n"
        "print(count(linear_model.LogisticRegression()).totals.held)\n"
        "print(estimate('lstm:10->20').totals.held, 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "2560", "False"]

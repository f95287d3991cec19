"""Files of weights: each format counts as the model it came from, and nothing in it is run."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import onnx
import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import nn

from monitoring.parameters import Totals, count, resolve
from monitoring.parameters.command import params_command
from monitoring.parameters.counted import Counted


def module() -> nn.Sequential:
    """23 parameters, and 7 buffers of the batch norm."""
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 1, bias=False))


def totals(path: Path) -> Totals:
    """What ``millrace params`` counts in a file."""
    found = resolve(str(path))
    return (found if isinstance(found, Counted) else count(found)).totals


def run(target: object, as_json: bool = False) -> tuple[int, str, str]:
    """Exit code, output and errors of ``millrace params``."""
    out, err = io.StringIO(), io.StringIO()
    consoles = [Console(file=file, width=300) for file in (out, err)]
    return params_command(str(target), as_json, *consoles), out.getvalue(), err.getvalue()


def test_safetensors(tmp_path: Path) -> None:
    """By the header alone, in every precision."""
    state = {k: v.to(torch.bfloat16) if "2." in k else v for k, v in module().state_dict().items()}
    save_file(state, tmp_path / "net.safetensors")
    found = totals(tmp_path / "net.safetensors")
    assert (found.held, found.buffers) == (24, 7)
    assert found.bytes == 21 * 4 + 3 * 2 + 6 * 4 + 8
    assert found.verdict == "no_formula"


def test_a_state_dict_of_torch(tmp_path: Path) -> None:
    """Alone, with an optimizer beside it, and with tied weights."""
    model = module()
    torch.save(model.state_dict(), tmp_path / "net.pt")
    assert (totals(tmp_path / "net.pt").held, totals(tmp_path / "net.pt").buffers) == (24, 7)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(saved, tmp_path / "all.pth")
    assert totals(tmp_path / "all.pth").optimizer == 2 * 24 + 5
    tied = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10, bias=False))
    tied[1].weight = tied[0].weight
    torch.save(tied.state_dict(), tmp_path / "tied.pt")
    assert totals(tmp_path / "tied.pt").held == 40


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> object:
        return Path.touch, (self.mark,)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    """A pickled module, and one that would do harm: refused with exit code 2."""
    mark = tmp_path / "ran"
    for name, saved in (("module.pt", module()), ("evil.pt", {"w": Evil(mark)})):
        torch.save(saved, tmp_path / name)
        code, out, err = run(tmp_path / name, as_json=True)
        assert (code, out) == (2, "")
        assert "state_dict()" in err
    assert not mark.exists()


def test_onnx_initialisers(tmp_path: Path) -> None:
    """Weights, also in branches and constants; the numbers of a shape are no parameters."""
    helper, numpy = onnx.helper, onnx.numpy_helper
    value = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    branch = helper.make_graph(
        [helper.make_node("Identity", ["inner"], ["y"])],
        "branch",
        [],
        [value],
        [numpy.from_array(np.zeros((5,), np.float32), "inner")],
    )
    graph = helper.make_graph(
        [
            helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
            helper.make_node("Constant", [], ["k"], value=numpy.from_array(np.zeros(7), "k")),
            helper.make_node(
                "LinearRegressor", ["x"], ["z"], domain="ai.onnx.ml", coefficients=[1.0, 2.0]
            ),
        ],
        "net",
        [],
        [value],
        [
            numpy.from_array(np.zeros((3, 4), np.float32), "w"),
            numpy.from_array(np.zeros(3, np.float16), "b"),
            numpy.from_array(np.array([1, -1]), "shape"),
        ],
    )
    onnx.save(helper.make_model(graph), tmp_path / "net.onnx")
    found = totals(tmp_path / "net.onnx")
    assert found.held == 12 + 3 + 7 + 2 * 5
    assert (found.roles["hyper"], found.roles["opaque"]) == (2, 2)
    assert found.bytes == 12 * 4 + 3 * 2 + 7 * 8 + 10 * 4 + 2 * 8 + 2 * 4


def test_keras(tmp_path: Path) -> None:
    """Laid out as Keras 3.15 saves: moving statistics, optimizer and seeds stand apart."""
    layers = [
        {"class_name": "Dense", "config": {"name": "hidden"}},
        {"class_name": "BatchNormalization", "config": {"name": "norm", "center": False}},
    ]
    variables = {
        "layers/dense/vars": ("hidden", [(4, 8), (8,)]),
        "layers/batch_normalization/vars": ("norm", [(8,), (8,), (8,)]),
        "layers/dropout/seed_generator/vars": ("seed", [(2,)]),
        "optimizer/vars": ("adam", [(), (4, 8), (8,)]),
    }
    weights = io.BytesIO()
    with h5py.File(weights, "w") as file:
        for group, (name, shapes) in variables.items():
            made = file.create_group(group)
            made.attrs["name"] = name
            for i, shape in enumerate(shapes):
                made.create_dataset(str(i), data=np.zeros(shape, np.float32))
    with zipfile.ZipFile(tmp_path / "net.keras", "w") as archive:
        archive.writestr("config.json", json.dumps({"config": {"layers": layers}}))
        archive.writestr("model.weights.h5", weights.getvalue())
    found = totals(tmp_path / "net.keras")
    assert (found.held, found.buffers, found.optimizer) == (40 + 8, 16, 41)
    assert found.keras == 40 + 8 + 16
    assert found.roles["rng"] == 2
    report = resolve(str(tmp_path / "net.keras"))
    assert {(row.path, row.type) for row in report.rows} > {("hidden.0", "Dense")}


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "pth", "onnx", "keras"])
@pytest.mark.parametrize("content", [b"", b"not a file of weights", bytes(range(256)) * 9])
def test_a_file_that_is_none_is_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    """With exit code 2, and no word on standard output."""
    path = tmp_path / f"net.{suffix}"
    path.write_bytes(content)
    code, out, err = run(path, as_json=True)
    assert (code, out) == (2, "")
    assert f"net.{suffix}" in err
    assert run(tmp_path / f"missing.{suffix}")[0] == 2


def test_a_file_without_tensors_is_refused(tmp_path: Path) -> None:
    """Nothing in it says what it should hold: it does not match."""
    save_file({}, tmp_path / "none.safetensors")
    torch.save({}, tmp_path / "none.pt")
    for name in ("none.safetensors", "none.pt"):
        assert run(tmp_path / name)[0] == 2


def test_a_package_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnx and h5py are nobody's hard dependency."""
    monkeypatch.setitem(sys.modules, "onnx", None)
    (tmp_path / "net.onnx").write_bytes(b"")
    code, _, err = run(tmp_path / "net.onnx")
    assert code == 2
    assert "'onnx'" in err


def test_code_that_prints_or_exits_leaves_json_clean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a user's file prints goes to standard error; an exit is an error of the target."""
    stem = f"loud_{tmp_path.name.replace('-', '_')}"
    path = tmp_path / f"{stem}.py"
    path.write_text(
        "import functools, sys\nfrom torch import nn\nprint('loading')\n"
        "def prints():\n    print('making')\n    return nn.Linear(2, 2)\n"
        "def exits():\n    sys.exit(0)\n"
        "half = functools.partial(nn.Linear, 2, 3)\nempty = None\n"
    )
    code, out, _ = run(f"{path}:prints", as_json=True)
    assert (code, json.loads(out)["totals"]["held"]) == (0, 6)
    assert capsys.readouterr() == ("", "loading\nmaking\n")
    assert json.loads(run(f"{path}:half", as_json=True)[1])["totals"]["held"] == 9
    for name, says in (("exits", "ended the program"), ("empty", "got None")):
        code, out, err = run(f"{path}:{name}", as_json=True)
        assert (code, out) == (2, "")
        assert says in err


def test_a_file_that_exits_while_it_is_loaded_is_an_error(tmp_path: Path) -> None:
    """Also with status 0."""
    path = tmp_path / f"quits_{tmp_path.name.replace('-', '_')}.py"
    path.write_text("raise SystemExit(0)\n")
    assert run(f"{path}:net")[0] == 2

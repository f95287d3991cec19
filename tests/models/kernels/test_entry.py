"""Kept kernels: compiled once, and anew when their own source or a helper's has changed.

Each test has a small tree of kernels of its own, run by processes of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
KERNEL = """
from models.kernels.entry import entry
from models.kernels.helper import helper

@entry("f8(f8)")
def kernel(x):
    return helper(x) + 1.0
"""
HELPER = """
from numba import njit
from models.kernels.common import HELPER

@njit(**HELPER)
def helper(x):
    return x * {factor}
"""
COPIED = ("__init__.py", "base.py", *(f"kernels/{n}.py" for n in ("__init__", "common", "entry")))
CALL = """
from owner import kernel
print(kernel(1.0), "loaded" if sum(kernel.stats.cache_hits.values()) else "compiled")
"""


class Tree:
    """A copy of what entry points need, one helper and one kernel outside the kernels' folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.env = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
        # Python's own cache takes a file of the same size and second for the same.
        self.env |= {"PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1"}
        kernels = path / "models" / "kernels"
        kernels.mkdir(parents=True)
        for name in COPIED:
            shutil.copy(ROOT / "models" / name, path / "models" / name)
        self.helper = kernels / "helper.py"
        self.owner = path / "owner.py"
        self.owner.write_text(KERNEL)
        self.multiply(2)

    def multiply(self, factor: int) -> None:
        """What the helper does from now on."""
        self.helper.write_text(HELPER.format(factor=factor))

    def start(self) -> subprocess.Popen[str]:
        """A process that calls the kernel."""
        return subprocess.Popen(
            [sys.executable, "-c", CALL],
            cwd=self.path,
            env=self.env,
            stdout=subprocess.PIPE,
            text=True,
        )

    def call(self) -> str:
        """What the kernel gives in a process of its own, and whether it was compiled for it."""
        with self.start() as process:
            return process.communicate()[0].strip()


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "tree")


def kept(directory: Path) -> list[str]:
    """Kinds of the files kept below."""
    return sorted(path.suffix for path in directory.rglob("*.nb[ic]"))


def test_a_kernel_is_compiled_anew_when_a_helper_in_another_file_has_changed(tree: Tree) -> None:
    """Numba alone would run the old code on; what was kept of it goes."""
    assert tree.call() == "3.0 compiled"
    assert tree.call() == "3.0 loaded"
    tree.multiply(5)
    assert tree.call() == "6.0 compiled"
    assert tree.call() == "6.0 loaded"
    assert kept(tree.path) == [".nbc", ".nbi"]


def test_a_kernel_is_compiled_anew_when_its_own_file_has_changed(tree: Tree) -> None:
    """As Numba itself would."""
    assert tree.call() == "3.0 compiled"
    tree.owner.write_text(KERNEL.replace("1.0", "2.0"))
    assert tree.call() == "4.0 compiled"
    assert kept(tree.path) == [".nbc", ".nbi"]


def test_kernels_are_kept_in_the_directory_that_the_environment_names(
    tree: Tree, tmp_path: Path
) -> None:
    """``NUMBA_CACHE_DIR``, as the image and the service's unit set it."""
    tree.env["NUMBA_CACHE_DIR"] = str(tmp_path / "named")
    assert tree.call() == "3.0 compiled"
    assert tree.call() == "3.0 loaded"
    assert (kept(tmp_path / "named"), kept(tree.path)) == ([".nbc", ".nbi"], [])


def test_kernels_beside_a_source_that_cannot_be_written_are_kept_for_the_user(
    tree: Tree, tmp_path: Path
) -> None:
    """An installation that only root may change."""
    (tree.path / "__pycache__").write_text("in the way, for root too")
    tree.env["XDG_CACHE_HOME"] = str(tmp_path / "user")
    assert tree.call() == "3.0 compiled"
    assert tree.call() == "3.0 loaded"
    assert kept(tmp_path / "user") == [".nbc", ".nbi"]


def test_processes_may_compile_side_by_side(tree: Tree) -> None:
    """Shards that start together after an upgrade: none sees the other version's code."""
    assert tree.call() == "3.0 compiled"
    tree.multiply(5)
    started = [tree.start() for _ in range(3)]
    found = [process.communicate()[0].split()[0] for process in started]
    assert found == ["6.0"] * 3
    assert tree.call() == "6.0 loaded"
    assert kept(tree.path) == [".nbc", ".nbi"]

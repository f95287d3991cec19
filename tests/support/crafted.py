"""Generations as somebody with write access to the state directory would leave them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import safetensors.numpy
import zstandard

ARRAYS, REST = "arrays.safetensors.zst", "state.msgpack"


def reseal(generation: Path, change: Callable[[dict[str, Any]], None] | None = None) -> None:
    """New checksums and a new seal, after ``change`` of the manifest."""
    manifest = json.loads((generation / "manifest.json").read_bytes().partition(b"\n")[2])
    for name, entry in manifest["files"].items():
        content = (generation / name).read_bytes()
        if name.endswith(".seg"):  # has room for rows to come
            content = content[: entry["bytes"]]
        entry["bytes"] = len(content)
        entry["sha256"] = hashlib.sha256(content).hexdigest()
        if name == ARRAYS:
            entry["unpacked"] = _declared(content)
    if change is not None:
        change(manifest)
    raw = json.dumps(manifest).encode()
    sealed = hashlib.sha256(raw).hexdigest().encode() + b"\n" + raw
    (generation / "manifest.json").write_bytes(sealed)


def rewrite(generation: Path, name: str, raw: bytes) -> None:
    """Other content of one file, not of those that share it by a link; sealed anew."""
    (generation / name).unlink()
    (generation / name).write_bytes(raw)
    reseal(generation)


def change_arrays(generation: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """``change`` the arrays of a generation."""
    arrays = safetensors.numpy.load(zstandard.decompress((generation / ARRAYS).read_bytes()))
    change(arrays)
    rewrite(generation, ARRAYS, zstandard.compress(safetensors.numpy.save(arrays)))


def change_rest(generation: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """``change`` what is no array in a generation."""
    rest = msgspec.msgpack.decode((generation / REST).read_bytes())
    change(rest)
    rewrite(generation, REST, msgspec.msgpack.encode(rest))


def evil_member(generation: Path, directory: Path) -> Path:
    """Let a generation's configuration name code in a file; returns the mark that it would leave.

    The member takes the place of the first one.
    """
    mark = directory / "it-ran"
    code = directory / f"evil_{generation.parent.parent.name}_{generation.name}.py"
    code.write_text(
        f"open({str(mark)!r}, 'w').close()\n"
        "class N:\n"
        "    def learn_one(self, x, y): pass\n"
        "    def predict_one(self, x): return True\n"
    )

    def change(manifest: dict[str, Any]) -> None:
        name = manifest["config"]["members"][0]["name"]
        evil = {"name": name, "type": "river", "model": f"{code}:N"}
        manifest["config"]["members"][0] = evil

    reseal(generation, change)
    return mark


def _declared(content: bytes) -> int:
    try:
        return int(zstandard.get_frame_parameters(content).content_size)
    except zstandard.ZstdError:
        return 0

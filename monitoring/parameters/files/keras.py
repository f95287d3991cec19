"""Counts the variables in a ``.keras`` file: a ZIP of the configuration and of HDF5 weights.

The configuration is read as data and no layer is built. Keras counts the moving statistics of a
normalisation as parameters; here they are buffers, as torch's are.
"""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from models.base import Role
from monitoring.parameters.counted import Counted, Row
from monitoring.parameters.formula import formula
from monitoring.parameters.tables import loose

_NOTE = "a file of variables: no layer was built to compare with"


def read_keras(path: Path) -> Counted:
    """The report of a file that Keras 3 saved; a row per variable."""
    import h5py

    with zipfile.ZipFile(path) as archive:
        layers = dict(_layers(json.loads(archive.read("config.json"))))
        weights = io.BytesIO(archive.read("model.weights.h5"))
    rows: list[Row] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            rows.append(_row(name, item, layers))

    with h5py.File(weights) as file:
        file.visititems(visit)
    return Counted(str(path), "object", rows, notes=(_NOTE,))


def _layers(config: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every layer of a configuration by the name that it was given."""
    if isinstance(config, Mapping):
        inner = config.get("config")
        if isinstance(inner, Mapping) and "class_name" in config and "name" in inner:
            yield str(inner["name"]), config
        for item in config.values():
            yield from _layers(item)
    elif isinstance(config, list):
        for item in config:
            yield from _layers(item)


def _row(name: str, item: Any, layers: Mapping[str, Mapping[str, Any]]) -> Row:
    """The row of one variable, ``layers/dense/vars/0``, under its layer's own name."""
    group, _, number = name.rpartition("/")
    own = str(item.parent.attrs.get("name", ""))
    layer = layers.get(own, {})
    role: Role = "learned"
    if name.startswith("optimizer"):
        role = "optimizer"
    elif "seed_generator" in name:
        role = "rng"
    path = f"{own or group.removesuffix('/vars')}.{number}"
    shape, dtype = tuple(item.shape), item.dtype.name
    moving = role == "learned" and _moves(layer, int(number) if number.isdigit() else 0)
    row = loose(path, str(layer.get("class_name", "Variable")), shape, dtype, role, moving)
    if moving:
        return dataclasses.replace(row, keras=formula("n", n=shape))
    return row


def _moves(layer: Mapping[str, Any], number: int) -> bool:
    """Whether a variable is a batch normalisation's moving mean or variance: they come last."""
    config = layer.get("config", {})
    learned = bool(config.get("scale", True)) + bool(config.get("center", True))
    return layer.get("class_name") == "BatchNormalization" and number >= learned

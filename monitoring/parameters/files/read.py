"""Reads files of weights: safetensors, torch's own, ONNX, Keras. Nothing in them is run.

What a file cannot be read without running it (a pickled module) is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from monitoring.parameters.counted import Counted, ParameterError
from monitoring.parameters.files.keras import read_keras
from monitoring.parameters.tables import loose

_NOTE = "a file of tensors: no layer says how large they should be"


def read_weights(target: str) -> Any:
    """What stands in a file of weights: a report, or something that can be counted.

    Raises
    ------
    ParameterError
        The file cannot be read, or only by running what stands in it.
    """
    path = Path(target)
    if not path.is_file():
        raise ParameterError(f"{target}: expected a file, got none")
    try:
        found = READERS[path.suffix](path)
    except ImportError as error:
        raise ParameterError(
            f"{target}: reading {path.suffix} needs the package {error.name!r}; install it"
        ) from error
    except ParameterError:
        raise
    except Exception as error:  # every library has errors of its own for a file that is none
        raise ParameterError(
            f"{target}: expected a {path.suffix} file, got {type(error).__name__}: "
            f"{_first_sentence(error)}"
        ) from error
    if isinstance(found, Counted) and not found.rows:
        raise ParameterError(f"{target}: expected tensors, got a file without one")
    return found


def _first_sentence(error: Exception) -> str:
    return re.split(r"\n|\. ", str(error), maxsplit=1)[0]


def _safetensors(path: Path) -> Counted:
    """By the header alone: no tensor is read."""
    from safetensors import safe_open

    rows = []
    with safe_open(path, framework="numpy") as file:
        for name in sorted(file.keys()):
            tensor = file.get_slice(name)
            shape, dtype = tuple(tensor.get_shape()), _spell(tensor.get_dtype())
            rows.append(loose(name, "Tensor", shape, dtype))
    return Counted(str(path), "object", rows, notes=(_NOTE,))


def _spell(dtype: str) -> str:
    """``BF16`` as ``bfloat16``, ``F8_E4M3`` as ``float8_e4m3``."""
    kinds = {"F": "float", "BF": "bfloat", "I": "int", "U": "uint", "C": "complex"}
    kind, rest = re.fullmatch(r"([A-Z]+)(.*)", dtype).groups()  # type: ignore[union-attr]
    return f"{kinds.get(kind, kind.lower())}{rest.lower()}"


def _torch(path: Path) -> Any:
    """Tensors and plain values; ``weights_only`` refuses whatever would have to be called."""
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what the bytes happen to provoke
        raise ParameterError(
            f"{path}: expected tensors and plain values, as torch.save(module.state_dict()) writes "
            f"them; got {type(error).__name__}: {_first_sentence(error)}; code in a file is not "
            "run: name a function that builds the module (file.py:attr)"
        ) from error


def _onnx(path: Path) -> Any:
    """The model's own message; weights in files beside it are counted by their shapes."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    # Every byte string that happens to parse is a message, the empty one too.
    if not model.HasField("graph"):
        raise ParameterError(f"{path}: expected a model with a graph, got a message without one")
    return model


READERS: dict[str, Callable[[Path], Any]] = {
    ".safetensors": _safetensors,
    ".pt": _torch,
    ".pth": _torch,
    ".onnx": _onnx,
    ".keras": read_keras,
}
"""Readers by the ending of a file's name."""

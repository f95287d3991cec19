"""From what somebody typed to something that can be counted.

Runs code only when the target names code, through ``models/loading.py``.
"""

from __future__ import annotations

import inspect
import sys
import tomllib
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

from models.base import Model
from models.loading import LoadError, load_attribute
from monitoring.parameters.counted import Counted, ParameterError
from monitoring.parameters.describe.estimate import estimate_layers, is_description
from monitoring.parameters.files.read import READERS, read_weights


def resolve(target: str) -> Any:
    """What ``target`` names: a :class:`Counted` for a description, else the model itself.

    Parameters
    ----------
    target : str
        A description (``linear:256x128``), a TOML file of layers (``net.toml``), a file of weights
        (``net.safetensors``), or code: ``path/to/file.py:attr`` or ``package.module:attr``, where
        ``attr`` is a model, or a class or function that makes one when called without arguments.
        What such code prints goes to standard error.

    Raises
    ------
    ParameterError
        The target names nothing that can be counted; the message says what was expected.
    """
    if is_description(target):
        return estimate_layers(target, target)
    if target.endswith(".toml"):
        return _read_toml(Path(target))
    if Path(target).suffix in READERS:
        return read_weights(target)
    if ":" not in target:
        raise ParameterError(
            "target: expected a description such as linear:256x128, a TOML file of layers, a file "
            f"of weights ({', '.join(READERS)}), path/to/file.py:attr or package.module:attr; "
            f"got {target!r}"
        )
    try:
        with redirect_stdout(sys.stderr):
            return _make(load_attribute(target), target)
    except LoadError as error:
        raise ParameterError(f"target {target!r}: {error}") from error
    except SystemExit as error:
        raise ParameterError(
            f"target {target!r}: expected a model, but its code ended the program ({error.code!r})"
        ) from error


def _read_toml(path: Path) -> Counted:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ParameterError(f"{path}: expected a TOML file of layers; {error}") from error
    layers = document.get("layers")
    if not isinstance(layers, list):
        raise ParameterError(
            f'{path}: expected layers, such as layers = ["linear:256x128"] or [[layers]] tables'
        )
    return estimate_layers(layers, str(path))


def _make(found: Any, target: str) -> Any:
    """``found``, or what it makes; a torch module is callable but no factory."""
    if not (inspect.isclass(found) or inspect.isroutine(found) or isinstance(found, partial)):
        return found
    if inspect.isclass(found) and issubclass(found, Model):
        raise ParameterError(
            f"target {target!r}: a member needs its parameters and columns; "
            "name a function without arguments that builds it"
        )
    try:
        inspect.signature(found).bind()
    except (TypeError, ValueError) as error:
        raise ParameterError(
            f"target {target!r}: expected something that can be called without arguments; {error}"
        ) from error
    try:
        return found()
    except Exception as error:  # the user's factory may raise anything
        raise ParameterError(
            f"target {target!r} failed: {type(error).__name__}: {error}"
        ) from error

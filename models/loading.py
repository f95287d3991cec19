"""Loads what a configuration names: a class or factory, by dotted path or from a file.

Never touches ``sys.path``, so a user's file cannot shadow an installed package, and never runs code
that the configuration does not name.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from models.base import MillraceError

FILE_PREFIX = "millrace_file_"
"""Modules made from files are called ``millrace_file_STEM``: a name that a state can hold on to
when the directory moves."""


class LoadError(MillraceError):
    """A reference names nothing that can be loaded."""


def is_file_reference(reference: str) -> bool:
    """Whether ``reference`` has the form ``path/to/file.py:attr``."""
    return ".py:" in reference


def load_attribute(reference: str) -> Any:
    """What ``reference`` names.

    Parameters
    ----------
    reference : str
        ``package.module:attr``, ``package.module.attr`` or ``path/to/file.py:attr``; a relative
        path starts at the working directory. ``attr`` may be dotted (``Outer.Inner``).

    Raises
    ------
    LoadError
        The module, the file or the attribute is missing, or the file fails while it runs.

    >>> load_attribute("collections:OrderedDict").__name__
    'OrderedDict'
    """
    if is_file_reference(reference):
        path, _, attribute = reference.rpartition(":")
        module = _file_module(Path(path))
    elif ":" in reference:
        name, _, attribute = reference.partition(":")
        module = _import(name, reference)
    else:
        module, attribute = _split_dotted(reference)
    value: Any = module
    for part in attribute.split("."):
        value = _get(value, part, reference)
    return value


def _get(holder: Any, part: str, reference: str) -> Any:
    if part and hasattr(holder, part):
        return getattr(holder, part)
    names = [
        n
        for n, v in getattr(holder, "__dict__", {}).items()
        if n[:1] != "_" and type(v) is not ModuleType
    ]
    by_lower = {name.lower(): name for name in names}
    close = difflib.get_close_matches(part.lower(), by_lower, n=1)
    hint = f"; did you mean {by_lower[close[0]]!r}?" if close else ""
    where = getattr(holder, "__name__", type(holder).__name__)
    raise LoadError(f"expected a name of {where}, got {part!r} in {reference!r}{hint}")


def _import(name: str, reference: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise LoadError(f"{reference!r} needs the package {error.name!r}; install it") from None
        raise LoadError(
            f"expected an installed module, got {name!r} in {reference!r}; a file is named"
            " path/to/file.py:attr"
        ) from error
    except Exception as error:  # a library whose own parts do not fit may raise anything
        raise LoadError(
            f"{reference!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error


def _split_dotted(reference: str) -> tuple[ModuleType, str]:
    """The longest importable prefix of ``a.b.c`` and the rest."""
    parts = reference.split(".")
    if len(parts) < 2 or not all(p.isidentifier() for p in parts):
        raise LoadError(
            "expected package.module.attr, package.module:attr or path/to/file.py:attr,"
            f" got {reference!r}"
        )
    module = _import(parts[0], reference)
    depth = 1
    while depth < len(parts) - 1 and _is_module(".".join(parts[: depth + 1]), module):
        depth += 1
        module = _import(".".join(parts[:depth]), reference)
    return module, ".".join(parts[depth:])


def _is_module(name: str, parent: ModuleType) -> bool:
    return hasattr(parent, "__path__") and importlib.util.find_spec(name) is not None


def _file_module(path: Path) -> ModuleType:
    """The module of one file; a file is run once in the life of a process."""
    resolved = path.resolve()
    name = FILE_PREFIX + resolved.stem
    known = sys.modules.get(name)
    if known is not None:
        if known.__file__ == str(resolved):
            return known
        raise LoadError(
            f"expected files with different names, got {resolved} and {known.__file__}:"
            " a saved model names its classes by the file's name; rename one"
        )
    if not resolved.is_file():
        raise LoadError(f"expected a Python file, got {str(path)!r} ({resolved} does not exist)")
    spec = importlib.util.spec_from_file_location(name, resolved)
    if spec is None or spec.loader is None:
        raise LoadError(f"expected a Python file, got {str(path)!r}")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and saved models look their module up here by name.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a user's file may raise anything
        del sys.modules[name]
        raise LoadError(f"{path} failed while it ran: {type(error).__name__}: {error}") from error
    return module

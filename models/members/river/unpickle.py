"""Pickles that cannot call out: the River member keeps its estimator as one.

:func:`loads` reads such bytes under an allow-list: it resolves only the classes that estimators are
made of, calls nothing but a short list of reconstructors, and never imports a module that the list
does not name. The bytes are no measure of equality: see ``models/members/river/object_digest.py``.
"""

from __future__ import annotations

import builtins
import collections
import contextlib
import datetime
import decimal
import enum
import fractions
import functools
import importlib
import io
import pickle
import random
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

import numpy as np
from numpy.random import MT19937, BitGenerator, RandomState

from models.base import StateError

PROTOCOL = 4

_RIVER_PACKAGES = frozenset(
    {
        *("_river_rust", "active", "anomaly", "base", "compose", "covariance", "drift", "dummy"),
        *("ensemble", "facto", "feature_extraction", "feature_selection", "forest", "imblearn"),
        *("linear_model", "metrics", "misc", "model_selection", "multiclass", "naive_bayes"),
        *("neighbors", "optim", "preprocessing", "proba", "rules", "sketch", "stats", "tree"),
        "utils",
    }
)
"""Left out on purpose: what reads files or the network (``datasets``, ``stream``), what runs other
programs' objects (``compat``, ``checks``, ``evaluate``, ``bandit``), and what is no classifier."""

_BUILTIN_CLASSES = frozenset(
    {
        *("bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list"),
        *("object", "range", "set", "slice", "str", "tuple"),
    }
)

_CLASSES: dict[str, frozenset[str]] = {
    "builtins": _BUILTIN_CLASSES,
    "collections": frozenset({"Counter", "OrderedDict", "defaultdict", "deque"}),
    "datetime": frozenset({"date", "datetime", "time", "timedelta", "timezone"}),
    "decimal": frozenset({"Decimal"}),
    "fractions": frozenset({"Fraction"}),
    "functools": frozenset({"partial"}),
    "models.members.river.repairs": frozenset({"OrderedSet", "Unseeded"}),
    "numpy": frozenset({"dtype", "ndarray"}),
    "numpy.random._mt19937": frozenset({"MT19937"}),
    "random": frozenset({"Random"}),
}

_VALUES = frozenset(
    {
        ("copy", "deepcopy"),
        ("river._river_rust.vectordict", "euclidean_distance_tuple"),
        ("river.naive_bayes.gaussian", "GaussianNB._make_gaussian"),
    }
)
"""Functions an estimator may hold (in a ``defaultdict`` or ``partial``); never called here."""


def _array(subtype: type, shape: tuple[int, ...], dtype: bytes) -> Any:
    if subtype is not np.ndarray or shape != (0,):
        raise pickle.UnpicklingError("an array must start as an empty numpy.ndarray")
    return np.ndarray(shape, np.dtype(dtype.decode()))


def _scalar(dtype: np.dtype[Any], raw: bytes) -> Any:
    if dtype.hasobject:
        raise pickle.UnpicklingError("a numpy scalar must not hold an object")
    return np.frombuffer(raw, dtype)[0]


def _bit_generator(cls: object) -> BitGenerator:
    if cls is not MT19937:
        raise pickle.UnpicklingError("the only bit generator allowed is MT19937")
    return MT19937()


def _random_state(bits: object) -> RandomState:
    if not isinstance(bits, BitGenerator):
        raise pickle.UnpicklingError("RandomState must be made from a bit generator")
    return RandomState(bits)


def _bound_method(holder: Any, name: str) -> Any:
    """Stands in for ``getattr``, which pickles of bound methods call: methods of classes only."""
    cls = holder if isinstance(holder, type) else type(holder)
    if not isinstance(name, str) or name.startswith("__"):
        raise pickle.UnpicklingError(f"{name!r} is no method that a pickle may bind")
    if cls is not random.Random and not cls.__module__.startswith("river."):
        raise pickle.UnpicklingError(f"methods of {cls.__module__}.{cls.__qualname__} are refused")
    for base in cls.__mro__:
        found = vars(base).get(name)
        if isinstance(found, _METHODS):
            return found.__get__(None if holder is cls else holder, cls)
    raise pickle.UnpicklingError(f"{cls.__qualname__} has no method {name!r}")


_METHODS = (
    types.FunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    classmethod,
)

_RECONSTRUCTORS: dict[tuple[str, str], Callable[..., Any]] = {
    ("builtins", "getattr"): _bound_method,
    ("numpy._core.multiarray", "_reconstruct"): _array,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy.random._pickle", "__bit_generator_ctor"): _bit_generator,
    ("numpy.random._pickle", "__randomstate_ctor"): _random_state,
}

_CALLABLE_CLASSES: frozenset[type] = frozenset(
    {
        *(getattr(builtins, name) for name in _BUILTIN_CLASSES - {"object"}),
        *(collections.Counter, collections.OrderedDict, collections.defaultdict, collections.deque),
        *(datetime.date, datetime.datetime, datetime.time, datetime.timedelta, datetime.timezone),
        *(decimal.Decimal, fractions.Fraction, functools.partial, np.dtype, random.Random),
    }
)


_Standard: Any = vars(pickle)["_Unpickler"]


class _Unpickler(_Standard):
    """The standard library's own unpickler in Python, with every call it makes checked.

    The one in C cannot tell a class that is rebuilt from one that is called. Measured: 11 MB/s.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(_Standard.dispatch)

    def __init__(self, raw: bytes, modules: frozenset[str]) -> None:
        super().__init__(io.BytesIO(raw))
        self._modules = modules

    def find_class(self, module: str, name: str) -> Any:
        """The allowed object of that name; anything else is refused before it is imported."""
        if (module, name) in _RECONSTRUCTORS:
            return _RECONSTRUCTORS[module, name]
        own = module in self._modules
        river = module.startswith("river.") and module.split(".")[1] in _RIVER_PACKAGES
        value = (module, name) in _VALUES
        if not (own or river or value or name in _CLASSES.get(module, ())):
            raise pickle.UnpicklingError(f"{module}.{name} is not on the allow-list")
        found = _resolve(module, name)
        if own or module == "river.utils.math":
            value = value or isinstance(found, types.FunctionType)
        if not (value or isinstance(found, type)):
            raise pickle.UnpicklingError(f"{module}.{name} is not a class")
        # A module's own names only: what it imported from elsewhere is not on the list.
        if not value and (found.__module__ != module or found.__qualname__ != name):
            raise pickle.UnpicklingError(f"{module}.{name} is another module's name")
        return found

    def _may_call(self, function: Any) -> bool:
        if any(function is known for known in _RECONSTRUCTORS.values()):
            return True
        if not isinstance(function, type):
            return False
        made_in_rust = function.__module__.startswith("river._river_rust.")
        own = function.__module__ in self._modules
        listed = function in _CALLABLE_CLASSES
        return listed or made_in_rust or own or issubclass(function, enum.Enum)

    def load_reduce(self) -> None:
        args = self.stack.pop()
        function = self.stack[-1]
        if not self._may_call(function):
            raise pickle.UnpicklingError(f"a call of {function!r} is refused")
        self.stack[-1] = function(*args)

    dispatch[pickle.REDUCE[0]] = load_reduce

    def load_newobj(self) -> None:
        self._check_class(self.stack[-2])
        super().load_newobj()

    dispatch[pickle.NEWOBJ[0]] = load_newobj

    def load_newobj_ex(self) -> None:
        self._check_class(self.stack[-3])
        super().load_newobj_ex()

    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex

    def _check_class(self, cls: object) -> None:
        if not isinstance(cls, type) or issubclass(cls, type):
            raise pickle.UnpicklingError(f"expected a class to rebuild, got {cls!r}")

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, type | types.FunctionType | types.MethodType | types.ModuleType):
            raise pickle.UnpicklingError(f"a pickle must not change {target!r}")
        # Of the class, not of the object: its attributes come from the pickle.
        setstate = getattr(type(target), "__setstate__", None)
        if setstate is not None:
            setstate(target, state)
            return
        attributes, slots = state if isinstance(state, tuple) else (state, None)
        for name, value in (attributes or {}).items():
            target.__dict__[sys.intern(name)] = value
        for name, value in (slots or {}).items():
            setattr(target, name, value)

    dispatch[pickle.BUILD[0]] = load_build

    def load_append(self) -> None:
        self._check_type(self.stack[-2], list, collections.deque)
        super().load_append()

    dispatch[pickle.APPEND[0]] = load_append

    def load_appends(self) -> None:
        self._check_type(self.metastack[-1][-1], list, collections.deque)
        super().load_appends()

    dispatch[pickle.APPENDS[0]] = load_appends

    def load_setitem(self) -> None:
        self._check_type(self.stack[-3], dict)
        super().load_setitem()

    dispatch[pickle.SETITEM[0]] = load_setitem

    def load_setitems(self) -> None:
        self._check_type(self.metastack[-1][-1], dict)
        super().load_setitems()

    dispatch[pickle.SETITEMS[0]] = load_setitems

    def load_additems(self) -> None:
        self._check_type(self.metastack[-1][-1], set)
        super().load_additems()

    dispatch[pickle.ADDITEMS[0]] = load_additems

    def _check_type(self, target: object, *allowed: type) -> None:
        if not isinstance(target, allowed):
            raise pickle.UnpicklingError(f"a pickle must not fill a {type(target).__name__}")

    def _refuse(self) -> None:
        raise pickle.UnpicklingError("an opcode that this program never writes")

    for _opcode in (
        *(pickle.OBJ, pickle.INST, pickle.EXT1, pickle.EXT2, pickle.EXT4),
        *(pickle.PERSID, pickle.BINPERSID, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
    ):
        dispatch[_opcode[0]] = _refuse


def _resolve(module: str, name: str) -> Any:
    if module not in sys.modules:
        importlib.import_module(module)
    return functools.reduce(getattr, name.split("."), sys.modules[module])


def dumps(value: Any) -> bytes:
    """``value`` as a pickle. Raises :class:`~models.base.StateError` for what cannot be pickled."""
    try:
        with _deep_recursion():
            return pickle.dumps(value, PROTOCOL)
    except (pickle.PicklingError, TypeError, AttributeError, RecursionError) as error:
        raise StateError(f"{type(value).__name__} cannot be saved: {error}") from error


def loads(raw: bytes, modules: Iterable[str] = ()) -> Any:
    """The object in a pickle that :func:`dumps` wrote.

    Parameters
    ----------
    raw : bytes
    modules : names of modules
        Whose own classes and functions are allowed besides: the user's, named in the configuration.

    Raises
    ------
    StateError
        The bytes are damaged, or name or call something that is not on the allow-list.
    """
    try:
        return _Unpickler(raw, frozenset(modules)).load()
    except Exception as error:  # damaged bytes can make any opcode raise anything
        raise StateError(
            f"a saved model was refused: {error or type(error).__name__}; the state directory must"
            " hold only what this program wrote"
        ) from error


@contextlib.contextmanager
def _deep_recursion() -> Iterator[None]:
    """Room for deep trees: the pickler needs about four levels for one node of a tree."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, 10_000))
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)

"""Pickle as a mere encoding: nothing that the bytes name is run.

:func:`dumps` is the standard library's pickler: it copies an estimator ten times faster than a walk
in Python, which a guarded member pays at every update. :func:`loads` reads such bytes under closed
tables: the opcodes that the pickler writes for estimators, the classes that River's own packages
define, a few containers, and makers whose arguments are checked. It resolves no dotted name, no
module's import, and no function but those listed; it calls no constructor of an estimator. The
bytes are no measure of equality: see ``models/members/river/object_digest.py``.
"""

from __future__ import annotations

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
import re
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

import numpy as np
from numpy.random import MT19937, BitGenerator, RandomState

from models.base import StateError
from models.members.river.repairs import OrderedSet, Unseeded

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

_CLASSES: tuple[type, ...] = (
    *(bool, bytearray, bytes, complex, dict, float, frozenset, int, list, object, range, set),
    *(slice, str, tuple),
    *(collections.Counter, collections.OrderedDict, collections.defaultdict, collections.deque),
    *(datetime.date, datetime.datetime, datetime.time, datetime.timedelta, datetime.timezone),
    *(decimal.Decimal, fractions.Fraction, functools.partial, random.Random),
    *(np.dtype, np.ndarray, MT19937, OrderedSet, Unseeded),
)
"""Beside River's: what estimators are made of, and hold as factories of defaults."""

_FUNCTIONS = frozenset(
    {
        *(
            ("river.tree.splitter.ebst_splitter", f"EBSTNode._update_estimator_{kind}")
            for kind in ("univariate", "multivariate")  # add to a node's statistics, by its targets
        ),
        ("copy", "deepcopy"),
        ("river._river_rust.vectordict", "euclidean_distance_tuple"),
        ("river.naive_bayes.gaussian", "GaussianNB._make_gaussian"),
        ("river.utils.math", "minkowski_distance"),
    }
)
"""Functions that River's estimators hold (in a ``defaultdict`` or ``partial``); never called here.
"""

_METHODS = frozenset(
    {
        ("random", "Random", "gauss"),
        ("random", "Random", "random"),
        ("river.drift.dummy", "DummyDriftDetector", "_fixed_trigger"),
        ("river.drift.dummy", "DummyDriftDetector", "_random_trigger"),
        ("river.ensemble.bagging", "LeveragingBaggingClassifier", "_leveraging_bag"),
        ("river.ensemble.bagging", "LeveragingBaggingClassifier", "_leveraging_bag_half"),
        ("river.ensemble.bagging", "LeveragingBaggingClassifier", "_leveraging_bag_me"),
        ("river.ensemble.bagging", "LeveragingBaggingClassifier", "_leveraging_bag_wt"),
        ("river.ensemble.bagging", "LeveragingBaggingClassifier", "_leveraging_subag"),
        ("river.feature_extraction.kernel_approx", "RBFSampler", "_random_weights"),
        ("river.linear_model.pa", "PAClassifier", "_calc_tau_0"),
        ("river.linear_model.pa", "PAClassifier", "_calc_tau_1"),
        ("river.linear_model.pa", "PAClassifier", "_calc_tau_2"),
        ("river.multiclass.occ", "OutputCodeClassifier", "_next_code"),
        ("river.preprocessing.random_projection", "GaussianRandomProjector", "_rand_gauss"),
        (
            *("river.preprocessing.random_projection", "SparseRandomProjector"),
            "_rand_weights_for_feature",
        ),
    }
)
"""Methods that estimators hold, bound: module, class, name."""

_DTYPE = re.compile(r"[biufc][0-9]{1,2}|[SU][0-9]{1,4}|O8")
_LARGEST_SIZE = 1 << 24
"""River's Rust allocates what a constructor is told, and ends the process where it cannot."""


def _refuse(problem: str) -> pickle.UnpicklingError:
    return pickle.UnpicklingError(problem)


# ------------------------------------------------------------------ makers


def _array(subtype: type, shape: tuple[int, ...], dtype: bytes) -> Any:
    if subtype is not np.ndarray or shape != (0,) or dtype != b"b":
        raise _refuse("an array must start as an empty numpy.ndarray")
    return np.ndarray(0, np.int8)


def _dtype(code: str, align: bool, copied: bool) -> np.dtype[Any]:
    if not _DTYPE.fullmatch(code):
        raise _refuse(f"{code!r} is no plain type of numpy")
    return np.dtype(code, align, copied)


def _scalar(dtype: np.dtype[Any], raw: bytes) -> Any:
    if dtype.hasobject:
        raise _refuse("a numpy scalar must not hold an object")
    return np.frombuffer(raw, dtype)[0]


def _bit_generator(cls: object) -> BitGenerator:
    if cls is not MT19937:
        raise _refuse("the only bit generator allowed is MT19937")
    return MT19937()


def _random_state(bits: object) -> RandomState:
    if type(bits) is not MT19937:
        raise _refuse("RandomState must be made from a bit generator")
    return RandomState(bits)


def _bound_method(holder: Any, name: str) -> Any:
    """Stands in for ``getattr``, which pickles of bound methods call."""
    cls = holder if isinstance(holder, type) else type(holder)
    if (cls.__module__, cls.__qualname__, name) not in _METHODS:
        raise _refuse(f"{name!r} of {cls.__qualname__} is no method that an estimator holds")
    return getattr(cls, name).__get__(None if holder is cls else holder, cls)


_STAND_INS: dict[tuple[str, str], Callable[..., Any]] = {
    ("builtins", "getattr"): _bound_method,
    ("numpy._core.multiarray", "_reconstruct"): _array,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy.random._pickle", "__bit_generator_ctor"): _bit_generator,
    ("numpy.random._pickle", "__randomstate_ctor"): _random_state,
}

_NONE = type(None)
_MAKERS: dict[Any, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    **{f: (f, (object, object, object)) for f in _STAND_INS.values()},
    bytearray: (bytearray, (bytes,)),
    complex: (complex, (float, float)),
    range: (range, (int, int, int)),
    slice: (slice, (object, object, object)),
    collections.Counter: (collections.Counter, (dict,)),
    collections.OrderedDict: (collections.OrderedDict, ()),
    collections.defaultdict: (collections.defaultdict, (object,)),
    collections.deque: (collections.deque, (list | tuple, int | _NONE)),
    datetime.date: (datetime.date, (bytes,)),
    datetime.datetime: (datetime.datetime, (bytes, datetime.timezone)),
    datetime.time: (datetime.time, (bytes, datetime.timezone)),
    datetime.timedelta: (datetime.timedelta, (int, int, int)),
    datetime.timezone: (datetime.timezone, (datetime.timedelta, str)),
    decimal.Decimal: (decimal.Decimal, (str,)),
    fractions.Fraction: (fractions.Fraction, (int, int)),
    functools.partial: (functools.partial, (object,)),
    np.dtype: (_dtype, (str, bool, bool)),
    random.Random: (random.Random, ()),
}
"""What a pickle may call: what is done instead, and the types of its arguments."""


def _made(function: Any, args: tuple[Any, ...]) -> Any:
    """The value of a call that the bytes ask for."""
    kinds: tuple[Any, ...]
    if isinstance(function, type) and issubclass(function, enum.Enum):
        function, kinds = function, (int | str | float | tuple,)
    elif isinstance(function, type) and _is_rust(function):
        function, kinds = function, (dict, object, object, bool)
    elif function in _MAKERS:
        function, kinds = _MAKERS[function]
    else:
        raise _refuse(f"a call of {function!r} is refused")
    if len(args) > len(kinds) or not all(map(isinstance, args, kinds)):
        raise _refuse(f"a call of {function!r} with these arguments is refused")
    return function(*args)


# ------------------------------------------------------------------ instances


def _is_rust(cls: type) -> bool:
    return cls.__module__.startswith("river._river_rust.")


def _instance(cls: Any, args: Any) -> Any:
    """An instance whose constructor was not run; those of Rust and tuples are made from values."""
    if not isinstance(cls, type) or issubclass(cls, type):
        raise _refuse(f"expected a class to rebuild, got {cls!r}")
    if issubclass(cls, tuple):
        return tuple.__new__(cls, args)
    numbers = all(isinstance(a, int | float) and abs(a) < _LARGEST_SIZE for a in args)
    if args and not (_is_rust(cls) and numbers):
        raise _refuse(f"{cls.__qualname__} is rebuilt without arguments, got {len(args)}")
    return cls.__new__(cls, *args)


def _restore(target: Any, state: Any) -> None:
    """Give an instance its state: by its class's own way, else attribute by attribute."""
    cls = type(target)
    if isinstance(target, np.dtype):
        if state[1] not in ("<", "|") or state[2:5] != (None, None, None):
            raise _refuse("expected a plain little-endian type of numpy")
    elif isinstance(target, np.ndarray):
        _restore_array(target, state)
    elif isinstance(target, MT19937 | RandomState):
        inner = state[0] if isinstance(state, tuple) else state
        if not 0 <= inner["state"]["pos"] <= 624:  # the generator trusts it as an index
            raise _refuse("a random generator points outside its state")
        cls.__setstate__(target, state)
    elif isinstance(target, type | types.FunctionType | types.MethodType | types.ModuleType):
        raise _refuse(f"a pickle must not change {target!r}")
    elif (setstate := getattr(cls, "__setstate__", None)) is not None:
        setstate(target, state)
    else:
        _set_attributes(target, state)


def _restore_array(target: np.ndarray[Any, Any], state: Any) -> None:
    _, shape, dtype, _, raw = state
    if not isinstance(dtype, np.dtype) or dtype.hasobject != isinstance(raw, list):
        raise _refuse("an array of objects is a list, any other one is bytes")
    values = np.empty(len(raw), object) if dtype.hasobject else np.frombuffer(raw, dtype)
    values.reshape(shape)  # raises unless there are as many values as the shape says
    target.__setstate__(state)


def _set_attributes(target: Any, state: Any) -> None:
    """Attributes that the class leaves to its instances: none takes the place of a method."""
    cls: Any = type(target)
    attributes, slots = state if isinstance(state, tuple) else (state, None)
    for name, value in (attributes or {}).items():
        known = _in_class(cls, name)
        if name.startswith("__") or isinstance(known, _METHOD_TYPES) or hasattr(known, "__set__"):
            raise _refuse(f"{name!r} of {cls.__qualname__} is not the instance's own")
        target.__dict__[sys.intern(name)] = value
    for name, value in (slots or {}).items():
        if not isinstance(_in_class(cls, name), types.MemberDescriptorType):
            raise _refuse(f"{cls.__qualname__} has no slot {name!r}")
        object.__setattr__(target, name, value)


_METHOD_TYPES = (types.FunctionType, classmethod, staticmethod)


@functools.lru_cache(maxsize=4096)
def _in_class(cls: type, name: str) -> Any:
    """What the class or one of its bases defines under that name."""
    return next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None)


# ------------------------------------------------------------------ the reader

_Standard: Any = vars(pickle)["_Unpickler"]

_PLAIN_OPCODES = (
    *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.POP, pickle.POP_MARK),
    *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BINFLOAT),
    *(pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1, pickle.LONG4),
    *(pickle.SHORT_BINUNICODE, pickle.BINUNICODE, pickle.BINUNICODE8),
    *(pickle.SHORT_BINBYTES, pickle.BINBYTES, pickle.BINBYTES8),
    *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
    *(pickle.EMPTY_LIST, pickle.EMPTY_DICT, pickle.EMPTY_SET, pickle.FROZENSET),
    *(pickle.MEMOIZE, pickle.BINGET, pickle.LONG_BINGET, pickle.STACK_GLOBAL),
)


class _Opcodes(dict[int, Any]):
    def __missing__(self, opcode: int) -> Any:
        raise _refuse(f"opcode {opcode} is none that this program writes")


class _Reader(_Standard):
    """The standard library's reader in Python with the few opcodes that are needed.

    The one in C cannot tell a class that is rebuilt from one that is called. Measured: 11 MB/s.
    """

    dispatch: ClassVar[dict[int, Any]] = _Opcodes(
        {opcode[0]: _Standard.dispatch[opcode[0]] for opcode in _PLAIN_OPCODES}
    )

    def __init__(
        self, raw: bytes, modules: frozenset[str], functions: frozenset[tuple[str, str]]
    ) -> None:
        super().__init__(io.BytesIO(raw))
        self._modules = modules
        self._functions = functions | _FUNCTIONS

    def find_class(self, module: str, name: str) -> Any:
        """What stands in a table under that name; anything else is refused before an import."""
        if (module, name) in _STAND_INS:
            return _STAND_INS[module, name]
        if (module, name) in _LISTED:
            return _LISTED[module, name]
        if (module, name) in self._functions:
            return functools.reduce(getattr, name.split("."), importlib.import_module(module))
        if module in self._modules or _is_rivers(module):
            found = _classes_of(module).get(name)
            if found is not None:
                return found
        raise _refuse(f"{module}.{name} is not on the allow-list")

    def load_reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = _made(self.stack[-1], args)

    dispatch[pickle.REDUCE[0]] = load_reduce

    def load_newobj(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = _instance(self.stack[-1], args)

    dispatch[pickle.NEWOBJ[0]] = load_newobj

    def load_build(self) -> None:
        state = self.stack.pop()
        _restore(self.stack[-1], state)

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
            raise _refuse(f"a pickle must not fill a {type(target).__name__}")


_LISTED = {(cls.__module__, cls.__qualname__): cls for cls in _CLASSES}
# What pickles call them: the module where a class is found, not where it was made.
_LISTED["numpy.random._mt19937", "MT19937"] = MT19937


def _is_rivers(module: str) -> bool:
    river, *inner = module.split(".")
    outside = any(part == "datasets" or part.startswith("test_") for part in inner)
    return river == "river" and not _RIVER_PACKAGES.isdisjoint(inner[:1]) and not outside


@functools.cache
def _classes_of(module: str) -> dict[str, type]:
    """The classes that a module defines itself, by qualified name."""
    found = sys.modules.get(module) or importlib.import_module(module)
    return {
        name: value
        for name, value in vars(found).items()
        if isinstance(value, type)
        and not issubclass(value, type)
        and (value.__module__, value.__qualname__) == (module, name)
    }


def dumps(value: Any) -> bytes:
    """``value`` as a pickle. Raises :class:`~models.base.StateError` for what cannot be pickled."""
    return _pickled(value, pickle.Pickler)


def functions_in(value: Any, modules: Iterable[str]) -> frozenset[tuple[str, str]]:
    """The functions of ``modules`` that ``value`` holds, by module and name: for :func:`loads`.

    Raises :class:`~models.base.StateError` for what cannot be pickled.
    """
    held = set()
    names = frozenset(modules)

    class Noting(pickle.Pickler):
        def reducer_override(self, item: Any) -> Any:
            if isinstance(item, types.FunctionType) and item.__module__ in names:
                held.add((item.__module__, item.__qualname__))
            return NotImplemented

    _pickled(value, Noting)
    return frozenset(held)


def _pickled(value: Any, pickler: type[pickle.Pickler]) -> bytes:
    out = io.BytesIO()
    try:
        with _deep_recursion():
            pickler(out, PROTOCOL).dump(value)
    except (pickle.PicklingError, TypeError, AttributeError, RecursionError) as error:
        raise StateError(f"{type(value).__name__} cannot be saved: {error}") from error
    return out.getvalue()


def loads(
    raw: bytes, modules: Iterable[str] = (), functions: Iterable[tuple[str, str]] = ()
) -> Any:
    """The object in a pickle that :func:`dumps` wrote.

    Parameters
    ----------
    raw : bytes
    modules : names of modules
        Whose own classes are allowed besides: the user's, named in the configuration.
    functions : pairs of module and name
        That are allowed besides: those that the user's estimator holds as it is built.

    Raises
    ------
    StateError
        The bytes are damaged, or name or call something that is not on the allow-list.
    """
    try:
        return _Reader(raw, frozenset(modules), frozenset(functions)).load()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # damaged bytes raise anything: a panic of Rust is no Exception
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

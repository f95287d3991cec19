"""Guarded pickles and the object digest: what is refused, what survives, what counts as equal."""

from __future__ import annotations

import collections
import contextlib
import copy
import functools
import importlib
import os
import pickle
import random
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import linear_model, naive_bayes, stats, tree

from models.base import StateError
from models.members.river.object_digest import count_numbers, object_digest
from models.members.river.unpickle import (
    _FUNCTIONS,
    _LISTED,
    _STAND_INS,
    _Reader,
    dumps,
    functions_in,
    loads,
)


class Calls:
    """Pickles as the call of ``function`` with ``args``."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> Any:
        return self.function, self.args


def named(module: str, name: str) -> bytes:
    """Opcodes that push what is called ``module.name``, dots and all."""
    parts = [b"\x8c" + struct.pack("B", len(t)) + t.encode() for t in (module, name)]
    return b"".join(parts) + b"\x93"


def stack_global(module: str, name: str, then: bytes = b"") -> bytes:
    """A pickle that names ``module.name`` and goes on with ``then``."""
    return b"\x80\x04" + named(module, name) + then + b"."


def method_of(module: str, name: str, method: str, then: bytes = b"") -> bytes:
    """A pickle that binds a method of a new instance."""
    instance = named(module, name) + b")\x81"
    text = b"\x8c" + struct.pack("B", len(method)) + method.encode()
    return stack_global("builtins", "getattr", instance + text + b"\x86R" + then)


def text(value: str) -> bytes:
    """Opcodes that push a short text."""
    return b"\x8c" + struct.pack("B", len(value)) + value.encode()


MEAN = named("river.stats.mean", "Mean")
MARK = Path(os.devnull)

MALICIOUS = {
    "os.system": pickle.dumps(Calls(os.system, "true"), 4),
    "builtins.eval": pickle.dumps(Calls(eval, "1"), 4),
    "builtins.exec": pickle.dumps(Calls(exec, ""), 4),
    "builtins.open": pickle.dumps(Calls(open, str(MARK)), 4),
    "builtins.__import__": pickle.dumps(Calls(__import__, "os"), 4),
    "numpy.load": pickle.dumps(Calls(np.load, str(MARK)), 4),
    "numpy.memmap": stack_global("numpy", "memmap"),
    "numpy.ctypeslib.load_library": stack_global("numpy.ctypeslib", "load_library"),
    "numpy.f2py": stack_global("numpy.f2py", "compile"),
    "numpy's own import of os": stack_global("numpy.lib._npyio_impl", "os.popen"),
    "operator.attrgetter": stack_global("operator", "attrgetter"),
    "functools.reduce": pickle.dumps(Calls(functools.reduce, eval, ["1", "2"]), 4),
    "partial of eval": pickle.dumps(functools.partial(eval, "1"), 4),
    "a river module's import": stack_global("river.base", "sys"),
    "dotted through a river module": stack_global("river.base.base", "inspect.os.system"),
    "dotted through numpy in a river module": stack_global(
        "river.utils.math", "np.lib._npyio_impl.os.popen", text("true") + b"\x85R"
    ),
    "dotted through a class": stack_global(
        "river.base.base", "Base.clone.__globals__", text("abc") + b"\x85R"
    ),
    "a function of an allowed module": stack_global("river.utils.math", "softmax"),
    "a river function": stack_global("river.utils.pretty", "print_table"),
    "river's readers of files": stack_global("river.stream.cache", "Cache"),
    "river's data sets": stack_global("river.datasets.phishing", "Phishing"),
    "river's data sets of drift": stack_global("river.drift.datasets.apple", "Apple"),
    "river's metaclass": stack_global("river.base.estimator", "EstimatorMeta"),
    "river's wrappers of other libraries": stack_global(
        "river.compat.sklearn_to_river", "SKL2RiverClassifier"
    ),
    "a class of another package": stack_global("subprocess", "Popen"),
    "this program's own classes": stack_global("models.members.river.model", "RiverModel"),
    "getattr of a dunder": pickle.dumps(Calls(getattr, random.Random(1), "__init__"), 4),
    "getattr of a module": stack_global(
        "builtins", "getattr", named("os", "environ") + text("get") + b"\x86R"
    ),
    "getattr of a list": pickle.dumps(Calls(getattr, [1], "append"), 4),
    "a method that no estimator holds": method_of("river.stats.mean", "Mean", "clone"),
    "a call of a river class": b"\x80\x04" + MEAN + b")R.",
    "a call of a bound method": method_of("random", "Random", "random", b")R"),
    "a call of a value": stack_global("copy", "deepcopy", b"(K\x01tR"),
    "a call with arguments of other types": stack_global(
        "collections", "Counter", named("builtins", "range") + b"K\x63\x85R\x85R"
    ),
    "arguments for a class in Python": b"\x80\x04" + MEAN + b"K\x01\x85\x81.",
    "more memory than there is": stack_global(
        "river._river_rust.stats",
        "RsRollingQuantile",
        b"G" + bytes(8) + b"J\xff\xff\xff\x7f\x86\x81",
    ),
    "damaged state of a Rust object": stack_global(
        "river._river_rust.stats", "RsQuantile", b")\x81C\x01\x01b"
    ),
    "change of a class": b"\x80\x04" + MEAN + b"}" + text("get") + b"K\x01sb.",
    "a method replaced": b"\x80\x04" + MEAN + b")\x81}" + text("get") + b"K\x01sb.",
    "another class": b"\x80\x04" + MEAN + b")\x81}" + text("__class__") + b"K\x01sb.",
    "a copy of its own": b"\x80\x04" + MEAN + b")\x81}" + text("__deepcopy__") + b"K\x01sb.",
    "no such slot": b"\x80\x04" + MEAN + b")\x81N}" + text("get") + b"K\x01s\x86b.",
    "bit generator from any class": pickle.dumps(
        Calls(np.random._pickle.__bit_generator_ctor, collections.Counter), 4
    ),
    "random state with another maker": stack_global(
        "numpy.random._pickle",
        "__randomstate_ctor",
        text("a") + named("builtins", "list") + b"\x86R",
    ),
    "a random generator that points outside": stack_global(
        "numpy.random._pickle",
        "__bit_generator_ctor",
        named("numpy.random._mt19937", "MT19937")
        + b"\x85R}"
        + text("state")
        + b"}"
        + text("pos")
        + b"M\xff\xffssb",
    ),
    "a structured type": pickle.dumps(np.dtype([("a", "f8")]), 4),
    "an array of another size": pickle.dumps(np.zeros(3), 4).replace(b"K\x03\x85", b"K\x63\x85"),
    "an array of pointers": pickle.dumps(np.zeros(3), 4).replace(b"f8", b"O8"),
    "persistent id": b"\x80\x04\x8c\x01aQ.",
    "extension": b"\x80\x04\x82\x01.",
    "global": b"\x80\x04cbuiltins\nlist\n.",
    "inst": b"(S'true'\nios\nsystem\n.",
    "obj": b"\x80\x04(" + named("os", "system") + text("true") + b"o.",
    "new object with keywords": b"\x80\x04" + MEAN + b")}\x92.",
    "metaclass": stack_global("builtins", "type"),
    "append to a class of ours": b"\x80\x04" + MEAN + b")\x81K\x01a.",
    "truncated": pickle.dumps([1, 2, 3], 4)[:-3],
    "empty": b"",
    "garbage": b"not a pickle",
}


@pytest.mark.parametrize("name", sorted(MALICIOUS))
def test_a_pickle_that_calls_out_is_refused(name: str) -> None:
    """Whatever is off the allow-list, called, changed or damaged ends in a StateError."""
    with pytest.raises(StateError, match="refused"):
        loads(MALICIOUS[name])


def test_nothing_is_imported_for_a_refused_name() -> None:
    """A module off the list is not even imported: imports run code."""
    assert "antigravity" not in sys.modules
    with pytest.raises(StateError, match="allow-list"):
        loads(stack_global("antigravity", "geohash"))
    assert "antigravity" not in sys.modules


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_pickle_is_a_state_error_or_a_value(data: st.DataObject) -> None:
    """Flipped and cut bytes never escape as another error."""
    raw = bytearray(pickle.dumps({"a": [1, 2.5], "b": collections.Counter("abc"), "c": (1,)}, 4))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        loads(bytes(raw[: data.draw(st.integers(1, len(raw)))]))
    except StateError:
        return


def a_bit_of_everything() -> dict[str, Any]:
    """One value of each kind that estimators hold."""
    rng = random.Random(3)
    rng.random()
    shared = [1, 2]
    loop: dict[str, Any] = {"shared": shared}
    loop["self"] = loop
    gaussian = naive_bayes.GaussianNB()
    perceptron = linear_model.PAClassifier()
    for i in range(20):
        x = {"a": float(i), "b": i % 3 / 7}
        gaussian.learn_one(x, i % 2 == 0)
        perceptron.learn_one(x, i % 2 == 0)
    quantile = stats.Quantile(0.3)
    quantile.update(1.5)
    return {
        "numbers": [1, 2**70, -1, 0.1, float("inf"), -0.0, True, None, 1 + 2j],
        "text": ("é", b"\x00", "\ud800"),
        "containers": [
            collections.OrderedDict(a=1),
            collections.Counter("aab"),
            collections.deque([1, 2], maxlen=3),
            collections.defaultdict(float, a=1.0),
            {3, 1, 2},
            frozenset({"x", "y"}),
        ],
        "arrays": [
            np.arange(6.0).reshape(2, 3),
            np.asfortranarray(np.arange(6).reshape(2, 3)),
            np.float32(1.5),
            np.array([{"a": 1}, None]),
            np.random.RandomState(5),
        ],
        "random": [rng, rng, rng.random, rng.gauss],
        "partial": functools.partial(copy.deepcopy, shared),
        "loop": loop,
        "again": shared,
        "estimators": [gaussian, perceptron, quantile],
    }


def test_everything_an_estimator_holds_survives() -> None:
    """A round trip keeps the digest, aliases and cycles, and bound methods stay bound."""
    value = a_bit_of_everything()
    back = loads(dumps(value))
    assert object_digest(back) == object_digest(value)
    assert back["loop"]["self"] is back["loop"]
    assert back["again"] is back["loop"]["shared"]
    assert back["random"][3].__self__ is back["random"][0]
    assert back["random"][2]() == value["random"][2]()


def test_the_digest_does_not_depend_on_identity_of_immutable_values() -> None:
    """Equal text, numbers and tuples count by value, whichever of them are one object."""
    text = "".join(["a", "b"])
    one, two = [text, text, (1, 2.5)], ["ab", "".join(["a", "b"]), (1, 2.5)]
    assert object_digest(one) == object_digest(two)


def test_the_digest_tells_aliases_from_copies() -> None:
    """Two lists that are one object behave differently from two equal ones."""
    a = [1]
    assert object_digest([a, a]) != object_digest([a, [1]])


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (1, True),
        (1, 1.0),
        (0.0, -0.0),
        ("a", b"a"),
        ([1], (1,)),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ([[1], 2], [[1, 2]]),
        ({1}, frozenset({1})),
        (np.zeros(2), np.zeros((2, 1))),
        (np.zeros(2), np.zeros(2, np.float32)),
        (random.Random(1), random.Random(2)),
        (stats.Mean(), stats.Var()),
    ],
)
def test_the_digest_tells_apart(one: Any, two: Any) -> None:
    """Type, value, shape, order of a dict and kind of container all count."""
    assert object_digest(one) != object_digest(two)


def test_the_digest_does_not_depend_on_the_order_of_a_set() -> None:
    """Two sets with one content and another history are equal."""
    one, two = set(), set()
    for i in range(0, 800, 8):
        one.add(i)
        two.add(792 - i)
    assert list(one) != list(two)
    assert object_digest(one) == object_digest(two)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


@settings(max_examples=200)
@given(values, values)
def test_digests_are_equal_exactly_for_equal_values(one: Any, two: Any) -> None:
    """Against ``repr``, which tells plain trees of values apart (but for nan's bits)."""
    assert object_digest(one) == object_digest(loads(dumps(one)))
    if repr(one) != repr(two):
        assert object_digest(one) != object_digest(two)


def test_deep_structures_need_no_recursion() -> None:
    """A chain of 1,500 nodes is saved, restored and digested."""
    chain: list[Any] = []
    for _ in range(1_500):
        chain = [chain]
    assert object_digest(loads(dumps(chain))) == object_digest(chain)


def test_what_cannot_be_saved_is_a_state_error() -> None:
    """Lambdas and generators have no place in a state."""
    with pytest.raises(StateError, match="cannot be saved"):
        dumps({"a": lambda: None})
    with pytest.raises(StateError, match="cannot be saved"):
        object_digest([(i for i in ())])


def test_a_users_module_is_allowed_by_name_only() -> None:
    """The same bytes load with the module named and are refused without."""
    raw = dumps(Pair(1, 2))
    assert loads(raw, [__name__]).left == 1
    with pytest.raises(StateError, match="not on the allow-list"):
        loads(raw)


def test_of_a_users_functions_only_those_that_it_was_built_with() -> None:
    """An estimator may hold a function of its module; the bytes cannot name another one."""
    built = Pair(named, 2)
    held = functions_in(built, [__name__])
    assert held == {(__name__, "named")}
    assert loads(dumps(built), [__name__], held).left is named
    with pytest.raises(StateError, match="stack_global is not on the allow-list"):
        loads(dumps(Pair(stack_global, 2)), [__name__], held)


def everything_reachable() -> set[tuple[str, str]]:
    """Names of modules and what they hold, two dots deep, imports of theirs included."""
    found = set()
    roots = ("river", "numpy", "functools", "collections", "operator", "builtins", "copy", "random")
    for module, loaded in list(sys.modules.items()):
        if loaded is not None and module.split(".")[0] in roots:
            for name, value in list(vars(loaded).items()):
                found.add((module, name))
                found |= {(module, f"{name}.{inner}") for inner in getattr(value, "__dict__", ())}
    return found


def test_of_all_that_can_be_named_only_the_listed_is_found() -> None:
    """Whatever River, numpy and the standard library make reachable: a class that River defines, a
    container, or one of the few functions by name."""
    for package in ("compose", "ensemble", "forest", "multiclass", "preprocessing"):
        importlib.import_module(f"river.{package}")
    reader = _Reader(b"", frozenset(), frozenset())
    found = {}
    names = everything_reachable()
    for module, name in names:
        with contextlib.suppress(pickle.UnpicklingError):
            found[module, name] = reader.find_class(module, name)
    listed = _LISTED | _STAND_INS
    for (module, name), value in found.items():
        if (module, name) not in listed and (module, name) not in _FUNCTIONS:
            assert isinstance(value, type)
            assert not issubclass(value, type)
            assert (value.__module__, value.__qualname__) == (module, name)
            assert module.startswith("river.")
            assert "datasets" not in module
    assert len(names) > 50_000
    assert len(found) > 300


class Pair:
    """A user's class."""

    def __init__(self, left: Any, right: Any) -> None:
        self.left, self.right = left, right


def test_numbers_are_counted() -> None:
    """Floats and array elements count, text and integers do not."""
    assert count_numbers({"a": [1.0, 2.0], "b": np.zeros((3, 2)), "c": "x", "d": 7}) == 8


def test_a_tree_keeps_its_digest_over_a_save() -> None:
    """A Hoeffding tree with splits: the restored one is equal and learns on equally."""
    rng = random.Random(1)
    rows = [({"a": rng.random(), "b": rng.random()}, rng.random() < 0.5) for _ in range(800)]
    model = tree.HoeffdingTreeClassifier(grace_period=50, delta=0.1, tau=0.5)
    for x, _ in rows[:400]:
        model.learn_one(x, x["a"] > 0.5)
    twin = loads(dumps(model))
    for x, _ in rows[400:]:
        model.learn_one(x, x["a"] > 0.5)
        twin.learn_one(x, x["a"] > 0.5)
    assert model.n_branches > 0
    assert object_digest(model) == object_digest(twin)

"""The stacks of classes and numbers: against plain numpy, regret, members that come and go."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.base import F64, StateError
from models.carry import shared
from models.ensemble.combine import COMBINERS, Combiner, combiner
from models.links import softmax
from models.task import BINARY, Classes, Number, Task

THREE = Classes(["a", "b", "c"])
NUMBER = Number()
EACH = pytest.mark.parametrize(
    ("name", "task"),
    [
        (name, task)
        for name, tasks in sorted(COMBINERS.items())
        for task in (THREE, NUMBER)
        if task.type in tasks
    ],
    ids=lambda value: value if isinstance(value, str) else value.type,
)


def stream(task: Task, n: int, m: int, seed: int) -> tuple[F64, F64, F64]:
    """Links of ``m`` members of falling skill, truths, weights of 1."""
    rng = np.random.default_rng(seed)
    noise = np.linspace(0.5, 3.0, m)[:, None]
    if task.type == "number":
        y = 1e6 + 40 * rng.normal(size=n)
        return y[:, None, None] + 10 * noise * rng.normal(size=(n, m, 1)), y, np.ones(n)
    if task.type == "binary":
        y = rng.integers(0, 2, n).astype(np.float64)
        return (4 * y - 2)[:, None, None] + noise * rng.normal(size=(n, m, 1)), y, np.ones(n)
    y = rng.integers(0, task.k, n).astype(np.float64)
    right = np.eye(task.k)[y.astype(int)][:, None]
    return 2 * right + noise * rng.normal(size=(n, m, task.k)), y, np.ones(n)


def said_in_order(made: Combiner, links: F64, y: F64, w: F64) -> F64:
    """What the combiner says of each row before it learns it."""
    out = np.zeros((len(links), links.shape[2]))
    for i in range(len(links)):
        out[i] = made.combine(links[i : i + 1])[0]
        made.update(links[i : i + 1], y[i : i + 1], w[i : i + 1])
    return out


@EACH
def test_batches_may_be_cut_anywhere(name: str, task: Task) -> None:
    """Rows learned one by one or at once leave the same state; members are weighed alike."""
    links, y, w = stream(task, 120, 3, 1)
    one, many = combiner(name, 3, 5, task), combiner(name, 3, 5, task)
    many.update(links, y, w)
    said_in_order(one, links, y, w)
    assert (one.combine(links) == many.combine(links)).all()
    assert (one.weights() == many.weights()).all()


@EACH
def test_a_restored_combiner_goes_on_bit_for_bit(name: str, task: Task) -> None:
    """All members in their places: the same as if it had never been saved."""
    links, y, w = stream(task, 200, 3, 2)
    straight, saved, again = (combiner(name, 3, 5, task) for _ in range(3))
    for made in (straight, saved):
        made.update(links[:100], y[:100], w[:100])
    again.restore(saved.state(), shared("abc", "abc"))
    for made in (straight, again):
        made.update(links[100:], y[100:], w[100:])
    assert (straight.combine(links) == again.combine(links)).all()


@EACH
def test_extreme_links_stay_finite(name: str, task: Task) -> None:
    """Members at the ends of what can be said, and truths far from all of them."""
    made = combiner(name, 2, 0, task)
    links = np.zeros((4, 2, task.k))
    links[:, 0, 0], links[1:, 1, -1] = 1e6, -1e6
    for y in (0.0, float(task.k - 1)):
        made.update(links, np.full(4, y), np.ones(4))
        assert np.isfinite(made.combine(links)).all()
        assert np.isfinite(made.weights()).all()


def test_classes_that_nobody_named_yet_leave_the_stack_as_it_is() -> None:
    """Columns without a probability: what the stack of the others says and learns, bit for bit."""
    links, y, w = stream(THREE, 150, 3, 7)
    wide = np.concatenate([links, np.full((150, 3, 2), -np.inf)], axis=2)
    few, many = combiner("stack", 3, 0, THREE), combiner("stack", 3, 0, Classes([], most=5))
    got = said_in_order(many, wide, y, w)
    np.testing.assert_array_equal(got[:, :3], said_in_order(few, links, y, w))
    assert np.isneginf(got[:, 3:]).all()
    before = many.state()
    many.update(wide[:1], np.array([4.0]), np.ones(1))
    for name, array in many.state().items():
        np.testing.assert_array_equal(array, before[name])
    assert np.isneginf(many.combine(np.full((1, 3, 5), -np.inf))).all()


@settings(max_examples=10)
@given(m=st.integers(1, 5), seed=st.integers(0, 100))
def test_the_stack_of_classes_equals_its_reference(m: int, seed: int) -> None:
    """As its docstring says it, in plain numpy."""
    links, y, w = stream(THREE, 150, m, seed)
    w = np.where(np.arange(150) % 4 == 0, 2.5, w)
    got = said_in_order(combiner("stack", m, 0, THREE), links, y, w)
    weights, b = np.full(m, 1 / m), np.zeros(3)
    squares, b_squares = np.zeros(m), np.zeros(3)
    shares = np.full(m + 3, 1 / (m + 3))
    for i, link in enumerate(links):
        p = softmax(link)
        logs = np.log(p)
        experts = [softmax(b + weights @ logs), softmax(logs.mean(axis=0)), p.mean(axis=0), *p]
        assert np.allclose(got[i], np.log(shares @ experts), atol=1e-9)
        if i == 0:
            continue  # what members said first they had not learned
        truth = int(y[i])
        shares = shares * np.array([e[truth] for e in experts]) ** w[i]
        shares = (1 - 1e-4) * shares / shares.sum() + 1e-4 / (m + 3)
        error = (experts[0] - np.eye(3)[truth]) * w[i]
        g = logs @ error
        squares, b_squares = squares + g**2, b_squares + error**2
        weights = weights - 0.05 * g / np.sqrt(squares)
        b = b - 0.05 * error / np.sqrt(b_squares)


@settings(max_examples=10)
@given(m=st.integers(1, 5), seed=st.integers(0, 100))
def test_the_stack_of_numbers_equals_its_reference(m: int, seed: int) -> None:
    """As its docstring says it, in plain numpy."""
    links, y, w = stream(NUMBER, 150, m, seed)
    got = said_in_order(combiner("stack", m, 0, NUMBER), links, y, w)
    weights, squares, b, b_square = np.zeros(m), np.zeros(m), 0.0, 0.0
    shares, mse, rows = np.full(m + 3, 1 / (m + 3)), 0.0, 0
    for i, link in enumerate(links[:, :, 0]):
        mean = link.mean()
        away = link - mean
        stack = mean + b * math.sqrt(mse) + weights @ away
        experts = np.array([stack, mean, np.median(link), *link])
        assert got[i, 0] == pytest.approx(shares @ experts, rel=1e-12)
        if i == 0:
            continue
        rows += 1
        mse += ((mean - y[i]) ** 2 - mse) * max(1 / rows, 1 / 1000)
        s = math.sqrt(mse)
        shares = shares * np.exp(-(np.minimum(np.abs(experts - y[i]) / s, 2.0) ** 2) / 8)
        shares = (1 - 1e-4) * shares / shares.sum() + 1e-4 / (m + 3)
        wrong = min(max((stack - y[i]) / s, -3.0), 3.0)
        g = wrong * away / s
        squares, b_square = squares + g**2, b_square + wrong**2
        weights = weights - 0.05 * g / np.sqrt(np.where(squares > 0, squares, 1.0))
        b -= 0.05 * wrong / math.sqrt(b_square)


@pytest.mark.parametrize("seed", range(3))
def test_classes_cost_no_more_than_the_best_member_and_the_regret(seed: int) -> None:
    """Over all labels: ``log(m + 3)`` nats, and 1e-4 of each label's share dealt out."""
    links, y, w = stream(THREE, 2000, 4, seed)
    mixed = THREE.cost(said_in_order(combiner("stack", 4, 0, THREE), links, y, w), y)
    members = [THREE.cost(links[:, j], y) for j in range(4)]
    best = min(sum(costs) for costs in members)
    assert mixed.sum() <= best + math.log(7) + 2000 * 1.01e-4 + mixed[0]


@pytest.mark.parametrize("seed", range(3))
def test_numbers_cost_no_more_than_the_best_member_and_the_regret(seed: int) -> None:
    """The squared error over all labels, but for the first: their unit is not known yet."""
    links, y, w = stream(NUMBER, 2000, 4, seed)
    said = said_in_order(combiner("stack", 4, 0, NUMBER), links, y, w)[:, 0]
    mixed = np.square(said - y)
    members = [np.square(links[:, j, 0] - y) for j in range(4)]
    best, unit = min(costs.sum() for costs in members), np.square(links[:, :, 0].mean(1) - y).mean()
    assert mixed.sum() <= best + 8 * unit * math.log(7) + 8 * unit * 2000 * 1e-4 + mixed[:20].sum()


@pytest.mark.parametrize("task", [THREE, NUMBER], ids=lambda task: task.type)
def test_a_silent_member_says_what_the_others_do(task: Task) -> None:
    """Rows that it did not score leave all finite, and it earns no weight by them."""
    links, y, w = stream(task, 300, 3, 4)
    silent = links.copy()
    silent[:, 2] = np.nan
    made, without = combiner("stack", 3, 0, task), combiner("stack", 2, 0, task)
    for each, rows in ((made, silent), (without, links[:, :2])):
        each.update(rows, y, w)
    assert np.isfinite(made.combine(links)).all()
    gap = np.abs(task.output(made.combine(silent)) - task.output(without.combine(links[:, :2])))
    assert gap.max() < (0.2 if task.type == "classes" else 20.0)


@pytest.mark.parametrize("task", [THREE, NUMBER], ids=lambda task: task.type)
def test_members_go_by_their_names(task: Task) -> None:
    """In another order they score the same; one that joins has no share and earns it."""
    links, y, w = stream(task, 400, 3, 5)
    old = combiner("stack", 3, 0, task)
    old.update(links, y, w)
    turned = combiner("stack", 3, 0, task)
    turned.restore(old.state(), shared("cab", "abc"))
    assert np.allclose(turned.combine(links[:, [2, 0, 1]]), old.combine(links), rtol=1e-12)
    more = combiner("stack", 4, 0, task)
    more.restore(old.state(), shared("abcd", "abc"))
    assert more.state()["shares"][6] == 0.0
    for _ in range(4):
        more.update(np.concatenate([links, links[:, :1]], axis=1), y, w)
    assert more.state()["shares"][6] > 0.0


ANY = pytest.mark.parametrize("task", [BINARY, THREE, NUMBER], ids=lambda task: task.type)


def learned(task: Task, n: int, seed: int) -> tuple[Combiner, F64, F64, F64]:
    """A stack of three that has learned, and more rows with a fourth member's links in the last."""
    links, y, w = stream(task, 2 * n, 4, seed)
    old = combiner("stack", 3, 0, task)
    old.update(np.ascontiguousarray(links[:n, :3]), y[:n], w[:n])
    return old, links[n:], y[n:], w[n:]


def absurd(task: Task, n: int) -> F64:
    """Links of a member that says the same absurd thing of all rows."""
    far = {"binary": [4.0], "number": [1e6 + 100.0]}.get(task.type, [9.0] + [0.0] * (task.k - 1))
    return np.tile(np.array(far), (n, 1))


@ANY
@pytest.mark.parametrize("name", ["stack", "stacking"])
def test_one_that_joins_changes_no_score_before_a_label_came(name: str, task: Task) -> None:
    """Whatever it says, and whatever share the means have."""
    links, y, w = stream(task, 300, 3, 8)
    old = combiner(name, 3, 0, task)
    old.update(links[:8], y[:8], w[:8])
    more = combiner(name, 4, 0, task)
    more.restore(old.state(), shared("abcd", "abc"))
    wide = np.concatenate([links, absurd(task, len(links))[:, None]], axis=1)
    assert (more.combine(wide) == old.combine(links)).all()
    if task.type == "binary" and name == "stack":
        assert more.slopes(0 * wide[..., 0], wide[..., 0])[:, 3].max() == 0.0  # type: ignore[index]
    assert more.weights()[3] == 0.0


@ANY
def test_an_absurd_one_that_joins_costs_next_to_nothing(task: Task) -> None:
    """Against the same members without it, over the same labels that come late."""
    old, links, y, w = learned(task, 1_500, 9)
    links = np.ascontiguousarray(links[:, :3])
    wide = np.concatenate([links, absurd(task, len(links))[:, None]], axis=1)
    more = combiner("stack", 4, 0, task)
    more.restore(old.state(), shared("abcd", "abc"))
    lost = np.zeros(2)
    for first in range(0, len(y), 300):
        for k, (each, rows) in enumerate(((old, links), (more, wide))):
            part = slice(first, first + 300)
            lost[k] += task.loss(task.output(each.combine(rows[part]))[:, None], y[part]).sum()
            each.update(rows[part], y[part], w[part])
    assert lost[1] < lost[0] * 1.02


@ANY
def test_a_good_one_that_joins_is_counted_in_the_means(task: Task) -> None:
    """As soon as its share is more than theirs; until then they are what they were without it."""
    rng = np.random.default_rng(3)
    old, links, y, w = learned(task, 200, 10)
    knows = {
        "number": lambda: y[:, None],
        "binary": lambda: (8 * y - 4)[:, None],
        "classes": lambda: 6 * np.eye(task.k)[y.astype(int)],
    }
    truth = knows[task.type]()
    good = truth + 0.1 * rng.normal(size=truth.shape)
    wide = np.concatenate([links[:, :3], good[:, None]], axis=1)
    more = combiner("stack", 4, 0, task)
    more.restore(old.state(), shared("abcd", "abc"))
    joined = np.isposinf(more.state()["first"].reshape(4, -1)[:, 0])
    assert joined.tolist() == [False, False, False, True]
    more.update(wide, y, w)
    state = more.state()
    assert np.isfinite(state["first"].reshape(4, -1)[3, 0])
    assert state["shares"][6] > state["shares"][1] + state["shares"][2]


@ANY
def test_nobody_joins_those_that_have_not_learned(task: Task) -> None:
    """All begin together: the first labels find the same combiner as of a new ensemble."""
    links, y, w = stream(task, 200, 3, 11)
    more, new = combiner("stack", 3, 0, task), combiner("stack", 3, 0, task)
    more.restore(combiner("stack", 2, 0, task).state(), shared("abc", "ab"))
    assert np.isnan(more.state()["first"]).all()
    for each in (more, new):
        each.update(links, y, w)
    assert np.isfinite(more.state()["first"]).all()


def test_a_combiner_of_other_classes_does_not_fit() -> None:
    """Intercepts of three classes are not those of two."""
    two = Classes(["a", "b"])
    with pytest.raises(StateError):
        combiner("stack", 2, 0, two).restore(
            combiner("stack", 2, 0, THREE).state(), shared("ab", "ab")
        )


def test_a_combiner_that_cannot_do_the_target_is_refused_with_those_that_can() -> None:
    """AdaBoost has no votes on numbers."""
    with pytest.raises(KeyError, match=r"expected one of mean_logit.*got 'boosting'"):
        combiner("boosting", 2, 0, NUMBER)

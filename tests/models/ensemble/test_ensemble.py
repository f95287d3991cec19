"""The ensemble: combiners against references, member failures, freezing, saving."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.base import F64, FeatureBatch, FeatureSchema, Model, Parameter, State, StateError
from models.ensemble.combine import COMBINERS, combiner
from models.ensemble.ensemble import Ensemble, MemberError
from models.links import sigmoid
from stream.settings import schema

SCHEMA = FeatureSchema(("a",))


class Column(Model):
    """Gives its factor times the one column; learns by counting; fails where told to."""

    def __init__(self, factor: float = 1.0, broken: str = "") -> None:
        self.factor = factor
        self.broken = broken
        self.learned: list[tuple[float, float, float]] = []

    def score(self, x: FeatureBatch) -> F64:
        if self.broken == "score":
            raise ZeroDivisionError("on purpose")
        return x.dense.astype(np.float64) * self.factor

    def learn(self, x: FeatureBatch, y: F64, w: F64) -> None:
        if self.broken == "learn":
            raise ZeroDivisionError("on purpose")
        self.learned += zip(x.dense[:, 0].tolist(), y.tolist(), w.tolist(), strict=True)

    def parameters(self) -> Sequence[Parameter]:
        return [Parameter("factor", "hyper", (), "float64", 1, 8, trainable=False)]

    def state(self) -> State:
        return {"learned": [list(row) for row in self.learned]}

    def restore(self, state: State) -> None:
        self.learned = [tuple(row) for row in state["learned"]]


def batch(values: Any) -> FeatureBatch:
    """One dense column."""
    dense = np.asarray(values, dtype=np.float32).reshape(-1, 1)
    return FeatureBatch(SCHEMA, dense, np.zeros((len(dense), 0), np.uint32))


def labelled(n: int, m: int, seed: int = 0) -> tuple[F64, F64, F64]:
    """Logits of ``m`` members of falling skill, truths, weights of 1."""
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.3).astype(float)
    skill = np.linspace(2.0, 0.0, m)
    links = (2 * y[:, None] - 1) * skill + rng.normal(0, 1.5, (n, m)) - 0.5
    return links[:, :, None], y, np.ones(n)


def sigma(z: Any) -> Any:
    """The logistic function, plainly."""
    return 1 / (1 + np.exp(-np.asarray(z, dtype=np.float64)))


def said_in_order(name: str, links: F64, y: F64, w: F64) -> F64:
    """What the combiner of that name says of each row before it learns it."""
    made = combiner(name, links.shape[1], 0)
    z = np.empty(len(y))
    for i in range(len(y)):
        z[i] = made.combine(links[i : i + 1])[0, 0]
        made.update(links[i : i + 1], y[i : i + 1], w[i : i + 1])
    return z


class ReferenceStack:
    """The stack in plain numpy, as its docstring says it."""

    def __init__(self, m: int) -> None:
        self.m, self.w, self.b = m, np.full(m, 1 / m), 0.0
        self.squares = np.zeros(m + 2)
        self.bent, self.begun = (
            np.append(self.w, np.zeros(m + 1)),
            np.repeat([0.03, 1, 0.1], (m, m, 1)),
        )
        self.variance = np.diag(self.begun)
        self.shares = np.full(m + 4, 1 / (m + 4))
        self.first: F64 | None = None

    def readings(self, z: F64) -> F64:
        return np.array([*z, *(z / (1 + 2 * abs(z))), 1.0])

    def experts(self, z: F64) -> F64:
        odds = sigma(z).mean() / sigma(-z).mean()
        bent = self.bent @ self.readings(z)
        return np.array([z @ self.w + self.b, z.mean(), math.log(odds), *z, bent])

    def combine(self, z: F64) -> float:
        experts = self.experts(z)
        return math.log(self.shares @ sigma(experts) / (self.shares @ sigma(-experts)))

    def update(self, z: F64, y: float, w: float) -> None:
        if self.first is None:
            self.first = z
        if (z == self.first).all():
            return
        experts = self.experts(z)
        p = sigma(experts)
        posterior = self.shares * (p if y else sigma(-experts)) ** w
        posterior /= posterior.sum()
        self.shares = (1 - 1e-4) * posterior + 1e-4 / (self.m + 4)
        gradient = (p[0] - y) * w * np.array([*(z - z.mean()), z.mean(), 1.0])
        self.squares += gradient**2
        step = 0.05 * gradient / np.sqrt(np.where(self.squares > 0, self.squares, 1.0))
        self.w -= step[:-2] + (step[-2] - step[:-2].sum()) / self.m
        self.b -= step[-1]
        # The filter as its source has it: the information that the row brings, then the step.
        x, curvature = self.readings(z), w * p[-1] * (1 - p[-1])
        self.variance = np.linalg.inv(np.linalg.inv(self.variance) + curvature * np.outer(x, x))
        self.bent = self.bent - self.variance @ x * (w * (p[-1] - y))
        known = self.variance.diagonal() < self.begun
        self.variance = self.variance + np.diag(np.where(known, 1e-3 * self.begun, 0.0))


@settings(max_examples=15)
@given(m=st.integers(1, 6), seed=st.integers(0, 1000))
def test_stack_equals_its_reference(m: int, seed: int) -> None:
    """The compiled stack gives the reference's logits and weights to 1e-12, with weights other
    than 1."""
    links, y, w = labelled(600, m, seed)
    w = np.where(np.arange(600) % 5 == 0, 2.5, w)
    stack, reference = combiner("stack", m, 0), ReferenceStack(m)
    expected = []
    for i in range(600):
        expected.append(reference.combine(links[i, :, 0]))
        reference.update(links[i, :, 0], y[i], w[i])
    got = []
    for i in range(0, 600, 7):
        for row in range(i, min(i + 7, 600)):
            got.append(float(stack.combine(links[row : row + 1])[0, 0]))
            stack.update(links[row : row + 1], y[row : row + 1], w[row : row + 1])
    assert np.allclose(got, expected, rtol=0, atol=1e-12)
    state = stack.state()
    assert np.allclose(state["weights"], np.append(reference.w, reference.b), rtol=0, atol=1e-12)
    assert np.allclose(state["shares"], reference.shares, rtol=0, atol=1e-12)
    assert np.allclose(state["bent"], reference.bent, rtol=0, atol=1e-10)
    assert np.allclose(state["variance"], reference.variance, rtol=0, atol=1e-10)


def test_the_stack_loses_to_no_expert_by_more_than_its_bound() -> None:
    """After each label the sum of log losses is within ``log(m + 4)``, and what dealing out costs,
    of that of each member and of the mean."""
    links, y, w = labelled(1001, 3, 7)
    z = said_in_order("stack", links, y, w)
    sign = 2 * y[1:] - 1  # the first row of all teaches nothing
    ours = np.logaddexp(0, -sign * z[1:]).cumsum()
    bound = math.log(7) - np.arange(1, 1001) * math.log(1 - 1e-4)
    for said in (*links[1:, :, 0].T, links[1:, :, 0].mean(axis=1)):
        assert (ours <= np.logaddexp(0, -sign * said).cumsum() + bound).all()


@pytest.mark.parametrize("lag", [0, 48])
def test_the_stack_is_as_right_as_its_best_member_in_every_window(lag: int) -> None:
    """From the first label on, and after the best becomes the worst: in 1,000 rows at most 10 fewer
    are told right than by who was best there, with labels at once and late."""
    rng = np.random.default_rng(0)
    n, turn = 6000, 3000
    y = (rng.random(n) < 0.4).astype(float)
    skill = np.where(np.arange(n)[:, None] < turn, [2.0, 1.0, 0.3], [0.3, 1.0, 2.0])
    links = ((2 * y[:, None] - 1) * skill + rng.normal(0, 1.2, (n, 3)))[:, :, None]
    stack, z = combiner("stack", 3, 0), np.empty(n)
    for i in range(n):
        z[i] = stack.combine(links[i : i + 1])[0, 0]
        known = slice(i - lag, i - lag + 1) if i >= lag else slice(0)
        stack.update(links[known], y[known], np.ones(len(y[known])))
    said = np.column_stack([z, links[:, :, 0]])
    right = ((said > 0) == (y[:, None] > 0)).reshape(6, 1000, 4).sum(axis=1)
    assert (right[:, 0] >= right[:, 1:].max(axis=1) - 10).all()


def test_a_member_that_knows_the_boundary_and_not_how_sure_to_be_is_made_use_of() -> None:
    """A tenth of the labels are wrong, and one member is a straight line through the truth's
    margin: the sum of log losses is that of who knows how often it is right, within a tenth; of the
    line itself and of any multiple of it, it is a third more."""
    rng = np.random.default_rng(0)
    margin = rng.normal(0.0, 3.0, 4000)
    y = ((margin > 0) != (rng.random(4000) < 0.1)).astype(float)
    links = np.column_stack([margin, rng.normal(0.0, 1.0, 4000)])[:, :, None]
    z, sign = said_in_order("stack", links, y, np.ones(4000)), 2 * y - 1
    ours = np.logaddexp(0, -sign * z).sum()
    known = np.logaddexp(0, -sign * np.sign(margin) * math.log(9)).sum()
    lines = [np.logaddexp(0, -sign * margin * slope).sum() for slope in np.linspace(0.1, 2, 20)]
    assert known < ours < 1.1 * known
    assert min(lines) > 1.2 * known


def test_members_that_say_nearly_the_same_are_told_apart_soon() -> None:
    """Two that differ by a tenth of what both say: within 2,000 labels most of the weight is with
    the one that knows; along the logits themselves it was not."""
    rng = np.random.default_rng(0)
    common, own = rng.normal(-3.0, 1.0, 2000), rng.normal(0.0, 0.3, 2000)
    y = (rng.random(2000) < sigma(common + 3.0 * own)).astype(float)
    links = np.column_stack([common + own, common - own])[:, :, None]
    stack = combiner("stacking", 2, 0)
    stack.update(links, y, np.ones(2000))
    right, wrong = stack.weights()
    assert right - wrong > 1.5


@pytest.mark.parametrize("name", ["stack", "stacking"])
def test_what_was_scored_before_members_learned_teaches_the_stack_nothing(name: str) -> None:
    """Rows with the logits of fresh members change nothing, whenever their labels come."""
    links, y, w = labelled(300, 2)
    blank = np.full((300, 2, 1), -2.5)
    late, without = combiner(name, 2, 0), combiner(name, 2, 0)
    for part in (slice(0, 150), slice(150, 300)):
        late.update(blank[part], y[part], w[part])
        late.update(links[part], y[part], w[part])
    without.update(blank[:1], y[:1], w[:1])
    without.update(links, y, w)
    assert late.state().keys() == without.state().keys()
    for key, value in late.state().items():
        assert (value == without.state()[key]).all()


def test_stack_beats_the_mean_when_a_member_is_noise() -> None:
    """With one good member among noise the stack's log loss is below the mean logit's."""
    links, y, w = labelled(4000, 4)
    loss = {}
    for name in ("stack", "stacking", "mean_logit"):
        z = said_in_order(name, links, y, w)
        loss[name] = np.logaddexp(0, -(2 * y - 1) * z)[500:].mean()
    assert loss["stack"] < 0.9 * loss["mean_logit"]
    assert loss["stacking"] < 0.9 * loss["mean_logit"]


def test_stacking_is_the_stack_expert_alone() -> None:
    """Plain stacking is an AdaGrad logistic regression over the logits, and no share moves."""
    links, y, w = labelled(300, 2)
    stacking = combiner("stacking", 2, 0)
    stacking.update(links, y, w)
    state = stacking.state()
    assert state["shares"].tolist() == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    z = links[:, :, 0] @ state["weights"][:-1] + state["weights"][-1]
    assert np.allclose(stacking.combine(links)[:, 0], z, rtol=0, atol=1e-12)


def test_fixed_combiners_follow_their_formulas() -> None:
    """Mean logit, mean probability and majority vote are what their names say."""
    links = np.array([[[1.0], [-2.0], [0.5]], [[3.0], [1.0], [-0.1]]])
    p = sigma(links).mean(axis=1)
    assert np.allclose(combiner("mean_logit", 3, 0).combine(links), links.mean(axis=1))
    assert np.allclose(sigma(combiner("mean_probability", 3, 0).combine(links)), p)
    votes = sigma(combiner("majority_vote", 3, 0).combine(links))
    assert np.allclose(votes, [[2.5 / 4], [2.5 / 4]])


def test_weighted_vote_follows_littlestone_and_warmuth() -> None:
    """Votes are multiplied by beta to the loss, scaled to sum 1, and shared by alpha."""
    links, y, w = labelled(50, 3)
    vote = combiner("weighted_vote", 3, 0)
    v = np.full(3, 1 / 3)
    for z, truth in zip(links[:, :, 0], y, strict=True):
        v = v * 0.9 ** np.abs(sigma(z) - truth)
        v = (1 - 1e-4) * v / v.sum() + 1e-4 / 3
    vote.update(links, y, w)
    assert np.allclose(vote.weights(), v, rtol=0, atol=1e-12)
    assert np.allclose(sigma(vote.combine(links)[:, 0]), sigma(links[:, :, 0]) @ v)
    assert vote.weights()[0] > vote.weights()[2]


def test_bagging_draws_poisson_weights_that_ignore_how_batches_are_cut() -> None:
    """Weights have mean and variance 1, differ between members, and depend on the row's number."""
    bagging = combiner("bagging", 3, 7)
    whole = bagging.member_weights(0, np.ones(20_000))
    cut = [bagging.member_weights(i, np.ones(5_000)) for i in range(0, 20_000, 5_000)]
    assert (whole == np.concatenate(cut)).all()
    assert np.allclose(whole.mean(axis=0), 1, atol=0.03)
    assert np.allclose(whole.var(axis=0), 1, atol=0.05)
    assert abs(np.corrcoef(whole[:, 0], whole[:, 1])[0, 1]) < 0.03
    assert (combiner("bagging", 3, 8).member_weights(0, np.ones(100)) != whole[:100]).any()


@pytest.mark.parametrize("name", sorted(COMBINERS))
def test_batches_may_be_cut_anywhere(name: str) -> None:
    """Rows learned and scored one by one, or at once, give the same bits."""
    links, y, w = labelled(400, 3)
    one, many = combiner(name, 3, 0), combiner(name, 3, 0)
    many.update(links, y, w)
    for i in range(400):
        one.update(links[i : i + 1], y[i : i + 1], w[i : i + 1])
    each = [one.combine(links[i : i + 1])[0].tolist() for i in range(400)]
    assert each == many.combine(links).tolist()


@pytest.mark.parametrize("name", sorted(COMBINERS))
def test_a_restored_ensemble_goes_on_bit_for_bit(name: str) -> None:
    """Saved and restored in the middle of the stream: same logits, same digest."""
    links, y, w = labelled(900, 2)
    x = batch(links[:, 0])

    def build() -> Ensemble:
        return Ensemble({"a": Column(), "b": Column(-0.5)}, name, 3, {"b": 2})

    straight, saved = build(), build()
    for i in range(0, 900, 100):
        part = slice(i, i + 100)
        for e in (straight, saved):
            e.learn(x.take(part), links[part], y[part], w[part])
        state, saved = saved.state(), build()
        saved.restore(state)
    assert straight.digest() == saved.digest()
    assert (straight.score(x)[1] == saved.score(x)[1]).all()


@pytest.mark.parametrize("name", sorted(COMBINERS))
def test_extreme_logits_stay_finite(name: str) -> None:
    """Members at the ends of float64 do not make the ensemble infinite."""
    c = combiner(name, 2, 0)
    links = np.array([[1e6, 1e6], [-1e6, 1e6], [-1e6, -1e6]])[:, :, None]
    for y in (0.0, 1.0):
        c.update(links, np.full(3, y), np.ones(3))
        assert np.isfinite(c.combine(links)).all()
        assert np.isfinite(c.weights()).all()


def teach(e: Ensemble, y: float = 1.0) -> None:
    """Let the members learn one row."""
    e.learn(batch([0.0]), np.zeros((1, len(e.names), 1)), np.array([y]), np.ones(1))


def test_a_cold_ensemble_says_the_share_learned_so_far() -> None:
    """While no member that counts has learned a row, the score is the prior, whatever they say."""
    e = Ensemble({"a": Column(1.0), "b": Column(3.0)}, "mean_logit")
    assert e.cold
    assert e.score(batch([5.0]))[1].tolist() == [[0.0]]
    for name in e.names:
        e.freeze(name)
    for y in (0.0, 0.0, 1.0):
        teach(e, y)
    assert e.cold
    assert e.prior.output().tolist() == [1.5 / 4]
    assert sigmoid(e.score(batch([5.0]))[1])[0] == pytest.approx([1.5 / 4])
    e.release("a")
    teach(e)
    assert not e.cold
    assert e.score(batch([1.0]))[1].tolist() == [[2.0]]
    e.quarantine("a")
    assert e.cold  # the other one has learned nothing


def test_a_member_that_begins_anew_is_cold_again() -> None:
    """Renewed, the only member leaves the ensemble cold; promoted, a challenger has learned."""
    e = Ensemble({"a": Column()}, "mean_logit", prior=0.25)
    e.fresh = lambda name, number: Column()
    teach(e)
    e.challenge("a", 1)
    e.renew("a", 2)
    assert e.cold
    assert sigmoid(e.score(batch([9.0]))[1])[0] == pytest.approx([0.25])
    e.promote("a", 1)
    assert not e.cold


def test_cold_goes_with_the_state() -> None:
    """A restored ensemble is as cold as the one that was saved, with the same prior."""
    one, other = (Ensemble({"a": Column()}, "mean_logit") for _ in range(2))
    teach(one)
    other.restore(one.state())
    assert (other.cold, one.cold) == (False, False)
    assert other.prior.output() == one.prior.output() == [0.75]


def test_scores_are_columns_by_member() -> None:
    """``score`` gives each member's logits in the order of the names, and one combined logit."""
    e = Ensemble({"a": Column(1.0), "b": Column(3.0)}, "mean_logit")
    teach(e)
    links, logit = e.score(batch([1.0, -2.0]))
    assert e.names == ("a", "b")
    assert links.tolist() == [[[1.0], [3.0]], [[-2.0], [-6.0]]]
    assert logit.tolist() == [[2.0], [-4.0]]


def test_a_frozen_member_scores_but_does_not_learn() -> None:
    """Freezing stops learning until release; scoring goes on."""
    a, b = Column(), Column()
    e = Ensemble({"a": a, "b": b}, "mean_logit")
    e.freeze("a")
    assert e.frozen == {"a"}
    e.learn(batch([1.0]), np.zeros((1, 2, 1)), np.ones(1), np.ones(1))
    e.release("a")
    e.learn(batch([2.0]), np.zeros((1, 2, 1)), np.ones(1), np.ones(1))
    assert [row[0] for row in a.learned] == [2.0]
    assert [row[0] for row in b.learned] == [1.0, 2.0]


def test_learn_every_takes_each_nth_row_however_batches_are_cut() -> None:
    """A member with ``learn_every = 3`` learns rows 0, 3, 6, ... of all labelled rows."""
    slow = Column()
    e = Ensemble({"slow": slow}, "mean_logit", learn_every={"slow": 3})
    for cut in ([0, 1], [2, 3, 4, 5], [6], [7, 8, 9]):
        n = len(cut)
        e.learn(batch(cut), np.zeros((n, 1, 1)), np.ones(n), np.ones(n))
    assert [row[0] for row in slow.learned] == [0, 3, 6, 9]


def test_a_member_that_raises_in_score_is_named_and_can_be_left_out() -> None:
    """The error names the member; in quarantine its column is the mean of the others."""
    e = Ensemble({"a": Column(1.0), "bad": Column(broken="score"), "b": Column(3.0)}, "mean_logit")
    with pytest.raises(MemberError, match="member 'bad' failed to score 1 row") as caught:
        e.score(batch([1.0]))
    assert caught.value.member == "bad"
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    e.quarantine("bad")
    teach(e)
    links, logit = e.score(batch([1.0]))
    assert links.tolist() == [[[1.0], [2.0], [3.0]]]
    assert logit.tolist() == [[2.0]]


def test_a_member_that_raises_in_learn_does_not_stop_the_others() -> None:
    """The error is handed back; members before and after it learn the rows."""
    first, last = Column(), Column()
    e = Ensemble({"first": first, "bad": Column(broken="learn"), "last": last}, "stack")
    errors = e.learn(batch([1.0]), np.zeros((1, 3, 1)), np.ones(1), np.ones(1))
    assert [error.member for error in errors] == ["bad"]
    assert first.learned == last.learned == [(1.0, 1.0, 1.0)]
    e.quarantine("bad")
    assert e.learn(batch([1.0]), np.zeros((1, 3, 1)), np.ones(1), np.ones(1)) == []


def test_a_score_that_is_not_finite_is_an_error() -> None:
    """A nan never reaches the combiner: the row is named."""
    e = Ensemble({"a": Column(float("nan"))}, "mean_logit")
    with pytest.raises(MemberError, match="got nan in row 0"):
        e.score(batch([1.0]))


def test_all_members_in_quarantine_score_zero() -> None:
    """Without any member left the ensemble says 0.5 rather than nothing."""
    e = Ensemble({"a": Column()}, "mean_probability")
    e.quarantine("a")
    assert e.score(batch([3.0]))[1].tolist() == [[0.0]]


def learned(names: str, combine: str, n: int = 900) -> Ensemble:
    """An ensemble of columns of falling skill that learned ``n`` rows."""
    e = Ensemble({name: Column(1.0 - 0.1 * j) for j, name in enumerate(names)}, combine, 5)
    links, y, w = labelled(n, len(names), 4)
    e.learn(batch(links[:, 0]), links, y, w)
    return e


@pytest.mark.parametrize("combine", sorted(COMBINERS))
def test_members_keep_what_they_know_in_another_order(combine: str) -> None:
    """Columns go by name: the same members in another order score and weigh the same."""
    old = learned("abc", combine)
    old.freeze("a")
    old.quarantine("b")
    new = Ensemble({name: Column() for name in "cab"}, combine, 5)
    new.restore(old.state())
    links = labelled(50, 3, 9)[0]
    places = [2, 0, 1]
    assert np.allclose(
        new.combiner.combine(links[:, places]), old.combiner.combine(links), rtol=0, atol=1e-12
    )
    assert (new.weights() == old.weights()[places]).all()
    assert (new.frozen, new.quarantined) == ({"a"}, {"b"})
    assert all(new.members[n].state() == old.members[n].state() for n in "abc")


@pytest.mark.parametrize("combine", ["stack", "stacking", "weighted_vote", "boosting"])
def test_a_new_member_has_no_weight_and_earns_it(combine: str) -> None:
    """It changes no weight of the others; on rows it scored, being right raises its own."""
    old = learned("ab", combine)
    new = Ensemble({name: Column() for name in "axb"}, combine, 5)
    new.restore(old.state())
    assert np.allclose(new.weights()[[0, 2]], old.weights(), rtol=0, atol=0.05)
    assert new.weights()[1] < 0.05 * old.weights().max()
    links, y, w = labelled(3000, 3, 6)
    links[:, 1, 0] = 6 * y - 3
    new.learn(batch(links[:, 0]), links, y, w)
    assert new.weights()[1] > 0.2 * new.weights().max()


@pytest.mark.parametrize("combine", sorted(COMBINERS))
def test_rows_that_a_member_did_not_score_say_nothing_about_it(combine: str) -> None:
    """They teach the others what they would without that member, and it stays without weight."""
    old = learned("ab", combine)
    new = Ensemble({name: Column() for name in "abx"}, combine, 5)
    new.restore(old.state())
    links, y, w = labelled(400, 2, 7)
    silent = np.concatenate([links, np.full((400, 1, 1), np.nan)], axis=1)
    before = new.weights()[2]
    old.learn(batch(links[:, 0]), links, y, w)
    new.learn(batch(links[:, 0]), silent, y, w)
    if combine in ("stack", "stacking", "boosting"):  # weighted votes deal out alpha / m to each
        ours, theirs = new.combiner.state(), old.combiner.state()
        for key in {"weights", "right", "wrong"} & set(ours):
            others = np.delete(ours[key], 2)
            assert np.allclose(others, theirs[key], rtol=0, atol=1e-12)
    if new.combiner.parameters():
        assert new.weights()[2] <= before + 0.05
    assert np.isfinite(new.combiner.combine(np.nan_to_num(silent))).all()


def test_a_member_that_leaves_the_stack_is_as_one_in_quarantine() -> None:
    """Its weight and share go where the mean of the others would be: the scores are the same."""
    links = labelled(50, 3, 9)[0]
    links[:, 1] = links[:, [0, 2]].mean(axis=1)
    # The mean probability, one expert of the shared stack, is no linear one.
    for combine, tolerance in (("stacking", 1e-12), ("stack", 0.3)):
        old = learned("abc", combine, 4000)
        new = Ensemble({"a": Column(), "c": Column()}, combine, 5)
        new.restore(old.state())
        got, expected = new.combiner.combine(links[:, [0, 2]]), old.combiner.combine(links)
        assert np.allclose(got, expected, rtol=0, atol=tolerance)
        assert math.fsum(new.combiner.state()["shares"]) == pytest.approx(1, abs=1e-12)


def test_constant_members_do_not_keep_the_stack_from_learning() -> None:
    """Rows of a new member count as soon as it says other things, beside one that never does."""
    old = learned("ab", "stack", 400)
    new = Ensemble({"x": Column(), "b": Column()}, "stack", 5)
    state = old.state()
    state["combiner"]["first"][1] = -2.0
    new.restore(state)
    links, y, w = labelled(300, 2, 8)
    links[:, 1] = -2.0
    new.learn(batch(links[:, 0]), links, y, w)
    assert new.combiner.state()["weights"][0] != 0


def test_a_state_that_does_not_fit_is_refused() -> None:
    """A combiner of another kind and a format of another time are named."""
    state = learned("ab", "weighted_vote").state()
    with pytest.raises(StateError, match=r"combiner\.weights: expected an array"):
        Ensemble({"a": Column(), "b": Column()}, "stack").restore(state)
    with pytest.raises(StateError, match="ensemble: expected format 1, got 7"):
        Ensemble({"a": Column()}, "stack").restore(state | {"format": 7})


def test_without_a_combiner_in_the_state_it_starts_new() -> None:
    """The members go on, and nothing is believed of their weights."""
    state = learned("ab", "stack").state()
    del state["combiner"]
    new = Ensemble({"a": Column(), "b": Column()}, "weighted_vote")
    new.restore(state)
    assert new.weights().tolist() == [0.5, 0.5]
    assert len(new.members["a"].state()["learned"]) == 900


def test_parameters_come_by_member_and_combiner() -> None:
    """The combiner's table stands under ``ensemble`` and counts what its state holds."""
    e = Ensemble({"a": Column(), "b": Column()}, "stack")
    tables = e.parameters()
    assert list(tables) == ["a", "b", "ensemble"]
    state = e.combiner.state()
    assert sum(row.count for row in tables["ensemble"]) == sum(a.size for a in state.values())


def test_an_unknown_combiner_is_named_with_the_known_ones() -> None:
    """The error lists what could have been meant."""
    with pytest.raises(KeyError, match=r"mean_logit.*got 'median'"):
        combiner("median", 2, 0)


def test_the_configuration_names_every_combiner() -> None:
    """What can be built can be configured, and nothing else."""
    names = get_args(schema.EnsembleSettings.model_fields["combine"].annotation)
    assert sorted(names) == sorted(COMBINERS)


def test_boosting_passes_rows_on_as_adaboost_does() -> None:
    """Weights of right and wrong rows equal a plain loop of Oza and Russell's algorithm."""
    rng = np.random.default_rng(5)
    links = rng.normal(size=(400, 3))
    y = (links[:, 1] + rng.normal(size=400) > 0).astype(float)
    ours = combiner("boosting", 3, seed=9)
    right, wrong = np.zeros(3), np.zeros(3)
    for start in range(0, 400, 7):
        part = slice(start, start + 7)
        ours.update(links[part, :, None], y[part], np.ones(len(y[part])))
        for link, truth in zip(links[part], y[part], strict=True):
            weight = 1.0
            for j in range(3):
                if (link[j] > 0) == (truth > 0):
                    right[j] += weight
                    weight *= (right[j] + wrong[j]) / (2 * right[j])
                else:
                    wrong[j] += weight
                    weight *= (right[j] + wrong[j]) / (2 * wrong[j])
                weight = min(weight, 10.0)
    state = ours.state()
    np.testing.assert_allclose(state["right"], right, rtol=1e-12)
    np.testing.assert_allclose(state["wrong"], wrong, rtol=1e-12)
    assert ours.weights().argmax() == 1


def test_boosting_draws_do_not_depend_on_batches() -> None:
    """One call or many: the same rows are learned with the same whole weights."""
    rng = np.random.default_rng(6)
    links, y = rng.normal(size=(60, 2, 1)), rng.integers(0, 2, 60).astype(float)
    whole, parts = combiner("boosting", 2, seed=1), combiner("boosting", 2, seed=1)
    whole.update(links, y, np.ones(60))
    expected = whole.member_weights(0, np.ones(60))
    got = []
    for i in range(60):
        parts.update(links[i : i + 1], y[i : i + 1], np.ones(1))
        got.append(parts.member_weights(i, np.ones(1))[0])
    assert (np.array(got) == expected).all()
    assert (expected == expected.round()).all()
    assert 0.5 < expected.mean() < 2.0

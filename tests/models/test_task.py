"""Tests of what a target is: how truths are read, what links say, what a score costs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import log_loss

from models.base import FeatureSchema, StateError, state_digest
from models.links import logit, sigmoid, softmax
from models.members.catalogue import MEMBERS, UnknownMember, build, member_class
from models.task import BINARY, Binary, Classes, Number, Task

SCHEMA = FeatureSchema(("a",))
COLOURS = Classes(["red", "green", "blue"], {"1": "red"})
MINUTES = Number(low=0.0, high=90.0, unit="minutes")


@pytest.mark.parametrize(
    ("task", "value", "y"),
    [
        (BINARY, True, 1.0),
        (BINARY, 0, 0.0),
        (BINARY, "true", 1.0),
        (BINARY, "yes", math.nan),
        (BINARY, 1.0, math.nan),
        (Binary({"Y": 1, "N": 0}), "N", 0.0),
        (COLOURS, "blue", 2.0),
        (COLOURS, 1, 0.0),
        (COLOURS, "Blue", math.nan),
        (COLOURS, True, math.nan),
        (MINUTES, 12, 12.0),
        (MINUTES, "12.5", 12.5),
        (MINUTES, 90.5, math.nan),
        (MINUTES, -0.1, math.nan),
        (MINUTES, True, math.nan),
        (MINUTES, "soon", math.nan),
        (Number(), float("inf"), math.nan),
    ],
)
def test_a_value_is_a_truth_or_none(task: Task, value: Any, y: float) -> None:
    """What a label says is read by the target, never by guess."""
    np.testing.assert_equal(task.truth(value), y)


def test_the_error_can_say_what_was_expected() -> None:
    """In the words of the configuration."""
    assert BINARY.expected == "one of true, false, 1, 0"
    assert COLOURS.expected == "one of red, green, blue, 1"
    assert Classes(["red"], most=2).expected == "a class, named by 1..80 characters"
    assert MINUTES.expected == "a number of minutes in 0..90"
    assert Number().expected == "a number"


def test_an_open_target_takes_classes_up_to_the_most() -> None:
    """Each has the next column for good; it has a probability once all have caught up."""
    task = Classes(["red"], {"1": "blue"}, most=3)
    assert [task.newcomer(v) for v in (1, "green", True, "")] == ["blue", "green", "true", None]
    assert [task.enter(name) for name in ("green", "red", "blue", "green")] == [1.0, 0.0, 2.0, 1.0]
    assert math.isnan(task.enter("grey"))
    links = np.zeros((2, 3))
    np.testing.assert_array_equal(task.output(task.heard(links)), [[1.0, 0.0, 0.0]] * 2)
    assert task.catch_up() == ("green", "blue")
    assert task.catch_up() == ()
    np.testing.assert_allclose(task.output(task.heard(links)), np.full((2, 3), 1 / 3))
    assert (task.truth(1), task.named(2.0)) == (2.0, "blue")


def test_before_any_class_is_known_nothing_is_said() -> None:
    """No probability, no prediction, no share; and no warning of a division by nothing."""
    task = Classes([], most=2)
    output = task.output(task.heard(np.zeros((1, 2))))
    np.testing.assert_array_equal(output, [[0.0, 0.0]])
    np.testing.assert_array_equal(task.prior().output(), [0.0, 0.0])
    assert math.isnan(task.predicted(output)[0])
    assert task.score(output).tolist() == [0.0]


def test_shares_of_the_prior_are_those_of_the_classes_known() -> None:
    """Half a row for each of them, none for those to come."""
    task = Classes(["red"], most=9)
    prior = task.prior()
    task.enter("green")
    prior.learn(np.array([0.0, 0.0, 1.0]), np.ones(3))
    assert prior.output().tolist() == [1.0, *[0.0] * 8]
    task.catch_up()
    np.testing.assert_allclose(prior.output(), [2.5 / 4, 1.5 / 4, *[0.0] * 7])


def test_truths_are_counted_and_named_for_people() -> None:
    """What an evaluation says of the rows that it judged."""
    assert BINARY.counted(np.array([1.0, 0.0, 1.0])) == {"positives": 2}
    assert COLOURS.counted(np.array([2.0, 2.0])) == {"classes": {"red": 0, "green": 0, "blue": 2}}
    assert MINUTES.counted(np.array([1.0, 3.0]))["truths"]["mean"] == 2.0
    assert MINUTES.counted(np.empty(0)) == {}
    assert [BINARY.word(0.0), COLOURS.word(1.0), MINUTES.word(2.5)] == [
        *("negative", "green", "2.5 minutes")
    ]


def test_most_members_decide() -> None:
    """By yes or no, by their likeliest class, by the median."""
    yes = BINARY.output(BINARY.majority(np.array([[[0.1], [2.0], [-5.0]]])))
    np.testing.assert_allclose(yes, [[2.5 / 4]])
    links = np.array([[[1.0, 0.0, 0.0], [0.0, 2.0, 1.0], [0.0, 9.0, 0.0]]])
    np.testing.assert_allclose(COLOURS.output(COLOURS.majority(links)), [[4 / 12, 7 / 12, 1 / 12]])
    assert MINUTES.majority(np.array([[[1.0], [50.0], [3.0]]])).tolist() == [[3.0]]


def test_errors_are_within_0_and_1_whatever_the_unit() -> None:
    """Of who made none they are nan; who is as far off as the members' mean errs by a half."""
    y = np.array([1.0, 0.0])
    p = np.array([[[0.9], [np.nan]], [[0.9], [0.2]]])
    np.testing.assert_allclose(BINARY.error(p, y), [[0.1, np.nan], [0.9, 0.2]])
    two = np.array([[[0.2, 0.3, 0.5]], [[0.2, 0.3, 0.5]]])
    np.testing.assert_allclose(COLOURS.error(two, y), [[0.7], [0.8]])
    for unit in (1e-6, 1e6):
        said = unit * np.array([[[10.0], [30.0], [20.0]], [[0.0], [0.0], [np.nan]]])
        found = Number().error(said, np.zeros(2))
        np.testing.assert_allclose(found, [[1 / 3, 0.6, 0.5], [0.0, 0.0, np.nan]])


def test_truths_are_told_in_the_words_of_the_target() -> None:
    """What a score record says of a prediction."""
    assert [BINARY.named(1.0), COLOURS.named(2.0), MINUTES.named(3.5)] == [1, "blue", 3.5]


@given(arrays(np.float64, (4, 3), elements=st.floats(-25, 25)))
def test_links_and_outputs_undo_each_other(links: Any) -> None:
    """A binary's and a number's exactly, those of classes up to a constant."""
    for task in (BINARY, Number()):
        one = links[:, :1]
        np.testing.assert_allclose(task.link(task.output(one)), one, atol=2e-5)
    p = COLOURS.output(links)
    np.testing.assert_allclose(p.sum(axis=1), 1.0)
    back = COLOURS.output(COLOURS.link(p))
    np.testing.assert_allclose(back, p, atol=1e-12)


def test_two_classes_are_a_binary() -> None:
    """The softmax of ``(0, z)`` is the sigmoid of ``z``."""
    z = np.linspace(-40, 40, 81)
    np.testing.assert_allclose(softmax(np.stack([0 * z, z], axis=1))[:, 1], sigmoid(z))
    assert np.isfinite(logit(sigmoid(z))).all()


def test_a_binary_costs_its_log_loss() -> None:
    """As scikit-learn has it."""
    p, y = np.array([0.1, 0.9, 0.6]), np.array([0.0, 1.0, 0.0])
    losses = BINARY.loss(p[:, None, None], y)
    assert losses.shape == (3, 1)
    assert losses.mean() == pytest.approx(log_loss(y, p))


def test_classes_cost_their_log_loss() -> None:
    """As scikit-learn has it."""
    p = softmax(np.array([[0.3, -1.0, 2.0], [5.0, 0.0, 0.0]]))
    losses = COLOURS.loss(p[:, None, :], np.array([2.0, 1.0]))
    assert losses.mean() == pytest.approx(log_loss([2, 1], p, labels=[0, 1, 2]))
    assert COLOURS.predicted(p).tolist() == [2.0, 0.0]


def test_the_error_of_a_number_is_within_0_and_1() -> None:
    """``|e| / (|e| + scale)``: half at the usual error, whatever the unit."""
    losses = MINUTES.loss(np.array([[[10.0]], [[1e9]], [[4.0]]]), np.array([4.0, 4.0, 4.0]), 6.0)
    np.testing.assert_allclose(1 - np.exp(-losses[:, 0]), [0.5, 1.0, 0.0], atol=1e-7)


def test_a_number_stays_within_the_bounds_of_truths() -> None:
    """Nobody waits for less than no time."""
    assert MINUTES.output(np.array([-3.0, 45.0, 99.0])).tolist() == [0.0, 45.0, 90.0]


@pytest.mark.parametrize(
    ("task", "y", "w", "expected"),
    [
        (BINARY, [1.0, 0.0, 0.0], [1.0, 1.0, 1.0], [1.5 / 4]),
        (COLOURS, [0.0, 2.0, 2.0], [1.0, 1.0, 0.5], [1.5 / 4, 0.5 / 4, 2.0 / 4]),
        (MINUTES, [10.0, 20.0, 60.0], [1.0, 1.0, 2.0], [37.5]),
    ],
)
def test_the_prior_says_what_was_learned_so_far(
    task: Task, y: list[float], w: list[float], expected: list[float]
) -> None:
    """However the rows are cut into calls, and after a restore."""
    whole, parts, again = task.prior(), task.prior(), task.prior()
    whole.learn(np.array(y), np.array(w))
    for i in range(len(y)):
        parts.learn(np.array(y[i : i + 1]), np.array(w[i : i + 1]))
    again.restore(whole.state())
    for prior in (whole, parts, again):
        np.testing.assert_allclose(prior.output(), expected)
    assert (
        task.prior().output().tolist()
        == {
            "binary": [0.5],
            "classes": [1 / 3] * 3,
            "number": [0.0],
        }[task.type]
    )


@pytest.mark.parametrize("task", [BINARY, COLOURS, MINUTES], ids=lambda task: task.type)
def test_how_rows_are_cut_into_calls_does_not_show_in_the_bits_of_the_prior(task: Task) -> None:
    """Of weights that are no whole numbers, too, as parts of labels that come late have them."""
    rng = np.random.default_rng(5)
    y, w = rng.integers(0, 2, 1000).astype(np.float64), rng.random(1000)
    whole, parts = task.prior(), task.prior()
    whole.learn(y, w)
    for start, end in ((0, 1), (1, 7), (7, 7), (7, 600), (600, 1000)):
        parts.learn(y[start:end], w[start:end])
    assert state_digest(whole.state()) == state_digest(parts.state())


def test_the_priors_of_other_classes_do_not_fit() -> None:
    """Three shares are not those of two classes."""
    with pytest.raises(StateError, match="counts"):
        Classes(["a", "b"]).prior().restore(COLOURS.prior().state())


def test_a_fixed_prior_learns_nothing() -> None:
    """What the configuration says."""
    for task in (BINARY, MINUTES):
        prior = task.prior(0.25)
        prior.learn(np.ones(5), np.ones(5))
        assert prior.output().tolist() == [0.25]


def test_a_member_that_cannot_learn_the_target_is_refused_with_those_that_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before anything is built."""
    monkeypatch.setitem(MEMBERS, "yes", {"binary": "models.members.constant:ConstantModel"})
    with pytest.raises(UnknownMember, match=r"'yes' learns binary; a target of type 'number'"):
        member_class("yes", "number")
    with pytest.raises(UnknownMember, match="can be learned by constant, logistic"):
        build("yes", {}, SCHEMA, 0, MINUTES)

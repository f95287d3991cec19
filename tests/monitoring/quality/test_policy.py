"""What lists are worth: against plain readings of the estimators, on policies of known value."""

from __future__ import annotations

import math

import numpy as np
import pytest

from models.base import F64
from models.reco.explore import explored
from models.reco.settings import ExploreSettings
from monitoring.quality.policy import Z_95, PolicyValue, credit

LOGITS = np.array([[2.0, 1.0, 0.5, 0.0], [1.0, 0.9, 0.2, -2.0], [3.0, 0.0, 0.0, -1.0]])
"""What the ranking believes of four items in three contexts, best first."""
TAKEN = np.array([[0.35, 0.3, 0.1, 0.1], [0.5, 0.2, 0.2, 0.4], [0.25, 0.05, 0.3, 0.1]])
"""How often each is taken, which the ranking does not know: the best item's is the policy's."""
TRUE = TAKEN[:, 0].mean()


def logged(n: int, seed: int, explore: ExploreSettings) -> F64:
    """Lists drawn and what was taken: columns weight, reward, best and first."""
    rng, rows = np.random.default_rng(seed), []
    for _ in range(n):
        context = rng.integers(3)
        drawn = explored(explore, LOGITS[context], 2, int(rng.integers(2**63)))
        first = int(drawn.order[0])
        reward = float(rng.random() < TAKEN[context, first])
        tells = credit(LOGITS[context], first, float(drawn.propensity[0]))
        rows.append((tells.weight, reward, tells.best, tells.first))
    return np.array(rows)


def valued(rows: F64, size: int = 64) -> PolicyValue:
    """The rows, some at a time."""
    made = PolicyValue()
    for i in range(0, len(rows), size):
        made.update(*np.ascontiguousarray(rows[i : i + size].T))
    return made


POLICIES = [ExploreSettings(epsilon=0.5), ExploreSettings(temperature=1.0)]


@pytest.mark.parametrize("explore", POLICIES)
def test_estimates_are_those_of_a_plain_reading(explore: ExploreSettings) -> None:
    """Means over all lists, their errors, and the number of lists that the weights come to."""
    rows = logged(500, 1, explore)
    w, r, best, first = rows.T
    found = valued(rows).report()
    line, squares, values = np.array([0.0, 1.0]), np.zeros(2), []
    for i in range(len(rows)):
        q = [1 / (1 + math.exp(-(line[0] + line[1] * x[i]))) for x in (best, first)]
        values.append(q[0] + w[i] * (r[i] - q[1]))
        g = (q[1] - r[i]) * np.array([1.0, first[i]])
        squares += g**2
        line -= 0.05 * g / np.sqrt(squares + 1e-8)
    plain = {"shown": r, "ips": w * r, "dr": np.array(values)}
    for name, v in plain.items():
        assert found[name]["value"] == pytest.approx(v.mean())
        assert found[name]["high"] == pytest.approx(v.mean() + Z_95 * v.std() / math.sqrt(len(v)))
    snips = (w * r).sum() / w.sum()
    error = math.sqrt((w**2 * (r - snips) ** 2).sum()) / w.sum()
    assert found["snips"]["value"] == pytest.approx(snips)
    assert found["snips"]["low"] == pytest.approx(snips - Z_95 * error)
    assert found["lists"] == {
        "all": len(rows),
        "effective": pytest.approx(w.sum() ** 2 / (w**2).sum()),
    }


@pytest.mark.parametrize("explore", POLICIES)
def test_a_known_value_is_found(explore: ExploreSettings) -> None:
    """Over 40 logs no estimator is off in the mean, and its bounds hold the value in most."""
    reports = [valued(logged(400, seed, explore)).report() for seed in range(40)]
    for name in ("ips", "snips", "dr"):
        values = np.array([report[name]["value"] for report in reports])
        assert abs(values.mean() - TRUE) < 3 * values.std() / math.sqrt(40), name
        covered = sum(report[name]["low"] < TRUE < report[name]["high"] for report in reports)
        assert covered >= 34, name
    shown = np.mean([report["shown"]["value"] for report in reports])
    assert abs(shown - TRUE) > 0.05


def test_where_the_best_is_shown_all_estimates_agree() -> None:
    """Weights of 1: what is shown is what is valued."""
    rows = np.array([[1.0, r, 0.0, 0.0] for r in (1.0, 0.0, 0.0, 1.0, 1.0)])
    found = valued(rows)
    assert {found.report()[name]["value"] for name in ("shown", "ips", "snips", "dr")} == {0.6}
    assert found.report()["lists"]["effective"] == 5
    assert found.fading()["ips"] == pytest.approx(0.6, abs=1e-3)


def test_of_nothing_nothing_is_said() -> None:
    """Nor of the best ranking, where no list begins as it would."""
    assert math.isnan(PolicyValue().fading()["shown"])
    none = valued(np.array([[0.0, 1.0, -1.0, -2.0]]))
    assert none.report()["shown"]["value"] == 1.0
    assert math.isnan(none.report()["snips"]["value"])
    assert none.fading()["effective"] == 0.0


def test_an_item_that_may_not_be_shown_has_no_weight() -> None:
    """It counts as the least likely."""
    tells = credit(np.log([0.5, 0.3, 0.2]), None, 0.25)
    assert tells == (0.0, pytest.approx(math.log(0.5)), pytest.approx(math.log(0.2)))


def test_a_restored_one_goes_on_bit_for_bit() -> None:
    """However the lists were cut."""
    rows = logged(200, 2, POLICIES[0])
    one, other = valued(rows[:100], 7), PolicyValue()
    other.restore(one.state())
    for made in (one, other):
        made.update(*np.ascontiguousarray(rows[100:].T))
    assert one.digest() == other.digest() == valued(rows).digest()

"""Quality of classes against scikit-learn over the same rows, and its state."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st

from models.base import BOOL, F64, StateError
from models.task import Classes
from monitoring.quality.classes import METRICS, ClassQuality, measure

NAMES = ("low", "mid", "high")
TASK = Classes(NAMES)
K = len(NAMES)

# A few values only, so that classes tie; they are divided by their sum.
masses = st.lists(st.sampled_from([0.0, 1.0, 2.0, 5.0]), min_size=K, max_size=K).map(
    lambda values: [v + 1e-3 * (not any(values)) for v in values]
)
Row = tuple[list[float], list[float], int, list[bool]]
a_set = st.lists(st.booleans(), min_size=K, max_size=K)
rows_of = st.lists(st.tuples(masses, masses, st.integers(0, K - 1), a_set), min_size=1, max_size=40)


def arrays(rows: Sequence[Row]) -> tuple[F64, F64, BOOL]:
    """Outputs ``(n, 2, k)``, truths, sets."""
    output = np.array([r[:2] for r in rows], float)
    output /= output.sum(axis=2, keepdims=True)
    return output, np.array([r[2] for r in rows], float), np.array([r[3] for r in rows])


def made(rows: Sequence[Row] = (), **options: float) -> ClassQuality:
    """A quality of an ensemble and a member that has seen the rows."""
    quality = ClassQuality(["ensemble", "member"], TASK, **options)  # type: ignore[arg-type]
    feed(quality, rows)
    return quality


def feed(quality: ClassQuality, rows: Sequence[Row]) -> None:
    """One update with all rows."""
    if rows:
        output, y, sets = arrays(rows)
        quality.update(output, y, np.zeros(len(y), bool), sets)


def oracle(
    output: F64, y: F64, weight: F64, sets: BOOL | None, set_weight: F64
) -> dict[str, float]:
    """Every metric by scikit-learn; those that it lacks by their definition."""
    w, n = {"sample_weight": weight}, len(y)
    predicted = [max(range(K), key=lambda c: (p[c], -c)) for p in output.tolist()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes without rows, and kappa's 0 / 0
        # Of equals scikit-learn takes the last: it gets the classes in the other order.
        top_2 = sk.top_k_accuracy_score(K - 1 - y, output[:, ::-1], k=2, labels=range(K), **w)
        balanced = sk.balanced_accuracy_score(y, predicted, **w)
        kappa = sk.cohen_kappa_score(y, predicted, **w)
    pairs = range(1, n)
    total = sum(weight[i] for i in pairs)
    same = sum(weight[i] * (y[i] == y[i - 1]) for i in pairs) / total if pairs else math.nan
    right = sum(weight[i] * (predicted[i] == y[i]) for i in pairs) / total if pairs else math.nan
    said = [] if sets is None else [i for i in range(n) if sets[i].any()]
    said_weight = sum(set_weight[i] for i in said)

    def of_sets(values: list[float]) -> float:
        return sum(values) / said_weight if said else math.nan

    return {
        "accuracy": sk.accuracy_score(y, predicted, **w),
        "balanced_accuracy": balanced,
        "macro_f1": sk.f1_score(y, predicted, average="macro", **w),
        "weighted_f1": sk.f1_score(y, predicted, average="weighted", **w),
        "kappa": kappa,
        "log_loss": sk.log_loss(y, output, labels=range(K), **w),
        "top_2_accuracy": top_2,
        "no_change_accuracy": same,
        "kappa_temporal": (right - same) / (1 - same) if same < 1 else math.nan,
        "coverage": of_sets([set_weight[i] * sets[i, int(y[i])] for i in said]),  # type: ignore[index]
        "width": of_sets([set_weight[i] * sets[i].sum() for i in said]),  # type: ignore[index]
    }


def check(got: dict[str, float], expected: dict[str, float]) -> None:
    """The report's metrics are the oracle's."""
    found = {name: got[name] for name in METRICS}
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-11, nan_ok=True)


@settings(max_examples=25)
@given(rows_of, st.integers(1, 45))
def test_windows_of_all_and_of_the_last_rows_equal_scikit_learn(
    rows: list[Row], window: int
) -> None:
    """So does fading that never forgets, and a measure over arrays; sets are the ensemble's."""
    report = made(rows, window=window, fade=1.0).report()
    for j, name in enumerate(report):
        for kind, last in (("all", 0), ("fading", 0), ("sliding", -window)):
            output, y, sets = (a[last:] for a in arrays(rows))
            ones = np.ones(len(y))
            expected = oracle(output[:, j], y, ones, None if j else sets, ones)
            check(report[name][kind], expected)
            check(measure(output[:, j], y, None if j else sets), expected)


def fading_weights(y: F64, fade: float) -> F64:
    """The weight of each row by the definition."""
    weight = np.zeros(len(y))
    for c in set(y):
        at = np.flatnonzero(y == c)
        aged = fade ** np.arange(len(at))[::-1]
        reach = (aged * np.diff(at, prepend=-1)).sum() + len(y) - 1 - at[-1]
        weight[at] = aged / reach
    return weight


@settings(max_examples=25)
@given(rows_of, st.sampled_from([0.5, 0.9, 0.999]))
def test_fading_window_equals_scikit_learn_with_faded_weights(rows: list[Row], fade: float) -> None:
    """A row weighs what its class's fade left; a set what one fade for all left."""
    snapshot = made(rows, fade=fade).snapshot()
    output, y, sets = arrays(rows)
    said = sets.any(axis=1)
    set_weight = fade ** (said.sum() - said.cumsum()).astype(float)
    for j, name in enumerate(snapshot.names):
        check(
            snapshot.fading(name),
            oracle(output[:, j], y, fading_weights(y, fade), None if j else sets, set_weight),
        )


@settings(max_examples=30)
@given(rows_of, st.integers(1, 45))
def test_confusion_counts_truths_in_rows(rows: list[Row], window: int) -> None:
    """As scikit-learn's: counts of all and of the last rows, shares of the faded ones."""
    output, y, _ = arrays(rows)
    found = made(rows, window=window, fade=0.9).snapshot().confusion()
    for j, name in enumerate(found):
        predicted = output[:, j].argmax(axis=1)
        expected = sk.confusion_matrix(y, predicted, labels=range(K))
        assert found[name]["all"].tolist() == expected.tolist()
        newest = sk.confusion_matrix(y[-window:], predicted[-window:], labels=range(K))
        assert found[name]["sliding"].tolist() == newest.tolist()
        weight = fading_weights(y, 0.9)
        faded = sk.confusion_matrix(
            y, predicted, labels=range(K), sample_weight=weight / weight.sum()
        )
        assert found[name]["fading"] == pytest.approx(faded)


@settings(max_examples=30)
@given(rows_of, st.data())
def test_split_of_the_batches_does_not_matter(rows: list[Row], data: st.DataObject) -> None:
    """One call or many, with a save and a restore between, give the same state bit for bit."""
    cut = data.draw(st.integers(0, len(rows)))
    whole, again = made(rows, window=7), made(window=7)
    again.restore(made(rows[:cut], window=7).state())
    feed(again, rows[cut:])
    assert again.digest() == whole.digest()
    assert str(again.report()) == str(whole.report())


def test_scores_that_were_never_made_do_not_count() -> None:
    """A member without an output (nan) is judged on its other rows alone."""
    member = np.array([[math.nan] * 3, [0.2, 0.5, 0.3], [0.6, 0.3, 0.1], [math.nan] * 3])
    output = np.stack([np.full((4, 3), 1 / 3), member], axis=1)
    y = np.array([1.0, 0.0, 0.0, 2.0])
    quality = made(fade=1.0)
    quality.update(output, y, np.zeros(4, bool))
    for window in ("all", "fading", "sliding"):
        got = quality.report()["member"][window]
        assert got == pytest.approx(measure(member[1:3], y[1:3]), rel=1e-9, nan_ok=True)


def test_rare_class_keeps_its_effective_outcomes() -> None:
    """Under fade 0.999 a class of 1 % is judged by more than the 10 that one fade would leave."""
    y = (np.arange(30_000) % 100 == 0).astype(float)
    output = np.zeros((len(y), 2, 3))
    right = np.arange(len(y)) % 200 < 100  # every other one of the rare class
    output[np.arange(len(y)), :, np.where(right, y, 2).astype(int)] = 1.0
    quality = made()
    quality.update(output, y, np.zeros(len(y), bool))
    faded = quality.report()["ensemble"]["fading"]
    assert faded["effective_samples"] == pytest.approx(1000 + (1 - 0.999**300) / 0.001)
    shares = quality.snapshot().confusion()["ensemble"]["fading"].sum(axis=1)
    assert shares == pytest.approx([0.99, 0.01, 0.0], abs=1e-4)


def test_undefined_values_are_nan_and_nothing_warns() -> None:
    """Before any outcome every metric is nan."""
    for windows in made().report().values():
        for window in windows.values():
            assert all(math.isnan(window[m]) for m in METRICS)
            assert window["effective_samples"] == 0


def test_snapshot_does_not_change_with_the_quality() -> None:
    """A report read later from a snapshot is that of the moment it was taken."""
    row: Row = ([1, 0, 0], [0, 1, 0], 0, [True, False, False])
    quality = made([row], window=2)
    snapshot = quality.snapshot()
    feed(quality, [([0, 1, 0], [0, 1, 0], 0, [False, True, False])] * 3)
    for window in snapshot.report()["ensemble"].values():
        assert (window["accuracy"], window["coverage"]) == (1, 1)


@settings(max_examples=20)
@given(rows_of, rows_of)
def test_columns_are_taken_over_by_name(before: list[Row], after: list[Row]) -> None:
    """Whoever stays is judged on as if alone; who joins is judged on what it scored."""
    old = made(before, window=7)
    new = ClassQuality(["ensemble", "new", "member"], TASK, window=7)
    new.restore(old.state())
    output, y, sets = arrays(after)
    new.update(output[:, [0, 1, 1]], y, np.zeros(len(y), bool), sets)
    feed(old, after)
    report = new.report()
    assert str({n: report[n] for n in ("ensemble", "member")}) == str(old.report())
    assert str(report["new"]["all"]) == str(made(after).report()["member"]["all"])
    newest = measure(output[-7:, 1], y[-7:])
    assert report["new"]["sliding"] == pytest.approx(newest, nan_ok=True)


def test_classes_may_come_at_the_end() -> None:
    """Those that were there keep their outcomes; in any other order a state is refused."""
    rows: list[Row] = [([1, 0, 0], [1, 0, 0], 0, [True, False, False])]
    wider = ClassQuality(["ensemble", "member"], Classes([*NAMES, "top"]), fade=1.0)
    wider.restore(made(rows, fade=1.0).state())
    output = np.array([[[0, 0, 0, 1.0]] * 2])
    wider.update(output, np.array([3.0]), np.array([False]))
    confusion = wider.snapshot().confusion()["ensemble"]["all"]
    assert confusion[0, 0] == confusion[3, 3] == 1
    assert confusion.sum() == 2
    for names in (NAMES[:2], NAMES[::-1]):
        with pytest.raises(StateError, match=r"quality\.classes: expected"):
            ClassQuality(["ensemble", "member"], Classes(names)).restore(made().state())


@pytest.mark.parametrize(
    ("output", "y", "alert"),
    [
        (np.full((2, 2, 3), 1 / 3), np.zeros(2), np.zeros(2, bool)),
        (np.full((2, 1, 2), 0.5), np.zeros(2), np.zeros(2, bool)),
        (np.full((2, 1, 3), 0.5), np.zeros(2), np.zeros(2, bool)),
        (np.full((2, 1, 3), [[1.5, -0.5, 0.0]]), np.zeros(2), np.zeros(2, bool)),
        (np.full((2, 1, 3), [[math.nan, 0.5, 0.5]]), np.zeros(2), np.zeros(2, bool)),
        (np.full((2, 1, 3), 1 / 3), np.full(2, 0.5), np.zeros(2, bool)),
        (np.full((2, 1, 3), 1 / 3), np.full(2, 3.0), np.zeros(2, bool)),
        (np.full((2, 1, 3), 1 / 3), np.zeros(2), np.zeros(3, bool)),
    ],
)
def test_wrong_rows_are_refused_and_change_nothing(output: F64, y: F64, alert: BOOL) -> None:
    """Shapes, outputs that are no distribution and truths that are no class raise first."""
    quality = ClassQuality(["ensemble"], TASK)
    before = quality.digest()
    with pytest.raises(ValueError, match=r"Quality\.update: expected"):
        quality.update(output, y, alert)
    assert quality.digest() == before


def test_state_of_other_settings_is_refused() -> None:
    """Another window or fade does not fit, and the error says which."""
    for other in (made(window=5), made(fade=0.9)):
        with pytest.raises(StateError, match=r"quality\..*: expected"):
            made().restore(other.state())

"""What `millrace check` finds out about members."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stream.settings.load import load
from stream.tools.rehearse import rehearse
from tests.support.factory import config

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.toml"))
SAMPLER: dict[str, Any] = {
    "name": "rus",
    "type": "river",
    "model": "river.imblearn.RandomUnderSampler",
    "classifier": {"model": "river.linear_model.LogisticRegression"},
}
LINEAR = {"name": "linear", "type": "logistic"}


def test_a_member_that_raises_at_its_first_label_is_a_problem(tmp_path: Path) -> None:
    """With its path and its own error; the others are tried too."""
    raises = SAMPLER | {"desired_dist": {"yes": 0.5, "no": 0.5}}
    problems = rehearse(config(tmp_path, members=[LINEAR, raises]))
    assert len(problems) == 1
    assert problems[0].startswith("members[1]: ")
    assert "KeyError" in problems[0]


@pytest.mark.parametrize("keys", [("true", "false"), ("True", "False"), ("1", "0")])
def test_classes_of_a_river_parameter_may_be_keys(tmp_path: Path, keys: tuple[str, str]) -> None:
    """TOML has only text for keys; the estimator gets its classes."""
    works = SAMPLER | {"desired_dist": dict.fromkeys(keys, 0.5)}
    assert rehearse(config(tmp_path, members=[works, LINEAR])) == []


@pytest.mark.parametrize(
    ("member", "works"),
    [
        ({"model": "river.linear_model.LogisticRegression", "loss": "no loss"}, False),
        ({"model": "river.naive_bayes.GaussianNB"}, True),
    ],
)
def test_river_is_tried_as_it_will_run(tmp_path: Path, member: dict[str, Any], works: bool) -> None:
    """A wrong parameter is found where it is used."""
    problems = rehearse(config(tmp_path, members=[LINEAR, {"name": "m", "type": "river"} | member]))
    assert [p.startswith("members[1]: ") for p in problems] == [True] * (not works)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_passes(path: Path) -> None:
    """The shipped configurations hold only members that work."""
    assert rehearse(load(path, {})) == []

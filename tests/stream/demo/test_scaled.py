"""The demo of many processes, on a real broker."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from stream.demo.player import partition
from stream.demo.scaled import Metrics

SAID = """\
# TYPE millrace_labels_total counter
millrace_labels_total{model="a",result="joined"} 3.0
millrace_labels_total{model="a",result="orphan"} 2.0
"""


@pytest.mark.kafka
def test_two_scorers_and_a_learner_share_a_stream(kafka_bootstrap: str) -> None:
    """Each good event is scored once, labels are learned, and all end with the same members."""
    options = ("--seconds", "3", "--rate", "500", "--port", "0", "--json")
    done = subprocess.run(
        [sys.executable, "-m", "stream.cli", "demo", "--scaled", kafka_bootstrap, *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["scores"] == found["events"] - found["dead_letters"] > 0
    assert found["learned"] >= found["labels"] > 0
    assert found["versions"] > 1
    assert set(found["digests"]) == {"learner", "scorer-0", "scorer-1"}
    assert found["same_members"]
    assert found["quality"]["ensemble"]["roc_auc"] is not None


def test_metrics_are_summed_over_the_labels_that_are_not_named() -> None:
    """As a query would; what nobody told is 0."""
    said = Metrics(SAID)
    assert said.sum("labels_total") == 5
    assert said.sum("labels_total", result="joined") == 3
    assert said.by("result", "labels_total") == {"joined": 3, "orphan": 2}
    assert Metrics("").sum("labels_total") == 0


def test_a_customer_has_one_partition() -> None:
    """Whatever process asks, and all of them are used."""
    assert partition("c1", 4) == partition("c1", 4)
    assert {partition(f"c{i}", 4) for i in range(100)} == {0, 1, 2, 3}

"""What several tests need: programs of the machine, and the names of all exposed series."""

from __future__ import annotations

import os
import shutil

import pytest

from monitoring.show.metrics import MillraceCollector
from monitoring.show.readings import Readings, Telemetry

SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}


def program(name: str, package: str) -> str:
    """The path of a program; without it the test is skipped, or fails where ``CI`` is true."""
    found = shutil.which(name)
    if found is None:
        message = f"{name} is not installed (Debian: {package})"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return found


def metric_names() -> set[str]:
    """Every name, as a query writes it: counters with ``_total``, histograms by their parts."""
    collector = MillraceCollector(
        lambda: Readings("fraud", ("linear",)), Telemetry({"version": "1"})
    )
    return {
        family.name + suffix for family in collector.collect() for suffix in SUFFIXES[family.type]
    }

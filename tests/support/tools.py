"""What several tests need: programs of the machine, and the names of all exposed series."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import NoReturn, cast, get_args

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from models.task import TaskType
from monitoring.show.dashboards.build import Shard
from monitoring.show.metrics import MillraceCollector, ReplicaCollector
from monitoring.show.readings import Progress, Readings, Shared, Telemetry
from stream.settings.ranking import RATINGS
from tests.support.waiting import DEADLINE_S

FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--no-first-run"),
]
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}


def lacking(what: str) -> NoReturn:
    """The machine lacks something: the test is skipped, or fails where ``CI`` is true."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI skips nothing: {what}")
    pytest.skip(what)


def program(name: str, package: str) -> str:
    """The path of a program, or :func:`lacking`."""
    return shutil.which(name) or lacking(f"{name} is not installed (Debian: {package})")


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, without a window and asking nobody for anything."""
    expect.set_options(timeout=DEADLINE_S * 1000)
    path = program("chromium", "chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=FLAGS, timeout=DEADLINE_S * 1000
        )
        yield browser
        browser.close()


def metric_names(shard: Shard = "binary") -> set[str]:
    """Every name, as a query writes it: counters with ``_total``, histograms by their parts.

    Those of a service that has this, and of a replica.
    """
    read = partial(Readings, "fraud", ("linear",))
    second = Readings("fraud-members", ("linear",), decides=False)
    others = {
        "ratings": read("ranking", rated=(RATINGS,)),
        "second stage": read("ranking", beside=second),
        "windows": read(),
        "many processes": read(shared=Shared("fraud", "learner", 1, 0.0, "ab")),
    }
    readings = others.get(shard) or read(cast(TaskType, shard))
    collector = MillraceCollector(lambda: readings, Telemetry({"version": "1"}))
    families = [*collector.collect(), *ReplicaCollector("fraud", Progress).collect()]
    return {family.name + suffix for family in families for suffix in SUFFIXES[family.type]}


def all_metric_names() -> set[str]:
    """Those of all services there may be."""
    return set().union(*(metric_names(shard) for shard in get_args(Shard)))

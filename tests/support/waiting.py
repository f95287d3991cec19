"""Waiting for what another thread or process brings about, up to one deadline for all tests.

No test depends on speed: it waits for a condition, and the deadline only ends a test that would
hang. It is far beyond what a busy machine needs.
"""

from __future__ import annotations

import time
from collections.abc import Callable

DEADLINE_S = 300.0
PATIENT = f"{DEADLINE_S:g}s"
"""The same as a duration of the configuration."""


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Poll a condition; fails the test at the deadline with ``what`` was waited for."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {DEADLINE_S:g} s in vain for: {what}")
        time.sleep(0.02)

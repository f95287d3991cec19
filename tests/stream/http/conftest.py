"""Servers over a fake service, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.http_fake import Running, config, running


@pytest.fixture(scope="module")
def shared() -> Iterator[Running]:
    """One server for tests that leave nothing behind that others would see."""
    with running(config(max_body_bytes=4096)) as it:
        yield it


@pytest.fixture(scope="module")
def patient() -> Iterator[Running]:
    """One server for all tests: starting one for each takes 0.3 s."""
    with running(config()) as it:
        yield it


@pytest.fixture
def fresh(patient: Running) -> Running:
    """A server with nothing in its log and nothing observed."""
    patient.backend.reset()
    patient.observed.clear()
    return patient

"""Fixtures of the tests of the logs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.stream.logs.secured import Secured
from tests.support.broker import BrokerUnavailable
from tests.support.tools import lacking


@pytest.fixture(scope="session")
def broker() -> Iterator[Secured]:
    """A broker that asks who comes."""
    try:
        with Secured() as made:
            yield made
    except BrokerUnavailable as error:
        lacking(f"no Kafka broker: {error}")

"""Fixtures that several test files share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.support import broker
from tests.support.tools import lacking

# A slow machine fails no example: neither by the time that one takes nor by that of making one.
settings.register_profile("millrace", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("millrace")

# A broker of a test lives for seconds: Java's second compiler would work longer than it helps.
os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1")


@pytest.fixture(scope="session")
def kafka_bootstrap() -> Iterator[str]:
    """``host:port`` of a real broker; skips without one, fails without one where CI=true."""
    try:
        with broker.bootstrap() as address:
            yield address
    except broker.BrokerUnavailable as error:
        lacking(f"no Kafka broker: {error}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let kafka-python, closed while it connects, leave that socket to the garbage collector."""
    for item in items:
        if item.get_closest_marker("kafka"):
            item.add_marker(
                pytest.mark.filterwarnings(
                    "ignore:unclosed <socket.socket .*raddr=:ResourceWarning"
                )
            )

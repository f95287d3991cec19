"""Fixtures that several test files share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.support import broker

# A slow machine fails no example: neither by the time that one takes nor by that of making one.
settings.register_profile("millrace", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("millrace")


def pytest_configure(config: pytest.Config) -> None:
    """Let kafka-python 3.0.12 do two things that Python warns of; all other warnings fail.

    It reads its schemas through functions that Python deprecated, and leaves a socket whose
    connection was refused to the garbage collector.
    """
    for line in (
        "ignore:(read|open)_text is deprecated:DeprecationWarning",
        "ignore:unclosed <socket.socket .*proto=6, laddr=..0.0.0.0., \\d+.>$:ResourceWarning",
    ):
        config.addinivalue_line("filterwarnings", line)


@pytest.fixture(scope="session")
def kafka_bootstrap() -> Iterator[str]:
    """``host:port`` of a real broker; skips without one, fails without one where CI=true."""
    try:
        with broker.bootstrap() as address:
            yield address
    except broker.BrokerUnavailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI needs a Kafka broker: {error}")
        pytest.skip(f"no Kafka broker: {error}")

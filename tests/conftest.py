"""Fixtures that several test files share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests import broker


def pytest_configure(config: pytest.Config) -> None:
    """Let kafka-python 3.0.12 use functions that Python deprecated; all other warnings fail."""
    config.addinivalue_line(
        "filterwarnings", "ignore:(read|open)_text is deprecated:DeprecationWarning"
    )


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

"""What the settings of TLS and SASL are called in each client."""

from __future__ import annotations

from typing import Any

from pydantic import SecretStr

from stream.settings import schema as settings

_NAMES = {
    "security_protocol": ("security_protocol", "security.protocol"),
    "ssl_cafile": ("ssl_cafile", "ssl.ca.location"),
    "ssl_certfile": ("ssl_certfile", "ssl.certificate.location"),
    "ssl_keyfile": ("ssl_keyfile", "ssl.key.location"),
    "sasl_mechanism": ("sasl_mechanism", "sasl.mechanism"),
    "sasl_username": ("sasl_plain_username", "sasl.username"),
    "sasl_password": ("sasl_plain_password", "sasl.password"),
}
"""Setting: its name in kafka-python, its name in librdkafka."""


def for_kafka_python(log: settings.KafkaLogSettings) -> dict[str, Any]:
    """Options of kafka-python's clients."""
    return {_NAMES[name][0]: value for name, value in _given(log).items()}


def for_confluent(log: settings.KafkaLogSettings) -> dict[str, Any]:
    """Options of librdkafka."""
    return {_NAMES[name][1]: value for name, value in _given(log).items()}


def _given(log: settings.KafkaLogSettings) -> dict[str, str]:
    values = {name: getattr(log, name) for name in _NAMES}
    return {
        name: value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        for name, value in values.items()
        if value is not None
    }

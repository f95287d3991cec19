"""What the settings of TLS and SASL are called in each client."""

from __future__ import annotations

from typing import Any

from pydantic import SecretStr

from stream.logs.kafka.clients.tokens import Tokens
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
    found: dict[str, Any] = {_NAMES[name][0]: value for name, value in _given(log).items()}
    if not log.ssl_check_hostname:
        found["ssl_check_hostname"] = False
    if log.sasl_mechanism == "OAUTHBEARER":
        found["sasl_oauth_token_provider"] = Tokens(log)
    return found


def for_confluent(log: settings.KafkaLogSettings) -> dict[str, Any]:
    """Options of librdkafka."""
    found: dict[str, Any] = {_NAMES[name][1]: value for name, value in _given(log).items()}
    if not log.ssl_check_hostname:
        found["ssl.endpoint.identification.algorithm"] = "none"
    if log.sasl_mechanism == "OAUTHBEARER":
        found["oauth_cb"] = Tokens(log).dated
    return found


def _given(log: settings.KafkaLogSettings) -> dict[str, str]:
    values = {name: getattr(log, name) for name in _NAMES}
    return {
        name: value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        for name, value in values.items()
        if value is not None
    }

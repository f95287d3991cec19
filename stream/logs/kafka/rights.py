"""What a user may do on the cluster, and what its topics take: asked at the start, told in one go.

Without it a missing right shows at the first event, dead letter or audit record that needs it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import structlog
from kafka import errors
from kafka.admin import ConfigResource, ConfigResourceType

from stream.contract.letters import DEAD_LETTER_BYTES
from stream.contract.log import LogError, LogRefused
from stream.settings.schema import Config

logger = structlog.get_logger()

Rights = Sequence[str]
"""Operations on a topic, as ``kafka-acls.sh`` calls them: ``Read``, ``Write``."""

_SIZE = "max.message.bytes"
_AROUND_BYTES = 16 << 10
"""Room for headers, key and frame."""
_HIDDEN = errors.TopicAuthorizationFailedError.errno


def check_rights(admin: Any, topics: Mapping[str, Rights], group: str) -> None:
    """Raise :class:`LogRefused` that names every right which is missing; blocks.

    Says nothing of topics that do not exist, nor where a cluster does not tell (before Kafka 2.3).
    """
    missing = [*_of_topics(admin, topics), *_of_group(admin, group)]
    if missing:
        lines = "\n".join(f"  {_mended(*one)}" for one in missing)
        raise LogRefused(f"Kafka: this user lacks rights that the service needs:\n{lines}")


def told_rights(admin: Any, topics: Mapping[str, Rights]) -> None:
    """Warn of rights that only requests over HTTP need; blocks."""
    missing = [_mended(*one) for one in _of_topics(admin, topics)]
    if missing:
        logger.warning(
            "http_appends_refused",
            missing=missing,
            reason="this user may not: who appends to these topics over HTTP gets a 500",
        )


def _mended(right: str, kind: str, name: str) -> str:
    """A right, and the command that gives it."""
    return (
        f"{right} on {kind} {name}: kafka-acls.sh --add --allow-principal User:..."
        f" --operation {right} --{kind} {name}"
    )


def _of_topics(admin: Any, topics: Mapping[str, Rights]) -> Iterator[tuple[str, str, str]]:
    for topic in admin.describe_topics(topics=sorted(topics)):
        name, told = topic["name"], topic["authorized_operations"]
        needed = topics[name]
        if topic["error_code"] == _HIDDEN:  # who may read or write a topic may see it
            yield from ((right, "topic", name) for right in needed)
        elif not topic["error_code"] and told is not None:
            yield from ((right, "topic", name) for right in needed if right.upper() not in told)


def _of_group(admin: Any, group: str) -> Iterator[tuple[str, str, str]]:
    try:
        (told,) = (
            found["authorized_operations"] for found in admin.describe_groups([group]).values()
        )
    except errors.GroupAuthorizationFailedError:
        told = []
    except errors.RetriableError:  # no coordinator yet
        return
    if told is not None and "READ" not in told:
        yield "Read", "group", group


def check_sizes(admin: Any, config: Config) -> None:
    """Raise :class:`LogError` that names every topic which takes smaller records than may come.

    A dead letter holds its whole record, however long, up to a bound; a score its event's id, key
    and headers. Says nothing of topics whose settings this user may not see; blocks.
    """
    topics, most = config.topics, config.limits.record_bytes + _AROUND_BYTES
    whole = (topics.dead_letters, *config.handed_topics)
    needed = {
        name: DEAD_LETTER_BYTES + _AROUND_BYTES if name in whole else most
        for name in (*config.outputs, config.journal_topic)
        if name != topics.witness
    }
    resources = [ConfigResource(ConfigResourceType.TOPIC, name, [_SIZE]) for name in needed]
    found = admin.describe_configs(resources, config_filter="all").get("topic", {})
    lines = [
        f"  topic {name}: expected {_SIZE} of at least {size}, got {found[name][_SIZE]['value']}:"
        f" kafka-configs.sh --alter --entity-type topics --entity-name {name} --add-config"
        f" {_SIZE}={size}"
        for name, size in needed.items()
        if found.get(name) and int(found[name][_SIZE]["value"]) < size
    ]
    if lines:
        raise LogError(
            "Kafka: topics take smaller records than the service may write:\n" + "\n".join(lines)
        )

"""Which process of a service of many knows what a tool is asked for: each has a state of its own.

Another one would answer of what it does not know, or not at all.
"""

from __future__ import annotations

from models.base import MillraceError
from stream.settings.load import ENV_PREFIX
from stream.settings.schema import Config, process

_ROLE, _INDEX = f"{ENV_PREFIX}SHARD__ROLE", f"{ENV_PREFIX}SHARD__INDEX"


class AskAnother(MillraceError):
    """Another process of the service is the one to ask; the message says which, and how."""


def ask_who_learns(config: Config, what: str) -> None:
    """Raise :class:`AskAnother` of a scorer, which learns nothing and keeps no versions."""
    if config.shard.role == "scorer":
        learner = f"{config.service}-{process('learner', 0)}"
        raise AskAnother(
            f"{what}: expected {learner}, which learns, got {config.name}: set {_ROLE}=learner"
        )


def ask_who_scores(config: Config, what: str) -> None:
    """Raise :class:`AskAnother` of a learner, which scores nothing."""
    if config.shard.role == "learner":
        raise AskAnother(
            f"{what}: expected the scorer of the event's partition, got {config.name}: set"
            f" {_ROLE}=scorer and {_INDEX} to the partition modulo {config.shard.count}"
        )


def reader_of(config: Config, topic: str, partition: int) -> str | None:
    """Of a scorer, who else reads this partition, and how to ask; ``None``: it does itself."""
    if config.reads(topic, partition):
        return None
    index = partition % config.shard.count
    return f"{config.service}-{process('scorer', index)}: set {_INDEX}={index}"

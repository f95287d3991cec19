"""Asks the cluster about topics: which there are, their ids, partitions and settings; makes them.

On kafka-python's administrative client, whichever client reads and writes. Reads no records.
"""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

import structlog
from kafka import errors
from kafka.admin import ConfigResource, ConfigResourceType

from stream.contract.log import LogError, LogRefused, Topic
from stream.logs.kafka.calls import Seat
from stream.logs.kafka.clients.kafka_python import KafkaPython
from stream.settings.schema import Config

logger = structlog.get_logger()

T = TypeVar("T")

FOREVER = {"retention.ms": "-1", "retention.bytes": "-1", "cleanup.policy": "delete"}
"""Settings of a topic whose records are all kept."""
LATEST = {"retention.ms": "86400000", "cleanup.policy": "delete"}
"""Settings of a topic that the newest records are wanted of: each replaces those before it. A start
reads again what was taken since the oldest generation."""


_NEWS_S = 0.05


class NewTopic(NamedTuple):
    """A topic this shard needs, and how to make it.

    ``like``: where that topic is there, it gets as many partitions as that one has.
    ``whole``: its records must all stay, each at its offset: it may not be compacted.
    """

    partitions: int
    configs: Mapping[str, str] = {}
    like: str = ""
    whole: bool = True


class Cluster:
    """One administrative client, kept: a look at the topics costs two requests."""

    def __init__(self, client: KafkaPython) -> None:
        self._timeout_s = client.timeout_s
        self._seat = Seat("millrace-kafka-topics", client.admin, client.translated)
        self._untold: set[str] = set()

    def ask(self, what: str, work: Callable[[Any], T]) -> T:
        """``work(admin)`` within the deadline; raises the log's errors."""
        return self._seat.call(what, self._timeout_s + 0.5, lambda admin: work(admin.raw))

    def find(self, wanted: Mapping[str, NewTopic]) -> dict[str, Topic]:
        """Those of the topics that exist.

        Raises :class:`LogError` for one whose settings let go of records that are needed.
        """
        return self.ask("topics", lambda admin: self._find(admin, wanted))

    def there(self, topic: str) -> bool:
        """Whether a topic exists, as far as this user may know."""
        return self.ask("topic", lambda a: not a.describe_topics(topics=[topic])[0]["error_code"])

    def make(
        self, wanted: Mapping[str, NewTopic], create: bool, replication: int
    ) -> dict[str, Topic]:
        """Every wanted topic; makes those that are missing, if it may.

        Raises :class:`LogError` that names the missing ones, and as :meth:`find`.
        """

        def work(admin: Any) -> dict[str, Topic]:
            found = self._find(admin, wanted)
            missing = sorted(set(wanted) - set(found))
            if missing and not create:
                raise LogError(
                    f"Kafka: topics {', '.join(missing)} do not exist and topics.create is false"
                )
            if missing:
                options = {name: _options(wanted[name], found, replication) for name in missing}
                try:
                    admin.create_topics(options)
                except errors.TopicAlreadyExistsError:
                    pass  # another was faster
                except errors.AuthorizationError as error:
                    raise LogRefused(
                        f"Kafka: topics {', '.join(missing)} do not exist and this user may not"
                        " Create them: run `millrace topics create` as one who may"
                    ) from error
                admin.wait_for_topics(missing, timeout_ms=self._timeout_s * 1000)
                while len(found := self._find(admin, wanted)) < len(wanted):
                    time.sleep(_NEWS_S)  # one broker knew them, the one asked now does not yet
            return found

        return self.ask("topics", work)

    def grow(self, wanted: Mapping[str, int]) -> None:
        """Let these topics have so many partitions, more than they have."""

        def work(admin: Any) -> None:
            # Another process may have been faster.
            with suppress(errors.InvalidPartitionsError):
                admin.create_partitions(dict(wanted))

        self.ask("partitions", work)

    def _find(self, admin: Any, wanted: Mapping[str, NewTopic]) -> dict[str, Topic]:
        described = [t for t in admin.describe_topics(topics=sorted(wanted)) if _exists(t)]
        configs = self._configs(admin, [t["name"] for t in described])
        found = {}
        for topic in described:
            name = topic["name"]
            own = configs.get(name, {})
            if wanted[name].whole and "compact" in own.get("cleanup.policy", ""):
                raise LogError(_compacted(name, own["cleanup.policy"]))
            found[name] = Topic(
                _id(topic["topic_id"]), len(topic["partitions"]), int(own.get("retention.ms", -1))
            )
        return found

    def _configs(self, admin: Any, names: Iterable[str]) -> dict[str, dict[str, str]]:
        """What each topic's settings are; told once of those that may not be asked for."""
        resources = [
            ConfigResource(ConfigResourceType.TOPIC, name, ["cleanup.policy", "retention.ms"])
            for name in names
        ]
        if not resources:
            return {}
        asked = admin.describe_configs(resources, config_filter="all").get("topic", {})
        found = {n: {k: v["value"] for k, v in own.items()} for n, own in asked.items() if own}
        for name in {r.name for r in resources} - set(found) - self._untold:
            self._untold.add(name)
            logger.warning(
                "topic_settings_unknown",
                topic=name,
                reason="this user may not ask for them (DescribeConfigs): whether the topic is"
                " compacted, and what its retention is, stays unchecked",
            )
        return found

    def hurry(self) -> None:
        """Wait for no answer long any more."""
        self._seat.hurry()

    def close(self) -> None:
        """Close the client and end the thread."""
        self._seat.close()


def _options(new: NewTopic, found: Mapping[str, Topic], replication: int) -> dict[str, Any]:
    partitions = found[new.like].partitions if new.like in found else new.partitions
    return {
        "num_partitions": partitions,
        "replication_factor": replication,
        "configs": dict(new.configs),
    }


def _exists(described: Mapping[str, Any]) -> bool:
    """Whether a topic is there; raises what the cluster says of it otherwise."""
    code = described["error_code"]
    if code == errors.UnknownTopicOrPartitionError.errno:
        return False
    if code:
        raise errors.for_code(code)(f"topic {described['name']}")
    return True


def _id(topic_id: str | None) -> str:
    """As Kafka's own tools print it; empty where the cluster has none (before Kafka 2.8)."""
    if topic_id is None:
        return ""
    return base64.urlsafe_b64encode(uuid.UUID(topic_id).bytes).rstrip(b"=").decode()


def _compacted(name: str, policy: str) -> str:
    return (
        f"Kafka: topic {name}: expected cleanup.policy delete, got {policy}; compaction removes"
        " records that a restart must read again. Take it away:\n"
        f"  kafka-configs.sh --alter --entity-type topics --entity-name {name}"
        " --add-config cleanup.policy=delete\n"
        "or name another topic in [topics], to which the records are copied"
    )


def check_layout(config: Config, found: Mapping[str, Topic], begun: bool) -> None:
    """Raise :class:`LogError` where the topics are not spread as processes of a service expect.

    An entity's events stay on one partition only while there are as many as there were, and a label
    finds its event only on the partition of the same number. ``begun``: the process has a journal:
    scorers may have become fewer since their topics were made.
    """
    shard, names = config.shard, config.topics
    own = [] if shard.role == "all" else [config.examples_topic]
    wanted = {}
    if shard.role == "scorer":
        wanted = {names.events: names.partitions}
        if shard.labels == "partition":
            wanted[names.labels] = names.partitions
        own += [config.risk_topic, config.routes_topic]
    wanted |= dict.fromkeys(own, shard.count)
    first = (
        "the number of scorers (shard.count) is that of the service's first start, or of its last"
        " `millrace shard move`"
    )
    why = {
        config.examples_topic: first,
        config.risk_topic: first,
        config.routes_topic: first,
        names.events: "which scorer knows an entity follows from topics.partitions: of a topic that"
        " grew, entities have moved without their windows",
        names.labels: "a label goes to the partition of its event, which the score names; where"
        " labels cannot, write shard.labels = 'any'",
    }
    for topic, partitions in wanted.items():
        got = found[topic].partitions if topic in found else partitions
        if got != partitions and not (begun and topic in own and got > partitions):
            raise LogError(
                f"Kafka: topic {topic}: expected {partitions} partitions, got {got}; {why[topic]}"
            )


def check_ways(config: Config, there: Callable[[str], bool]) -> None:
    """Raise :class:`LogError` where other scorers hand labels on, and this one takes none.

    ``there``: whether a topic exists.
    """
    shard = config.shard
    alone = shard.role != "scorer" or shard.count == 1 or shard.labels == "any"
    if not alone and there(config.routes_topic):
        raise LogError(
            "shard.labels: expected 'any' for all scorers, or for none, got 'partition' where"
            f" others hand labels on: topic {config.routes_topic} is there. Labels that came to it"
            " for this one would wait for ever: give all processes of the service the same file"
        )


def lacking(config: Config, found: Mapping[str, Topic]) -> dict[str, int]:
    """Topics that scorers hand over by which have fewer partitions than there are scorers."""
    return {
        topic: config.shard.count
        for topic in (config.examples_topic, config.risk_topic, config.routes_topic)
        if topic in found and found[topic].partitions < config.shard.count
    }

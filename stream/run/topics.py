"""Looks at the topics: at the start, and every ``topics.metadata_age`` while the service runs.

Partitions that were added join the input; a topic that was deleted or made anew ends the service.
The thread only looks: what follows from it the loop does, at the boundary of a step.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from stream.contract.log import Log, LogError, LogUnavailable, OutOfRetention, Topic
from stream.run.threads import Threads
from stream.settings.schema import Config
from stream.state.topics import (
    Lost,
    Standing,
    TopicsChanged,
    explained,
    ids_of,
    lost,
    passed,
    unread,
)

logger = structlog.get_logger()

CONFIRM_S = 1.0
"""What would end the service is looked at again: a broker that has just come up may tell of old."""


class Topics:
    """What the journal says of the topics, held against what is there.

    Parameters
    ----------
    config : Config
    log : Log
    accept : bool
        Go on where topics were lost, and say so in the journal.
    stopping : threading.Event
        Ends the looking.

    Attributes
    ----------
    standing : Standing
        As of the last step that was taken; the loop's.
    margin_s : dict
        How much longer each topic that a restart may read keeps its records than it may need.
    others : list or None
        Who else writes to the topic of scores; ``None``: nobody can tell.
    """

    def __init__(self, config: Config, log: Log, accept: bool, stopping: threading.Event) -> None:
        self._config = config
        self._log = log
        self._accept = accept
        self._stopping = stopping
        self._needed_s = config.checkpoints.keep * config.checkpoints.interval / 1000
        self._seen: Mapping[str, Topic] | None = None
        self._wrong: LogError | None = None
        self.standing = Standing()
        self.margin_s = dict.fromkeys((*config.inputs, config.journal_topic), math.inf)
        self.others: list[str] | None = None

    def restored(self, standing: Standing) -> dict[str, Any]:
        """Go on from here; gives what the next journal record says of the topics.

        Raises :class:`TopicsChanged`, or :class:`OutOfRetention` where records were deleted unread,
        where something is lost that nobody accepted.
        """
        self.standing = standing
        topics = self._log.topics()
        found = lost(standing, topics, self._config)
        if found:
            error = TopicsChanged(explained(found, standing, topics, self._config))
            if not self._accept or self._config.journal_topic in (*found.gone, *found.anew):
                raise error
            logger.warning("topics_changed", accepted=str(error))
        self._measure(topics)
        for name, margin_s in self.margin_s.items():
            if margin_s < 0:
                logger.warning(
                    "retention_short",
                    topic=name,
                    retention_s=topics[name].retention_ms / 1000,
                    needed_s=self._needed_s,
                    next_step="raise the topic's retention.ms: after a crash the oldest of"
                    " checkpoints.keep generations needs what is younger than keep * interval",
                )
        for name in standing.anew(ids_of(topics)):
            if name not in found.anew:
                logger.warning("topic_made_anew", topic=name, id=topics[name].id)
        self._ask_for_others()
        further = self._retained(standing.anew(ids_of(topics)))
        told = self._tell(topics)
        return told | {"joined": [*told.get("joined", ()), *further]} if further else told

    def _retained(self, anew: Sequence[str]) -> list[tuple[str, int, int]]:
        """From where partitions are read on whose oldest record is behind where we stand."""
        behind, gone = passed(self._log, self.standing, self._config, anew)
        if gone and not self._accept:
            raise OutOfRetention(
                "retention deleted what is not known to have been read:\n"
                + unread(gone, self.standing)
                + "Lengthen retention.ms, and start with --accept-changes: it goes on with what is"
                " there, and says so in the journal"
            )
        for (topic, partition), first in sorted(gone.items()):
            at = self.standing.positions[topic, partition]
            logger.warning("records_lost", topic=topic, partition=partition, first=at, end=first)
        return [(*key, first) for key, first in sorted(behind.items())]

    def start(self, threads: Threads) -> None:
        """Begin to look."""
        threads.start("topics", self._look)

    def check(self) -> None:
        """Raise what is wrong with the topics, if anything is (any thread)."""
        if self._wrong is not None:
            raise self._wrong

    def news(self) -> dict[str, Any]:
        """Partitions that were added since the last look, for the next journal record."""
        topics, self._seen = self._seen, None
        if topics is None or not self._joining(topics):
            return {}
        try:
            return self._tell(topics)
        except LogUnavailable:  # a partition has no leader yet, or the client does not know it
            self._seen = topics
            return {}

    def cause_of(self, error: LogError) -> LogError | None:
        """What is wrong with the topics, if that is what the log failed of."""
        if isinstance(error, TopicsChanged) or error is self._wrong:
            return error
        try:
            topics = self._log.topics()
        except LogUnavailable:
            return None
        except LogError as wrong:
            return wrong
        found = lost(self.standing, topics, self._config)
        return self._changed(found, topics) if found else None

    def _tell(self, topics: Mapping[str, Topic]) -> dict[str, Any]:
        ids = ids_of(topics)
        anew = self.standing.anew(ids)
        left = Standing(self.standing.ids, self.standing.positions)
        left.told(ids, ())
        earliest = self._log.earliest()
        joined = [(*key, at) for key, at in earliest.items() if key not in left.positions]
        for topic, partition, offset in joined if self.standing.ids else ():
            logger.info("partition_joins", topic=topic, partition=partition, offset=offset)
        return {"topics": ids, "joined": joined} if joined or anew else {"topics": ids}

    @property
    def shared(self) -> str:
        """What to say of others that write to the topic of scores; empty where there are none."""
        if not self.others:
            return ""
        return f"topic {self._config.topics.scores} is also written by {', '.join(self.others)}"

    def _ask_for_others(self) -> None:
        before = self.others
        try:
            self.others = self._log.others()
        except LogError:  # no reason to end or to wait
            self.others = None
        if self.others and self.others != before:
            logger.warning(
                "scores_shared",
                topic=self._config.topics.scores,
                by=self.others,
                next_step="a reader cannot tell these scores from ours: give each service a"
                " topics.scores of its own",
            )

    def _measure(self, topics: Mapping[str, Topic]) -> None:
        kept = {name: topics[name].retention_ms for name in self.margin_s}
        self.margin_s = {
            name: math.inf if ms < 0 else ms / 1000 - self._needed_s for name, ms in kept.items()
        }

    def _joining(self, topics: Mapping[str, Topic]) -> bool:
        return any(
            (name, number) not in self.standing.positions
            for name in self._config.inputs
            for number in range(topics[name].partitions)
            if self._config.reads(name, number)
        )

    def _changed(self, found: Lost, topics: Mapping[str, Topic]) -> TopicsChanged:
        return TopicsChanged(explained(found, self.standing, topics, self._config))

    def _look(self) -> None:
        while not self._stopping.wait(self._config.topics.metadata_age / 1000):
            try:
                topics = self._log.topics()
                if lost(self.standing, topics, self._config):
                    self._stopping.wait(CONFIRM_S)
                    topics = self._log.topics()
                self._ask_for_others()
            except LogUnavailable:
                continue  # whoever reads or writes says so
            except LogError as error:
                self._wrong = error
                return
            if found := lost(self.standing, topics, self._config):
                self._wrong = self._changed(found, topics)
                return
            self._measure(topics)
            self._seen = topics

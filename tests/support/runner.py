"""Running a service in a thread of the test, to its end or until it has caught up."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stream.contract.records import NewRecord
from stream.run.assemble import open_log, wall_clock_ms
from stream.run.service import Service
from stream.settings.schema import Config
from tests.support.factory import new_records
from tests.support.waiting import DEADLINE_S, wait_until


def append(config: Config, *parts: tuple[str, list[Any]]) -> None:
    """Append values to topics, making them first if need be."""
    log = open_log(config, wall_clock_ms)
    try:
        log.create_topics()
        for topic, values in parts:
            log.append(topic, new_records(values))
    finally:
        log.close()


@contextmanager
def running(config: Config, **options: Any) -> Iterator[Service]:
    """A service in a thread, ready; stopped in order at the end. Raises what ended it."""
    service = Service(config, **options)
    failure: list[BaseException] = []

    def target() -> None:
        try:
            service.run()
        except BaseException as error:  # noqa: BLE001 - handed to the test's thread
            failure.append(error)

    thread = threading.Thread(target=target, name="service under test", daemon=True)
    thread.start()
    try:
        wait_until(
            lambda: service.health.ready()[0] or failure or not thread.is_alive(), "readiness"
        )
        if not failure:
            yield service
    finally:
        service.stop()
        thread.join(DEADLINE_S)
        if failure:
            raise failure[0]
    assert not thread.is_alive(), (
        f"{service.health.state} {DEADLINE_S:g} s after it was asked to stop"
    )


def caught_up(service: Service, records: int) -> None:
    """Wait until so many input records are committed."""

    def done() -> bool:
        if service.health.state == "stopped":
            return True
        engine = service.engine
        topics = service.config.topics
        consumed = sum(
            engine.counts[f"consumed.{t}"] for t in (topics.events, topics.labels, topics.control)
        ) if engine else 0  # fmt: skip
        # The engine counts what it consumed once its step is done.
        return consumed >= records and service.committer.committed_seq >= engine.seq

    wait_until(done, f"{records} records")


def contents(config: Config, topic: str) -> list[bytes | None]:
    """Every value of a topic, oldest first."""
    log = open_log(config, wall_clock_ms)
    try:
        return [r.value for r in log.tail(topic, 1_000_000)]
    finally:
        log.close()


def keyed(values: list[bytes], key: bytes) -> list[NewRecord]:
    """Records with one key."""
    return [NewRecord(key, v) for v in values]

"""Running a replica in a thread of the test, beside what it follows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from models.base import MillraceError
from stream.run.replica.front import ReplicaFront
from stream.run.replica.replica import Replica
from stream.run.service import Service
from stream.settings.schema import Config
from stream.step.engine import Engine
from tests.support.waiting import DEADLINE_S, wait_until

T = TypeVar("T")


@contextmanager
def following(
    config: Config, directory: Path, ends_by: type[MillraceError] | None = None
) -> Iterator[tuple[Replica, ReplicaFront]]:
    """A replica and its HTTP side, which does not listen yet.

    Raises what ended it, but what it is to end by.
    """
    replica = Replica(config, directory)
    front = ReplicaFront(replica)
    failure: list[BaseException] = []

    def target() -> None:
        try:
            replica.run()
        except BaseException as error:  # noqa: BLE001 - handed to the test's thread
            failure.append(error)

    thread = threading.Thread(target=target, name="replica under test", daemon=True)
    thread.start()
    try:
        yield replica, front
    finally:
        replica.stop()
        thread.join(DEADLINE_S)
        front.stop()
        if failure and (ends_by is None or not isinstance(failure[0], ends_by)):
            raise failure[0]
    assert not thread.is_alive()
    assert bool(failure) == (ends_by is not None)


def level(replica: Replica, seq: int) -> None:
    """Wait until a replica serves step ``seq`` or a later one, or has ended."""

    def there() -> bool:
        done = replica.progress.verified_seq >= seq and replica.health.state == "running"
        return done or replica.health.state in ("diverged", "stopped")

    wait_until(there, f"step {seq} in the replica: {replica.health.ready()}, {replica.waits_for}")
    assert replica.health.state == "running", replica.progress


def asked(replica: Replica, question: Callable[[Engine], T]) -> T:
    """Between two of its steps."""
    return replica.ask(question, DEADLINE_S)


def equal(replica: Replica, service: Service) -> None:
    """Wait until the replica stands where the service does; both have the same state then.

    A service takes a step by itself where a checkpoint falls due.
    """

    def stands_at(engine: Engine) -> tuple[int, str]:
        return engine.seq, engine.state_digest()

    def at_one_step() -> bool:
        seq, _ = served[:] = service.ask(stands_at, DEADLINE_S)
        level(replica, seq)
        proved[:] = asked(replica, stands_at)
        return proved[0] == seq

    served: list[int | str] = []
    proved: list[int | str] = []
    wait_until(at_one_step, "service and replica at one step")
    assert proved == served

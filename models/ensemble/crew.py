"""Jobs done side by side, in as many threads as there are: what they give does not depend on it.

:class:`Ensemble` lets its members score and learn here. A compiled kernel gives the interpreter's
lock back while it runs, so kernels of several members run at once; a model in Python holds it, and
stays in the caller's thread. Each job touches what is its own, so the order of jobs is of no
consequence. What nobody waits for yet is put off until the caller's thread would be idle: work in
Python beside work in Python only takes turns, and loses by it.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

MOST = 64
"""Threads, at most: there are no more members."""


class Job(NamedTuple, Generic[T]):
    """What to do; ``unlocked_us`` says how long it takes, see :class:`models.base.Model`."""

    do: Callable[[], T]
    unlocked_us: float


def cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # where a process cannot be bound to cores
        return os.cpu_count() or 1


@cache
def _others() -> ThreadPoolExecutor:
    """The threads beside the callers', shared by all crews; each begins when it is needed."""
    return ThreadPoolExecutor(MOST - 1, thread_name_prefix="crew")


class Crew:
    """Up to ``threads`` threads, the caller's among them; ``None``: one for each core."""

    def __init__(self, threads: int | None = None) -> None:
        self.threads = min(threads or cores(), MOST)
        self._put_off: deque[Callable[[], None]] = deque()
        self._spare: Callable[[], None] | None = None

    def put_off(self, job: Callable[[], None]) -> None:
        """Do this by the next :meth:`finish`, in the caller's thread, in the order put off."""
        self._put_off.append(job)

    def finish(self) -> None:
        """Do what is still put off."""
        while self._put_off:
            self._put_off.popleft()()

    def spare(self, job: Callable[[], None]) -> None:
        """Do this in the caller's thread while others work in a long :meth:`do`, or never.

        In the place of the one before.
        """
        self._spare = job

    def do(self, jobs: Sequence[Job[T]], long: bool = False) -> list[T]:
        """What the jobs give, in their order; jobs that hold the lock are done in that order.

        Other threads begin with what takes longest, this one with what takes least where there are
        more jobs than threads; then it does what was put off, in a ``long`` call what is there for
        spare time too, and what they have left. What a job raises is raised here, when all threads
        have stopped.
        """
        spare = self._spare if long else None
        found: dict[int, T] = {}
        waiting = deque(sorted(_unlocked(jobs), key=lambda i: jobs[i].unlocked_us))

        def do_all(following: Callable[[], int], most: int = len(jobs)) -> None:
            for _ in range(most):
                try:
                    i = following()
                except IndexError:  # nothing is left, or another thread was faster
                    return
                found[i] = jobs[i].do()

        helpers: list[Future[None]] = []
        try:
            # With nothing to do here but one of them, one fewer.
            others = len(waiting) - (len(waiting) == len(jobs) and spare is None)
            for _ in range(min(self.threads - 1, others)):
                helpers.append(_others().submit(do_all, waiting.pop))
            for i, job in enumerate(jobs):
                if not job.unlocked_us:
                    found[i] = job.do()
            if len(waiting) > len(helpers) > 0:
                # A kernel first: while this thread held the lock, no other could begin.
                do_all(waiting.popleft, 1)
            if helpers:
                self.finish()
                if spare is not None:
                    self._spare = None
                    spare()
            do_all(waiting.popleft)
        finally:
            waiting.clear()
            for helper in helpers:
                helper.cancel() or helper.exception()  # waits for one that has begun
        for helper in helpers:
            if not helper.cancelled():
                helper.result()
        return [found[i] for i in range(len(jobs))]


def _unlocked(jobs: Sequence[Job[T]]) -> list[int]:
    return [i for i, job in enumerate(jobs) if job.unlocked_us]

"""Jobs side by side: the same results in the same order, whatever the number of threads."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial

import pytest

import models.ensemble.crew
from models.ensemble.crew import Crew, Job

PATIENT_S = 60.0
THREADS = pytest.mark.parametrize("threads", [1, 2, 4])


def named(name: str, done: list[tuple[str, int]]) -> Callable[[], str]:
    def do() -> str:
        done.append((name, threading.get_ident()))
        return name

    return do


def noted(name: str, done: list[tuple[str, int]]) -> None:
    done.append((name, threading.get_ident()))


@THREADS
@pytest.mark.parametrize(
    "costs", [[3.0, 0.0, 1.0, 0.0, 2.0], [1.0, 2.0, 3.0], [0.0, 0.0], [1.0], []]
)
def test_results_stand_in_the_order_of_the_jobs(threads: int, costs: list[float]) -> None:
    """Each job is done once; those that hold the lock in the caller's thread and in their order."""
    done: list[tuple[str, int]] = []
    jobs = [Job(named(f"{i}", done), us) for i, us in enumerate(costs)]
    assert Crew(threads).do(jobs) == [f"{i}" for i in range(len(costs))]
    assert sorted(name for name, _ in done) == [f"{i}" for i in range(len(costs))]
    held = [(name, where) for name, where in done if not costs[int(name)]]
    here = threading.get_ident()
    assert held == [(f"{i}", here) for i, us in enumerate(costs) if not us]


def test_one_thread_is_the_callers() -> None:
    """With one thread everything is done where it was asked for."""
    done: list[tuple[str, int]] = []
    Crew(1).do([Job(named(f"{i}", done), 1.0) for i in range(5)])
    assert {where for _, where in done} == {threading.get_ident()}


def test_two_threads_do_two_jobs_at_once() -> None:
    """Each of two jobs waits for the other one to have begun."""
    both = threading.Barrier(2, timeout=PATIENT_S)
    assert sorted(Crew(2).do([Job(both.wait, 1.0), Job(both.wait, 2.0)])) == [0, 1]


def test_a_job_that_holds_the_lock_has_another_thread_beside_it() -> None:
    """A kernel runs beside a model in Python."""
    both = threading.Barrier(2, timeout=PATIENT_S)
    assert sorted(Crew(2).do([Job(both.wait, 0.0), Job(both.wait, 2.0)])) == [0, 1]


def test_what_is_put_off_is_done_while_another_thread_works() -> None:
    """In the caller's thread, in its order, after the caller's own jobs; once."""
    began, both = threading.Event(), threading.Barrier(2, timeout=PATIENT_S)
    done: list[tuple[str, int]] = []
    crew = Crew(2)
    for name in ("first", "second"):
        crew.put_off(partial(noted, name, done))
    crew.put_off(lambda: both.wait() and None)

    def last_until_what_was_put_off_is_done() -> None:
        began.set()
        both.wait()

    def own() -> None:
        noted("own", done)
        began.wait(PATIENT_S)

    crew.do([Job(last_until_what_was_put_off_is_done, 2.0), Job(own, 0.0)])
    here = threading.get_ident()
    assert done == [("own", here), ("first", here), ("second", here)]
    crew.finish()
    assert len(done) == 3


def test_what_is_put_off_is_done_at_the_end_where_nothing_waits() -> None:
    """One thread has nothing to wait for."""
    done: list[tuple[str, int]] = []
    crew = Crew(1)
    crew.put_off(partial(noted, "late", done))
    crew.do([Job(named(f"{i}", done), 1.0) for i in range(2)])
    assert [name for name, _ in done] == ["1", "0"] or [name for name, _ in done] == ["0", "1"]
    crew.finish()
    assert [name for name, _ in done][2:] == ["late"]


def test_spare_time_is_what_a_long_call_waits() -> None:
    """In the caller's thread, beside a job in another one, once; never where nothing waits."""
    done: list[tuple[str, int]] = []
    crew, alone = Crew(2), Crew(1)
    jobs = [Job(named(f"{i}", []), 1.0) for i in range(2)]
    for one in (crew, alone):
        one.spare(partial(noted, "never: another comes in its place", done))
        one.spare(partial(noted, "spare", done))
        one.do(jobs)
        one.finish()
    alone.do(jobs, long=True)
    assert not done
    beside = threading.Barrier(2, timeout=PATIENT_S)

    def spare() -> None:
        noted("spare", done)
        beside.wait()

    crew.spare(spare)
    crew.do([Job(beside.wait, 1.0)], long=True)
    crew.do(jobs, long=True)
    assert done == [("spare", threading.get_ident())]


@THREADS
@pytest.mark.parametrize("failing", [0.0, 1.0, 3.0])
def test_what_a_job_raises_is_raised_when_all_have_stopped(threads: int, failing: float) -> None:
    """No thread goes on with a job behind the caller's back."""
    busy: set[int] = set()

    def work() -> None:
        busy.add(threading.get_ident())
        busy.discard(threading.get_ident())

    def fail() -> None:
        raise ZeroDivisionError

    jobs = [Job(work, 2.0), Job(fail, failing), Job(work, 1.5), Job(work, 0.0)]
    with pytest.raises(ZeroDivisionError):
        Crew(threads).do(jobs)
    assert not busy


class _Emptied(deque[int]):
    """Jobs that another thread takes all of, just after this one was told that some are left."""

    def __bool__(self) -> bool:
        some = len(self) > 0
        while some and threading.current_thread() is threading.main_thread() and len(self):
            time.sleep(0.001)
        return some


def test_the_last_job_may_be_another_thread_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between a look at what is left and taking it, it may be gone: nothing fails."""
    crew, begun = Crew(2), threading.Event()
    monkeypatch.setattr(models.ensemble.crew, "deque", _Emptied)
    crew.put_off(begun.set)
    jobs = [Job(lambda: begun.wait(PATIENT_S), 2.0), Job(lambda: True, 1.0)]
    assert crew.do(jobs) == [True, True]

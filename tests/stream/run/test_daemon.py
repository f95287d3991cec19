"""How the process of a service ends: by a signal, or by its watchdog."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from stream.run.daemon import watch
from stream.run.service import Service
from tests.support.factory import config


def test_a_loop_that_stands_still_ends_the_process(tmp_path: Path) -> None:
    """Without a heartbeat for two minutes the watchdog leaves with status 75; a stop ends it."""
    service = Service(config(tmp_path))
    left: list[int] = []
    assert service.alive()[0]
    service.heartbeat_s = float("-inf")
    assert service.alive() == (False, "starting; last heartbeat inf s ago")
    watch(service, left.append)
    assert left == [75]
    service.stop()
    watch(service, left.append)
    assert left == [75]


def test_a_signal_never_waits_for_a_lock_that_the_main_thread_holds() -> None:
    """SIGTERM while the main thread holds a lock which stopping needs: it stops once that is free.

    With a handler that ran in the main thread a SIGTERM in the middle of a log line hung for ever.
    """
    program = """
import signal, threading
from stream.run.daemon import obey_signals
lock, stopped = threading.Lock(), threading.Event()
def stop():
    with lock:
        stopped.set()
obey_signals(stop)
with lock:
    signal.raise_signal(signal.SIGTERM)
stopped.wait()
signal.raise_signal(signal.SIGTERM)
threading.Event().wait()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 130, done.stderr

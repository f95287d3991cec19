"""How the process of a service ends by a signal."""

from __future__ import annotations

import subprocess
import sys


def test_a_signal_never_waits_for_a_lock_that_the_main_thread_holds() -> None:
    """SIGTERM while the main thread holds a lock which stopping needs: it stops once that is free.

    With a handler that ran in the main thread a SIGTERM in the middle of a log line hung for ever.
    """
    program = """
import signal, threading
from stream.run.daemon import obey_signals
from stream.run.threads import Threads
lock, stopped = threading.Lock(), threading.Event()
def stop():
    with lock:
        stopped.set()
obey_signals(stop, Threads(stop))
with lock:
    signal.raise_signal(signal.SIGTERM)
stopped.wait()
signal.raise_signal(signal.SIGTERM)
threading.Event().wait()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 130, done.stderr

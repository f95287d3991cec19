"""How the process of a service ends by a signal."""

from __future__ import annotations

import subprocess
import sys

from stream.run.daemon import on_a_terminal


def test_what_the_log_says_on_a_terminal_is_text() -> None:
    """Names and messages of others make no line and move no cursor; a traceback keeps its lines."""
    shown = on_a_terminal(None, "info", {"event": "a\x1b[2J\nb", "n": 1, "exception": "x\n\x9by"})
    assert shown == {"event": "a\\u001b[2J\\nb", "n": 1, "exception": "x\n\\u009by"}


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


def test_collections_pass_by_what_was_there_before_the_service() -> None:
    """Whatever stood before is no generation's any more, and later objects are."""
    program = """
import gc
from stream.run.daemon import spare_imports
spare_imports()
assert gc.get_freeze_count() > 10_000
later = []
assert any(x is later for x in gc.get_objects())
assert len(gc.get_objects()) < 1_000
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr

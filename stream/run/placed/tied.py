"""`python -m stream.run.placed.tied PID ARGUMENTS`: `millrace ARGUMENTS`, killed where PID ends.

An actor's child must not outlive it: Ray starts the actor again, and a second process of one name
would fence the first.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its parent, then become the command; raises ``OSError`` off Linux."""
    parent, arguments = int(sys.argv[1]), sys.argv[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl: the process cannot be tied to its parent")
    if os.getppid() != parent:  # it ended before
        os._exit(1)
    os.execv(sys.executable, [sys.executable, "-P", "-m", "stream.cli", *arguments])


if __name__ == "__main__":
    main()

"""Named places where a test can make the process die, stall or fail; off unless asked for.

``MILLRACE_FAILPOINT="commit.before=kill@3"`` kills the process (SIGKILL) the third time it passes
``commit.before``. Actions: ``kill``, ``exit`` (status 70), ``enospc`` (raises ``OSError``),
``sleep`` (60 s). Several are separated by commas. The names are the ``FAILPOINTS`` below.
"""

from __future__ import annotations

import errno
import os
import signal
import time

FAILPOINTS = (
    "step.before",
    "step.after",
    "configure.before",
    "configure.after",
    "commit.before",
    "commit.middle",
    "commit.after",
    "checkpoint.snapshot",
    "artefact.write",
    "artefact.written",
    "checkpoint.write",
    "checkpoint.files",
    "checkpoint.manifest",
    "checkpoint.before_publish",
    "checkpoint.publish",
    "checkpoint.prune",
    "restore.start",
    "restore.loaded",
    "restore.replay",
    "restore.done",
    "backfill.step",
    "backfill.caught_up",
    "backfill.kept",
    "backfill.committed",
    "backfill.left",
    "move.gathered",
    "move.kept",
    "move.middle",
    "move.committed",
    "stop.before",
    "stop.after",
)
"""Every name, in the order in which a run passes them."""


def _parse(text: str) -> dict[str, tuple[str, int]]:
    points = {}
    for part in filter(None, text.split(",")):
        name, _, action = part.partition("=")
        action, _, count = action.partition("@")
        points[name.strip()] = (action or "kill", int(count or 1))
    return points


_ACTIVE = _parse(os.environ.get("MILLRACE_FAILPOINT", ""))


def failpoint(name: str) -> None:
    """Pass the place ``name``; does nothing unless the environment asked for it."""
    if not _ACTIVE or name not in _ACTIVE:
        return
    action, left = _ACTIVE[name]
    _ACTIVE[name] = (action, left - 1)
    if left != 1 and not (action == "enospc" and left < 1):
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "exit":
        os._exit(70)
    elif action == "enospc":
        raise OSError(errno.ENOSPC, f"failpoint {name}: no space left on device")
    elif action == "sleep":
        time.sleep(60)

"""How many events may wait for a label, where the configuration leaves that to the machine.

Asked once, before a shard's first step, and journaled with it: no step reads a disk.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from stream.step.pending.store import INDEX_BYTES

DISK_SHARE, MEMORY_SHARE = 4, 8
"""A quarter of what is free on the disk; an index in an eighth of the machine's memory."""


def free_room(directory: Path, row_bytes: int) -> int:
    """Events of so many bytes for which there is room, beside everything else, in ``directory``."""
    place = directory.absolute()
    while not place.exists():
        place = place.parent
    disk_rows = shutil.disk_usage(place).free // DISK_SHARE // row_bytes
    return min(disk_rows, _memory() // MEMORY_SHARE // INDEX_BYTES)


def _memory() -> int:
    """Bytes that the machine has, or that a container may use of it."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return machine
    return min(machine, int(limit)) if limit.isdigit() else machine

"""Files and folders that are their owner's alone, whatever the umask and whoever made them.

Events, scores, trails and states say what customers did. A looser file or folder is mended with a
warning; a folder of somebody else's in which others may write is refused.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import IO

import structlog

from models.base import MillraceError

_FILE, _FOLDER, _OTHERS = 0o600, 0o700, 0o077

logger = structlog.get_logger()


class NotPrivate(MillraceError):
    """A folder that cannot be made its owner's alone."""


def folder(path: Path) -> None:
    """Make the folder where it is missing, and its owner's alone.

    The working directory, and one with the sticky bit such as ``/tmp``, stay as they are: in both
    stand files of others, and what is written there is private by itself.

    Raises
    ------
    NotPrivate
        Where others may put another file in a file's place.
    """
    made = not path.exists()
    path.mkdir(parents=True, exist_ok=True, mode=_FOLDER)
    found = path.stat()
    mode = stat.S_IMODE(found.st_mode)
    shared = bool(mode & stat.S_ISVTX) or path.samefile(Path.cwd())
    if made or (mode & _OTHERS and not shared and found.st_uid == os.geteuid()):
        path.chmod(_FOLDER)
        if not made:
            logger.warning("mended_rights", path=str(path), was=f"{mode:04o}", now="0700")
    elif mode & 0o022 and not mode & stat.S_ISVTX:
        raise NotPrivate(
            f"{path}: expected a folder in which its owner alone may write, got mode {mode:04o} of "
            f"user {found.st_uid}; name a folder of your own, or take the rights of others away"
        )


def opened(path: Path, mode: str = "wb") -> IO[bytes]:
    """Open a file for writing, made or mended to be its owner's alone; raises ``OSError``."""
    made(path)
    return path.open(mode)


def made(path: Path) -> None:
    """Make a file where there is none, or mend it; raises ``OSError``.

    One that is there is not opened: closing it would drop the locks that SQLite has on it.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, _FILE))
    mend(path)


def mend(path: Path) -> None:
    """Make a file its owner's alone, if there is one and we are its owner."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return
    mode = stat.S_IMODE(found.st_mode)
    # A device or a pipe has rights of its own: as root, /dev/null would be nobody else's any more.
    if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and mode != _FILE:
        if mode & _OTHERS:
            logger.warning("mended_rights", path=str(path), was=f"{mode:04o}", now="0600")
        path.chmod(_FILE)

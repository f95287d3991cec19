"""The dead letters of a played file: counted, the first ones told with their rows, all written.

Nothing here decides what becomes a dead letter.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import msgspec

from stream.contract import private
from stream.contract.letters import DeadLetter
from stream.decode.explain import explained
from stream.settings.schema import Config
from stream.tools.files import FileError

TOLD = 5
"""Dead letters that are told one by one."""


class Refused:
    """Takes dead letters; use it as a context manager.

    Parameters
    ----------
    config : Config
    path : Path or None
        Where to write all of them, as JSON Lines of ``reason``, ``error``, ``row`` (from 1),
        ``file`` and ``raw``.

    Attributes
    ----------
    reasons : Counter
    first : list of dict
        The first :data:`TOLD`, with the value they were refused for and what to do.
    """

    def __init__(self, config: Config, path: Path | None = None) -> None:
        self.reasons: Counter[str] = Counter()
        self.first: list[dict[str, Any]] = []
        self._config = config
        self._path = path
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        if self._path is not None:
            try:
                self._file = private.opened(self._path)
            except OSError as error:
                raise FileError(f"{self._path}: cannot be written: {error.strerror}") from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()

    def take(self, letter: DeadLetter, file: str, row: int) -> None:
        """One dead letter of row ``row``, from 1, of ``file``."""
        self.reasons[letter.reason] += 1
        told: dict[str, Any] = {
            "reason": letter.reason, "error": letter.error, "row": row, "file": file,
        }  # fmt: skip
        if self._file is not None:
            raw = (letter.value or b"").decode(errors="replace")
            self._file.write(msgspec.json.encode(told | {"raw": raw}) + b"\n")
        if len(self.first) < TOLD:
            self.first.append(told | explained(letter, self._config))

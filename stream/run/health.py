"""What a service says of itself: whether it lives, whether events are being scored, and why not.

Written by the service and its commit thread, read by probes, the watchdog and the live page (any
thread). Knows nothing of the engine, and ends nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from stream.contract.log import LogUnavailable
from stream.contract.schemas import RegistryUnavailable

State = Literal["starting", "connecting", "restoring", "running", "diverged", "stopping", "stopped"]

STALL_S = 120.0
"""Without a heartbeat for this long the loop stands still; half as long, and it is not alive."""
SLOW_S = 2.0
"""A call to the log that has not come back for this long: no event is being scored."""
GRACE_S = 10.0
"""Once asked to stop, nobody waits longer than this for a call to the log."""
STOP_S = 25.0
"""And the process ends this long after it was asked, if the log still keeps it."""


class Health:
    """The state of a service, its heartbeat, and the calls that the log has not answered.

    Parameters
    ----------
    where : str
        The log, as people know it.

    Attributes
    ----------
    where, state : str
    amiss : str
        What is wrong with the events that come in, above all where none is scored; empty where
        nothing is.
    shared : str
        Who else writes to the topic of scores; empty where nobody does.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.state: State = "starting"
        self.amiss = ""
        self.shared = ""
        self._beat_s = time.monotonic()
        self._asked_s: float | None = None
        self._since: dict[str, float] = {}
        self._trouble: dict[str, str] = {}

    def beat(self) -> None:
        """The loop is alive."""
        self._beat_s = time.monotonic()

    def silent_s(self) -> float:
        """Seconds since the last heartbeat."""
        return time.monotonic() - self._beat_s

    @contextmanager
    def calling(self, what: str) -> Iterator[None]:
        """A call to log or registry, from its first attempt until one succeeds or is given up."""
        self._since.setdefault(what, time.monotonic())
        try:
            yield
        except LogUnavailable as error:
            self._trouble[what] = f"{self.where}: {error}"
            raise
        except RegistryUnavailable as error:
            self._trouble[what] = str(error)
            raise
        self._since.pop(what, None)
        self._trouble.pop(what, None)

    def waited_s(self) -> float:
        """How long the oldest call has been under way, failed attempts included; 0 without one."""
        return max((time.monotonic() - s for s in self._since.copy().values()), default=0.0)

    def asked(self) -> None:
        """The service was asked to stop."""
        if self._asked_s is None:
            self._asked_s = time.monotonic()

    def given_up(self) -> bool:
        """Whether a stop need not wait any longer: a replay saves nothing, and a log may be away.

        What was not committed is computed again after the next start, which asks the journal.
        """
        late = self.state == "restoring" or self.waited_s() > GRACE_S
        return self._asked_s is not None and late

    def overdue(self) -> int | None:
        """The status to end the process with at once, if nothing else will end it."""
        if self._asked_s is None:
            return 75 if self.silent_s() > STALL_S else None
        held = self.state == "stopped" or self.waited_s() > 0
        return 130 if held and time.monotonic() - self._asked_s > STOP_S else None

    def alive(self) -> tuple[bool, str]:
        """Whether the loop moves."""
        age_s = self.silent_s()
        return age_s < STALL_S / 2, f"{self.state}; last heartbeat {age_s:.1f} s ago"

    def ready(self) -> tuple[bool, str]:
        """Whether events that come in now are taken, and what there is to say.

        Ready also where none of them can be scored: over HTTP better ones could not come in else.
        """
        trouble = "; ".join(self._trouble.copy().values()) or self._slow()
        if self.state != "running":
            return False, self.state + (f": {trouble}" if trouble else "")
        said = ("running", self.amiss, self.shared)
        return not trouble, trouble or "; ".join(filter(None, said))

    def _slow(self) -> str:
        now = time.monotonic()
        return "; ".join(
            f"{self.where}: {what} under way for {now - since:.0f} s"
            for what, since in self._since.copy().items()
            if now - since > SLOW_S
        )

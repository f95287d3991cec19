"""When members that are trained beside the stream fall due: by event time, on record.

What trains them (``stream/run/refit/trainer.py``, or `millrace evaluate`) looks at
:attr:`Refits.asked` and answers with an ``install``. Part of the engine's state: no clock, no I/O.
"""

from __future__ import annotations

from typing import Any

from models.base import State
from models.ensemble.ensemble import Ensemble
from models.members.catalogue import member_class
from monitoring.audit.auditor import Auditor
from stream.settings.schema import TRAINED, Config


class Refits:
    """The members of one engine that fall due: those in whose place no other kind of model stands.

    Attributes
    ----------
    asked : dict of str to int
        By member the step at which it fell due, until a model is installed.
    """

    def __init__(self, config: Config, ensemble: Ensemble, auditor: Auditor) -> None:
        self.asked: dict[str, int] = {}
        self._ensemble = ensemble
        self._auditor = auditor
        self._due_ms: dict[str, int] = {}
        self._every_ms: dict[str, int] = {}
        for member in config.members:
            if member.type == TRAINED:
                params: Any = member_class(TRAINED).Params.model_validate(member.params)
                self._every_ms[member.name] = params.every

    @property
    def on(self) -> bool:
        """Whether any member falls due."""
        return bool(self._every_ms)

    def passed(self, watermark_ms: int, seq: int) -> bool:
        """The newest event taken by step ``seq`` is of this time; whether a member falls due."""
        found = False
        for name, every_ms in self._every_ms.items():
            if not self._trains(name):
                continue
            due_ms = self._due_ms.setdefault(name, watermark_ms + every_ms)
            if watermark_ms >= due_ms:
                self._due_ms[name] = watermark_ms + every_ms
                self.asked[name] = seq
                self._auditor.record("refit_due", "refit", name, {"watermark_ms": watermark_ms})
                found = True
        return found

    def ask(self, name: str, seq: int) -> bool:
        """The member falls due now, if it is one of these."""
        if self._trains(name):
            self.asked[name] = seq
        return self._trains(name)

    def _trains(self, name: str) -> bool:
        """Whether the model in the member's place is trained; what was promoted may not be."""
        return name in self._every_ms and self._ensemble.members[name].trained

    def answered(self, name: str) -> None:
        """Another model stands in the member's place."""
        self.asked.pop(name, None)

    def state(self) -> State:
        """See :meth:`models.base.Model.state`."""
        return {"due_ms": dict(self._due_ms), "asked": dict(self.asked)}

    def restore(self, state: State) -> None:
        """Take over what ``state`` tells of these members."""
        self._due_ms, self.asked = (
            {name: value for name, value in state[key].items() if name in self._every_ms}
            for key in ("due_ms", "asked")
        )


def nothing() -> State:
    """The state of an engine of which no member has ever fallen due."""
    return {"due_ms": {}, "asked": {}}

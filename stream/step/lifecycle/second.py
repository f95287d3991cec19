"""A whole second ensemble: members and a combiner of their own beside those that score.

``challengers.py`` lets it challenge the first one, ``promotion.py`` puts it in the first one's
place. Part of the engine's state: no clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from models.base import F64, I64, FeatureBatch, Learner, Parameter, State
from models.ensemble.ensemble import Ensemble
from stream.settings.schema import Config
from stream.settings.specs import keeps
from stream.step.lifecycle.beside import Held

_BESIDE = ("challengers", "challenger_specs", "last_good")

Another = Callable[[Mapping[str, Any]], Ensemble]
"""Builds an ensemble of another definition; set by who builds the engine."""


class Second:
    """Scores and learns as the first ensemble does, by its own combiner, and is not heard.

    Parameters
    ----------
    spec : mapping
        ``combine`` and ``members``, as a configuration has them.
    ensemble : Ensemble
        Made of it.

    Attributes
    ----------
    held : Held
        Its members' links ``(n, m k)``.

    Its combiner learns what its members said of a row when it was scored: their links wait here.
    """

    def __init__(self, spec: Mapping[str, Any], ensemble: Ensemble) -> None:
        self.spec = dict(spec)
        self.ensemble = ensemble
        self._shape = len(ensemble.voters), ensemble.task.k
        self.held = Held(self._shape[0] * self._shape[1])

    def score(self, x: FeatureBatch, first: int, head: int) -> F64:
        """Its links ``(n, k)`` of rows from number ``first`` on.

        Raises :class:`~models.ensemble.ensemble.MemberError` if a member fails.
        """
        links, link = self.ensemble.score(x)
        self.held.hold(links.reshape(len(x), -1), first, head)
        return link

    def learn(self, numbers: I64, x: FeatureBatch, y: F64, w: F64) -> None:
        """Learn ``n`` rows as the first one does; of those scored before, only members do.

        Raises :class:`~models.ensemble.ensemble.MemberError` if a member fails.
        """
        links = np.full((len(y), *self._shape), np.nan)
        there = self.held.holds(numbers)
        links[there] = self.held.of(numbers[there]).reshape(-1, *self._shape)
        for error in self.ensemble.learn(x, links, y, w):
            raise error

    def state(self) -> State:
        """See :meth:`models.base.Model.state`."""
        return {"spec": self.spec, "ensemble": self.ensemble.state(), "made": self.held.state()}


class Whole(Learner):
    """An ensemble as one artefact: what another one takes, or has taken, the place of.

    What stands beside its members is no part of it.
    """

    def __init__(self, ensemble: Ensemble) -> None:
        self.ensemble = ensemble

    def parameters(self) -> Sequence[Parameter]:
        """See :meth:`models.base.Learner.parameters`."""
        return [row for rows in self.ensemble.parameters().values() for row in rows]

    def state(self) -> State:
        """See :meth:`models.base.Learner.state`."""
        own = {k: v for k, v in self.ensemble.state().items() if k not in _BESIDE}
        return own | {"challengers": {}}

    def restore(self, state: State) -> None:
        """See :meth:`models.base.Learner.restore`."""
        self.ensemble.restore(state)


def restored(state: State, another: Another) -> Second:
    """The one that gave ``state``, built by ``another``."""
    found = Second(state["spec"], another(state["spec"]))
    found.ensemble.restore(state["ensemble"])
    found.held.restore(state["made"])
    return found


def of(config: Config) -> dict[str, Any] | None:
    """The ensemble of a configuration as the spec of a second one.

    ``None`` where a record cannot name it, or its state could not be vouched for.
    """
    members = [member.model_dump(mode="json", exclude_defaults=True) for member in config.members]
    spec = {"combine": config.ensemble.combine, "members": members}
    return spec if all(keeps(member, config.target.type) for member in config.members) else None

"""Learners under their names: which of them learn, which are left out, and what they hold.

The auditor watches a group, the engine saves it. What its learners do together is the subclass's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from models.base import Learner, Parameter, State, StateError, state_digest

L = TypeVar("L", bound=Learner)
Spec = Mapping[str, Any]
"""A learner's definition, as a configuration has it, without its name."""


def key_of(place: str, number: int) -> str:
    """Under which name the challenger of a place with this number stands.

    >>> key_of("forest", 2)
    'forest #2'
    """
    return f"{place} #{number}"


def place_of(key: str) -> str:
    """The place that a challenger of this name challenges; of another name that itself.

    >>> place_of("forest #2"), place_of("forest")
    ('forest', 'forest')
    """
    return key.rpartition(" #")[0] or key


class Group(Generic[L]):
    """Learners in a fixed order.

    Parameters
    ----------
    members : mapping of name to Learner

    Attributes
    ----------
    challengers : dict of str to Learner
        By :func:`key_of` the place that each may take and its number.
    fresh : callable
        Builds the learner of a name anew: ``(name, number)``, where another number means another
        seed, and by another definition than its own ``(name, number, spec)``. Set by who builds the
        engine.
    last_good : dict of str to Learner
        What learners were, to be compared with.
    specs : dict of str to dict
        By which definition a learner was made, where that is not its own.

    A frozen one serves but does not learn. A quarantined one does neither. ``release`` ends both.
    """

    fresh: Callable[..., L]

    def __init__(self, members: Mapping[str, L]) -> None:
        self.members: dict[str, L] = dict(members)
        self.names: tuple[str, ...] = tuple(members)
        self.challengers: dict[str, L] = {}
        self.last_good: dict[str, L] = {}
        self.specs: dict[str, Spec] = {}
        self._frozen: set[str] = set()
        self._quarantined: set[str] = set()
        self._digested: dict[str, str] | None = None

    @property
    def frozen(self) -> frozenset[str]:
        """Names of those that do not learn because an operator said so."""
        return frozenset(self._frozen)

    @property
    def quarantined(self) -> frozenset[str]:
        """Names of those that are left out because they failed."""
        return frozenset(self._quarantined)

    def freeze(self, name: str) -> None:
        """It serves on but learns nothing until it is released."""
        self._frozen.add(self._known(name))

    def quarantine(self, name: str) -> None:
        """It neither serves nor learns until it is released."""
        self._quarantined.add(self._known(name))

    def release(self, name: str) -> None:
        """It serves and learns again."""
        self._frozen.discard(self._known(name))
        self._quarantined.discard(name)

    @contextmanager
    def as_it_is(self) -> Iterator[None]:
        """Whoever is put into quarantine within the block is out of it afterwards."""
        before = self._quarantined.copy()
        try:
            yield
        finally:
            self._quarantined = before

    def made(self, name: str, number: int, spec: Spec | None) -> L:
        """A new learner for the place, by this definition; ``None``: its own."""
        return self.fresh(name, number) if spec is None else self.fresh(name, number, spec)

    def taught(self, name: str) -> bool:
        """Whether it has learned a row since it began, where that matters."""
        return True

    def replace(self, name: str, model: L, spec: Spec | None = None, taught: bool = True) -> None:
        """Another model takes the place; it serves, and learns unless the place is frozen.

        ``spec``: by which definition it was made; ``None``: the place's own. ``taught``: whether it
        has learned a row.
        """
        self.members[self._known(name)] = model
        self.specs.pop(name, None)
        if spec is not None:
            self.specs[name] = spec
        self._quarantined.discard(name)

    def _known(self, name: str) -> str:
        if name not in self.members:
            raise KeyError(f"expected one of {', '.join(self.names)}; got {name!r}")
        return name

    def parameters(self) -> dict[str, Sequence[Parameter]]:
        """Each one's parameter table."""
        return {name: self.members[name].parameters() for name in self.names}

    def state(self) -> State:
        """The learners' and own state, as copies."""
        return {
            "names": list(self.names),
            "members": _states(self.members),
            "challengers": _states(self.challengers),
            **({"last_good": then} if (then := _states(self.last_good)) else {}),
            **self._own_state(),
        }

    def _own_state(self) -> State:
        return {
            "format": 1,
            "frozen": sorted(self._frozen),
            "quarantined": sorted(self._quarantined),
        }

    def view(self, only: Sequence[str] | None = None) -> State:
        """What scoring reads of :meth:`state`, without what stands beside the learners; of ``only``
        these learners, where others have not changed."""
        names = self.members if only is None else only
        views = {name: self.members[name].view() for name in names}
        return {"names": list(self.names), "members": views, **self._own_state()}

    def view_digest(self, view: State, known: Mapping[str, str] | None = None) -> str:
        """Hex digest of a view that these learners gave, or have taken over.

        Its learners may be packed, in a form that is the same for the same view. ``known``: the
        :func:`~models.base.state_digest` of each, where somebody took it already.
        """
        known = known or {name: state_digest(own) for name, own in view["members"].items()}
        digests = {
            name: root if (m := self.members[name]).digests_state() else m.digest()
            for name, root in known.items()
        }
        return state_digest(view | {"members": digests})

    def restore_view(self, view: State) -> None:
        """Score as the group that gave ``view``; see :meth:`models.base.Learner.restore_view`."""
        self._restore(view, viewed=True)

    def restore(self, state: State) -> None:
        """Take over what ``state`` tells of these learners, by name; the others start new.

        Raises :class:`StateError` where what is there does not fit.
        """
        self._restore(state, viewed=False)

    def _restore(self, state: State, viewed: bool) -> None:
        if state.get("format") != 1:
            raise StateError(f"ensemble: expected format 1, got {state.get('format')!r}")
        self._begin(state, viewed)
        for models, states in (
            (self.members, state["members"]),
            (self.challengers, state.get("challengers", {})),
            (self.last_good, state.get("last_good", {})),
        ):
            for name in [n for n in models if n in states]:
                try:
                    put = models[name].restore_view if viewed else models[name].restore
                    put(states[name])
                except StateError as error:
                    raise type(error)(f"member {name!r}: {error}") from error
        self._frozen = set(state["frozen"]).intersection(self.names)
        self._quarantined = set(state["quarantined"]).intersection(self.names)

    def _begin(self, state: State, viewed: bool) -> None:
        """Build what a state or view holds and a configuration does not name, to be restored."""

    def roots(self) -> dict[str, str]:
        """Digests of each learner, of what stands beside it, and of the rest (``"ensemble"``)."""
        return self._digests() | {"ensemble": state_digest(self._own_state())}

    def digest(self) -> str:
        """Hex digest of the whole state, by the learners' own digests."""
        return state_digest({"members": self._digests(), **self._own_state()})

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """None of them changes within the block: the digest of each is taken once."""
        self._digested = {}
        try:
            yield
        finally:
            self._digested = None

    def digest_of(self, name: str) -> str:
        """Hex digest of one of them."""
        if self._digested is None:
            return self.members[name].digest()
        if name not in self._digested:
            self._digested[name] = self.members[name].digest()
        return self._digested[name]

    def _digests(self) -> dict[str, str]:
        found = {name: self.digest_of(name) for name in self.members}
        found |= {f"challenger of {n}": m.digest() for n, m in self.challengers.items()}
        return found | {f"last good of {n}": m.digest() for n, m in self.last_good.items()}


def _states(models: Mapping[str, Learner]) -> State:
    return {name: model.state() for name, model in models.items()}

"""Names of member types to the classes that implement them.

A type is imported only when a configuration names it, so nobody pays for torch who runs no torch
member. Other packages add types through the entry-point group ``millrace.members``.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, Protocol

from pydantic import BaseModel

from models.base import FeatureSchema, MillraceError, Model

MEMBERS = {
    "constant": "models.members.constant:ConstantModel",
    "logistic": "models.members.logistic:LogisticModel",
    "crossed": "models.members.crossed:CrossedModel",
    "forest": "models.members.forest:ForestModel",
    "boosting": "models.members.boosting:BoostingModel",
    "river": "models.members.river.model:RiverModel",
    "torch": "models.members.torch.model:TorchModel",
}
"""Built-in member types: name to ``module:class``."""


class UnknownMember(MillraceError):
    """No member type has this name, or its package is not installed."""


class MemberClass(Protocol):
    """What a member type's class offers beside being a :class:`~models.base.Model`."""

    Params: type[BaseModel]

    def __call__(self, params: Any, schema: FeatureSchema, seed: int) -> Model:
        """Build a member with validated parameters for these columns."""


def member_types() -> list[str]:
    """Every known type name, sorted."""
    return sorted({*MEMBERS, *(e.name for e in entry_points(group="millrace.members"))})


def member_class(type_name: str) -> MemberClass:
    """The class of a member type; raises :class:`UnknownMember` that says what to do next."""
    if type_name in MEMBERS:
        module, _, attribute = MEMBERS[type_name].partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            if error.name == "torch":
                raise UnknownMember(
                    'this member needs torch, which is not installed: pip install "millrace[torch]"'
                ) from error
            raise
    for entry in entry_points(group="millrace.members"):
        if entry.name == type_name:
            return entry.load()
    raise UnknownMember(f"expected one of {', '.join(member_types())}; got {type_name!r}")


def names_code(type_name: str, params: Mapping[str, Any]) -> bool:
    """Whether building such a member runs code that its definition names."""
    return type_name not in MEMBERS or not params.keys().isdisjoint(("model", "module"))


def build(type_name: str, params: dict[str, Any], schema: FeatureSchema, seed: int) -> Model:
    """Build a member from its type name and raw parameters (validated here)."""
    cls = member_class(type_name)
    return cls(cls.Params.model_validate(params), schema, seed)

"""Names of member types to the classes that implement them.

A type is imported only when a configuration names it, so nobody pays for torch who runs no torch
member. Other packages add types through the entry-point group ``millrace.members``.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import entry_points
from typing import Any, Protocol

from pydantic import BaseModel

from models.base import FeatureSchema, Learner, MillraceError, Model
from models.task import BINARY, Task, TaskType

MEMBERS: dict[str, dict[TaskType, str]] = {
    "constant": {
        "binary": "models.members.constant:ConstantModel",
        "classes": "models.members.constant:ConstantClassesModel",
        "number": "models.members.constant:ConstantNumberModel",
    },
    "logistic": {
        "binary": "models.members.logistic:LogisticModel",
        "classes": "models.members.classes.logistic:SoftmaxModel",
        "number": "models.members.numbers.logistic:LinearModel",
    },
    "crossed": {
        "binary": "models.members.crossed:CrossedModel",
        "classes": "models.members.classes.crossed:CrossedClassesModel",
        "number": "models.members.numbers.crossed:CrossedNumberModel",
    },
    "boosting": {
        "binary": "models.members.boosting:BoostingModel",
        "classes": "models.members.classes.boosting:BoostingClassesModel",
        "number": "models.members.numbers.boosting:BoostingNumberModel",
    },
    "forest": {
        "binary": "models.members.forest:ForestModel",
        "classes": "models.members.classes.forest:ForestModel",
        "number": "models.members.numbers.forest:ForestModel",
    },
    "refit": {"binary": "models.members.refit.model:RefitModel"},
    "river": {
        "binary": "models.members.river.model:RiverModel",
        "classes": "models.members.river.model:RiverClassModel",
        "number": "models.members.river.model:RiverNumberModel",
    },
    "torch": {
        "binary": "models.members.torch.model:TorchModel",
        "classes": "models.members.torch.model:TorchClassModel",
        "number": "models.members.torch.model:TorchNumberModel",
    },
}
"""Built-in member types: name to the ``module:class`` for each type of target that it can learn."""


class UnknownMember(MillraceError):
    """No member type has this name, it cannot learn the target, or its package is missing."""


class MemberClass(Protocol):
    """What a member type's class offers beside being a :class:`~models.base.Model`.

    The class of an installed package may name the types of targets that it can learn as ``tasks``;
    without it learns yes or no alone.
    """

    Params: type[BaseModel]

    def __call__(self, params: Any, schema: FeatureSchema, seed: int, task: Task) -> Model:
        """Build a member with validated parameters for these columns and this target."""


def member_types() -> list[str]:
    """Every known type name, sorted."""
    return sorted({*MEMBERS, *(e.name for e in entry_points(group="millrace.members"))})


def member_class(type_name: str, task: TaskType = "binary") -> MemberClass:
    """The class of a member type; raises :class:`UnknownMember` that says what to do next."""
    if type_name in MEMBERS:
        if task not in MEMBERS[type_name]:
            raise _cannot(type_name, task, MEMBERS[type_name])
        module, _, attribute = MEMBERS[type_name][task].partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            if error.name == "torch":
                raise UnknownMember(
                    'this member needs torch, which is not installed: pip install "millrace[torch]"'
                ) from error
            raise _broken(type_name, error) from error
        except Exception as error:  # a library whose own parts do not fit may raise anything
            raise _broken(type_name, error) from error
    for entry in entry_points(group="millrace.members"):
        if entry.name == type_name:
            try:
                found = entry.load()
            except Exception as error:
                raise _broken(type_name, error) from error
            if task not in (can := getattr(found, "tasks", ("binary",))):
                raise _cannot(type_name, task, can)
            return found
    raise UnknownMember(f"expected one of {', '.join(member_types())}; got {type_name!r}")


def unloaded(type_name: str, task: TaskType) -> str | None:
    """The module of a built-in type that nobody has imported yet; ``None``: there is none."""
    module = MEMBERS.get(type_name, {}).get(task, "").partition(":")[0]
    return module if module and module not in sys.modules else None


def _broken(type_name: str, error: Exception) -> UnknownMember:
    return UnknownMember(
        f"{type_name!r} cannot be imported: {type(error).__name__}: {error}; install its packages"
        " in the versions of constraints.txt"
    )


def _cannot(type_name: str, task: TaskType, can: Iterable[str]) -> UnknownMember:
    able = ", ".join(name for name, tasks in MEMBERS.items() if task in tasks)
    return UnknownMember(
        f"{type_name!r} learns {', '.join(can)}; a target of type {task!r} can be learned by {able}"
    )


def digests_state(type_name: str, task: TaskType) -> bool:
    """See :meth:`models.base.Learner.digests_state`, of members of this type."""
    return getattr(member_class(type_name, task), "digest", None) is Learner.digest


def names_code(type_name: str, params: Mapping[str, Any]) -> bool:
    """Whether building such a member runs code that its definition names."""
    return type_name not in MEMBERS or not params.keys().isdisjoint(("model", "module"))


def build(
    type_name: str,
    params: dict[str, Any],
    schema: FeatureSchema,
    seed: int,
    task: Task = BINARY,
) -> Model:
    """Build a member from its type name and raw parameters (validated here)."""
    cls = member_class(type_name, task.type)
    made: Callable[..., Model] = getattr(cls, "in_arenas", cls)
    return made(cls.Params.model_validate(params), schema, seed, task)

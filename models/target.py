"""Settings of ``[target]``: what is to be told, and the task that they make."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from models.settings import Settings, refused
from models.task import NAME_LENGTH, Binary, Classes, Number, Taken, Task

NEGATIVE, DROP = "negative", "drop"
"""What ``label.at_horizon`` says of silence, beside a class or a number."""

Values = Mapping[str, int | str]
Kind = type[Task]


class BinaryTarget(Settings):
    """Yes or no: the score is the probability of yes."""

    kind: ClassVar[Kind] = Binary
    no_risk: ClassVar[str | None] = None

    type: Literal["binary"] = "binary"

    def problems(self, values: Values | None, at_horizon: str | None) -> Iterator[str]:
        """What does not fit of ``label.values`` and ``label.at_horizon``."""
        for text, name in (values or {}).items():
            if isinstance(name, str):
                yield f"label.values.{text}: expected 0 or 1, got {name!r}"
        if at_horizon not in (None, NEGATIVE, DROP):
            yield f"label.at_horizon: expected 'negative' or 'drop', got {at_horizon!r}"

    def task(self, values: Values | None, at_horizon: str | None, threshold: float) -> Binary:
        """The task of settings without :meth:`problems`."""
        truths = {k: int(v) for k, v in values.items()} if values else None
        return Binary(truths, math.nan if at_horizon == DROP else 0.0, threshold)


class ClassesTarget(Settings):
    """One of several classes: a score is the probability of each."""

    kind: ClassVar[Kind] = Classes

    type: Literal["classes"]
    classes: tuple[Annotated[str, Field(min_length=1, max_length=NAME_LENGTH)], ...] = Field(
        (),
        max_length=1000,
        description="the classes, by the text of their labels; two at least without `max_classes`",
    )
    max_classes: int | None = Field(
        None,
        ge=2,
        le=1000,
        description="so many classes there may be: beside `classes`, those that labels name first."
        " Members have a column for each from the start. Unset: `classes` are all",
    )
    abstain_below: float = Field(
        0.0,
        ge=0,
        le=1,
        description="no class is predicted where the likeliest has less probability than this",
    )
    coverage: float = Field(
        0.9,
        gt=0,
        lt=1,
        description="how often the set of classes that is told with a score holds the truth",
    )
    alert: str | None = Field(
        None, description="a class: where its probability is `ensemble.threshold` or more, alert"
    )

    @property
    def no_risk(self) -> str | None:
        """What windows of risk lack; ``None``: they count the class that alerts."""
        return "target.alert" if self.alert is None else None

    @model_validator(mode="after")
    def _counted(self) -> Self:
        n, most = len(self.classes), self.max_classes
        if most is None and n < 2:
            raise refused(
                ("classes",), "expected two at least, or target.max_classes", self.classes
            )
        if most is not None and n > most:
            raise refused(("max_classes",), f"expected at least the {n} of target.classes", most)
        return self

    @model_validator(mode="after")
    def _once(self) -> Self:
        for i, name in enumerate(self.classes):
            if name in self.classes[:i] or name == DROP:
                raise refused(("classes", i), "expected a name of its own", name)
        if self.alert is not None and self.alert not in self.classes:
            raise refused(("alert",), "expected one of target.classes", self.alert)
        return self

    def problems(self, values: Values | None, at_horizon: str | None) -> Iterator[str]:
        """What does not fit of ``label.values`` and ``label.at_horizon``."""
        known = f"one of {', '.join(self.classes)}" if self.classes else "one of target.classes"
        for text, name in (values or {}).items():
            if self.max_classes is None and name not in self.classes:
                yield f"label.values.{text}: expected {known}, got {name!r}"
            elif not 1 <= len(str(name)) <= NAME_LENGTH:
                named = f"a class, named by 1..{NAME_LENGTH} characters"
                yield f"label.values.{text}: expected {named}, got {name!r}"
        if at_horizon not in (None, DROP, *self.classes):
            yield f"label.at_horizon: expected 'drop' or {known}, got {at_horizon!r}"

    def task(self, values: Values | None, at_horizon: str | None, threshold: float) -> Classes:
        """The task of settings without :meth:`problems`."""
        names = {text: str(name) for text, name in (values or {}).items()}
        silence = None if at_horizon in (None, DROP) else at_horizon
        settings = (self.alert, threshold, self.abstain_below, self.coverage, self.max_classes)
        return Classes(self.classes, names, silence, *settings)


class NumberTarget(Settings):
    """A number: a score is the number expected."""

    kind: ClassVar[Kind] = Number
    no_risk: ClassVar[str | None] = "a target of yes or no, or of classes"

    type: Literal["number"]
    unit: str = Field("", max_length=40, description="of the number, such as `min`, for people")
    minimum: float | None = Field(
        None, allow_inf_nan=False, description="a label below it is a dead letter"
    )
    maximum: float | None = Field(
        None, allow_inf_nan=False, description="a label above it is a dead letter"
    )
    coverage: float = Field(
        0.9,
        gt=0,
        lt=1,
        description="how often the interval that is told with a score holds the truth",
    )
    quantiles: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (),
        max_length=20,
        description="of each, such as `0.9`, the pinball loss of the scores as that quantile of the"
        " truth is told with the quality",
    )
    alert_above: float | None = Field(
        None, allow_inf_nan=False, description="a score at or above it is an alert"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.minimum is not None and self.maximum is not None and self.minimum >= self.maximum:
            raise refused(("maximum",), f"expected more than {self.minimum:g}", self.maximum)
        return self

    @model_validator(mode="after")
    def _apart(self) -> Self:
        names = [f"{quantile:g}" for quantile in self.quantiles]
        for i, name in enumerate(names):
            if name in names[:i]:
                raise refused(("quantiles", i), "expected another one", self.quantiles[i])
        return self

    def problems(self, values: Values | None, at_horizon: str | None) -> Iterator[str]:
        """What does not fit of ``label.values`` and ``label.at_horizon``."""
        if values:
            yield f"label.values: expected none, since labels are numbers, got {dict(values)}"
        number = self._number()
        if at_horizon not in (None, DROP) and math.isnan(number.truth(str(at_horizon))):
            expected = f"'drop' or {number.expected}"
            yield f"label.at_horizon: expected {expected}, got {at_horizon!r}"

    def task(self, values: Values | None, at_horizon: str | None, threshold: float) -> Number:
        """The task of settings without :meth:`problems`."""
        silent = at_horizon not in (None, DROP)
        return self._number(float(str(at_horizon)) if silent else math.nan)

    def _number(self, silence: float = math.nan) -> Number:
        low = -math.inf if self.minimum is None else self.minimum
        high = math.inf if self.maximum is None else self.maximum
        above = math.inf if self.alert_above is None else self.alert_above
        return Number(low, high, self.unit, silence, above, self.coverage, self.quantiles)


class RankingTarget(Settings):
    """Items for users, best first: `[reco]` says how they are ranked."""

    kind: ClassVar[Kind] = Taken
    no_risk: ClassVar[str | None] = None

    type: Literal["ranking"]

    def problems(self, values: Values | None, at_horizon: str | None) -> Iterator[str]:
        """What does not fit of ``label.values`` and ``label.at_horizon``."""
        if values:
            yield f"label.values: expected none, since nothing is labelled, got {dict(values)}"
        if at_horizon is not None:
            yield f"label.at_horizon: expected none, got {at_horizon!r}"

    def task(self, values: Values | None, at_horizon: str | None, threshold: float) -> Taken:
        """The task of settings without :meth:`problems`."""
        return Taken()


Target = Annotated[
    BinaryTarget | ClassesTarget | NumberTarget | RankingTarget, Field(discriminator="type")
]

"""The settings of a shard that ranks: ``[reco]``, and the one form that its records have."""

from __future__ import annotations

import re
from operator import eq, ge, gt, le, lt
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, Field, PositiveFloat

from models.reco.settings import ExploreSettings, RecoSettings
from models.settings import Duration, Name, Settings

RECOMMENDER = "recommender"
"""What learns in a shard that ranks: all of its members together."""
RATINGS = "ratings"
"""What learns there where ratings are foretold, likewise."""

RANKING_EVENT = {
    "time": "timestamp",
    "time_format": "ms",
    "fields": {"user": "entity", "session": "entity", "item": "entity"},
}
"""How a record of :mod:`stream.decode.feedback` writes its time, and whom it is about."""

ROW_ENTITIES = ("user", "session", "item", "pair")
OF_USER = ("user", "session", "pair")
"""Those of them whose rows all are of one user, or of one session without a user."""
UTILITY = "utility"
"""What each candidate has that ``[[members]]`` score, beside its fields: whom and what it is about
(``pair``: this item for this user), and as numbers what the stack and each of ``reco.members`` say
of it."""

_CONDITION = re.compile(r"([^\s<>=]+)(?:\s*(<=|>=|<|>|==)\s*(-?\d+(?:\.\d+)?))?")


def _condition(text: str) -> str:
    if _CONDITION.fullmatch(text) is None:
        raise ValueError("expected a type of interaction, such as `purchase`, or `rating >= 4`")
    return text


class TableSettings(Settings):
    """How a file of interactions is written that is no JSON Lines of records: one a row."""

    columns: tuple[str, ...] = Field(
        (), description="names of the columns, of a file that does not begin with them"
    )
    separator: str | None = Field(
        None,
        min_length=1,
        max_length=1,
        description="what stands between cells of a text file; default: a comma, or the semicolon, "
        "tab or bar that its first line has instead",
    )
    user: str = Field("user", description="the column of the user; it may be missing")
    session: str = Field("session", description="the column of the session; it may be missing")
    item: str = Field("item", description="the column of the item")
    time: str = Field("timestamp", description="the column of the time, as `event.time_format`")
    type: str = Field("type", description="the column of the type; it may be missing")
    value: str = Field("value", description="the column of the rating; it may be missing")
    default_type: str = Field(
        "interaction", min_length=1, description="the type of rows that say none"
    )


class RankingSettings(RecoSettings):
    """How items are ranked, and what counts of what users do with them."""

    positive: dict[Annotated[str, AfterValidator(_condition)], PositiveFloat] | None = Field(
        None,
        min_length=1,
        description="the interactions that are learned, each with what it counts for: a type, such"
        " as `purchase`, or a type whose `value` is in a range, such as `rating >= 4`; any other"
        " is not learned. Default: every one counts for 1",
    )
    also_seen: tuple[Annotated[str, AfterValidator(_condition)], ...] = Field(
        (),
        description='interactions that are not learned, and yet with `seen = "exclude"` the item'
        " is not shown to the user again: such as `dislike`, or `rating < 4`",
    )
    candidates: int = Field(
        200,
        ge=1,
        le=10_000,
        description="so many items are put in order by `[[members]]`, where there are any; of those"
        " that a request gives all",
    )
    item_ttl: Duration | None = Field(
        None, description="an item is not shown once nothing was heard of it for so long"
    )
    explore: ExploreSettings | None = Field(
        None, description="how lists are drawn; default: the best items, in order"
    )
    table: TableSettings = TableSettings()
    categories: Name = Field("categories", description="the field of an item that names them")
    hidden: Name = Field("hidden", description="the field of an item that keeps it hidden")

    @property
    def learners(self) -> tuple[str, ...]:
        """What learns of interactions: the recommender, and ratings where they are foretold."""
        return (RECOMMENDER,) if self.ratings is None else (RECOMMENDER, RATINGS)

    def conditions(self) -> list[Condition]:
        """:attr:`positive`, taken apart; empty where every interaction counts for 1."""
        return [_parsed(text, weight) for text, weight in (self.positive or {}).items()]

    def seen_conditions(self) -> list[Condition]:
        """:attr:`also_seen`, taken apart."""
        return [_parsed(text, 0.0) for text in self.also_seen]


class Condition(NamedTuple):
    """Interactions of a type, with a value in a range where ``compare`` is given, and their weight.

    The first that holds counts.
    """

    type: str
    compare: str | None
    value: float
    weight: float

    def holds(self, type: str, value: float) -> bool:
        """Whether it is about an interaction; ``value`` is ``nan`` where it has none."""
        return type == self.type and (
            self.compare is None or _COMPARE[self.compare](value, self.value)
        )


def _parsed(text: str, weight: float) -> Condition:
    parts = _CONDITION.fullmatch(text)
    assert parts is not None
    kind, compare, value = parts.groups()
    return Condition(kind, compare, float(value or 0), weight)


_COMPARE = {"<": lt, "<=": le, ">": gt, ">=": ge, "==": eq}

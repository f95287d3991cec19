"""Settings of a recommender: which members, how much is remembered, what may be shown."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from models.kernels.reco.tables import MOST_ITEMS
from models.settings import Duration, Settings, refused

Seen = Literal["exclude", "include", "decay"]
"""What becomes of items that a user took."""


class PopularParams(Settings):
    """Parameters of the member `popular`: shares of two counts that fade."""

    slow: float = Field(30_000, ge=10, le=1e9, description="interactions that the slow count holds")
    fast: float = Field(1_000, ge=10, le=1e9, description="interactions that the fast count holds")


class CooccurrenceParams(Settings):
    """Parameters of the member `cooccurrence`: what users took after, and before, each item."""

    length: int = Field(20, ge=1, le=200, description="a user's last items that count")
    fade: float = Field(5.0, gt=0, le=1e6, description="the last but q counts for e^(-q / fade)")
    back: float = Field(
        0.7, ge=0, le=1, description="what the later item tells of the earlier, beside the reverse"
    )
    prior: float = Field(20.0, ge=0, le=1e6, description="items seen with less count for less")


class SessionsParams(Settings):
    """Parameters of the member `sessions`: users with the same last items, and what they took."""

    entries: int = Field(512, ge=1, le=8192, description="users remembered for each item")
    neighbours: int = Field(300, ge=1, le=10_000, description="most similar users that count")
    length: int = Field(20, ge=1, le=200, description="a user's last items that are compared")
    fade: float = Field(20.0, gt=0, le=1e6, description="the last but q counts for e^(-q / fade)")
    reach: float = Field(
        20.0, gt=0, le=1000, description="what stands d away counts for e^(-d / reach)"
    )
    back: float = Field(1.0, ge=0, le=1, description="what stands before counts for, beside after")


class EaseParams(Settings):
    """Parameters of the member `ease`: each item foretold from all others by one regression."""

    places: int = Field(2048, ge=8, le=8192, description="items that take part, at most")
    ridge: float = Field(300.0, gt=0, le=1e6, description="the ridge of the regression")
    length: int = Field(50, ge=1, le=1000, description="a user's last items that count")
    fade: float = Field(6.0, gt=0, le=1e6, description="the last but q counts for e^(-q / fade)")
    floor: float = Field(0.02, ge=0, le=1, description="added to what each of them counts for")
    batch: int = Field(
        32, ge=1, le=512, description="items of a user that are learned at once, at most"
    )


class BprParams(Settings):
    """Parameters of the member `bpr`: vectors by which what is taken scores above what is not."""

    factors: int = Field(32, ge=1, le=512, description="length of the vectors")
    rate: float = Field(0.05, gt=0, le=1, description="how far one step goes")
    regularisation: float = Field(0.01, ge=0, le=1, description="how fast vectors shrink")
    negatives: int = Field(5, ge=1, le=100, description="items drawn for each interaction")


class EalsParams(Settings):
    """Parameters of the member `eals`: vectors by which what is not taken scores 0."""

    factors: int = Field(32, ge=1, le=256, description="length of the vectors")
    missing: float = Field(0.02, gt=0, lt=1, description="weight of each item that was not taken")
    regularisation: float = Field(0.1, gt=0, le=100, description="how small vectors are kept")


class BiasFactorsParams(Settings):
    """Parameters of the member `bias_factors`: biases and vectors, by a filter."""

    factors: int = Field(8, ge=1, le=64, description="length of the vectors")
    noise: float = Field(
        0.6, gt=0, le=10, description="variance of a rating that is known best, in that of all"
    )


class NeighboursParams(Settings):
    """Parameters of the members `item_knn` and `user_knn`: what is rated alike."""

    cells: int = Field(256, ge=16, le=8192, description="neighbours kept of each, a power of two")
    length: int = Field(
        128, ge=1, le=8192, description="last ratings of a user, or of an item, that count"
    )
    prior: float = Field(
        50.0, ge=0, le=1e6, description="neighbours with fewer ratings in common count for less"
    )

    @model_validator(mode="after")
    def _is_a_power(self) -> Self:
        if self.cells & (self.cells - 1):
            raise refused(("cells",), "expected a power of two", self.cells)
        return self


class Chosen(Settings):
    """Members by name, each a table of its parameters; those that are named take part."""

    @property
    def names(self) -> tuple[str, ...]:
        """Those that take part, in the order of their columns."""
        return tuple(name for name in type(self).model_fields if getattr(self, name) is not None)

    @property
    def absent(self) -> tuple[str, ...]:
        """Those that do not."""
        return tuple(name for name in type(self).model_fields if getattr(self, name) is None)

    @model_validator(mode="after")
    def _has_one(self) -> Self:
        if not self.names:
            raise refused((), "expected at least one member", {})
        return self


class Members(Chosen):
    """The members of a recommender; those that are named take part."""

    popular: PopularParams | None = None
    cooccurrence: CooccurrenceParams | None = None
    sessions: SessionsParams | None = None
    ease: EaseParams | None = None
    bpr: BprParams | None = None
    eals: EalsParams | None = None


class RatingMembers(Chosen):
    """The members that foretell ratings; those that are named take part."""

    bias_factors: BiasFactorsParams | None = None
    item_knn: NeighboursParams | None = None
    user_knn: NeighboursParams | None = None


class RatingSettings(Settings):
    """How the `value` of interactions is foretold."""

    members: RatingMembers = Field(
        RatingMembers(
            bias_factors=BiasFactorsParams(),
            item_knn=NeighboursParams(),
            user_knn=NeighboursParams(),
        ),
        description="the members that foretell ratings, each a table of its parameters",
    )
    drift: float = Field(
        2e-9,
        ge=0,
        le=1,
        description="how fast the stack forgets: what each rating adds to the variances of its"
        " weights",
    )

    @property
    def scorers(self) -> tuple[str, ...]:
        """Whose ratings there are: those that are shown, then the members'."""
        return ("ratings", *self.members.names)


class ExploreSettings(Settings):
    """How lists are drawn, so that what is not shown by itself gets its chance; one of the two."""

    epsilon: float | None = Field(
        None, gt=0, le=1, description="a place is filled by any item with this probability"
    )
    temperature: float | None = Field(
        None,
        gt=0,
        le=1000,
        description="items are drawn by how likely they are to be taken, at 1 as the stack"
        " believes, above more evenly, below less",
    )

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.epsilon is None) == (self.temperature is None):
            raise refused((), "expected one of epsilon and temperature", self.model_dump())
        return self


class RecoSettings(Settings):
    """What a recommender remembers, and which members rank."""

    members: Members = Field(
        Members(
            popular=PopularParams(), cooccurrence=CooccurrenceParams(), sessions=SessionsParams()
        ),
        description="the members that rank, each a table of its parameters",
    )
    ratings: RatingSettings | None = Field(
        None, description="how the `value` of interactions is foretold; not at all without"
    )
    users: int = Field(
        1_000_000, ge=1, le=1 << 28, description="users kept; the longest idle goes first"
    )
    items: int = Field(
        100_000, ge=1, le=MOST_ITEMS - 1, description="items kept; the longest idle goes first"
    )
    history: int = Field(
        1024, ge=1, le=1 << 16, description="last items of a user that are remembered, hence seen"
    )
    seen: Seen = Field(
        "exclude",
        description="whether what a user took is shown to him again; `decay`: the less the later he"
        " took it",
    )
    seen_fade: float = Field(
        20.0,
        gt=0,
        le=1e6,
        description="with `decay`, what he took last but q is as likely to be taken again as any"
        " other item, times 1 - e^(-(q + 1) / seen_fade)",
    )
    session_gap: Duration = Field(
        1_800_000, ge=1, description="a longer silence of a user begins a new sitting"
    )

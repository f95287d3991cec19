"""The settings of drift alarms, challengers and the guard. Nothing here watches anything."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from models.settings import Duration, Settings, parse_duration

EVIDENCE = 100_000.0
MARGIN = 0.005
# Chosen on other seeds than benchmarks/drift.py reports; see docs/drift.md.


class DriftSettings(Settings):
    """When a rise of an error is an alarm, and what it sets off beside being told."""

    evidence: float = Field(
        EVIDENCE,
        gt=1,
        allow_inf_nan=False,
        description="bets that nothing got worse must be lost so many times over; at 100,000 a"
        " signal of independent errors alarms falsely less than once in 10,000,000 labels",
    )
    margin: float = Field(
        MARGIN, ge=0, lt=1, description="a rise of an error, 0..1, that is let pass"
    )

    on_alarm: Literal["none", "weights", "reset", "challenge"] = Field(
        "none",
        description="`weights`: the combiner begins anew; `reset`: the member that alarmed begins"
        " anew, at an alarm of the ensemble the combiner; `challenge`: a model as new begins to"
        " learn beside the member that alarmed, by `[challengers]`",
    )


class ChallengersSettings(Settings):
    """When a challenger is better than the member beside which it learns, and what follows."""

    alpha: float = Field(
        0.05, gt=0, lt=1, description="chance that one of a member's challengers wins falsely, ever"
    )
    block: Duration = Field(
        parse_duration("1d"),
        gt=0,
        description="event time whose labels count as one: rows nearer to each other may depend",
    )
    rows: int = Field(500, ge=1, description="labels of a block, at least")
    deadline: Duration = Field(
        parse_duration("90d"), gt=0, description="event time after which one not better is dropped"
    )
    at_once: int = Field(
        4,
        ge=1,
        le=16,
        description="challengers of a member, or of all, that may run at once: the first that is"
        " better ends the others",
    )
    promote: Literal["propose", "auto"] = Field(
        "propose",
        description="`propose`: a record and an alert, and an operator's command promotes;"
        " `auto`: it takes the place at once",
    )


class GuardSettings(Settings):
    """Whether members are compared with their last good versions, in blocks of `[challengers]`."""

    on_worse: Literal["none", "propose", "rollback"] = Field(
        "none",
        description="`propose`: a record and an alert when a member, or the ensemble, has become"
        " worse than it was, and an operator's command puts the version back; `rollback`: it goes"
        " back at once; `none`: nothing is compared. Else each event is scored twice",
    )
    false_every: int = Field(
        1_000,
        ge=2,
        description="blocks, on average and at least, until that is said of a member that is not"
        " worse",
    )
    renew: Duration = Field(
        parse_duration("28d"),
        gt=0,
        description="event time after which a newer version is what a member is compared with,"
        " unless the older one has been better lately",
    )

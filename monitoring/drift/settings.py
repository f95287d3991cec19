"""The settings of drift alarms. Nothing here watches anything: ``monitor.py`` does."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from models.settings import Settings

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

    on_alarm: Literal["none", "weights", "reset", "swap"] = Field(
        "none",
        description="`weights`: the combiner begins anew; `reset`: the member that alarmed begins"
        " anew, at an alarm of the ensemble the combiner; `swap`: a challenger of the member that"
        " alarmed begins to learn beside it and takes its place once it is better",
    )
    challenger_after: int = Field(
        1000, ge=1, description="labels that member and challenger are compared on at least"
    )
    challenger_until: int = Field(
        10_000, ge=1, description="labels after which a challenger that is not better is dropped"
    )

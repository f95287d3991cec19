"""The settings of the parameter auditor: how often it looks, what is allowed, what is expected.

Nothing here measures anything: ``auditor.py`` enforces them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from pydantic import Field

from models.settings import Name, Settings

AuditEvent = Literal[
    "created",
    "summary",
    "grown",
    "pruned",
    "restructured",
    "swapped",
    "refit",
    "installed",
    "rolled_back",
    "made_room",
    "pinned",
    "hyper_changed",
    "member_added",
    "member_removed",
    "reconfigured",
    "checkpointed",
    "frozen",
    "released",
    "quarantined",
    "rejected",
    "warned",
    "threshold_set",
    "class_added",
    "checkpoint_requested",
    "drift",
    "weights_reset",
    "member_reset",
    "challenger_started",
    "challenger_warned",
    "challenger_proposed",
    "challenger_promoted",
    "challenger_dropped",
    "guarded",
    "guard_ended",
    "rollback_proposed",
    "refit_due",
    "corrected",
    "retracted",
    "version_published",
    "version_applied",
    "risk_lacking",
    "moved",
    "rebuild_asked",
    "rebuild_withdrawn",
]
EVENTS: tuple[AuditEvent, ...] = get_args(AuditEvent)
"""Every event a record may name. ``refit`` is reserved."""

Reaction = Literal[
    "weights_reset",
    "member_reset",
    "challenger_started",
    "challenger_warned",
    "challenger_proposed",
    "challenger_promoted",
    "challenger_dropped",
]
REACTIONS: tuple[Reaction, ...] = get_args(Reaction)
"""The events that a drift alarm can set off, at once or by a challenge."""

ALARMING: frozenset[AuditEvent] = frozenset({"quarantined", "rejected", "warned"})

Rule = Literal["parameters", "bytes", "growth_per_hour", "update_norm", "nonfinite"]
RULES: tuple[Rule, ...] = get_args(Rule)
STRUCTURAL: tuple[Rule, ...] = ("parameters", "bytes", "growth_per_hour")
"""Rules that a count answers; the rest read values."""

Action = Literal["warn", "reject", "quarantine"]


class Budget(Settings):
    """One limit and what happens to a member that passes it."""

    limit: float = Field(ge=0, allow_inf_nan=False, description="passed when a measure is above it")
    action: Action = Field(
        "warn",
        description="`warn`: a record; `reject`: the update is undone, the member learns on;"
        " `quarantine`: undone, and the member leaves the ensemble until it is released."
        " `reject` and `quarantine` copy the member's state before each update",
    )


class UpdateBudget(Budget):
    """A limit of one update, for a member that has found its scale.

    A member that begins at zero moves far beside its norm: it is no outlier before it has learned,
    nor later where its own updates are as large.
    """

    after: int = Field(1_000, ge=0, description="labels that the member learns before")
    times: float = Field(
        10.0,
        ge=0,
        allow_inf_nan=False,
        description="passed only when above so many times the member's own recent updates, too:"
        " the largest of the last 64 that were kept, or the largest by row times the rows of this"
        " one; 0: `limit` alone",
    )


class TotalBudgets(Settings):
    """Budgets of all members together; the member whose update passes one is the one acted on."""

    parameters: Budget | None = Field(None, description="learned and statistic scalars")
    bytes: Budget | None = Field(None, description="what these scalars occupy")
    growth_per_hour: Budget | None = Field(
        None, description="scalars gained since the hour began, by the steps' clock"
    )


class MemberBudgets(TotalBudgets):
    """Budgets of one member."""

    update_norm: UpdateBudget | None = Field(
        None,
        description="change of the learned arrays in one update: its L2 norm over that of the"
        " arrays before, or over 1 where that is smaller",
    )
    nonfinite: Budget | None = Field(
        None,
        description="learned scalars that are NaN or infinite. Unset: a member with any is put"
        " into quarantine as it is, found once it learned 256 labels and one for each 256 of its"
        " scalars",
    )

    def rules(self) -> dict[Rule, Budget]:
        """The budgets that are set."""
        return {rule: b for rule in RULES if (b := getattr(self, rule)) is not None}


class AuditSettings(Settings):
    """What the audit trail records and the auditor enforces."""

    summary_every: int = Field(
        10_000,
        ge=1,
        description="labels a member learns between two summaries of it; more where it holds much",
    )
    expected_events: tuple[AuditEvent, ...] = Field(
        tuple(event for event in EVENTS if event not in ALARMING),
        description="the change envelope: a record of any other event says `inside: false`",
    )
    each: MemberBudgets = Field(MemberBudgets(), description="budgets of every member")
    member: dict[Name, MemberBudgets] = Field(
        {}, description="by member, rule by rule in place of those in `each`"
    )
    total: TotalBudgets = TotalBudgets()
    key: Path | None = Field(
        None, description="PEM file with the Ed25519 private key that signs records and anchors"
    )
    anchor_every: int = Field(
        1000, ge=1, description="records between two signed heads in `audit-anchors.jsonl`"
    )
    witness: Path | None = Field(
        None,
        description="a second file for the signed heads, where the service's machine alone cannot"
        " rewrite it",
    )

    def rules_of(self, member: str) -> dict[Rule, Budget]:
        """The member's budgets by rule."""
        own = self.member.get(member)
        return self.each.rules() | (own.rules() if own else {})

    def total_rules(self) -> dict[Rule, Budget]:
        """The budgets of all members together."""
        return {rule: b for rule in STRUCTURAL if (b := getattr(self.total, rule)) is not None}

"""A hold: why a machine that is not up to date is not being worked on, and what would lift it."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from upkeep.core.model import BudgetId, MachineId, Priority, System


class HoldReason(StrEnum):
    """Why a machine that is not up to date is not being worked on; docs/holds.md says each."""

    AUTO_UPGRADE_OFF = "AUTO_UPGRADE_OFF"
    VERSION_BAD = "VERSION_BAD"
    FLOOR = "FLOOR"
    MODEL_BY_HAND = "MODEL_BY_HAND"
    MODEL_BAD = "MODEL_BAD"
    ROLLOUT_CANCELLED = "ROLLOUT_CANCELLED"
    RETRY_LATER = "RETRY_LATER"
    RETRIES_SPENT = "RETRIES_SPENT"
    PAUSED = "PAUSED"
    CLOCK_STEPPED = "CLOCK_STEPPED"
    DOMAIN_LOST = "DOMAIN_LOST"
    BLACKOUT = "BLACKOUT"
    OUTSIDE_WINDOW = "OUTSIDE_WINDOW"
    WINDOW_TOO_SHORT = "WINDOW_TOO_SHORT"
    PAUSE_BETWEEN_BATCHES = "PAUSE_BETWEEN_BATCHES"
    BATCH_OPEN = "BATCH_OPEN"
    HALTED = "HALTED"
    CANCELLING = "CANCELLING"
    PROTECTED = "PROTECTED"
    OPTED_OUT = "OPTED_OUT"
    SKIP_REQUESTED = "SKIP_REQUESTED"
    UNREACHABLE = "UNREACHABLE"
    INITIALIZING = "INITIALIZING"
    NEEDS_APPROVAL = "NEEDS_APPROVAL"
    HOOK = "HOOK"
    CANARY = "CANARY"
    CHECKPOINT = "CHECKPOINT"
    RAMP = "RAMP"
    ALARM = "ALARM"
    OTHER_WORK = "OTHER_WORK"
    BUDGET_SPENT = "BUDGET_SPENT"
    BUDGET_RESERVED = "BUDGET_RESERVED"
    RATE_SPENT = "RATE_SPENT"
    FAILED_HERE = "FAILED_HERE"
    MACHINE_STOPPED = "MACHINE_STOPPED"
    NOT_IN_ROLLOUT = "NOT_IN_ROLLOUT"
    NOTICE = "NOTICE"
    REPAIR_GRACE = "REPAIR_GRACE"
    REPAIRS_BUSY = "REPAIRS_BUSY"
    REPAIRS_SUSPENDED = "REPAIRS_SUSPENDED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Not now: why, until when if that is known, and what would lift it, in words."""

    machine: MachineId
    system: System
    reason: HoldReason
    until: datetime | None = None
    lifted_by: str
    budget: BudgetId = BudgetId("")  # noqa: RUF009  A NewType is the string itself.
    priority: Priority = Priority.OTHER

"""The nouns of the core as frozen values (DESIGN §3).

Beside it: hold.py, why a machine waits; hook_event.py, what a rollout asks at a lifecycle hook;
snapshot.py, what `plan_group` reads and answers.
Nothing here decides: deciding is spread over one file a topic, see `plan.py`.

Invariants: times are aware and UTC; tuples are sorted by id unless a field says otherwise; an
empty string means "not known" or "none", never a missing value that somebody forgot.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import IntEnum, StrEnum
from typing import NewType

from upkeep.core.policy import DEFAULTS, RollingPolicy
from upkeep.core.task import TaskState

MachineId = NewType("MachineId", str)
GroupId = NewType("GroupId", str)
RolloutId = NewType("RolloutId", str)
BudgetId = NewType("BudgetId", str)


class System(StrEnum):
    """Who proposes work."""

    OS_IMAGE = "os_image"
    OPERATOR = "operator"  # A person's own call: restart, stop, start, delete.
    SCALE = "scale"  # The group has too few or too many machines.
    REPAIR = "repair"  # Machines that stay unhealthy.


class Priority(IntEnum):
    """Who goes first when a budget has one place left; lower goes first (DESIGN §5)."""

    FORCED_HOST = 0
    OPERATOR = 1
    REPAIR = 2
    SECURITY = 3
    OTHER = 4


class Verb(StrEnum):
    """What an action does to one machine; closed, the executor knows each."""

    CREATE = "create"
    START = "start"
    STOP = "stop"
    RESTART = "restart"
    REPLACE_OS_DISK = "replace_os_disk"
    REIMAGE = "reimage"  # A fresh OS disk of the version that the machine runs.
    SWITCH_BACK = "switch_back"
    DELETE = "delete"
    DRAIN = "drain"  # By the agent, not the platform.


class Health(StrEnum):
    INITIALIZING = "initializing"  # Just started or under work: wait.
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"  # Reached, and not well.
    UNKNOWN = "unknown"  # Neither the agent nor the prober reaches it: down, and left alone.


class Lifecycle(StrEnum):
    CREATING = "creating"
    PRESENT = "present"
    STOPPED = "stopped"  # An operator stopped it: counted nowhere, proposed for nothing.
    DELETING = "deleting"
    DELETED = "deleted"  # Confirmed by the platform; the next snapshot does not carry it.


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One machine: what is wanted of it and what was last seen of it.

    Attributes:
        image: the version on the OS disk in use, as the platform or the agent saw it last.
        kept: the version on the kept previous OS disk; empty when there is none.
        model, kept_model: the model that these two disks were made with, as the platform saw it.
        boots: start counter of the platform; it rises with every start.
        health_since: when `health` took its present value.
        powered_off: the platform says that it is off, though nobody here stopped it.
        lost_at: when it last turned UNKNOWN outside of work; None if never.
        back_at: when it was last reached again after that; None while it is away.
        worked_at: when the last work on it ended; failures within bake time belong to it.
        phase: rolling phase that the application reported; None goes last.
        protected: no rollout takes it and no scale-in removes it; a person's own calls reach it.
        scale_in_protected: no scale-in removes it; rollouts take it like any other.
        skip: the application asked to be left out of the next rollout.
    """

    id: MachineId
    name: str
    zone: str = ""
    update_domain: int = 0
    fault_domain: int = 0
    host: str = ""
    lifecycle: Lifecycle = Lifecycle.PRESENT
    image: str = ""
    kept: str = ""
    model: str = ""
    kept_model: str = ""
    boots: int = 0
    health: Health = Health.HEALTHY
    health_since: datetime
    powered_off: bool = False
    lost_at: datetime | None = None
    back_at: datetime | None = None
    worked_at: datetime | None = None
    protected: bool = False
    scale_in_protected: bool = False
    opted_out: bool = False
    phase: int | None = None
    skip: bool = False


class RepairAction(StrEnum):
    REPLACE = "replace"
    REIMAGE = "reimage"
    RESTART = "restart"


@dataclass(frozen=True, slots=True, kw_only=True)
class Repairs:
    """What is done by itself about machines that stay unhealthy; see systems/repairs.py.

    Attributes:
        grace: how long a machine must have been unhealthy, 10 to 90 minutes.
        suspended_at: since when nothing is repaired: a person said so, or repairs healed nobody.
        resumed_at: when a person let them go on; what was before is no evidence.
    """

    action: RepairAction
    grace: timedelta = timedelta(minutes=10)
    suspended_at: datetime | None = None
    resumed_at: datetime | None = None


class GroupKind(StrEnum):
    SCALE_SET = "scale_set"  # upkeep makes the machines from a model.
    AVAILABILITY_SET = "availability_set"
    LOOSE = "loose"


class UpgradeMode(StrEnum):
    """How a changed model reaches machines that are there; see systems/machine_model.py."""

    MANUAL = "manual"
    AUTOMATIC = "automatic"
    ROLLING = "rolling"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Machines that serve one purpose.

    Attributes:
        capacity: how many machines a scale set should have; ignored for other kinds.
        image_name: the catalogue entry its machines run.
        baked: the last version that completed a rollout here and baked; empty before the first.
        model: the digest of what a new OS disk is told: custom data and first-boot scripts.
        baked_model: the last model that completed a rollout here; before the first, the first.
        next_ordinal: number of the next machine made; never reused, so keys stay unique.
        next_rollout: number of the next rollout.
        paused: an operator holds every rollout here.
        quota: the most machines it may have while it surges; 0 means no limit.
        repairs: None: nobody but people sees to ill machines.
    """

    id: GroupId
    name: str
    region: str
    kind: GroupKind
    capacity: int = 0
    zones: tuple[str, ...] = ()
    update_domains: int = 1
    fault_domains: int = 1
    image_name: str = ""
    auto_upgrade: bool = True
    paused: bool = False
    policy: RollingPolicy = DEFAULTS
    baked: str = ""
    model: str = ""
    baked_model: str = ""
    upgrade_mode: UpgradeMode = UpgradeMode.MANUAL
    next_ordinal: int = 0
    next_rollout: int = 1
    quota: int = 0
    repairs: Repairs | None = None


class RolloutState(StrEnum):
    RUNNING = "running"
    CANCELLING = "cancelling"  # The open batch is finished, no other starts.
    ROLLING_BACK = "rolling_back"  # Halted: upgraded machines go back.
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAULTED = "faulted"


OPEN_STATES = frozenset({RolloutState.RUNNING, RolloutState.CANCELLING, RolloutState.ROLLING_BACK})


class RolloutCode(StrEnum):
    """Why a rollout ended the way it did.  The first four are Azure's (sheet os-image §9.4)."""

    NONE = ""
    UNHEALTHY_BEFORE = "MaxUnhealthyInstancePercentExceededBeforeRollingUpgrade"
    UNHEALTHY_DURING = "MaxUnhealthyInstancePercentExceededInRollingUpgrade"
    UNHEALTHY_UPGRADED = "MaxUnhealthyUpgradedInstancePercentExceededInRollingUpgrade"
    FAILED_MACHINES = "RollingUpgradeInProgressWithFailedUpgradedVMs"
    PLATFORM_FAILED = "PlatformFailed"
    IMAGE_UNUSABLE = "ImageUnusable"
    IMAGE_EXCLUDED = "ImageExcluded"
    OPERATOR_CANCELLED = "Cancelled"
    REJECTED = "LifecycleHookRejected"  # Machines were left out at its lifecycle hook.
    SUPERSEDED = "Superseded"
    ALARM = "AlarmFired"


class StartedBy(StrEnum):
    PLATFORM = "platform"
    USER = "user"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One system's work in one group (a singleton per system while open).

    Attributes:
        target: the image version, or the model (`is_of_model`); empty for an operator's call.
        verb: what is done to each candidate.
        policy: frozen at start.
        size: how many machines the group had at start; percentages refer to it.
        begun_at: when work on its first machine began; None before.
        batch: number of the batch that is open or was closed last; 0 before the first.
        batch_closed_at: when that batch was closed; None while it is open or before the first.
        promoted: somebody said that its canary is good; no plan writes it.
        guilty: the version was found to be the cause; it is not tried again unless asked.
        force: an operator accepted to overdraw budgets; recorded.
    """

    id: RolloutId
    group: GroupId
    system: System
    verb: Verb
    target: str = ""
    policy: RollingPolicy
    size: int
    state: RolloutState = RolloutState.RUNNING
    started_by: StartedBy = StartedBy.PLATFORM
    started_at: datetime
    ended_at: datetime | None = None
    begun_at: datetime | None = None
    batch: int = 0
    batch_closed_at: datetime | None = None
    paused: bool = False
    cancel_requested: bool = False
    promoted: bool = False
    force: bool = False
    guilty: bool = False
    code: RolloutCode = RolloutCode.NONE
    evidence: str = ""

    @property
    def is_of_model(self) -> bool:
        """It brings a model to machines, on the version that each runs."""
        return self.system is System.OS_IMAGE and self.verb is Verb.REIMAGE

    @property
    def kind(self) -> str:
        """What its target is, for people."""
        return "model" if self.is_of_model else "version"

    @property
    def brings(self) -> str:
        return f"{self.kind} {self.target}"

    def on_disk_of(self, machine: Machine) -> str:
        """What the machine has of that which the target names."""
        return machine.model if self.is_of_model else machine.image


class Failure(StrEnum):
    """How a machine's task failed; closed, a metric label."""

    NONE = ""
    NOT_HEALTHY_IN_TIME = "not_healthy_in_time"
    UNHEALTHY_IN_BAKE = "unhealthy_in_bake"
    WRONG_VERSION = "wrong_version"  # The machine came up with another image.
    PLATFORM = "platform"  # The driver could not do it.
    IMAGE_UNUSABLE = "image_unusable"  # The driver refused the image itself.


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One machine in one rollout.

    Attributes:
        batch: the batch it was taken in; 0 while none.
        state_since: when `state` was entered.
        clock_from: from when its health wait counts; moved on while its domain is lost.
        previous: the version before the work, or the model, to which it is rolled back.
        boots_before: the platform's start counter when the present action was sent.
        repair: the machine was unhealthy when it was taken: no claim, and no evidence.
        attempt: how often its present verb has been sent.
        healed: after the rollback it was seen healthy on the previous version.
        surge: a new machine is made first, and this one removed after; see surge.py.
        stand_in: that new machine, once it has been named.
        approved: somebody said that this rollout may take the machine; no plan writes it.
        model, model_before: of the disk that it was given, and of the one that it had.
    """

    rollout: RolloutId
    machine: MachineId
    state: TaskState = TaskState.HELD
    state_since: datetime
    clock_from: datetime
    batch: int = 0
    not_before: datetime | None = None
    previous: str = ""
    boots_before: int = 0
    repair: bool = False
    attempt: int = 0
    failure: Failure = Failure.NONE
    healed: bool = False
    surge: bool = False
    stand_in: MachineId = MachineId("")
    approved: bool = False
    model: str = ""
    model_before: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an action ended, after the executor's own retries."""

    key: str
    succeeded: bool
    at: datetime
    kind: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How many of the machines it selects may be down at once, and how many are elsewhere.

    Attributes:
        max_down: count or percent of machines that may be down; None if min_available is set.
        min_available: count or percent of machines that must stay up.
        percent: the limit is a percentage of the machines selected.
        size: machines selected, in all groups, per zone key ("" when not per zone).
        used_elsewhere: machines of other groups that are down or claimed, per zone key.
        members: machines of this group that it selects; None means all of them.
        version: compared at commit; it rises whenever a claim or a member's health moved.
        rate: at most this many starts per `rate_period`; 0 means no rate.
        started: moments at which claims were taken within the last `rate_period`, anywhere.
        waiting_elsewhere: priority and since of the longest-held work of other groups on it.
    """

    id: BudgetId
    name: str
    max_down: int | None = None
    min_available: int | None = None
    percent: bool = False
    per_zone: bool = False
    size: Mapping[str, int]
    used_elsewhere: Mapping[str, int] = field(default_factory=dict)
    members: frozenset[MachineId] | None = None
    version: int = 0
    rate: int = 0
    rate_period: timedelta = timedelta(0)
    started: tuple[datetime, ...] = ()
    waiting_elsewhere: tuple[Priority, datetime] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One machine's place in one budget."""

    budget: BudgetId
    machine: MachineId
    rollout: RolloutId
    taken_at: datetime
    overdraft: bool = False

"""What the engine needs of a store: the fleet's rows, the journal of actions, the clock's mark.

Two implementations: `upkeep.store.fleet` (SQLAlchemy over SQLite or PostgreSQL) and
`upkeep.sim.memory` (for simulated years in minutes); one contract suite runs on all of them
(tests/contract/test_fleet_store.py).

Every method is one transaction: it happens whole or not at all, and a process killed at any
instruction leaves either the state before or the state after.  Times are arguments.

The journal of an action is its row: intent (written by `commit_plan`) → attempts (`claim_actions`,
`retry_action`) → outcome (`finish_action`).  A key is kept for its row's life, and an intent with
a known key is not written again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from upkeep.core.model import GroupId, Health, MachineId
from upkeep.core.snapshot import Action, Plan, Snapshot
from upkeep.ports import MachineStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadMark:
    """What a snapshot relied on: the commit fails if any of it has moved.

    Attributes:
        marks: how often the group had been marked; a mark made after the read is not lost.
        fence: rises with each plan committed for the group: of two planners that read the same
            state the first to commit wins and the other writes nothing.
    """

    marks: int
    fence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasedAction:
    """An action that this process may perform until its lease ends.

    Attributes:
        fence: given to the driver and the agent, which refuse lower ones; rises by one with
            each attempt at the same action, and is unique per machine across actions.
        attempts: this one included, from 1.
        machine_name, platform: where to perform it.
        image_name: of the group, for verbs that need an image.
        was_with_agent: the machine's agent had it and has not answered in its time.
    """

    action: Action
    fence: int
    attempts: int
    machine_name: str
    platform: str
    image_name: str
    was_with_agent: bool = False


# Who holds the lease of an action that was given to its machine's agent.
AGENT = "agent"
# What the journal says of a command that was revoked.
REVOKED = "it was not done in time"


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionResult:
    """How one attempt ended.

    Attributes:
        status: what the platform then said of the machine; None if it could not be asked.
        kind: of the DriverError, or empty.
        retryable: the same call may succeed later; the executor decides whether it tries again.
    """

    succeeded: bool
    kind: str = ""
    retryable: bool = False
    detail: str = ""
    status: MachineStatus | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """Something new about a machine, from the agent, the prober or the platform.

    Only fields that are not None are written.  A sighting that changes nothing is a no-op that
    writes no row and marks no group.

    Attributes:
        watch_from: of the watch that saw the health; if the machine's own has moved since, the
            health is of a time before its last work ended and is not written.
    """

    health: Health | None = None
    image: str | None = None
    boots: int | None = None
    powered_off: bool | None = None
    address: str | None = None
    phase: int | None = None
    skip: bool | None = None
    detail: str | None = None
    watch_from: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedMachine:
    """What watching one machine's health needs.

    Attributes:
        probe: the group's health source in its wire form; empty when it has none.
        source: a `core.health.HealthSource`.
        watch_from: the watch begins anew when this moves; nothing seen before it counts.
        health: as the row has it.
    """

    machine: MachineId
    address: str
    probe: Mapping[str, object]
    source: str
    watch_from: datetime
    health: Health


class FleetStore(Protocol):
    """See the module text.  Methods raise `StoreError` only for a broken database."""

    def due_groups(self, now: datetime, limit: int) -> Sequence[GroupId]:
        """Groups that were marked, or whose `next_wake` has come; longest due first.

        A group that is marked again keeps its place.
        """
        ...

    def next_wake(self) -> datetime | None:
        """The earliest moment at which a group is due, if any is."""
        ...

    def read_group(
        self, group: GroupId, *, now: datetime, clock_stepped: bool
    ) -> tuple[Snapshot, ReadMark] | None:
        """The group at this moment in a fixed number of queries; None if it is gone.

        Tuples are in id order: claims by budget and machine, domains by kind and name.  Calls and
        blackouts are in the order of time, ended rollouts newest first.
        Only reads: a tick that has nothing to write costs no disk flush.
        """
        ...

    def commit_plan(self, plan: Plan, read: ReadMark, *, now: datetime) -> bool:
        """Write the plan whole; False, and nothing written, if what it relied on has moved.

        Checks the group's fence and, under lock in id order, the versions of the budgets in
        `plan.budget_versions`.  Writes group, machines, rollouts, tasks, claims, new actions
        (known keys are skipped), holds (only differences; `since` stays while the reason stays),
        the story; bumps the versions of budgets whose claims or members changed; sets the
        group's next wake, or leaves it due if it was marked since the read.
        A machine in lifecycle DELETED disappears from later snapshots; its claims go with it.
        """
        ...

    def claim_actions(
        self, owner: str, *, now: datetime, lease_until: datetime, limit: int
    ) -> Sequence[LeasedAction]:
        """Take up to `limit` actions that are ready or whose lease has run out, oldest first.

        A claimed action sets its machine's health to INITIALIZING, so that nothing seen before
        it can be mistaken for health after it (`core.health.renews_health`).  Draining is the
        agent's and is never claimed; actions of deleted machines are nobody's any more.
        """
        ...

    def give_to_agent(self, key: str, *, fence: int, lease_until: datetime) -> None:
        """Let the machine's own agent perform it: it is offered it, and ends it, until then.

        Nothing happens if the action is somebody else's by now.
        """
        ...

    def extend_lease(self, key: str, *, fence: int, lease_until: datetime) -> bool:
        """Heartbeat; never shortens a lease; False if the action is somebody else's by now."""
        ...

    def retry_action(
        self, key: str, *, fence: int, result: ActionResult, not_before: datetime
    ) -> None:
        """Give the action back, to be claimed again from `not_before` on."""
        ...

    def finish_action(self, key: str, *, fence: int, result: ActionResult, now: datetime) -> bool:
        """Record the outcome, once, and mark the group.

        Sets the machine's health to INITIALIZING and moves its `watch_from` to now: the prober
        begins anew, whatever came of the action.  With a status that is not older than what is
        known, writes image, kept version, boots, power and address.
        An outcome with an old fence moves no task (returns False) and begins no watch, but
        updates what was observed.
        """
        ...

    def observe(self, machine: MachineId, sighting: Sighting, *, now: datetime) -> bool:
        """Write what has changed, bump its budgets' versions, mark its group; True if any did.

        A lower `boots` is older than what is known and is not written.
        Turning UNKNOWN sets `lost_at`, unless an action is under way or a task of the machine is
        in hand or baking; turning from UNKNOWN to anything else sets `back_at`.
        """
        ...

    def mark_group(self, group: GroupId, *, now: datetime) -> None:
        """Make the group due."""
        ...

    def park_group(self, group: GroupId, *, trace: str, until: datetime) -> None:
        """Keep the trace in the group's history and leave the group alone until then.

        Marks do not end it; a plan that is written does.
        """
        ...

    def watched(self, machines: Sequence[MachineId] | None = None) -> Sequence[WatchedMachine]:
        """The machines whose health is to be watched: all present ones, or the named ones."""
        ...

    def raise_clock_mark(self, now: datetime) -> datetime:
        """Move the stored high-water mark of the engine's time up to `now`; answers the mark."""
        ...

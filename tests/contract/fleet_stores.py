"""The stores that the FleetStore contract runs on, and what operators and agents do to each.

`FleetStore` has no method to make a group or a budget: those are the API's and the simulator's
own doing.  A `Backend` does them for one store, so that a test reads the same for all.
"""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import msgspec
from sqlalchemy import insert, select, update

from upkeep.core.alarm import Alarm, AlarmState
from upkeep.core.hold import Hold, HoldReason
from upkeep.core.hook_event import Answer, HookEvent
from upkeep.core.model import (
    Budget,
    BudgetId,
    Claim,
    Group,
    GroupId,
    GroupKind,
    Health,
    Machine,
    MachineId,
    Rollout,
    RolloutId,
    StartedBy,
    System,
    Task,
    Verb,
)
from upkeep.core.policy import RollingPolicy
from upkeep.core.snapshot import Action, Interval, OperatorCall, Plan, Snapshot
from upkeep.core.task import TaskState
from upkeep.core.version import ImageVersion
from upkeep.engine.fleet_store import ActionResult, FleetStore, LeasedAction, ReadMark
from upkeep.ports import MachineStatus, Power
from upkeep.sim.memory import MemoryStore
from upkeep.sim.memory_operator import MemoryOperator
from upkeep.sim.memory_rows import BudgetSelector
from upkeep.store import actions, alarms, blackouts, calls, hook_events, rollouts
from upkeep.store import tables as t
from upkeep.store.budget_rows import recount
from upkeep.store.database import Database, to_us, to_us_or_none
from upkeep.store.fleet import SqlFleetStore
from upkeep.store.migrate import migrate
from upkeep.store.policies import policy_to_json
from upkeep.store.wakes import mark

START = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
IMAGE = "web"
PLATFORM = "simulated"
PROBE: Mapping[str, object] = {"protocol": "http", "port": 80, "path": "/"}


class Backend(Protocol):
    """One store with its operators and agents."""

    store: FleetStore

    def add_group(self, group: Group, machines: Sequence[Machine], *, now: datetime) -> None:
        """The group with its machines, due at once, without a budget."""
        ...

    def add_budget(
        self, rule: Budget, *groups: str, zone: str = "", own: bool = False, now: datetime
    ) -> None:
        """A budget over machines of some groups; `own`: the one that a group is made with."""
        ...

    def publish(self, version: ImageVersion, *, now: datetime) -> None: ...

    def add_call(self, group: str, call: OperatorCall, *, now: datetime) -> None: ...

    def add_blackout(self, group: str, blackout: Interval, *, now: datetime) -> None: ...

    def add_alarm(self, group: str, alarm: Alarm, *, now: datetime) -> None: ...

    def tell_alarm(
        self, group: str, name: str, state: AlarmState, detail: str, *, now: datetime
    ) -> None: ...

    def remove_alarm(self, group: str, name: str, *, now: datetime) -> None: ...

    def protect(self, machine: str, protected: bool, *, now: datetime) -> None: ...

    def pause(self, rollout: str, paused: bool, *, now: datetime) -> None: ...

    def answer(
        self, event: HookEvent, answers: Mapping[MachineId, Answer], *, now: datetime
    ) -> None: ...

    def approve(self, rollout: str, *machines: str, now: datetime) -> int:
        """Of the named machines, all with none, how many waited in the rollout."""
        ...

    def answered(self, machine: str, key: str, *, now: datetime, succeeded: bool = True) -> None:
        """The machine's agent says that it has done (or could not do) what it was offered."""
        ...

    def offered(self, machine: str) -> list[tuple[str, int]]:
        """Key and fence of the commands that the machine's agent is offered."""
        ...

    def close(self) -> None: ...


class MemoryBackend:
    def __init__(self) -> None:
        self._memory = MemoryStore()
        self._operator = MemoryOperator(self._memory)
        self.store: FleetStore = self._memory

    def add_group(self, group: Group, machines: Sequence[Machine], *, now: datetime) -> None:
        self._operator.add_group(group, machines, platform=PLATFORM, probe=PROBE, now=now)

    def add_budget(
        self, rule: Budget, *groups: str, zone: str = "", own: bool = False, now: datetime
    ) -> None:
        selector = BudgetSelector(groups=frozenset(GroupId(g) for g in groups), zone=zone)
        self._operator.add_budget(rule, selector)

    def publish(self, version: ImageVersion, *, now: datetime) -> None:
        self._operator.publish(IMAGE, version, now=now)

    def add_call(self, group: str, call: OperatorCall, *, now: datetime) -> None:
        self._operator.add_call(GroupId(group), call, now=now)

    def add_blackout(self, group: str, blackout: Interval, *, now: datetime) -> None:
        known = self._memory.groups[GroupId(group)].blackouts
        self._operator.set_times(
            GroupId(group), windows=None, blackouts=(*known, blackout), now=now
        )

    def add_alarm(self, group: str, alarm: Alarm, *, now: datetime) -> None:
        self._operator.add_alarm(GroupId(group), alarm, now=now)

    def tell_alarm(
        self, group: str, name: str, state: AlarmState, detail: str, *, now: datetime
    ) -> None:
        self._operator.tell_alarm(GroupId(group), name, state, detail, now=now)

    def remove_alarm(self, group: str, name: str, *, now: datetime) -> None:
        self._operator.remove_alarm(GroupId(group), name, now=now)

    def protect(self, machine: str, protected: bool, *, now: datetime) -> None:
        self._operator.change_machine(MachineId(machine), protected=protected, now=now)

    def pause(self, rollout: str, paused: bool, *, now: datetime) -> None:
        self._operator.change_rollout(RolloutId(rollout), paused=paused, now=now)

    def answer(
        self, event: HookEvent, answers: Mapping[MachineId, Answer], *, now: datetime
    ) -> None:
        self._operator.answer(event, answers, now=now)

    def approve(self, rollout: str, *machines: str, now: datetime) -> int:
        chosen = [MachineId(machine) for machine in machines] or None
        return self._operator.approve(RolloutId(rollout), chosen, now=now)

    def answered(self, machine: str, key: str, *, now: datetime, succeeded: bool = True) -> None:
        self._memory.finish_by_agent(key, now=now, succeeded=succeeded)

    def offered(self, machine: str) -> list[tuple[str, int]]:
        rows = self._memory.actions.values()
        fence = (
            self._memory.groups[self._memory.group_of[MachineId(machine)]]
            .extras[MachineId(machine)]
            .fence
        )
        return [
            (row.action.key, fence)
            for row in rows
            if row.action.machine == machine and row.waits_for_agent()
        ]

    def close(self) -> None:
        pass


class SqlBackend:
    def __init__(self, database: Database) -> None:
        self.database = database
        self.store: FleetStore = SqlFleetStore(database)
        self._blackouts = 0

    def add_group(self, group: Group, machines: Sequence[Machine], *, now: datetime) -> None:
        with self.database.write() as connection:
            connection.execute(insert(t.groups).values(group_row(group, now)))
            for machine in machines:
                connection.execute(insert(t.machines).values(machine_row(group.id, machine, now)))
            recount(connection, [m.id for m in machines], now=now)

    def add_budget(
        self, rule: Budget, *groups: str, zone: str = "", own: bool = False, now: datetime
    ) -> None:
        selector = {"groups": sorted(groups), "zones": [zone] if zone else []}
        with self.database.write() as connection:
            connection.execute(
                insert(t.budgets).values(
                    id=rule.id,
                    name=rule.name,
                    group_id=groups[0] if own else "",
                    selector="{}" if own else msgspec.json.encode(selector).decode(),
                    max_down=rule.max_down,
                    min_available=rule.min_available,
                    percent=int(rule.percent),
                    per_zone=int(rule.per_zone),
                    rate=rule.rate,
                    rate_period_us=rule.rate_period // timedelta(microseconds=1),
                    created_at=to_us(now),
                )
            )

    def publish(self, version: ImageVersion, *, now: datetime) -> None:
        keys = {"image_name": IMAGE, "version": version.version}
        with self.database.write() as connection:
            for table in (t.image_versions, t.image_replicas):
                connection.execute(
                    table.delete().where(
                        table.c.image_name == IMAGE, table.c.version == version.version
                    )
                )
            connection.execute(
                insert(t.image_versions).values(
                    **keys,
                    excluded=int(version.excluded),
                    floor=int(version.floor),
                    published_at=to_us(now),
                )
            )
            connection.execute(
                insert(t.image_replicas).values(**keys, region="north", state=version.replication)
            )
            of_image = select(t.groups.c.id).where(t.groups.c.image_name == IMAGE)
            for group in connection.execute(of_image).scalars().all():
                mark(connection, group, now)

    def add_call(self, group: str, call: OperatorCall, *, now: datetime) -> None:
        with self.database.write() as connection:
            calls.create(connection, group, call, now=now)

    def add_blackout(self, group: str, blackout: Interval, *, now: datetime) -> None:
        self._blackouts += 1
        with self.database.write() as connection:
            blackouts.create(
                connection,
                blackout_id=f"bl_{self._blackouts}",
                name=blackout.name,
                group_id=group,
                opens=blackout.opens,
                closes=blackout.closes,
                now=now,
            )

    def add_alarm(self, group: str, alarm: Alarm, *, now: datetime) -> None:
        with self.database.write() as connection:
            alarms.create(
                connection,
                group,
                alarm,
                alarm_id=f"{group}/{alarm.name}",
                url="http://prometheus:9090",
                query="up == 0",
                now=now,
            )

    def tell_alarm(
        self, group: str, name: str, state: AlarmState, detail: str, *, now: datetime
    ) -> None:
        with self.database.write() as connection:
            alarms.tell(connection, f"{group}/{name}", state, detail, now=now)

    def remove_alarm(self, group: str, name: str, *, now: datetime) -> None:
        with self.database.write() as connection:
            row = alarms.find(connection, f"{group}/{name}")
            assert row is not None
            alarms.remove(connection, row, now=now)

    def protect(self, machine: str, protected: bool, *, now: datetime) -> None:
        row = t.machines.c
        with self.database.write() as connection:
            connection.execute(
                update(t.machines).where(row.id == machine).values(protected=int(protected))
            )
            group = connection.execute(select(row.group_id).where(row.id == machine)).scalar_one()
            mark(connection, group, now)

    def pause(self, rollout: str, paused: bool, *, now: datetime) -> None:
        row = t.rollouts.c
        with self.database.write() as connection:
            connection.execute(
                update(t.rollouts).where(row.id == rollout).values(paused=int(paused))
            )
            group = connection.execute(select(row.group_id).where(row.id == rollout)).scalar_one()
            mark(connection, group, now)

    def answer(
        self, event: HookEvent, answers: Mapping[MachineId, Answer], *, now: datetime
    ) -> None:
        with self.database.write() as connection:
            group = hook_events.group_of(connection, event.rollout, scope="")
            assert group is not None
            hook_events.answer(connection, event, answers, group_id=group.id, now=now)

    def approve(self, rollout: str, *machines: str, now: datetime) -> int:
        with self.database.write() as connection:
            row = rollouts.find(connection, rollout)
            assert row is not None
            return rollouts.approve(connection, row, machines or None, now=now)

    def answered(self, machine: str, key: str, *, now: datetime, succeeded: bool = True) -> None:
        with self.database.write() as connection:
            answered = actions.finish_by_agent(
                connection, machine, key, succeeded=succeeded, detail="", now=now
            )
            if answered is not None:
                mark(connection, answered.group, now)

    def offered(self, machine: str) -> list[tuple[str, int]]:
        with self.database.read() as connection:
            return [(row.key, row.machine_fence) for row in actions.mailbox(connection, machine)]

    def close(self) -> None:
        self.database.close()


def group_row(group: Group, now: datetime) -> dict[str, Any]:
    return {
        "id": group.id,
        "name": group.name,
        "region": group.region,
        "kind": group.kind,
        "capacity": group.capacity,
        "zones": msgspec.json.encode(group.zones).decode(),
        "update_domains": group.update_domains,
        "fault_domains": group.fault_domains,
        "image_name": group.image_name,
        "auto_upgrade": int(group.auto_upgrade),
        "paused": int(group.paused),
        "repair_action": group.repairs.action if group.repairs else "",
        "repair_grace_s": int(group.repairs.grace.total_seconds()) if group.repairs else 600,
        "repairs_suspended_at": group.repairs and to_us_or_none(group.repairs.suspended_at),
        "repairs_resumed_at": group.repairs and to_us_or_none(group.repairs.resumed_at),
        "policy": policy_to_json(group.policy),
        "baked": group.baked,
        "model": group.model,
        "baked_model": group.baked_model,
        "upgrade_mode": group.upgrade_mode,
        "next_ordinal": group.next_ordinal,
        "next_rollout": group.next_rollout,
        "quota": group.quota,
        "platform": PLATFORM,
        "probe": msgspec.json.encode(PROBE).decode(),
        "health_source": "both",
        "marks": 1,
        "wake_at": to_us(now),
        "created_at": to_us(now),
    }


def machine_row(group: str, machine: Machine, now: datetime) -> dict[str, Any]:
    moments = {
        name: to_us_or_none(getattr(machine, name)) for name in ("lost_at", "back_at", "worked_at")
    }
    return moments | {
        "id": machine.id,
        "group_id": group,
        "name": machine.name,
        "zone": machine.zone,
        "update_domain": machine.update_domain,
        "fault_domain": machine.fault_domain,
        "host": machine.host,
        "lifecycle": machine.lifecycle,
        "image": machine.image,
        "kept": machine.kept,
        "model": machine.model,
        "kept_model": machine.kept_model,
        "boots": machine.boots,
        "health": machine.health,
        "health_since": to_us(machine.health_since),
        "powered_off": int(machine.powered_off),
        "protected": int(machine.protected),
        "scale_in_protected": int(machine.scale_in_protected),
        "opted_out": int(machine.opted_out),
        "phase": machine.phase,
        "skip": int(machine.skip),
        "address": f"sim:{machine.name}",
        "watch_from": to_us(now),
        "created_at": to_us(now),
    }


def new_sqlite(template: Path, folder: Path) -> SqlBackend:
    """A migrated database of its own: a copy of the template, which is made when missing."""
    if not template.exists():
        database = Database(f"sqlite:///{template}")
        migrate(database)
        database.close()
    path = folder / "fleet.db"
    shutil.copy(template, path)
    return SqlBackend(Database(f"sqlite:///{path}"))


def new_postgres(url: str) -> SqlBackend:
    """The session's one database, emptied."""
    database = Database(url)
    migrate(database)
    with database.write() as connection:
        names = ", ".join(table.name for table in t.metadata.sorted_tables)
        connection.exec_driver_sql(f"TRUNCATE {names} RESTART IDENTITY")
    return SqlBackend(database)


# What the tests are about: a group, its machines, a rollout, its tasks.


def a_group(name: str = "a", **changes: Any) -> Group:
    plain = Group(
        id=GroupId(f"g_{name}"),
        name=name,
        region="north",
        kind=GroupKind.AVAILABILITY_SET,
        image_name=IMAGE,
    )
    return replace(plain, **changes)


def machines_of(
    group: Group, count: int, *, since: datetime, zones: Iterable[str] = ("1",), **fields: Any
) -> list[Machine]:
    """m_a_0, m_a_1, …: zones in turn, healthy on 1.0.0."""
    names = list(zones)
    plain: dict[str, Any] = {"image": "1.0.0", "boots": 1, "health": Health.HEALTHY}
    return [
        Machine(
            id=MachineId(f"m_{group.name}_{number}"),
            name=f"{group.name}-{number}",
            zone=names[number % len(names)],
            health_since=since,
            **(plain | fields),
        )
        for number in range(count)
    ]


def a_rollout(group: Group, number: int, *, now: datetime, **changes: Any) -> Rollout:
    plain = Rollout(
        id=RolloutId(f"ro_{group.id}_{number}"),
        group=group.id,
        system=System.OS_IMAGE,
        verb=Verb.REPLACE_OS_DISK,
        target="1.0.1",
        policy=RollingPolicy(),
        size=3,
        started_by=StartedBy.PLATFORM,
        started_at=now,
    )
    return replace(plain, **changes)


def a_task(rollout: Rollout, machine: str, *, now: datetime, **changes: Any) -> Task:
    plain = Task(
        rollout=rollout.id,
        machine=MachineId(machine),
        state=TaskState.RUNNING,
        state_since=now,
        clock_from=now,
        previous="1.0.0",
        attempt=1,
    )
    return replace(plain, **changes)


def a_budget(name: str, **changes: Any) -> Budget:
    plain: dict[str, Any] = {} if "min_available" in changes else {"max_down": 1}
    return Budget(id=BudgetId(f"bu_{name}"), name=name, size={}, **(plain | changes))


def an_action(rollout: Rollout, machine: str, verb: Verb, *, attempt: int = 1) -> Action:
    return Action(
        key=f"{rollout.id}/{machine}/{verb}/{attempt}",
        group=rollout.group,
        machine=MachineId(machine),
        rollout=rollout.id,
        verb=verb,
        version=rollout.target,
    )


def a_claim(budget: str, machine: str, rollout: Rollout, *, now: datetime) -> Claim:
    return Claim(
        budget=BudgetId(f"bu_{budget}"),
        machine=MachineId(machine),
        rollout=rollout.id,
        taken_at=now,
    )


def a_hold(machine: str, reason: HoldReason, *, budget: str = "", **changes: Any) -> Hold:
    plain = Hold(
        machine=MachineId(machine),
        system=System.OS_IMAGE,
        reason=reason,
        budget=BudgetId(f"bu_{budget}" if budget else ""),
        lifted_by="time",
    )
    return replace(plain, **changes)


# What a test does with a store.


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def look(backend: Backend, group: str = "g_a", *, now: datetime = START) -> Snapshot:
    return read(backend, group, now=now)[0]


def read(backend: Backend, group: str = "g_a", *, now: datetime) -> tuple[Snapshot, ReadMark]:
    found = backend.store.read_group(GroupId(group), now=now, clock_stepped=False)
    assert found is not None
    return found


def seen(backend: Backend, machine: str, *, now: datetime) -> Machine:
    """The machine's row, in the snapshot of whichever group has it."""
    snapshot = look(backend, f"g_{machine.split('_')[1]}", now=now)
    return next(m for m in snapshot.machines if m.id == machine)


def commit(backend: Backend, group: str = "g_a", *, now: datetime, **parts: Any) -> bool:
    """Read, then write a plan of these parts; what it does not name stays as it was read."""
    snapshot, mark = read(backend, group, now=now)
    return backend.store.commit_plan(Plan(**({"group": snapshot.group} | parts)), mark, now=now)


def versions(backend: Backend, group: str = "g_a", *, now: datetime = START) -> dict[str, int]:
    return {b.name: b.version for b in look(backend, group, now=now).budgets}


def claim(
    backend: Backend, *, now: datetime, limit: int = 10, lease: float = 1, owner: str = "one"
) -> list[LeasedAction]:
    """In key order: which of a batch comes first is nobody's promise."""
    taken = backend.store.claim_actions(
        owner, now=now, lease_until=now + timedelta(minutes=lease), limit=limit
    )
    return sorted(taken, key=lambda leased: leased.action.key)


def done(machine: str = "", **changes: Any) -> ActionResult:
    """Success, with what the platform then says of the machine when it is named."""
    status = None
    if machine:
        plain = MachineStatus(
            name=machine,
            power=Power.RUNNING,
            image_version="1.0.1",
            kept_version="1.0.0",
            model="m2",
            kept_model="m1",
            address="10.0.0.9",
            boots=2,
        )
        status = replace(plain, **changes)
    return ActionResult(succeeded=True, status=status)

"""A world drawn from its seed: groups, policies, budgets, times, images and how they behave.

Everything a run does not decide itself is decided here, before it begins; faults and operators
have streams of their own (faults.py, person.py).  Numbers are chosen so that small cases, which
break rules, are as common as large ones, which break budgets.
"""

import random
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from functools import partial

from upkeep.core.alarm import AlarmAction, AlarmState
from upkeep.core.model import (
    Budget,
    BudgetId,
    Group,
    GroupId,
    GroupKind,
    Health,
    Machine,
    MachineId,
    RepairAction,
    Repairs,
    UpgradeMode,
)
from upkeep.core.policy import RollingPolicy, policy_errors
from upkeep.core.snapshot import Interval
from upkeep.sim.kernel import moment, stream
from upkeep.sim.memory_rows import BudgetSelector

DAY = 86_400.0


class Behaviour(StrEnum):
    """How a version behaves on the machines it has chosen."""

    GOOD = "good"
    SLOW_BOOT = "slow_boot"  # Good: it takes most of the health wait.
    CRASHES = "crashes"  # At boot: nothing answers.
    NEVER_HEALTHY = "never_healthy"
    FAILS_LATER = "fails_later"  # Healthy first, ill within the bake time.
    NO_NETWORK = "no_network"  # Well inside, unreachable from outside.


BAD = frozenset(
    {
        Behaviour.CRASHES,
        Behaviour.NEVER_HEALTHY,
        Behaviour.FAILS_LATER,
        Behaviour.NO_NETWORK,
    }
)
# What every machine was told at its first boot before the world began, and what cures it.
FIRST_MODEL = "first-model"
CURE_MODEL = "cure-model"
# A bad version shows itself on at least so many of a hundred machines.
BAD_SHARE_MIN = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    image: str
    version: str
    at: float
    behaviour: Behaviour
    share_percent: int
    excluded_at: float | None = None
    floor_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChange:
    """A person gives a group another model."""

    model: str
    at: float
    behaviour: Behaviour
    share_percent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmDrawing:
    """Attributes:
    tellings: what whoever asks it hears, and when, in seconds; quiet before the first.
    """

    name: str
    action: AlarmAction
    tellings: tuple[tuple[float, AlarmState], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupDrawing:
    group: Group
    machines: tuple[Machine, ...]
    probe: dict[str, object]
    source: str
    blackouts: tuple[Interval, ...]
    windows: tuple[Interval, ...] | None
    restarted_by_agent: bool = False
    alarms: tuple[AlarmDrawing, ...] = ()
    models: tuple[ModelChange, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a person may choose; the rest is the seed's.

    Attributes:
        bad_versions: the mix that measures blame: more bad versions, and machines, zones and
            other work that fail beside them.
        machines, days: fixed values instead of drawn ones.
    """

    bad_versions: bool = False
    machines: int | None = None
    days: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """One world.

    Attributes:
        tick_s: the engine looks at due groups on this grid.
        probe_s, agent_s: how often probes are sent and agents check in.
    """

    seed: int
    options: Options
    days: int
    groups: tuple[GroupDrawing, ...]
    budgets: tuple[tuple[Budget, BudgetSelector], ...]
    publications: tuple[Publication, ...]
    tick_s: float
    probe_s: int
    agent_s: int
    boot_s: tuple[float, float]
    first_version: str = "1.0.0"
    images: tuple[str, ...] = field(default=())


def draw(seed: int, options: Options) -> Drawing:
    shape = stream(seed, "shape")
    days = options.days or shape.randint(14, 20)
    count = shape.randint(1, 6)
    sizes = [_size(shape) for _ in range(count)]
    if options.machines is not None:
        sizes = _split(options.machines, count, shape)
    images = tuple(f"image{n}" for n in range(shape.randint(1, min(3, count))))
    zones = tuple(str(n) for n in range(1, shape.randint(1, 3) + 1))
    hosts = max(2, sum(sizes) // shape.randint(8, 16))
    probe_s = shape.choice((10, 15, 30))
    groups = tuple(
        _group(
            stream(seed, f"group/{n}"), n, size, shape.choice(images), zones, hosts, days, probe_s
        )
        for n, size in enumerate(sizes)
    )
    powers = stream(seed, "powers")
    groups = tuple(replace(g, restarted_by_agent=powers.random() < 0.15) for g in groups)
    if not options.bad_versions:
        for part, with_it in (
            ("approvals", _with_approval),
            ("hooks", _with_hooks),
            ("repairs", _with_repairs),
            ("paces", _with_pace),
            ("alarms", partial(_with_alarms, days=days)),
            ("models", partial(_with_models, days=days)),
        ):
            draws = stream(seed, part)
            groups = tuple(with_it(draws, group) for group in groups)
    publications = _publications(stream(seed, "publications"), images, days, options)
    if not options.bad_versions:
        publications = _with_floors(stream(seed, "floors"), publications)
    return Drawing(
        seed=seed,
        options=options,
        days=days,
        groups=groups,
        budgets=_budgets(stream(seed, "budgets"), groups, zones),
        publications=publications,
        tick_s=shape.choice((1.0, 2.0, 5.0, 15.0)),
        probe_s=probe_s,
        agent_s=shape.choice((30, 60, 120)),
        boot_s=shape.choice(((5.0, 20.0), (20.0, 60.0), (30.0, 120.0))),
        images=images,
    )


def _with_approval(draws: random.Random, drawing: GroupDrawing) -> GroupDrawing:
    policy = replace(drawing.group.policy, needs_approval=draws.random() < 0.12)
    return replace(drawing, group=replace(drawing.group, policy=policy))


def _with_hooks(draws: random.Random, drawing: GroupDrawing) -> GroupDrawing:
    """Lifecycle hooks, or a canary, or now and then two of the three."""
    kind = draws.random()
    wait = timedelta(minutes=draws.choice((5, 20, 120)))
    approves = draws.random() < 0.7
    policy = drawing.group.policy
    if kind < 0.12:
        policy = replace(policy, start_hook_wait=wait, start_hook_approves=approves)
    if 0.15 < kind < 0.27:
        policy = replace(policy, canary_percent=draws.choice((1, 5, 20, 50)))
    if 0.06 < kind < 0.18:
        policy = replace(policy, batch_hook_wait=wait, batch_hook_approves=approves)
    return replace(drawing, group=replace(drawing.group, policy=policy))


def _with_pace(draws: random.Random, drawing: GroupDrawing) -> GroupDrawing:
    """Checkpoints, or a ramp, or now and then both."""
    kind = draws.random()
    checkpoints = draws.choice(((50,), (10, 50), (1, 20, 90)))
    bake = timedelta(minutes=draws.choice((20, 120, 720)))
    ramp = timedelta(hours=draws.choice((2, 12, 48)))
    policy = drawing.group.policy
    if kind < 0.14:
        policy = replace(policy, checkpoints=checkpoints, checkpoint_bake=bake)
    if 0.1 < kind < 0.22:
        policy = replace(policy, ramp=ramp)
    assert not policy_errors(policy), policy_errors(policy)
    return replace(drawing, group=replace(drawing.group, policy=policy))


def _with_alarms(draws: random.Random, drawing: GroupDrawing, days: int) -> GroupDrawing:
    """In one group of six; they fire, or cannot be asked, for minutes or for half a day."""
    alarms = []
    for number in range(draws.choice((0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2))):
        tellings: list[tuple[float, AlarmState]] = []
        at = draws.uniform(0, days * DAY / 2)
        while at < days * DAY:
            state = draws.choice((AlarmState.FIRING, AlarmState.FIRING, AlarmState.UNKNOWN))
            tellings.append((at, state))
            at += draws.choice((20.0, 600.0, 3_600.0, DAY / 2))
            if draws.random() < 0.8:
                tellings.append((at, AlarmState.QUIET))
                at += draws.uniform(0, days * DAY / 2)
        action = draws.choice(tuple(AlarmAction))
        alarms.append(AlarmDrawing(name=f"al{number}", action=action, tellings=tuple(tellings)))
    return replace(drawing, alarms=tuple(alarms))


def _with_models(draws: random.Random, drawing: GroupDrawing, days: int) -> GroupDrawing:
    """In one group of four: some changes are taken back, some follow on one another's heels."""
    group = replace(drawing.group, model=FIRST_MODEL, baked_model=FIRST_MODEL)
    # Some fleets are from before models had names.
    known = FIRST_MODEL if draws.random() < 0.8 else ""
    machines = tuple(replace(machine, model=known) for machine in drawing.machines)
    drawing = replace(drawing, group=group, machines=machines)
    if draws.random() >= 0.25:
        return drawing
    mode = draws.choice(
        (UpgradeMode.ROLLING, UpgradeMode.ROLLING, UpgradeMode.AUTOMATIC, UpgradeMode.MANUAL)
    )
    changes: list[ModelChange] = []
    at = draws.uniform(0.1, days / 3) * DAY
    while at < (days - 1) * DAY:
        behaviour = draws.choice((Behaviour.GOOD, Behaviour.GOOD, Behaviour.GOOD, *sorted(BAD)))
        change = ModelChange(
            model=f"{group.id}-model-{len(changes) + 1}",
            at=at,
            behaviour=behaviour,
            share_percent=draws.choice((BAD_SHARE_MIN, 100, 100)),
        )
        if changes and draws.random() < 0.2:
            change = replace(draws.choice(changes), at=at)
        changes.append(change)
        at += draws.choice((120.0, 3_600.0, DAY, 3 * DAY, 5 * DAY)) * draws.uniform(0.8, 1.2)
    group = replace(group, upgrade_mode=mode)
    return replace(drawing, group=group, models=tuple(changes))


def _with_repairs(draws: random.Random, drawing: GroupDrawing) -> GroupDrawing:
    group = drawing.group
    action = draws.choice(tuple(RepairAction))
    grace = timedelta(minutes=draws.choice((10, 30, 90)))
    if drawing.restarted_by_agent or group.kind is not GroupKind.SCALE_SET:
        action = RepairAction.RESTART  # Who did not make a machine cannot make it again.
    if draws.random() >= 0.2:
        return drawing
    return replace(drawing, group=replace(group, repairs=Repairs(action=action, grace=grace)))


def _size(draws: random.Random) -> int:
    kind = draws.random()
    if kind < 0.08:
        return 1
    if kind < 0.14:
        return 2
    if kind < 0.36:
        return draws.randint(3, 9)
    if kind < 0.66:
        return draws.randint(10, 30)
    if kind < 0.89:
        return draws.randint(31, 60)
    return draws.randint(100, 140)


def _split(machines: int, groups: int, draws: random.Random) -> list[int]:
    sizes = [1] * min(groups, machines)
    for _ in range(machines - len(sizes)):
        sizes[draws.randrange(len(sizes))] += 1
    return sizes


def _group(
    draws: random.Random,
    number: int,
    size: int,
    image: str,
    zones: tuple[str, ...],
    hosts: int,
    days: int,
    probe_s: int,
) -> GroupDrawing:
    kind = draws.choice(
        (GroupKind.SCALE_SET, GroupKind.SCALE_SET, GroupKind.AVAILABILITY_SET, GroupKind.LOOSE)
    )
    policy = replace(_policy(draws), max_surge=kind is GroupKind.SCALE_SET and draws.random() < 0.3)
    windows = _windows(draws, days, policy)
    if windows is not None:
        # Else a large group with one machine at a time would need months of nights.
        policy = replace(
            policy,
            bake_time=min(policy.bake_time, timedelta(minutes=10)),
            pause_between_batches=min(policy.pause_between_batches, timedelta(minutes=5)),
            notice=min(policy.notice, timedelta(minutes=15)),
        )
    group = Group(
        id=GroupId(f"g{number}"),
        name=f"g{number}",
        region="here",
        kind=kind,
        capacity=size,
        zones=zones if draws.random() < 0.7 else zones[:1],
        update_domains=draws.choice((1, 1, 3, 5)),
        fault_domains=draws.choice((1, 2, 3)),
        image_name=image,
        auto_upgrade=draws.random() < 0.95,
        policy=policy,
        baked="1.0.0",
        next_ordinal=size,
        quota=draws.choice((0, 0, size + 1, size + 5)),
    )
    machines = tuple(_machine(draws, group, ordinal, hosts) for ordinal in range(size))
    probe: dict[str, object] = {
        "protocol": "http",
        "port": 80,
        "path": "/health",
        "interval_s": probe_s,
        "number_of_probes": draws.choice((1, 1, 2, 3)),
    }
    if draws.random() < 0.5:
        probe["grace_period_s"] = draws.choice((30, 60, 180))
    source = draws.choice(("outside", "both", "both", "inside"))
    return GroupDrawing(
        group=group,
        machines=machines,
        probe=probe if source != "inside" or draws.random() < 0.5 else {},
        source=source,
        blackouts=_blackouts(draws, days),
        windows=windows,
    )


def _machine(draws: random.Random, group: Group, ordinal: int, hosts: int) -> Machine:
    zones = group.zones
    zone = zones[ordinal % len(zones)]
    return Machine(
        id=MachineId(f"m_{group.id}_{ordinal}"),
        name=f"{group.name}-{ordinal}",
        zone=zone,
        update_domain=ordinal // len(zones) % group.update_domains,
        fault_domain=draws.randrange(group.fault_domains),
        # A host stands in one zone.
        host=f"h{zone}-{draws.randrange(max(1, hosts // len(zones)))}",
        image="1.0.0",
        boots=1,
        health=Health.HEALTHY,
        health_since=moment(0),
        protected=draws.random() < 0.01,
        opted_out=draws.random() < 0.01,
        scale_in_protected=draws.random() < 0.02,
    )


def _policy(draws: random.Random) -> RollingPolicy:
    batch = draws.choice((5, 10, 20, 20, 20, 34, 50))
    policy = RollingPolicy(
        max_batch_percent=batch,
        max_unhealthy_percent=max(batch, draws.choice((10, 20, 20, 30, 50))),
        max_unhealthy_upgraded_percent=draws.choice((0, 5, 10, 20, 20, 20, 30)),
        pause_between_batches=timedelta(minutes=draws.choice((0, 0, 0, 5, 30))),
        health_wait=timedelta(minutes=draws.choice((5, 10, 20))),
        bake_time=timedelta(minutes=draws.choice((0, 0, 10, 30, 60))),
        notice=timedelta(minutes=draws.choice((0, 0, 0, 5, 15, 60))),
        drain_timeout=timedelta(minutes=draws.choice((0, 0, 0, 2, 10))),
        cross_zone=draws.random() < 0.3,
        prioritize_unhealthy=draws.random() < 0.7,
        auto_rollback=draws.random() < 0.85,
        rollback_on_breach=draws.random() < 0.75,
        governs_automatic=draws.random() < 0.9,
    )
    assert not policy_errors(policy), policy_errors(policy)
    return policy


def _blackouts(draws: random.Random, days: int) -> tuple[Interval, ...]:
    found = []
    for number in range(draws.choice((0, 0, 1, 3, 5))):
        begin = draws.uniform(0, days * DAY)
        end = begin + draws.choice((600, 3_600, 6 * 3_600, DAY))
        found.append(Interval(opens=moment(begin), closes=moment(end), name=f"b{number}"))
    return tuple(sorted(found, key=lambda interval: interval.opens))


def _windows(draws: random.Random, days: int, policy: RollingPolicy) -> tuple[Interval, ...] | None:
    """Every night, long enough for one machine; none set in most groups."""
    if draws.random() < 0.75:
        return None
    needed = (policy.drain_timeout + 2 * policy.health_wait).total_seconds()
    opens = draws.uniform(0, 12) * 3_600
    length = max(draws.choice((2, 4, 8)) * 3_600, needed + 3_600)
    # Well into the time in which everything is healed and must come to rest.
    return tuple(
        Interval(opens=moment(day * DAY + opens), closes=moment(day * DAY + opens + length))
        for day in range(days + 100)
    )


def _budgets(
    draws: random.Random, groups: tuple[GroupDrawing, ...], zones: tuple[str, ...]
) -> tuple[tuple[Budget, BudgetSelector], ...]:
    """Every group has one; some fleets have more, over groups, per zone, with a rate."""
    found = []
    for drawing in groups:
        key = BudgetId(f"a_{drawing.group.id}")
        percent = draws.choice((10, 20, 20, 34, 50, 100))
        rule = Budget(id=key, name=key, max_down=percent, percent=True, size={})
        found.append((rule, BudgetSelector(groups=frozenset({drawing.group.id}))))
    for number in range(draws.choice((0, 0, 1, 1, 2, 3))):
        chosen = draws.sample(groups, draws.randint(1, len(groups)))
        key = BudgetId(f"b_{number}")
        rate = draws.choice((0, 0, 0, 5, 20))
        size = sum(len(g.machines) for g in chosen)
        kind = draws.randrange(4)
        most = (draws.choice((1, 1, 2, 5)), None, draws.choice((5, 10, 25)), None)[kind]
        least = (None, max(0, size - draws.choice((1, 2, 4))), None, draws.choice((50, 80)))[kind]
        rule = Budget(
            id=key,
            name=key,
            max_down=most,
            min_available=least,
            percent=kind > 1,
            per_zone=draws.random() < 0.3 and kind != 1,
            size={},
            rate=rate,
            rate_period=timedelta(hours=1) if rate else timedelta(0),
        )
        zone = draws.choice(zones) if draws.random() < 0.2 and kind != 1 else ""
        found.append(
            (rule, BudgetSelector(groups=frozenset(g.group.id for g in chosen), zone=zone))
        )
    return tuple(found)


def _with_floors(
    draws: random.Random, publications: tuple[Publication, ...]
) -> tuple[Publication, ...]:
    """Some versions are floors.  In a few worlds most are, and follow on one another's heels, so
    that machines are several of them behind."""
    is_staircase = draws.random() < 0.15
    share, close = (0.6, 0.6) if is_staircase else (0.1, 0.0)
    found: list[Publication] = []
    for publication in publications:
        if found and found[-1].image == publication.image and draws.random() < close:
            at = found[-1].at + draws.choice((60.0, 1_800.0))
            publication = replace(publication, at=min(at, publication.at))
        if draws.random() < share:
            # From the beginning, or some time later, when rollouts may be on the way past it.
            later = draws.choice((0.0, 0.0, 400.0, 2_000.0, 20_000.0))
            publication = replace(publication, floor_at=publication.at + later)
        found.append(publication)
    return tuple(found)


def _publications(
    draws: random.Random, images: tuple[str, ...], days: int, options: Options
) -> tuple[Publication, ...]:
    bad_share = 0.45 if options.bad_versions else 0.3
    found = []
    for image in images:
        at = draws.uniform(0.1, 2.0) * DAY
        number = 1
        while at < (days - 2) * DAY:
            behaviour = Behaviour.GOOD
            if draws.random() < bad_share:
                behaviour = draws.choice(sorted(BAD))
            elif draws.random() < 0.25:
                behaviour = Behaviour.SLOW_BOOT
            excluded = None
            if draws.random() < 0.1 and not options.bad_versions:
                excluded = at + draws.uniform(0.01, 1.0) * DAY
            found.append(
                Publication(
                    image=image,
                    version=f"1.{number // 10}.{number % 10}" if number < 10 else f"2.0.{number}",
                    at=at,
                    behaviour=behaviour,
                    share_percent=draws.choice((BAD_SHARE_MIN, 80, 100, 100)),
                    excluded_at=excluded,
                )
            )
            number += 1
            at += draws.choice((0.3, 1.5, 3.0, 4.0, 5.0)) * DAY * draws.uniform(0.8, 1.2)
    return tuple(sorted(found, key=lambda p: (p.at, p.image)))

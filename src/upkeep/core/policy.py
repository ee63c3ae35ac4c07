"""How a rollout goes over a group: its batches, ceilings and waits, their ranges and defaults.

Source: sheet os-image §2.3, §10.
"""

from dataclasses import dataclass, replace
from datetime import timedelta

BATCH_PERCENT = range(5, 101)
UNHEALTHY_PERCENT = range(5, 101)
UNHEALTHY_UPGRADED_PERCENT = range(101)
CANARY_PERCENT = range(100)
HEALTH_WAIT_MAX = timedelta(hours=4)
BAKE_TIME_MAX = timedelta(days=2)
PAUSE_MAX = timedelta(days=7)
NOTICE_MAX = timedelta(days=7)
HOOK_WAIT_MAX = timedelta(days=1)
CHECKPOINT_PERCENT = range(1, 100)
CHECKPOINT_BAKE_MAX = timedelta(days=2)
RAMP_MAX = timedelta(days=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class RollingPolicy:
    """How a rollout goes over a group; frozen into the rollout at its start.

    Ranges and defaults: sheet os-image §2.3 and §10; `policy_errors` checks them.

    Attributes:
        max_batch_percent: machines upgraded together, 5..100 % of the group, rounded down, min 1.
        max_unhealthy_percent: ceiling of unplanned unhealthy machines before each batch, 5..100.
        max_unhealthy_upgraded_percent: ceiling among upgraded machines after a batch, 0..100.
        health_wait: how long a touched machine may take to be seen healthy.
        bake_time: how long it must then stay healthy before its batch is closed.
        notice: how long before it starts a machine's work is announced.
        drain_timeout: how long the machine's own drain hook may take; zero means no draining.
        auto_rollback: put a failed machine back on its previous OS disk.
        rollback_on_breach: when the version is found guilty, take every upgraded machine back.
        max_surge: make new machines first and delete as many old ones after (see surge.py).
        governs_automatic: it holds for rollouts that begin by themselves, too; without it those
            go by the defaults of the percentages, the pause, the order and the surge.
        needs_approval: a rollout that begins by itself takes a machine only once somebody has
            approved it (Azure's deferral).
        canary_percent: a rollout that begins by itself takes so many first, at least one, and no
            more until somebody promotes it; zero means no canary.
        checkpoints: shares of the group, ascending, at each of which a rollout rests for
            `checkpoint_bake`.  See pacing.py.
        ramp: over so long it begins its machines evenly; zero means as fast as all else allows.
        start_hook_wait: how long a rollout that begins by itself waits for an answer before its
            first batch; zero means that nobody is asked.  See lifecycle_hooks.py.
        start_hook_approves: what silence means then.
        batch_hook_wait, batch_hook_approves: the same before each batch.
    """

    max_batch_percent: int = 20
    max_unhealthy_percent: int = 20
    max_unhealthy_upgraded_percent: int = 20
    pause_between_batches: timedelta = timedelta(0)
    health_wait: timedelta = timedelta(minutes=5)
    bake_time: timedelta = timedelta(0)
    notice: timedelta = timedelta(0)
    drain_timeout: timedelta = timedelta(0)
    cross_zone: bool = False
    prioritize_unhealthy: bool = True
    auto_rollback: bool = True
    rollback_on_breach: bool = True
    max_surge: bool = False
    governs_automatic: bool = True
    needs_approval: bool = False
    canary_percent: int = 0
    checkpoints: tuple[int, ...] = ()
    checkpoint_bake: timedelta = timedelta(hours=1)
    ramp: timedelta = timedelta(0)
    start_hook_wait: timedelta = timedelta(0)
    start_hook_approves: bool = True
    batch_hook_wait: timedelta = timedelta(0)
    batch_hook_approves: bool = True


DEFAULTS = RollingPolicy()


def policy_errors(policy: RollingPolicy) -> list[str]:
    """What is wrong with a policy, a sentence each that says what to set instead.

    Source: sheet os-image §2.3 (ranges; batch must not exceed the unhealthy limit), §10.
    """
    errors = []
    for name, value, allowed in (
        ("max_batch_percent", policy.max_batch_percent, BATCH_PERCENT),
        ("max_unhealthy_percent", policy.max_unhealthy_percent, UNHEALTHY_PERCENT),
        (
            "max_unhealthy_upgraded_percent",
            policy.max_unhealthy_upgraded_percent,
            UNHEALTHY_UPGRADED_PERCENT,
        ),
        ("canary_percent", policy.canary_percent, CANARY_PERCENT),
    ):
        if value not in allowed:
            errors.append(f"{name} is {value}; set {allowed.start} to {allowed.stop - 1}")
    if policy.max_batch_percent > policy.max_unhealthy_percent:
        errors.append(
            f"max_batch_percent ({policy.max_batch_percent}) is above max_unhealthy_percent "
            f"({policy.max_unhealthy_percent}); lower the first or raise the second"
        )
    errors += _checkpoint_errors(policy.checkpoints)
    for name, length, longest in (
        ("health_wait", policy.health_wait, HEALTH_WAIT_MAX),
        ("bake_time", policy.bake_time, BAKE_TIME_MAX),
        ("pause_between_batches", policy.pause_between_batches, PAUSE_MAX),
        ("notice", policy.notice, NOTICE_MAX),
        ("drain_timeout", policy.drain_timeout, HEALTH_WAIT_MAX),
        ("start_hook_wait", policy.start_hook_wait, HOOK_WAIT_MAX),
        ("batch_hook_wait", policy.batch_hook_wait, HOOK_WAIT_MAX),
        ("checkpoint_bake", policy.checkpoint_bake, CHECKPOINT_BAKE_MAX),
        ("ramp", policy.ramp, RAMP_MAX),
    ):
        if not timedelta(0) <= length <= longest:
            errors.append(f"{name} is {length}; set at least 0 and at most {longest}")
    if policy.health_wait == timedelta(0):
        errors.append("health_wait is 0; set how long a machine may take to become healthy")
    return errors


def _checkpoint_errors(checkpoints: tuple[int, ...]) -> list[str]:
    shown = ", ".join(map(str, checkpoints))
    if any(percent not in CHECKPOINT_PERCENT for percent in checkpoints):
        return [f"checkpoints are {shown}; set each to 1 to 99"]
    if list(checkpoints) != sorted(set(checkpoints)):
        return [f"checkpoints are {shown}; write them in ascending order, each once"]
    return []


def share_of(percent: int, *, size: int) -> int:
    """So many machines are a share of a group: rounded down, never below one.

    Batches, budgets, repairs, canaries and checkpoints are counted so.  E.g. 20 % of 1, 5, 9, 10,
    14, 100 is 1, 1, 1, 2, 2, 20.  Source: sheet os-image §10; docs/adr/0003.
    """
    assert 0 <= percent <= 100
    assert size >= 0
    return max(1, size * percent // 100)


def time_needed(policy: RollingPolicy) -> timedelta:
    """The longest one machine may take: its drain, its health wait, and as long to go back."""
    return policy.drain_timeout + 2 * policy.health_wait


def policy_by_hand(policy: RollingPolicy, *, named: bool) -> RollingPolicy:
    """What a rollout that a person started goes by.

    It does not roll machines back by itself (sheet os-image §2.8), and who starts it has approved
    it: nobody else is asked (docs/adr/0015, 0016).  Who names machines wants them now: no
    checkpoint and no ramp (docs/adr/0019).
    """
    policy = replace(
        policy,
        auto_rollback=False,
        rollback_on_breach=False,
        needs_approval=False,
        canary_percent=0,
        start_hook_wait=timedelta(0),
        batch_hook_wait=timedelta(0),
    )
    return replace(policy, checkpoints=(), ramp=timedelta(0)) if named else policy


def policy_without_waits(policy: RollingPolicy) -> RollingPolicy:
    """As fast as the batches allow, and still back from what is bad (docs/adr/0022)."""
    return replace(
        policy,
        needs_approval=False,
        pause_between_batches=timedelta(0),
        canary_percent=0,
        checkpoints=(),
        ramp=timedelta(0),
        start_hook_wait=timedelta(0),
        batch_hook_wait=timedelta(0),
    )


def platform_policy(policy: RollingPolicy) -> RollingPolicy:
    """What a rollout that begins by itself goes by where the group's own policy does not govern it:
    the defaults, with the group's own times.

    Source: sheet os-image §2.3, `useRollingUpgradePolicy`.
    """
    return replace(
        policy,
        max_batch_percent=DEFAULTS.max_batch_percent,
        max_unhealthy_percent=DEFAULTS.max_unhealthy_percent,
        max_unhealthy_upgraded_percent=DEFAULTS.max_unhealthy_upgraded_percent,
        pause_between_batches=DEFAULTS.pause_between_batches,
        cross_zone=DEFAULTS.cross_zone,
        prioritize_unhealthy=DEFAULTS.prioritize_unhealthy,
        rollback_on_breach=DEFAULTS.rollback_on_breach,
        max_surge=DEFAULTS.max_surge,
    )

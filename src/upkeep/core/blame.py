"""Which work, if any, a failure belongs to; and which domains have dropped out as a whole.

A failure belongs to the last work on that machine, within its bake time.  It speaks against the
*version* only if nothing else explains it:

1. the machine was well before it was touched (a repair that did not heal proves nothing);
2. the platform did its part (a full disk is not the image's doing);
3. back on the previous version the machine was well again (else it is the machine itself; if
   it could not go back, nobody knows: the rollout halts and nobody is blamed);
4. the control group, machines of the same zones (or neighbours on its host) without that work,
   is clearly better off.

Losing a zone, a host or a fault domain blames nobody: see `lost_domains`.
Source: DESIGN §5 (blame; down is not bad), docs/adr/0005, 0008, 0011.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from upkeep.core.model import Failure, Task
from upkeep.core.snapshot import Domain
from upkeep.core.task import TaskState

LOST_WITHIN = timedelta(minutes=5)
LOST_MACHINES_MIN = 3
RESUME_AFTER = timedelta(minutes=10)

# Of fewer machines to compare with, all must have fallen ill; with none the rollback decides.
CONTROL_MIN = 3

# Ill for so long within its bake time a machine has failed.  The first machines of a lost domain
# look like two that fell ill, and a blip like a failure: after this it is known.
ILL_AFTER = LOST_WITHIN


@dataclass(frozen=True, slots=True, kw_only=True)
class LostDomain:
    """A domain in which rollouts pause; `until` is None while it is still away."""

    kind: str
    name: str
    since: datetime
    until: datetime | None


def lost_domain(domain: Domain, *, now: datetime) -> LostDomain | None:
    """Whether the domain is lost: 3 machines and half of it turned unknown within 5 minutes.

    It stays lost until fewer are away or have come back less than 10 minutes ago.  The answer
    needs no memory: it follows from when each machine was lost and when it came back.
    """
    needed = max(LOST_MACHINES_MIN, -(-domain.size // 2))
    open_cases = sorted(
        (
            (lost_at, back_at)
            for lost_at, back_at in domain.away
            if back_at is None or back_at < lost_at or now - back_at < RESUME_AFTER
        ),
        key=lambda case: case[0],
    )
    if len(open_cases) < needed:
        return None
    for first in range(len(open_cases) - needed + 1):
        last = first + needed - 1
        if open_cases[last][0] - open_cases[first][0] <= LOST_WITHIN:
            return LostDomain(
                kind=domain.kind,
                name=domain.name,
                since=open_cases[last][0],
                until=_lifts_at(open_cases, needed),
            )
    return None


def _lifts_at(cases: Sequence[tuple[datetime, datetime | None]], needed: int) -> datetime | None:
    """When enough machines will have been back for ten minutes; None while too many are away."""
    returns = sorted(back_at for lost_at, back_at in cases if back_at and back_at >= lost_at)
    # The domain is lifted when the number of open cases falls below `needed`.
    surplus = len(cases) - needed
    if len(returns) <= surplus:
        return None
    return returns[surplus] + RESUME_AFTER


def lost_domains(domains: Iterable[Domain], *, now: datetime) -> list[LostDomain]:
    return [lost for domain in domains if (lost := lost_domain(domain, now=now)) is not None]


def speaks_against_version(task: Task) -> bool:
    """Points 1 to 3 of the module text, for one ended task."""
    if task.repair or task.failure in (Failure.NONE, Failure.PLATFORM):
        return False
    if task.state is TaskState.FAILED:
        return not is_left_open(task)
    # After a rollback only a machine that was then well testifies against the version.
    return task.state is not TaskState.ROLLED_BACK or task.healed


def is_left_open(task: Task) -> bool:
    """Its rollback failed too, so what that would have shown is open: version or machine."""
    return (
        task.state is TaskState.FAILED
        and task.attempt > 1
        and not task.repair
        and task.failure is not Failure.PLATFORM
    )


def control_group_suffers(*, failed: int, touched: int, control_failed: int, control: int) -> bool:
    """Point 4: machines without the work fail at half the rate of those with it, or more.

    E.g. 1 of 1 touched failed and 3 of 5 untouched fell ill in the same time: not the version.
    With 1 of 5: the version.
    """
    assert 0 <= failed <= touched
    if failed == 0:
        return False
    if control < CONTROL_MIN:
        return 0 < control == control_failed
    return 2 * control_failed * touched >= failed * control

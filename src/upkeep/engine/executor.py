"""Runs actions from the journal: claim, perform, record.

`claim` and `finish` touch the store, `perform` touches the world and may take an hour; whoever
drives the executor (a thread pool in the server, virtual time in the simulator) calls `perform`
in between.  A process may die at any point: the lease runs out, another process claims the row
with a higher fence, and the driver answers a repeated key with what it knows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol, assert_never

from upkeep.core.model import Verb
from upkeep.engine.clock import EngineClock
from upkeep.engine.fleet_store import ActionResult, FleetStore, LeasedAction
from upkeep.ports import (
    DriverError,
    DriverErrorKind,
    MachineSpec,
    MachineStatus,
    OsImage,
    Platform,
)

# A lease outlives the longest silence of a live process (heartbeats come every third of it).
LEASE = timedelta(seconds=60)
HEARTBEAT = LEASE / 3

# An agent that polls every five minutes hears of a restart by then, gives its machine ten more to
# go down, and the machine has to boot.
AGENT_TAKES_MAX = timedelta(minutes=20)

# A driver error that may pass is tried again so often, with doubled waits from the first.
ATTEMPTS_MAX = 5
RETRY_FIRST = timedelta(seconds=2)
RETRY_MAX = timedelta(minutes=1)


class Provisioner(Protocol):
    """Turns names in an action into what a driver needs."""

    def image(self, leased: LeasedAction) -> OsImage:
        """The image of the action's version, its checksum verified.

        Raises:
            DriverError(BAD_IMAGE): missing, or its digest is not the published one.
        """
        ...

    def spec(self, leased: LeasedAction) -> MachineSpec: ...

    def seed(self, leased: LeasedAction) -> Mapping[str, bytes]: ...


class Executor:
    """Performs actions on platforms.

    Args:
        owner: names this process in leases.
        by_agent: platforms on which the machine's own agent restarts it.
    """

    def __init__(
        self,
        store: FleetStore,
        platforms: Mapping[str, Platform],
        provisioner: Provisioner,
        clock: EngineClock,
        *,
        owner: str,
        by_agent: frozenset[str] = frozenset(),
    ) -> None:
        self._store = store
        self._platforms = platforms
        self._provisioner = provisioner
        self._clock = clock
        self._owner = owner
        self._by_agent = by_agent

    def claim(self, limit: int) -> Sequence[LeasedAction]:
        """Up to `limit` actions that are now this process's to perform.

        What a machine's own agent performs is passed on to it here.
        """
        now = self._clock.now()
        taken = self._store.claim_actions(
            self._owner, now=now, lease_until=now + LEASE, limit=limit
        )
        mine = []
        for leased in taken:
            if leased.action.verb is Verb.RESTART and leased.platform in self._by_agent:
                self._pass_on(leased, now)
            else:
                mine.append(leased)
        return mine

    def _pass_on(self, leased: LeasedAction, now: datetime) -> None:
        """To the agent, once; one that has not answered in its time never will be believed."""
        key, fence = leased.action.key, leased.fence
        if leased.was_with_agent:
            result = ActionResult(
                succeeded=False,
                kind=DriverErrorKind.TIMED_OUT,
                detail=(
                    f"the agent on {leased.machine_name} did not restart it within"
                    f" {AGENT_TAKES_MAX // timedelta(minutes=1)} minutes: see to the machine, or"
                    " run `upkeep agent doctor` there"
                ),
            )
            self._store.finish_action(key, fence=fence, result=result, now=now)
        else:
            self._store.give_to_agent(key, fence=fence, lease_until=now + AGENT_TAKES_MAX)

    def heartbeat(self, leased: LeasedAction) -> bool:
        """Keep the lease; False when the action has become somebody else's."""
        return self._store.extend_lease(
            leased.action.key, fence=leased.fence, lease_until=self._clock.now() + LEASE
        )

    def perform(self, leased: LeasedAction) -> ActionResult:
        """Do it.  Never raises a DriverError: a refusal of the world is a result."""
        platform = self._platforms.get(leased.platform)
        if platform is None:
            detail = (
                f"this server drives no platform {leased.platform!r}; start it with one that does"
            )
            return ActionResult(succeeded=False, kind=DriverErrorKind.TOOL_MISSING, detail=detail)
        try:
            self._call(platform, leased)
        except DriverError as error:
            return ActionResult(
                succeeded=False,
                kind=error.kind,
                retryable=error.retryable,
                detail=error.detail,
                status=_status(platform, leased.machine_name),
            )
        return ActionResult(succeeded=True, status=_status(platform, leased.machine_name))

    def finish(self, leased: LeasedAction, result: ActionResult) -> bool:
        """Record how it ended, or give it back for another attempt; False if it was outlived."""
        now = self._clock.now()
        key, fence = leased.action.key, leased.fence
        if not result.succeeded and result.retryable:
            if leased.attempts < ATTEMPTS_MAX:
                self._store.retry_action(
                    key, fence=fence, result=result, not_before=now + retry_wait(leased.attempts)
                )
                return True
            result = _final(result)
        if result.kind == DriverErrorKind.FENCED:
            return False  # A newer attempt has taken over; it will tell how it ended.
        return self._store.finish_action(key, fence=fence, result=result, now=now)

    def _call(self, platform: Platform, leased: LeasedAction) -> None:
        name, key, fence = leased.machine_name, leased.action.key, leased.fence
        match leased.action.verb:
            case Verb.CREATE:
                platform.create(self._provisioner.spec(leased), key=key, fence=fence)
            case Verb.REPLACE_OS_DISK | Verb.REIMAGE:
                platform.replace_os_disk(
                    name,
                    self._provisioner.image(leased),
                    self._provisioner.seed(leased),
                    model=leased.action.model,
                    key=key,
                    fence=fence,
                )
            case Verb.SWITCH_BACK:
                platform.switch_back(name, key=key, fence=fence)
            case Verb.START:
                platform.start(name, key=key, fence=fence)
            case Verb.STOP:
                platform.stop(name, key=key, fence=fence)
            case Verb.RESTART:
                platform.restart(name, key=key, fence=fence)
            case Verb.DELETE:
                platform.delete(name, key=key, fence=fence)
            case Verb.DRAIN:
                raise AssertionError("draining is the agent's work; the store never leases it")
            case _:
                assert_never(leased.action.verb)


def retry_wait(attempts: int) -> timedelta:
    """How long to wait before the next attempt, after so many: 2, 4, 8, 16 s, at most 60 s."""
    wait: timedelta = RETRY_FIRST * (1 << min(attempts - 1, 10))
    return min(wait, RETRY_MAX)


def _final(result: ActionResult) -> ActionResult:
    return replace(result, detail=f"{result.detail} (tried {ATTEMPTS_MAX} times)")


def _status(platform: Platform, name: str) -> MachineStatus | None:
    try:
        return platform.observe([name])[0]
    except DriverError:
        return None  # What the platform cannot say is not written down as anything.

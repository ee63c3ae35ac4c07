"""What the executor passes on to the agents of machines, over the store in memory."""

from datetime import datetime, timedelta

import pytest
from tests.core.story import START, a_group, machines_of

from upkeep.core.model import Health, MachineId, Outcome, Rollout, RolloutState, Task, Verb
from upkeep.core.policy import RollingPolicy
from upkeep.core.snapshot import OperatorCall, Plan
from upkeep.core.task import TaskState
from upkeep.engine.clock import EngineClock
from upkeep.engine.executor import AGENT_TAKES_MAX, LEASE, Executor
from upkeep.engine.fleet_store import Sighting
from upkeep.engine.loop import Engine
from upkeep.platforms.agent_only import AgentOnlyPlatform
from upkeep.ports import AGENT_ONLY
from upkeep.sim.memory import MemoryStore
from upkeep.sim.memory_operator import MemoryOperator
from upkeep.sim.replica import SimulatedProvisioner

GROUP = a_group(policy=RollingPolicy())
IRON = MachineId("m0")


class HandClock:
    """Both of a host's clocks, moved by the test."""

    def __init__(self) -> None:
        self.moved = timedelta(0)

    def now(self) -> datetime:
        return START + self.moved

    def monotonic(self) -> float:
        return self.moved.total_seconds()


class Server:
    """The engine and one executor after the other over a group that only runs agents."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.store = MemoryStore()
        self.operator = MemoryOperator(self.store)
        self.operator.add_group(GROUP, machines_of(1), platform=AGENT_ONLY, now=START)
        self.starts = 0
        self.rollouts: dict[str, Rollout] = {}
        self.begin()

    def begin(self) -> None:
        """A process starts, as after the one before was killed."""
        self.starts += 1
        clock = EngineClock(self.clock, self.store)
        self.engine = Engine(self.store, clock, on_plan=self._planned)
        self.executor = Executor(
            self.store,
            {AGENT_ONLY: AgentOnlyPlatform()},
            SimulatedProvisioner(),
            clock,
            owner=f"p{self.starts}",
            by_agent=frozenset({AGENT_ONLY}),
        )

    def _planned(self, plan: Plan) -> None:
        self.rollouts |= {rollout.id: rollout for rollout in plan.rollouts}

    def go_on(self, *, minutes: float = 0) -> None:
        self.clock.moved += timedelta(minutes=minutes)
        self.engine.tick()
        self.pass_on()
        self.engine.tick()

    def pass_on(self) -> None:
        assert self.executor.claim(10) == [], "nothing here is the platform's"

    def ask_for_restart(self) -> None:
        call = OperatorCall(id="c1", verb=Verb.RESTART, machines=(IRON,), force=False, actor="me")
        self.operator.add_call(GROUP.id, call, now=self.clock.now())
        self.go_on()

    @property
    def offered(self) -> list[str]:
        """What the agent would be offered if it asked now."""
        return [key for key, row in self.store.actions.items() if row.waits_for_agent()]

    def answer(self, *, succeeded: bool = True) -> bool:
        """The agent has restarted the machine (or could not)."""
        (key,) = self.store.actions
        if succeeded:
            boots = self.store.groups[GROUP.id].machines[IRON].boots + 1
            self.store.observe(IRON, Sighting(boots=boots), now=self.clock.now())
        return self.store.finish_by_agent(key, now=self.clock.now(), succeeded=succeeded)

    @property
    def rollout(self) -> Rollout:
        (found,) = self.rollouts.values()
        return found

    @property
    def task(self) -> Task:
        return self.store.groups[GROUP.id].tasks[self.rollout.id][IRON]

    @property
    def outcome(self) -> Outcome:
        (outcome,) = self.store.groups[GROUP.id].outcomes[self.rollout.id].values()
        return outcome


@pytest.fixture
def server() -> Server:
    made = Server()
    made.ask_for_restart()
    return made


def test_a_restart_of_a_machine_that_only_runs_the_agent_is_passed_on_to_it(server: Server) -> None:
    (key,) = server.offered
    assert "/restart/" in key
    assert server.task.state is TaskState.RUNNING
    server.go_on(minutes=6)
    assert server.answer()
    server.go_on()
    assert server.task.state is TaskState.VERIFYING
    server.store.observe(IRON, Sighting(health=Health.HEALTHY), now=server.clock.now())
    server.go_on()
    assert server.rollout.state is RolloutState.COMPLETED


def test_a_server_that_is_killed_in_between_asks_the_agent_only_once(server: Server) -> None:
    (key,) = server.offered
    server.begin()
    server.go_on(minutes=6)
    assert server.offered == [key]
    assert server.answer()
    server.go_on()
    assert server.task.state is TaskState.VERIFYING


def test_a_server_that_is_killed_before_it_passes_it_on_passes_it_on_later() -> None:
    server = Server()
    server.store.before = lambda name: _kill_before(name, "give_to_agent")
    with pytest.raises(KeyboardInterrupt):
        server.ask_for_restart()
    assert server.offered == []
    server.store.before = lambda name: None
    server.begin()
    server.go_on(minutes=LEASE / timedelta(minutes=1) + 1)
    assert len(server.offered) == 1


def _kill_before(name: str, step: str) -> None:
    if name == step:
        raise KeyboardInterrupt


def test_an_agent_that_does_not_come_is_waited_for_so_long_and_no_longer(server: Server) -> None:
    longest = AGENT_TAKES_MAX / timedelta(minutes=1)
    server.go_on(minutes=longest - 1)
    assert len(server.offered) == 1
    server.clock.moved += timedelta(minutes=1)
    server.pass_on()
    assert server.offered == []
    assert not server.answer(succeeded=False)
    assert not server.outcome.succeeded
    assert "did not restart it within 20 minutes: see to the machine" in server.outcome.detail
    server.go_on()
    assert server.rollout.state is RolloutState.FAULTED

"""The health watch: when it looks, and when it begins anew."""

import json
import threading

import pytest

from upkeep.agent.health import HealthState, Observation, ProbeSettings
from upkeep.agent.watch import HealthWatch

PROBE = {"protocol": "tcp", "port": 22, "interval_ms": 100}


class World:
    """An application whose state the test sets, and a count of what was asked and told."""

    def __init__(self, machine) -> None:
        self.machine = machine
        self.state = HealthState.HEALTHY
        self.looks: list[ProbeSettings] = []
        self.nudges = 0
        self.stopping = threading.Event()
        self.during_look = lambda: None
        self.watch = self.new_watch()

    def new_watch(self) -> HealthWatch:
        paths = self.machine.paths
        return HealthWatch(paths.state, paths.seed, look=self.look, nudge=self.nudge)

    def look(self, settings: ProbeSettings) -> Observation:
        self.looks.append(settings)
        self.during_look()
        return Observation(self.state, "seen")

    def nudge(self) -> None:
        self.nudges += 1

    def probe_once(self) -> str:
        """One probe without the wait after it."""
        self.stopping.set()
        self.watch.probe_once(self.stopping)
        return self.watch.report().state


@pytest.fixture
def world(machine) -> World:
    return World(machine)


def test_without_a_source_there_is_no_health(world) -> None:
    assert world.watch.report().state == "none"
    assert world.probe_once() == "none"
    assert world.looks == []


def test_an_equal_source_changes_nothing_and_another_begins_anew(world) -> None:
    world.watch.use(PROBE)
    assert world.watch.report().state == "initializing"
    assert world.probe_once() == "healthy"
    before = world.watch.report()
    world.watch.use(dict(PROBE))
    assert world.watch.report() == before
    world.watch.use({**PROBE, "port": 23})
    assert world.watch.report().state == "initializing"
    world.watch.use(None)
    assert world.watch.report().state == "none"


def test_a_source_that_breaks_a_rule_is_passed_over(world) -> None:
    world.watch.use(PROBE)
    world.probe_once()
    world.watch.use({**PROBE, "interval_ms": 1})
    assert world.watch.report().state == "healthy"


def test_a_change_of_state_is_told_at_once_and_a_confirmation_is_not(world) -> None:
    world.watch.use(PROBE)
    world.probe_once()
    told = world.nudges
    world.probe_once()
    assert world.nudges == told
    world.state = HealthState.UNHEALTHY
    world.probe_once()
    assert world.nudges == told + 1


def test_an_answer_about_an_older_source_is_dropped(world) -> None:
    world.watch.use(PROBE)
    world.during_look = lambda: world.watch.use({**PROBE, "port": 23})
    assert world.probe_once() == "initializing"


def test_the_last_source_is_there_at_the_next_start_before_the_seeds(world) -> None:
    (world.machine.paths.seed / "probe.json").write_text(json.dumps({**PROBE, "port": 1}))
    assert world.new_watch().report().state == "initializing"
    world.watch.use(PROBE)
    world.watch = world.new_watch()
    world.probe_once()
    assert world.looks[-1].port == 22
    world.watch.use(None)
    assert world.new_watch().report().state == "none"


@pytest.mark.parametrize("text", ["{", "[]", "1", '{"protocol": "udp"}'])
def test_a_bad_first_source_does_not_stop_the_agent(world, text: str) -> None:
    (world.machine.paths.seed / "probe.json").write_text(text)
    assert world.new_watch().report().state == "none"


def test_the_wait_after_a_probe_ends_with_a_new_source(world, wait_until) -> None:
    world.watch.use({**PROBE, "interval_ms": 60_000})
    thread = threading.Thread(target=world.watch.probe_once, args=(world.stopping,), daemon=True)
    thread.start()
    wait_until(lambda: world.watch.report().state == "healthy")
    assert thread.is_alive()
    world.watch.use(PROBE)
    thread.join(10)
    assert not thread.is_alive()

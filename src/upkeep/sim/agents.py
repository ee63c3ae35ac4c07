"""What agents do when they are told: move their machine's work away, restart it.

A fifth of them never ends a drain.  In some groups the agents restart their machines, as where
upkeep does not hold the power: an agent asks every so often, does what it is offered, and says so
once it is back.  What has been taken back in the meantime it neither begins nor ends.
"""

from functools import partial

from upkeep.core.model import MachineId, Verb
from upkeep.engine.fleet_store import Sighting
from upkeep.platforms.simulated import Course, Reach
from upkeep.ports import DriverError, DriverErrorKind
from upkeep.sim.checkers import Facts
from upkeep.sim.hosting import Hosting
from upkeep.sim.kernel import stream
from upkeep.sim.replica import Blocked, Site
from upkeep.sim.world import Truth

REFUSED = Course(
    error=DriverError(DriverErrorKind.FAILED, "the system refuses to restart", retryable=False),
    reach=Reach.NOTHING,
)


class Agents:
    def __init__(self, site: Site, facts: Facts, hosting: Hosting) -> None:
        self._site = site
        self._facts = facts
        self._hosting = hosting
        seed = facts.drawing.seed
        self._drains = stream(seed, "agents")
        self._restarts = stream(seed, "restarts")
        self._poll_s = float(facts.drawing.agent_s)

    def drain(self, key: str, machine: MachineId) -> None:
        """The agent moves the machine's work away, if it hears of it; some never end."""
        truth = self._facts.truth(machine)
        if truth is None or self._drains.random() < 0.2:
            return
        self._site.kernel.after(
            self._drains.uniform(5, 300), lambda: self._answer(truth, key, succeeded=True)
        )

    def restart(self, key: str) -> None:
        """The agent is offered a restart: it hears of it when it asks next."""
        self._site.kernel.after(
            self._restarts.uniform(0, self._poll_s), lambda: self._begin_restart(key)
        )

    def course(self) -> Course:
        """How a restart by an agent goes; some systems refuse."""
        if self._restarts.random() < 0.1:
            return REFUSED
        return Course(seconds=round(self._restarts.uniform(5, 30)))

    def _offered(self, key: str) -> Truth | None:
        """The machine, if its agent is still offered the command."""
        row = self._site.store.actions[key]
        return self._facts.truth(row.action.machine) if row.waits_for_agent() else None

    def _begin_restart(self, key: str) -> None:
        truth = self._offered(key)
        if truth is None:
            return
        if not self._site.world.agent_alive(truth) or not self._hosting.awake():
            self._site.kernel.after(self._poll_s, lambda: self._begin_restart(key))
            return
        fence = self._site.store.actions[key].fence
        try:
            self._site.platform.restart(truth.name, key=key, fence=fence)
        except Blocked as blocked:
            self._site.kernel.at(blocked.until, lambda: self._end_restart(key, truth))
        except DriverError:
            self._tell_when_back(key, truth, succeeded=False)

    def _end_restart(self, key: str, truth: Truth) -> None:
        call = truth.platform.call
        if call is None or call.key != key:
            return  # Somebody else works on the machine by now.
        self._site.platform.end_call(truth.platform, call)
        self._tell_when_back(key, truth, succeeded=call.course.error is None)

    def _tell_when_back(self, key: str, truth: Truth, *, succeeded: bool) -> None:
        self._answer(truth, key, succeeded=succeeded)
        if self._offered(key) is None:
            return
        again = partial(self._tell_when_back, key, truth, succeeded=succeeded)
        self._site.kernel.after(self._poll_s, again)

    def _answer(self, truth: Truth, key: str, *, succeeded: bool) -> None:
        """One check-in: how often the machine has started, and what was done; it may get lost."""
        if not self._site.world.agent_alive(truth) or not self._hosting.awake():
            return
        replica = self._hosting.awake()[0]
        store = self._site.store

        def write() -> None:
            now = replica.engine_now()
            if store.actions[key].action.verb is not Verb.DRAIN:
                store.observe(truth.id, Sighting(boots=truth.platform.boots), now=now)
            if store.finish_by_agent(key, now=now, succeeded=succeeded):
                self._renew_watch(truth)

        replica.guarded(write)

    def _renew_watch(self, truth: Truth) -> None:
        watcher = self._hosting.watcher()
        if watcher is None:
            return

        def renew() -> None:
            if watcher.witnesses is not None:
                watcher.witnesses.worked_on(truth)

        self._site.kernel.after(0.0, partial(watcher.guarded, renew))

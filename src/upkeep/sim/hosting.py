"""The server's processes over time: started, killed, frozen, two at once.

One of them watches health (docs/simulation.md says why only one); when it goes, another one that
lives takes over, or the next to start.
"""

import random
from collections.abc import Callable
from datetime import datetime

from upkeep.sim.checkers import Facts
from upkeep.sim.kernel import moment
from upkeep.sim.replica import Replica, Site

# The product reads the rows of all watched machines anew so often (server/runner.py).
RELOAD_S = 30.0


class Hosting:
    def __init__(
        self, site: Site, facts: Facts, draws: random.Random, changed: Callable[[], None]
    ) -> None:
        self.replicas: list[Replica] = []
        self.current: Replica | None = None
        self.blind_until = 0.0
        self._site = site
        self._facts = facts
        self._draws = draws
        self._changed = changed
        self._started = 0
        self._watcher: Replica | None = None

    # Life.

    def start(self) -> Replica:
        self._started += 1
        for other in self.awake():
            other.raise_mark()
        watches = self._watcher is None or not self._watcher.alive
        replica = Replica(
            self._site,
            f"p{self._started}",
            watches=watches,
            on_enter=self._enter,
            on_death=self._died,
        )
        self.replicas.append(replica)
        if watches:
            self._watcher = replica
        self._site.kernel.tell(f"process {replica.name} starts")
        replica.start()
        if watches and replica.alive:
            self._sees_again()
        self._changed()
        return replica

    def _enter(self, replica: Replica | None) -> None:
        self.current = replica
        if replica is None:
            self._changed()

    def _died(self, replica: Replica) -> None:
        self.replicas.remove(replica)
        self._site.kernel.tell(f"process {replica.name} is dead")
        self._pass_on_watch(replica)
        if not any(r.alive and r.frozen_until <= self._site.kernel.now for r in self.replicas):
            self._site.kernel.after(self._downtime(), self._ensure)

    def _downtime(self) -> float:
        kind = self._draws.random()
        if kind < 0.70:
            return self._draws.uniform(1, 30)
        if kind < 0.95:
            return self._draws.uniform(30, 600)
        return self._draws.uniform(600, 4 * 3_600)

    def _ensure(self) -> None:
        if not self.awake():
            self.start()

    def awake(self) -> list[Replica]:
        now = self._site.kernel.now
        return [r for r in self.replicas if r.alive and r.frozen_until <= now]

    def engine_now(self) -> datetime:
        """The time by which a person's word, or an alarm's, is written."""
        awake = self.awake()
        return awake[0].engine_now() if awake else moment(self._site.kernel.now)

    # Watching.

    def _pass_on_watch(self, replica: Replica) -> None:
        if replica is not self._watcher:
            return
        self._watcher = None
        self._facts.watch_ends()
        self._site.kernel.after(10, self._find_watcher)

    def _find_watcher(self) -> None:
        awake = self.awake()
        if self._watcher is None and awake:
            self._watcher = awake[0]
            self._watcher.take_over_watch()
            if self._watcher is not None and self._watcher.alive:
                self._sees_again()

    def reload_watch(self) -> None:
        """Machines that were made, or written by another process, are seen by the one that
        watches."""
        watcher = self._watcher
        if watcher is not None and watcher.witnesses is not None:
            watcher.guarded(watcher.witnesses.reload)

    def _sees_again(self) -> None:
        self._facts.watch_begins()
        self._facts.watched_since = max(self._site.kernel.now, self.blind_until)

    def blind(self, until: float) -> None:
        """Until then messages are lost or the prober is away: nobody must know anything."""
        self.blind_until = max(self.blind_until, until)
        self._facts.watched_since = max(self._facts.watched_since, until)

    def watcher(self) -> Replica | None:
        return self._watcher

    # Faults.

    def kill(self, replica: Replica) -> None:
        replica.die()

    def freeze(self, replica: Replica, *, longest_s: float = 3_600) -> None:
        """It stands still for longer than its leases; somebody starts another one meanwhile."""
        kernel = self._site.kernel
        until = kernel.now + self._draws.uniform(90, longest_s)
        kernel.tell(f"process {replica.name} is frozen for {until - kernel.now:.0f} s")
        replica.freeze(until, in_mid_step=self._draws.random() < 0.5)
        self._pass_on_watch(replica)
        kernel.after(self._draws.uniform(10, 120), self._ensure)
        kernel.at(until + 1, self._find_watcher)
        kernel.at(until + RELOAD_S, self.reload_watch)
        kernel.at(until + self._draws.uniform(30, 600), lambda: self._retire(replica))

    def start_second(self) -> None:
        """The server is replaced by a newer one: both run for a while, then one goes."""
        if len(self.awake()) > 1:
            return
        old = self.awake()
        second = self.start()
        going = self._draws.choice([*old, second])
        self._site.kernel.after(self._draws.uniform(60, 1_800), lambda: self._retire(going))

    def _retire(self, replica: Replica) -> None:
        if replica.alive and len(self.awake()) > 1:
            replica.die()

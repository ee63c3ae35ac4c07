"""One world from its seed to its end: safety with faults, then rest without them.

`run(seed, options)` answers a `Result`; a broken rule is part of it.  The code that decides is
the product's: core, engine, health watch.  Only time, the platform and the store are ours.
"""

import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from math import inf
from typing import Any

from upkeep.core.alarm import Alarm, AlarmState
from upkeep.core.model import MachineId, Verb
from upkeep.core.version import ImageVersion
from upkeep.platforms.simulated import Course, SimulatedMachine, SimulatedPlatform
from upkeep.platforms.simulated import Verb as PlatformVerb
from upkeep.sim.agents import Agents
from upkeep.sim.alarms import Alarms
from upkeep.sim.check_alarms import AlarmChecker
from upkeep.sim.check_budgets import BudgetChecker
from upkeep.sim.check_holds import HoldChecker
from upkeep.sim.check_hooks import HookChecker
from upkeep.sim.check_journal import JournalChecker
from upkeep.sim.check_models import ModelChecker
from upkeep.sim.check_pace import PaceChecker
from upkeep.sim.check_repairs import RepairChecker
from upkeep.sim.check_starts import BatchChecker, StartChecker
from upkeep.sim.check_states import StateChecker
from upkeep.sim.checkers import Checker, Facts, RuleBroken, learn
from upkeep.sim.drawing import DAY, Drawing, Options, Publication, draw
from upkeep.sim.faults import Faults
from upkeep.sim.hosting import Hosting
from upkeep.sim.kernel import Kernel, moment, stream
from upkeep.sim.liveness import newest, unrest
from upkeep.sim.memory import MemoryStore
from upkeep.sim.memory_operator import MemoryOperator
from upkeep.sim.person import Person
from upkeep.sim.replica import RESTARTED_BY_AGENT, Blocked, Site, WallClock
from upkeep.sim.verdicts import Verdicts
from upkeep.sim.witnesses import Messages
from upkeep.sim.world import PlatformWatcher, Truth, World, first_machine

# After the faults are over a retry may wait a day, a window comes once a day, pauses and bake times
# take days: with nobody newly on the newest version for so long, it is stuck.
STALLED_DAYS = 30
REST_LOOK_S = 6 * 3_600.0
CURE = "9.0.0"
# So often somebody looks at a machine at the moment when work on it begins; a starved process
# comes to the answer when the work is over, with the machine still booting.
LOOK_UNDER_WAY = 0.05
LOOK_TAKES_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of one world.

    Attributes:
        rule: the broken one; empty if none was.
        met: how often each kind of fault met each task state.
    """

    seed: int
    rule: str = ""
    detail: str = ""
    lines: tuple[str, ...] = ()
    digest: str = ""
    machines: int = 0
    days: float = 0.0
    events: int = 0
    plans: int = 0
    met: Counter[tuple[str, str]] = field(default_factory=Counter)
    verdicts: Verdicts = field(default_factory=Verdicts)


def run(seed: int, options: Options) -> Result:
    simulation = Simulation(draw(seed, options))
    rule = detail = ""
    try:
        simulation.run()
    except RuleBroken as broken:
        rule, detail = broken.rule, broken.detail
    except Exception as error:
        rule, detail = "EXCEPTION", "".join(traceback.format_exception(error))
    kernel = simulation.kernel
    return Result(
        seed=seed,
        rule=rule,
        detail=detail,
        lines=tuple(kernel.last_lines),
        digest=kernel.digest(),
        machines=sum(len(g.machines) for g in simulation.drawing.groups),
        days=kernel.now / DAY,
        events=kernel.events,
        plans=simulation.plans,
        met=simulation.faults.met,
        verdicts=simulation.verdicts,
    )


class Simulation:
    def __init__(self, drawing: Drawing) -> None:
        self.drawing = drawing
        self.kernel = Kernel()
        self.world = World(drawing, self.kernel)
        self.store = MemoryStore()
        self.plans = 0
        self.facts = Facts(
            drawing=drawing,
            kernel=self.kernel,
            world=self.world,
            store=self.store,
            modes={g.group.id: g.group.upgrade_mode for g in drawing.groups},
        )
        self.watcher = PlatformWatcher(self.world)
        self.platform = SimulatedPlatform(
            courses=self._course,
            monotonic=lambda: self.kernel.now,
            wait_until=self._wait_until,
            watcher=self.watcher,
        )
        self._looks = stream(drawing.seed, "looks")
        self.site = Site(
            kernel=self.kernel,
            world=self.world,
            store=self.store,
            platform=self.platform,
            wall=WallClock(self.kernel),
            messages=Messages(),
            draws=stream(drawing.seed, "processes"),
            tick_s=drawing.tick_s,
        )
        self.hosting = Hosting(
            self.site, self.facts, stream(drawing.seed, "hosting"), self._set_changed
        )
        self.agents = Agents(self.site, self.facts, self.hosting)
        self._changed = True
        self._furnish()
        self.faults: Faults = Faults(drawing, self.site, self.hosting, self.facts)
        self.alarms = Alarms(drawing, self.facts, self.hosting)
        self.person = Person(drawing, self.kernel, self.facts, self.hosting)
        self.verdicts = Verdicts()
        self.checkers: list[Checker] = [
            BudgetChecker(self.facts),
            StartChecker(self.facts),
            HookChecker(self.facts),
            PaceChecker(self.facts),
            AlarmChecker(self.facts),
            RepairChecker(self.facts),
            BatchChecker(self.facts),
            ModelChecker(self.facts),
            JournalChecker(self.facts),
            StateChecker(self.facts),
            HoldChecker(self.facts),
        ]
        self._connect()

    def _furnish(self) -> None:
        """Groups, machines, budgets and the first version; then everything in its time."""
        operator = MemoryOperator(self.store)
        now = moment(0)
        for drawing in self.drawing.groups:
            group = drawing.group
            operator.add_group(
                group,
                drawing.machines,
                platform=RESTARTED_BY_AGENT if drawing.restarted_by_agent else "simulated",
                probe=drawing.probe,
                source=drawing.source,
                now=now,
            )
            operator.set_times(
                group.id, windows=drawing.windows, blackouts=drawing.blackouts, now=now
            )
            for alarm in drawing.alarms:
                quiet = Alarm(
                    name=alarm.name, action=alarm.action, state=AlarmState.QUIET, since=now
                )
                operator.add_alarm(group.id, quiet, now=now)
            for machine in drawing.machines:
                first = first_machine(
                    machine.name,
                    machine.id,
                    group.image_name,
                    self.drawing.first_version,
                    machine.model,
                )
                self.platform.machines[machine.name] = first
                self.world.add(first, group.id, machine.zone, machine.host, machine.id)
                self.facts.names[machine.id] = machine.name
        for rule, selector in self.drawing.budgets:
            operator.add_budget(rule, selector)
        for image in self.drawing.images:
            first_version = ImageVersion(version=self.drawing.first_version)
            operator.publish(image, first_version, now=now)
        self._operator = operator
        for publication in self.drawing.publications:
            self._publish_at(publication.at, publication)
            if publication.excluded_at is not None:
                self._publish_at(publication.excluded_at, publication, excluded=True)
            if publication.floor_at is not None:
                self._publish_at(publication.floor_at, publication, floor=True)

    def _publish_at(
        self, at: float, publication: Publication, *, excluded: bool = False, floor: bool = False
    ) -> None:
        """The version, or later a change of how it stands in the catalogue."""

        def publish() -> None:
            image, version = publication.image, publication.version
            words = " excluded" * excluded + " floor" * floor
            self.kernel.tell(f"published: {image} {version}{words}")
            known = {entry.version: entry for entry in self.store.catalogue.of(image)}
            entry = known.get(version, ImageVersion(version=version))
            entry = replace(entry, excluded=entry.excluded or excluded, floor=entry.floor or floor)
            self._operator.publish(image, entry, now=moment(self.kernel.now))

        self.kernel.at(at, publish)

    def _connect(self) -> None:
        self.store.before = self.faults.before_write
        self.store.after = self.faults.after_write
        self.store.wrote = self._wrote
        self.kernel.after_each = self._after_each
        self.world.on_visible = self._visible
        self.watcher.adopt = self._adopt
        for checker in self.checkers:
            self.world.on_serving.append(checker.serving)
            self.watcher.on_began.append(checker.began)
            self.watcher.on_ended.append(checker.ended)
        self.watcher.on_began.append(
            lambda truth, call: self.kernel.tell(f"{call.key} begins, fence {call.fence}")
        )
        self.watcher.on_began.append(lambda truth, call: self._work_begins(truth))
        self.watcher.on_ended.append(
            lambda truth, call, machine: self.kernel.tell(
                f"{call.key} ends: {call.course.error or 'done'}; runs {machine.image}"
            )
        )

    # Running.

    def run(self) -> None:
        self.hosting.start()
        end = self.drawing.days * DAY
        while self.kernel.now < end:
            self.kernel.run_until(min(end, self.kernel.now + REST_LOOK_S))
            self._look()
        self.kernel.tell("the faults are over")
        self.faults.heal()
        self.alarms.heal()
        if not self.hosting.awake():
            self.hosting.start()
        self.person.heal(cure=CURE)
        self._set_changed()
        self._come_to_rest(end)

    def _come_to_rest(self, end: float) -> None:
        left: list[str] = []
        most, stalls_at = 0, end + STALLED_DAYS * DAY
        while self.kernel.now < stalls_at:
            self.kernel.run_until(self.kernel.now + REST_LOOK_S)
            self._look()
            left = unrest(self.facts)
            if not left:
                self.verdicts.close(self.facts)
                return
            if (there := newest(self.facts)) > most:
                # Slow is not stuck: batches of one, two hours a day, take their months.
                most, stalls_at = there, self.kernel.now + STALLED_DAYS * DAY
            self.person.put_right()
            self._after_each()
        raise RuleBroken("REST", f"{len(left)} things have not come to rest: {left[:5]}")

    def _look(self) -> None:
        for checker in self.checkers:
            checker.looked()

    def _wait_until(self, end: float) -> None:
        if self.kernel.now < end:
            raise Blocked(end)

    def _course(self, verb: PlatformVerb, name: str, key: str, fence: int) -> Course:
        truth = self.world.machines.get(name)
        if verb is PlatformVerb.RESTART and truth and truth.group in self.world.restarted_by_agent:
            return self.agents.course()
        return self.faults.course(verb, name, key, fence)

    def _set_changed(self) -> None:
        self._changed = True

    def _after_each(self) -> None:
        """Whoever may have work now is woken on its own grid."""
        if not self._changed:
            return
        self._changed = False
        due = self.store.next_wake()
        for replica in list(self.hosting.replicas):
            if replica.alive and replica.clock is not None:
                actions = self.store.next_action_at(moment(0))
                replica.wake(due, actions)

    # What was written.

    def _wrote(self, name: str, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._changed = True
        if name == "commit_plan" and result:
            self._committed(args[0], kwargs["now"])
        elif name == "claim_actions" and result:
            for checker in self.checkers:
                checker.leased(result, kwargs["now"], kwargs["lease_until"])
        elif name == "extend_lease" and result:
            self._lease_moved(args[0], kwargs["fence"], kwargs["lease_until"])
        elif name == "give_to_agent":
            self._lease_moved(args[0], kwargs["fence"], kwargs["lease_until"])
            self.agents.restart(args[0])
        elif name in ("retry_action", "finish_action"):
            self._lease_moved(args[0], kwargs["fence"], None)
            if self.hosting.current is not self.hosting.watcher():
                self.kernel.after(2.0, self.hosting.reload_watch)
        elif name == "park_group":
            raise RuleBroken("OUR_MISTAKE", kwargs["trace"])

    def _lease_moved(self, key: str, fence: int, until: Any) -> None:
        for checker in self.checkers:
            checker.lease_moved(key, fence, until)

    def _committed(self, plan: Any, now: Any) -> None:
        self.plans += 1
        replica = self.hosting.current
        if replica is not None:
            differs = self.site.wall.now() - now - replica.accepted
            self.facts.wall_differs = differs
            self.facts.planner_sees_since = replica.sees_since
        else:
            self.facts.wall_differs = timedelta(0)
        commit = learn(self.facts, plan, now)
        for line in plan.story:
            self.kernel.tell(f"{plan.group.id}: {line}")
        for call, refusal in plan.calls_done:
            self.kernel.tell(f"{plan.group.id}: {call} {refusal or 'accepted'}")
        for checker in self.checkers:
            checker.committed(commit)
        self.verdicts.committed(commit, self.facts)
        self.faults.committed(commit)
        self.person.committed(commit)
        self.alarms.committed(commit)
        for action in plan.actions:
            if action.verb is Verb.DRAIN:
                self.agents.drain(action.key, action.machine)
        if plan.machines:
            self.kernel.after(1.0, self.hosting.reload_watch)

    def _visible(self, truth: Truth) -> None:
        watcher = self.hosting.watcher()
        if watcher is not None and watcher.witnesses is not None:
            witnesses = watcher.witnesses
            self._guarded_later(lambda: watcher.guarded(lambda: witnesses.stir(truth)))

    def _work_begins(self, truth: Truth) -> None:
        watcher = self.hosting.watcher()
        if self._looks.random() >= LOOK_UNDER_WAY or watcher is None:
            return
        if watcher.witnesses is not None:
            watcher.witnesses.look_under_way(truth, self._looks.uniform(1, LOOK_TAKES_S))

    def _guarded_later(self, work: Callable[[], None]) -> None:
        """Not within the write that may have caused it."""
        self.kernel.after(0.0, work)

    def _adopt(self, machine: SimulatedMachine) -> Truth:
        """A machine that the platform has just been asked to make."""
        key = MachineId(machine.spec.uuid)
        group = self.store.group_of[key]
        row = self.store.groups[group].machines[key]
        truth = self.world.add(machine, group, row.zone, row.host, key)
        truth.serves, truth.since, truth.well_since = False, self.kernel.now, inf
        truth.seen = (0, False, False)
        self.facts.names[key] = row.name
        return truth

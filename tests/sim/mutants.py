"""Planted bugs in the gate and around it: the simulator must find each by itself.

`python -m tests.sim.mutants` copies the sources, plants one bug at a time and runs seeds until a
rule breaks; `make mutants` is that.  A mutant that survives, or that no longer applies because
the code has changed, is a failure.  Each is a mistake that somebody could make.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = Path("src") / "upkeep"

# Most are found in the first handful of worlds.
SEEDS = 200
SEEDS_AT_ONCE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """`old` occurs exactly once in `file`; the bug is `new` in its place."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    name: str
    edits: tuple[Edit, ...]


def _mutant(name: str, file: str, old: str, new: str) -> Mutant:
    return Mutant(name=name, edits=(Edit(file=file, old=old, new=new),))


MUTANTS = (
    _mutant(
        "a canary takes one machine too many",
        "core/pacing.py",
        "        yield share_of(policy.canary_percent, size=size), (",
        "        yield share_of(policy.canary_percent, size=size) + 1, (",
    ),
    _mutant(
        "a rollout does not rest at its checkpoint",
        "core/pacing.py",
        "(begun == ceiling and now < until)",
        "(begun == ceiling and now < rollout.started_at)",
    ),
    _mutant(
        "a batch goes past a checkpoint",
        "core/pacing.py",
        "        if begun < ceiling or (",
        "        if (",
    ),
    _mutant(
        "a ramp runs before any work has begun",
        "core/pacing.py",
        "    begun_at = rollout.begun_at or now\n",
        "    begun_at = rollout.started_at\n",
    ),
    _mutant(
        "a ramp is ahead of its time",
        "core/pacing.py",
        "max(1, size * elapsed // policy.ramp)",
        "1 + size * elapsed // policy.ramp",
    ),
    _mutant(
        "a floor that is the next version but one is jumped over",
        "core/version.py",
        "    return min(floors, key=order_of, default=None)\n",
        "    return max(floors, key=order_of, default=None)\n",
    ),
    _mutant(
        "who was announced before a floor was set goes past it",
        "core/refusals.py",
        "else draft.floor_before(machine, rollout.target)\n",
        "else draft.floor_before(machine, machine.image)\n",
    ),
    _mutant(
        "what nobody could see while the server was away is a failure",
        "core/draft.py",
        "        return max(moment, self.snapshot.awake_since or moment)\n",
        "        return moment\n",
    ),
    _mutant(
        "a machine that is protected during the notice of its removal is removed",
        "core/scale.py",
        "    spared = [task for task in waiting if is_spared(draft.machines[task.machine])]\n",
        "    held = [task for task in waiting if task.state is TaskState.HELD]\n"
        "    spared = [task for task in held if is_spared(draft.machines[task.machine])]\n",
    ),
    _mutant(
        "a stand-in takes over from a machine that somebody has protected",
        "core/settle.py",
        "    spared = refusal_by_owner(old) if old is not None else None\n",
        "    spared = None\n",
    ),
    _mutant(
        "a model that was found guilty is brought along by a new version",
        "core/new_disk.py",
        "    if wanted not in guilty:\n",
        "    if wanted not in guilty or machine.model:\n",
    ),
    _mutant(
        "a machine goes back to the group's model and not to its own",
        "core/settle.py",
        "        version, model = machine.image, task.previous\n",
        "        verb, version, model = Verb.REIMAGE, machine.image, draft.group.model\n",
    ),
    _mutant(
        "a changed model rolls by itself though a person wants to do that by hand",
        "core/systems/machine_model.py",
        "    if draft.group.upgrade_mode is not UpgradeMode.MANUAL:\n",
        "    if draft.group.upgrade_mode is not UpgradeMode.MANUAL or not draft.group.paused:\n",
    ),
    _mutant(
        "a new model is given to machines by the way",
        "core/new_disk.py",
        "    wanted = machine.model or baked\n",
        "    wanted = model\n",
    ),
    _mutant(
        "a batch begins while nobody knows whether an alarm fires",
        "core/alarm_gate.py",
        "        if alarm.state is AlarmState.QUIET:\n",
        "        if alarm.state is not AlarmState.FIRING:\n",
    ),
    _mutant(
        "announced work begins although an alarm fires",
        "core/systems/scheduled_events.py",
        "    refusal = refusal_now(draft, rollout) or refusal_by_alarm(draft, rollout)\n",
        "    refusal = refusal_now(draft, rollout)\n",
    ),
    _mutant(
        "a rollout that an alarm has failed is completed once the alarm is quiet",
        "core/alarm_gate.py",
        "alarm.action is AlarmAction.HALT and _began_since(",
        "alarm.action is AlarmAction.HALT and _fires_since_it_began(",
    ),
    _mutant(
        "an alarm from before the rollout fails it",
        "core/alarm_gate.py",
        "    return alarm.fired_at >= rollout.begun_at\n",
        "    return True\n",
    ),
    _mutant(
        "a repair does not wait for the grace period",
        "core/systems/repairs.py",
        "    until = _ill_since(machine) + repairs.grace\n",
        "    until = _ill_since(machine)\n",
    ),
    _mutant(
        "more machines are repaired at once than may be",
        "core/systems/repairs.py",
        "size=len(draft.present())) - len(under_way)\n",
        "size=len(draft.present()))\n",
    ),
    _mutant(
        "a machine is taken that nobody approved",
        "core/refusals.py",
        "    if not is_asked_for or task.approved:\n",
        "    if not is_asked_for or task.batch == 0:\n",
    ),
    _mutant(
        "a batch begins before anybody has answered for it",
        "core/lifecycle_hooks.py",
        "    if not is_answered and draft.now < event.wait_until:\n",
        "    if not is_answered and draft.now < event.created_at:\n",
    ),
    _mutant(
        "a machine is taken that somebody rejected",
        "core/lifecycle_hooks.py",
        "    return [m for m in ready if event.answers.get(m.id) is Answer.APPROVED]\n",
        "    return [m for m in ready if m.id in event.answers]\n",
    ),
    _mutant(
        "a machine that may serve already is removed as if it were down",
        "core/refusals.py",
        "    if rollout.force or not takes_down:\n",
        "    if takes_down or rollout.force:\n",
    ),
    _mutant(
        "a scale-in removes a machine that is to stay",
        "core/refusals.py",
        "    return machine.protected or machine.scale_in_protected\n",
        "    return machine.protected\n",
    ),
    Mutant(
        name="a budget allows one more",
        edits=(
            Edit(
                file="core/budget.py",
                old="            if used + 1 > allowed:\n",
                new="            if used > allowed:\n",
            ),
            Edit(
                file="core/budget.py",
                old="                assert overdraft or used <= self._allowed(budget, zone)\n",
                new="",
            ),
        ),
    ),
    _mutant(
        "a batch is one too large",
        "core/admission.py",
        "    limit = min(more, share_of(policy.max_batch_percent, size=rollout.size))\n",
        "    limit = min(more, share_of(policy.max_batch_percent, size=rollout.size) + 1)\n",
    ),
    _mutant(
        "the gate before a batch lets one ill machine more pass",
        "core/rolling.py",
        "if len(ill) > 1 and exceeds(len(ill), limit",
        "if len(ill) > 2 and exceeds(len(ill) - 1, limit",
    ),
    _mutant(
        "the gate after a batch lets one failure more pass",
        "core/verdict.py",
        "if not failed or not exceeds(len(failed), limit",
        "if not failed or not exceeds(len(failed) - 1, limit",
    ),
    _mutant(
        "a batch begins before the last one was judged",
        "core/admission.py",
        "    if rollout.batch > 0 and rollout.batch_closed_at is None:\n",
        "    if rollout.batch < 0:\n",
    ),
    _mutant(
        "a claim is given back while its machine is in hand",
        "core/settle.py",
        "        if not gone and task is not None and task.state is not TaskState.BAKING:\n"
        "            continue\n",
        "",
    ),
    _mutant(
        "claims are taken on the first budget only",
        "core/budget.py",
        "for b in self._budgets if b.members is None or machine in b.members]\n",
        "for b in self._budgets[:1] if b.members is None or machine in b.members]\n",
    ),
    _mutant(
        "a machine that is down and claimed counts twice",
        "core/budget.py",
        "                self._used[slot] = self._used.get(slot, 0) + 1\n\n",
        "                twice = machine_id in claimed[budget.id] and machine_id in down\n"
        "                self._used[slot] = self._used.get(slot, 0) + 1 + twice\n\n",
    ),
    _mutant(
        "a machine that is down by itself does not count",
        "core/budget.py",
        "claimed[budget.id] | (down if members is None else down & members)\n",
        "claimed[budget.id]\n",
    ),
    _mutant(
        "budgets per zone are counted over all zones",
        "core/budget.py",
        "        if not budget.per_zone or machine not in self._machines:\n",
        "        if machine in self._machines or not budget.per_zone:\n",
    ),
    _mutant(
        "a hold is written as an action",
        "core/admission.py",
        "        elif refusal[0] in LEFT_OUT:\n",
        "        elif refusal[0] is HoldReason.OPTED_OUT:\n"
        "            ready.append(machine)\n"
        "        elif refusal[0] in LEFT_OUT:\n",
    ),
    _mutant(
        "a pause holds nothing that was announced",
        "core/refusals.py",
        "    if draft.group.paused:\n",
        "    if draft.group.paused and not any(t.not_before for t in draft.tasks_of(rollout)):\n",
    ),
    _mutant(
        "work starts before its notice has run out",
        "core/systems/scheduled_events.py",
        "    if task.not_before > draft.now:\n",
        "    if task.not_before > draft.now + rollout.policy.notice / 2:\n",
    ),
    _mutant(
        "a window opens early",
        "core/window.py",
        "        if is_open(window, now):\n",
        "        if window.opens - reserve <= now < window.closes:\n",
    ),
    _mutant(
        "work starts while the clocks disagree",
        "core/refusals.py",
        "    if draft.snapshot.clock_stepped:\n",
        "    if draft.snapshot.clock_stepped and rollout.batch == 0:\n",
    ),
    _mutant(
        "what the platform calls done counts as well",
        "core/settle.py",
        "    if machine.health is Health.HEALTHY and restarted and at_target:\n",
        "    if restarted and at_target:\n",
    ),
    _mutant(
        "a guilty version is begun again by itself",
        "core/beginning.py",
        "    if any(r.guilty for r in attempts):\n",
        "    if newest.guilty and len(attempts) > 2:\n",
    ),
    _mutant(
        "a machine goes back to the last version that baked, not to its own",
        "core/settle.py",
        "    version, model = task.previous, task.model_before\n",
        "    version, model = draft.group.baked or task.previous, task.model_before\n",
    ),
    _mutant(
        "a batch crosses zones",
        "core/availability.py",
        "        and (cross_zone or first.zone == other.zone)\n",
        "",
    ),
    _mutant(
        "an older fence is let through to the machine",
        "platforms/simulated.py",
        "    if fence < machine.fence:\n",
        "    if fence < machine.fence - 1000:\n",
    ),
    _mutant(
        "an action gets the same key again",
        "core/draft.py",
        'return f"{task.rollout}/{subject_of(task)}/{verb}/{task.attempt}"',
        'return f"{task.rollout}/{subject_of(task)}/{verb}/{min(task.attempt, 1)}"',
    ),
    _mutant(
        "a look from before the work is believed after it",
        "engine/health_watch.py",
        "            if probe.begun_at < watch.begun_at or probe.settings != watch.settings:\n",
        "            if probe.settings != watch.settings:\n",
    ),
    _mutant(
        "a drain that is over waits for its agent",
        "core/draft.py",
        "            self.revoked.append(drain)\n",
        "            pass\n",
    ),
)


def plant(mutant: Mutant, tree: Path) -> None:
    """Put the bug into a copy of the sources.

    Raises:
        ValueError: the code has changed and the mutant must be written anew.
    """
    for edit in mutant.edits:
        path = tree / PACKAGE / edit.file
        text = path.read_text()
        if text.count(edit.old) != 1:
            raise ValueError(f"{mutant.name}: {edit.file} has {text.count(edit.old)} such places")
        path.write_text(text.replace(edit.old, edit.new))


@dataclass(frozen=True, slots=True, kw_only=True)
class Hunt:
    """How many worlds it took; `rule` is empty when the mutant survived them all."""

    mutant: Mutant
    worlds: int
    rule: str
    seconds: float


def hunt(mutant: Mutant, *, seeds: int, first: int = 1) -> Hunt:
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="upkeep-mutant-") as directory:
        tree = Path(directory)
        shutil.copytree(ROOT / PACKAGE, tree / PACKAGE)
        plant(mutant, tree)
        for begin, end in _portions(first, seeds):
            seed, rule = _first_broken(tree, begin, end)
            if rule:
                return Hunt(
                    mutant=mutant,
                    worlds=seed - first + 1,
                    rule=rule,
                    seconds=time.monotonic() - begun,
                )
    return Hunt(mutant=mutant, worlds=seeds, rule="", seconds=time.monotonic() - begun)


def _portions(first: int, seeds: int) -> Iterator[tuple[int, int]]:
    for begin in range(first, first + seeds, SEEDS_AT_ONCE):
        yield begin, min(begin + SEEDS_AT_ONCE, first + seeds) - 1


_WORKER = """
import sys
from upkeep.sim.drawing import Options
from upkeep.sim.simulation import run
for seed in range(int(sys.argv[1]), int(sys.argv[2]) + 1):
    result = run(seed, Options())
    if result.rule:
        print(seed, result.rule)
        break
"""


def _first_broken(tree: Path, begin: int, end: int) -> tuple[int, str]:
    """The first seed that breaks a rule and which, or (0, '')."""
    found = subprocess.run(
        [sys.executable, "-c", _WORKER, str(begin), str(end)],
        env={**os.environ, "PYTHONPATH": str(tree / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode != 0:
        return begin, "CRASH " + found.stderr.strip().splitlines()[-1]
    seed, _, rule = found.stdout.strip().partition(" ")
    return (int(seed), rule) if rule else (0, "")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make mutants", description=(__doc__ or "")[:80])
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--only", default="", help="mutants whose name contains this")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if given.only in mutant.name]
    survived = 0
    with ThreadPoolExecutor(given.processes) as pool:
        for found in pool.map(lambda mutant: hunt(mutant, seeds=given.seeds), chosen):
            survived += not found.rule
            caught = f"{found.rule} in world {found.worlds}" if found.rule else "SURVIVED"
            print(f"{found.mutant.name:66} {caught:32} {found.seconds:5.0f} s", flush=True)
    print(f"{len(chosen)} mutants, {survived} survived {given.seeds} worlds")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())

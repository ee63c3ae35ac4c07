"""One rollout as people look at it: parsed from the API's document, in one place.

The counters are those of the machines shown, so they sum to the candidates by construction.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from upkeep.cli.exit_codes import ExitCode
from upkeep.cli.output import printable
from upkeep.cli.quantities import read_moment

# In the order of a task's life; how counters are shown.
TASK_STATES = (
    "held",
    "announced",
    "draining",
    "running",
    "verifying",
    "baking",
    "done",
    "rolling_back",
    "rolled_back",
    "failed",
    "skipped",
    "cancelled",
)
# Nothing more is coming for these machines, unless the version is found guilty.
SETTLED = frozenset({"done", "rolled_back", "failed", "skipped", "cancelled"})
OPEN_ROLLOUTS = frozenset({"running", "cancelling", "rolling_back"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """Attributes:
    batch: 0 while it was not taken.
    detail: how it failed, or what it waits for; empty if there is nothing to say.
    """

    machine: str
    state: str
    batch: int
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldView:
    machine: str
    reason: str
    lifted_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutView:
    """Attributes:
    batch: the batch that is open or was closed last; 0 before the first.
    holds: of machines of this rollout, now.
    """

    id: str
    group: str
    verb: str
    target: str
    state: str
    paused: bool
    batch: int
    tasks: tuple[TaskView, ...]
    holds: tuple[HoldView, ...]
    started_at: datetime | None
    ended_at: datetime | None
    code: str
    evidence: str

    @property
    def is_open(self) -> bool:
        return self.state in OPEN_ROLLOUTS

    @property
    def settled(self) -> int:
        return sum(task.state in SETTLED for task in self.tasks)

    def counts(self) -> Mapping[str, int]:
        """How many machines are in each state; states without a machine are left out."""
        seen: dict[str, int] = {}
        for task in self.tasks:
            seen[task.state] = seen.get(task.state, 0) + 1
        ordered = [*TASK_STATES, *sorted(set(seen) - set(TASK_STATES))]
        return {state: seen[state] for state in ordered if state in seen}

    def elapsed_s(self, *, now: datetime | None = None) -> float:
        if self.started_at is None:
            return 0.0
        until = self.ended_at or now or datetime.now(UTC)
        return max(0.0, (until - self.started_at).total_seconds())

    def exit_code(self) -> ExitCode:
        return ExitCode.OK if self.state == "completed" else ExitCode.ROLLOUT_ENDED_BADLY


def parse_rollout(document: Mapping[str, Any], holds: Mapping[str, Any]) -> RolloutView:
    """From the documents of the rollout and of its group's holds."""
    tasks = tuple(
        TaskView(
            machine=printable(task["machine"]),
            state=printable(task["state"]),
            batch=task["batch"],
            detail=printable(task.get("detail") or task.get("failure")),
        )
        for task in document["tasks"]
    )
    members = {task.machine for task in tasks}
    return RolloutView(
        id=document["id"],
        group=document["group"],
        verb=document["verb"],
        target=document.get("target") or "",
        state=document["state"],
        paused=bool(document.get("paused")),
        batch=document["batch"],
        tasks=tasks,
        holds=tuple(
            HoldView(
                machine=printable(hold["machine"]),
                reason=printable(hold["reason"]),
                lifted_by=printable(hold["lifted_by"]),
            )
            for hold in holds["items"]
            if hold["machine"] in members and hold["system"] == document["system"]
        ),
        started_at=read_moment(document.get("started_at")),
        ended_at=read_moment(document.get("ended_at")),
        code=printable(document.get("code")),
        evidence=printable(document.get("evidence")),
    )


def brought(target: str, verb: str) -> str:
    """What a rollout brings: `1.0.2`, `model 3f2a09c1d4e5`."""
    return f"model {target}" if verb == "reimage" else target


def doing(target: str, verb: str) -> str:
    """What a rollout does: `to 1.0.2`, `to model 3f2a09c1d4e5`, `restart`."""
    return f"to {brought(target, verb)}" if target else verb.replace("_", " ")


def title_line(view: RolloutView) -> str:
    """`ro_1: web to 1.0.2, running (paused)`."""
    work = doing(view.target, view.verb)
    paused = " (paused)" if view.paused and view.is_open else ""
    return f"{view.id}: {view.group} {work}, {view.state.replace('_', ' ')}{paused}"


def counter_line(view: RolloutView) -> str:
    """`5 machines: 2 done, 1 running, 2 held`; the parts sum to the first number."""
    parts = ", ".join(
        f"{count} {state.replace('_', ' ')}" for state, count in view.counts().items()
    )
    machines = "1 machine" if len(view.tasks) == 1 else f"{len(view.tasks)} machines"
    return f"{machines}: {parts}" if parts else machines


def result_line(view: RolloutView) -> str:
    """Why it ended as it did; empty when there is nothing to add to its state."""
    return ": ".join(part for part in (view.code, view.evidence) if part)


def hold_lines(view: RolloutView, *, lines_max: int) -> list[str]:
    """Machines held for the same reason on one line: `BUDGET_SPENT  web-3, web-4  ...`."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for hold in view.holds:
        grouped.setdefault((hold.reason, hold.lifted_by), []).append(hold.machine)
    lines = []
    for (reason, lifted_by), machines in grouped.items():
        names = ", ".join(machines[:NAMES_MAX])
        more = f" and {len(machines) - NAMES_MAX} more" if len(machines) > NAMES_MAX else ""
        lines.append(f"{reason} {names}{more}: {lifted_by}")
    if len(lines) > lines_max:
        return [*lines[: lines_max - 1], f"and {len(lines) - lines_max + 1} other reasons"]
    return lines


# Of the machines of one hold; the rest is in `upkeep hold list`.
NAMES_MAX = 5

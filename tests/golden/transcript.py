"""Reads a story's beginning and its happenings from a text, plays it, and tells what came of it.

A story file has two parts, with a line of four dashes between.  Above it is the script:

    six machines at 20 %: one at a time, until all run the new version     any text: the title
    machines 6 zones=a,b update_domains=2 image=1.0.0
    policy max_batch_percent=20 notice=15m
    budget 20
    00:05 publish 1.0.1                 see HAPPENINGS below
    until 01:00

Below it is the transcript, which `pytest --update-golden` writes.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import groupby

from tests.core.story import START, Story, a_group, machines_of, share

from upkeep.core.model import Health, Verb
from upkeep.core.policy import RollingPolicy
from upkeep.core.snapshot import Interval, Plan

DURATION_FIELDS = frozenset(
    {"pause_between_batches", "health_wait", "bake_time", "notice", "drain_timeout"}
)


def length(text: str) -> timedelta:
    """`15m` or `2h`."""
    return timedelta(**{{"m": "minutes", "h": "hours"}[text[-1]]: int(text[:-1])})


def policy_from(words: list[str]) -> RollingPolicy:
    fields: dict[str, object] = {}
    for word in words:
        name, _, value = word.partition("=")
        if name in DURATION_FIELDS:
            fields[name] = length(value)
        else:
            fields[name] = value == "yes" if value in ("yes", "no") else int(value)
    return RollingPolicy(**fields)  # type: ignore[arg-type]


def lose(story: Story, zone: str) -> None:
    story.dark.add(zone)
    for machine in list(story.machines.values()):
        if machine.zone == zone:
            story.see(machine.name, Health.UNKNOWN)


def restore(story: Story, zone: str) -> None:
    story.dark.discard(zone)
    for machine in list(story.machines.values()):
        if machine.zone == zone:
            story.see(machine.name, Health.HEALTHY)


def bad(story: Story, version: str, *names: str) -> None:
    machines = names or tuple(m.name for m in story.machines.values())
    story.ill_on |= {(name, version) for name in machines}


def blackout(story: Story, lasts: str) -> None:
    closes = story.now + length(lasts)
    story.blackouts = (*story.blackouts, Interval(opens=story.now, closes=closes, name="fair"))


HAPPENINGS: dict[str, Callable[..., object]] = {
    "publish": lambda story, version: story.publish(version),
    "exclude": lambda story, version: story.publish(version, excluded=True),
    "bad": bad,
    "ill": lambda story, name: story.see(name, Health.UNHEALTHY),
    "lose": lambda story, _zone, zone: lose(story, zone),
    "restore": lambda story, _zone, zone: restore(story, zone),
    "cancel": lambda story, number: story.cancel(int(number)),
    "blackout": blackout,
    "restart": lambda story, *names: story.call(Verb.RESTART, *names),
}


def play(script: str) -> str:
    """The transcript of a script."""
    machines, policy, percent, until = machines_of(1), RollingPolicy(), 20, START
    happenings: list[tuple[datetime, str]] = []
    for line in script.splitlines()[1:]:
        first, *rest = line.split() or [""]
        if first == "machines":
            given = dict(word.split("=") for word in rest[1:])
            machines = machines_of(
                int(rest[0]),
                zones=given.get("zones", "").split(","),
                update_domains=int(given.get("update_domains", 1)),
                image=given.get("image", "1.0.0"),
            )
        elif first == "policy":
            policy = policy_from(rest)
        elif first == "budget":
            percent = int(rest[0])
        elif first == "until":
            until = moment(rest[0])
        elif first:
            happenings.append((moment(first), " ".join(rest)))
    story = Story(machines, group=a_group(), policy=policy, budgets=(share(percent),))
    lines: list[tuple[datetime, str]] = []
    for when, happening in happenings:
        story.at((when - START) / timedelta(minutes=1), happens(story, happening, lines))
    story.run(minutes=(until - START) / timedelta(minutes=1))
    return told(story, lines)


def happens(story: Story, happening: str, lines: list[tuple[datetime, str]]) -> Callable[[], None]:
    def now() -> None:
        name, *words = happening.split()
        lines.append((story.now, f"* {happening}"))
        HAPPENINGS[name](story, *words)

    return now


def moment(text: str) -> datetime:
    hours, minutes = text.split(":")
    return START + timedelta(hours=int(hours), minutes=int(minutes))


def clock(when: datetime) -> str:
    minutes = (when - START) // timedelta(minutes=1)
    return f"{minutes // 60:02}:{minutes % 60:02}"


def told(story: Story, happened: list[tuple[datetime, str]]) -> str:
    """Happenings, then what each plan decided, sent and held; silent plans are left out."""
    lines = []
    holds: list[str] = []
    for when, plan in story.plans:
        while happened and happened[0][0] <= when:
            at, text = happened.pop(0)
            lines.append(f"{clock(at)} {text}")
        lines.extend(f"{clock(when)} {text}" for text in (*plan.story, *sent(plan)))
        before, holds = holds, held(plan)
        lines.extend(f"      hold {text}" for text in holds if text not in before)
    return "\n".join(lines) + "\n"


def sent(plan: Plan) -> list[str]:
    def what(action: object) -> tuple[str, str]:
        return action.verb, action.version  # type: ignore[attr-defined]

    return [
        f"-> {names([a.machine for a in actions])} {verb} {version}".rstrip()
        for (verb, version), actions in groupby(sorted(plan.actions, key=what), key=what)
    ]


def held(plan: Plan) -> list[str]:
    def why(hold: object) -> tuple[str, str]:
        until = hold.until  # type: ignore[attr-defined]
        return hold.reason, f" until {clock(until)}" if until else ""  # type: ignore[attr-defined]

    return [
        f"{names([h.machine for h in holds])}: {reason}{until}"
        for (reason, until), holds in groupby(sorted(plan.holds, key=why), key=why)
    ]


def names(machines: list[str]) -> str:
    """`m1-m3, m5`: runs of three and more are written as a range."""
    ordered = sorted(set(machines))
    runs: list[list[str]] = []
    for name in ordered:
        if runs and int(name[1:]) == int(runs[-1][-1][1:]) + 1:
            runs[-1].append(name)
        else:
            runs.append([name])
    parts = [[f"{run[0]}-{run[-1]}"] if len(run) > 2 else run for run in runs]
    return ", ".join(name for part in parts for name in part)

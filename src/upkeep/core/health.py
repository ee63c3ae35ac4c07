"""One machine's health from its two witnesses: the agent inside and the prober outside.

A probe on localhost cannot see a dead network, and a prober cannot see that a silent machine is
merely cut off.  So: healthy is what the chosen source says; unhealthy needs somebody who reached
the machine; when nobody reaches it, it is unknown, which counts as down and is left alone.
"""

from enum import StrEnum

from upkeep.core.model import Health, Verb

# The machine's own agent performs these, with the machine up all the time.
AGENT_VERBS = frozenset({Verb.DRAIN})


def renews_health(verb: Verb) -> bool:
    """Whether an action of this verb, once begun, makes all health seen before it worthless.

    True of all that a platform does.  What stops or restarts a machine takes it down; what starts
    one leaves it booting; and a removal that fails half-way may have stopped it: were it still
    taken for healthy, its claims would be given back too soon.
    """
    return verb not in AGENT_VERBS


class HealthSource(StrEnum):
    """Which witness decides (a group's choice)."""

    INSIDE = "inside"
    OUTSIDE = "outside"
    BOTH = "both"


# From best to worst: BOTH takes the worse of the two.
_RANK = {Health.HEALTHY: 0, Health.INITIALIZING: 1, Health.UNHEALTHY: 2, Health.UNKNOWN: 3}


def combine(
    source: HealthSource,
    *,
    inside: Health,
    outside: Health,
    outside_answers: bool,
    agent_silent: bool,
) -> Health:
    """The machine's health.

    Args:
        inside: what the agent reported last.
        outside: what the prober has committed.
        outside_answers: the prober's last connection was accepted, whatever it then heard.
        agent_silent: no check-in for three of its poll intervals.
    """
    if agent_silent and not outside_answers and outside is not Health.INITIALIZING:
        return Health.UNKNOWN
    seen_inside = Health.UNKNOWN if agent_silent else inside
    match source:
        case HealthSource.INSIDE:
            return seen_inside
        case HealthSource.OUTSIDE:
            # Reached by the agent at least: not well, and reachable.
            return Health.UNHEALTHY if outside is Health.UNKNOWN else outside
        case HealthSource.BOTH:
            return max(seen_inside, outside, key=_RANK.__getitem__)

"""In which order machines are taken, so that what remains up is spread as well as it can be.

Within a group: by rolling phase, then unhealthy machines first (if the policy says so), then
zone, update domain, fault domains in turn, then id.  A batch stays inside one phase, one zone
(unless the policy crosses zones) and one update domain.  Source: sheet os-image §2.4 step 4
[DEC], docs/adr/0004.
"""

from collections.abc import Sequence

from upkeep.core.model import Health, Machine

# A machine that reported no phase is in the last one (sheet os-image §10, custom metrics).
LAST_PHASE = 1 << 31


def phase_of(machine: Machine) -> int:
    return LAST_PHASE if machine.phase is None else machine.phase


def batch_order(machines: Sequence[Machine], *, unhealthy_first: bool) -> list[Machine]:
    """The machines in the order in which batches take them.

    Fault domains take turns inside an update domain: with a1 a2 b1 b2 (letters are fault
    domains) the order is a1 b1 a2 b2, so a batch of two never takes two of one fault domain
    while another has machines left.
    """
    turn: dict[tuple[object, ...], int] = {}
    keyed = []
    for machine in sorted(machines, key=lambda m: m.id):
        unhealthy_rank = 0 if unhealthy_first and machine.health is not Health.HEALTHY else 1
        place = (phase_of(machine), unhealthy_rank, machine.zone, machine.update_domain)
        slot = (*place, machine.fault_domain)
        nth = turn.get(slot, 0)
        turn[slot] = nth + 1
        keyed.append(((*place, nth, machine.fault_domain, machine.id), machine))
    keyed.sort(key=lambda pair: pair[0])
    return [machine for _, machine in keyed]


def may_share_batch(first: Machine, other: Machine, *, cross_zone: bool) -> bool:
    """Whether the two may be down for the same batch."""
    return (
        phase_of(first) == phase_of(other)
        and (cross_zone or first.zone == other.zone)
        and first.update_domain == other.update_domain
    )

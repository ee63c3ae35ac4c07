"""Which machines of a `MemoryStore` are away, counted per zone, host and fault domain.

Zones and hosts are the fleet's; a fault domain belongs to one group.  What follows from it is
decided in core/blame.py.
"""

from collections.abc import Sequence
from datetime import datetime

from upkeep.core.blame import LOST_MACHINES_MIN, RESUME_AFTER
from upkeep.core.model import Group, Lifecycle, Machine, MachineId
from upkeep.core.snapshot import Domain

# Kind, name, and the group whose own it is (empty for zones and hosts).
DomainKey = tuple[str, str, str]
_Case = tuple[datetime, datetime | None]


class DomainTally:
    """Kept in step by `count`, whenever a machine's row changes."""

    def __init__(self) -> None:
        self._size: dict[DomainKey, int] = {}
        # Machine → when it was lost and came back.
        self._away: dict[DomainKey, dict[MachineId, _Case]] = {}

    def count(self, group: Group, before: Machine | None, after: Machine | None) -> None:
        """Take a change in."""
        for machine, change in ((before, -1), (after, 1)):
            if machine is not None and machine.lifecycle is Lifecycle.PRESENT:
                for key in domains_of(group, machine):
                    self._size[key] = self._size.get(key, 0) + change
        known = after or before
        assert known is not None
        was, now_is = _case(before), _case(after)
        if was == now_is:
            return
        for key in domains_of(group, known):
            if now_is is None:
                self._away.get(key, {}).pop(known.id, None)
            else:
                self._away.setdefault(key, {})[known.id] = now_is

    def read(self, group: Group, machines: Sequence[Machine], now: datetime) -> tuple[Domain, ...]:
        """Those of the group's domains in which enough machines are away."""
        if not self._away:
            return ()
        domains = []
        for key in sorted({key for m in machines for key in domains_of(group, m)}):
            away = self._away.get(key)
            if not away:
                continue
            for machine, (lost_at, back_at) in list(away.items()):
                if back_at is not None and lost_at <= back_at <= now - RESUME_AFTER:
                    del away[machine]
            if len(away) >= LOST_MACHINES_MIN:
                domains.append(
                    Domain(
                        kind=key[0],
                        name=key[1],
                        size=self._size.get(key, 0),
                        away=tuple(away[m] for m in sorted(away, key=lambda m: (away[m][0], m))),
                    )
                )
        return tuple(domains)


def is_away(machine: Machine) -> bool:
    lost_at, back_at = machine.lost_at, machine.back_at
    return lost_at is not None and (back_at is None or back_at < lost_at)


def domains_of(group: Group, machine: Machine) -> list[DomainKey]:
    """The zone, host and fault domain it stands in; kind, name, and the group of a fault domain."""
    keys = [("zone", machine.zone, "")] if machine.zone else []
    if machine.host:
        keys.append(("host", machine.host, ""))
    if group.fault_domains > 1:
        keys.append(("fault_domain", f"{machine.zone}/{machine.fault_domain}", group.id))
    return keys


def _case(machine: Machine | None) -> _Case | None:
    """When it was lost and came back, if it counts as a case of its domains."""
    if machine is None or machine.lost_at is None or machine.lifecycle is not Lifecycle.PRESENT:
        return None
    return machine.lost_at, machine.back_at

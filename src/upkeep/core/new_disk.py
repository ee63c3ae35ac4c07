"""Which model an OS disk is made with that is made for another reason than a new model.

A new version, a repair, a machine that is made: what such a disk is told at its first boot follows
the group's upgrade mode (systems/machine_model.py).  Source: docs/adr/0022.
"""

from collections import Counter

from upkeep.core.draft import Draft
from upkeep.core.model import Health, Machine, UpgradeMode


def model_for(draft: Draft, machine: Machine) -> str:
    """In mode manual the group's model.

    Else the one that the machine has, so that a new version and a new model are never judged
    together; a machine that is made now has the last one that baked.  A model that was found guilty
    here is given to nobody while there is another one.
    """
    model, baked = draft.group.model, draft.group.baked_model or draft.group.model
    wanted = machine.model or baked
    if draft.group.upgrade_mode is UpgradeMode.MANUAL:
        wanted = model
    elif not machine.model and draft.models_there().isdisjoint({"", baked}):
        wanted = model  # What nobody has any more need not be kept up.
    guilty = draft.guilty_models()
    if wanted not in guilty:
        return wanted
    others = Counter(m.model for m in draft.present() if m.health is Health.HEALTHY)
    most = sorted(others, key=lambda name: (-others[name], name))
    good = (m for m in (machine.model, baked, *most) if m and m not in guilty)
    return next(good, wanted)

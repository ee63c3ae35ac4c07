"""What a person does with azure-mgmt-compute, run by the Python that has it: prints JSON lines.

`compute_story.py STEP BASE SUBSCRIPTION RESOURCE_GROUP SET`; the token is in the environment as
UPKEEP_TOKEN, the server's CA in REQUESTS_CA_BUNDLE.  Nothing of upkeep is imported here: these are
Azure's own clients, unmodified.
"""

import json
import os
import sys
import time

from azure.core.exceptions import HttpResponseError
from azure.identity import ClientSecretCredential
from azure.mgmt.compute import ComputeManagementClient

STEP, BASE, SUBSCRIPTION, GROUP, SET = sys.argv[1:]
WAIT_MAX_S = 120.0


def client():
    """Logs in as a service principal, as for any private cloud."""
    client_id, _, secret = os.environ["UPKEEP_TOKEN"].partition(".")
    credential = ClientSecretCredential(
        "adfs", client_id, secret, authority=BASE, disable_instance_discovery=True
    )
    return ComputeManagementClient(
        credential, SUBSCRIPTION, base_url=BASE, credential_scopes=[f"{BASE}/.default"]
    )


def tell(**said):
    print(json.dumps(said), flush=True)


def tell_failure(error):
    tell(status=error.status_code, code=error.error.code, message=error.error.message)


def progress_of(upgrade):
    counters = upgrade.progress
    return {
        "successful": counters.successful_instance_count,
        "failed": counters.failed_instance_count,
        "in_progress": counters.in_progress_instance_count,
        "pending": counters.pending_instance_count,
    }


def look(compute):
    """The set, its machines, and what is seen of both."""
    found = compute.virtual_machine_scale_sets.get(GROUP, SET)
    view = compute.virtual_machine_scale_sets.get_instance_view(GROUP, SET)
    machines = list(compute.virtual_machine_scale_set_vms.list(GROUP, SET, expand="instanceView"))
    tell(
        names=[each.name for each in compute.virtual_machine_scale_sets.list_all()],
        in_group=[each.name for each in compute.virtual_machine_scale_sets.list(GROUP)],
        id=found.id,
        state=found.provisioning_state,
        capacity=found.sku.capacity,
        automatic=found.upgrade_policy.automatic_os_upgrade_policy.enable_automatic_os_upgrade,
        batch=found.upgrade_policy.rolling_upgrade_policy.max_batch_instance_percent,
        summary={each.code: each.count for each in view.virtual_machine.statuses_summary},
        versions=[each.storage_profile.image_reference.exact_version for each in machines],
        current=[each.latest_model_applied for each in machines],
        health=[each.instance_view.vm_health.status.code for each in machines],
        ids=[each.instance_id for each in machines],
    )
    one = compute.virtual_machine_scale_set_vms.get(GROUP.upper(), SET.upper(), "0")
    seen = compute.virtual_machine_scale_set_vms.get_instance_view(GROUP, SET, "0")
    tell(name=one.name, power=[each.code for each in seen.statuses])


def follow(compute):
    """The rolling upgrade until it has ended: each state that was seen, with its counters."""
    deadline = time.monotonic() + WAIT_MAX_S
    seen = []
    while time.monotonic() < deadline:
        upgrade = compute.virtual_machine_scale_set_rolling_upgrades.get_latest(GROUP, SET)
        now = {"code": upgrade.running_status.code, **progress_of(upgrade)}
        if not seen or seen[-1] != now:
            seen.append(now)
        if now["code"] not in ("RollingForward", "RollingBack"):
            error = upgrade.error
            tell(seen=seen, id=upgrade.id, code=error and error.code, why=error and error.message)
            return
        time.sleep(0.05)
    tell(seen=seen, late=True)


def history(compute):
    past = compute.virtual_machine_scale_sets.get_os_upgrade_history(GROUP, SET)
    tell(
        past=[
            {
                "code": each.properties.running_status.code,
                "version": each.properties.target_image_reference.exact_version,
                "started_by": each.properties.started_by,
                "rolled_back": (
                    each.properties.rollback_info.successfully_rolledback_instance_count
                ),
            }
            for each in past
        ]
    )


def start(compute):
    """Started by hand, and waited for as the client waits."""
    try:
        compute.virtual_machine_scale_set_rolling_upgrades.begin_start_os_upgrade(
            GROUP, SET
        ).result()
    except HttpResponseError as error:
        tell_failure(error)
    else:
        tell(status="done")


def cancel(compute):
    try:
        compute.virtual_machine_scale_set_rolling_upgrades.begin_cancel(GROUP, SET).result()
    except HttpResponseError as error:
        tell_failure(error)
    else:
        tell(status="done")


def power(compute):
    """Off, on, restarted, and one machine removed: each waited for as the client waits."""
    sets, machines = compute.virtual_machine_scale_sets, compute.virtual_machine_scale_set_vms

    def states():
        views = machines.list(GROUP, SET, expand="instanceView")
        return [each.instance_view.statuses[1].code for each in views]

    machines.begin_power_off(GROUP, SET, "0").result()
    tell(off=states())
    sets.begin_start(GROUP, SET).result()
    tell(on=states())
    sets.begin_restart(GROUP, SET, {"instanceIds": ["1"]}).result()
    tell(restarted=states())
    sets.begin_delete_instances(GROUP, SET, {"instanceIds": ["3"]}).result()
    tell(
        left=[each.instance_id for each in machines.list(GROUP, SET)],
        capacity=sets.get(GROUP, SET).sku.capacity,
    )
    try:
        machines.begin_restart(GROUP, SET, "99").result()
    except HttpResponseError as error:
        tell_failure(error)


STEPS = {
    "look": look,
    "follow": follow,
    "history": history,
    "start": start,
    "cancel": cancel,
    "power": power,
}

if __name__ == "__main__":
    STEPS[STEP](client())

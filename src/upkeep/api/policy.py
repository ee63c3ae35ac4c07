"""A rolling policy on the wire: lengths are whole seconds, and the name says so."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from upkeep.api.problems import invalid
from upkeep.api.shapes import Body, View
from upkeep.core.policy import RollingPolicy, policy_errors

# Beyond every allowed length; a larger number would not fit into a timedelta.
SECONDS_MAX = 10**9

_LENGTHS = (
    "pause_between_batches",
    "health_wait",
    "bake_time",
    "notice",
    "drain_timeout",
    "start_hook_wait",
    "batch_hook_wait",
    "checkpoint_bake",
    "ramp",
)


class PolicyPatch(Body):
    """What is absent stays as it is (or has its default)."""

    max_batch_percent: int | UnsetType = UNSET
    max_unhealthy_percent: int | UnsetType = UNSET
    max_unhealthy_upgraded_percent: int | UnsetType = UNSET
    pause_between_batches_s: int | UnsetType = UNSET
    health_wait_s: int | UnsetType = UNSET
    bake_time_s: int | UnsetType = UNSET
    notice_s: int | UnsetType = UNSET
    drain_timeout_s: int | UnsetType = UNSET
    cross_zone: bool | UnsetType = UNSET
    prioritize_unhealthy: bool | UnsetType = UNSET
    auto_rollback: bool | UnsetType = UNSET
    rollback_on_breach: bool | UnsetType = UNSET
    max_surge: bool | UnsetType = UNSET
    governs_automatic: bool | UnsetType = UNSET
    needs_approval: bool | UnsetType = UNSET
    canary_percent: int | UnsetType = UNSET
    checkpoints: tuple[int, ...] | UnsetType = UNSET
    checkpoint_bake_s: int | UnsetType = UNSET
    ramp_s: int | UnsetType = UNSET
    start_hook_wait_s: int | UnsetType = UNSET
    start_hook_approves: bool | UnsetType = UNSET
    batch_hook_wait_s: int | UnsetType = UNSET
    batch_hook_approves: bool | UnsetType = UNSET


class PolicyView(View):
    max_batch_percent: int
    max_unhealthy_percent: int
    max_unhealthy_upgraded_percent: int
    pause_between_batches_s: int
    health_wait_s: int
    bake_time_s: int
    notice_s: int
    drain_timeout_s: int
    cross_zone: bool
    prioritize_unhealthy: bool
    auto_rollback: bool
    rollback_on_breach: bool
    max_surge: bool
    governs_automatic: bool
    needs_approval: bool
    canary_percent: int
    checkpoints: tuple[int, ...]
    checkpoint_bake_s: int
    ramp_s: int
    start_hook_wait_s: int
    start_hook_approves: bool
    batch_hook_wait_s: int
    batch_hook_approves: bool


def apply_policy(policy: RollingPolicy, patch: PolicyPatch) -> RollingPolicy:
    """The policy with what was given.

    Raises:
        InputError: a rule is broken; every one is named.
    """
    values: dict[str, Any] = {}
    for name, value in msgspec.structs.asdict(patch).items():
        if value is UNSET:
            continue
        field = name.removesuffix("_s")
        if field in _LENGTHS:
            if not 0 <= value <= SECONDS_MAX:
                raise invalid(f"policy.{name}: set 0 to {SECONDS_MAX}")
            values[field] = timedelta(seconds=value)
        else:
            values[name] = value
    policy = replace(policy, **values)
    errors = policy_errors(policy)
    if errors:
        raise invalid("policy: " + "; ".join(errors))
    return policy


def policy_view(policy: RollingPolicy) -> PolicyView:
    values: dict[str, Any] = {
        name: getattr(policy, name)
        for name in PolicyView.__struct_fields__
        if name.removesuffix("_s") not in _LENGTHS
    }
    for name in _LENGTHS:
        values[f"{name}_s"] = int(getattr(policy, name).total_seconds())
    return PolicyView(**values)

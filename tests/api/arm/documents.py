"""Scale sets as Azure's clients write them, and what the tests of the dialect share."""

import base64
from typing import Any

import httpx
from tests.api.agent_by_hand import eventually

from upkeep.store import tables as t

HEALTH = {
    "name": "health",
    "properties": {
        "publisher": "Microsoft.ManagedServices",
        "type": "ApplicationHealthLinux",
        "typeHandlerVersion": "1.0",
        "settings": {"protocol": "http", "port": 8080, "requestPath": "/health"},
    },
}
SCRIPT = {
    "name": "Setup",
    "properties": {
        "publisher": "Microsoft.Azure.Extensions",
        "type": "CustomScript",
        "typeHandlerVersion": "2.1",
        "settings": {"commandToExecute": "touch /ready"},
    },
}


def after(name: str, *before: str) -> dict[str, Any]:
    """A script that runs after others."""
    properties: dict[str, Any] = dict(SCRIPT["properties"])  # type: ignore[call-overload]
    return {"name": name, "properties": properties | {"provisionAfterExtensions": list(before)}}


def image(base: str, name: str = "web", version: str = "") -> dict[str, str]:
    gallery = f"{base}/resourceGroups/any/providers/Microsoft.Compute/galleries/upkeep"
    return {"id": f"{gallery}/images/{name}{version}"}


def a_set(base: str, **properties: Any) -> dict[str, Any]:
    """What a client sends for a set of three machines that upgrades itself."""
    return {
        "location": "north",
        "sku": {"name": "Upkeep_2cpu_256mib", "tier": "Standard", "capacity": 3},
        "tags": {"team": "shop"},
        "properties": {
            "upgradePolicy": {
                "mode": "Manual",
                "rollingUpgradePolicy": {
                    "maxBatchInstancePercent": 34,
                    "maxUnhealthyInstancePercent": 50,
                    "maxUnhealthyUpgradedInstancePercent": 0,
                    "pauseTimeBetweenBatches": "PT1M30S",
                    "MaxSurge": "true",
                },
                "automaticOSUpgradePolicy": {
                    "enableAutomaticOSUpgrade": True,
                    "useRollingUpgradePolicy": True,
                },
            },
            "virtualMachineProfile": {
                "osProfile": {
                    "computerNamePrefix": "web",
                    "adminUsername": "someone",
                    "adminPassword": "S3cret-of-nobody",
                    "customData": base64.b64encode(b"#!/bin/sh\ntrue\n").decode(),
                },
                "storageProfile": {"imageReference": image(base)},
                "extensionProfile": {"extensions": [HEALTH, SCRIPT]},
            },
        }
        | properties,
    }


def profile_of(document: dict[str, Any]) -> dict[str, Any]:
    profile: dict[str, Any] = document["properties"]["virtualMachineProfile"]
    return profile


def error(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def message(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["message"])


def rows(server: Any) -> list[Any]:
    """All that a request could have changed, but for the audit log and the planner's own."""

    def read(connection: Any) -> list[Any]:
        tables = (t.groups, t.budgets, t.story, t.arm_documents, t.rollouts, t.calls)
        return [connection.execute(table.select()).all() for table in tables]

    found: list[Any] = server.read(read)
    return found


def a_configuration(**window: Any) -> dict[str, Any]:
    """What a client sends for a maintenance configuration of a set."""
    plain = {
        "startDateTime": "2026-12-24 22:00",
        "duration": "05:00",
        "timeZone": "W. Europe Standard Time",
        "recurEvery": "Week Saturday,Sunday",
    }
    properties = {"maintenanceScope": "osimage", "maintenanceWindow": plain | window}
    return {"location": "north", "tags": {"team": "shop"}, "properties": properties}


def rests(server: Any) -> None:
    """The planner has looked at the set and has nothing to do about it."""
    eventually(lambda: server.read(lambda c: c.execute(t.groups.select()).one()).wake_at is None)

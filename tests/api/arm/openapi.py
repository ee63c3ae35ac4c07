"""Azure's dialect as an OpenAPI document, made from the table of its routes.

For generators of requests: what it calls right is what the dialect takes, or nearly, so that what
they make of it comes past the first check.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tests.api.arm.documents import HEALTH, SCRIPT, a_set, after, image

from upkeep.api.arm.route import Route

Schema = dict[str, Any]

VERSIONS = ("2026-04-01", "2021-07-01", "")
QUERIES: Mapping[str, Sequence[str]] = {
    "$expand": ("instanceView", "ReplicationStatus", "x"),
    "$skiptoken": ("web", "web-1"),
    "$top": ("1", "0"),
    "$orderby": ("name desc", "name"),
    "monitor": ("true",),
}
INSTANCES = ("0", "1", "2", "*")


def one_of(*values: Any) -> Schema:
    return {"enum": list(values)}


def an_object(*needed: str, **properties: Schema) -> Schema:
    """`needed` are the properties that are always there; no other one is, but for `properties`."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(needed),
        "additionalProperties": False,
    }


def a_list(of: Schema, most: int = 4) -> Schema:
    return {"type": "array", "items": of, "maxItems": most}


def a_number(least: int, most: int) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": most}


FLAG = one_of(True, False, "true", "False")
TEXT: Schema = {"type": "string", "maxLength": 60}
TAGS = {"type": "object", "additionalProperties": TEXT, "maxProperties": 3}
ANY_OBJECT: Schema = {"type": "object"}
LENGTH = one_of("PT0S", "PT1M30S", "PT15M", "PT30M", "PT1H", "P1D")
LOCATION = one_of("north", "North", "local")
IMAGES = ("web", "office")


def document(
    routes: Iterable[Route], base: str, known: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """The document.

    Args:
        base: the path of the server's subscription.
        known: what a path's braces may hold, by name, and a client's id and secret.
    """
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, base, known)
    return {
        "openapi": "3.0.3",
        "info": {"title": "Azure's dialect of upkeep", "version": "1"},
        "paths": paths,
    }


def _operation(route: Route, base: str, known: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    parts = [part.strip("{}") for part in route.path.split("/") if part.startswith("{")]
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": one_of(*known[name])}
        for name in parts
    ]
    queries = {"api-version": VERSIONS} | (QUERIES if route.method == "GET" else {})
    parameters += [
        {"name": name, "in": "query", "schema": one_of(*values)} for name, values in queries.items()
    ]
    operation: dict[str, Any] = {
        "parameters": parameters,
        "responses": {"default": {"description": "an answer"}},
    }
    if route.method in ("PUT", "PATCH", "POST"):
        kind = "application/json"
        if route.role is None:
            kind = "application/x-www-form-urlencoded"
        body = {"schema": _body(route, base, known)}
        operation["requestBody"] = {"required": route.method == "PUT", "content": {kind: body}}
    return operation


def _body(route: Route, base: str, known: Mapping[str, Sequence[str]]) -> Schema:
    """By the end of the path; a POST with none of its own names instances, or could."""
    bodies: Mapping[str, Schema] = {
        "/token": _login(known),
        "/virtualMachineScaleSets/{set}": _set(base),
        "/virtualMachines/{instance}": PROTECTION,
        "/setOrchestrationServiceState": SERVICE_STATE,
        "/lifecycleHookEvents/{event}": _hook_event(base),
        "/maintenanceConfigurations/{configuration}": CONFIGURATION,
        "/configurationAssignments/{assignment}": _assignment(base),
        "/versions/{version}": _version(base),
        "/deployments/{deployment}": _deployment(base),
        "/resourceGroups/{group}": an_object("location", location=LOCATION, tags=TAGS),
        "/reimage": REIMAGE,
        "/reimageall": REIMAGE,
        "/scaleOut": an_object("capacity", capacity=one_of(1, "1", 0, 10**6)),
    }
    other = INSTANCE_IDS if route.method == "POST" else ANY_OBJECT
    return next((each for end, each in bodies.items() if route.path.endswith(end)), other)


def has_a_body_of_its_own(method: str, path: str) -> bool:
    """Whether what is sent there is a document, of which much can be wrong."""
    return method.upper() in ("PUT", "PATCH") and not path.endswith("/images/{image}")


# --- Bodies ---------------------------------------------------------------------------------------

_SOME = {**a_list(one_of(*INSTANCES)), "minItems": 1, "uniqueItems": True}
INSTANCE_IDS = an_object("instanceIds", instanceIds=_SOME)
REIMAGE = an_object(instanceIds=_SOME, tempDisk=FLAG)
SERVICE_STATE = an_object(
    "serviceName",
    "action",
    serviceName=one_of("AutomaticRepairs"),
    action=one_of("Suspend", "Resume"),
)
PROTECTION = an_object(
    "properties",
    properties=an_object(
        "protectionPolicy",
        protectionPolicy=an_object(
            protectFromScaleIn=one_of(True, "true"), protectFromScaleSetActions=FLAG
        ),
    ),
)

_RECURRENCES = (
    "Day", "3Days", "7Days", "Week", "Week Saturday,Sunday", "week monday, friday", "2Weeks Monday",
    "Month Last Sunday Offset4", "6Months day31",
)  # fmt: skip
_WINDOW = an_object(
    "startDateTime",
    startDateTime=one_of("2026-12-24 22:00", "2026-03-29 02:30:00", "2000-01-01 00:00",
                         "2999-12-31 23:59", "9999-12-31 23:59"),
    expirationDateTime=one_of("9999-12-31 23:59:59", "9998-12-31 23:59", "2060-01-01 00:00"),
    duration=one_of("05:00", "06:30", "23:59", "00:00"),
    timeZone=one_of("UTC", "W. Europe Standard Time", "Europe/Berlin", "Pacific/Apia"),
    recurEvery=one_of(*_RECURRENCES),
)  # fmt: skip
CONFIGURATION = an_object(
    "location",
    "properties",
    location=LOCATION,
    tags=TAGS,
    properties=an_object(
        "maintenanceScope",
        "maintenanceWindow",
        maintenanceScope=one_of("OSImage", "osimage"),
        visibility=one_of("Custom"),
        maintenanceWindow=_WINDOW,
        extensionProperties=TAGS,
    ),
)


def _login(known: Mapping[str, Sequence[str]]) -> Schema:
    return an_object(
        "grant_type",
        "client_id",
        "client_secret",
        grant_type=one_of("client_credentials"),
        client_id=one_of(*known["client_id"]),
        client_secret=one_of(*known["client_secret"]),
    )


def _assignment(base: str) -> Schema:
    place = f"{base}/resourceGroups/shop/providers/Microsoft.Maintenance/maintenanceConfigurations"
    configuration = one_of(f"{place}/nights", f"{place}/days", f"{place}/none")
    properties = an_object(
        "maintenanceConfigurationId", maintenanceConfigurationId=configuration, resourceId=TEXT
    )
    return an_object("properties", location=LOCATION, properties=properties)


def _hook_event(base: str) -> Schema:
    place = f"{base}/resourceGroups/Shop/providers/Microsoft.Compute/virtualMachineScaleSets/web"
    targets = [place, *(f"{place}/virtualMachines/{number}" for number in INSTANCES[:3])]
    target = an_object(
        "resource",
        "actionState",
        resource=an_object("id", id=one_of(*targets)),
        actionState=one_of("Waiting", "Approved", "Rejected"),
    )
    until = one_of("0001-01-01T00:00:00Z", "2020-01-01T00:00:00+01:00", "9999-12-31T23:59:59Z")
    return an_object(
        "properties", properties=an_object(targetResources=a_list(target, 2), waitUntil=until)
    )


def _version(base: str) -> Schema:
    region = an_object("name", name=one_of("north", "local", "far away"), excludeFromLatest=FLAG)
    source = an_object("id", id=one_of(*(image(base, n, "/versions/1.0.1")["id"] for n in IMAGES)))
    return an_object(
        "location",
        "properties",
        location=LOCATION,
        properties=an_object(
            "storageProfile",
            publishingProfile=an_object(targetRegions=a_list(region), excludeFromLatest=FLAG),
            storageProfile=an_object("source", source=source),
        ),
    )


def _extensions() -> Schema:
    """Whole lists that fit together, or lists of what is right by itself."""
    health = an_object(
        "name",
        "properties",
        name=one_of("health", "Setup"),
        properties=an_object(
            "type",
            "settings",
            publisher=TEXT,
            type=one_of("ApplicationHealthLinux", "ApplicationHealthWindows"),
            typeHandlerVersion=one_of("1.0", "2.0"),
            settings=an_object(
                "protocol",
                protocol=one_of("http", "https", "tcp"),
                port=a_number(1, 65_535),
                requestPath=one_of("/health", "/"),
                intervalInSeconds=a_number(5, 60),
                numberOfProbes=a_number(1, 24),
                gracePeriod=a_number(5, 14_400),
            ),
        ),
    )
    script = an_object(
        "name",
        "properties",
        name=one_of("Setup", "second", "Straße", "ſetup"),
        properties=an_object(
            "type",
            "settings",
            type=one_of("CustomScript", "customscript"),
            publisher=TEXT,
            settings=an_object(commandToExecute=TEXT, script=one_of("dHJ1ZQ==", "H4sIAA==")),
            protectedSettings=an_object(commandToExecute=TEXT),
            provisionAfterExtensions=a_list(one_of("health", "Setup"), 2),
        ),
    )
    whole = one_of([HEALTH], [HEALTH, SCRIPT], [SCRIPT, HEALTH, after("Last", "setup", "HEALTH")])
    return {"anyOf": [whole, whole, a_list({"anyOf": [health, script]}, 3)]}


def _upgrade_policy() -> Schema:
    return an_object(
        mode=one_of("Manual", "Automatic", "rolling"),
        rollingUpgradePolicy=an_object(
            maxBatchInstancePercent=a_number(5, 100),
            maxUnhealthyInstancePercent=a_number(5, 100),
            maxUnhealthyUpgradedInstancePercent=a_number(0, 100),
            pauseTimeBetweenBatches=LENGTH,
            enableCrossZoneUpgrade=FLAG,
            prioritizeUnhealthyInstances=FLAG,
            rollbackFailedInstancesOnPolicyBreach=FLAG,
            maxSurge=FLAG,
        ),
        automaticOSUpgradePolicy=an_object(
            enableAutomaticOSUpgrade=FLAG,
            disableAutomaticRollback=FLAG,
            useRollingUpgradePolicy=FLAG,
            osRollingUpgradeDeferral=FLAG,
        ),
    )


def _set_properties(base: str) -> Schema:
    hook = an_object(
        "type",
        type=one_of("UpgradeAutoOSScheduling", "UpgradeAutoOSRollingBatchStarting"),
        waitDuration=one_of("PT30M", "PT1S", "PT12H"),
        defaultAction=one_of("Approve", "Reject"),
    )
    notice = an_object(enable=FLAG, notBeforeTimeout=one_of("PT15M"))
    platform = {"publisher": "upkeep", "offer": "Web", "sku": "default", "version": "latest"}
    return an_object(
        orchestrationMode=one_of("Uniform"),
        overprovision=FLAG,
        platformFaultDomainCount=a_number(1, 5),
        upgradePolicy=_upgrade_policy(),
        automaticRepairsPolicy=an_object(
            enabled=FLAG,
            gracePeriod=one_of("PT10M", "PT90M", "PT30M"),
            repairAction=one_of("Replace", "restart", "Reimage"),
        ),
        lifecycleHooksProfile=an_object(lifecycleHooks=a_list(hook, 2)),
        virtualMachineProfile=an_object(
            osProfile=an_object(
                computerNamePrefix=TEXT,
                adminPassword=TEXT,
                customData=one_of("dHJ1ZQ==", ""),
                linuxConfiguration=an_object(
                    patchSettings=an_object(patchMode=one_of("ImageDefault"))
                ),
            ),
            storageProfile=an_object(
                imageReference=one_of(image(base), image(base, "OFFICE"), platform)
            ),
            extensionProfile=an_object(extensions=_extensions()),
            scheduledEventsProfile=an_object(osImageNotificationProfile=notice),
        ),
    )


def _set(base: str) -> Schema:
    """A whole set, or a few of its properties."""
    parts = an_object(
        location=LOCATION,
        sku=an_object(
            name=one_of("Upkeep_2cpu_256mib", "Upkeep_1cpu_512mib", "Standard_D2"),
            capacity=one_of(0, 2, 3, "5"),
        ),
        tags=TAGS,
        zones=one_of([], ["1", "2"]),
        properties=_set_properties(base),
    )
    return {"anyOf": [one_of(a_set(base)), parts, parts]}


def _deployment(base: str) -> Schema:
    set_type = "Microsoft.Compute/virtualMachineScaleSets"
    resource = a_set(base) | {"type": set_type, "name": "till"}
    other = resource | {
        "name": "Shelf",
        "tags": {"a": "[parameters('a')]", "b": "[variables('b')]"},
    }
    output = f"[reference(resourceId('{set_type}', 'till'),providers('x', 'y').apiVersions[0])]"
    value = {"anyOf": [TEXT, a_number(0, 9), TAGS, one_of("[parameters('a')]")]}
    template = an_object(
        "resources",
        resources={**a_list(one_of(resource, other), 2), "minItems": 1},
        parameters=an_object(a=an_object(type=TEXT, defaultValue=value)),
        variables=an_object("b", b=value),
        outputs=an_object(VMSS=an_object("value", type=TEXT, value=one_of(output))),
    )
    return an_object(
        "properties",
        properties=an_object(
            "template",
            mode=one_of("Incremental", "incremental"),
            template=template,
            parameters=an_object(a=an_object("value", value=value)),
        ),
    )

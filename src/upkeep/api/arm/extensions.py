"""The extensions of a set's model: the application's health, and what runs at first boot.

Two kinds run here.  Application Health is the group's probe.  Custom Script is a first-boot script:
it runs once on each new OS disk, after those it names.  Any other is refused: kept and not run,
it would be a promise.  Source: sheet os-image §5 (sequencing), §6.1 (health).
"""

import zlib
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from typing import Any

from upkeep.api.arm.documents import field, merged
from upkeep.api.arm.values import binary
from upkeep.api.problems import bad_request, invalid
from upkeep.api.scripts import SCRIPT_BYTES_MAX

HEALTH_TYPES = ("applicationhealthlinux", "applicationhealthwindows")
SCRIPT_TYPE = "customscript"

_PROBE_FIELDS: Mapping[str, str] = {
    "protocol": "protocol",
    "port": "port",
    "requestPath": "path",
    "intervalInSeconds": "interval_s",
    "numberOfProbes": "number_of_probes",
    "gracePeriod": "grace_period_s",
}


def of_model(profile: Any) -> Sequence[Any]:
    """Those of the model, each with a name of its own.  Source: sheet §5."""
    found = field(profile, "extensionProfile", "extensions")
    if found is None:
        return ()
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise invalid("extensionProfile.extensions: a list of objects")
    by_name: dict[str, Any] = {}
    for extension in found:
        name = field(extension, "name")
        if not isinstance(name, str) or not name:
            raise invalid("extensionProfile.extensions: each has a name")
        if name.casefold() in by_name:
            raise invalid(f"extensionProfile.extensions: two are called {name[:60]!r}")
        by_name[name.casefold()] = extension
    for extension in found:
        for before in _provision_after(extension):
            other = by_name.get(before.casefold())
            if other is None:
                raise invalid(
                    f"provisionAfterExtensions of {field(extension, 'name')[:60]!r}: there is no"
                    f" {before[:60]!r} in this model"
                )
            if field(other, "properties", "settings") is None:
                raise invalid(
                    f"the extension {before[:60]!r}, which another comes after, needs `settings`;"
                    " {} will do"
                )
    return found


def shown(
    kept: Any, probe: Mapping[str, Any] | None, scripts: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The extensions that the group's columns amount to, as they were written where they were.

    Args:
        probe, scripts: the columns, decoded.
    """
    by_name = {script["name"]: script for script in scripts}
    found: list[dict[str, Any]] = []
    has_health = False
    for extension in kept if isinstance(kept, list) else ():
        if _type(extension) in HEALTH_TYPES:
            if probe and not has_health:
                bare = merged(extension, {"properties": {"settings": None}})
                found.append(merged(bare, {"properties": _health(probe)}))
                has_health = True
        elif (script := by_name.pop(field(extension, "name").lower(), None)) is not None:
            found.append(extension if _runs(extension, script) else _bare(extension))
    if probe and not has_health:
        kind = {"publisher": "Microsoft.ManagedServices", "type": "ApplicationHealthLinux"}
        found.insert(0, {"name": "HealthExtension", "properties": kind | _health(probe)})
    for script in by_name.values():
        found.append({"name": script["name"], "properties": _custom_script(script)})
    return found


def _runs(extension: Any, script: Mapping[str, Any]) -> bool:
    """Whether the document, as far as it says so, is what the group really runs."""
    content = _script(extension)
    return content is None or content == b64decode(script["content"])


def _bare(extension: Any) -> dict[str, Any]:
    """An extension whose script has been changed since by the native API: it is not shown."""
    return merged(merged(extension, {"properties": {"settings": None}}),
                  {"properties": {"settings": {}}})  # fmt: skip


def _health(probe: Mapping[str, Any]) -> dict[str, Any]:
    is_rich = bool(probe.get("rich"))
    settings = {theirs: probe[ours] for theirs, ours in _PROBE_FIELDS.items() if ours in probe}
    if not is_rich:
        settings.pop("gracePeriod", None)
    return {
        "typeHandlerVersion": "2.0" if is_rich else "1.0",
        "autoUpgradeMinorVersion": True,
        "settings": settings,
    }


def _custom_script(script: Mapping[str, Any]) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "publisher": "Microsoft.Azure.Extensions",
        "type": "CustomScript",
        "typeHandlerVersion": "2.1",
        "autoUpgradeMinorVersion": True,
        "settings": {},
    }
    if script["provision_after"]:
        properties["provisionAfterExtensions"] = list(script["provision_after"])
    return properties


def _provision_after(extension: Any) -> Sequence[str]:
    names = field(extension, "properties", "provisionAfterExtensions")
    if names is None:
        return ()
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise invalid("provisionAfterExtensions: a list of names")
    return names


def _type(extension: Any) -> str:
    return str(field(extension, "properties", "type") or "").casefold()


def probe(extensions: Sequence[Any]) -> dict[str, Any] | None:
    """The application's health, as the Application Health extension says it."""
    found = [extension for extension in extensions if _type(extension) in HEALTH_TYPES]
    if not found:
        return None
    if len(found) > 1:
        raise bad_request("exactly one health source: two Application Health extensions are given")
    settings = field(found[0], "properties", "settings")
    if not isinstance(settings, dict):
        raise bad_request("the Application Health extension needs settings: protocol, port, …")
    spelling = {name.casefold(): name for name in _PROBE_FIELDS}
    asked: dict[str, Any] = {}
    for key, value in settings.items():
        name = spelling.get(key.casefold())
        if name is None:
            raise invalid(
                f"the Application Health extension has no setting {key[:60]!r}; it has"
                f" {', '.join(_PROBE_FIELDS)}"
            )
        if value is not None:
            asked[_PROBE_FIELDS[name]] = value
    version = str(field(found[0], "properties", "typeHandlerVersion") or "")
    if version.startswith("2"):
        asked["rich"] = True
    elif "grace_period_s" in asked:
        raise invalid("gracePeriod needs typeHandlerVersion 2.0")
    return asked


def scripts(extensions: Sequence[Any], kept: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Custom Script extensions: they run once on each new OS disk, in the model's sequence."""
    health = {
        field(extension, "name").casefold()
        for extension in extensions
        if _type(extension) in HEALTH_TYPES
    }
    found = []
    for extension in extensions:
        name = field(extension, "name").lower()
        if name in health:
            continue
        if _type(extension) != SCRIPT_TYPE:
            publisher = field(extension, "properties", "publisher")
            raise bad_request(
                f"the extension {name[:60]!r}: this server cannot run {_type(extension)[:60]!r} of"
                f" {str(publisher)[:60]!r}; it has ApplicationHealthLinux,"
                " ApplicationHealthWindows and CustomScript"
            )
        content = _script(extension)
        if content is None and name in kept:
            content = kept[name]
        if content is None:
            raise invalid(f"the extension {name[:60]!r}: give `commandToExecute` or `script`")
        after = [n.lower() for n in _provision_after(extension) if n.casefold() not in health]
        found.append(
            {
                "name": name,
                "content": b64encode(content).decode(),
                "provision_after": after,
            }
        )
    return found


def _script(extension: Any) -> bytes | None:
    """What it runs; None if that was not sent: its secret part is not sent twice."""
    for part in ("protectedSettings", "settings"):
        settings = field(extension, "properties", part)
        if field(settings, "fileUris"):
            raise bad_request(
                "CustomScript fileUris: machines fetch nothing at their first boot; send the script"
                " itself in `script`"
            )
        command, script = field(settings, "commandToExecute"), field(settings, "script")
        if command is not None and script is not None:
            raise invalid("CustomScript: `commandToExecute` or `script`, not both")
        if command is not None:
            return f"#!/bin/sh\n{command}\n".encode()
        if script is not None:
            return _unpacked(binary(script, "CustomScript script"))
    return None


def _unpacked(script: bytes) -> bytes:
    """A script may be packed with gzip.  Source: the extension's own documentation."""
    if not script.startswith(b"\x1f\x8b"):
        return script
    unpacker = zlib.decompressobj(wbits=31)
    try:
        content = unpacker.decompress(script, SCRIPT_BYTES_MAX + 1)
    except zlib.error as error:
        raise invalid(f"CustomScript script: it is packed, but not with gzip: {error}") from None
    return content

"""Turns the options of `group create` and `group set` into the API's document.

Only what was given is in it: the server has the defaults, and a PATCH leaves the rest alone.
"""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import typer

from upkeep.cli.exit_codes import CommandFailed, ExitCode
from upkeep.cli.options import POLICY_OPTIONS, PROBE_OPTIONS
from upkeep.cli.quantities import parse_percents

_PROBE_KEYS = {
    "probe_count": "number_of_probes",
    "probe_grace": "grace_period_s",
    "probe_rich": "rich",
}
_INTERVAL_KEYS = frozenset({"interval_s", "interval_ms"})
_PROBE_PORTS = {"http": 80, "https": 443, "tcp": 0}
_PLAIN_KEYS = (
    "image",
    "capacity",
    "zones",
    "auto_upgrade",
    "upgrade_mode",
    "memory_mib",
    "cpus",
    "health_source",
)


def group_document(
    options: Mapping[str, Any], *, probe_now: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The document of the given options.

    Args:
        probe_now: the group's present probe, on which single probe options are laid.

    Raises:
        typer.BadParameter: a probe or a script cannot be read.
        CommandFailed: a file cannot be read.
    """
    document = {key: options[key] for key in _PLAIN_KEYS if options[key] is not None}
    policy = policy_document(options)
    if policy:
        document["policy"] = policy
    if options["repair_action"] is not None:
        action = options["repair_action"]
        document["repair_action"] = None if action == "none" else action
    if options["repair_grace"] is not None:
        document["repair_grace_s"] = options["repair_grace"]
    if options["user_data"] is not None:
        document["user_data"] = _read_base64(options["user_data"])
    if options["scripts"]:
        document["scripts"] = parse_scripts(options["scripts"])
    if any(options[row.key] is not None for row in PROBE_OPTIONS if row.key != "health_source"):
        document["probe"] = probe_document(options, probe_now=probe_now)
    return document


def policy_document(options: Mapping[str, Any]) -> dict[str, Any]:
    """Lengths are whole seconds with `_s` in the name, shares are lists of percentages.

    Raises:
        typer.BadParameter: one is not.
    """
    for row in POLICY_OPTIONS:
        if row.form == "length" and options[row.key] not in (None, int(options[row.key] or 0)):
            raise typer.BadParameter(f"--{row.key.replace('_', '-')} takes whole seconds")
    document: dict[str, Any] = {}
    for row in POLICY_OPTIONS:
        given = options[row.key]
        if given is None:
            continue
        if row.form == "percents":
            document[row.key] = parse_percents(given)
        else:
            document[f"{row.key}_s" if row.form == "length" else row.key] = given
    return document


def probe_document(
    options: Mapping[str, Any], *, probe_now: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """The probe as probe.json has it (docs/guest.md); None takes it away."""
    given = {key: options[name] for name, key in _PROBE_KEYS.items() if options[name] is not None}
    if options["probe_interval"] is not None:
        given |= _interval(options["probe_interval"])
    if options["probe"] is None:
        if not probe_now:
            raise typer.BadParameter("the group has no probe yet: name it with --probe URL")
        replaced = _INTERVAL_KEYS if _INTERVAL_KEYS & given.keys() else frozenset()
        kept = {key: value for key, value in probe_now.items() if key not in replaced}
        return {**kept, **given}
    if options["probe"] == "none":
        if given:
            raise typer.BadParameter("--probe none takes no other probe option")
        return None
    return {**parse_probe(options["probe"]), **given}


def _interval(seconds: float) -> dict[str, Any]:
    """Whole seconds, or milliseconds; a probe has one of the two."""
    if seconds == int(seconds):
        return {"interval_s": int(seconds)}
    return {"interval_ms": round(seconds * 1000)}


def parse_probe(url: str) -> dict[str, Any]:
    """Protocol, port and path of `http://:8080/health`; the host is each machine's own.

    Raises:
        typer.BadParameter: it is no such URL.
    """
    wanted = "write http://:8080/health, https://:443/, tcp://:22 or none"
    try:
        parts = urlsplit(url)
        port = parts.port or _PROBE_PORTS.get(parts.scheme, 0)
    except ValueError as error:
        raise typer.BadParameter(f"{url!r} is no probe ({error}); {wanted}") from error
    if parts.scheme not in _PROBE_PORTS or not port:
        raise typer.BadParameter(f"{url!r} is no probe; {wanted}")
    if parts.hostname:
        raise typer.BadParameter(
            f"{url!r} names a host, but each machine is asked itself: leave the host out; {wanted}"
        )
    path = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
    probe = {"protocol": parts.scheme, "port": port}
    return probe if parts.scheme == "tcp" else {**probe, "path": path}


def parse_scripts(texts: Sequence[str]) -> list[dict[str, Any]]:
    """Scripts of `NAME=FILE[,OTHER...]`."""
    scripts = []
    for text in texts:
        name, equals, rest = text.partition("=")
        file, *after = rest.split(",")
        if not equals or not name or not file:
            raise typer.BadParameter(f"{text!r} is no script; write NAME=FILE or NAME=FILE,OTHER")
        scripts.append(
            {"name": name, "content": _read_base64(Path(file)), "provision_after": after}
        )
    return scripts


def _read_base64(path: Path) -> str:
    try:
        return base64.b64encode(path.read_bytes()).decode()
    except OSError as error:
        raise CommandFailed(
            ExitCode.FAILED,
            f"The file {path} cannot be read: {error.strerror}.",
            "Name a file that is there and that you may read.",
        ) from error

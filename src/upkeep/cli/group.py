"""`upkeep group`: machines that serve one purpose, and how they are kept up to date."""

from typing import Annotated, Any

import typer

from upkeep.cli.client import Document, connect
from upkeep.cli.group_document import group_document
from upkeep.cli.options import (
    GROUP_OPTIONS,
    LIST_ITEMS_DEFAULT,
    After,
    Json,
    Limit,
    Yes,
    parse_name,
    takes_options,
)
from upkeep.cli.output import Columns, confirm, print_answer, print_details, print_json, print_page
from upkeep.cli.quantities import show_length, show_moment
from upkeep.ports import AGENT_ONLY

app = typer.Typer(no_args_is_help=True, help="Groups: machines that serve one purpose.")


Name = Annotated[str, typer.Argument(parser=parse_name, metavar="GROUP", help="The group's name.")]


@app.command("create")
@takes_options(GROUP_OPTIONS)
def create(
    name: Name,
    platform: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="What makes its machines: nspawn, libvirt, simulated or agent_only.",
        ),
    ] = "nspawn",
    kind: Annotated[
        str, typer.Option(metavar="KIND", help="scale_set, availability_set or loose.")
    ] = "",
    region: Annotated[str, typer.Option(metavar="REGION", help="Region it is in.")] = "",
    as_json: Json = False,
    **options: Any,
) -> None:
    """Create a group.

    upkeep group create web --image web --capacity 5 --probe http://:8080/health
    """
    if platform == AGENT_ONLY and options["auto_upgrade"] is None:
        options["auto_upgrade"] = False  # Nobody can replace the OS disks of such machines.
    document = {"name": name, "platform": platform, **group_document(options)}
    if kind:
        document["kind"] = kind
    if region:
        document["region"] = region
    with connect() as client:
        made = client.post("/v1/groups", document)
    if platform == AGENT_ONLY:
        more = f"Add machines that exist already: upkeep machine add NAME --group {name}"
    else:
        more = f"See its machines: upkeep machine list --group {name}"
    size = f" with {made['capacity']} machines" if made.get("capacity") else ""
    print_answer(f"Created group {name}{size}. {more}", made, as_json=as_json)


@app.command("list")
def list_groups(
    limit: Limit = LIST_ITEMS_DEFAULT, after: After = "", as_json: Json = False
) -> None:
    """List groups."""
    with connect() as client:
        page = client.list("/v1/groups", limit=limit, after=after)
    print_page(
        {
            "GROUP": "name",
            "PLATFORM": "platform",
            "IMAGE": "image",
            "MACHINES": lambda group: group["machines"]["total"],
            "HEALTHY": lambda group: group["machines"]["healthy"],
            "ROLLOUT": "rollout",
            "AUTO": "auto_upgrade",
            "PAUSED": "paused",
            "REGION": "region",
        },
        page,
        as_json=as_json,
    )


@app.command("show")
def show(name: Name, as_json: Json = False) -> None:
    """Show one group: its machines, probe and rolling policy."""
    with connect() as client:
        group = client.get(f"/v1/groups/{name}")
    if as_json:
        print_json(group)
        return
    print_details(group_lines(group))


@app.command("set")
@takes_options(GROUP_OPTIONS)
def set_group(name: Name, as_json: Json = False, **options: Any) -> None:
    """Change a group; what is not named stays as it is."""
    if all(value is None for value in options.values()):
        raise typer.BadParameter("nothing to change: name at least one option")
    with connect() as client:
        probe_now = client.get(f"/v1/groups/{name}").get("probe")
        changed = client.patch(f"/v1/groups/{name}", group_document(options, probe_now=probe_now))
    print_answer(f"Changed group {name}.", changed, as_json=as_json)


@app.command("delete")
def delete(name: Name, yes: Yes = False, as_json: Json = False) -> None:
    """Delete a group with all its machines and their data."""
    confirm(f"Delete group {name} with all its machines and their data?", yes=yes)
    with connect() as client:
        answer = client.delete(f"/v1/groups/{name}")
    print_answer(
        f"Deleting group {name}: a running rollout is cancelled, then its machines go.",
        answer,
        as_json=as_json,
    )


@app.command("pause")
def pause(name: Name, as_json: Json = False) -> None:
    """Start nothing in a group; what is under way is finished."""
    with connect() as client:
        group = client.post(f"/v1/groups/{name}/pause")
    print_answer(f"Paused group {name}: nothing starts there.", group, as_json=as_json)


@app.command("resume")
def resume(name: Name, as_json: Json = False) -> None:
    """Let a paused group go on."""
    with connect() as client:
        group = client.post(f"/v1/groups/{name}/resume")
    print_answer(f"Resumed group {name}.", group, as_json=as_json)


@app.command("suspend-repairs")
def suspend_repairs(name: Name, as_json: Json = False) -> None:
    """Repair no machine of a group by itself; what is under way is finished."""
    with connect() as client:
        group = client.post(f"/v1/groups/{name}/repairs/suspend")
    print_answer(f"Suspended the repairs of group {name}.", group, as_json=as_json)


@app.command("resume-repairs")
def resume_repairs(name: Name, as_json: Json = False) -> None:
    """Let repairs go on, also after some that healed nobody."""
    with connect() as client:
        group = client.post(f"/v1/groups/{name}/repairs/resume")
    print_answer(f"The repairs of group {name} go on.", group, as_json=as_json)


@app.command("story")
def story(name: Name, limit: Limit = 50, after: After = "", as_json: Json = False) -> None:
    """Tell what was decided in a group, newest first."""
    with connect() as client:
        page = client.list(f"/v1/groups/{name}/story", limit=limit, after=after)
    columns: Columns = {"AT": lambda line: show_moment(line.get("at")), "WHAT": "line"}
    print_page(columns, page, as_json=as_json)


def _policy_value(key: str, value: Any) -> object:
    if key.endswith("_s"):
        return show_length(value)
    if isinstance(value, list):
        return ", ".join(f"{share} %" for share in value) or "none"
    return value


def group_lines(group: Document) -> dict[str, object]:
    """A group for people: lengths with their unit, the probe as its URL."""
    policy = group.get("policy") or {}
    shown = {
        key.removesuffix("_s").replace("_", " "): _policy_value(key, value)
        for key, value in policy.items()
    }
    return {
        "name": group.get("name"),
        "kind": group.get("kind"),
        "platform": group.get("platform"),
        "region": group.get("region"),
        "zones": group.get("zones"),
        "capacity": group.get("capacity"),
        "machines": machines_line(group.get("machines") or {}),
        "versions": [
            f"{count} on {version}" for version, count in (group.get("versions") or {}).items()
        ],
        "rollout": group.get("rollout"),
        "deleting": group.get("deleting") or "",
        "image": group.get("image"),
        "baked version": group.get("baked"),
        "auto upgrade": group.get("auto_upgrade"),
        "model": group.get("model"),
        "upgrade mode": group.get("upgrade_mode"),
        "paused": group.get("paused"),
        "probe": probe_line(group.get("probe")),
        "health source": group.get("health_source"),
        "repairs": _repairs_line(group),
        "memory (MiB)": group.get("memory_mib"),
        "cpus": group.get("cpus"),
        **shown,
    }


def machines_line(counts: Document) -> str:
    """`5: 4 healthy, 1 unhealthy`."""
    parts = [f"{count} {name}" for name, count in counts.items() if name != "total" and count]
    total = str(counts.get("total", 0))
    return f"{total}: {', '.join(parts)}" if parts else total


def probe_line(probe: Document | None) -> str:
    """`http://:8080/health every 5s`; `none` without a probe."""
    if not probe:
        return "none"
    line = f"{probe.get('protocol')}://:{probe.get('port')}{probe.get('path', '')}"
    interval_s = probe.get("interval_s") or probe.get("interval_ms", 0) / 1000
    if interval_s:
        line += f" every {show_length(interval_s)}"
    return line


def _repairs_line(group: Document) -> str:
    action = group.get("repair_action")
    if not action:
        return "none"
    if since := group.get("repairs_suspended_at"):
        return f"{action}, suspended since {show_moment(since)}"
    return f"{action} after {show_length(group.get('repair_grace_s', 0))}"

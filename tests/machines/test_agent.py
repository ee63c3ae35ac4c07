"""The agent that is baked into the image, in real machines, against the real server."""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from tests.machines.real_fleet import RealFleet

from upkeep.agent import identity, report, transport
from upkeep.agent.first_boot import FirstBoot, FirstBootState
from upkeep.agent.loop import POLL_PATH

pytestmark = pytest.mark.machines

NAMES = ("guests-0", "guests-1")


@pytest.fixture(scope="module")
def fleet(site: RealFleet) -> Iterator[RealFleet]:
    policy = {"drain_timeout_s": 60}
    with site.machines_of("guests", len(NAMES), policy=policy, health_source="both") as fleet:
        yield fleet


def show(fleet: RealFleet, name: str) -> dict[str, Any]:
    """`upkeep machine show NAME --json`, as an operator on the server's machine runs it."""
    done = subprocess.run(
        [sys.executable, "-m", "upkeep", "machine", "show", name, "--json"],
        env={
            **os.environ,
            "UPKEEP_STATE_DIR": str(fleet.stage.state),
            "UPKEEP_SERVER": f"https://127.0.0.1:{fleet.port}",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_it_enrols_and_tells_what_it_runs_on(fleet: RealFleet) -> None:
    for name in NAMES:
        agent = show(fleet, name)["agent"]
        assert agent["boot_id"] == fleet.poller.seen[name].boot_ids[-1]
        assert (agent["image_name"], agent["image_version"]) == ("web", "1.0.0")
        assert agent["enrolled_at"] is not None
        assert agent["first_boot"] == "done"
        assert not agent["conflict"]


def test_an_illness_that_only_shows_inside_reaches_the_server(fleet: RealFleet) -> None:
    name = NAMES[0]
    (fleet.data(name) / "ill-inside").touch()
    fleet.wait("unhealthy", lambda: show(fleet, name)["health"] == "unhealthy")
    assert fleet.poller.seen[name].up, "from outside it is well"
    (fleet.data(name) / "ill-inside").unlink()
    fleet.wait("healthy again", lambda: show(fleet, name)["health"] == "healthy")


def offered(fleet: RealFleet, name: str) -> list[str]:
    """Keys of the commands that the server offers this machine now, asked as the machine itself."""
    known = identity.load(fleet.data(name) / "upkeep")
    assert known is not None
    machine = fleet.poller.seen[name]
    facts = report.Facts(
        uuid=known.uuid,
        boot_id=machine.boot_ids[-1],
        image={"name": "web", "version": machine.version},
        os="",
        busy=None,
        reboot_required="",
    )
    body = report.check_in_body(
        nonce="",
        facts=facts,
        health=report.HealthReport("healthy", "2026-11-24T09:00:00Z"),
        first_boot=FirstBoot(FirstBootState.DONE),
        done=(),
    )
    link = transport.Link(known.server, transport.trust(known.ca_pem))
    try:
        reply = link.call(f"{POLL_PATH}?wait=0", body, bearer=known.bearer)
    finally:
        link.close()
    return [command["key"] for command in reply["commands"]]


def test_a_command_that_is_repeated_is_done_once_and_identity_survives_the_new_disk(
    fleet: RealFleet,
) -> None:
    before = {name: identity.load(fleet.data(name) / "upkeep") for name in NAMES}
    enrolled = {name: show(fleet, name)["agent"]["enrolled_at"] for name in NAMES}
    fleet.publish("1.0.1")
    drained = [fleet.data(name) / "drained" for name in NAMES]
    fleet.wait("a drain that has begun", lambda: any(file.exists() for file in drained))
    name = next(name for name, file in zip(NAMES, drained, strict=True) if file.exists())
    repeated = [offered(fleet, name) for _ in range(3)]
    assert repeated[0] == repeated[1] == repeated[2]
    assert len(repeated[0]) == 1
    assert repeated[0][0].endswith("/drain/0")
    for each in NAMES:
        (fleet.data(each) / "drain-may-end").touch()
    fleet.wait_for_end("1.0.1")
    assert [file.read_text() for file in drained] == ["run\n", "run\n"]
    for each in NAMES:
        agent = show(fleet, each)["agent"]
        assert identity.load(fleet.data(each) / "upkeep").secret == before[each].secret
        assert agent["enrolled_at"] == enrolled[each]
        assert agent["boot_id"] == fleet.poller.seen[each].boot_ids[-1]
        assert agent["image_version"] == "1.0.1"
        assert len(fleet.poller.seen[each].boot_ids) == 2


def test_a_restart_by_key_happens_once_though_the_server_dies_before_it_hears(
    fleet: RealFleet,
) -> None:
    """The machine belongs to a group whose power nobody holds: its agent restarts it."""
    name = NAMES[1]
    machine = fleet.poller.seen[name]
    boots = list(machine.boot_ids)
    (fleet.data(name) / "drain-may-end").touch()
    hand_over(fleet, platform="agent_only")
    fleet.wait("healthy machines", lambda: fleet.healthy() == len(NAMES))
    call = fleet.client.post(f"/v1/machines/{name}/restart", {"force": True})
    fleet.wait("the machine going down", lambda: not machine.up, pause_s=0.01)
    fleet.kill_server()
    fleet.wait("the next boot", lambda: len(machine.boot_ids) > len(boots) and machine.up)
    fleet.start_server()

    def has_ended() -> bool:
        return bool(fleet.client.get(f"/v1/rollouts/{call['id']}")["ended_at"])

    fleet.wait("the end of the restart", has_ended)
    assert fleet.client.get(f"/v1/rollouts/{call['id']}")["state"] == "completed"
    assert offered(fleet, name) == []
    assert len(machine.boot_ids) == len(boots) + 1
    runtime = json.loads((fleet.data(name).parent / "runtime.json").read_text())
    # The supervisor counts from its own beginning: the new disk's start, and this restart.
    assert runtime["boots"] == len(boots) + 1
    hand_over(fleet, platform="nspawn")


def hand_over(fleet: RealFleet, *, platform: str) -> None:
    """From now on another platform has the group's machines."""
    fleet.kill_server()
    with sqlite3.connect(fleet.stage.state / "upkeep.db") as database:
        database.execute("UPDATE groups SET platform = ?", (platform,))
    database.close()
    fleet.start_server()

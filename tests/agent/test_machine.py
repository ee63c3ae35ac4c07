"""Facts of a machine, from files laid as the systems lay them."""

import pytest

from upkeep.agent import machine as facts
from upkeep.agent import report
from upkeep.agent.first_boot import FirstBoot, FirstBootState
from upkeep.agent.health import CustomMetrics, Health, HealthState
from upkeep.agent.timing import Timing, retry_delay_s, spread
from upkeep.agent.wire import POLL_S_RANGE, PollMode, ProtocolError, parse_reply

DMI = "11111111-1111-1111-1111-111111111111"
CONTAINER = "22222222-2222-2222-2222-222222222222"
MACHINE_ID = "33333333333333333333333333333333"
FROM_MACHINE_ID = "33333333-3333-3333-3333-333333333333"


@pytest.mark.parametrize(
    ("environ", "dmi", "machine_id", "uuid"),
    [
        ("", DMI.upper(), MACHINE_ID, DMI),
        ("", "Not Settable", MACHINE_ID, FROM_MACHINE_ID),
        (f"container=systemd-nspawn\0container_uuid={CONTAINER}\0", DMI, MACHINE_ID, CONTAINER),
        # A container without a uuid of its own must not take its hypervisor's.
        ("container=lxc\0", DMI, MACHINE_ID, FROM_MACHINE_ID),
        ("container=lxc\0", DMI, "", ""),
        ("PATH=/bin\0", "", "", ""),
    ],
)
def test_where_the_uuid_comes_from(machine, environ, dmi, machine_id, uuid) -> None:
    machine.paths.pid1_environ.write_text(environ)
    machine.paths.product_uuid.write_text(dmi + "\n")
    machine.paths.machine_id.write_text(machine_id + "\n")
    assert facts.hardware_uuid(machine.paths) == uuid


def test_the_seeds_uuid_comes_before_all(server, machine) -> None:
    machine.paths.product_uuid.write_text(DMI)
    machine.seed(server)
    assert facts.hardware_uuid(machine.paths) == machine.uuid


def test_a_machine_that_tells_nothing_is_no_error(machine) -> None:
    for path in (machine.paths.os_release, machine.paths.boot_id, machine.paths.etc / "image.json"):
        path.unlink()
    assert facts.boot_id(machine.paths) == ""
    assert facts.os_name(machine.paths) == ""
    assert facts.image(machine.paths) == {"name": "", "version": ""}
    assert facts.reboot_required(machine.paths) == ""
    (machine.paths.etc / "image.json").write_text("[]")
    assert facts.image(machine.paths) == {"name": "", "version": ""}
    machine.paths.reboot_required.touch()
    assert facts.reboot_required(machine.paths) == "the system asks for it"


def body(state: str = "healthy", **change: object) -> dict[str, object]:
    known = report.check_in_body(
        nonce="n",
        facts=report.Facts("u", "b", {"name": "web", "version": "1"}, "os", None, ""),
        health=report.HealthReport(state, "2026-11-24T09:00:00Z", "200 OK"),
        first_boot=FirstBoot(FirstBootState.DONE),
        done=(),
    )
    return {**known, **change}


def test_what_is_worth_a_check_in_of_its_own() -> None:
    for change in (
        {"boot_id": "c"},
        {"busy": "x"},
        {"reboot_required": "libc6"},
        {"first_boot": {"state": "failed", "detail": ""}},
        {"done": [{"key": "k", "fence": 1, "outcome": "succeeded", "detail": ""}]},
        {"image": {"name": "web", "version": "2"}},
    ):
        assert report.urgent_part(body(**change)) != report.urgent_part(body()), change
    assert report.urgent_part(body("unhealthy")) != report.urgent_part(body())
    quiet = {**body()["health"], "detail": "200 Fine"}
    assert report.urgent_part(body(nonce="m", health=quiet)) == report.urgent_part(body())


def test_bad_metrics_are_told_in_the_detail() -> None:
    metrics = CustomMetrics(error="CustomMetrics is not JSON")
    health = Health(HealthState.HEALTHY, 0.0, None, detail="ok", metrics=metrics)
    sent = report.health_report(health, since="s").to_json()
    assert sent["detail"] == "ok; CustomMetrics is not JSON"
    assert (sent["phase"], sent["skip"]) == (None, False)


GOOD_REPLY = {"nonce": "n", "poll": {"mode": "long", "seconds": 50}, "commands": [], "probe": None}


def test_a_reply_is_read_and_what_is_unknown_is_passed_over() -> None:
    reply = parse_reply({**GOOD_REPLY, "news": 1})
    assert (reply.nonce, reply.mode, reply.seconds) == ("n", PollMode.LONG, 50)
    assert (reply.probe, reply.probe_given) == (None, True)
    without = {key: value for key, value in GOOD_REPLY.items() if key not in ("probe", "commands")}
    assert parse_reply(without).probe_given is False
    newer = parse_reply({**GOOD_REPLY, "poll": {"mode": "telepathy", "seconds": 10**9}})
    assert (newer.mode, newer.seconds) == (PollMode.INTERVAL, POLL_S_RANGE[1])
    many = [{"key": str(n), "fence": n, "verb": "report"} for n in range(100)]
    assert len(parse_reply({**GOOD_REPLY, "commands": many}).commands) == 64


@pytest.mark.parametrize(
    "change",
    [
        {"nonce": None},
        {"poll": None},
        {"poll": {"mode": "long", "seconds": "50"}},
        {"commands": {}},
        {"commands": [1]},
        {"commands": [{"key": "", "fence": 1, "verb": "report"}]},
        {"commands": [{"key": "k" * 257, "fence": 1, "verb": "report"}]},
        {"commands": [{"key": "k", "fence": True, "verb": "report"}]},
        {"commands": [{"key": "k", "fence": 1, "verb": "report", "args": []}]},
        {"probe": []},
    ],
)
def test_a_reply_that_is_not_the_protocol_is_said_so(change: dict[str, object]) -> None:
    with pytest.raises(ProtocolError):
        parse_reply({**GOOD_REPLY, **change})


def test_waits_after_failures_double_up_to_a_minute_and_are_spread() -> None:
    timing = Timing()
    assert [retry_delay_s(n, timing=timing, draw=1.0) for n in (1, 2, 3, 6, 7, 1000)] == [
        1, 2, 4, 32, 60, 60,
    ]  # fmt: skip
    assert retry_delay_s(7, timing=timing, draw=0.0) == 30
    assert [round(spread(50.0, timing=timing, draw=d)) for d in (0, 0.5, 1)] == [45, 50, 55]

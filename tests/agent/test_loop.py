"""The running agent against a server that plays the protocol over real TLS."""

import json
import os
import socket
import stat
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from upkeep.agent.timing import Timing

PROBE = {"protocol": "http", "port": 0, "path": "/health", "interval_ms": 100}


@pytest.fixture
def application():
    """A web server inside the machine whose status the test sets."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(self.server.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.status = 200
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_it_enrols_with_the_seeds_token_and_tells_all_that_the_page_lists(
    server, machine, start_agent
) -> None:
    machine.seed(server, token="t-1")
    machine.paths.reboot_required.touch()
    Path(f"{machine.paths.reboot_required}.pkgs").write_text("linux-image\nlibc6\nlibc6\n")
    start_agent(machine)
    body = server.wait_for_check_in(lambda b: b["first_boot"]["state"] == "done")
    assert set(body) == {
        "nonce", "uuid", "boot_id", "agent", "image", "os", "health", "busy", "reboot_required",
        "first_boot", "done",
    }  # fmt: skip
    assert body["uuid"] == machine.uuid
    assert body["boot_id"] == "boot-1"
    assert body["image"] == {"name": "web", "version": "1.0.1"}
    assert body["os"] == "Debian GNU/Linux 12 (bookworm)"
    assert body["health"]["state"] == "none"
    assert body["busy"] is None
    assert body["reboot_required"] == "libc6, linux-image"
    mode = (machine.paths.state / "identity.json").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


def test_a_second_start_uses_the_identity_and_not_the_token(
    server, machine, start_agent, wait_until
) -> None:
    machine.seed(server, token="t-1")
    server.poll = {"mode": "interval", "seconds": 3600}
    first = start_agent(machine)
    server.wait_for_check_in(lambda b: b["first_boot"]["state"] == "done")
    # The reply has come and is on the disk: a stop before that would be a lost reply.
    kept = machine.paths.state / "identity.json"
    wait_until(lambda: json.loads(kept.read_text())["nonce"] == server.nonces["m_web-0"][1])
    first.stop()
    seen = len(server.seen)
    start_agent(machine)
    server.wait_for(lambda: len(server.seen) > seen)
    assert len(server.bodies("enrol")) == 1
    nonces = [body["nonce"] for body in server.bodies()]
    assert len(set(nonces)) == len(nonces), "each check-in brings the nonce of the last reply"


def test_a_long_poll_brings_a_command_at_once_and_restart_ends_with_a_new_boot_id(
    server, machine, start_agent
) -> None:
    boot = ["boot-1"]
    rebooted = threading.Event()

    def reboot() -> str:
        rebooted.set()
        return ""

    machine.seed(server, token="t-1")
    server.poll = {"mode": "long", "seconds": 50}
    start_agent(machine, reboot=reboot, boot_id=lambda: boot[0])
    server.wait_for(lambda: server.polls_open)
    server.send("ro_7/m_3/restart/1", "restart")
    assert rebooted.wait(10)
    entry = json.loads((machine.paths.state / "journal.json").read_text())["entries"][0]
    assert (entry["state"], entry["boot_id"]) == ("started", "boot-1")
    assert not any(body["done"] for _, body in server.seen if "done" in body)
    boot[0] = "boot-2"
    done = server.outcome("ro_7/m_3/restart/1")
    assert (done["outcome"], done["fence"]) == ("succeeded", 1)
    server.wait_for(lambda: not server.commands)


def test_a_command_that_is_in_hand_and_sent_again_does_not_make_polls_spin(
    server, machine, start_agent, fast: Timing
) -> None:
    """The server answers a poll at once while a command is open; here for as long as it likes."""
    machine.seed(server, token="t-1")
    server.poll = {"mode": "long", "seconds": 50}
    running = start_agent(machine, reboot=lambda: "", timing=replace(fast, poll_gap_s=60.0))
    server.wait_for(lambda: server.polls_open)
    server.send("k/1", "restart")
    for busy in ("one", "two", "three"):
        (machine.paths.run / "busy").write_text(busy)
        server.wait_for_check_in(lambda b, busy=busy: b["busy"] == busy)
    # The one that brought it, and one that found nothing new.
    assert len(server.bodies("poll")) <= 2
    running.stop()


def test_a_restart_is_found_done_by_the_agent_of_the_next_boot(
    server, machine, start_agent
) -> None:
    """The real thing: the process is gone with the machine, and another one begins."""
    rebooted = threading.Event()
    machine.seed(server, token="t-1")
    server.send("k/1", "restart")
    first = start_agent(machine, reboot=lambda: rebooted.set() or "")
    assert rebooted.wait(10)
    first.stop()
    machine.paths.boot_id.write_text("boot-2\n")
    start_agent(machine, reboot=lambda: pytest.fail("restarted twice"))
    assert server.outcome("k/1")["outcome"] == "succeeded"


def test_a_restart_that_the_system_refuses_is_a_failure_with_its_words(
    server, machine, start_agent
) -> None:
    machine.seed(server, token="t-1")
    server.send("k/1", "restart")
    start_agent(machine, reboot=lambda: "a shutdown inhibitor is held")
    done = server.outcome("k/1")
    assert done["outcome"] == "failed"
    assert "inhibitor" in done["detail"]


def test_drain_runs_the_hook_and_heartbeats_go_on_beside_it(
    server, machine, start_agent, wait_until
) -> None:
    begun, go_on = machine.root / "begun", machine.root / "go-on"
    hook = machine.paths.drain
    hook.write_text(
        f"#!/bin/sh\ntouch {begun}\nwhile [ ! -e {go_on} ]; do sleep 0.02; done\n"
        "echo 3 jobs moved\n"
    )
    hook.chmod(0o755)
    machine.seed(server, token="t-1")
    server.send("k/1", "drain", timeout_s=30)
    start_agent(machine)
    wait_until(begun.exists)
    machine.paths.reboot_required.touch()
    server.wait_for_check_in(lambda b: b["reboot_required"])
    go_on.touch()
    done = server.outcome("k/1")
    assert done["outcome"] == "succeeded"
    assert "3 jobs moved" in done["detail"]


@pytest.mark.parametrize(
    ("hook", "outcome", "words"),
    [
        (None, "succeeded", "there is no"),
        ("#!/bin/sh\necho stuck >&2\nexit 3\n", "failed", "exit 3: stuck"),
        ("#!/bin/sh\nsleep 60\n", "failed", "ended after 1 s"),
        ("not a program", "failed", "cannot run"),
    ],
)
def test_how_a_drain_ends(server, machine, start_agent, hook, outcome, words) -> None:
    if hook is not None:
        machine.paths.drain.write_text(hook)
        machine.paths.drain.chmod(0o755)
    machine.seed(server, token="t-1")
    server.send("k/1", "drain", timeout_s=1)
    start_agent(machine)
    done = server.outcome("k/1")
    assert done["outcome"] == outcome
    assert words in done["detail"]


def test_report_unknown_verbs_and_old_fences_are_answered(server, machine, start_agent) -> None:
    machine.seed(server, token="t-1")
    server.send("k/1", "report", fence=5)
    server.send("k/2", "format_disk", fence=5)
    server.send("k/3", "restart", fence=4)
    start_agent(machine, reboot=lambda: pytest.fail("a fenced command must not run"))
    assert server.outcome("k/1")["outcome"] == "succeeded"
    assert "update the agent" in server.outcome("k/2")["detail"]
    assert server.outcome("k/3")["outcome"] == "fenced"


def test_health_changes_are_sent_at_once_over_a_heartbeat_of_an_hour(
    server, machine, start_agent, application
) -> None:
    machine.seed(server, token="t-1")
    server.poll = {"mode": "interval", "seconds": 3600}
    server.probe = {**PROBE, "port": application.server_address[1]}
    start_agent(machine)
    healthy = server.wait_for_check_in(lambda b: b["health"]["state"] == "healthy")
    assert healthy["health"]["detail"] == "200 OK"
    application.status = 503
    bad = server.wait_for_check_in(lambda b: b["health"]["state"] == "unhealthy")
    assert bad["health"]["detail"] == "503 Service Unavailable"
    assert bad["health"]["since"] >= healthy["health"]["since"]


def test_the_last_probe_is_used_at_the_next_start_without_the_server(
    server, machine, start_agent, application, wait_until
) -> None:
    machine.seed(server, token="t-1")
    server.probe = {**PROBE, "port": application.server_address[1]}
    first = start_agent(machine)
    server.wait_for_check_in(lambda b: b["health"]["state"] == "healthy")
    first.stop()
    server.stop()
    second = start_agent(machine)
    wait_until(lambda: second.agent._watch.report().state == "healthy")


def test_a_probe_that_breaks_a_rule_leaves_the_last_good_one_in_place(
    server, machine, start_agent, application
) -> None:
    machine.seed(server, token="t-1")
    server.poll = {"mode": "long", "seconds": 50}
    server.probe = {**PROBE, "port": application.server_address[1]}
    start_agent(machine)
    server.wait_for_check_in(lambda b: b["health"]["state"] == "healthy")
    server.probe = {"protocol": "gopher"}
    server.send("k/1", "report")
    server.outcome("k/1")
    application.status = 500
    server.wait_for_check_in(lambda b: b["health"]["state"] == "unhealthy")


@pytest.mark.parametrize("mode", ["interval", "long"])
def test_a_server_that_was_away_is_found_again_and_told_what_happened(
    server, machine, start_agent, wait_until, mode
) -> None:
    machine.seed(server, token="t-1")
    server.poll = {"mode": mode, "seconds": 1}
    running = start_agent(machine)
    server.wait_for_check_in(lambda b: b["first_boot"]["state"] == "done")
    server.stop()
    machine.paths.reboot_required.touch()
    wait_until(lambda: running.agent._failures > 2)
    server.start()
    server.wait_for_check_in(lambda b: b["reboot_required"])


def test_lost_replies_neither_lose_an_outcome_nor_look_like_a_clone(
    server, machine, start_agent
) -> None:
    machine.seed(server, token="t-1")
    start_agent(machine)
    server.wait_for_check_in(lambda b: b["first_boot"]["state"] == "done")
    server.lose_replies = 4
    server.send("k/1", "report")
    server.outcome("k/1")
    server.wait_for(lambda: not server.commands)
    assert not (machine.paths.state / "identity.conflict.json").exists()


def test_an_outcome_is_repeated_until_a_reply_has_come_and_then_no_more(
    server, machine, start_agent
) -> None:
    machine.seed(server, token="t-1")
    server.poll = {"mode": "long", "seconds": 50}
    start_agent(machine)
    server.wait_for(lambda: server.polls_open)
    server.send("k/1", "report")
    server.outcome("k/1")
    server.wait_for(lambda: not server.commands)
    server.send("k/2", "report")
    server.outcome("k/2")
    last = [b for _, b in server.seen if b.get("done")][-1]
    assert [each["key"] for each in last["done"]] == ["k/2"]


def test_a_clone_is_found_its_identity_set_aside_and_a_token_of_its_own_heals_it(
    server, make_machine, machine, start_agent, wait_until
) -> None:
    machine.seed(server, token="t-1")
    first = start_agent(machine)
    server.wait_for_check_in(lambda b: True)
    first.stop()
    clone = make_machine("clone")
    (clone.paths.state / "identity.json").write_bytes(
        (machine.paths.state / "identity.json").read_bytes()
    )
    clone.seed(server)  # Its own uuid, no token.
    start_agent(clone)
    wait_until((clone.paths.state / "identity.conflict.json").exists)
    assert not (clone.paths.state / "identity.json").exists()
    clone.seed(server, token="t-2", name="web-1")
    server.wait_for_check_in(lambda b: b["uuid"] == clone.uuid and "m_web-1" in server.uuids)
    wait_until(lambda: not (clone.paths.state / "identity.conflict.json").exists())


def test_an_identity_the_server_does_not_know_enrols_again_with_the_seeds_token(
    server, machine, start_agent
) -> None:
    machine.seed(server, token="t-1")
    start_agent(machine)
    server.wait_for_check_in(lambda b: True)
    server.secrets.clear()
    server.wait_for(lambda: len([n for n, _ in server.seen if n == "enrol"]) == 2)
    seen = len(server.seen)
    server.wait_for(lambda: any(n == "check-in" for n, _ in server.seen[seen:]))


def test_an_identity_written_by_another_process_is_taken_up(
    server, machine, start_agent, wait_until
) -> None:
    """`agent.pyz enrol` beside a running agent that waits for an identity."""
    from upkeep.agent import enrol
    from upkeep.agent.seed import Enrolment

    start_agent(machine)
    (machine.paths.machine_id).write_text(machine.uuid.replace("-", ""))
    server.tokens["t-1"] = "web-0"
    wanted = Enrolment(server.url, server.authority.ca_sha256, "web-0", "t-1")
    enrol.enrol(machine.paths, wanted)
    assert server.wait_for_check_in(lambda b: True)["uuid"] == machine.uuid


def test_an_error_of_the_server_or_of_the_agent_ends_nothing(server, machine, start_agent) -> None:
    machine.seed(server, token="t-1")
    running = start_agent(machine)
    server.wait_for_check_in(lambda b: True)
    for status, kind in ((500, "internal"), (400, "bad_request"), (429, "rate_limited")):
        server.refuse(status, kind)
    server.wait_for(lambda: not server.answer_next)
    # And one of our own: the state directory cannot be written for a while.
    state = machine.paths.state
    os.rename(state, f"{state}.away")
    Path(state).write_text("not a directory")
    server.send("k/1", "report")
    seen = len(server.seen)
    server.wait_for(lambda: len(server.seen) > seen + 2)
    os.unlink(state)
    os.rename(f"{state}.away", state)
    assert server.outcome("k/1")["outcome"] == "succeeded"
    assert running._thread.is_alive()


def test_busy_is_told_and_taken_back(server, machine, start_agent) -> None:
    machine.seed(server, token="t-1")
    start_agent(machine)
    (machine.paths.run / "busy").write_text("nightly report until 06:00\n")
    server.wait_for_check_in(lambda b: b["busy"] == "nightly report until 06:00")
    seen = len(server.seen)
    (machine.paths.run / "busy").unlink()
    server.wait_for(lambda: any(b["busy"] is None for _, b in server.seen[seen:]))


def test_a_wrong_pin_sends_no_token(
    server, machine, start_agent, other_authority, wait_until, capfd
) -> None:
    machine.seed(server, token="t-1", ca_sha256=other_authority.ca_sha256)
    start_agent(machine)
    wait_until(lambda: "is pinned" in capfd.readouterr().err)
    assert server.seen == []


def test_a_server_with_the_right_ca_but_anothers_certificate_gets_nothing(
    server, machine, start_agent, other_authority, wait_until, capfd
) -> None:
    """The CA is public: showing it proves nothing, the certificate must be signed by it."""
    server.context.load_cert_chain(other_authority.file)
    machine.seed(server, token="t-1")
    start_agent(machine)
    wait_until(lambda: "did not sign" in capfd.readouterr().err)
    assert server.seen == []


def test_it_stops_at_once_from_an_open_poll(server, machine, start_agent) -> None:
    """From the second on its connection, which a careless repair would open anew."""
    machine.seed(server, token="t-1")
    server.poll = {"mode": "long", "seconds": 50}
    running = start_agent(machine)
    server.wait_for(lambda: server.polls_open)
    with server.changed:
        server.probe = {"protocol": "tcp", "port": server.port}
        server.changed.notify_all()
    server.wait_for(lambda: len([n for n, _ in server.seen if n == "poll"]) >= 2)
    server.wait_for(lambda: server.polls_open)
    running.stop()
    assert "poll" not in {thread.name for thread in threading.enumerate()}


def test_a_poll_that_fails_is_followed_by_a_check_in_and_new_polls(
    server, machine, start_agent
) -> None:
    """The next heartbeat would be 30 s away; a check-in finds out what is wrong."""
    machine.seed(server, token="t-1")
    server.poll = {"mode": "long", "seconds": 1}
    start_agent(machine)
    server.wait_for(lambda: server.polls_open)
    server.refuse(502, "bad_gateway", poll=True)
    server.wait_for(lambda: not server.answer_next_poll)
    seen = len(server.seen)
    server.wait_for(lambda: [n for n, _ in server.seen[seen:]][:2] == ["check-in", "poll"])


def test_an_outcome_that_was_told_is_no_reason_to_talk_again(
    server, machine, start_agent, fast: Timing, wait_until
) -> None:
    machine.seed(server, token="t-1")
    server.send("k/1", "report")
    # With this gap a check-in that is wrongly due stays due long enough to be seen.
    agent = start_agent(machine, timing=replace(fast, change_gap_s=1.0)).agent
    server.outcome("k/1")
    wait_until(lambda: not agent._work.pending())
    assert not agent._has_reason(agent._identity)


def test_it_stops_at_once_before_any_server(machine, start_agent) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        document = {
            "server": f"https://127.0.0.1:{port}",
            "ca_sha256": "0" * 64,
            "machine": "web-0",
            "token": "t",
            "uuid": machine.uuid,
        }
        (machine.paths.seed / "upkeep.json").write_text(json.dumps(document))
        start_agent(machine).stop()

"""What each command asks of the server, and what it prints of the answer."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import ScriptedServer, run

from upkeep.cli.exit_codes import ExitCode

GROUP: dict[str, Any] = {
    "name": "web",
    "platform": "nspawn",
    "image": "web",
    "capacity": 5,
    "auto_upgrade": True,
    "paused": False,
    "region": "local",
    "probe": {"protocol": "http", "port": 8080, "path": "/health", "interval_ms": 200},
    "machines": {"total": 5, "healthy": 4, "unhealthy": 1, "unknown": 0},
    "versions": {"1.0.0": 3, "1.0.1": 2},
    "policy": {
        "max_batch_percent": 20,
        "bake_time_s": 90,
        "cross_zone": False,
        "checkpoints": [10, 50],
    },
}


def sent(server: ScriptedServer, method: str, path: str, *arguments: str) -> Any:
    """The document that a command sends there."""
    server.asked.clear()
    server.on(method, path, {"id": "x_1", "name": "x"}, 200)
    result = run(*arguments)
    assert result.exit_code == ExitCode.OK, result.output
    return server.only(method, path).document


def test_group_create_sends_what_was_given_and_nothing_else(
    logged_in: ScriptedServer, tmp_path: Path
) -> None:
    assert sent(logged_in, "POST", "/v1/groups", "group", "create", "web") == {
        "name": "web",
        "platform": "nspawn",
    }
    data = tmp_path / "user-data"
    data.write_bytes(b"#!/bin/sh\n\xff")
    document = sent(
        logged_in, "POST", "/v1/groups",
        "group", "create", "web", "--platform", "libvirt", "--image", "web", "--capacity", "5",
        "--zone", "1", "--zone", "2", "--no-auto-upgrade", "--user-data", str(data),
        "--script", f"a={data}", "--script", f"b={data},a",
        "--probe", "http://:8080/health?full=1", "--probe-interval", "200ms",
        "--probe-grace", "PT1M", "--probe-count", "3", "--health-source", "both",
        "--max-batch-percent", "50", "--bake-time", "5m", "--no-auto-rollback", "--notice", "0",
    )  # fmt: skip
    content = base64.b64encode(data.read_bytes()).decode()
    assert document == {
        "name": "web",
        "platform": "libvirt",
        "image": "web",
        "capacity": 5,
        "zones": ["1", "2"],
        "auto_upgrade": False,
        "health_source": "both",
        "user_data": content,
        "scripts": [
            {"name": "a", "content": content, "provision_after": []},
            {"name": "b", "content": content, "provision_after": ["a"]},
        ],
        "probe": {
            "protocol": "http",
            "port": 8080,
            "path": "/health?full=1",
            "interval_ms": 200,
            "grace_period_s": 60,
            "number_of_probes": 3,
        },
        "policy": {
            "max_batch_percent": 50,
            "bake_time_s": 300,
            "auto_rollback": False,
            "notice_s": 0,
        },
    }


def test_group_set_changes_the_pace_of_rollouts(logged_in: ScriptedServer) -> None:
    logged_in.on("GET", "/v1/groups/web", GROUP)
    path = "/v1/groups/web"
    given = ("--checkpoints", "10%, 50", "--checkpoint-bake", "2h", "--ramp", "2d")
    document = sent(logged_in, "PATCH", path, "group", "set", "web", *given)
    pace = {"checkpoints": [10, 50], "checkpoint_bake_s": 7200, "ramp_s": 172_800}
    assert document == {"policy": pace}
    document = sent(logged_in, "PATCH", path, "group", "set", "web", "--checkpoints", "none")
    assert document == {"policy": {"checkpoints": []}}


def test_group_set_changes_one_part_of_the_probe(logged_in: ScriptedServer) -> None:
    logged_in.on("GET", "/v1/groups/web", GROUP)
    path = "/v1/groups/web"
    document = sent(logged_in, "PATCH", path, "group", "set", "web", "--probe-interval", "5s")
    assert document == {
        "probe": {"protocol": "http", "port": 8080, "path": "/health", "interval_s": 5}
    }
    document = sent(logged_in, "PATCH", path, "group", "set", "web", "--probe", "none")
    assert document == {"probe": None}
    document = sent(logged_in, "PATCH", path, "group", "set", "web", "--probe", "tcp://:22")
    assert document == {"probe": {"protocol": "tcp", "port": 22}}
    document = sent(logged_in, "PATCH", path, "group", "set", "web", "--capacity", "0")
    assert document == {"capacity": 0}


def test_group_show_reads_as_a_person_would_say_it(logged_in: ScriptedServer) -> None:
    logged_in.on("GET", "/v1/groups/web", GROUP)
    lines = run("group", "show", "web").stdout.splitlines()
    assert "probe              http://:8080/health every 200ms" in lines
    assert "bake time          1m30s" in lines
    assert "max batch percent  20" in lines
    assert "cross zone         no" in lines
    assert "checkpoints        10 %, 50 %" in lines
    assert "machines           5: 4 healthy, 1 unhealthy" in lines
    assert "versions           3 on 1.0.0, 2 on 1.0.1" in lines


@pytest.mark.parametrize(
    ("path", "arguments"),
    [
        ("/v1/groups/web", ("group", "show", "web")),
        ("/v1/machines/web-0", ("machine", "show", "web-0")),
        ("/v1/machines/web-0/explain", ("explain", "web-0")),
        ("/v1/images/web", ("image", "show", "web")),
        ("/v1/budgets/b", ("budget", "show", "b")),
        ("/v1/rollouts/ro_1", ("rollout", "show", "ro_1")),
        ("/v1/clock", ("clock", "show")),
    ],
)
def test_json_is_the_apis_own_document_and_nothing_else(
    logged_in: ScriptedServer, path: str, arguments: tuple[str, ...]
) -> None:
    document = {"name": "x", "deep": {"ü": [1, None, True]}, "items": []}
    logged_in.on("GET", path, document)
    result = run(*arguments, "--json")
    assert json.loads(result.stdout) == document
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("path", "arguments"),
    [
        ("/v1/groups", ("group", "list")),
        ("/v1/groups/web/story", ("group", "story", "web")),
        ("/v1/groups/web/rollouts", ("rollout", "history", "web")),
        ("/v1/machines", ("machine", "list")),
        ("/v1/rollouts", ("rollout", "list")),
        ("/v1/images", ("image", "list")),
        ("/v1/holds", ("hold", "list")),
        ("/v1/budgets", ("budget", "list")),
        ("/v1/hooks", ("hook", "list")),
        ("/v1/schedules", ("schedule", "list")),
        ("/v1/blackouts", ("blackout", "list")),
        ("/v1/tokens", ("token", "list")),
        ("/v1/audit", ("audit", "list")),
    ],
)
def test_every_list_takes_an_empty_answer_and_shows_json(
    logged_in: ScriptedServer, path: str, arguments: tuple[str, ...]
) -> None:
    page = {"items": [], "next": None}
    logged_in.on("GET", path, page)
    result = run(*arguments)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "Nothing to show.\n")
    result = run(*arguments, "--json")
    assert json.loads(result.stdout) == page


def test_a_list_goes_over_pages_and_says_where_it_goes_on(logged_in: ScriptedServer) -> None:
    from tests.cli.conftest import Asked, Said

    def page(asked: Asked) -> Said:
        after, limit = int(asked.query.get("after", "0")), int(asked.query["limit"])
        assert limit <= 1000
        until = min(after + limit, 2500)
        items = [{"name": f"m-{number}"} for number in range(after, until)]
        next_page = str(until) if until < 2500 else None
        return Said(document={"items": items, "next": next_page})

    logged_in.answers["GET", "/v1/machines"] = page
    whole = json.loads(run("machine", "list", "--limit", "9999", "--json").stdout)
    assert [item["name"] for item in whole["items"]] == [f"m-{number}" for number in range(2500)]
    assert whole["next"] is None
    part = run("machine", "list", "--limit", "1200")
    assert len(part.stdout.splitlines()) == 1201
    assert "--after 1200" in part.stderr
    rest = json.loads(run("machine", "list", "--after", "2490", "--json").stdout)
    assert len(rest["items"]) == 10


def test_filters_are_sent(logged_in: ScriptedServer) -> None:
    logged_in.on("GET", "/v1/machines", {"items": [], "next": None})
    run("machine", "list", "--group", "web", "--state", "unhealthy")
    query = logged_in.only("GET", "/v1/machines").query
    assert query == {"group": "web", "state": "unhealthy", "limit": "1000"}


def test_tables_through_a_pipe_are_columns_and_never_cut(logged_in: ScriptedServer) -> None:
    long = "x" * 300
    items = [
        {"machine": "web-0", "reason": "BUDGET_SPENT", "lifted_by": long, "system": "os_image"},
        {
            "machine": "w",
            "reason": "[bold]NOT MARKUP[/]",
            "lifted_by": "a\x1b[2J\nb",
            "until": None,
        },
    ]
    logged_in.on("GET", "/v1/holds", {"items": items, "next": None})
    lines = run("hold", "list").stdout.splitlines()
    assert len(lines) == 3
    assert lines[1].endswith(long)
    assert "[bold]NOT MARKUP[/]" in lines[2]
    assert lines[2].endswith("a?[2J b")
    assert (
        len(
            {
                line.index(word)
                for line, word in zip(lines, ("REASON", "BUDGET", "[bold]"), strict=True)
            }
        )
        == 1
    )


def test_machine_calls_go_through_the_gate(logged_in: ScriptedServer) -> None:
    for verb in ("restart", "reimage", "stop", "start"):
        path = f"/v1/machines/web-0/{verb}"
        assert sent(logged_in, "POST", path, "machine", verb, "web-0") == {"force": False}
        assert sent(logged_in, "POST", path, "machine", verb, "web-0", "--force") == {"force": True}
    path = "/v1/machines/web-0"
    assert sent(logged_in, "PATCH", path, "machine", "protect", "web-0") == {"protected": True}
    assert sent(logged_in, "PATCH", path, "machine", "unprotect", "web-0") == {"protected": False}
    kept = {"scale_in_protected": True}
    assert sent(logged_in, "PATCH", path, "machine", "keep", "web-0") == kept
    kept = {"scale_in_protected": False}
    assert sent(logged_in, "PATCH", path, "machine", "unkeep", "web-0") == kept
    assert sent(logged_in, "PATCH", path, "machine", "opt-out", "web-0") == {"opted_out": True}
    assert sent(logged_in, "PATCH", path, "machine", "opt-in", "web-0") == {"opted_out": False}


def test_deleting_needs_a_yes_where_nobody_can_be_asked(logged_in: ScriptedServer) -> None:
    result = run("machine", "delete", "web-0")
    assert result.exit_code == ExitCode.USAGE
    assert "--yes" in result.stderr
    assert logged_in.asked == []
    path = "/v1/machines/web-0/delete"
    sent(logged_in, "POST", path, "machine", "delete", "web-0", "--yes")
    logged_in.on("DELETE", "/v1/groups/web", {"name": "web"}, 202)
    assert run("group", "delete", "web", "-y").exit_code == ExitCode.OK


def test_budgets(logged_in: ScriptedServer) -> None:
    document = sent(
        logged_in, "POST", "/v1/budgets",
        "budget", "create", "shop", "--max-down", "10", "--percent", "--per-zone",
        "--group", "web", "--group", "db", "--rate", "5", "--rate-period", "1h",
    )  # fmt: skip
    assert document == {
        "name": "shop",
        "max_down": 10,
        "percent": True,
        "per_zone": True,
        "rate": 5,
        "rate_period_s": 3600,
        "selector": {"groups": ["web", "db"]},
    }
    path = "/v1/budgets/shop"
    document = sent(logged_in, "PATCH", path, "budget", "set", "shop", "--min-available", "2")
    assert document == {"min_available": 2}


def test_blackouts(logged_in: ScriptedServer) -> None:
    document = sent(
        logged_in, "POST", "/v1/blackouts", "blackout", "create", "holidays",
        "--from", "2026-12-24T19:00+01:00", "--to", "2026-12-27T06:00Z", "--group", "web",
    )  # fmt: skip
    assert document == {
        "name": "holidays",
        "opens": "2026-12-24T18:00:00Z",
        "closes": "2026-12-27T06:00:00Z",
        "group": "web",
    }


def test_schedules(logged_in: ScriptedServer) -> None:
    document = sent(
        logged_in, "POST", "/v1/schedules", "schedule", "create", "nights",
        "--starts", "2026-12-24 22:00", "--length", "6h", "--every", "Week Saturday,Sunday",
        "--zone", "Europe/Berlin",
    )  # fmt: skip
    assert document == {
        "name": "nights",
        "starts": "2026-12-24 22:00",
        "length_s": 21_600,
        "recur_every": "Week Saturday,Sunday",
        "zone": "Europe/Berlin",
        "expires": None,
    }
    path = "/v1/schedules/nights"
    document = sent(logged_in, "PATCH", path, "schedule", "set", "nights", "--length", "8h")
    assert document == {"length_s": 28_800}
    document = sent(logged_in, "PATCH", path, "schedule", "set", "nights", "--expires", "never")
    assert document == {"expires": None}
    assert run("schedule", "set", "nights").exit_code == ExitCode.USAGE


def test_approving_names_machines_or_means_all(logged_in: ScriptedServer) -> None:
    path = "/v1/rollouts/ro_g_1/approve"
    some = ("rollout", "approve", "ro_g_1", "--machine", "web-1", "--machine", "web-2")
    assert sent(logged_in, "POST", path, *some) == {"machines": ["web-1", "web-2"]}
    assert sent(logged_in, "POST", path, "rollout", "approve", "ro_g_1") == {}


def test_a_canary_is_promoted(logged_in: ScriptedServer) -> None:
    path = "/v1/rollouts/ro_g_1/promote"
    assert not sent(logged_in, "POST", path, "rollout", "promote", "ro_g_1")


def test_repairs_of_a_group(logged_in: ScriptedServer) -> None:
    path = "/v1/groups/web"
    logged_in.on("GET", path, GROUP)
    on = ("group", "set", "web", "--repair-action", "reimage", "--repair-grace", "20m")
    wanted = {"repair_action": "reimage", "repair_grace_s": 1_200}
    assert sent(logged_in, "PATCH", path, *on) == wanted
    off = ("group", "set", "web", "--repair-action", "none")
    assert sent(logged_in, "PATCH", path, *off) == {"repair_action": None}
    for verb in ("suspend", "resume"):
        assert not sent(
            logged_in, "POST", f"{path}/repairs/{verb}", "group", f"{verb}-repairs", "web"
        )
    logged_in.on("GET", path, GROUP | {"repair_action": "restart", "repair_grace_s": 600})
    assert "restart after 10m" in run("group", "show", "web").stdout


def test_answers_at_lifecycle_hooks(logged_in: ScriptedServer) -> None:
    path = "/v1/hooks/ro_g_1.2/answer"
    assert sent(logged_in, "POST", path, "hook", "approve", "ro_g_1.2") == {"answer": "approved"}
    document = sent(logged_in, "POST", path, "hook", "reject", "ro_g_1.2", "--machine", "web-1")
    assert document == {"answer": "rejected", "machines": ["web-1"]}
    path = "/v1/hooks/ro_g_1.2"
    until = ("--until", "2026-12-24T19:00+01:00")
    document = sent(logged_in, "PATCH", path, "hook", "extend", "ro_g_1.2", *until)
    assert document == {"wait_until": "2026-12-24T18:00:00Z"}


HOOK: dict[str, Any] = {
    "id": "ro_g_1.2",
    "group": "web",
    "rollout": "ro_g_1",
    "about": "batch",
    "wait_until": "2099-01-01T00:00:00Z",
    "silence": "approved",
    "open": True,
    "answer": None,
    "answers": {"web-0": "approved", "web-1": "waiting", "web-2": "waiting"},
}


def test_a_question_shows_who_is_asked_about_and_what_silence_means(
    logged_in: ScriptedServer,
) -> None:
    logged_in.on("GET", "/v1/hooks", {"items": [HOOK], "next": None})
    table = run("hook", "list").stdout
    assert "a batch of 3" in table
    assert "1 approved, 2 waiting" in table
    logged_in.on("GET", "/v1/hooks/ro_g_1.2", HOOK)
    shown = run("hook", "show", "ro_g_1.2").stdout
    assert "open until 2099-01-01 00:00:00Z, no answer is approved" in shown
    assert "web-1" in shown


def test_publishing_sends_the_file_with_its_digest(
    logged_in: ScriptedServer, tmp_path: Path
) -> None:
    file = tmp_path / "web.tar"
    file.write_bytes(b"x" * 3_000_000)
    path = "/v1/images/web/versions/1.0.1/tar"
    logged_in.on("PUT", path, {"version": "1.0.1"})
    result = run("image", "publish", "web", "1.0.1", str(file))
    assert result.exit_code == ExitCode.OK, result.output
    asked = logged_in.only("PUT", path)
    assert asked.body == file.read_bytes()
    assert asked.headers["digest"] == f"sha-256={hashlib.sha256(file.read_bytes()).hexdigest()}"
    assert result.stdout == "Published web 1.0.1 (2.9 MiB).\n"


def test_excluding_a_version(logged_in: ScriptedServer) -> None:
    path = "/v1/images/web/versions/1.0.2"
    assert sent(logged_in, "PATCH", path, "image", "exclude", "web", "1.0.2") == {"excluded": True}
    document = sent(
        logged_in, "PATCH", path, "image", "include", "web", "1.0.2", "--region", "north"
    )
    assert document == {"excluded": False, "regions": ["north"]}


def test_a_token_is_printed_alone_so_that_it_can_be_kept(logged_in: ScriptedServer) -> None:
    logged_in.on("POST", "/v1/tokens", {"id": "t_1", "token": "upk_1.secret"}, 201)
    result = run("token", "create", "ci", "--role", "operator", "--expires-in", "90d")
    assert result.stdout == "upk_1.secret\n"
    assert "not shown again" in result.stderr
    assert logged_in.only("POST", "/v1/tokens").document == {
        "name": "ci",
        "role": "operator",
        "expires_in_s": 7_776_000,
    }


def test_the_clock_says_what_a_step_means(logged_in: ScriptedServer) -> None:
    logged_in.on("GET", "/v1/clock", {"now": "2026-11-24T09:00:00Z", "step_s": None})
    assert "agrees" in run("clock", "show").stdout
    logged_in.on("GET", "/v1/clock", {"now": "2026-11-24T09:00:00Z", "step_s": -120.0})
    stdout = run("clock", "show").stdout
    assert "2m behind" in stdout
    assert "upkeep clock accept" in stdout


def test_names_go_into_paths_as_one_part(logged_in: ScriptedServer) -> None:
    for name in ("../tokens", "a/b", "a?b=c", "a#b", "", "."):
        result = run("group", "show", name)
        assert result.exit_code == ExitCode.USAGE
    assert logged_in.asked == []


def test_an_alarm_is_made_listed_and_deleted(logged_in: ScriptedServer) -> None:
    logged_in.on("POST", "/v1/alarms", {"id": "al_1", "state": "quiet"})
    given = ("--group", "web", "--url", "http://p:9090", "--query", "up == 0", "--action", "halt")
    document = sent(logged_in, "POST", "/v1/alarms", "alarm", "create", "errors", *given)
    assert document == {
        "group": "web", "name": "errors", "url": "http://p:9090", "query": "up == 0",
        "action": "halt",
    }  # fmt: skip
    shown = {
        "id": "al_1", "name": "errors", "group": "web", "action": "halt", "state": "firing",
        "since": "2026-11-27T18:00:00Z", "detail": "job=api is 7",
    }  # fmt: skip
    logged_in.on("GET", "/v1/alarms", {"items": [shown], "next": None})
    lines = run("alarm", "list").stdout.splitlines()
    assert lines[0].split() == ["ID", "NAME", "GROUP", "ACTION", "STATE", "SINCE", "ANSWER"]
    assert "job=api is 7" in lines[1]
    logged_in.on("DELETE", "/v1/alarms/al_1", shown)
    assert run("alarm", "delete", "al_1").stdout.strip() == "Deleted alarm al_1."


def test_a_version_is_made_a_floor_and_is_one_no_more(logged_in: ScriptedServer) -> None:
    path = "/v1/images/web/versions/2.0.0"
    assert sent(logged_in, "PATCH", path, "image", "floor", "web", "2.0.0") == {"floor": True}
    off = sent(logged_in, "PATCH", path, "image", "floor", "web", "2.0.0", "--off")
    assert off == {"floor": False}

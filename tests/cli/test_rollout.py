"""Watching a rollout: the picture, the lines, what wakes it, and how it ends."""

import io
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console
from tests.cli.conftest import Asked, Said, ScriptedServer, problem, run

from upkeep.cli import rollout_follow
from upkeep.cli.exit_codes import ExitCode
from upkeep.cli.rollout_display import picture
from upkeep.cli.rollout_view import RolloutView, counter_line, hold_lines, parse_rollout, title_line

STARTED = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)


def rollout(states: list[str], **more: Any) -> dict[str, Any]:
    """The API's document of a rollout of machines web-0, web-1, ... in these states."""
    return {
        "id": "ro_1",
        "group": "web",
        "system": "os_image",
        "verb": "replace_os_disk",
        "target": "1.0.1",
        "state": "running",
        "paused": False,
        "batch": 1,
        "started_at": STARTED.isoformat(),
        "ended_at": None,
        "code": "",
        "evidence": "",
        "tasks": [
            {
                "machine": f"web-{number}",
                "state": state,
                "batch": 0 if state == "held" else 1,
                "failure": "not_healthy_in_time" if state == "failed" else "",
                "detail": "",
            }
            for number, state in enumerate(states)
        ],
        **more,
    }


def hold(number: int, reason: str = "BUDGET_SPENT", system: str = "os_image") -> dict[str, Any]:
    return {
        "machine": f"web-{number}",
        "system": system,
        "reason": reason,
        "lifted_by": "a place in the budget",
    }


def view(states: list[str], *holds: dict[str, Any], **more: Any) -> RolloutView:
    return parse_rollout(rollout(states, **more), {"items": list(holds), "next": None})


def drawn(shown: RolloutView, *, width: int, height: int, color: bool = False) -> str:
    screen = Console(
        file=io.StringIO(), width=width, height=height, force_terminal=color,
        color_system="standard" if color else None, legacy_windows=False,
    )  # fmt: skip
    screen.print(picture(shown, width=width, height=height))
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


def test_counters_sum_to_the_candidates_in_the_order_of_a_tasks_life() -> None:
    shown = view(["done", "held", "done", "rolling_back", "held", "held"])
    assert counter_line(shown) == "6 machines: 3 held, 2 done, 1 rolling back"
    assert sum(shown.counts().values()) == len(shown.tasks)
    assert counter_line(view(["brand_new_state"])) == "1 machine: 1 brand new state"


def test_the_picture_says_everything_in_words() -> None:
    shown = view(["done", "running", "held", "held"], hold(2), hold(3), paused=True)
    text = drawn(shown, width=80, height=24)
    assert "ro_1: web to 1.0.1, running (paused)" in text
    assert "batch 1  1 of 4" in text
    assert "web-1 running" in text
    assert "BUDGET_SPENT web-2, web-3: a place in the budget" in text
    assert "\x1b" not in text


def test_colours_are_there_where_the_terminal_has_them() -> None:
    assert "\x1b[1;31mfailed" in drawn(view(["failed"]), width=80, height=24, color=True)


@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("height", [8, 24, 50])
def test_the_picture_fits_in_any_terminal(width: int, height: int) -> None:
    states = ["done"] * 400 + ["running", "verifying"] + ["held"] * 598
    shown = view(states, *(hold(number, f"REASON_{number}") for number in range(402, 420)))
    lines = drawn(shown, width=width, height=height).splitlines()
    assert len(lines) < max(height, 13)
    assert all(len(line) <= width for line in lines)
    text = "\n".join(lines)
    assert re.search(r"and \d+ more m", text)
    if width >= 40:
        assert "web-400 running" in text  # What moves is shown before what has been or waits.
        assert "web-401 verifying" in text


def test_holds_of_other_work_and_other_machines_are_not_this_rollouts() -> None:
    shown = view(["held"], hold(0), hold(0, "PAUSED", system="scale"), hold(7))
    assert hold_lines(shown, lines_max=9) == ["BUDGET_SPENT web-0: a place in the budget"]


def test_elapsed_ends_with_the_rollout() -> None:
    now = STARTED + timedelta(minutes=5)
    assert view(["held"]).elapsed_s(now=now) == 300
    ended = view(["done"], ended_at=(STARTED + timedelta(minutes=1)).isoformat())
    assert ended.elapsed_s(now=now) == 60
    assert view(["held"]).elapsed_s(now=STARTED - timedelta(hours=1)) == 0


def test_an_operators_call_is_named_by_what_it_does() -> None:
    assert title_line(view(["running"], target="", verb="restart")) == "ro_1: web restart, running"


class Course:
    """The rollout's documents, one for each look; the last is the end."""

    def __init__(self, server: ScriptedServer, *documents: dict[str, Any]) -> None:
        self._left = list(documents)
        server.answers["GET", "/v1/rollouts/ro_1"] = self.look
        server.on("GET", "/v1/holds", {"items": [], "next": None})

    def look(self, asked: Asked) -> Said:
        document = self._left.pop(0) if len(self._left) > 1 else self._left[0]
        return Said(document=document)


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout_follow, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(rollout_follow, "LOOKS_APART_S", 0.01)
    monkeypatch.setattr(rollout_follow, "LISTEN_AGAIN_AFTER_S", 0.05)


END = {"ended_at": (STARTED + timedelta(minutes=3)).isoformat()}


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("completed", ExitCode.OK),
        ("faulted", ExitCode.ROLLOUT_ENDED_BADLY),
        ("cancelled", ExitCode.ROLLOUT_ENDED_BADLY),
    ],
)
def test_following_ends_as_the_rollout_ends(
    logged_in: ScriptedServer, state: str, code: ExitCode
) -> None:
    Course(
        logged_in,
        rollout(["held", "held"]),
        rollout(["running", "held"]),
        rollout(["failed", "done"], state=state, code="Why", evidence="because", **END),
    )
    result = run("rollout", "show", "ro_1", "--follow")
    assert result.exit_code == code
    told = [line.strip().split("  ", 1)[1] for line in result.stdout.splitlines()]
    assert told == [
        "ro_1: web to 1.0.1, running",
        "2 machines: 2 held",
        "web-0 running (batch 1)",
        "2 machines: 1 held, 1 running",
        f"ro_1: web to 1.0.1, {state}",
        "web-0 failed (batch 1): not_healthy_in_time",
        "web-1 done (batch 1)",
        "2 machines: 1 done, 1 failed",
        "Why: because",
    ]


def test_following_as_json_prints_the_last_document_only(logged_in: ScriptedServer) -> None:
    end = rollout(["done"], state="completed", **END)
    Course(logged_in, rollout(["held"]), end)
    result = run("rollout", "show", "ro_1", "--follow", "--json")
    assert json.loads(result.stdout) == end


def test_an_event_of_the_group_wakes_it_and_one_of_another_does_not(
    logged_in: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout_follow, "LOOK_EVERY_S", 60.0)
    monkeypatch.setattr(rollout_follow, "LOOK_WITH_EVENTS_EVERY_S", 60.0)
    Course(logged_in, rollout(["held"]))
    logged_in.answers["GET", "/v1/events"] = Said(events=["db"])
    result = run("rollout", "show", "ro_1", "--follow", "--timeout", "500ms")
    assert result.exit_code == ExitCode.TIMED_OUT
    assert "It goes on" in result.stderr
    looks = sum(asked.path == "/v1/rollouts/ro_1" for asked in logged_in.asked)
    assert looks == 2  # The first, and the last when the time is up.
    Course(logged_in, rollout(["held"]), rollout(["done"], state="completed", **END))
    logged_in.answers["GET", "/v1/events"] = Said(events=["db", "web"])
    assert run("rollout", "show", "ro_1", "--follow", "--timeout", "20s").exit_code == 0


def test_a_server_that_is_away_for_a_while_is_waited_for(logged_in: ScriptedServer) -> None:
    Course(logged_in, rollout(["held"]))
    looks = 0

    def look(asked: Asked) -> Said:
        nonlocal looks
        looks += 1
        if 2 <= looks <= 5:
            return problem(503, "Not now", "The server restarts.")
        if looks == 1:
            return Said(document=rollout(["held"]))
        return Said(document=rollout(["done"], state="completed", **END))

    logged_in.answers["GET", "/v1/rollouts/ro_1"] = look
    result = run("rollout", "show", "ro_1", "--follow")
    assert result.exit_code == ExitCode.OK
    assert result.stderr.count("Waiting for it") == 1


def test_a_rollout_that_is_not_there_is_not_waited_for(logged_in: ScriptedServer) -> None:
    assert run("rollout", "show", "ro_1", "--follow").exit_code == ExitCode.NOT_FOUND


def test_start_and_restart_ask_for_the_same_thing(logged_in: ScriptedServer) -> None:
    path = "/v1/groups/web/rollouts"
    logged_in.on("POST", path, rollout(["held"]), 202)
    run("rollout", "start", "web", "--version", "1.0.1", "--machine", "web-0", "--force")
    assert logged_in.only("POST", path).document == {
        "version": "1.0.1",
        "machines": ["web-0"],
        "force": True,
    }
    logged_in.asked.clear()
    logged_in.on("GET", "/v1/rollouts/ro_1", rollout(["failed"], state="faulted", **END))
    result = run("rollout", "restart", "ro_1")
    assert result.exit_code == ExitCode.OK
    assert logged_in.only("POST", path).document == {"version": "1.0.1"}
    logged_in.on("GET", "/v1/rollouts/ro_1", rollout(["done"], target="", verb="restart"))
    assert run("rollout", "restart", "ro_1").exit_code == ExitCode.REFUSED


def test_a_model_is_started_and_restarted_while_it_is_the_groups(logged_in: ScriptedServer) -> None:
    path = "/v1/groups/web/rollouts"
    brought = rollout(["failed"], state="faulted", verb="reimage", target="3f2a09c1d4e5", **END)
    logged_in.on("POST", path, brought, 202)
    logged_in.on("GET", "/v1/rollouts/ro_1", brought)
    run("rollout", "start", "web", "--model")
    assert logged_in.only("POST", path).document == {"model": True}
    logged_in.asked.clear()
    logged_in.on("GET", "/v1/groups/web", {"model": "3f2a09c1d4e5"})
    assert run("rollout", "restart", "ro_1").exit_code == ExitCode.OK
    assert logged_in.only("POST", path).document == {"model": True}
    logged_in.on("GET", "/v1/groups/web", {"model": "0123456789ab"})
    refused = run("rollout", "restart", "ro_1")
    assert refused.exit_code == ExitCode.REFUSED
    assert "0123456789ab now" in refused.stderr
    assert "--model" in refused.stderr
    logged_in.on("GET", "/v1/holds", {"items": [], "next": None})
    assert "to model 3f2a09c1d4e5" in run("rollout", "show", "ro_1").stdout


def test_one_look_shows_each_machine_with_what_holds_it(logged_in: ScriptedServer) -> None:
    logged_in.on("GET", "/v1/rollouts/ro_1", rollout(["done", "held"]))
    logged_in.on("GET", "/v1/holds", {"items": [hold(1)], "next": None})
    lines = run("rollout", "show", "ro_1").stdout.splitlines()
    assert "web-1    -      held   BUDGET_SPENT: a place in the budget" in lines
    assert logged_in.only("GET", "/v1/holds").query["group"] == "web"

"""Azure's dialect, asked by hand: doors, paths, errors, pages, operations, counters.

`tests/clients/` has Azure's own clients do the real thing; here is what they never get wrong.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert, update
from tests.api.agent_by_hand import eventually
from tests.api.arm.documents import error

from upkeep.api.arm.rolling_upgrades import CODES, progress
from upkeep.api.arm.values import duration
from upkeep.core.model import RolloutState, System, Verb
from upkeep.core.task import TaskState
from upkeep.store import tables as t
from upkeep.store.database import to_us

VERSION = "api-version=2026-04-01"


@pytest.fixture
def arm(server: Any) -> Any:
    """A scale set `web` of three machines that nobody makes: there is no platform here."""
    client = server.client()
    assert client.post("/v1/images", json={"name": "web"}).status_code == 201
    group = {
        "name": "web",
        "platform": "simulated",
        "scope": "Shop",
        "region": "north",
        "capacity": 3,
        "image": "web",
        "probe": {"protocol": "http", "port": 8080, "path": "/health"},
    }
    made = client.post("/v1/groups", json=group)
    assert made.status_code == 201, made.text
    # A plan that is being made would take what a test writes into the rows for its own.
    eventually(lambda: server.read(lambda c: c.execute(t.groups.select()).one()).wake_at is None)
    return server


def base(server: Any) -> str:
    (found,) = server.client().get("/subscriptions").json()["value"]
    return f"/subscriptions/{found['subscriptionId']}"


def place(server: Any) -> str:
    compute = "providers/Microsoft.Compute"
    return f"{base(server)}/resourceGroups/Shop/{compute}/virtualMachineScaleSets/web"


def test_a_token_of_another_scope_sees_nothing_of_the_set(arm: Any) -> None:
    client = arm.client(arm.token("operator", scope="other"))
    assert error(client.get(place(arm))) == (404, "ResourceNotFound")
    assert error(client.post(f"{place(arm)}/osRollingUpgrade")) == (404, "ResourceNotFound")
    assert client.get(f"{base(arm)}/resourceGroups").json() == {"value": []}


def test_a_write_is_audited(arm: Any) -> None:
    arm.client().post(f"{place(arm)}/rollingUpgrades/cancel")
    entries = arm.client().get("/v1/audit").json()["items"]
    assert any("rollingUpgrades/cancel" in entry["subject"] for entry in entries)


# --- Login ----------------------------------------------------------------------------------------


def log_in(server: Any, **changes: str) -> httpx.Response:
    client_id, _, secret = server.admin.partition(".")
    form = {
        "grant_type": "client_credentials",
        "client_id": client_id,
        "client_secret": secret,
        "scope": f"{server.base_url}/.default",
    }
    return server.client("").post("/adfs/oauth2/token", data=form | changes)


def test_a_token_is_a_service_principal(server: Any) -> None:
    given = log_in(server).json()
    assert given["token_type"] == "Bearer"
    assert server.client(given["access_token"]).get("/subscriptions").status_code == 200


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"client_secret": "of-twenty-letters-and-wrong"}, 401, "invalid_client"),
        ({"client_id": "upk_nobody"}, 401, "invalid_client"),
        ({"client_id": "a person"}, 400, "invalid_client"),
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
    ],
)
def test_who_cannot_log_in_is_told_why(
    server: Any, changes: dict[str, str], status: int, code: str
) -> None:
    answer = log_in(server, **changes)
    assert (answer.status_code, answer.json()["error"]) == (status, code)
    assert answer.json()["error_description"]


# --- Paths and errors -----------------------------------------------------------------------------


def test_paths_are_compared_without_case_and_any_version_is_taken(arm: Any) -> None:
    client = arm.client()
    plain = client.get(f"{place(arm)}?{VERSION}").json()
    assert client.get(f"{place(arm).upper()}/?API-Version=1999-12-31").json() == plain
    assert plain["id"] == place(arm)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("{place}x", "ResourceNotFound"),
        ("{place}/virtualMachines/99", "ResourceNotFound"),
        ("{place}/virtualMachines/-1", "ResourceNotFound"),
        ("{place}/virtualMachines/0x1", "ResourceNotFound"),
        ("{place}/rollingUpgrades/latest", "ResourceNotFound"),
        ("/subscriptions/00000000-0000-0000-0000-000000000000", "ResourceNotFound"),
        ("{base}/providers/Microsoft.Nothing/things", "ResourceNotFound"),
        ("{base}/resourceGroups/none", "ResourceNotFound"),
        (
            "{base}/providers/Microsoft.Compute/locations/north/operations/ro_none",
            "ResourceNotFound",
        ),
    ],
)
def test_what_is_not_there_is_said_in_azures_shape(arm: Any, path: str, code: str) -> None:
    answer = arm.client().get(path.format(place=place(arm), base=base(arm)))
    assert error(answer) == (404, code)
    assert answer.json()["error"]["message"]


def test_a_set_is_in_its_own_resource_group_and_in_no_other(arm: Any) -> None:
    elsewhere = place(arm).replace("/Shop/", "/Office/")
    assert error(arm.client().get(elsewhere)) == (404, "ResourceNotFound")


def test_a_method_that_a_path_does_not_have_names_those_that_it_has(arm: Any) -> None:
    answer = arm.client().delete(f"{place(arm)}/osUpgradeHistory")
    assert error(answer) == (405, "HttpMethodNotAllowed")
    assert answer.json()["error"]["message"] == "send one of GET"


def test_cancelling_nothing_says_the_words_that_clients_compare(arm: Any) -> None:
    answer = arm.client().post(f"{place(arm)}/rollingUpgrades/cancel")
    assert error(answer) == (409, "OperationNotAllowed")
    assert answer.json()["error"]["message"] == "There is no ongoing Rolling Upgrade to cancel."


PIECES = (
    "", "0", "-1", "web", "WEB", "%00", "%ff", "..", "a b", "x" * 300, "'; drop table groups; --",
    "shop", "é", "{set}", "$count", "ro_web_1", "cancel-ro_web_1", "cancel-",
)  # fmt: skip
QUERIES = ("", "?", "?$skiptoken=%00", "?$expand=%ff", "?api-version=%00&$skiptoken=", "?&&=&=",
           "?" + "a=1&" * 200, "?monitor=true")  # fmt: skip
BODIES = (b"", b"{", b"null", b"[[[[", b"\xff\xfe", b"a=b&c=%00", b"{}" * 1_000)


def test_garbage_is_refused_and_changes_nothing(arm: Any) -> None:
    """Every route, with each piece in each of its places."""
    arm.planning = False
    client = arm.client()
    before = everything(arm)
    asked = 0
    for route in arm.app.arm.routes:
        parts = route.path.split("/")[1:]
        for turn, piece in enumerate(PIECES):
            path = "/".join(piece if part.startswith("{") and part != "{subscription}" else part
                            for part in parts)  # fmt: skip
            path = "/" + path.replace("{subscription}", base(arm).rpartition("/")[2])
            answer = client.request(
                ("GET", "POST", "PUT", "PATCH", "DELETE", route.method)[turn % 6],
                path + QUERIES[turn % len(QUERIES)],
                content=BODIES[turn % len(BODIES)],
                headers={"Content-Type": "application/x-www-form-urlencoded"},
            )
            assert answer.status_code < 500, (path, answer.text)
            asked += 1
    assert asked > 300
    assert everything(arm) == before


def everything(server: Any) -> dict[str, list[Any]]:
    """All rows, but for the audit log and the engine's clock."""
    tables = [table for table in t.metadata.sorted_tables if table.name != "audit"]
    rows = server.read(lambda c: {table.name: c.execute(table.select()).all() for table in tables})
    rows["settings"] = [row for row in rows["settings"] if not row.value.isdigit()]
    return dict(rows)


@pytest.mark.parametrize(
    ("verb", "body", "status", "words"),
    [
        ("restart", '{"instanceIds": ["7"]}', 404, "no instance '7'; nothing was done"),
        ("restart", '{"InstanceIds": "7"}', 400, "a list of texts"),
        ("restart", "[]", 400, "the body is a JSON object"),
        ("restart", "{", 400, "must be JSON"),
        ("delete", "{}", 400, "name the instances"),
    ],
)
def test_instances_that_cannot_be_meant_are_refused(
    arm: Any, verb: str, body: str, status: int, words: str
) -> None:
    answer = arm.client().post(f"{place(arm)}/{verb}", content=body)
    assert answer.status_code == status
    assert words in answer.json()["error"]["message"]


def test_what_applies_to_nobody_is_done_at_once(arm: Any) -> None:
    """None of the machines is off."""
    assert arm.client().post(f"{place(arm)}/start").status_code == 200


# --- Lists ----------------------------------------------------------------------------------------


def test_sets_are_listed_by_subscription_group_and_location(arm: Any) -> None:
    client, sets = arm.client(), "providers/Microsoft.Compute/virtualMachineScaleSets"
    compute = f"{base(arm)}/providers/Microsoft.Compute"

    def names(path: str) -> list[str]:
        return [each["name"] for each in client.get(path).json()["value"]]

    assert names(f"{base(arm)}/{sets}") == ["web"]
    assert names(f"{base(arm)}/resourceGroups/shop/{sets}") == ["web"]
    assert names(f"{base(arm)}/resourceGroups/other/{sets}") == []
    assert names(f"{compute}/locations/NORTH/virtualMachineScaleSets") == ["web"]
    assert names(f"{compute}/locations/south/virtualMachineScaleSets") == []


def test_a_long_list_comes_in_pages_that_the_client_follows(arm: Any) -> None:
    row = arm.read(lambda c: c.execute(t.groups.select()).one())
    now = to_us(arm.services.clock.now())
    machines = [
        {
            "id": f"m_{number}", "group_id": row.id, "name": f"web-{number}",
            "lifecycle": "present", "health": "healthy", "health_since": now,
            "watch_from": now, "created_at": now,
        }
        for number in range(1_000, 1_150)
    ]  # fmt: skip
    arm.write(lambda c: c.execute(insert(t.machines), machines))
    client = arm.client()
    page = client.get(f"{place(arm)}/virtualMachines?{VERSION}").json()
    assert len(page["value"]) == 100
    assert page["nextLink"].startswith(f"{arm.base_url}{place(arm)}/virtualMachines?{VERSION}")
    rest = client.get(page["nextLink"]).json()
    names = [each["instanceId"] for each in (*page["value"], *rest["value"])]
    assert "nextLink" not in rest
    assert len(names) == len(set(names)) >= 150


# --- Rolls ----------------------------------------------------------------------------------------


def add_rollout(server: Any, state: RolloutState, **values: Any) -> str:
    """A rollout as a plan would have written it, with a task in each state that there is."""
    rollout = values.setdefault("id", "ro_web_1")
    row = server.read(lambda c: c.execute(t.groups.select()).one())
    now = to_us(server.services.clock.now())
    ended = state in (RolloutState.COMPLETED, RolloutState.CANCELLED, RolloutState.FAULTED)
    plain = {
        "group_id": row.id, "system": System.OS_IMAGE, "target": "1.0.1",
        "verb": Verb.REPLACE_OS_DISK, "policy": row.policy, "size": 3, "state": state,
        "started_by": "platform", "started_at": now, "ended_at": now if ended else None,
    }  # fmt: skip
    tasks = [
        {
            "rollout_id": rollout, "machine_id": f"m_{task}", "state": task,
            "state_since": now, "clock_from": now,
        }
        for task in TaskState
    ]  # fmt: skip
    server.planning = False
    server.write(lambda c: c.execute(insert(t.rollouts).values(**(plain | values))))
    server.write(lambda c: c.execute(insert(t.tasks), tasks))
    return str(rollout)


@pytest.mark.parametrize("state", list(RolloutState))
def test_the_counters_of_a_roll_sum_to_its_candidates_in_each_state(
    arm: Any, state: RolloutState
) -> None:
    add_rollout(arm, state)
    shown = arm.client().get(f"{place(arm)}/rollingUpgrades/latest").json()
    assert shown["id"] == f"{place(arm)}/rollingUpgrades/latest"
    assert shown["properties"]["runningStatus"]["code"] == CODES[state]
    assert sum(shown["properties"]["progress"].values()) == len(TaskState)


@given(st.dictionaries(st.sampled_from([str(s) for s in TaskState]), st.integers(0, 1_000)))
def test_no_candidate_is_counted_twice_or_left_out(counts: dict[str, int]) -> None:
    assert sum(progress(counts).values()) == sum(counts.values())


def test_who_was_left_out_is_pending_and_who_went_back_has_failed() -> None:
    assert progress({"held": 1, "skipped": 2, "cancelled": 4, "rolled_back": 8, "failed": 16}) == {
        "successfulInstanceCount": 0,
        "failedInstanceCount": 24,
        "inProgressInstanceCount": 0,
        "pendingInstanceCount": 7,
    }


OPERATION = "providers/Microsoft.Compute/locations/north/operations"


@pytest.mark.parametrize(
    ("state", "status", "monitor"),
    [
        (RolloutState.RUNNING, "InProgress", 202),
        (RolloutState.ROLLING_BACK, "InProgress", 202),
        (RolloutState.COMPLETED, "Succeeded", 200),
        (RolloutState.CANCELLED, "Canceled", 409),
        (RolloutState.FAULTED, "Failed", 409),
    ],
)
def test_an_operation_is_what_its_roll_is(
    arm: Any, state: RolloutState, status: str, monitor: int
) -> None:
    code = "ImageUnusable" if state is RolloutState.FAULTED else ""
    name = add_rollout(arm, state, code=code, evidence="it does not boot" if code else "")
    client = arm.client()
    polled = client.get(f"{base(arm)}/{OPERATION}/{name}?{VERSION}")
    assert (polled.status_code, polled.json()["status"]) == (200, status)
    assert polled.headers["retry-after"] == "1"
    if code:
        assert polled.json()["error"] == {"code": code, "message": "it does not boot"}
    last = client.get(f"{base(arm)}/{OPERATION}/{name}?{VERSION}&monitor=true")
    assert last.status_code == monitor
    if monitor == 202:
        assert last.headers["location"].startswith(arm.base_url)


def test_a_cancel_is_done_when_its_roll_has_ended(arm: Any) -> None:
    name = add_rollout(arm, RolloutState.RUNNING)
    client = arm.client()
    asked = client.post(f"{place(arm)}/rollingUpgrades/cancel?{VERSION}")
    assert asked.status_code == 202
    poll = asked.headers["azure-asyncoperation"]
    assert client.get(poll).json()["status"] == "InProgress"
    latest = client.get(f"{place(arm)}/rollingUpgrades/latest").json()["properties"]
    assert latest["runningStatus"]["lastAction"] == "Cancel"
    ended = update(t.rollouts).where(t.rollouts.c.id == name)
    values = {"state": "cancelled", "ended_at": to_us(datetime.now(UTC))}
    arm.write(lambda c: c.execute(ended.values(values)))
    assert client.get(poll).json()["status"] == "Succeeded"
    assert client.get(asked.headers["location"]).status_code == 200


def test_history_says_who_started_it_and_what_went_back(arm: Any) -> None:
    add_rollout(arm, RolloutState.FAULTED, started_by="user", code="ImageUnusable", evidence="no")
    (past,) = arm.client().get(f"{place(arm)}/osUpgradeHistory").json()["value"]
    assert past["properties"]["startedBy"] == "User"
    assert past["properties"]["targetImageReference"]["exactVersion"] == "1.0.1"
    assert past["properties"]["rollbackInfo"] == {
        "successfullyRolledbackInstanceCount": 1,
        "failedRolledbackInstanceCount": 1,
    }
    assert past["properties"]["runningStatus"]["endTime"]


@pytest.mark.number("os-image", "history")
def test_history_is_the_last_five_within_two_months(arm: Any) -> None:
    now = arm.services.clock.now()

    def ended(number: int, *, days: int) -> None:
        at = to_us(now - timedelta(days=days))
        add_rollout(arm, RolloutState.COMPLETED, id=f"ro_web_{number}", ended_at=at)

    for number, days in enumerate((1, 2, 60, 63, 64)):
        ended(number, days=days)
    url = f"{place(arm)}/osUpgradeHistory"
    assert len(arm.client().get(url).json()["value"]) == 3
    for number in (5, 6, 7):
        ended(number, days=0)
    assert len(arm.client().get(url).json()["value"]) == 5


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (timedelta(0), "PT0S"),
        (timedelta(minutes=15), "PT15M"),
        (timedelta(hours=1, minutes=30), "PT1H30M"),
        (timedelta(days=2, seconds=5), "PT48H5S"),
    ],
)
def test_lengths_are_written_as_azure_writes_them(length: timedelta, text: str) -> None:
    assert duration(length) == text

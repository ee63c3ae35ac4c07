"""Azure's dialect at the real server: a read of a whole set, every instance's view expanded.

`upkeep serve` with 100,000 machines in 1,000 sets, all its threads on one core; one client on a
kept TLS connection on another core asks for one set after the other, and the second round counts.
Sketch: two queries of 100 rows and 60 KiB of JSON, some 5 ms; the budget is the issue's.
"""

import http.client
import json
import os
import ssl
import time

from bench import big_fleet
from bench.figure import Figure
from bench.server_process import RunningServer, running_server
from bench.workspace import load_now, workspace

READS = 1_000


def measure() -> list[Figure]:
    return measure_reads(groups=big_fleet.GROUPS, reads=READS)


def measure_reads(*, groups: int, reads: int) -> list[Figure]:
    """The bench at any size; the budget is for the full one."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})
    with workspace() as folder:
        database = big_fleet.new_database(folder, groups=groups)
        with running_server(folder, "--platform", "agent_only", core=cores[0]) as server:
            big_fleet.wait_at_rest(database)
            took, size = _reads(server, groups, reads)
        database.close()
    took.sort()
    p50, p99 = (took[int((len(took) - 1) * share)] * 1e3 for share in (0.5, 0.99))
    return [
        Figure(name="arm_read_p99_ms", value=p99, unit="ms", budget=30,
               note=f"{big_fleet.MACHINES_EACH} instances with their views, {size / 1024:.0f} KiB,"
               f" {reads} reads over {groups:,} sets, TLS, one kept connection, server on one"
               f" core; p50 {p50:.1f} ms, longest {took[-1] * 1e3:.0f} ms; {load_now()}"),
    ]  # fmt: skip


def _reads(server: RunningServer, groups: int, reads: int) -> tuple[list[float], int]:
    """Seconds from a request to the end of its answer, and how long an answer is."""
    token = (server.state / "admin-token").read_text().strip()
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
    trust = ssl.create_default_context(cafile=server.ca)
    connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=trust)

    def get(path: str) -> bytes:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status == 200, (path, body)
        return body

    (mine,) = json.loads(get("/subscriptions"))["value"]
    place = (
        f"/subscriptions/{mine['subscriptionId']}/resourceGroups/default"
        "/providers/Microsoft.Compute/virtualMachineScaleSets/web{}/virtualMachines"
        "?$expand=instanceView&api-version=2026-04-01"
    )
    took, body = [], b""
    for number in range(groups):  # Meanwhile a server that has just started begins its watches.
        get(place.format(number))
    for number in range(reads):
        begun = time.perf_counter()
        body = get(place.format(number % groups))
        took.append(time.perf_counter() - begun)
    connection.close()
    assert len(json.loads(body)["value"]) == big_fleet.MACHINES_EACH
    return took, len(body)

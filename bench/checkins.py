"""Agents at the real server: check-ins a second, memory of a large fleet, memory of an idle poll.

`upkeep serve` with 100,000 enrolled machines in its SQLite database, all its threads on one core;
this process plays the agents on another core.  In order:

1. every machine checks in once, in full: the server writes what it has learnt;
2. for some seconds each of the connections sends as soon as it is answered: how many a second;
3. 3,000 a second fall due, answered or not: how long one takes from when it was due;
4. the server's memory, then 20,000 idle long polls, then its memory again.

2 and 3 go round the whole fleet, and nothing that is said is new.  That no check-in writes a row
is asserted by the database's own count of commits, and by the rows before and after.

The sketch behind the budgets: 1,000,000 agents at 5 minutes are 3,333 check-ins a second on a
handful of servers; 100,000 machines are about 4 KiB each of rows' copies in memory; an idle TLS
connection is about 34 KiB of OpenSSL's and uvloop's buffers.
"""

import os
import struct
import time
from pathlib import Path

from sqlalchemy import func, select

from bench import big_fleet
from bench.agent_load import Agents, Answered
from bench.figure import Figure
from bench.server_process import RunningServer, running_server
from bench.workspace import load_now, workspace
from upkeep.api.agents import FILES_RESERVED, WAIT_S_MAX
from upkeep.api.serve_http import raise_file_limit
from upkeep.store import tables as t
from upkeep.store.database import Database

LINKS = 32
FULL_SPEED_S = 10.0
RATE_PER_S = 3_000
AT_RATE_S = 20.0
FIRST_ROUND_S_MAX = 300.0
POLLS = 20_000
# The clock's mark and the times agents were last heard of are written in bulk, however many
# check in; one commit for so many check-ins could only be a write of their own.
CHECK_INS_PER_COMMIT_MIN = 100


def measure() -> list[Figure]:
    return measure_fleet(groups=big_fleet.GROUPS, polls=POLLS)


def measure_fleet(*, groups: int, polls: int, seconds: float = FULL_SPEED_S) -> list[Figure]:
    """The bench at any size; the budgets are for the full one."""
    cores = sorted(os.sched_getaffinity(0))
    polls = min(polls, raise_file_limit() - FILES_RESERVED)
    os.sched_setaffinity(0, {cores[-1]})
    with workspace() as folder:
        database = big_fleet.new_database(folder, groups=groups)
        machines = big_fleet.enrol_all(database, groups=groups)
        with running_server(folder, "--platform", "agent_only", core=cores[0]) as server:
            agents = Agents(machines, ca=server.ca, port=server.port, links=LINKS)
            try:
                figures = _check_ins(server, agents, database, len(machines), seconds)
                figures.append(_poll_figure(server, agents, polls))
            finally:
                agents.close()
        database.close()
    return figures


def _check_ins(
    server: RunningServer, agents: Agents, database: Database, machines: int, seconds: float
) -> list[Figure]:
    first = agents.check_in(at_most=machines, seconds=FIRST_ROUND_S_MAX)
    assert len(first.latencies_s) == machines, "not every machine has checked in once"
    big_fleet.wait_at_rest(database)
    rows, commits, cpu = _rows(database), _commits(server), server.cpu_s()
    fast = agents.check_in(seconds=seconds)
    fast_cpu = server.cpu_s() - cpu
    paced = agents.check_in(seconds=2 * seconds, per_s=RATE_PER_S)
    checked_in = len(fast.latencies_s) + len(paced.latencies_s)
    written = _commits(server) - commits
    assert written * CHECK_INS_PER_COMMIT_MIN <= checked_in, f"{written} commits, {checked_in}"
    assert _rows(database) == rows, "check-ins that said nothing new have changed rows"
    where = f"{machines:,} machines, TLS, {LINKS} kept connections, server on one core"
    cpu_us = fast_cpu / len(fast.latencies_s) * 1e6
    return [
        Figure(name="checkins_per_s", value=fast.per_s, unit="1/s", budget=3_000,
               bound="at_least",
               note=f"{where} ({fast_cpu / fast.seconds:.0%} of it, {cpu_us:.0f} µs each), "
               f"{_story(fast)}; {written} commits in {checked_in:,} check-ins; {load_now()}"),
        Figure(name="checkin_p99_ms", value=paced.quantile_ms(0.99), unit="ms", budget=25,
               note=f"{where}, {RATE_PER_S:,} fall due a second, {_story(paced)}; {load_now()}"),
        Figure(name="checkin_cpu_us", value=cpu_us, unit="us", budget=1e6 / 3_000,
               note="processor time of the server for each check-in, all its threads"),
        Figure(name="checkin_first_per_s", value=first.per_s, unit="1/s", budget=500,
               bound="at_least", note=f"first check-ins, each written; {_story(first)}"),
        Figure(name="server_rss_100k_mib", value=server.memory_kib("VmHWM") / 1024, unit="MiB",
               budget=1_536, note=f"the most it ever had, {machines:,} machines have checked in; "
               f"now {server.memory_kib() / 1024:.0f}"),
    ]  # fmt: skip


def _story(answered: Answered) -> str:
    p50, p99, top = (answered.quantile_ms(share) for share in (0.5, 0.99, 1.0))
    return (
        f"{answered.per_s:,.0f}/s, p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {top:.0f} ms, "
        f"the agents' process used {answered.own_share:.0%} of its core"
    )


def _poll_figure(server: RunningServer, agents: Agents, polls: int) -> Figure:
    before = server.memory_kib()
    begun = time.monotonic()
    agents.open_polls(polls, wait_s=WAIT_S_MAX)
    # The server answers in order of arrival: with these, all polls have been read.
    agents.check_in(at_most=10 * LINKS)
    grown = server.memory_kib() - before
    took = time.monotonic() - begun
    assert agents.polls_answered() == 0, "the server did not keep every poll open"
    return Figure(
        name="long_poll_kib", value=grown / polls, unit="KiB", budget=40,
        note=f"growth of the server with {polls:,} idle polls over TLS, opened in {took:.0f} s",
    )  # fmt: skip


def _commits(server: RunningServer) -> int:
    """SQLite's own count of transactions, in the header of its index of the write-ahead log.

    Source: https://www.sqlite.org/walformat.html, `iChange` at offset 8.
    """
    with Path(server.state / "upkeep.db-shm").open("rb") as file:
        return int(struct.unpack_from("=I", file.read(12), 8)[0])


def _rows(database: Database) -> dict[str, int]:
    """How many rows each table has, and what agents and machines hold but for `seen_at`."""
    with database.read() as connection:
        found = {
            name: int(connection.execute(select(func.count()).select_from(table)).scalar_one())
            for name, table in t.metadata.tables.items()
        }
        for table in (t.agents, t.machines):
            columns = [c for c in table.c if c.name != "seen_at"]
            rows = connection.execute(select(*columns).order_by(*table.primary_key)).all()
            found[f"what {table.name} hold"] = hash(tuple(map(tuple, rows)))
    return found

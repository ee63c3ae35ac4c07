"""The situations that the page must make plain, as rows; each is one function over a `Fleet`."""

from typing import Any

from sqlalchemy import insert

from upkeep.store import tables as t

BATCH_OPEN = "batch 2 ends: 1 of its machines are in hand"
SPENT = "budget web allows 1 down, and 1 are; a machine seen healthy again gives a place back"
EVIDENCE = (
    "1 failed in batch 1 or before (web-0): unhealthy 0:05:00 after it was started. "
    "Rolled back and well again: 1. Machines of the same zones without it: 0 of 5 fell ill."
)


def steady(fleet: Any) -> None:
    fleet.group("web", 6)
    fleet.group("db", 5, version="2.4.0", image_name="postgres")
    rollout = fleet.rollout(
        "1", "web", 6, state="completed", target="1.0.1", ended_at=fleet.ago(300), batch=6
    )
    for n in range(6):
        fleet.task(rollout, f"m_web_{n}", "done", n + 1)
    fleet.tell("web", "rollout ro_web_1 to 1.0.1 begins: 6 machines", "rollout ro_web_1 completed")


def rolling(fleet: Any) -> None:
    fleet.group("web", 6)
    fleet.group("db", 5, version="2.4.0", image_name="postgres")
    rollout = fleet.rollout("2", "web", 6, batch=2)
    fleet.task(rollout, "m_web_0", "done", 1)
    fleet.machine("web-0", image="1.0.2")
    fleet.task(rollout, "m_web_2", "running", 2)
    fleet.machine("web-2", health="initializing", health_since=fleet.ago(1), down=1, in_work=1)
    for n in (1, 3, 4, 5):
        fleet.task(rollout, f"m_web_{n}", "held")
        fleet.hold("web", n, "BATCH_OPEN", BATCH_OPEN)
    fleet.tell(
        "web",
        "rollout ro_web_2 to 1.0.2 begins: 6 machines",
        "batch 1 of ro_web_2: web-0",
        "batch 1 of ro_web_2 is done",
        "batch 2 of ro_web_2: web-2",
    )


def halted(fleet: Any) -> None:
    fleet.group("web", 6)
    fleet.group("db", 5, version="2.4.0", image_name="postgres")
    rollout = fleet.rollout(
        "2", "web", 6, batch=1, state="faulted", guilty=1, ended_at=fleet.ago(3),
        code="MaxUnhealthyUpgradedInstancePercentExceededInRollingUpgrade", evidence=EVIDENCE,
    )  # fmt: skip
    fleet.task(rollout, "m_web_0", "rolled_back", 1, failure="not_healthy_in_time", healed=1)
    for n in range(1, 6):
        fleet.task(rollout, f"m_web_{n}", "cancelled")
    for n in range(6):
        fleet.hold(
            "web", n, "VERSION_BAD",
            f"publish a version after 1.0.2, or restart the rollout: {EVIDENCE}",
        )  # fmt: skip
    fleet.tell(
        "web",
        "rollout ro_web_2 to 1.0.2 begins: 6 machines",
        "batch 1 of ro_web_2: web-0",
        "web-0 failed: unhealthy 0:05:00 after it was started",
        "web-0 goes back to 1.0.1",
        "web-0 is back on 1.0.1 and healthy",
        f"rollout ro_web_2 halted after batch 1: version 1.0.2 is to blame. {EVIDENCE}",
    )


def budget_spent(fleet: Any) -> None:
    fleet.group("web", 6)
    fleet.machine(
        "web-4", health="unhealthy", health_since=fleet.ago(7), down=1,
        health_detail="503 Service Unavailable",
    )  # fmt: skip
    rollout = fleet.rollout("2", "web", 6)
    for n in (0, 1, 2, 3, 5):
        fleet.task(rollout, f"m_web_{n}", "held")
        fleet.hold("web", n, "BUDGET_SPENT", SPENT, budget_id="b_web")
    fleet.tell("web", "rollout ro_web_2 to 1.0.2 begins: 5 machines")


def asks(fleet: Any) -> None:
    """Three rolls that wait for people, and a machine that is being repaired."""
    for number, (name, reason, text) in enumerate(
        (
            ("web", "CANARY", "promote it: upkeep rollout promote ro_web_2, or publish a newer"
             " version"),
            ("shop", "HOOK", "somebody answers for 2 machines of ro_shop_2: upkeep hook list;"
             " without an answer it is approved"),
            ("db", "NEEDS_APPROVAL", "approve it: upkeep rollout approve ro_db_2 --machine NAME,"
             " or all without --machine"),
        )
    ):  # fmt: skip
        fleet.group(name, 6)
        rollout = fleet.rollout("2", name, 6, batch=1 if number == 0 else 0)
        for n in range(6):
            canary = number == 0 and n == 0
            fleet.task(rollout, f"m_{name}_{n}", "done" if canary else "held", int(canary))
            if canary:
                fleet.machine(f"{name}-0", image="1.0.2")
            else:
                until = fleet.ago(-25) if reason == "HOOK" else None
                fleet.hold(name, n, reason, text, until=until)
    fleet.group("office", 5)
    repair = fleet.rollout("7", "office", 1, system="repair", verb="reimage", target="")
    fleet.task(repair, "m_office_3", "running", 1)
    fleet.machine("office-3", health="initializing", health_since=fleet.ago(1), down=1, in_work=1)
    fleet.machine("office-4", health="unhealthy", health_since=fleet.ago(3), down=1)
    fleet.hold(
        "office", 4, "REPAIRS_BUSY",
        "a repair ends: 5 %, at least one, are in repair at a time", system="repair",
    )  # fmt: skip


def paced(fleet: Any) -> None:
    """A rollout that an alarm holds, one that rests, one behind its ramp."""
    text = "alarm errors is quiet; it fires since 2026-11-24 08:48:00Z (job=api is 7)"
    for number, (name, reason, lifted_by) in enumerate(
        (
            ("web", "ALARM", text),
            ("shop", "CHECKPOINT", "1 of 6 machines have it: the rest at 20 % ends"),
            ("db", "RAMP", "its turn comes: 1 of 6 machines may have it by now"),
        )
    ):  # fmt: skip
        fleet.group(name, 6)
        rollout = fleet.rollout("2", name, 6, batch=1)
        fleet.task(rollout, f"m_{name}_0", "done", 1)
        fleet.machine(f"{name}-0", image="1.0.2")
        until = fleet.ago(-40) if number in (1, 2) else None
        for n in range(1, 6):
            fleet.task(rollout, f"m_{name}_{n}", "held")
            fleet.hold(name, n, reason, lifted_by, until=until)
    fleet.alarm("web", "errors", "firing", "job=api is 7")
    fleet.alarm("web", "latency", "unknown", "http://p:9090 does not answer: timed out")
    fleet.alarm("web", "sales", "quiet", "nothing")


MODEL, MODEL_BEFORE = "3f2a09c1d4e5", "a41b77c0e3d9"


def models(fleet: Any) -> None:
    """Changed custom data on its way over one group, waiting in another, bad in a third."""
    fleet.group("web", 6)
    rollout = fleet.rollout("2", "web", 6, verb="reimage", target=MODEL, batch=2)
    fleet.task(rollout, "m_web_0", "done", 1, previous=MODEL_BEFORE)
    fleet.task(rollout, "m_web_1", "running", 2, previous=MODEL_BEFORE)
    fleet.machine("web-1", health="initializing", health_since=fleet.ago(1), down=1, in_work=1)
    for n in range(2, 6):
        fleet.task(rollout, f"m_web_{n}", "held", previous=MODEL_BEFORE)
        fleet.hold("web", n, "BATCH_OPEN", "batch 2 ends: 1 of its machines are in hand")
    fleet.group("shop", 3)
    for n in range(3):
        text = "start a rollout by hand, or set the group's upgrade mode to rolling"
        fleet.hold("shop", n, "MODEL_BY_HAND", text)
    fleet.group("db", 3)
    ended = {"state": "faulted", "ended_at": fleet.ago(2), "guilty": 1, "evidence": EVIDENCE}
    code = "MaxUnhealthyUpgradedInstancePercentExceededInRollingUpgrade"
    bad = fleet.rollout("3", "db", 3, verb="reimage", target=MODEL, batch=1, code=code, **ended)
    fleet.task(bad, "m_db_0", "rolled_back", 1, previous=MODEL_BEFORE, healed=1)
    text = f"change the model, or restart the rollout of model {MODEL}: {EVIDENCE}"
    for n in range(3):
        fleet.hold("db", n, "MODEL_BAD", text)


def domain_lost(fleet: Any) -> None:
    fleet.group("web", 12, in_zones=["1", "2", "3"])
    rollout = fleet.rollout("2", "web", 12, batch=1)
    for n in range(12):
        if n % 3 == 1:
            fleet.machine(
                f"web-{n}", health="unknown", health_since=fleet.ago(4), down=1,
                lost_at=fleet.ago(4), health_detail="connection timed out",
            )  # fmt: skip
        if n < 2:
            fleet.task(rollout, f"m_web_{n}", "done", 1)
            continue
        fleet.task(rollout, f"m_web_{n}", "held")
        fleet.hold(
            "web", n, "DOMAIN_LOST", "zone 2 is lost; 10 minutes after its machines are back"
        )


def machine_unknown(fleet: Any) -> None:
    fleet.group("web", 6)
    fleet.machine(
        "web-3", health="unknown", health_since=fleet.ago(9), down=1,
        health_detail="no answer from the agent or the prober",
    )  # fmt: skip
    fleet.hold("web", 3, "UNREACHABLE", "the agent or the prober reaches the machine again")


def empty(fleet: Any) -> None:
    """Nothing at all."""


def very_many(fleet: Any) -> None:
    """5,000 machines in three zones, in the middle of a rollout, with some of everything."""
    fleet.group("edge", 5_000, in_zones=["a", "b", "c"])
    fleet.group("web", 6)
    rollout = fleet.rollout("7", "edge", 5_000, batch=3)
    tasks, holds = [], []
    for n in range(5_000):
        batch = n // 500 + 1
        state = "done" if batch < 3 else "held"
        if batch == 3:
            state = "running" if n % 5 == 0 else "verifying" if n % 5 == 1 else "baking"
        if n in (77, 410):
            state = "failed"
        tasks.append(
            {
                "rollout_id": rollout, "machine_id": f"m_edge_{n}", "state": state,
                "batch": batch if batch <= 3 else 0, "state_since": fleet.ago(2),
                "clock_from": fleet.ago(2), "previous": "1.0.1",
            }
        )  # fmt: skip
        if state == "held":
            holds.append(
                {
                    "machine_id": f"m_edge_{n}", "system": "os_image", "group_id": "g_edge",
                    "reason": "BATCH_OPEN", "since": fleet.ago(3),
                    "lifted_by": "batch 3 ends: 500 of its machines are in hand",
                }
            )  # fmt: skip
    fleet.write(t.tasks, *tasks)
    fleet.write(t.holds, *holds)
    down = t.machines.c.down
    with fleet.database.write() as connection:
        for n in range(1_000, 1_500):
            if n % 5 < 2:
                connection.execute(
                    t.machines.update()
                    .where(t.machines.c.id == f"m_edge_{n}")
                    .values(health="initializing", health_since=fleet.ago(1), down=1)
                )
        for n in (77, 410, 2_345, 4_001):
            connection.execute(
                t.machines.update()
                .where(t.machines.c.id == f"m_edge_{n}")
                .values({"health": "unhealthy", "health_since": fleet.ago(8), down: 1})
            )
        connection.execute(
            insert(t.budgets).values(
                id="b_all", name="edge-and-web", max_down=600, created_at=fleet.ago(900)
            )
        )


SITUATIONS = {
    "steady": steady,
    "rolling": rolling,
    "halted": halted,
    "budget_spent": budget_spent,
    "asks": asks,
    "paced": paced,
    "models": models,
    "domain_lost": domain_lost,
    "machine_unknown": machine_unknown,
    "empty": empty,
    "very_many": very_many,
}

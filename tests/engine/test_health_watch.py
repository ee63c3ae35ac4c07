"""The watch over health: whose silence counts, and what a probe from before the work is worth."""

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from errno import ENOSPC

from upkeep.core.model import Health, MachineId
from upkeep.engine.fleet_store import Sighting, WatchedMachine
from upkeep.engine.health_watch import DueProbe, HealthWatch
from upkeep.ports import ProbeResult

START = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
M0 = MachineId("m0")
PROBE = {"protocol": "http", "port": 80, "path": "/health", "interval_s": 10}


class Rows:
    """Stands where the store does, and keeps what was seen of each machine."""

    def __init__(self) -> None:
        self.health: dict[str, Health] = {}
        self.machines: list[WatchedMachine] = []
        self.is_full = False

    def watched(self) -> list[WatchedMachine]:
        return [replace(m, health=self.health.get(m.machine, m.health)) for m in self.machines]

    def observe(self, machine: MachineId, sighting: Sighting, *, now: datetime) -> bool:
        if self.is_full:
            raise OSError(ENOSPC, "No space left on device")
        self.health[machine] = sighting.health
        return True


def watched(**changes: object) -> WatchedMachine:
    fields = {
        "machine": M0,
        "address": "127.0.0.2",
        "probe": {},
        "source": "inside",
        "health": Health.HEALTHY,
        "watch_from": START,
        **changes,
    }
    return WatchedMachine(**fields)


def watching(**changes: object) -> tuple[HealthWatch, Rows]:
    rows = Rows()
    rows.machines = [watched(**changes)]
    watch = HealthWatch(rows)
    watch.load(rows.watched(), now=START)
    return watch, rows


def sweep_for(watch: HealthWatch, minutes: float, *, begin: datetime) -> datetime:
    now = begin
    while now < begin + minutes * MINUTE:
        now += 2 * SECOND
        watch.sweep(now=now)
    return now


def test_an_agent_that_misses_three_of_its_intervals_is_not_there() -> None:
    watch, rows = watching()
    watch.heard(M0, now=START, interval=MINUTE)
    now = sweep_for(watch, 3, begin=START)
    assert rows.health == {}
    sweep_for(watch, 1, begin=now)
    assert rows.health == {M0: Health.UNKNOWN}


def test_a_process_that_was_away_itself_calls_nobody_silent() -> None:
    watch, rows = watching()
    watch.heard(M0, now=START, interval=MINUTE)
    now = sweep_for(watch, 1, begin=START)
    woken = now + timedelta(hours=2)  # Suspended, with everything that it should have heard.
    watch.sweep(now=woken)
    watch.heard(M0, now=woken, interval=MINUTE)
    later = sweep_for(watch, 3, begin=woken)
    assert rows.health == {}
    sweep_for(watch, 0.2, begin=later)
    assert rows.health == {M0: Health.UNKNOWN}


def test_what_a_process_remembers_that_was_away_is_worth_nothing() -> None:
    watch, rows = watching(source="outside", probe=PROBE, health=Health.UNHEALTHY)
    watch.sweep(now=START)
    rows.health[M0] = Health.HEALTHY  # Another process watched meanwhile.
    woken = START + timedelta(hours=1)
    watch.reported(M0, Health.HEALTHY, now=woken, interval=MINUTE, detail="reported")
    sweep_for(watch, 1, begin=woken)
    assert rows.health == {M0: Health.HEALTHY}


def test_what_another_process_wrote_last_is_put_right_when_the_rows_are_read_again() -> None:
    watch, rows = watching()
    watch.sweep(now=START)
    rows.health[M0] = Health.UNHEALTHY  # It woke up with an old message in its hands, and died.
    watch.load(rows.watched(), now=START + 30 * SECOND)
    watch.sweep(now=START + 31 * SECOND)
    assert rows.health == {M0: Health.HEALTHY}


def test_a_machine_in_work_is_left_as_the_work_has_it() -> None:
    watch, rows = watching()
    watch.sweep(now=START)
    rows.health[M0] = Health.INITIALIZING
    watch.load(rows.watched(), now=START + 30 * SECOND)
    watch.sweep(now=START + 31 * SECOND)
    assert rows.health == {M0: Health.INITIALIZING}


def test_work_that_ended_by_a_clock_ahead_of_ours_blinds_nobody() -> None:
    watch, rows = watching(source="outside", probe=PROBE)
    ahead = watched(
        source="outside",
        probe=PROBE,
        health=Health.INITIALIZING,
        watch_from=START + timedelta(hours=1),
    )
    watch.update([ahead], now=START + MINUTE)
    probes = [p for p in watch.due(now=START + MINUTE, limit=10) if p.begun_at >= START + MINUTE]
    assert watch.probed(probes[-1], ProbeResult(answered=True, status=200), now=START + MINUTE)
    assert rows.health == {M0: Health.HEALTHY}


def test_a_short_delay_is_no_absence() -> None:
    watch, rows = watching()
    watch.heard(M0, now=START, interval=MINUTE)
    watch.sweep(now=START + MINUTE)
    watch.sweep(now=START + 2 * MINUTE)
    watch.sweep(now=START + 3.5 * MINUTE)
    assert rows.health == {M0: Health.UNKNOWN}


def test_an_agent_that_promises_to_call_more_often_is_missed_sooner() -> None:
    watch, rows = watching()  # Until it is heard, five minutes is what it is allowed.
    watch.sweep(now=START)
    watch.heard(M0, now=START + 30 * SECOND, interval=MINUTE)
    now = sweep_for(watch, 3.4, begin=START)
    assert rows.health == {}
    sweep_for(watch, 0.2, begin=now)
    assert rows.health == {M0: Health.UNKNOWN}


def test_silence_that_was_forgotten_is_seen_anew() -> None:
    watch, rows = watching()
    watch.heard(M0, now=START, interval=MINUTE)
    now = sweep_for(watch, 4, begin=START)
    watch.heard(M0, now=now, interval=MINUTE)
    assert rows.health == {M0: Health.HEALTHY}
    sweep_for(watch, 4, begin=now)
    assert rows.health == {M0: Health.UNKNOWN}


def test_the_grace_period_ends_without_a_probe() -> None:
    watch, rows = watching(
        source="outside", probe={**PROBE, "grace_period_s": 60}, health=Health.INITIALIZING
    )
    now = sweep_for(watch, 0.9, begin=START)
    assert rows.health == {}
    sweep_for(watch, 0.2, begin=now)
    assert rows.health == {M0: Health.UNHEALTHY}


def test_what_a_full_disk_refused_is_written_when_there_is_room() -> None:
    watch, rows = watching()
    other = watched(machine=MachineId("m1"))
    watch.update([other], now=START)
    rows.is_full = True
    now = START + 20 * MINUTE
    for _ in range(3):
        now += 2 * SECOND
        with suppress(OSError):
            watch.sweep(now=now)
    rows.is_full = False
    watch.sweep(now=now + 2 * SECOND)
    assert rows.health == {M0: Health.UNKNOWN, "m1": Health.UNKNOWN}


def test_a_report_that_a_full_disk_refused_is_not_forgotten() -> None:
    watch, rows = watching()
    watch.sweep(now=START)
    rows.is_full = True
    with suppress(OSError):
        watch.reported(M0, Health.UNHEALTHY, now=START, interval=MINUTE, detail="its own probe")
    rows.is_full = False
    watch.sweep(now=START + 2 * SECOND)
    assert rows.health == {M0: Health.UNHEALTHY}


def test_a_probe_sent_before_the_work_says_nothing_after_it() -> None:
    watch, rows = watching(source="outside", probe=PROBE)
    (probe,) = watch.due(now=START, limit=10)
    watch.update(
        [
            watched(
                source="outside",
                probe=PROBE,
                health=Health.INITIALIZING,
                watch_from=START + 5 * SECOND,
            )
        ],
        now=START + 5 * SECOND,
    )
    assert not watch.probed(probe, ProbeResult(answered=True, status=200), now=START + 6 * SECOND)
    assert rows.health == {}
    later = DueProbe(
        machine=M0,
        address=probe.address,
        settings=probe.settings,
        begun_at=START + 7 * SECOND,
    )
    assert watch.probed(later, ProbeResult(answered=True, status=200), now=START + 8 * SECOND)
    assert rows.health == {M0: Health.HEALTHY}

"""The watch over health: whose silence counts, and what a probe from before the work is worth."""

from datetime import UTC, datetime, timedelta

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

    def observe(self, machine: MachineId, sighting: Sighting, *, now: datetime) -> bool:
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
    watch = HealthWatch(rows)
    watch.load([watched(**changes)], now=START)
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
    assert rows.health == {}
    sweep_for(watch, 2.5, begin=woken)
    assert rows.health == {M0: Health.UNKNOWN}  # Two minutes of silence were left, and passed.


def test_a_short_delay_is_no_absence() -> None:
    watch, rows = watching()
    watch.heard(M0, now=START, interval=MINUTE)
    watch.sweep(now=START + MINUTE)
    watch.sweep(now=START + 2 * MINUTE)
    watch.sweep(now=START + 3.5 * MINUTE)
    assert rows.health == {M0: Health.UNKNOWN}


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

"""What the handlers need of the process around them, in one value.

`upkeep.server` makes it; tests make their own.  Wiring that the maker owes:

    notify = ChangeFeed()
    store = SqlFleetStore(database, on_mark=lambda group: (wake(), notify.changed(group)))
    engine = Engine(store, clock, on_plan=lambda plan: notify.changed(plan.group.id))
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from upkeep.api.certificates import Certificates
from upkeep.api.change_feed import ChangeFeed
from upkeep.catalogue.blobs import BlobStore
from upkeep.core.version import ReplicationState
from upkeep.engine.clock import EngineClock
from upkeep.engine.health_watch import HealthWatch
from upkeep.engine.prometheus import Answer, Prometheus
from upkeep.ports import Ids
from upkeep.store.database import Database
from upkeep.store.fleet import SqlFleetStore


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentTimes:
    """How often agents talk.

    Attributes:
        long_s: how long one long poll stays open.
        interval_s: between two check-ins where long polls are not offered.
        polls_max: long polls open in this process (an idle one costs about 34 KiB, DESIGN §8).
    """

    long_s: int = 50
    interval_s: int = 300
    polls_max: int = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Attributes:
    url: `https://host:port` as machines reach this server.
    state_dir: where this process keeps files of its own (mode 700).
    platforms: the platforms that this server drives, `agent_only` aside.
    ask_alarm: whether a query fires, of the Prometheus at an address; raises CannotAskError.
    network: the addresses that their machines get, as 10.92.0.0/16; empty where it makes none.
    wake: the engine should look for due groups now; from any thread.
    is_ready: the engine's loop has run.
    replication: the state in which a published version begins; REPLICATING where somebody brings
        it to the hypervisors first (`server/staging.py`).
    """

    database: Database
    store: SqlFleetStore
    clock: EngineClock
    watch: HealthWatch
    blobs: BlobStore
    certificates: Certificates
    ids: Ids
    notify: ChangeFeed
    url: str
    state_dir: Path
    platforms: frozenset[str]
    wake: Callable[[], None]
    is_ready: Callable[[], bool]
    agent_times: AgentTimes = field(default_factory=AgentTimes)
    replication: ReplicationState = ReplicationState.COMPLETED
    network: str = ""
    ask_alarm: Callable[[str, str], Answer] = field(default_factory=lambda: Prometheus().ask)

    def announce(self, *groups: str) -> None:
        """Groups were marked by a committed transaction of a handler."""
        for group in groups:
            self.notify.changed(group)
        if groups:
            self.wake()

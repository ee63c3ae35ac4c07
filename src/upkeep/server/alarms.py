"""The alarms in the database, for the loop that asks them."""

from collections.abc import Callable, Sequence

from upkeep.core.alarm import AlarmState
from upkeep.engine.alarms import AskedAlarm
from upkeep.engine.clock import EngineClock
from upkeep.store import alarms
from upkeep.store.database import Database


class StoredAlarms:
    """`engine.alarms.AlarmStore`.

    Args:
        announce: told of the groups that were made due.
    """

    def __init__(
        self, database: Database, clock: EngineClock, announce: Callable[[str], None]
    ) -> None:
        self._database = database
        self._clock = clock
        self._announce = announce

    def alarms(self) -> Sequence[AskedAlarm]:
        with self._database.read() as connection:
            return [
                AskedAlarm(id=row.id, url=row.url, query=row.query, state=AlarmState(row.state))
                for row in alarms.read_all(connection)
            ]

    def tell_alarm(self, alarm: str, state: AlarmState, detail: str) -> None:
        now = self._clock.now()
        with self._database.write() as connection:
            marked = alarms.tell(connection, alarm, state, detail, now=now)
        if marked is not None:
            self._announce(marked)

    def doubt_all(self) -> None:
        """What was answered before this process began says nothing about now.

        In one transaction, before the planner's first look: nobody needs to be told.
        """
        now, text = self._clock.now(), "the server has just started"
        with self._database.write() as connection:
            for row in alarms.read_all(connection):
                alarms.tell(connection, row.id, AlarmState.UNKNOWN, text, now=now)

"""Writes what agents say, from one thread, many agents in one transaction.

One writer at a time is all that SQLite takes; a thread each would only wait for one another.  A
burst (a fleet that starts) is written in transactions of up to a hundred agents, and what does
not fit into the queue is turned away with a time to come again.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from upkeep.api.database_errors import from_database
from upkeep.api.problems import InputError, ProblemKind
from upkeep.store.database import Database

JOBS_PER_TRANSACTION = 100
# A few seconds of work for the writer; more would only let agents wait longer.
JOBS_MAX = 5_000
RETRY_AFTER_S = 15

Job = Callable[[Connection], Any]

log = logging.getLogger("upkeep.api")


class AgentWriter:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._jobs: queue.SimpleQueue[tuple[Job, asyncio.Future[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="agent-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Write what is queued, then end."""
        self._jobs.put(None)
        self._thread.join()

    async def write(self, job: Job) -> Any:
        """What the job returns, once it is committed.

        Raises:
            InputError: too much is queued, or the database cannot be written.
        """
        if self._jobs.qsize() >= JOBS_MAX:
            raise _busy("many machines report at once")
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._jobs.put((job, done))
        return await done

    def _run(self) -> None:
        while (first := self._jobs.get()) is not None:
            batch = [first]
            is_last = False
            while len(batch) < JOBS_PER_TRANSACTION and not self._jobs.empty():
                another = self._jobs.get()
                if another is None:
                    is_last = True
                    break
                batch.append(another)
            self._write(batch)
            if is_last:
                return

    def _write(self, batch: list[tuple[Job, asyncio.Future[Any]]]) -> None:
        try:
            with self._database.write() as connection:
                results = [job(connection) for job, _ in batch]
        except Exception as error:
            if len(batch) > 1:  # One of them spoils it for the others: each by itself.
                for each in batch:
                    self._write([each])
                return
            log.error("agent_write_failed", exc_info=error)
            outage = from_database(error) if isinstance(error, SQLAlchemyError) else None
            refusal = outage or _busy("what this machine reports cannot be written")
            self._tell(batch[0][1], None, refusal)
            return
        for (_, done), result in zip(batch, results, strict=True):
            self._tell(done, result, None)

    def _tell(self, done: asyncio.Future[Any], result: object, error: InputError | None) -> None:
        def settle() -> None:
            if done.done():
                return  # Whoever asked has gone.
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)

        try:
            done.get_loop().call_soon_threadsafe(settle)
        except RuntimeError:
            pass  # The loop is closed: the process ends, and it is written.


def _busy(why: str) -> InputError:
    return InputError(ProblemKind.UNAVAILABLE, f"{why}; come again", retry_after_s=RETRY_AFTER_S)

"""The ids under which Azure's dialect knows this server: one subscription, one tenant.

They are drawn once, at the server's first start, and stay: clients keep them in their own files.
"""

from dataclasses import dataclass
from uuid import uuid4

from sqlalchemy import Connection, select

from upkeep.store import tables as t
from upkeep.store.database import insert_ignoring

_SUBSCRIPTION = "arm_subscription"
_TENANT = "arm_tenant"


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """UUIDs, in lower case."""

    subscription: str
    tenant: str


def ensure(connection: Connection) -> None:
    """Draw them, if nobody has; two servers on one database agree."""
    for key in (_SUBSCRIPTION, _TENANT):
        first = insert_ignoring(connection, t.settings, ["key"])
        connection.execute(first, {"key": key, "value": str(uuid4())})


def find(connection: Connection) -> Directory:
    rows = connection.execute(
        select(t.settings).where(t.settings.c.key.in_((_SUBSCRIPTION, _TENANT)))
    )
    values = {row.key: row.value for row in rows}
    return Directory(subscription=values[_SUBSCRIPTION], tenant=values[_TENANT])

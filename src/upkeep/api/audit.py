"""The audit log: who changed what, from where, and what was answered."""

from datetime import datetime
from typing import Any

from litestar import get
from litestar.di import NamedDependency
from sqlalchemy import Row

from upkeep.api.auth import ADMIN
from upkeep.api.services import Services
from upkeep.api.shapes import After, Limit, Page, View, number_cursor, page_of
from upkeep.store import audit
from upkeep.store.database import from_us


class AuditEntry(View):
    """`verb` is the method, `subject` the path, `detail` what was sent but for secrets."""

    at: datetime
    actor: str
    source: str
    verb: str
    subject: str
    detail: str
    status: int


@get("/v1/audit", opt=ADMIN, sync_to_thread=True)
def list_audit(
    services: NamedDependency[Services], limit: Limit = 100, after: After = None
) -> Page[AuditEntry]:
    """List writes, newest first."""
    with services.database.read() as connection:
        rows, more = audit.read_list(connection, after=number_cursor(after), limit=limit)
    return page_of(rows, more, _view, lambda row: row.id)


ROUTES = [list_audit]


def _view(row: Row[Any]) -> AuditEntry:
    return AuditEntry(
        at=from_us(row.at),
        actor=row.actor,
        source=row.source,
        verb=row.verb,
        subject=row.subject,
        detail=row.detail,
        status=row.status,
    )

"""The engine's time, whether the server's clock agrees, and accepting a step of it."""

from datetime import datetime

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.status_codes import HTTP_200_OK, HTTP_503_SERVICE_UNAVAILABLE

from upkeep.api.auth import ANONYMOUS, OPERATE_ALL, READ
from upkeep.api.services import Services
from upkeep.api.shapes import View
from upkeep.store import groups


class ClockView(View):
    """`step_s`: by how much the server's clock is ahead of what was accepted; null: it agrees."""

    now: datetime
    step_s: int | None


class Readiness(View):
    status: str


@get("/v1/clock", opt=READ, sync_to_thread=True)
def show_clock(services: NamedDependency[Services]) -> ClockView:
    """Show the engine's time."""
    return _view(services)


@post("/v1/clock/accept", opt=OPERATE_ALL, status_code=HTTP_200_OK, sync_to_thread=True)
def accept_clock(services: NamedDependency[Services]) -> ClockView:
    """Say that the server's clock is right after it stepped."""
    services.clock.accept_step()
    now = services.clock.now()
    with services.database.write() as connection:
        marked = groups.mark_all(connection, now=now)
    services.announce(*marked)
    return _view(services)


@get("/v1/healthz", opt=ANONYMOUS, sync_to_thread=False)
def show_readiness(services: NamedDependency[Services]) -> Response[Readiness]:
    """`ok` once the engine's loop has run; before that 503."""
    if services.is_ready():
        return Response(Readiness(status="ok"))
    return Response(Readiness(status="starting"), status_code=HTTP_503_SERVICE_UNAVAILABLE)


ROUTES = [show_clock, accept_clock, show_readiness]


def _view(services: Services) -> ClockView:
    step = services.clock.stepped()
    return ClockView(
        now=services.clock.peek(),
        step_s=None if step is None else round(step.total_seconds()),
    )

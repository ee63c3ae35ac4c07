"""The page's routes; `ROUTES` is what the app mounts.

Every page but the sign-in form needs a token (`upkeep.api.auth`): who has none is sent to the
form, and a fragment or the live line answers 401, which the script turns into the same.
"""

import re
from typing import Annotated, Any
from urllib.parse import urlencode

from litestar import Request, Response, get, post
from litestar.datastructures import Cookie
from litestar.di import NamedDependency
from litestar.enums import RequestEncodingType
from litestar.handlers import HTTPRouteHandler
from litestar.params import Body, FromPath, FromQuery, QueryParameter, SkipValidation
from litestar.response import Redirect, ServerSentEvent

from upkeep.api.auth import ANONYMOUS, COOKIE, READ, Actor, Authenticator
from upkeep.api.events import Streams
from upkeep.api.problems import InputError
from upkeep.web.door import PageServices
from upkeep.web.live import LINES_MAX, changes
from upkeep.web.looks import Look
from upkeep.web.pages import group_page, machine_page, missing, overview_page
from upkeep.web.render import HEADERS, STATIC_FILES, STATIC_TYPES, page, plain

TOKEN_LENGTH_MAX = 400
# How long a browser stays signed in; the token may end sooner.
SIGNED_IN_S = 7 * 24 * 3600

# Where a person may be sent after signing in: our own pages, never another site.
_OWN_PAGE = re.compile(r"/(?:(?:groups|machines)/[A-Za-z0-9._%-]{1,200})?(?:\?[A-Za-z0-9=&._%-]*)?")

_Request = Request[Any, Any, Any]
_Services = NamedDependency[SkipValidation[PageServices]]
_Actor = NamedDependency[SkipValidation[Actor]]
_Streams = NamedDependency[SkipValidation[Streams]]
_Authenticator = NamedDependency[SkipValidation[Authenticator]]


def _to_sign_in(request: _Request, error: InputError) -> Response[Any]:
    """A page without a good token: the form, and afterwards the page that was asked for."""
    if error.status != 401:
        return plain(error.detail, status=error.status)
    back = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return _redirect(f"/login?{urlencode({'back': back})}")


def _refused(request: _Request, error: InputError) -> Response[Any]:
    return plain(error.detail, status=error.status)


def _redirect(path: str, *, cookie: Cookie | None = None) -> Redirect:
    return Redirect(path, status_code=303, headers=HEADERS, cookies=[cookie] if cookie else [])


_PAGE: dict[str, Any] = {
    "opt": READ,
    "sync_to_thread": True,
    "exception_handlers": {InputError: _to_sign_in},
    "include_in_schema": False,
}
_FRAGMENT: dict[str, Any] = {**_PAGE, "exception_handlers": {InputError: _refused}}

_After = Annotated[str, QueryParameter(name="after", max_length=100)]
_Look = Annotated[Look | None, QueryParameter(name="look")]
_From = Annotated[int, QueryParameter(name="from", ge=0, le=10_000_000)]


@get("/", **_PAGE)
def overview(services: _Services, actor: _Actor, after: _After = "") -> Response[str]:
    return overview_page(services, actor.scope, after=after, only=None, whole=True)


@get("/fragments/overview", **_FRAGMENT)
def overview_fragment(
    services: _Services,
    actor: _Actor,
    after: _After = "",
    group: FromQuery[list[str] | None] = None,
) -> Response[str]:
    """The parts of the fleet's page that concern the given groups' ids, or all of them."""
    return overview_page(services, actor.scope, after=after, only=group, whole=False)


@get("/groups/{name:str}", **_PAGE)
def group(
    services: _Services, actor: _Actor, name: FromPath[str], look: _Look = None, start: _From = 0
) -> Response[str]:
    return group_page(services, actor.scope, name, look=look or "", start=start, whole=True)


@get("/fragments/groups/{name:str}", **_FRAGMENT)
def group_fragment(
    services: _Services, actor: _Actor, name: FromPath[str], look: _Look = None, start: _From = 0
) -> Response[str]:
    return group_page(services, actor.scope, name, look=look or "", start=start, whole=False)


@get("/machines/{name:str}", **_PAGE)
def machine(services: _Services, actor: _Actor, name: FromPath[str]) -> Response[str]:
    return machine_page(services, actor.scope, name, whole=True)


@get("/fragments/machines/{name:str}", **_FRAGMENT)
def machine_fragment(services: _Services, actor: _Actor, name: FromPath[str]) -> Response[str]:
    return machine_page(services, actor.scope, name, whole=False)


@get("/live", opt=READ, exception_handlers={InputError: _refused}, include_in_schema=False)
async def live(
    request: _Request,
    services: _Services,
    actor: _Actor,
    authenticator: _Authenticator,
    streams: _Streams,
) -> Response[Any]:
    """The line on which an open page hears of changes."""
    if len(streams.open) >= LINES_MAX:
        return plain("too many pages are open; close some", status=503)

    async def may_go_on() -> bool:
        try:
            await authenticator.identify(request.scope)
        except InputError:
            return False
        return True

    events = changes(services.notify, streams, names_groups=not actor.scope, may_go_on=may_go_on)
    return ServerSentEvent(events, headers=HEADERS)


@get("/login", opt=ANONYMOUS, include_in_schema=False)
async def sign_in_form(
    request: _Request, authenticator: _Authenticator, back: FromQuery[str] = "/"
) -> Response[Any]:
    """The form; whoever is signed in goes on.

    With a click on a link from another site the browser does not send the cookie, so the form's
    script asks for the form once more, from here.
    """
    try:
        await authenticator.identify(request.scope)
    except InputError:
        return page("sign_in.html", back=_own(back), refusal="")
    return _redirect(_own(back))


@post("/login", opt=ANONYMOUS, status_code=200, include_in_schema=False)
async def sign_in(
    authenticator: _Authenticator,
    data: Annotated[dict[str, str], Body(media_type=RequestEncodingType.URL_ENCODED)],
) -> Response[Any]:
    """Put a good token into a cookie that no script and no other site can use."""
    back = _own(data.get("back", "/"))
    token = data.get("token", "").strip()[:TOKEN_LENGTH_MAX]
    try:
        await authenticator.check(token)
    except InputError as error:
        return page("sign_in.html", status=403, back=back, refusal=error.detail)
    return _redirect(back, cookie=_cookie(token, lasts_s=SIGNED_IN_S))


@post("/sign-out", status_code=303, **{**_PAGE, "sync_to_thread": False})
def sign_out() -> Redirect:
    return _redirect("/login", cookie=_cookie("", lasts_s=0))


def _cookie(value: str, *, lasts_s: int) -> Cookie:
    return Cookie(
        key=COOKIE, value=value, path="/", max_age=lasts_s, secure=True, httponly=True,
        samesite="strict",
    )  # fmt: skip


def _own(back: str) -> str:
    return back if _OWN_PAGE.fullmatch(back) else "/"


@get("/static/{name:str}", opt=ANONYMOUS, sync_to_thread=False, include_in_schema=False)
def static_file(name: FromPath[str]) -> Response[Any]:
    content = STATIC_FILES.get(name)
    if content is None:
        return missing("There is no such file")
    # The pages name files with their digest, so one that was kept is never stale.
    headers = {**HEADERS, "Cache-Control": "public, max-age=31536000, immutable"}
    return Response(content, media_type=STATIC_TYPES[name], headers=headers)


ROUTES: list[HTTPRouteHandler] = [
    overview,
    overview_fragment,
    group,
    group_fragment,
    machine,
    machine_fragment,
    live,
    sign_in_form,
    sign_in,
    sign_out,
    static_file,
]

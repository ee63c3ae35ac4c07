"""The page's headers, its queries, and what is not a picture: without a browser."""

import re
import ssl
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from page_world import Fleet, PageServer
from situations import SITUATIONS
from sqlalchemy import event

from upkeep.store.overview import read_overview


def fetch(server: PageServer, path: str, token: str = "") -> tuple[int, dict[str, str], str]:
    """One request, redirects not followed."""
    request = urllib.request.Request(server.url + path)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    context = ssl._create_unverified_context()
    opener = urllib.request.build_opener(
        urllib.request.HTTPSHandler(context=context), _NoRedirects()
    )
    try:
        with opener.open(request, timeout=10) as answer:
            return answer.status, dict(answer.headers), answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read().decode()


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: object, **kwargs: object) -> None:
        return None


POLICY = {
    "default-src 'none'",
    "style-src 'self'",
    "script-src 'self'",
    "img-src 'self' data:",
    "connect-src 'self'",
    "form-action 'self'",
    "frame-ancestors 'none'",
}


def test_every_page_carries_the_policy_and_no_inline_code(
    fleet: Fleet, server: PageServer, token: str
) -> None:
    SITUATIONS["halted"](fleet)
    for path in ("/", "/groups/web", "/machines/web-0", "/login", "/groups/none", "/static/no"):
        _, headers, html = fetch(server, path, "" if path == "/login" else token)
        policy = {part.strip() for part in headers["content-security-policy"].split(";")}
        assert policy >= POLICY, path
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", html), path
        assert not re.search(r"<script(?![^>]*\ssrc=)", html), path


def test_without_a_token_there_is_nothing_to_see(fleet: Fleet, server: PageServer) -> None:
    SITUATIONS["steady"](fleet)
    for path in ("/", "/groups/web", "/machines/web-0"):
        status, headers, html = fetch(server, path)
        assert status == 303
        assert headers["location"].startswith("/login?back=")
        assert "web-0" not in html
    for path in ("/fragments/overview", "/fragments/groups/web", "/fragments/machines/web-0",
                 "/live"):  # fmt: skip
        status, _, html = fetch(server, path)
        assert status == 401
        assert "web-0" not in html


def test_signing_in_never_leads_to_another_site(server: PageServer) -> None:
    for back in ("https://evil.example/", "//evil.example", "/\\evil.example", "/login", "/x"):
        _, _, html = fetch(server, f"/login?back={back}")
        assert 'name="back" value="/"' in html


def test_five_thousand_machines_are_drawn_in_under_a_second(
    fleet: Fleet, server: PageServer, token: str
) -> None:
    SITUATIONS["very_many"](fleet)
    begun = time.monotonic()
    status, _, html = fetch(server, "/", token)
    took = time.monotonic() - begun
    assert status == 200
    assert took < 1
    assert len(html) < 400_000


def test_the_queries_do_not_grow_with_the_fleet(fleet: Fleet) -> None:
    fleet.group("small", 2)
    few = _queries(fleet)
    for n in range(12):
        fleet.group(f"more{n}", 40)
    SITUATIONS["rolling"](fleet)
    assert _queries(fleet) == few <= 14


def _queries(fleet: Fleet) -> int:
    with _counted(fleet) as statements, fleet.database.read() as connection:
        read_overview(connection, now=fleet.now)
    return len(statements)


@contextmanager
def _counted(fleet: Fleet) -> Iterator[list[str]]:
    statements: list[str] = []

    def heard(connection: object, cursor: object, statement: str, *rest: object) -> None:
        if statement.lstrip().upper().startswith("SELECT"):
            statements.append(statement)

    event.listen(fleet.database.engine, "before_cursor_execute", heard)
    yield statements
    event.remove(fleet.database.engine, "before_cursor_execute", heard)

"""Tokens: made and revoked by admins; a secret is shown once."""

from datetime import datetime, timedelta
from typing import Annotated, Any

from litestar import delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from litestar.status_codes import HTTP_200_OK
from msgspec import Meta
from sqlalchemy import Row

from upkeep.api.auth import ADMIN, Authenticator, Role
from upkeep.api.problems import conflict, not_found
from upkeep.api.services import Services
from upkeep.api.shapes import (
    After,
    AnyRequest,
    Body,
    Label,
    Limit,
    Page,
    View,
    note,
    page_of,
    text_cursor,
)
from upkeep.store import tokens
from upkeep.store.database import from_us, from_us_or_none

LIFE_S_MAX = 10 * 366 * 86_400


class TokenNew(Body):
    """`scope` absent: all scopes; `expires_in_s` absent: until it is revoked."""

    name: Label
    role: Role = Role.READER
    scope: Label | None = None
    expires_in_s: Annotated[int, Meta(ge=1, le=LIFE_S_MAX)] | None = None


class TokenView(View):
    id: str
    name: str
    role: Role
    scope: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class NewTokenView(TokenView):
    """`token` is shown this once."""

    token: str


@get("/v1/tokens", opt=ADMIN, sync_to_thread=True)
def list_tokens(
    services: NamedDependency[Services], limit: Limit = 100, after: After = None
) -> Page[TokenView]:
    """List tokens, never their secrets."""
    with services.database.read() as connection:
        rows, more = tokens.read_list(connection, after=text_cursor(after), limit=limit)
    return page_of(rows, more, lambda row: TokenView(**_fields(row)), lambda row: row.id)


@post("/v1/tokens", opt=ADMIN, sync_to_thread=True)
def create_token(
    request: AnyRequest, services: NamedDependency[Services], data: JSONBody[TokenNew]
) -> NewTokenView:
    """Create a token; keep what is answered, it is not shown again."""
    note(request, data)
    now = services.clock.now()
    token_id = services.ids.new("upk")
    life = timedelta(seconds=data.expires_in_s) if data.expires_in_s is not None else None
    with services.database.write() as connection:
        secret = tokens.create(
            connection,
            token_id=token_id,
            name=data.name,
            role=data.role,
            scope=data.scope or "",
            expires_at=now + life if life is not None else None,
            now=now,
        )
        if secret is None:
            raise conflict(f"there is, or was, a token {data.name!r}; give another name")
        row = tokens.find(connection, token_id)
        assert row is not None
    return NewTokenView(**_fields(row), token=f"{token_id}.{secret}")


@delete("/v1/tokens/{token:str}", opt=ADMIN, status_code=HTTP_200_OK, sync_to_thread=True)
def revoke_token(
    services: NamedDependency[Services],
    authenticator: NamedDependency[Authenticator],
    token: FromPath[str],
) -> TokenView:
    """End a token at once."""
    now = services.clock.now()
    with services.database.write() as connection:
        row = tokens.find(connection, token) if "\x00" not in token else None
        if row is None:
            raise not_found(f"there is no token {token!r}; list them with GET /v1/tokens")
        tokens.revoke(connection, token, now=now)
        row = tokens.find(connection, token)
        assert row is not None
    authenticator.forget(token)
    return TokenView(**_fields(row))


ROUTES = [list_tokens, create_token, revoke_token]


def _fields(row: Row[Any]) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "role": Role(row.role),
        "scope": row.scope,
        "created_at": from_us(row.created_at),
        "expires_at": from_us_or_none(row.expires_at),
        "revoked_at": from_us_or_none(row.revoked_at),
    }

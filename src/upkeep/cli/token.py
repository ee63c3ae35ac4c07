"""`upkeep token`: who may speak to the server, in which role."""

from typing import Annotated

import typer

from upkeep.cli.client import Document, connect
from upkeep.cli.options import LIST_ITEMS_DEFAULT, After, Json, Limit, parse_name
from upkeep.cli.output import note, print_answer, print_json, print_page, say
from upkeep.cli.quantities import parse_length_s, show_moment

app = typer.Typer(no_args_is_help=True, help="Tokens: who may speak to the server.")


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who or what will use it.")],
    role: Annotated[
        str, typer.Option(metavar="ROLE", help="reader, operator or admin.")
    ] = "reader",
    scope: Annotated[
        str, typer.Option(metavar="SCOPE", help="Only in this scope; otherwise in all.")
    ] = "",
    expires_in: Annotated[
        float | None,
        typer.Option(parser=parse_length_s, metavar="LENGTH", help="Ends after this: 8h, 90d."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Create a token and show its secret, this once."""
    document: Document = {"name": name, "role": role}
    if scope:
        document["scope"] = scope
    if expires_in is not None:
        document["expires_in_s"] = expires_in
    with connect() as client:
        made = client.post("/v1/tokens", document)
    if as_json:
        print_json(made)
        return
    say(str(made.get("token", "")))
    note("Keep it now: it is not shown again.")


@app.command("list")
def list_tokens(
    limit: Limit = LIST_ITEMS_DEFAULT, after: After = "", as_json: Json = False
) -> None:
    """List tokens; never their secrets."""
    with connect() as client:
        page = client.list("/v1/tokens", limit=limit, after=after)
    print_page(
        {
            "ID": "id",
            "NAME": "name",
            "ROLE": "role",
            "SCOPE": lambda token: token.get("scope") or "all",
            "CREATED": lambda token: show_moment(token.get("created_at")),
            "EXPIRES": lambda token: show_moment(token.get("expires_at")),
            "REVOKED": lambda token: show_moment(token.get("revoked_at")),
        },
        page,
        as_json=as_json,
    )


@app.command("revoke")
def revoke(
    token: Annotated[
        str, typer.Argument(parser=parse_name, metavar="ID", help="From `upkeep token list`.")
    ],
    as_json: Json = False,
) -> None:
    """End a token at once."""
    with connect() as client:
        answer = client.delete(f"/v1/tokens/{token}")
    print_answer(f"Revoked token {token}.", answer, as_json=as_json)

"""`upkeep budget`: how many machines may be down at once, over as many groups as you like."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from upkeep.cli.client import Document, connect
from upkeep.cli.options import (
    LIST_ITEMS_DEFAULT,
    After,
    Json,
    Limit,
    OptionRow,
    parse_name,
    takes_options,
)
from upkeep.cli.output import Columns, print_answer, print_details, print_json, print_page
from upkeep.cli.quantities import show_length

app = typer.Typer(no_args_is_help=True, help="Budgets: how many machines may be down at once.")

Name = Annotated[
    str, typer.Argument(parser=parse_name, metavar="BUDGET", help="The budget's name.")
]

BUDGET_OPTIONS = (
    OptionRow(key="max_down", form="int", help="So many may be down at once.", low=0),
    OptionRow(key="min_available", form="int", help="So many must stay up.", low=0),
    OptionRow(
        key="percent", form="flag", help="The limit is a percentage of the machines selected."
    ),
    OptionRow(key="per_zone", form="flag", help="The limit holds in each zone by itself."),
    OptionRow(
        key="rate", form="int", help="At most so many starts per rate period; 0: any.", low=0
    ),
    OptionRow(key="rate_period", form="length", help="What --rate counts over."),
    OptionRow(key="groups", form="texts", help="Select this group; repeat.", flag="group"),
    OptionRow(key="zones", form="texts", help="Select this zone; repeat.", flag="zone"),
    OptionRow(key="hosts", form="texts", help="Select this host; repeat.", flag="host"),
)
_SELECTOR_KEYS = ("groups", "zones", "hosts")


@app.command("create")
@takes_options(BUDGET_OPTIONS)
def create(name: Name, as_json: Json = False, **options: Any) -> None:
    """Create a budget. With no --group, --zone or --host it selects every machine.

    upkeep budget create shop --max-down 10 --percent --group web --group db
    """
    _check_limit(options, needed=True)
    with connect() as client:
        made = client.post("/v1/budgets", {"name": name, **budget_document(options)})
    print_answer(f"Created budget {name}: {limit_line(made)}.", made, as_json=as_json)


@app.command("list")
def list_budgets(
    limit: Limit = LIST_ITEMS_DEFAULT, after: After = "", as_json: Json = False
) -> None:
    """List budgets."""
    with connect() as client:
        page = client.list("/v1/budgets", limit=limit, after=after)
    columns: Columns = {
        "BUDGET": "name",
        "LIMIT": limit_line,
        "SELECTS": selector_line,
        "RATE": rate_line,
        "USED": used_line,
    }
    print_page(columns, page, as_json=as_json)


@app.command("show")
def show(name: Name, as_json: Json = False) -> None:
    """Show one budget and how much of it is used."""
    with connect() as client:
        budget = client.get(f"/v1/budgets/{name}")
    if as_json:
        print_json(budget)
        return
    print_details(
        {
            "name": budget.get("name"),
            "limit": limit_line(budget),
            "selects": selector_line(budget),
            "rate": rate_line(budget),
            "used": used_line(budget),
        }
    )


@app.command("set")
@takes_options(BUDGET_OPTIONS)
def set_budget(name: Name, as_json: Json = False, **options: Any) -> None:
    """Change a budget; what is not named stays as it is."""
    _check_limit(options, needed=False)
    document = budget_document(options)
    if not document:
        raise typer.BadParameter("nothing to change: name at least one option")
    with connect() as client:
        changed = client.patch(f"/v1/budgets/{name}", document)
    print_answer(f"Changed budget {name}: {limit_line(changed)}.", changed, as_json=as_json)


@app.command("delete")
def delete(name: Name, as_json: Json = False) -> None:
    """Delete a budget; its machines are then bound by their other budgets only."""
    with connect() as client:
        answer = client.delete(f"/v1/budgets/{name}")
    print_answer(f"Deleted budget {name}.", answer, as_json=as_json)


def budget_document(options: dict[str, Any]) -> Document:
    """Only what was given; naming one limit takes the other away."""
    document = {
        f"{row.key}_s" if row.form == "length" else row.key: options[row.key]
        for row in BUDGET_OPTIONS
        if options[row.key] is not None and row.key not in _SELECTOR_KEYS
    }
    selector = {key: options[key] for key in _SELECTOR_KEYS if options[key]}
    return {**document, "selector": selector} if selector else document


def _check_limit(options: dict[str, Any], *, needed: bool) -> None:
    given = [key for key in ("max_down", "min_available") if options[key] is not None]
    if len(given) == 2 or (needed and not given and not options["rate"]):
        raise typer.BadParameter("name one limit: --max-down N or --min-available N")
    if options["rate"] and needed and options["rate_period"] is None:
        raise typer.BadParameter("--rate needs --rate-period, such as 1h")


def limit_line(budget: Mapping[str, Any]) -> str:
    unit = "%" if budget.get("percent") else ""
    where = " in each zone" if budget.get("per_zone") else ""
    if budget.get("max_down") is not None:
        return f"at most {budget['max_down']}{unit} down{where}"
    if budget.get("min_available") is not None:
        return f"at least {budget['min_available']}{unit} up{where}"
    return "no limit"


def selector_line(budget: Mapping[str, Any]) -> str:
    selector = budget.get("selector") or {}
    parts = [f"{key} {' '.join(values)}" for key, values in selector.items() if values]
    return ", ".join(parts) or "every machine"


def rate_line(budget: Mapping[str, Any]) -> str:
    if not budget.get("rate"):
        return ""
    return f"{budget['rate']} per {show_length(budget.get('rate_period_s') or 0)}"


def used_line(budget: Mapping[str, Any]) -> str:
    """How many are down or claimed, of how many selected."""
    if budget.get("used") is None:
        return ""
    return f"{budget['used']} of {budget.get('size', '?')}"

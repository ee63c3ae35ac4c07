"""Options that many commands share, and the table of options that describe a group.

`group create` and `group set` take the same thirty options.  They are rows of `GROUP_OPTIONS`
here, and `takes_options` gives a function that takes them as `**options` the signature that Typer
reads: one place to add an option, and create and set cannot drift apart.
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from upkeep.cli.quantities import parse_length_s

LIST_ITEMS_DEFAULT = 1000  # What a terminal can still be scrolled through.

# What may stand in a path of the API: names, versions and ids; nothing that would bend the path.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,126}")


def parse_name(text: str) -> str:
    """The name as it is.

    Raises:
        typer.BadParameter: it cannot be the name of anything.
    """
    if not _NAME.fullmatch(text):
        raise typer.BadParameter(f"{text!r} is no name: use letters, digits and . _ - only")
    return text


Json = Annotated[
    bool, typer.Option("--json", help="Print the API's own document and nothing else.")
]
Limit = Annotated[int, typer.Option("--limit", min=1, metavar="N", help="Show at most so many.")]
After = Annotated[
    str, typer.Option("--after", metavar="CURSOR", help="Go on where an earlier list ended.")
]
Force = Annotated[
    bool,
    typer.Option("--force", help="Overdraw budgets and pass holds; recorded with your name."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout", parser=parse_length_s, metavar="LENGTH", help="Give up after this long."
    ),
]

_Function = TypeVar("_Function", bound=Callable[..., None])


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionRow:
    """One option that is left alone when it is not given.

    Attributes:
        key: the function sees it under this name.
        form: `flag`, `int`, `text`, `texts`, `file` or `length`.
    """

    key: str
    form: str
    help: str
    flag: str = ""
    metavar: str | None = None
    low: int | None = None
    high: int | None = None


_TYPES: Mapping[str, Any] = {
    "flag": bool | None,
    "int": int | None,
    "text": str | None,
    "texts": list[str] | None,
    "file": Path | None,
    "length": float | None,
    "percents": str | None,
}

MODEL_OPTIONS = (
    OptionRow(key="image", form="text", help="Image that its machines run."),
    OptionRow(key="capacity", form="int", help="How many machines it should have.", low=0),
    OptionRow(key="zones", form="texts", help="Zone to spread over; repeat.", flag="zone"),
    OptionRow(
        key="auto_upgrade",
        form="flag",
        help="Roll out a new image version by itself.",
    ),
    OptionRow(
        key="upgrade_mode",
        form="text",
        help="How changed custom data and scripts reach machines: manual, rolling, automatic.",
        metavar="MODE",
    ),
    OptionRow(key="memory_mib", form="int", help="Memory of each machine.", low=32),
    OptionRow(key="cpus", form="int", help="CPUs of each machine.", low=1),
    OptionRow(
        key="user_data",
        form="file",
        help="File that each new OS disk gets as custom data; run when it begins with #!.",
        metavar="FILE",
    ),
    OptionRow(
        key="scripts",
        form="texts",
        help="Script run once on each new OS disk, after OTHER if named; repeat.",
        flag="script",
        metavar="NAME=FILE[,OTHER]",
    ),
)

REPAIR_OPTIONS = (
    OptionRow(
        key="repair_action",
        form="text",
        help="What is done by itself about a machine that stays unhealthy: restart, reimage,"
        " replace, or none.",
        metavar="ACTION",
    ),
    OptionRow(
        key="repair_grace",
        form="length",
        help="How long it must have been unhealthy, 10m to 90m.",
    ),
)

PROBE_OPTIONS = (
    OptionRow(
        key="probe",
        form="text",
        help="http://:8080/health, https://:443/, tcp://:22, or none.",
        metavar="URL",
    ),
    OptionRow(key="probe_interval", form="length", help="How often to look."),
    OptionRow(
        key="probe_count",
        form="int",
        help="How many answers alike change the verdict.",
        low=1,
        high=24,
    ),
    OptionRow(
        key="probe_grace",
        form="length",
        help="How long a machine may take to answer for the first time.",
    ),
    OptionRow(
        key="probe_rich",
        form="flag",
        help="The answer is a document with the application's own health state.",
    ),
    OptionRow(
        key="health_source",
        form="text",
        help="Who looks: outside (the server), inside (the machine's agent) or both.",
        metavar="WHO",
    ),
)

POLICY_OPTIONS = (
    OptionRow(
        key="max_batch_percent",
        form="int",
        help="Machines upgraded together, in percent of the group; at least one.",
        low=5,
        high=100,
    ),
    OptionRow(
        key="max_unhealthy_percent",
        form="int",
        help="Stop when more of the group than this are unhealthy without a reason.",
        low=5,
        high=100,
    ),
    OptionRow(
        key="max_unhealthy_upgraded_percent",
        form="int",
        help="Stop when more of the upgraded machines than this are unhealthy.",
        low=0,
        high=100,
    ),
    OptionRow(
        key="pause_between_batches",
        form="length",
        help="Wait after each batch.",
    ),
    OptionRow(
        key="health_wait",
        form="length",
        help="How long an upgraded machine may take to be healthy.",
    ),
    OptionRow(
        key="bake_time",
        form="length",
        help="How long it must then stay healthy.",
    ),
    OptionRow(
        key="notice",
        form="length",
        help="Announce the work on a machine this long before.",
    ),
    OptionRow(
        key="drain_timeout",
        form="length",
        help="How long a machine's drain hook may take; 0 is no draining.",
    ),
    OptionRow(
        key="cross_zone",
        form="flag",
        help="A batch may take machines of several zones.",
    ),
    OptionRow(
        key="prioritize_unhealthy",
        form="flag",
        help="Take unhealthy machines first.",
    ),
    OptionRow(
        key="auto_rollback",
        form="flag",
        help="Put a machine that failed back on its previous OS disk.",
    ),
    OptionRow(
        key="rollback_on_breach",
        form="flag",
        help="When the version is at fault, take every upgraded machine back.",
    ),
    OptionRow(
        key="max_surge",
        form="flag",
        help="Make new machines first and delete as many old ones after.",
    ),
    OptionRow(
        key="governs_automatic",
        form="flag",
        help="Let the policy hold for rollouts that begin by themselves; without it they go by the"
        " defaults.",
    ),
    OptionRow(
        key="needs_approval",
        form="flag",
        help="A rollout that begins by itself takes a machine only once it has been approved.",
    ),
    OptionRow(
        key="canary_percent",
        form="int",
        help="Take so many first, and no more until the rollout is promoted; 0 is no canary.",
        low=0,
        high=99,
    ),
    OptionRow(
        key="checkpoints",
        form="percents",
        help="Rest where these shares of the group have the version: 10,50; none rests nowhere.",
        metavar="PERCENTS",
    ),
    OptionRow(
        key="checkpoint_bake",
        form="length",
        help="How long to rest at each checkpoint.",
    ),
    OptionRow(
        key="ramp",
        form="length",
        help="Spread a rollout evenly over so long; 0 does not.",
    ),
    OptionRow(
        key="start_hook_wait",
        form="length",
        help="Ask before a rollout begins by itself, and wait this long; 0 asks nobody.",
    ),
    OptionRow(
        key="start_hook_approves",
        form="flag",
        help="No answer at the start hook means yes.",
    ),
    OptionRow(
        key="batch_hook_wait",
        form="length",
        help="Ask before each batch of such a rollout, and wait this long; 0 asks nobody.",
    ),
    OptionRow(
        key="batch_hook_approves",
        form="flag",
        help="No answer at the batch hook means yes.",
    ),
)

GROUP_OPTIONS = (*MODEL_OPTIONS, *PROBE_OPTIONS, *POLICY_OPTIONS, *REPAIR_OPTIONS)


def takes_options(rows: Sequence[OptionRow]) -> Callable[[_Function], _Function]:
    """Gives a function `**options` one keyword for each row; None where it was not given."""

    def decorate(function: _Function) -> _Function:
        own = list(inspect.signature(function, eval_str=True).parameters.values())
        assert own[-1].kind is inspect.Parameter.VAR_KEYWORD
        parameters = [*own[:-1], *(_parameter(row) for row in rows)]
        function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        function.__annotations__ = {each.name: each.annotation for each in parameters}
        return function

    return decorate


def _parameter(row: OptionRow) -> inspect.Parameter:
    name = "--" + (row.flag or row.key).replace("_", "-")
    names = f"{name}/--no-{name.removeprefix('--')}" if row.form == "flag" else name
    settings: dict[str, Any] = {"help": row.help}
    if row.form in ("text", "texts", "file", "percents"):
        settings["metavar"] = row.metavar or (row.flag or row.key).upper()
    if row.form == "int":
        settings |= {"min": row.low, "max": row.high, "metavar": "N"}
    if row.form == "length":
        settings |= {"parser": parse_length_s, "metavar": "LENGTH"}
    return inspect.Parameter(
        row.key,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[_TYPES[row.form], typer.Option(names, **settings)],
    )

"""Writes docs/cli.md from the commands themselves: `python -m upkeep.cli.reference > docs/cli.md`.

A test compares the file with what this makes, so the page cannot say what the program does not.
"""

from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from upkeep.cli.exit_codes import MEANINGS
from upkeep.cli.main import ORDER, app

INTRODUCTION = """\
# The command line

This page is made from the program: `python -m upkeep.cli.reference > docs/cli.md`.

A noun, then a verb: `upkeep group list`. Every command has `--help`; those that show something
have `--json`, which prints the API's own document ([native-api.md](native-api.md)) and nothing
else on stdout. Notes, progress and errors go to stderr. Through a pipe tables are plain columns
that are never cut. Colours obey `NO_COLOR`. Completion: `upkeep --install-completion`.

Lengths are `30s`, `5m`, `2h`, `1d`, `1h30m` or `PT5M`; a bare number is refused. Moments are
`2026-12-24T18:00Z`, with an offset, `now` or `+2h`. Percentages are whole numbers.

## Which server

| source, the first that knows wins | what |
|---|---|
| `UPKEEP_SERVER`, `UPKEEP_TOKEN`, `UPKEEP_CA` | URL, token, and a file with the CA's certificate |
| `upkeep login` | `~/.config/upkeep/config.toml` (or under `XDG_CONFIG_HOME`), mode 600 |
| on the server itself | address, CA, token: left in `/var/lib/upkeep` (or `UPKEEP_STATE_DIR`) |

A token is only sent to the server it was given for, over TLS, through the pinned CA.

## Exit codes

| code | when |
|---|---|
"""


def render() -> str:
    """The whole page."""
    codes = [f"| {code.value} | {meaning} |" for code, meaning in MEANINGS.items()]
    root: Any = get_command(app)
    sections = [line for name in ORDER for line in _section(root.commands[name], f"upkeep {name}")]
    return INTRODUCTION + "\n".join([*codes, *sections]) + "\n"


def _section(command: Any, path: str) -> Iterator[str]:
    yield from ("", f"## {path}", "", _first_line(command.help))
    if not hasattr(command, "commands"):
        yield from _body(command, path)
        return
    for name, verb in command.commands.items():
        yield from ("", f"### {path} {name}", "", _first_line(verb.help))
        yield from _body(verb, f"{path} {name}")


def _body(command: Any, path: str) -> Iterator[str]:
    """Usage, the rest of the help, and the options as a table."""
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option"]
    usage = " ".join(
        [path, *(_argument(each) for each in arguments), *(["[OPTIONS]"] if options else [])]
    )
    yield from ("", "```", usage, "```")
    for paragraph in (command.help or "").strip().split("\n\n")[1:]:
        text = " ".join(paragraph.split())
        yield from ("", f"`{text}`" if text.startswith("upkeep ") else text)
    shown = [*arguments, *options]
    if not shown:
        return
    yield from ("", "| option | what |", "|---|---|")
    for each in shown:
        yield f"| `{_names(each)}` | {_what(each)} |"


def _argument(parameter: Any) -> str:
    return parameter.metavar if parameter.required else f"[{parameter.metavar}]"


def _names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.metavar)
    names = ", ".join([*parameter.opts, *parameter.secondary_opts])
    if parameter.is_flag:
        return names
    return f"{names} {parameter.metavar}"


def _what(parameter: Any) -> str:
    text = str(parameter.help or "").replace("|", "\\|")
    low, high = parameter.min, parameter.max
    if low is not None and high is not None:
        text += f" {low} to {high}."
    if parameter.param_type_name == "option":
        if parameter.required:
            text += " Needed."
        elif parameter.default and not parameter.is_flag:
            text += f" Default: {parameter.default}."
    return text


def _first_line(text: str | None) -> str:
    return " ".join((text or "").strip().split("\n\n")[0].split())


if __name__ == "__main__":
    print(render(), end="")

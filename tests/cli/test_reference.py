"""docs/cli.md is what the program is; help is quick; every command reads well."""

import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import TOKEN, ScriptedServer, run
from tests.cli.test_rollout import END, Course, rollout
from typer.main import get_command

from upkeep.cli.main import ORDER, app
from upkeep.cli.reference import render

ROOT = Path(__file__).parents[2]
# They serve, play or check something else than the API's documents.
WITHOUT_JSON = {"serve", "simulate"}


def commands() -> list[tuple[str, Any]]:
    root: Any = get_command(app)
    found = []
    for name, command in root.commands.items():
        for verb, below in getattr(command, "commands", {"": command}).items():
            found.append((f"{name} {verb}".strip(), below))
    return found


def test_the_page_is_current() -> None:
    page = (ROOT / "docs/cli.md").read_text()
    assert page == render(), "run: python -m upkeep.cli.reference > docs/cli.md"


def test_every_noun_has_its_place_in_the_help() -> None:
    root: Any = get_command(app)
    assert sorted(ORDER) == sorted(root.commands)


@pytest.mark.parametrize(("name", "command"), commands())
def test_every_command_has_json_and_says_what_each_option_is(name: str, command: Any) -> None:
    flags = {flag for parameter in command.params for flag in parameter.opts}
    assert name in WITHOUT_JSON or "--json" in flags
    assert command.help, name
    for parameter in command.params:
        assert parameter.help, f"{name} {parameter.name}"
        assert parameter.help.rstrip().endswith((".", "]")), f"{name} {parameter.name}"


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from upkeep.cli.main import app\n"
        "try: app(['--help'], prog_name='upkeep')\n"
        "except SystemExit: pass\n"
        "heavy = {'httpx', 'litestar', 'sqlalchemy', 'uvicorn', 'msgspec', 'cryptography',"
        " 'rich.live', 'rich.progress', 'upkeep.core', 'upkeep.server', 'upkeep.sim'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "Usage: upkeep" in done.stdout
    assert done.stderr == "[]\n"


def test_a_simulation_runs_from_here() -> None:
    result = run("simulate", "--seed", "1", "--machines", "3", "--days", "1")
    assert result.exit_code == 0, result.output


def in_a_terminal(server: ScriptedServer, *arguments: str, columns: int, **more: str) -> str:
    """What the installed command writes to a terminal of this width."""
    main, side = pty.openpty()
    environment = {
        **os.environ, "UPKEEP_SERVER": server.url, "UPKEEP_TOKEN": TOKEN,
        "UPKEEP_CA": str(server.ca_file), "COLUMNS": str(columns), "LINES": "24",
        "TERM": "xterm-256color", **more,
    }  # fmt: skip
    environment.pop("CI", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "upkeep", *arguments],
        stdin=side, stdout=side, stderr=side, env=environment,
    )  # fmt: skip
    os.close(side)
    seen = b""
    try:
        while select.select([main], [], [], 20)[0]:
            piece = os.read(main, 65536)
            if not piece:
                break
            seen += piece
    except OSError:
        pass  # The other side has been closed: the command has ended.
    finally:
        os.close(main)
        process.kill()
        process.wait()
    return seen.decode()


def test_on_a_terminal_it_is_a_live_picture(scripted: ScriptedServer) -> None:
    Course(
        scripted,
        rollout(["running", "held"]),
        rollout(["done", "done"], state="completed", **END),
    )
    seen = in_a_terminal(scripted, "rollout", "show", "ro_1", "--follow", columns=40)
    assert "\x1b[" in seen
    assert "█" in seen
    assert "2 of 2" in seen
    assert "completed" in seen


def test_without_colours_the_words_are_all_there(scripted: ScriptedServer) -> None:
    Course(scripted, rollout(["failed"], state="faulted", code="Why", **END))
    seen = in_a_terminal(scripted, "rollout", "show", "ro_1", "-f", columns=60, NO_COLOR="1")
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen)
    assert "web-0 failed" in plain
    assert "Why" in plain
    assert not re.search(r"\x1b\[(\d+;)*[349]\d", seen)  # Bold at most.


def test_a_table_on_a_narrow_terminal_loses_no_text(scripted: ScriptedServer) -> None:
    item = {"machine": "web-0", "reason": "BUDGET_SPENT", "system": "os_image",
            "since": None, "until": None, "lifted_by": "abcdefghij" * 12}  # fmt: skip
    scripted.on("GET", "/v1/holds", {"items": [item], "next": None})
    seen = in_a_terminal(scripted, "hold", "list", columns=60)
    letters = "".join(c for c in seen if c in "abcdefghij")
    assert letters.count("j") >= 12

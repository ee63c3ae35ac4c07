"""How many containers the host has room for, as far as anybody can say beforehand."""

from pathlib import Path

import pytest

from upkeep.server.main import MANY_MACHINES, room_for_machines


@pytest.mark.parametrize(
    ("text", "room"), [("128\n", 32), ("1024\n", 256), ("", MANY_MACHINES), ("x", MANY_MACHINES)]
)
def test_each_machine_takes_four_inotify_instances(tmp_path: Path, text: str, room: int) -> None:
    limit = tmp_path / "max_user_instances"
    limit.write_text(text)
    assert room_for_machines(limit) == room


def test_where_the_kernel_does_not_say_nothing_is_said_against_it(tmp_path: Path) -> None:
    assert room_for_machines(tmp_path / "none") == MANY_MACHINES

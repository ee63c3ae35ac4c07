"""The files of the state directory survive a kill at every step of writing them."""

import json
import os
import signal
import stat
import subprocess
import sys

import pytest

from upkeep.agent import durable, identity, journal
from upkeep.agent.identity import Identity
from upkeep.agent.step import Journal, accept, finish, next_effect
from upkeep.agent.wire import Command, Outcome

IDENTITY = Identity("https://x", "00", "PEM", "web-0", "m_1", "s", "u", "n")

# Writes journal after journal, and is killed inside the n-th file operation of one of them.
CHILD = """
import os, signal, sys
from pathlib import Path
from upkeep.agent import journal, step
from upkeep.agent.wire import Command

state, fatal = Path(sys.argv[1]), int(sys.argv[2])
calls = 0

def deadly(real, when):
    def wrapper(*args, **kwargs):
        global calls
        calls += 1
        if calls == fatal and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        answer = real(*args, **kwargs)
        if calls == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer
    return wrapper

for name in ("open", "fsync", "replace", "close", "fdopen"):
    setattr(os, name, deadly(getattr(os, name), sys.argv[3]))
value = step.Journal()
for n in range(3):
    value = step.accept(value, [Command(f"k/{n}", n, "report")])
    journal.save(state, value)
    sys.stdout.write(f"{n}\\n")
    sys.stdout.flush()
"""
OPERATIONS_MAX = 40  # Of three writes; the last runs end by themselves, which the test checks.


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_every_step_the_journal_is_the_old_one_or_the_new_one(tmp_path, when) -> None:
    endings = set()
    for fatal in range(1, OPERATIONS_MAX):
        state = tmp_path / f"{when}-{fatal}"
        state.mkdir()
        child = subprocess.run(
            [sys.executable, "-S", "-c", CHILD, str(state), str(fatal), when],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            capture_output=True,
            text=True,
            check=False,
        )
        endings.add(child.returncode)
        assert child.returncode in (0, -signal.SIGKILL), child.stderr
        told = len(child.stdout.split())  # Writes that had returned when it died.
        found = journal.load(state)
        assert len(found.entries) in (told, told + 1)
        assert not (state / journal.BAD_FILE_NAME).exists()
        journal.save(state, found)  # What a crash left behind is in nobody's way.
        assert journal.load(state) == found
        if child.returncode == 0:
            break
    assert endings == {0, -signal.SIGKILL}, "the kills did not reach the end of the writes"


def test_a_journal_cut_at_any_byte_is_set_aside_and_begun_anew(tmp_path) -> None:
    value = accept(Journal(), [Command("k", 3, "restart")])
    journal.save(tmp_path, value)
    whole = (tmp_path / journal.FILE_NAME).read_bytes()
    for length in range(len(whole) - 2):
        (tmp_path / journal.FILE_NAME).write_bytes(whole[:length])
        assert journal.load(tmp_path) == Journal()
        assert (tmp_path / journal.BAD_FILE_NAME).read_bytes() == whole[:length]
        assert not (tmp_path / journal.FILE_NAME).exists()


@pytest.mark.parametrize("text", ["[]", "{}", "null x", '{"entries": 1, "fence_max": 0}', "\x00"])
def test_what_is_no_journal_is_set_aside(tmp_path, text: str) -> None:
    (tmp_path / journal.FILE_NAME).write_text(text)
    assert journal.load(tmp_path) == Journal()
    assert (tmp_path / journal.BAD_FILE_NAME).exists()


def test_a_journal_comes_back_as_it_was_written(tmp_path) -> None:
    value = accept(Journal(), [Command("a", 3, "drain", {"timeout_s": 5}), Command("b", 4, "x")])
    value, _ = next_effect(value, boot_id="one")
    value = finish(value, "a", Outcome.FAILED, "ü\ud800 exit 3")
    journal.save(tmp_path, value)
    assert journal.load(tmp_path) == value


def test_the_identity_is_for_root_only_also_when_a_wider_file_was_there(tmp_path) -> None:
    path = tmp_path / identity.FILE_NAME
    path.with_name(path.name + ".new").write_text("left by a crash")
    path.with_name(path.name + ".new").chmod(0o666)
    identity.save(tmp_path, IDENTITY)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert identity.load(tmp_path) == IDENTITY
    assert "PEM" not in repr(IDENTITY)
    assert repr(IDENTITY) == "Identity(m_1 at https://x)"


def test_a_broken_identity_is_set_aside_and_not_lost(tmp_path) -> None:
    (tmp_path / identity.FILE_NAME).write_text(json.dumps({"server": "x"}))
    assert identity.load(tmp_path) is None
    assert (tmp_path / identity.BAD_FILE_NAME).exists()


def test_a_write_that_fails_leaves_the_old_content(tmp_path) -> None:
    path = tmp_path / "file"
    durable.write_whole(path, b"old")
    with pytest.raises(TypeError):
        durable.write_whole(path, "no bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_that_is_too_large_is_not_read_into_memory(tmp_path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 11)
    with pytest.raises(ValueError, match="larger than 10"):
        durable.read_bounded(path, bytes_max=10)

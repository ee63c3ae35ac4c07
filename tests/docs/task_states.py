"""The diagram of docs/task-states.md, made from the table in core/task.py.

Run it to write the page anew: `.venv/bin/python tests/docs/task_states.py`.
"""

from pathlib import Path

from upkeep.core.task import NEXT, TERMINAL, TaskState

PAGE = Path(__file__).parents[2] / "docs" / "task-states.md"

HEAD = """# The states of a task

A task is one machine in one rollout.  Every legal move is in the table `NEXT` of
`src/upkeep/core/task.py`; a move that is not there halts the rollout.  This page is made from that
table by `tests/docs/task_states.py`: change the table, then run that file.

"""


def page() -> str:
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {TaskState.HELD}"]
    lines += [f"    {state} --> {after}: {signal}" for (state, signal), after in NEXT.items()]
    lines += [f"    {state} --> [*]" for state in TaskState if state in TERMINAL]
    lines.append("```")
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())

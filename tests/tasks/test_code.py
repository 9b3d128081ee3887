from __future__ import annotations

import json
from pathlib import Path

import pytest

from itscale.errors import OptionError
from itscale.registry import load_task
from itscale.tasks import CodeTask, Sandbox
from itscale.tasks import sandbox as module

ADD = {
    "task_id": "HumanEval/7",
    "prompt": 'def add(a, b):\n    """The sum."""\n',
    "entry_point": "add",
    "test": "def check(candidate):\n    assert candidate(2, 3) == 5\n    assert candidate(-1, 1) == 0\n",
}
SQUARE = {
    "task_id": 2,
    "text": "Square a number.",
    "test_list": ["assert square(3) == 9", "assert square(0) == 0"],
}


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    """One that works; skips where the machine cannot confine a program."""
    box = Sandbox(seconds=20, cpu_seconds=2)
    try:
        box.check()
    except OptionError as error:
        pytest.skip(f"no sandbox on this machine: {error}")
    return box


def task_of(name: str, record: dict, folder: Path) -> CodeTask:
    file = folder / "problems.jsonl"
    file.write_text(json.dumps(record) + "\n")
    task = load_task(f"{name}:{file}")
    assert isinstance(task, CodeTask)
    return task


@pytest.mark.usefixtures("sandbox")
def test_humaneval_is_checked_by_its_tests(tmp_path: Path):
    """A whole function, or the bare rest of the prompt; wrong ones and those that leave early are wrong."""
    task = task_of("humaneval", ADD, tmp_path)
    [problem] = task.problems(1)
    assert "def add(a, b):" in problem.prompt.question
    assert task.check(problem, "Sure:\n```python\ndef add(a, b):\n    return a + b\n```\nDone.")
    assert task.check(problem, "    return a + b\n")
    for wrong in (
        "```python\ndef add(a, b):\n    return a - b\n```",
        "```python\nimport sys\nsys.exit(0)\n```",
        "```python\nimport os\nos._exit(0)\n```",
        "I cannot.",
        "",
    ):
        assert not task.check(problem, wrong), wrong


@pytest.mark.usefixtures("sandbox")
def test_mbpp_is_checked_by_its_tests(tmp_path: Path):
    """The tests stand in the question, as published; all of them must pass."""
    task = task_of("mbpp", SQUARE, tmp_path)
    [problem] = task.problems(1)
    assert "assert square(3) == 9" in problem.prompt.question
    assert task.check(problem, "```python\ndef square(x):\n    return x * x\n```")
    assert not task.check(problem, "```python\ndef square(x):\n    return 9\n```")


@pytest.mark.parametrize(
    "program",
    [
        "import socket\nsocket.create_connection(('127.0.0.1', 9), 1)",
        "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('8.8.8.8', 53))",
        "open('/etc/passwd').read()",
        "import os\nos.listdir('/root')",
        "open('/tmp/itscale-escaped', 'w')",
        "import os\nos.truncate('/etc/hostname', 0)",
        "open('big', 'wb').write(b'x' * (64 << 20))",
        "bytearray(4 << 30)",
        "import os\nassert os.environ.get('HOME')",
    ],
)
def test_what_is_out_of_reach_raises_in_the_program(program: str, sandbox: Sandbox):
    """Network, other files, big files, much memory, the environment: each fails, and says so."""
    ran = sandbox.run(f"{program}\nprint('escaped')")
    assert ran.exit_code != 0
    assert "escaped\n" not in ran.output
    assert "Error" in ran.output
    assert not Path("/tmp/itscale-escaped").exists()


def test_a_program_without_end_is_ended_with_its_children(sandbox: Sandbox):
    """By processor time, or by the clock when it sleeps; what it started ends too."""
    assert sandbox.run("while True: pass").exit_code != 0
    late = Sandbox(seconds=1.5).run("import os, time\nos.fork()\ntime.sleep(600)")
    assert late.timed_out
    assert late.exit_code != 0


def test_output_is_kept_to_its_end_only(sandbox: Sandbox):
    """A flood costs a bounded amount of memory here."""
    ran = sandbox.run("for i in range(20000): print('x' * 100)\nprint('end')")
    assert ran.output.endswith("end\n")
    assert len(ran.output) <= Sandbox.output_bytes


def test_without_confinement_nothing_is_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A jail that does not close, or another system: the task refuses to start."""
    jail = tmp_path / "jail.py"
    jail.write_text("import sys\nprint('no Landlock')\nsys.exit(97)\n")
    monkeypatch.setattr(module, "_JAIL", jail)
    box = Sandbox(seconds=30)
    for refused in (lambda: box.run("print(1)"), box.check):
        with pytest.raises(OptionError, match="cannot be confined here"):
            refused()
    monkeypatch.setattr(module.sys, "platform", "darwin")
    with pytest.raises(OptionError, match="only be confined on Linux"):
        Sandbox().run("print(1)")

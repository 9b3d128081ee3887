"""How the command line ends early: by Ctrl-C, once or twice, or because nobody reads its output any more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

STOPPABLE = """
import asyncio, atexit, sys, time
from itscale.commands.ending import finished, whole_process

async def work():
    print("begun", flush=True)
    try:
        await asyncio.sleep(60)
    finally:
        print("cleans up", flush=True)
        await asyncio.sleep(0.1)

def leaves():
    print("leaves", flush=True)
    time.sleep(0.3)

class Torn:
    def __del__(self):
        sys.stdout.write("is torn down\\n")
        sys.stdout.flush()
        self.sleep(0.3)

def command():
    atexit.register(leaves)
    time.torn, Torn.sleep = Torn(), time.sleep
    try:
        finished(work())
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)

whole_process(command)
"""


def started(*words: str, **streams: int) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, *words], env=os.environ, text=True, **streams)


@pytest.mark.parametrize(
    ("second", "says"),
    [
        (None, "stopped\n"),
        ("cleans up", "stopped at once\n"),
        ("leaves", "stopped\nstopped at once\n"),
        ("is torn down", "stopped\n"),
    ],
)
def test_whenever_a_second_ctrl_c_comes_the_code_is_130(second: str | None, says: str):
    """The first has the work clean up; a second ends the process then and there, wherever it is by then."""
    process = started("-c", STOPPABLE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    lines = iter(process.stdout)
    assert next(lines) == "begun\n"
    process.send_signal(signal.SIGINT)
    for line in lines:
        if line.strip() == second:
            process.send_signal(signal.SIGINT)
            break
    else:
        assert second is None
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (130, says)


@pytest.mark.parametrize(("words", "unbuffered"), [("list methods", ""), ("list tasks", "1"), ("--help", "")])
def test_a_closed_pipe_ends_a_command_quietly(words: str, unbuffered: str, monkeypatch: pytest.MonkeyPatch):
    """With the code a shell knows from others (128 + SIGPIPE), not a word on standard error."""
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    reads, writes = os.pipe()
    os.close(reads)
    process = started("-m", "itscale.cli", *words.split(), stdout=writes, stderr=subprocess.PIPE)
    os.close(writes)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (141, "")


def test_output_that_goes_nowhere_from_the_start_is_no_failure():
    """`> /dev/null` and `>&-` are wishes, and the exit code is that of the command."""
    words = [sys.executable, "-m", "itscale.cli", "list", "tasks"]
    assert subprocess.run(words, stdout=subprocess.DEVNULL).returncode == 0
    closed = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *words], stderr=subprocess.PIPE)
    assert (closed.returncode, closed.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(("words", "unbuffered"), [("list tasks", ""), ("list tasks", "1"), ("--help", "")])
def test_output_that_finds_no_room_is_one_sentence(
    words: str, unbuffered: str, monkeypatch: pytest.MonkeyPatch
):
    """Whether it is noticed by the command or when the last of it is written."""
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    with Path("/dev/full").open("w") as full:
        process = started("-m", "itscale.cli", *words.split(), stdout=full.fileno(), stderr=subprocess.PIPE)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    [line] = said.splitlines()
    assert line.startswith("error: ")
    assert "No space left on device" in line
    assert "; make room, " in line

"""A program of unknown intent, run in a process of its own with next to nothing in reach.

What holds it (Linux, no privileges needed): a network namespace without any network; a process
namespace, so that everything it started ends with it; Landlock, so that it reads Python's own
installation and writes only in a fresh folder; limits of the system on processor time, memory, file
size, open files and processes; no environment; no new privileges. Where any of these cannot be had,
`check` raises and nothing is run.

What does not: for a user who is root the system does not limit the number of processes (all end with the
program all the same); it shares the kernel, so a kernel fault is a way out, and it can use its processor time
as it likes. Do not run programs of an adversary on a machine you cannot lose.
"""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from itscale.errors import OptionError

__all__ = ["Ran", "Sandbox"]

REFUSED = 97
"""Exit code of a jail that could not be closed."""
_JAIL = Path(__file__).with_name("jail.py")


@dataclass(frozen=True, slots=True)
class Ran:
    """How a program ended."""

    exit_code: int
    """Negative: the signal that ended it."""
    output: str
    """What it printed, both streams, at most `Sandbox.output_bytes`."""
    timed_out: bool


@dataclass(frozen=True)
class Sandbox:
    """How far a program may go."""

    seconds: float = 10.0
    """On the clock."""
    cpu_seconds: int = 5
    memory_mb: int = 512
    file_mb: int = 8
    """Of any one file it writes."""
    processes: int = 8
    output_bytes: int = 65536

    def run(self, program: str) -> Ran:
        """Run Python source and wait for its end.

        Raises:
            OptionError: the program could not be confined; it was not run.
        """
        if sys.platform != "linux":
            raise OptionError(
                f"programs can only be confined on Linux, not on {sys.platform}; run code tasks there"
            )
        limits = [self.cpu_seconds, self.memory_mb, self.file_mb, self.processes]
        with tempfile.TemporaryDirectory(prefix="itscale-") as folder, tempfile.TemporaryFile() as output:
            (Path(folder) / "program.py").write_text(program, encoding="utf-8", errors="replace")
            command = [sys.executable, "-I", "-S", str(_JAIL), folder, *map(str, limits)]
            process = subprocess.Popen(  # noqa: S603  our own interpreter on our own file
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                cwd=folder, env={}, start_new_session=True,
            )  # fmt: skip
            try:
                code, late = process.wait(self.seconds), False
            except subprocess.TimeoutExpired:
                late = True
                process.kill()  # its program dies with it: the jail is the parent of the namespace
                code = process.wait()
            finally:
                process.kill()
            output.seek(0, 2)
            output.seek(max(0, output.tell() - self.output_bytes))
            text = output.read().decode("utf-8", errors="replace")
        if code == REFUSED:
            raise OptionError(
                f"programs cannot be confined here ({text.strip()[-200:]}); "
                "run code tasks on a Linux with user namespaces and Landlock (5.19 or newer)"
            )
        return Ran(code, text, late)

    def check(self) -> None:
        """Hold this machine against what the sandbox needs, once.

        Raises:
            OptionError: something is missing; the message says what.
        """
        _works(self)


@functools.cache
def _works(sandbox: Sandbox) -> None:
    ran = sandbox.run("print('confined')")
    if ran.exit_code or ran.output.strip() != "confined":
        raise OptionError(
            f"a program that prints one word ended with {ran.exit_code} ({ran.output[-99:]!r}); "
            "raise the limits of the sandbox, or run code tasks on another machine"
        )

"""How the process ends before its work is done: on Ctrl-C, or when nobody reads its output any more.

The first Ctrl-C stops the command, which keeps what was done and says so; the second ends the process
at once. A reader who has enough (`itscale list methods | head -1`) is no error and no message.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NoReturn, TypeVar

__all__ = ["NOBODY_READS", "STOPPED_BY_USER", "finished", "whole_process"]

T = TypeVar("T")
STOPPED_BY_USER = 130
"""Exit code after Ctrl-C."""
NOBODY_READS = 141
"""Exit code when the pipe that is written to is closed: what a shell says of a process ended by SIGPIPE."""


class _CtrlC:
    """The process's handler of SIGINT."""

    def __init__(self) -> None:
        self.heard = False
        self.task: asyncio.Task[Any] | None = None
        """What the first one cancels; without it, it raises KeyboardInterrupt wherever the process is."""

    def __call__(self, *_signal: object) -> None:
        if self.heard:
            _end_at_once()
        self.heard = True
        if self.task is None:
            raise KeyboardInterrupt
        self.task.get_loop().call_soon_threadsafe(self.task.cancel)


_CTRL_C = _CtrlC()


def finished(work: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, which also raises KeyboardInterrupt where the process's own handler cancelled it.

    Raises:
        KeyboardInterrupt: on Ctrl-C, when `work` has let go of all it had under way.
    """

    async def stoppable() -> T:
        _CTRL_C.task = asyncio.current_task()
        try:
            return await work
        finally:
            _CTRL_C.task = None

    try:
        return asyncio.run(stoppable())
    except asyncio.CancelledError:
        if _CTRL_C.heard:
            raise KeyboardInterrupt from None
        raise


def whole_process(command: Callable[[], None]) -> None:
    """Run the command line as the process it is, up to its last line of output."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else a shell has it ignored
        signal.signal(signal.SIGINT, _CTRL_C)
        # Where Python takes itself apart its handlers are gone, and the signal's own would end it instead.
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    if sys.stdout is None:  # it was closed from the start
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  for as long as the process is
    output, goes_to = sys.stdout, os.fstat(sys.stdout.fileno())
    try:
        try:
            command()
        finally:
            output.flush()
            # Where a write fails, typer puts something in its place, and rich has it end nowhere.
            if sys.stdout is not output or not os.path.samestat(goes_to, os.fstat(output.fileno())):
                raise BrokenPipeError
    except OSError as error:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, output.fileno())  # for what is still buffered
        os.close(nowhere)
        if isinstance(error, BrokenPipeError):
            sys.exit(NOBODY_READS)
        ended = error.__context__
        if not (isinstance(ended, SystemExit) and ended.code):  # else it was said
            why = error.strerror or error
            sys.stderr.write(f"error: cannot write the output ({why}); make room, or send it elsewhere\n")
        sys.exit(2)


def _end_at_once() -> NoReturn:
    """No cleaning up: what is kept is kept whole at any moment."""
    shown = "\x1b[?25h" if sys.stderr.isatty() else ""  # the cursor, which a progress display hides
    os.write(2, f"{shown}stopped at once\n".encode())
    os._exit(STOPPED_BY_USER)

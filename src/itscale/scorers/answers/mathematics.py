r"""Mathematical answers: `\frac12`, `0.5` and `1/2` are one answer. Compared by math-verify.

The comparison runs in a process of its own (`worker.py`), started at the first one, because
simplifying what a model wrote may take for ever: a comparison that is not done in time counts as
"different", and the worker is started anew. No signal handler is involved, so it works in any thread.

Deviation from math-verify: its `verify(gold, answer)` depends on the order; here two answers are
equal when either order says so. Numbers with different bases (`11_2`, `11_3`) are different.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import queue
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO

from itscale.errors import OptionError
from itscale.scorers.answers.normalise import normalise_answer

__all__ = ["MathWorker", "math_check", "math_equal", "normalise_math"]

CPU_LIMIT_S = 2
"""For one comparison, reading both answers included; of the worker's own time, so that a busy
machine does not change verdicts."""
TIMEOUT_S = 30.0
"""For the same on the clock, where the system cannot limit processor time."""
START_TIMEOUT_S = 60.0
"""For starting the worker, which imports sympy."""
MOST_STRIKES = 2
LONGEST = 1000
"""Characters; longer answers are compared as texts only."""
_SPACING = re.compile(r"\\[!,;:]")
_PLAIN = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_BASE = re.compile(r"_\{?(\d+)\}?\$?$")


def math_check() -> None:
    """Hold what is installed against what this kind needs.

    Raises:
        OptionError: math-verify is not there.
    """
    if importlib.util.find_spec("math_verify") is None:
        raise OptionError('answers=math needs math-verify; run: pip install "itscale[math]"')


def normalise_math(answer: str) -> str:
    """Numbers by value; other texts by spaces alone: what case means is for math-verify to say."""
    answer = _SPACING.sub("", answer)
    folded = normalise_answer(answer)
    if folded[:1] in "-0123456789" and not any(c.isalpha() for c in folded):
        return folded
    return " ".join(answer.strip().strip("$").split())


def math_equal(*, answer: str, other: str) -> bool:
    """Whether two answers are the same mathematics; False when that takes too long to find out.

    Raises:
        OptionError: math-verify is not installed.
    """
    first, second = sorted((answer, other))
    return first == second or _remembered(first, second)


@lru_cache(maxsize=65_536)
def _remembered(first: str, second: str) -> bool:
    bases = _BASE.search(first), _BASE.search(second)
    if _PLAIN.fullmatch(first) and _PLAIN.fullmatch(second):
        return False  # canonical decimals that differ
    if max(len(first), len(second)) > LONGEST or (
        bases[0] is not None and bases[1] is not None and bases[0][1] != bases[1][1]
    ):
        return False
    return _worker().equal(first, second)


class MathWorker:
    """The process that compares, one comparison at a time; safe to share between threads."""

    def __init__(self, *, timeout_s: float = TIMEOUT_S, command: Sequence[str] = ()) -> None:
        self.timeout_s = timeout_s
        # -P: the folder of the script must not be searched for modules.
        script = str(Path(__file__).with_name("worker.py"))
        self._command = [*command] or [sys.executable, "-P", script, str(CPU_LIMIT_S)]
        self.starts = 0
        """How often a process was started: once, and once more after each timeout or crash."""
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._replies: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._proven: set[str] = set()
        self._strikes: Counter[str] = Counter()

    def equal(self, answer: str, other: str) -> bool:
        """Whether math-verify finds them equal, in either order, in time.

        An answer that never got through a comparison and broke off two is not compared again.
        """
        with self._lock:
            if max(self._strikes[answer], self._strikes[other]) >= MOST_STRIKES:
                return False
            process = self._process or self._start()
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps([answer, other]) + "\n")
                process.stdin.flush()
                verdict = self._reply(self.timeout_s) == "true"
            except (TimeoutError, OSError):
                self._stop()
                self._strikes.update({answer, other} - self._proven)
                return False
            self._proven.update((answer, other))
            for innocent in (answer, other):
                self._strikes.pop(innocent, None)
            return verdict

    def close(self) -> None:
        """End the process; the next comparison starts another."""
        with self._lock:
            self._stop()

    def _start(self) -> subprocess.Popen[str]:
        math_check()
        self.starts += 1
        process = subprocess.Popen(  # noqa: S603  our own script, no shell
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        assert process.stdout is not None
        self._process, self._replies = process, queue.SimpleQueue()
        threading.Thread(target=_read, args=(process.stdout, self._replies), daemon=True).start()
        try:
            self._reply(START_TIMEOUT_S)
        except TimeoutError:
            self._stop()
            raise OptionError(
                "the math-verify worker did not start; try: python -c 'import math_verify'"
            ) from None
        return process

    def _reply(self, timeout_s: float) -> str:
        """The next line of the worker. Raises TimeoutError when none comes in time, or it has ended."""
        try:
            line = self._replies.get(timeout=timeout_s)
        except queue.Empty:
            raise TimeoutError from None
        if not line:
            raise TimeoutError
        return line.strip()

    def _stop(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue  # what was still to be written has no reader any more
        self._process = None


def _read(replies: IO[str], into: queue.SimpleQueue[str]) -> None:
    """Pass lines on until the worker ends; then an empty one."""
    try:
        for line in replies:
            into.put(line)
    except ValueError:
        pass  # the pipe was closed under us: the worker was stopped
    into.put("")


@lru_cache(maxsize=1)
def _worker() -> MathWorker:
    """The one worker of this process; ended with it."""
    worker = MathWorker()
    atexit.register(worker.close)
    return worker

"""The process that compares mathematical answers: pairs in, one JSON array a line; true or false out.

Started by `mathematics.MathWorker`, which ends it when it takes too long. Reads with math-verify's
grammar, which builds expressions and runs no text. A comparison that uses more processor time than
the first argument says (whole seconds) is ended by the system, and this process with it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import math
import sys
import time
from functools import lru_cache
from typing import Any

__all__ = ["main"]

_MEMORY_BYTES = 4 * 2**30


def main() -> None:
    """Answer pairs until the input ends."""
    _limit("AS", _MEMORY_BYTES)
    logging.disable(logging.CRITICAL)
    math_verify: Any = importlib.import_module("math_verify")  # untyped, and perhaps not there
    parse, verify = math_verify.parse, math_verify.verify
    latex = (math_verify.LatexExtractionConfig(boxed_match_priority=0),)

    @lru_cache(maxsize=4096)
    def read(answer: str) -> Any:
        return parse(f"\\boxed{{{answer}}}", extraction_config=latex, parsing_timeout=None)

    def equal(answer: str, other: str) -> bool:
        first, second = read(answer), read(other)
        if not first or not second:
            return False
        return any(
            verify(gold, told, timeout_seconds=None) for gold, told in ((first, second), (second, first))
        )

    equal("\\frac{1}{2}", "0.5")  # loads what is loaded late
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        _limit("CPU", math.ceil(time.process_time()) + int(sys.argv[1]))
        try:
            verdict = equal(*json.loads(line))
        except (Exception, RecursionError):  # noqa: BLE001  sympy raises anything on hostile input
            verdict = False
        sys.stdout.write(json.dumps(verdict) + "\n")
        sys.stdout.flush()


def _limit(what: str, most: int) -> None:
    """A soft limit of the system on this process, where the system has it."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        kind = getattr(resource, f"RLIMIT_{what}")
        resource.setrlimit(kind, (most, resource.getrlimit(kind)[1]))


if __name__ == "__main__":
    main()

"""The figures behind docs/choosing.md: what each way to choose among N = 16 paths gets, and for what.

    python -m benchmarks.claims.choosing [TASK ...]

The 300 held-out questions of each task that the claims of papers are measured on (docs/evidence.md), and
their recordings: what a claim has sampled or judged before is not computed again. Accuracy has a 95 %
interval from resampling questions; tokens and scorer calls are means per question.
"""

from __future__ import annotations

import sys

from benchmarks.claims.common import tasks
from benchmarks.claims.runs import run

N = 16
METHODS = (
    "majority",
    "adaptive-consistency",
    "confidence-vote",
    "best-of-majority",
    "best-of-n",
    "weighted-best-of-n",
    "particle-filter",
    "rebase",
    "beam",
    "dvts",
    "a-star",
)


def main(names: list[str]) -> None:
    for name in names:
        print(f"| {name} | accuracy | tokens | scorer calls |\n|---|---:|---:|---:|", flush=True)
        for method in METHODS:
            runs = run(name, method, N)
            print(
                f"| {method} | {runs.accuracy.percent()} | {runs.tokens.mean():.0f} "
                f"| {runs.scorer_calls.mean():.1f} |",
                flush=True,
            )
        print()


if __name__ == "__main__":
    main(sys.argv[1:] or list(tasks()))

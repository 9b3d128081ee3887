"""How often extraction and comparison agree with labels, and what one comparison takes.

    python benchmarks/answers.py [DATA_FOLDER]

Reads gsm8k_model_solutions.jsonl (verdicts against its labels) and math500.jsonl (the solutions'
boxed answers against the gold answers; each gold answer also against the next one, so that unequal
pairs are timed as well) from DATA_FOLDER, by default ../shared/data beside the repository.
Needs `itscale[math]`. Times are of this machine while it does whatever else it does.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

from itscale.scorers.answers import ANSWER_KINDS, AnswerKind

SOLVERS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


def read(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def redressed(latex: str) -> str:
    """The same mathematics in other commands."""
    for plain, other in (("\\frac{", "\\dfrac{"), ("\\left", ""), ("\\right", ""), ("\\sqrt{", "\\sqrt {")):
        latex = latex.replace(plain, other)
    return latex


def timed(kind: AnswerKind, answer: str, other: str, milliseconds: list[float]) -> bool:
    began = time.perf_counter()
    same = kind.equal(answer=answer, other=other)
    milliseconds.append(1e3 * (time.perf_counter() - began))
    return same


def report(name: str, agreed: int, of: int, milliseconds: list[float]) -> None:
    ordered = sorted(milliseconds)
    print(
        f"{name:<34} {agreed:>5}/{of:<5} {agreed / of:7.2%}   median {statistics.median(ordered):.3f} ms"
        f"   p99 {ordered[int(0.99 * len(ordered))]:.1f} ms   longest {ordered[-1]:.0f} ms"
    )


def main(folder: Path) -> None:
    number, math = ANSWER_KINDS["number"], ANSWER_KINDS["math"]
    times: list[float] = []
    agreed = judged = 0
    for row in read(folder / "gsm8k_model_solutions.jsonl"):
        gold = number.extract(row["ground_truth"]) or ""
        for solver in SOLVERS:
            told = number.extract(row[solver]["solution"])
            correct = told is not None and timed(number, told, gold, times)
            agreed += correct is row[solver]["is_correct"]
            judged += 1
            if correct is not row[solver]["is_correct"]:
                print(f"  {solver} says {told!r}, the gold answer is {gold!r}: judged {correct}")
    report("GSM8K verdict = label", agreed, judged, times)

    math.equal(answer="\\frac12", other="0.5")  # starts the worker
    problems = read(folder / "math500.jsonl")
    own, dressed, unequal = [], [], []
    counts = [0, 0, 0]
    for i, row in enumerate(problems):
        told, gold = math.extract(row["solution"]) or "", row["answer"]
        found = timed(math, told, gold, own)
        counts[0] += found
        if not found:
            print(f"  not equal: {told!r} {gold!r}")
        same = timed(math, redressed(told), gold, dressed)
        counts[1] += same
        if not same:
            print(f"  not equal: {told!r} {gold!r}")
        before = problems[i - 1]["answer"]
        distinct = not timed(math, before, gold, unequal)
        counts[2] += distinct
        if not distinct:
            print(f"  equal: {before!r} {gold!r}, the gold answers of two problems")
    report("MATH-500 boxed = gold", counts[0], len(problems), own)
    report("  the same in another dress", counts[1], len(problems), dressed)
    report("  gold != gold of another problem", counts[2], len(problems), unequal)
    every = own + dressed + unequal
    print(f"median of all {len(every)} comparisons of mathematics: {statistics.median(every):.3f} ms")


if __name__ == "__main__":
    here = Path(__file__).parents[2] / "shared" / "data"
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else here)

"""The figures of the model cards: `python -m recipes.evaluate --out FILE.json`.

For every task and level: greedy accuracy, single-sample accuracy at temperature 1, majority and
best-of-n at 16, pass@k, on held-out problems; and how well the process reward model tells prefixes
that end right from those that do not (area under the ROC curve, by step). The default level is
measured on more problems and samples than the others. Prints Markdown, writes JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from itscale.budget import Budget
from itscale.embedded import PROCESS_SCORER, REASONER
from itscale.methods import BestOfN, Greedy
from itscale.models.local import LocalModel
from itscale.scorers.answers import tally
from itscale.scorers.prm import LocalProcessScorer
from itscale.tasks import Chain, Countdown, GeneratedTask
from itscale.types import Problem

Sampled = tuple[bool, str | None, tuple[float, ...]]
"""One sample: right, its answer, its step scores."""
IN_FLIGHT = 24
COLUMNS = "task level problems greedy single_sample majority@16 best-of-16 pass@16 pass@64 AUC_by_step"


def area_under_curve(right: list[float], wrong: list[float]) -> float:
    """Probability that a right one scores above a wrong one, ties half; NaN if a side is empty."""
    if not right or not wrong:
        return math.nan
    values = np.array([*right, *wrong])
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[group]
    u = ranks[: len(right)].sum() - len(right) * (len(right) + 1) / 2
    return float(u / (len(right) * len(wrong)))


async def sample(
    task: GeneratedTask,
    problem: Problem,
    n: int,
    model: LocalModel,
    scorer: LocalProcessScorer,
    gate: asyncio.Semaphore,
) -> tuple[bool, list[Sampled]]:
    """Whether greedy is right, and `n` judged samples."""
    async with gate:
        greedy = await Greedy().run(problem.prompt, model)
        result = await BestOfN().run(problem.prompt, model, scorer, Budget(generations=n))
    return task.check(problem, greedy.text), [
        (task.check(problem, c.path.text), c.answer, tuple(c.step_scores)) for c in result.candidates
    ]


def pass_at(n: int, c: int, k: int) -> float:
    """Unbiased pass@k from n samples of which c are right (Chen et al. 2021, arXiv 2107.03374)."""
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def figures(outcomes: list[tuple[bool, list[Sampled]]]) -> dict[str, Any]:
    """Everything the card says about one level."""
    groups = [samples for _, samples in outcomes]
    n = len(groups[0])
    k = min(16, n)
    majority, best = [], []
    for samples in groups:
        clusters = tally([answer for _, answer, _ in samples[:k]])
        majority.append(samples[clusters[0].representative][0] if clusters else False)
        best.append(max(samples[:k], key=lambda s: s[2][-1])[0])
    everything = [s for samples in groups for s in samples]
    auc = {}
    for step in range(max(len(s[2]) for s in everything)):
        right = [s[2][step] for s in everything if s[0] and len(s[2]) > step]
        wrong = [s[2][step] for s in everything if not s[0] and len(s[2]) > step]
        if min(len(right), len(wrong)) >= 50:
            auc[step + 1] = round(area_under_curve(right, wrong), 3)
    return {
        "problems": len(groups),
        "samples": n,
        "greedy": float(np.mean([ok for ok, _ in outcomes])),
        "single": float(np.mean([s[0] for s in everything])),
        "majority@16": float(np.mean(majority)),
        "best-of-16": float(np.mean(best)),
        "pass@16": float(np.mean([pass_at(n, sum(s[0] for s in g), k) for g in groups])),
        f"pass@{n}": float(np.mean([any(s[0] for s in g) for g in groups])),
        "auc_by_step": auc,
    }


async def evaluate(options: argparse.Namespace) -> None:
    """Measure every level and print the card's table."""
    model, scorer = LocalModel.load(REASONER), LocalProcessScorer.load(PROCESS_SCORER)
    gate = asyncio.Semaphore(IN_FLIGHT)
    report: dict[str, dict[int, Any]] = {}
    names = COLUMNS.split()
    print(f"| {' | '.join(names).replace('_', ' ')} |\n|{'---|' * len(names)}")
    for task in (Countdown(), Chain()):
        for level in task.levels:
            default = level == task.default_level
            count, n = (options.problems, 64) if default else (options.others, 16)
            problems = task.problems(count, level=level)
            runs = (sample(task, p, n, model, scorer, gate) for p in problems)
            found = figures(await asyncio.gather(*runs))
            report.setdefault(task.name, {})[level] = found
            cells = [
                f"{found[key]:.1%}" for key in ("greedy", "single", "majority@16", "best-of-16", "pass@16")
            ]
            cells.append(f"{found['pass@64']:.1%}" if default else "")
            steps = " ".join(f"{value:.2f}" for value in found["auc_by_step"].values())
            mark = " (default)" if default else ""
            print(f"| {task.name} | {level}{mark} | {count} | {' | '.join(cells)} | {steps} |", flush=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    await model.close()
    await scorer.close()


def main() -> None:
    """Parse and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--problems", type=int, default=500, help="at each task's default level")
    parser.add_argument("--others", type=int, default=200, help="at every other level")
    asyncio.run(evaluate(parser.parse_args()))


if __name__ == "__main__":
    main()

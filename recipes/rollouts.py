"""Monte-Carlo rollouts of the reasoner: `python -m recipes.rollouts --model DIR --out FILE`.

Samples whole solutions at temperature 1 with itscale's own engine and checks each. Every prefix of
a rollout is labelled with whether the rollout ended right: an unbiased draw of what the process
reward model is to learn, P(ends right | prefix). Problems are of the training side, with the
scorer's mixture of tasks and levels.

One JSON object a line: task, level, prompt, token_ids, right.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from pathlib import Path
from typing import TextIO

import torch

from itscale.budget import Budget
from itscale.methods import Majority
from itscale.models.local import LocalModel
from itscale.randomness import derive
from itscale.tasks.base import GeneratedTask, Split, split_of
from itscale.types import Problem, Prompt
from recipes.data import MIXTURES

IN_FLIGHT = 64


async def roll(
    model: LocalModel, problem: Problem, task: GeneratedTask, samples: int, seed: int, out: TextIO
) -> int:
    """Write `samples` rollouts of one problem; how many were right."""
    result = await Majority().run(problem.prompt, model, None, Budget(generations=samples), seed)
    right = 0
    for candidate in result.candidates:
        if not candidate.path.finished:
            continue
        ok = task.check(problem, candidate.path.text)
        right += ok
        row = {
            "task": task.name,
            "level": problem.level,
            "prompt": problem.prompt.question,
            "token_ids": candidate.path.token_ids,
            "right": ok,
        }
        out.write(json.dumps(row) + "\n")
    return right


async def collect(options: argparse.Namespace) -> None:
    """Sample until `options.problems` problems are done."""
    model = LocalModel.load(options.model, kv_memory_bytes=2**30)
    rng = random.Random(options.seed)
    side: Split = "test" if options.held_out else "train"
    mixture = [part for part in MIXTURES["scorer"] if options.only in (None, part[0].name)]
    weights = [share for *_, share in mixture]
    right = done = 0
    with options.out.open("w") as out:
        pending: set[asyncio.Task[int]] = set()
        for i in range(options.problems):
            task, level, _ = rng.choices(mixture, weights)[0]
            exercise = next(e for e in task.exercises(side, level, rng) if split_of(e.key) == side)
            problem = Problem(f"{i}", Prompt.user(exercise.prompt), exercise.answer, level)
            seed = derive(options.seed, "rollout", i)
            pending.add(asyncio.create_task(roll(model, problem, task, options.samples, seed, out)))
            if len(pending) >= IN_FLIGHT:
                finished, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                right, done = right + sum(t.result() for t in finished), done + len(finished)
                if done % 1000 < len(finished):
                    print(f"{done} problems, {right / done / options.samples:.3f} right", flush=True)
        right += sum(await asyncio.gather(*pending))
    await model.close()
    print(f"{options.problems} problems, {right / options.problems / options.samples:.3f} right")


def main() -> None:
    """Parse and sample."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--problems", type=int, default=6_600)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=["countdown", "chain"], help="rollouts of one task alone")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--held-out", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    asyncio.run(collect(options))


if __name__ == "__main__":
    main()

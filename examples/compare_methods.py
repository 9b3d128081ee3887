"""How many of 20 problems three methods get right with 8 generations each."""

from __future__ import annotations

import asyncio

from itscale import BestOfN, Budget, Majority, Method, ParticleFilter, load_model, load_scorer
from itscale.tasks import Countdown


async def main() -> None:
    model, scorer = load_model("embedded"), load_scorer("embedded")
    task = Countdown()
    problems = task.problems(20)
    methods: list[Method] = [Majority(), BestOfN(), ParticleFilter()]
    for method in methods:
        runs = (
            method.run(problem.prompt, model, scorer, Budget(generations=8), seed)
            for seed, problem in enumerate(problems)
        )
        results = await asyncio.gather(*runs)  # all at once: the engine batches whatever waits
        right = sum(task.check(p, r.text) for p, r in zip(problems, results, strict=True))
        tokens = sum(result.usage.generated_tokens for result in results)
        print(f"{method.name:16} {right:2} of {len(problems)} right, {tokens} tokens")


if __name__ == "__main__":
    asyncio.run(main())

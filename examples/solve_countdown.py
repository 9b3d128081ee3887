"""Answer one problem with a particle filter on the embedded models, and see what it cost."""

from __future__ import annotations

import asyncio

from itscale import Budget, ParticleFilter, load_model, load_scorer


async def main() -> None:
    model, scorer = load_model("embedded"), load_scorer("embedded")
    method = ParticleFilter()
    result = await method.run("Make 45 from 3, 7, 12, 23.", model, scorer, Budget(generations=16), seed=0)
    print(result.text)
    print()
    for candidate in sorted(result.candidates, key=lambda c: -(c.weight or 0.0))[:3]:
        last_line = candidate.path.text.splitlines()[-1]
        print(f"weight {candidate.weight:.3f}  score {candidate.score:.3f}  {last_line}")
    usage = result.usage
    print(f"{usage.generated_tokens} tokens generated, {usage.scorer_calls} paths scored")


if __name__ == "__main__":
    asyncio.run(main())

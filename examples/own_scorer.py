"""Write your own scorer: here, how close a finished answer comes to the target."""

from __future__ import annotations

import asyncio
import re

from itscale import BestOfN, Budget, OutcomeScorer, Path, load_model
from itscale.budget import Ledger
from itscale.scorers.answers import extract_answer


class Closeness(OutcomeScorer):
    """Minus the distance between the stated answer and the target; larger is better."""

    name = "closeness"

    async def score(self, path: Path, ledger: Ledger) -> float:
        target = int(re.findall(r"\d+", path.prompt.question)[0])
        answer = extract_answer(path.text)
        return -1000.0 if answer is None or not answer.isdecimal() else -abs(target - int(answer))


async def main() -> None:
    model = load_model("embedded")
    prompt = "Make 45 from 3, 7, 12, 23."
    result = await BestOfN().run(prompt, model, Closeness(), Budget(generations=8), seed=0)
    for candidate in result.candidates:
        print(f"{candidate.score:7.0f}  {candidate.answer}")
    print(f"chosen: {result.answer}")


if __name__ == "__main__":
    asyncio.run(main())

"""What it gains to begin the next steps while the scorer judges (`speculate=true`), and what it wastes.

    python -m benchmarks.speculation [--problems 60] [--embedded 12]

Every method with and without, the same answers by construction. The two settings of
`benchmarks/barrier_free.py` (a table whose token takes 2 ms, with judgements of 20 ms times a factor of
its own; the embedded models as if behind uneven servers), and the embedded models as they are: two
engines on one machine.
"""

from __future__ import annotations

import argparse
import asyncio

from benchmarks.barrier_free import Chains, judge, next_token
from benchmarks.uneven import HEAD, LateScorer, UnevenModel, timed
from itscale.methods import DVTS, Beam, Method, ParticleCascade, ParticleFilter
from itscale.models.fake import FakeModel
from itscale.registry import load_model, load_scorer
from itscale.scorers.base import ProcessScorer
from itscale.scorers.fake import FakeProcessScorer
from itscale.tasks import Countdown

N = 16
PAIRS: list[dict[str, Method]] = [
    {"particle-filter": ParticleFilter(), "  speculate": ParticleFilter(speculate=True)},
    {"particle-cascade": ParticleCascade(), "  speculate": ParticleCascade(speculate=True)},
    {"beam": Beam(), "  speculate": Beam(speculate=True)},
    {"dvts": DVTS(), "  speculate": DVTS(speculate=True)},
]


async def measure(problems: int, embedded: int) -> None:
    """All three tables."""
    vocabulary = ["w", "ok|", "no|", "Answer: 0", "Answer: 1", "$"]
    table = UnevenModel(FakeModel(next_token, vocabulary=vocabulary), 0.002, 0.0)
    noisy = LateScorer(FakeProcessScorer(judge), 0.020, 0.8)
    model, scorer = load_model("embedded"), load_scorer("embedded")
    assert isinstance(scorer, ProcessScorer)
    served, judged = UnevenModel(model, 0.030, 0.8), LateScorer(scorer, 0.150, 0.8)
    for title, task, pairs, count, m, s, together in (
        ("Ten steps, judgements of 20 ms", Chains(), PAIRS, problems, table, noisy, 10),
        ("Countdown, judgements of 150 ms", Countdown(), PAIRS[:2], embedded, served, judged, 3),
        ("Countdown, engines in this process", Countdown(), PAIRS[:2], embedded, model, scorer, 1),
    ):
        print(f"\n{title}, N = {N}, {count} problems\n\n{HEAD}", flush=True)
        for pair in pairs:
            plain, ahead = await timed(pair, task, count, m, s, N, together)
            print(plain.row(plain), ahead.row(plain), sep="\n", flush=True)
            assert plain.right == ahead.right, "the same seeds gave other answers"
    await model.close()
    await scorer.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--problems", type=int, default=60)
    parser.add_argument("--embedded", type=int, default=12)
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.problems, arguments.embedded))

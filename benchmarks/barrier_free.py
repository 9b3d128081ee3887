"""What a particle filter without a barrier gains: the cascade beside the filter at equal N.

    python benchmarks/barrier_free.py [--problems 60] [--budget 16] [--in-flight 3]

The embedded reasoner and process reward model, once as they are (one engine, all paths step
together) and once as behind servers: every token takes 10 ms, every judgement 30 ms, and each call
that times a factor of its own (log-normal, standard deviation 0.8: queues, other people's load).
"""

from __future__ import annotations

import argparse
import asyncio

from benchmarks.uneven import HEAD, LateScorer, UnevenModel, timed
from itscale.methods import ParticleCascade, ParticleFilter
from itscale.registry import load_model, load_scorer
from itscale.scorers.base import ProcessScorer
from itscale.tasks import Chain, Countdown

METHODS = {
    "particle-filter": ParticleFilter(),
    "particle-cascade": ParticleCascade(),
    "particle-cascade:races=true": ParticleCascade(races=True),
}
TOKEN_S, JUDGEMENT_S, SPREAD = 0.010, 0.030, 0.8


async def measure(problems: int, n: int, in_flight: int) -> None:
    """Both tables."""
    model, scorer = load_model("embedded"), load_scorer("embedded")
    assert isinstance(scorer, ProcessScorer)
    served, judged = UnevenModel(model, TOKEN_S, SPREAD), LateScorer(scorer, JUDGEMENT_S, SPREAD)
    for title, task, level, m, s, together in (
        ("Countdown behind uneven servers", Countdown(), None, served, judged, in_flight),
        ("Chain of 6 steps behind uneven servers", Chain(), 6, served, judged, in_flight),
        ("Countdown on the engine in this process", Countdown(), None, model, scorer, 1),
    ):
        print(f"\n{title}, N = {n}, {problems} problems\n\n{HEAD}", flush=True)
        rows = await timed(METHODS, task, problems, m, s, n, together, level=level)
        for row in rows:
            print(row.row(rows[0]), flush=True)
    await model.close()
    await scorer.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--problems", type=int, default=60)
    parser.add_argument("--budget", type=int, default=16)
    parser.add_argument("--in-flight", type=int, default=3)
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.problems, arguments.budget, arguments.in_flight))

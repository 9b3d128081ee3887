"""What it gains to begin the next steps while the scorer judges (`speculate=true`), and what it wastes.

    python -m benchmarks.speculation [--problems 60] [--embedded 12]

Every method with and without, the same answers by construction. On the table of
`benchmarks/barrier_free.py` with judgements of 20 ms times a factor of its own each, in simulated
time; on the embedded models as if behind uneven servers (10 ms a token, 150 ms a judgement); and on
the embedded models as they are, two engines on one machine.
"""

from __future__ import annotations

from typing import Any

from benchmarks.barrier_free import Chains, judge, next_token
from benchmarks.uneven import HEAD, LateScorer, UnevenModel, from_command_line, timed
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


async def measure(title: str, pairs: list[dict[str, Method]], *setting: Any) -> None:
    """One table; the setting is that of `timed`."""
    print(f"\n{title}, N = {N}, {setting[1]} problems\n\n{HEAD}", flush=True)
    for pair in pairs:
        plain, ahead = await timed(pair, *setting)
        print(plain.row(plain), ahead.row(plain), sep="\n", flush=True)
        assert plain.right == ahead.right, "the same seeds gave other answers"


async def on_the_table(problems: int) -> None:
    """Part 1, in simulated time."""
    vocabulary = ["w", "ok|", "no|", "Answer: 0", "Answer: 1", "$"]
    model = UnevenModel(FakeModel(next_token, vocabulary=vocabulary), 0.008, 0.0)
    scorer = LateScorer(FakeProcessScorer(judge), 0.020, 0.8)
    title = "Ten steps, judgements of 20 ms, simulated time"
    await measure(title, PAIRS, Chains(), problems, model, scorer, N, 10)


async def on_the_embedded_models(problems: int) -> None:
    """Parts 2 and 3."""
    model, scorer = load_model("embedded"), load_scorer("embedded")
    assert isinstance(scorer, ProcessScorer)
    served, judged = UnevenModel(model, 0.010, 0.8), LateScorer(scorer, 0.150, 0.8)
    title = "Countdown behind uneven servers, judgements of 150 ms"
    await measure(title, PAIRS[:2], Countdown(), problems, served, judged, N, 3)
    await measure(
        "Countdown, both engines in this process", PAIRS[:2], Countdown(), problems, model, scorer, N, 1
    )
    await model.close()
    await scorer.close()


if __name__ == "__main__":
    from_command_line(__doc__, on_the_table, on_the_embedded_models, problems=60, embedded=12)

"""What a particle filter without a barrier gains: the cascade beside the filter at equal N.

    python -m benchmarks.barrier_free [--problems 100] [--embedded 40]

1. A model that is a table: ten steps of 1 to some thirty tokens (geometric, mean 5), one in five
   of them a mistake, judged rightly but with noise. A token takes 8 ms, a judgement 10 ms; as many
   calls at once as there are. In simulated time: computing takes none.
2. The embedded reasoner and process reward model on Countdown as if behind servers: a token takes
   10 ms, a judgement 30 ms, and each call that times a factor of its own (log-normal, standard
   deviation 0.8: queues, other people's load), on top of what the engine takes.
3. The same as they are, on the engine in this process, where all paths step together.
"""

from __future__ import annotations

from benchmarks.uneven import HEAD, LateScorer, UnevenModel, from_command_line, timed
from itscale.methods import ParticleCascade, ParticleFilter
from itscale.models.fake import FakeModel
from itscale.randomness import derive
from itscale.registry import load_model, load_scorer
from itscale.scorers.base import ProcessScorer
from itscale.scorers.fake import FakeProcessScorer
from itscale.tasks import Countdown
from itscale.types import Problem, Prompt

METHODS = {
    "particle-filter": ParticleFilter(),
    "particle-cascade": ParticleCascade(),
    "particle-cascade:races=true": ParticleCascade(races=True),
}
N, STEPS, MEAN_TOKENS, MISTAKES = 16, 10, 5, 1 / 5


def next_token(prefix: tuple[str, ...]) -> dict[str, float]:
    """Ten steps of words, each right or not, and then whether all were."""
    ended = [token for token in prefix if token.endswith("|")]
    if prefix and prefix[-1].startswith("Answer"):
        return {"$": 1.0}
    if len(ended) == STEPS:
        return {f"Answer: {int('no|' not in ended)}": 1.0}
    stop = 1 / MEAN_TOKENS
    return {"w": 1 - stop, "ok|": stop * (1 - MISTAKES), "no|": stop * MISTAKES}


def judge(texts: tuple[str, ...]) -> float:
    """Low after a mistake, with noise that is a function of the text."""
    right = not any("no|" in text or text == "Answer: 0" for text in texts)
    return (0.75 if right else 0.25) + 0.2 * (derive(0, *texts) / 2**63 - 0.5)


class Chains:
    """Problems that are one and the same; what counts is whether the answer is 1."""

    def problems(self, count: int, *, seed: int = 0) -> list[Problem]:
        """So many; the seed of a run is the number of its problem."""
        del seed
        return [Problem(str(i), Prompt.user("go"), "1") for i in range(count)]

    def check(self, problem: Problem, text: str) -> bool:
        """Whether no step was a mistake."""
        del problem
        return text.endswith("Answer: 1")


async def on_the_table(problems: int) -> None:
    """Part 1, in simulated time."""
    vocabulary = ["w", "ok|", "no|", "Answer: 0", "Answer: 1", "$"]
    model = UnevenModel(FakeModel(next_token, vocabulary=vocabulary), 0.008, 0.0)
    scorer = LateScorer(FakeProcessScorer(judge), 0.010, 0.0)
    print(f"\nTen steps of uneven length, N = {N}, {problems} problems, simulated time\n\n{HEAD}", flush=True)
    rows = await timed(METHODS, Chains(), problems, model, scorer, N, 10)
    print(*(row.row(rows[0]) for row in rows), sep="\n", flush=True)


async def on_the_embedded_models(problems: int) -> None:
    """Parts 2 and 3."""
    model, scorer = load_model("embedded"), load_scorer("embedded")
    assert isinstance(scorer, ProcessScorer)
    served, judged = UnevenModel(model, 0.010, 0.8), LateScorer(scorer, 0.030, 0.8)
    for title, m, s, together in (
        ("Countdown behind uneven servers", served, judged, 3),
        ("Countdown on the engine in this process", model, scorer, 1),
    ):
        print(f"\n{title}, N = {N}, {problems} problems\n\n{HEAD}", flush=True)
        rows = await timed(METHODS, Countdown(), problems, m, s, N, together)
        print(*(row.row(rows[0]) for row in rows), sep="\n", flush=True)
    await model.close()
    await scorer.close()


if __name__ == "__main__":
    from_command_line(__doc__, on_the_table, on_the_embedded_models, problems=100, embedded=40)

"""Self-evaluation: how much of the gain of 16 samples an adaptive number of samples gives.

The paper trains the model to say whether a restart would do better. The embedded reasoner cannot talk
about itself, so what it knows of its own answer is read by a probe on its hidden states, fitted on
training problems (`itscale calibrate success`), which `self-evaluation` takes in place of the question.
Stopping and choosing are the method's: draw until a score reaches the threshold, return the best. The
threshold is the one whose mean number of samples is nearest to 1.2.
"""

from __future__ import annotations

import asyncio

import numpy as np

from benchmarks.claims.common import Claim, Finding, Pooled, estimate, every, pool, ratio, tasks
from itscale.bench.calibrating import fit_success, training_problems
from itscale.budget import Budget, Ledger
from itscale.methods import Majority
from itscale.registry import load_model, load_task
from itscale.types import Path

CLAIM = Claim(
    "self-evaluation",
    "Self-evaluation gives 74 % of the gain of 16 samples with 1.2 samples on average",
    "2410.02725",
)
MOST = 16
TRAINING, SAMPLES = 250, 8


def measure() -> list[Finding]:
    return [on(name) for name in tasks()]


def on(name: str) -> Finding:
    pooled = pool(name)
    scores = asyncio.run(scored(name, pooled))
    correct = pooled.correct[:, :MOST].astype(float)
    chosen = {t: stopped(scores, t) for t in (*np.quantile(scores, np.linspace(0.02, 0.98, 97)), 2.0)}
    used = {t: float(n.mean()) for t, (n, _) in chosen.items()}
    threshold = min(chosen, key=lambda t: abs(used[t] - 1.2))
    rows = np.arange(len(scores))
    one, all_ = correct.mean(1), correct[rows, chosen[2.0][1]]
    adaptive = correct[rows, chosen[threshold][1]]
    share = ratio(adaptive - one, all_ - one)
    gained = f"{used[threshold]:.2f} samples give {share.percent(0)} of the gain of {MOST}"
    figures = f"{estimate(adaptive).percent()} adaptive, {estimate(all_).percent()} with {MOST}"
    measured = f"{gained}: {one.mean():.1%} with one, {figures}"
    if share.low >= 0.74:
        return Finding(name, measured, "holds", "with a probe in place of the question")
    if share.low > (used[threshold] - 1) / (MOST - 1):
        why = "more than the samples' share of the gain, less than claimed or too little to tell"
        return Finding(name, measured, "holds partly", why)
    why = f"choosing among {MOST} by the probe gains too little here for a share of it to be told from none"
    return Finding(name, measured, "does not hold", why)


def stopped(scores: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """For each question how many samples were drawn, and which was chosen."""
    content = scores >= threshold
    used = np.where(content.any(1), content.argmax(1) + 1, scores.shape[1])
    seen = np.arange(scores.shape[1]) < used[:, None]
    return used, np.where(seen, scores, -1.0).argmax(1)


async def scored(name: str, pooled: Pooled) -> np.ndarray:
    """The probe's score of the first 16 samples of every question, (P, 16); 0 for unfinished ones."""
    task, model = load_task(name), load_model("embedded")
    try:
        predictor, _ = await fit_success(
            task,
            training_problems(task, TRAINING),
            model,
            Majority(),
            features="hidden",
            samples=SAMPLES,
            after_tokens=8,
        )

        async def score(path: Path) -> float:
            if not path.finished:
                return 0.0
            states = await model.hidden_states(path, Ledger(Budget()))
            return float(predictor.whole.success(np.array(states)))

        paths = [path for own in pooled.paths for path in own[:MOST]]
        flat = await every([lambda p=path: score(p) for path in paths], at_once=64)
    finally:
        await model.close()
    return np.array(flat).reshape(len(pooled.paths), MOST)

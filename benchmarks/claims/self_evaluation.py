"""Self-evaluation: how much of the gain of 16 samples an adaptive number of samples gives.

The paper trains the model to say whether a restart would do better. The embedded reasoner cannot talk
about itself, so what it knows of its own answer is read by a probe on its hidden states, the one that
`itscale calibrate success` fits and `self-evaluation` takes in place of the question. It is fitted on the
samples of other questions: five folds, each scored by the probe of the other four. Stopping and choosing
are the method's: draw until a score reaches the threshold, return the best. The threshold is the one whose
mean number of samples is nearest to 1.2.
"""

from __future__ import annotations

import asyncio

import numpy as np

from benchmarks.claims.common import Claim, Finding, Pooled, estimate, every, pool, ratio, recorded, tasks
from itscale.bench.calibrating import auc
from itscale.budget import Budget, Ledger
from itscale.methods.probes import Probe
from itscale.types import Path

CLAIM = Claim(
    "self-evaluation",
    "Self-evaluation gives 74 % of the gain of 16 samples with 1.2 samples on average",
    "2410.02725",
)
MOST = 16
CLAIMED = 0.74
"""Share of the gain."""
FOLDS = 5


def measure() -> list[Finding]:
    return [on(name) for name in tasks()]


def on(name: str) -> Finding:
    pooled = pool(name)
    scores = scored(name, pooled)
    correct = pooled.correct[:, :MOST].astype(float)
    chosen = {t: stopped(scores, t) for t in (*np.quantile(scores, np.linspace(0.02, 0.98, 97)), 2.0)}
    used = {t: float(n.mean()) for t, (n, _) in chosen.items()}
    threshold = min(chosen, key=lambda t: abs(used[t] - 1.2))
    rows = np.arange(len(scores))
    one, all_ = correct.mean(1), correct[rows, chosen[2.0][1]]
    adaptive = correct[rows, chosen[threshold][1]]
    told = auc(scores[correct == 1].tolist(), scores[correct == 0].tolist())
    gain, spent = estimate(all_ - one), (used[threshold] - 1) / (MOST - 1)
    figures = (
        f"a probe of AUC {told:.2f}: {one.mean():.1%} with one sample, {estimate(adaptive).percent()} with "
        f"{used[threshold]:.2f}, {estimate(all_).percent()} with {MOST} ({gain.points()})"
    )
    if gain.low <= 0:
        why = f"choosing among {MOST} by the probe gains nothing that can be told from chance"
        return Finding(name, figures, "does not hold", why)
    share = ratio(adaptive - one, all_ - one)
    measured = f"{figures}: {share.percent(0)} of the gain of {MOST}"
    if share.value >= CLAIMED and share.low > spent:
        return Finding(name, measured, "holds", "with a probe in place of the question")
    if share.low > spent:
        return Finding(name, measured, "holds partly", "more than the samples' share, less than claimed")
    return Finding(name, measured, "does not hold", "no more of the gain than of the samples, beyond chance")


def stopped(scores: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """For each question how many samples were drawn, and which was chosen."""
    content = scores >= threshold
    used = np.where(content.any(1), content.argmax(1) + 1, scores.shape[1])
    seen = np.arange(scores.shape[1]) < used[:, None]
    return used, np.where(seen, scores, -1.0).argmax(1)


def scored(name: str, pooled: Pooled) -> np.ndarray:
    """The probe's score of the first 16 samples of every question, (P, 16); 0 for unfinished ones."""
    states = asyncio.run(held(name, pooled))
    ended = np.array([[path.finished for path in own[:MOST]] for own in pooled.paths])
    right = pooled.correct[:, :MOST]
    folds = np.arange(len(ended)) % FOLDS
    scores = np.zeros(ended.shape)
    for fold in range(FOLDS):
        others = (folds != fold)[:, None] & ended
        probe = Probe.fit("hidden", states[others], right[others])
        own = (folds == fold)[:, None] & ended
        scores[own] = probe.success(states[own])
    return scores


async def held(name: str, pooled: Pooled) -> np.ndarray:
    """What the model holds at the end of the first 16 samples of every question, (P, 16, D)."""
    async with recorded(name) as (model, _):

        async def ask(path: Path) -> tuple[float, ...]:
            return await model.hidden_states(path, Ledger(Budget()))

        paths = [path for own in pooled.paths for path in own[:MOST]]
        flat = await every([lambda p=path: ask(p) for path in paths], at_once=64)
    return np.array(flat).reshape(len(pooled.paths), MOST, -1)

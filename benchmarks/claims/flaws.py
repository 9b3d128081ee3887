"""Resampling until an imperfect verifier accepts: what is predicted, what is measured, when to stop.

The embedded process reward model is the verifier: an answer is accepted where its last step scores at
least a threshold. Of the 64 samples of a question one half says how often the verifier errs on it, and so
what K tries should reach; the other half says what they do reach (`itscale.bench.resampling`, the
command `itscale verifier`). A wrong answer costs as much as a right one gains. The thresholds make the
verifier more careless step by step.
"""

from __future__ import annotations

import asyncio

import numpy as np

from benchmarks.claims.common import Claim, Finding, judged, pool, tasks
from itscale.bench.resampling import Forecast, Verdict

CLAIM = Claim(
    "flaws",
    "With an imperfect verifier resampling levels off below what is reachable, and the best number of tries "
    "is often below 10",
    "2411.17501",
)
THRESHOLDS = (0.8, 0.5, 0.2, 0.05)
"""Scores from which an answer is accepted."""
KS = (1, 4, 16)
"""Tries at which prediction and measurement are compared."""
COST = 1.0
CLOSE = 0.03
"""Most accuracy (a share) a prediction may be off."""


def measure() -> list[Finding]:
    return [on(name) for name in tasks()]


def on(name: str) -> Finding:
    pooled = pool(name)
    reachable = float(pooled.correct.any(1).mean())
    scores = 1 / (1 + np.exp(-asyncio.run(judged(name, pooled))))
    forecasts = {t: Forecast(labelled(pooled.correct, scores >= t), COST) for t in THRESHOLDS}
    parts, gaps, early, below = [], [], 0, 0
    for threshold, forecast in forecasts.items():
        _, accepted, fooled = forecast.rates()
        curve = []
        for k in KS:
            low, high = (100 * bound for bound in forecast.interval(k))
            predicted, reached = forecast.predicted(k), float(forecast.measured(k).mean())
            gaps.append(abs(predicted - reached))
            curve.append(f"{100 * predicted:.1f} against {100 * reached:.1f} % ({low:.1f} to {high:.1f})")
        early += forecast.best.k < 10 and forecast.measured_best < 10
        below += forecast.interval(forecast.most)[1] < reachable
        parts.append(
            f"threshold {threshold:g} accepts {accepted:.0%} of right and {fooled:.0%} of wrong samples: "
            f"{', '.join(curve)}; best K {forecast.best.k} predicted, {forecast.measured_best} measured"
        )
    at = ", ".join(map(str, KS))
    measured = (
        f"accuracy predicted against measured at K = {at}, and the best K up to 32 at cost {COST:g}. "
        f"{'. '.join(parts)}. Predictions are off by {100 * max(gaps):.1f} points at most; one of 64 samples "
        f"is right on {reachable:.1%}"
    )
    told = max(gaps) <= CLOSE
    if below == len(forecasts) and early > len(forecasts) / 2:
        why = "as said" if told else "as said, though a prediction is off by more than three points"
        return Finding(name, measured, "holds", why)
    if below:
        why = (
            f"it levels off below coverage; the best K is below 10 at {early} of {len(forecasts)} thresholds"
        )
        return Finding(name, measured, "holds partly", why)
    return Finding(name, measured, "does not hold", "resampling reaches what is reachable")


def labelled(correct: np.ndarray, accepted: np.ndarray) -> list[list[Verdict]]:
    """(P, N) of each as the samples of each question."""
    pairs = zip(correct.tolist(), accepted.tolist(), strict=True)
    return [list(zip(right, taken, strict=True)) for right, taken in pairs]

"""PETS, questions one by one: four samples say how hard a question is, a plan how many it gets.

Liu, Qu et al. 2026, "PETS: A Principled Framework Towards Optimal Trajectory Allocation for
Efficient Test-Time Self-Consistency", arXiv 2602.16745. Online, the first four answers put a question
into a bucket by how they agree: 4, 3+1, 2+2, 2+1+1 or 1+1+1+1. The plan is fitted beforehand on
questions of the same kind: bucket t has the share pi_t of them and, on average, the curve
SCR(k) ~ Phi(a_t sqrt(k) + b_t), and for a mean budget B

    B_t = 4 for all;  while sum pi_t B_t < B:  B_t += 1 where the curve rises the most, if it fits

Laws: sum pi_t B_t <= B; a question's share depends on its own four answers alone; whatever the four
answers, every later question is still left its four samples of the global budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import NormalDist
from typing import Any, ClassVar

from itscale.allocation.base import Allocation, Standing
from itscale.allocation.consistency import consistency_curve, probit_fit
from itscale.calibration import Calibration
from itscale.errors import CalibrationError, OptionError
from itscale.models.base import Model

__all__ = ["CALIBRATION_KIND", "FITTED_UPTO", "WARM_UP", "Bucket", "OnlinePlan", "PetsOnline"]

CALIBRATION_KIND = "pets-online"
WARM_UP = 4
Pattern = tuple[int, ...]
PATTERNS: tuple[Pattern, ...] = ((4,), (3, 1), (2, 2), (2, 1, 1), (1, 1, 1, 1))
FITTED_UPTO = 40
"""Samples up to which the curves are fitted."""


@dataclass(frozen=True)
class Bucket:
    """Questions whose first four answers agree alike."""

    pattern: Pattern
    """How many gave each answer, most first."""
    share: float
    """pi: of all questions, in expectation over their samples (linear)."""
    a: float
    b: float

    def consistency(self, k: int) -> float:
        """SCR at k samples: Phi(a sqrt(k) + b)."""
        return NormalDist().cdf(self.a * k**0.5 + self.b)


@dataclass(frozen=True)
class OnlinePlan:
    """Buckets fitted on one model's answers."""

    model: str
    buckets: tuple[Bucket, ...]

    @classmethod
    def fit(cls, counts: Sequence[Sequence[int]], model: str) -> OnlinePlan:
        """The plan of training questions, each given as how many samples gave each answer.

        Samples without an answer are one answer more, as they are when the plan is used.

        Raises:
            CalibrationError: no questions, or one with fewer than `WARM_UP` samples.
        """
        if not counts or any(sum(own) < WARM_UP for own in counts):
            raise CalibrationError(f"a plan is fitted on questions with at least {WARM_UP} samples each")
        laws = [[c / sum(own) for c in own if c] for own in counts]
        fits = [probit_fit(consistency_curve(law, FITTED_UPTO)) for law in laws]
        chances = [_pattern_chances(law) for law in laws]
        buckets = []
        for t, pattern in enumerate(PATTERNS):
            total = sum(chance[t] for chance in chances)
            if total > 1e-9:
                a, b = (
                    sum(chance[t] * fit[which] for chance, fit in zip(chances, fits, strict=True)) / total
                    for which in (0, 1)
                )
                buckets.append(Bucket(pattern, total / len(laws), a, b))
        return cls(model, tuple(buckets))

    def totals(self, mean: float, most: int) -> Mapping[Pattern, int]:
        """B_t of every bucket for `mean` samples a question, `most` for any of them.

        Raises:
            OptionError: the mean does not pay for the first four samples.
        """
        if mean < WARM_UP:
            raise OptionError(
                f"pets-online looks at {WARM_UP} samples of every prompt first, and the budget pays for "
                f"{mean:g} each; raise it, or use --rule pets"
            )
        totals = dict.fromkeys((bucket.pattern for bucket in self.buckets), WARM_UP)
        left = mean - WARM_UP * sum(bucket.share for bucket in self.buckets)
        while True:
            rises = [
                (
                    bucket.consistency(totals[bucket.pattern] + 1)
                    - bucket.consistency(totals[bucket.pattern]),
                    bucket,
                )
                for bucket in self.buckets
                if totals[bucket.pattern] < most and bucket.share <= left + 1e-12
            ]
            rise, best = max(rises, key=lambda pair: pair[0], default=(0.0, None))
            if best is None or rise <= 0:
                return totals
            totals[best.pattern] += 1
            left -= best.share

    def to_calibration(self, evidence: Mapping[str, Any]) -> Calibration:
        """As a file holds it."""
        values = {"buckets": [{**vars(bucket), "pattern": list(bucket.pattern)} for bucket in self.buckets]}
        return Calibration(CALIBRATION_KIND, self.model, values, evidence)

    @classmethod
    def load(cls, file: Path | str) -> OnlinePlan:
        """The plan in a calibration file.

        Raises:
            CalibrationError: the file is missing, broken, or holds something else.
        """
        calibration = Calibration.load(file, CALIBRATION_KIND)
        try:
            buckets = [
                Bucket(tuple(map(int, b["pattern"])), float(b["share"]), float(b["a"]), float(b["b"]))
                for b in calibration.values["buckets"]
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise CalibrationError(
                f"{file} is a broken plan ({error!r}); make it with: itscale calibrate {CALIBRATION_KIND}"
            ) from error
        return cls(calibration.model, tuple(buckets))


@dataclass(frozen=True, kw_only=True)
class PetsOnline(Allocation):
    """A plan carried out on prompts in their order.

    Raises:
        CalibrationError: the plan's file is missing or broken.
        OptionError: an option is out of range.
    """

    name: ClassVar[str] = "pets-online"
    summary: ClassVar[str] = "prompts one by one: four samples place each in a plan fitted beforehand"

    plan: OnlinePlan
    most: int = 64
    """Samples one prompt gets at most."""

    def check(self, model: Model, prompts: int, samples: int) -> None:
        super().check(model, prompts, samples)
        Calibration(CALIBRATION_KIND, self.plan.model, {}).require(model.identity, model.name)
        _totals(self.plan, samples / prompts, self.most)

    def choose(self, standings: Sequence[Standing], left: int) -> int | None:
        mean = (left + sum(standing.started for standing in standings)) / len(standings)
        totals = _totals(self.plan, mean, self.most)
        to_come = sum(max(0, WARM_UP - s.started) for s in standings if s.refused is None)
        for i, standing in enumerate(standings):
            if standing.refused is not None:
                continue
            if standing.started < WARM_UP:
                return i
            if len(standing.history) < WARM_UP:
                continue
            # A pattern no training question showed gets the first four and no more.
            if standing.started < totals.get(standing.history[WARM_UP - 1], WARM_UP) and left > to_come:
                return i
        return None


@lru_cache(maxsize=64)
def _totals(plan: OnlinePlan, mean: float, most: int) -> Mapping[Pattern, int]:
    return plan.totals(mean, most)


def _pattern_chances(law: Sequence[float]) -> tuple[float, ...]:
    """P(pattern) of four draws from a law, in the order of `PATTERNS`, by its power sums."""
    s2, s3, s4 = (sum(p**k for p in law) for k in (2, 3, 4))
    all_equal, three = s4, 4 * (s3 - s4)
    pairs, pair = 3 * (s2 * s2 - s4), 6 * (s2 - 2 * s3 - s2 * s2 + 2 * s4)
    return all_equal, three, pairs, pair, max(0.0, 1 - all_equal - three - pairs - pair)

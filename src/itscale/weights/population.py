"""A weighted population: items, unnormalised log weights, and the verbs of sequential Monte Carlo.

Law: the mean weight is the estimate of the normalising constant, and no verb but `reweight` moves
it. `resample` gives every slot the mean weight, so evidence survives it; weights that are not
resampled are carried.

With weights w_i = exp(log_weights[i]), i = 1..N:

    weights       W_i = w_i / sum_j w_j             linear, sum to 1
    ess           (sum_i w_i)^2 / sum_i w_i^2       1 to N   (Kong, Liu & Wong 1994)
    log_evidence  log( (1/N) sum_i w_i )            nats

Reference: Chopin & Papaspiliopoulos 2020, "An Introduction to Sequential Monte Carlo", chapter 10.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from itscale.errors import AllFailedError
from itscale.randomness import Randomness
from itscale.weights.resampling import SCHEMES, Scheme, optimal

__all__ = ["Population"]

T = TypeVar("T")
S = TypeVar("S")
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Population(Generic[T]):
    """N weighted items. Immutable: every verb returns a new population.

    A log weight of -inf is a lost item: it stays in its slot, counts in the mean, and is never
    drawn.

    >>> population = Population.start("ab").reweight([math.log(3), math.log(1)])
    >>> population.weights
    array([0.75, 0.25])
    >>> round(population.ess, 12)                     # (3 + 1)^2 / (9 + 1)
    1.6
    >>> round(math.exp(population.log_evidence), 12)  # (3 + 1) / 2
    2.0

    Raises:
        ValueError: no items, not one weight for each, or a weight is NaN or +inf.
        AllFailedError: every weight is -inf.
    """

    items: tuple[T, ...]
    log_weights: Floats
    """Unnormalised natural log (nats), shape (N,), read-only."""

    def __post_init__(self) -> None:
        log_weights = np.array(self.log_weights, dtype=np.float64)
        if not self.items or log_weights.shape != (len(self.items),):
            raise ValueError(f"{len(self.items)} items need as many weights, and at least one of each")
        if np.any(np.isnan(log_weights)) or np.any(log_weights == np.inf):
            raise ValueError("log weights must be finite or -inf; look for 0/0 or log of a negative")
        if np.all(log_weights == -np.inf):
            raise AllFailedError(
                "every item of the population has weight zero; "
                "check that the model answers and that the scorer gives no score of exactly 0"
            )
        log_weights.setflags(write=False)
        object.__setattr__(self, "log_weights", log_weights)

    @classmethod
    def start(cls, items: Iterable[T]) -> Population[T]:
        """Items of weight 1 each (log weight 0)."""
        held = tuple(items)
        return cls(held, np.zeros(len(held)))

    def __len__(self) -> int:
        return len(self.items)

    @property
    def weights(self) -> Floats:
        """Normalised weights, linear, shape (N,), summing to 1."""
        w = self._scaled()
        total: np.float64 = w.sum()
        return w / total

    @property
    def ess(self) -> float:
        """Effective sample size: N when all weights are equal, 1 when one item has all."""
        w = self._scaled()
        return float(w.sum() ** 2 / (w @ w))

    @property
    def log_evidence(self) -> float:
        """Log of the mean weight (nats): unbiased, on the linear scale, for the normalising constant."""
        return float(self.log_weights.max()) + math.log(float(self._scaled().mean()))

    def reweight(self, log_increments: Iterable[float] | Floats) -> Population[T]:
        """Multiply every weight by exp of its increment (nats, shape (N,)).

        Raises:
            ValueError: an increment is NaN or +inf, or there is not one for each item.
            AllFailedError: no item has any weight left.
        """
        increments = np.array([*log_increments], dtype=np.float64)
        if increments.shape != self.log_weights.shape:
            raise ValueError(f"{len(increments)} increments for {len(self)} items; give exactly one each")
        if np.any(np.isnan(increments)) or np.any(increments == np.inf):
            raise ValueError("log increments must be finite or -inf; look for 0/0 or log of a negative")
        return Population(self.items, self.log_weights + increments)

    def resample(
        self,
        scheme: Scheme,
        rng: Randomness,
        n: int | None = None,
        *,
        by: Iterable[float] | Floats | None = None,
    ) -> tuple[Population[T], npt.NDArray[np.intp]]:
        """`n` (default N) items: unbiased for any sum over the weighted items.

        Every new log weight is `log_evidence`, so the estimate of the normalising constant stays.
        With `by`, other log weights v_i (nats, shape (N,)) to draw by, an item keeps what the draw
        did not account for: its new weight is (w_i / v_i) mean(v), and the estimate is unbiased.

        >>> from itscale.randomness import Seeded
        >>> population = Population.start("ab").reweight([math.log(3), math.log(1)])
        >>> again, ancestors = population.resample("systematic", Seeded(0), n=4)
        >>> again.items, ancestors.tolist()
        (('a', 'a', 'a', 'b'), [0, 0, 0, 1])
        >>> np.exp(again.log_weights).round(12).tolist()
        [2.0, 2.0, 2.0, 2.0]

        >>> flatter, _ = population.resample("systematic", Seeded(0), by=[0.0, 0.0])
        >>> flatter.items, flatter.weights.round(12).tolist()
        (('a', 'b'), [0.75, 0.25])

        Returns:
            The new population, and the slot each of its items was in before, shape (n,).

        Raises:
            ValueError: `by` is of another shape, not finite, or would never draw an item of weight.
        """
        drawn = self if by is None else Population(self.items, np.array([*by], dtype=np.float64))
        if np.any((drawn.log_weights == -np.inf) & (self.log_weights > -np.inf)):
            raise ValueError("an item of positive weight can never be drawn; give it a finite weight in `by`")
        ancestors = SCHEMES[scheme](drawn.weights, len(self) if n is None else n, rng)
        items = tuple(self.items[a] for a in ancestors)
        left = self.log_weights[ancestors] - drawn.log_weights[ancestors]
        return Population(items, left + drawn.log_evidence), ancestors

    def split(self, shares: Sequence[Mapping[S, float]]) -> Population[S]:
        """Every item replaced by those that share its weight.

        >>> population = Population.start("ab").reweight([math.log(3), math.log(1)])
        >>> again = population.split([{"aa": 0.5, "ab": 0.5}, {"b": 1.0}])
        >>> again.items, again.weights.tolist(), round(math.exp(again.log_evidence), 12)
        (('aa', 'ab', 'b'), [0.375, 0.375, 0.25], 2.0)

        Args:
            shares: for each item who shares its weight, and how (linear). What they do not add up
                to 1 by is lost.

        Raises:
            ValueError: there is not one mapping for each item, or nothing is left.
            AllFailedError: nothing that is left has any weight.
        """
        if len(shares) != len(self):
            raise ValueError(f"{len(shares)} groups for {len(self)} items; give exactly one each")
        parts = [(item, i, share) for i, group in enumerate(shares) for item, share in group.items()]
        scale = math.log(len(parts) / len(self)) if parts else 0.0
        log_weights = [self.log_weights[i] + math.log(share) + scale for _, i, share in parts]
        return Population(tuple(item for item, _, _ in parts), np.array(log_weights))

    def reduce(self, n: int, rng: Randomness) -> Population[T]:
        """At most `n` of the items, none twice: unbiased for any sum over the weighted items.

        The scheme is `optimal`; lost items are dropped first.
        """
        picked, weights = optimal(self.weights, n, rng)
        log_weights = np.log(weights) + self.log_evidence + math.log(len(picked))
        return Population(tuple(self.items[i] for i in picked), log_weights)

    def _scaled(self) -> Floats:
        """Weights divided by the largest, so that the largest is 1 and nothing overflows."""
        scaled: Floats = np.exp(self.log_weights - self.log_weights.max())
        return scaled

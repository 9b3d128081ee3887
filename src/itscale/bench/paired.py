"""Cells compared on the same problems: differences with intervals, tests, and Holm's correction.

Laws: a comparison uses the problems both cells have run, and the problem is the unit: several seeds
of one problem are averaged before anything is tested. The exact McNemar test is used where both
cells have one run a problem, a sign-flip test of the problem means otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from itscale.bench.rows import CellKey, Row

__all__ = ["Comparison", "PairedDifference", "compare", "holm", "outcomes_of", "paired_difference"]

_Z_95 = NormalDist().inv_cdf(0.975)
FLIPS = 20_000


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Two cells on the same problems."""

    problems: int
    difference: float
    """Accuracy of the first less that of the second, -1 to 1."""
    only_first: int
    """Problems only the first got right (with several seeds: on which it was right more often)."""
    only_second: int
    p_value: float
    """Two-sided: both are equally likely to win a problem they differ on."""


def paired_difference(first: Mapping[str, bool], second: Mapping[str, bool]) -> PairedDifference:
    """Compare two cells, given as problem id to correct, on the problems both have (exact McNemar).

    >>> paired_difference({"a": True, "b": True, "c": True}, {"a": False, "b": True, "c": False})
    PairedDifference(problems=3, difference=0.6666666666666666, only_first=2, only_second=0, p_value=0.5)
    """
    common = first.keys() & second.keys()
    only_first = sum(first[i] and not second[i] for i in common)
    only_second = sum(second[i] and not first[i] for i in common)
    return PairedDifference(
        problems=len(common),
        difference=(only_first - only_second) / len(common) if common else 0.0,
        only_first=only_first,
        only_second=only_second,
        p_value=_mcnemar(only_first, only_second),
    )


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two cells of one context on the same problems, with what is needed to believe it."""

    first: CellKey
    second: CellKey
    paired: PairedDifference
    ci_low: float
    """95 % interval of the difference."""
    ci_high: float
    p_holm: float
    """p_value corrected for all comparisons made together (Holm 1979)."""


def compare(
    rows: Iterable[Row], pairs: Sequence[tuple[CellKey, CellKey]], *, seed: int = 0
) -> list[Comparison]:
    """Every pair compared, the p-values corrected as one family; pairs without a common problem left out."""
    outcomes = outcomes_of(rows)
    found = []
    for first, second in pairs:
        one, other = outcomes.get(first, {}), outcomes.get(second, {})
        if common := sorted(one.keys() & other.keys()):
            differences = np.array([_mean(one[i]) - _mean(other[i]) for i in common])
            paired = _paired(one, other, common, differences, seed)
            found.append(Comparison(first, second, paired, *_interval(differences), 1.0))
    corrected = holm([comparison.paired.p_value for comparison in found])
    return [replace(one, p_holm=p) for one, p in zip(found, corrected, strict=True)]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the given order: the chance of any false claim stays below each.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, largest = [1.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def outcomes_of(rows: Iterable[Row]) -> dict[CellKey, dict[str, list[bool]]]:
    """For every cell, each problem's runs: right or not."""
    outcomes: dict[CellKey, dict[str, list[bool]]] = {}
    for row in rows:
        outcomes.setdefault(row.cell, {}).setdefault(row.problem, []).append(row.correct)
    return outcomes


def _paired(
    one: Mapping[str, Sequence[bool]],
    other: Mapping[str, Sequence[bool]],
    common: Sequence[str],
    differences: np.ndarray,
    seed: int,
) -> PairedDifference:
    if all(len(one[i]) == len(other[i]) == 1 for i in common):
        return paired_difference({i: one[i][0] for i in common}, {i: other[i][0] for i in common})
    return PairedDifference(
        problems=len(common),
        difference=float(differences.mean()),
        only_first=int((differences > 0).sum()),
        only_second=int((differences < 0).sum()),
        p_value=_sign_flips(differences, seed),
    )


def _mcnemar(only_first: int, only_second: int) -> float:
    disputed = only_first + only_second
    tail = sum(math.comb(disputed, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, float(2 * tail / 2**disputed))  # whole numbers: a float of the sum would overflow


def _sign_flips(differences: np.ndarray, seed: int) -> float:
    """P(|mean| as large under random signs), all sign patterns where there are few, else a sample of them."""
    moved = differences[differences != 0]
    if not len(moved):
        return 1.0
    observed = abs(moved.sum()) - 1e-12
    if len(moved) <= 14:
        patterns = (np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved))) & 1
        return float((np.abs((2 * patterns - 1) @ moved) >= observed).mean())
    signs = np.random.default_rng(seed).integers(0, 2, (FLIPS, len(moved)), dtype=np.int8)
    hits = int((np.abs((2 * signs - 1) @ moved) >= observed).sum())
    return float((hits + 1) / (FLIPS + 1))  # the observed signs are one of the patterns


def _interval(differences: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean: two made-up problems, one won by either side, then the normal interval.

    With one run a problem this is that of Bonett and Price 2012 (J. Educ. Behav. Stat. 37, 479-488),
    which keeps its coverage where few problems differ and a bootstrap would shrink to a point.
    """
    more = np.append(differences, [1.0, -1.0])
    half = _Z_95 * math.sqrt(float(more.var()) / len(more))
    centre = float(more.mean())
    return max(-1.0, centre - half), min(1.0, centre + half)


def _mean(own: Sequence[bool]) -> float:
    return sum(own) / len(own)

"""Sweeps over methods and budgets, kept row by row, summed up with intervals, drawn."""

from itscale.bench.statistics import (
    CellSummary,
    PairedDifference,
    coverage,
    paired_difference,
    pass_at_k,
    summarise,
    wilson_interval,
)
from itscale.bench.store import Row, RunFolder
from itscale.bench.sweep import Cell, Sweep, run_sweep
from itscale.bench.verifiers import (
    BestK,
    ImperfectVerifier,
    best_k,
    estimate_verifier,
    predicted_accuracy,
    predicted_utility,
)

__all__ = [
    "BestK",
    "Cell",
    "CellSummary",
    "ImperfectVerifier",
    "PairedDifference",
    "Row",
    "RunFolder",
    "Sweep",
    "best_k",
    "coverage",
    "estimate_verifier",
    "paired_difference",
    "pass_at_k",
    "predicted_accuracy",
    "predicted_utility",
    "run_sweep",
    "summarise",
    "wilson_interval",
]

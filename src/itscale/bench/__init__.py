"""Sweeps over methods and budgets, kept row by row, summed up with intervals, drawn."""

from itscale.bench.paired import Comparison, PairedDifference, compare, holm, paired_difference
from itscale.bench.rows import CellKey, Context, Row, RowKey
from itscale.bench.statistics import (
    CellSummary,
    cells_of,
    clustered_interval,
    coverage,
    pass_at_k,
    summarise,
    wilson_interval,
)
from itscale.bench.store import Run, RunFolder, read_run
from itscale.bench.sweep import Cell, Sweep, run_sweep, run_sweeps
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
    "CellKey",
    "CellSummary",
    "Comparison",
    "Context",
    "ImperfectVerifier",
    "PairedDifference",
    "Row",
    "RowKey",
    "Run",
    "RunFolder",
    "Sweep",
    "best_k",
    "cells_of",
    "clustered_interval",
    "compare",
    "coverage",
    "estimate_verifier",
    "holm",
    "paired_difference",
    "pass_at_k",
    "predicted_accuracy",
    "predicted_utility",
    "read_run",
    "run_sweep",
    "run_sweeps",
    "summarise",
    "wilson_interval",
]

"""Sweeps over methods and budgets, kept row by row, summed up with intervals, drawn."""

from itscale.bench.statistics import (
    CellSummary,
    PairedDifference,
    paired_difference,
    summarise,
    wilson_interval,
)
from itscale.bench.store import Row, RunFolder
from itscale.bench.sweep import Cell, Sweep, run_sweep

__all__ = [
    "Cell",
    "CellSummary",
    "PairedDifference",
    "Row",
    "RunFolder",
    "Sweep",
    "paired_difference",
    "run_sweep",
    "summarise",
    "wilson_interval",
]

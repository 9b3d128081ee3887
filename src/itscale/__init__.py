"""Inference-time scaling: a frozen model, a scorer and a budget in; a better answer and its account out.

The names below are the public ones; the rooms (`itscale.methods`, `itscale.models`, ...) hold the
rest. Importing this package imports neither torch nor matplotlib.
"""

from itscale.budget import Budget, Price, Usage
from itscale.errors import ItscaleError
from itscale.methods import (
    Beam,
    BestOfN,
    Greedy,
    Majority,
    Method,
    ParticleFilter,
    Result,
    Sample,
    WeightedBestOfN,
)
from itscale.models.base import Model
from itscale.registry import load_model, load_scorer, load_task, parse_method
from itscale.scorers.base import OutcomeScorer, ProcessScorer
from itscale.types import Candidate, Path, Problem, Prompt, Step
from itscale.version import __version__

__all__ = [
    "Beam",
    "BestOfN",
    "Budget",
    "Candidate",
    "Greedy",
    "ItscaleError",
    "Majority",
    "Method",
    "Model",
    "OutcomeScorer",
    "ParticleFilter",
    "Path",
    "Price",
    "Problem",
    "ProcessScorer",
    "Prompt",
    "Result",
    "Sample",
    "Step",
    "Usage",
    "WeightedBestOfN",
    "__version__",
    "load_model",
    "load_scorer",
    "load_task",
    "parse_method",
]

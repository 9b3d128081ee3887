"""Inference-time scaling: a frozen model, a scorer and a budget in; a better answer and its account out.

The names below are the public ones; the rooms (`itscale.methods`, `itscale.models`, ...) hold the
rest. Importing this package imports neither torch nor matplotlib.
"""

from itscale.budget import Budget, Price, Usage
from itscale.errors import ItscaleError
from itscale.methods import (
    DVTS,
    AdaptiveConsistency,
    AStar,
    Beam,
    BestFirst,
    BestOfMajority,
    BestOfN,
    ConfidenceVote,
    EntropicParticleFilter,
    Greedy,
    Knockout,
    Listwise,
    Lookahead,
    Majority,
    Method,
    ParticleFilter,
    ParticleGibbs,
    Rebase,
    Result,
    RoundRobin,
    Sample,
    ShortMAtK,
    WeightedBestOfN,
)
from itscale.models.base import Model
from itscale.registry import load_model, load_scorer, load_task, parse_method
from itscale.scorers.base import ComparisonScorer, OutcomeScorer, ProcessScorer
from itscale.types import Candidate, Path, Problem, Prompt, Step
from itscale.version import __version__

__all__ = [
    "DVTS",
    "AStar",
    "AdaptiveConsistency",
    "Beam",
    "BestFirst",
    "BestOfMajority",
    "BestOfN",
    "Budget",
    "Candidate",
    "ComparisonScorer",
    "ConfidenceVote",
    "EntropicParticleFilter",
    "Greedy",
    "ItscaleError",
    "Knockout",
    "Listwise",
    "Lookahead",
    "Majority",
    "Method",
    "Model",
    "OutcomeScorer",
    "ParticleFilter",
    "ParticleGibbs",
    "Path",
    "Price",
    "Problem",
    "ProcessScorer",
    "Prompt",
    "Rebase",
    "Result",
    "RoundRobin",
    "Sample",
    "ShortMAtK",
    "Step",
    "Usage",
    "WeightedBestOfN",
    "__version__",
    "load_model",
    "load_scorer",
    "load_task",
    "parse_method",
]

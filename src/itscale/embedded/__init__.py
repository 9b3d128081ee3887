"""Where the shipped checkpoints are: two ordinary Hugging Face checkpoint folders, package data."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

__all__ = ["PROCESS_SCORER", "REASONER"]

_HERE = Path(str(files("itscale.embedded")))

REASONER = _HERE / "reasoner"
"""A causal language model that solves the embedded tasks, a line at a time."""

PROCESS_SCORER = _HERE / "process_scorer"
"""A process reward model: the probability that a prefix ends in a right answer, after each line."""

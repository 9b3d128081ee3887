"""Inference methods: one file each, named for the algorithm."""

from itscale.methods.base import Method, Outcome, Result
from itscale.methods.beam import Beam
from itscale.methods.best_of_n import BestOfN, WeightedBestOfN
from itscale.methods.greedy import Greedy
from itscale.methods.majority import Majority
from itscale.methods.particle_filter import ParticleFilter
from itscale.methods.sample import Sample

__all__ = [
    "Beam",
    "BestOfN",
    "Greedy",
    "Majority",
    "Method",
    "Outcome",
    "ParticleFilter",
    "Result",
    "Sample",
    "WeightedBestOfN",
]

"""Inference methods: one file each, named for the algorithm."""

from itscale.methods.a_star import AStar
from itscale.methods.adaptive_consistency import AdaptiveConsistency
from itscale.methods.anytime import Anytime
from itscale.methods.base import Method, Outcome, Result
from itscale.methods.beam import Beam
from itscale.methods.best_first import BestFirst
from itscale.methods.best_of_majority import BestOfMajority
from itscale.methods.best_of_n import BestOfN, WeightedBestOfN
from itscale.methods.budget_forcing import BudgetForcing
from itscale.methods.confidence_vote import ConfidenceVote
from itscale.methods.diffusion_tree import DiffusionTreeSampling, DiffusionTreeSearch
from itscale.methods.dvts import DVTS
from itscale.methods.early_exit import EarlyExit
from itscale.methods.entropic_particle_filter import EntropicParticleFilter
from itscale.methods.entropy_exit import EntropyExit
from itscale.methods.entropy_tree import EntropyTree
from itscale.methods.greedy import Greedy
from itscale.methods.knockout import Knockout
from itscale.methods.listwise import Listwise
from itscale.methods.lookahead import Lookahead
from itscale.methods.lookahead_tree import LookaheadTree
from itscale.methods.majority import Majority
from itscale.methods.mcts import MCTS
from itscale.methods.parallel_tempering import ParallelTempering
from itscale.methods.particle_cascade import ParticleCascade
from itscale.methods.particle_filter import ParticleFilter
from itscale.methods.particle_gibbs import ParticleGibbs
from itscale.methods.pruned_majority import PrunedMajority
from itscale.methods.rebase import Rebase
from itscale.methods.resample_move import ResampleMove
from itscale.methods.revision_smc import RevisionSMC
from itscale.methods.round_robin import RoundRobin
from itscale.methods.sample import Sample
from itscale.methods.segment_tree import SegmentTree
from itscale.methods.self_evaluation import SelfEvaluation
from itscale.methods.semantic_tree import SemanticTree
from itscale.methods.short_m_at_k import ShortMAtK
from itscale.methods.smc_beam import SMCBeam
from itscale.methods.step_beam import StepBeam
from itscale.methods.thinking_mode import ThinkingMode

__all__ = [
    "DVTS",
    "MCTS",
    "AStar",
    "AdaptiveConsistency",
    "Anytime",
    "Beam",
    "BestFirst",
    "BestOfMajority",
    "BestOfN",
    "BudgetForcing",
    "ConfidenceVote",
    "DiffusionTreeSampling",
    "DiffusionTreeSearch",
    "EarlyExit",
    "EntropicParticleFilter",
    "EntropyExit",
    "EntropyTree",
    "Greedy",
    "Knockout",
    "Listwise",
    "Lookahead",
    "LookaheadTree",
    "Majority",
    "Method",
    "Outcome",
    "ParallelTempering",
    "ParticleCascade",
    "ParticleFilter",
    "ParticleGibbs",
    "PrunedMajority",
    "Rebase",
    "ResampleMove",
    "Result",
    "RevisionSMC",
    "RoundRobin",
    "SMCBeam",
    "Sample",
    "SegmentTree",
    "SelfEvaluation",
    "SemanticTree",
    "ShortMAtK",
    "StepBeam",
    "ThinkingMode",
    "WeightedBestOfN",
]

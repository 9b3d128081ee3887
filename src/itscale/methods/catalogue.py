"""Every method by its name, in the order in which lists show them."""

from __future__ import annotations

from collections.abc import Mapping

from itscale.methods import (
    DVTS,
    MCTS,
    AdaptiveConsistency,
    Anytime,
    AStar,
    Beam,
    BestFirst,
    BestOfMajority,
    BestOfN,
    BudgetForcing,
    ConfidenceVote,
    DiffusionTreeSampling,
    DiffusionTreeSearch,
    EarlyExit,
    EntropicParticleFilter,
    EntropyExit,
    EntropyTree,
    Greedy,
    Knockout,
    Listwise,
    Lookahead,
    LookaheadTree,
    Majority,
    ParticleFilter,
    ParticleGibbs,
    PrunedMajority,
    Rebase,
    RoundRobin,
    Sample,
    SegmentTree,
    SelfEvaluation,
    SemanticTree,
    ShortMAtK,
    StepBeam,
    ThinkingMode,
    WeightedBestOfN,
)
from itscale.methods.base import Method

__all__ = ["METHODS"]

METHODS: Mapping[str, type[Method]] = {
    method.name: method
    for method in (
        Greedy,
        Sample,
        Majority,
        BestOfN,
        WeightedBestOfN,
        BestOfMajority,
        Knockout,
        RoundRobin,
        Listwise,
        ConfidenceVote,
        AdaptiveConsistency,
        ShortMAtK,
        SelfEvaluation,
        PrunedMajority,
        BudgetForcing,
        EarlyExit,
        EntropyExit,
        Anytime,
        ThinkingMode,
        Beam,
        DVTS,
        Lookahead,
        Rebase,
        BestFirst,
        AStar,
        StepBeam,
        MCTS,
        DiffusionTreeSampling,
        DiffusionTreeSearch,
        SegmentTree,
        EntropyTree,
        LookaheadTree,
        SemanticTree,
        ParticleFilter,
        EntropicParticleFilter,
        ParticleGibbs,
    )
}

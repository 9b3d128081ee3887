"""What a search has found outlives a model that fails afterwards."""

from __future__ import annotations

import asyncio

import pytest

from itscale.budget import Budget
from itscale.methods import DVTS, MCTS, AStar, Beam, BestFirst, Lookahead, Rebase, SMCBeam, StepBeam
from itscale.models.fake import FakeModel
from itscale.scorers.fake import FakeProcessScorer
from tests.methods.trees import PROMPT, TREE


@pytest.mark.parametrize(
    "method",
    [
        Beam(width=2, finished_hold_slot=False),
        Lookahead(width=2, finished_hold_slot=False),
        *(
            Beam(width=2),
            Lookahead(width=2),
            DVTS(width=2),
            Rebase(),
            BestFirst(),
            AStar(),
            StepBeam(width=2),
        ),
        *(SMCBeam(), MCTS()),
    ],
    ids=repr,
)
def test_an_answer_that_is_there_outlives_a_model_that_fails(method):
    """After the first level every call fails; what had finished by then is the answer, not an error."""
    model = FakeModel(TREE, fail=lambda call: call >= 1)
    scorer = FakeProcessScorer(lambda texts: 0.9 if texts[-1] == "x" else 0.1)
    result = asyncio.run(method.run(PROMPT, model, scorer, Budget(generations=4), 4))
    assert result.text == "x"

"""Runs on a model that fails: what was found outlives it, and nothing is left running."""

from __future__ import annotations

import asyncio

import pytest

from itscale.budget import Budget
from itscale.errors import PromptError
from itscale.methods import (
    DVTS,
    MCTS,
    AStar,
    Beam,
    BestFirst,
    Lookahead,
    Majority,
    Rebase,
    SelfEvaluation,
    SMCBeam,
    StepBeam,
)
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


class Refuses(FakeModel):
    """Reads nothing but the first three calls; the others are slow."""

    async def extend(self, path, n, until, sampling, rng, ledger):
        if self.calls == 3:
            raise PromptError("cannot read this; ask something else")
        return await super().extend(path, n, until, sampling, rng, ledger)


@pytest.mark.parametrize(
    "method",
    [SelfEvaluation(at_once=4, question="x", yes="x", no="y"), Majority(early_stop=True)],
    ids=lambda m: m.name,
)
def test_an_error_that_ends_a_run_leaves_no_call_behind(method):
    """Samples under way beside the one that failed are cancelled, and the run waits until they are."""
    model = Refuses(TREE, latency_s=5)

    async def scenario() -> int:
        with pytest.raises(PromptError):
            await method.run(PROMPT, model, None, Budget(generations=4))
        return model.running

    assert asyncio.run(scenario()) == 0
    assert model.calls == 3

"""A model that says nothing and does not end: a failed call, where loops over steps would run for ever."""

from __future__ import annotations

import asyncio

import pytest

from itscale.budget import Budget
from itscale.errors import AllFailedError
from itscale.methods import MCTS, Anytime, BudgetForcing, ParticleFilter
from itscale.models.fake import FakeModel
from itscale.scorers.fake import FakeProcessScorer
from itscale.types import End, Step


class Silent(FakeModel):
    """Flips coins, a step each, and after some calls gives steps of nothing."""

    def __init__(self, after: int) -> None:
        super().__init__(lambda prefix: {"a|": 0.5, "b|": 0.5}, vocabulary=["a|", "b|", "$"])
        self.after = after

    async def extend(self, path, n, until, sampling, rng, ledger):
        if self.calls < self.after:
            return await super().extend(path, n, until, sampling, rng, ledger)
        self.calls += 1
        ledger.charge_model(prompt=1, cached=0, generated=0)
        return [path.child(Step((), "", End.BOUNDARY)) for _ in range(n)]


def run(method, model):
    scorer = FakeProcessScorer(lambda texts: 0.3 + 0.4 * ("a" in texts[-1]))
    return asyncio.run(method.run("flip", model, scorer, Budget(generations=2), 0))


@pytest.mark.parametrize(
    "method", [ParticleFilter(), MCTS(), BudgetForcing(), Anytime()], ids=lambda m: m.name
)
def test_silence_from_the_start_is_an_error(method):
    """With nothing to go on from, and the way to find out what is wrong."""
    with pytest.raises(AllFailedError, match="itscale doctor"):
        run(method, Silent(0))


def test_silence_later_costs_those_paths():
    """The paths that went on before are still there, and the loop ends."""
    model = Silent(3)
    result = run(MCTS(), model)
    assert result.usage.failed_calls > 0
    assert result.text
    assert model.calls < 40

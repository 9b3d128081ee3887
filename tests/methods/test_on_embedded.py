"""Every method that samples, votes or stops, run for real: the embedded models, both tasks, a tiny budget."""

from __future__ import annotations

import asyncio

import pytest

from itscale.budget import Budget, Ledger
from itscale.methods.early_exit import ExitRule
from itscale.methods.probes import Probe
from itscale.methods.success import SuccessPredictor
from itscale.registry import METHODS, load_task
from itscale.scorers.fake import FakeComparisonScorer
from itscale.types import Path, Prompt, StopReason

TOKENS = 120
OPTIONS = {
    "budget-forcing": {"thinking": 12, "waits": 1},
    "anytime": {"every": 8, "readings": 2},
    "entropy-exit": {"window": 4, "threshold": 1.1},
    "thinking-mode": {"short_tokens": 8},
    "short-m-at-k": {"m": 2},
    "self-evaluation": {"at_once": 2, "prune_after": 4},
}
"""Small enough for the embedded model's short solutions."""
NAMES = [name for name, method in METHODS.items() if method.scorer_kind != "process"]


@pytest.fixture(scope="module")
def files(reasoner, tmp_path_factory) -> dict[str, str]:
    """A calibration file of each kind for the embedded model, from a probe that believes in everything."""
    states = asyncio.run(
        reasoner.hidden_states(Path.root(Prompt.user("Given a = 1 + 1, find a.")), Ledger(Budget()))
    )
    width = len(states)
    probe = Probe("hidden", (0.0,) * width, (1.0,) * width, (0.0,) * width, 1.0)
    folder = tmp_path_factory.mktemp("calibrations")
    rule = ExitRule(reasoner.identity, probe, 0.5, 0.5, 0.1, "question", "step", "answer")
    rule.to_calibration({}).save(folder / "exit.json")
    SuccessPredictor(reasoner.identity, probe, probe, 8).to_calibration({}).save(folder / "success.json")
    success = str(folder / "success.json")
    return {"early-exit": str(folder / "exit.json"), "pruned-majority": success, "self-evaluation": success}


@pytest.mark.parametrize("name", NAMES)
def test_it_answers_within_its_budget(name, reasoner, process_scorer, files):
    """It ends by itself or by its limit on tokens, which holds; what it answers was read off its text."""
    options = OPTIONS.get(name, {}) | ({"calibration": files[name]} if name in files else {})
    method = METHODS[name](**options)
    scorer = (
        FakeComparisonScorer(lambda texts: range(len(texts)))
        if method.scorer_kind == "comparison"
        else process_scorer
    )
    budget = Budget(generations=2, tokens=TOKENS)

    async def run():
        prompts = [load_task(task).problems(1, seed=3)[0].prompt for task in ("countdown", "chain")]
        return await asyncio.gather(*(method.run(p, reasoner, scorer, budget, 1) for p in prompts))

    for result in asyncio.run(run()):
        assert result.stop_reason in (StopReason.DONE, StopReason.TOKENS)
        assert 0 < result.usage.generated_tokens <= TOKENS
        assert result.answer is not None
        assert result.answer in result.text

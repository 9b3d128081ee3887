"""Every method under failures, limits, speculation and cancellation: the account is the model's own.

Laws 5, 6 and 7 for whatever is in the catalogue, so that a new method is held to them unasked. The
model's counters stand on the other side of the seam. What fails, binds or is cancelled is drawn from
fixed seeds; no verdict depends on which of them it is, so there are no false alarms.
"""

from __future__ import annotations

import asyncio
import random
import zlib
from dataclasses import fields

import pytest

from itscale.budget import Budget, Ledger, Price
from itscale.errors import AllFailedError
from itscale.events import Proposed
from itscale.methods import base
from itscale.models.fake import FakeModel
from itscale.registry import METHODS
from itscale.scorers.fake import FakeComparisonScorer, FakeProcessScorer
from tests.methods.trees import PROMPT

NAMES = [name for name in METHODS if name not in ("pruned-majority", "early-exit")]  # they need a fitted file
UNHURRIED = [name for name in NAMES if not METHODS[name]().races]
SAID = "Answer: Would you do better if you started over? (YesNo"
VOCABULARY = ["a|", "b|", "x", "y", "$", "\n", *sorted(set(SAID))]


def law(prefix):
    """Steps of one token; an answer ends after x or y, and after ten tokens in any case."""
    if len(prefix) > 9 or (prefix and prefix[-1] in "xy"):
        return {"$": 1.0}
    return {"a|": 0.4, "b|": 0.2, "x": 0.3, "y": 0.1}


def judge(texts):
    """A process score that differs from prefix to prefix."""
    return 0.05 + 0.9 * (zlib.crc32(repr(texts).encode()) % 1000) / 1000


class Uneven(FakeModel):
    """Calls take turns of different lengths."""

    turns: random.Random | None = None

    async def extend(self, path, n, until, sampling, rng, ledger):
        for _ in range(self.turns.randrange(6) if self.turns else 0):
            await asyncio.sleep(0)
        return await super().extend(path, n, until, sampling, rng, ledger)


class UnevenScorer(FakeProcessScorer):
    """So do judgements."""

    turns: random.Random | None = None

    async def score(self, path, ledger):
        for _ in range(self.turns.randrange(6) if self.turns else 0):
            await asyncio.sleep(0)
        return await super().score(path, ledger)


def scorer_for(method, **options):
    """A scorer of the kind a method asks for."""
    if method.scorer_kind == "comparison":
        return FakeComparisonScorer(lambda texts: [sorted(texts).index(text) for text in texts], **options)
    return None if method.scorer_kind == "none" else UnevenScorer(judge, **options)


def made(name, dice):
    """The method, with what changes when things are begun, by the dice."""
    own = {field.name for field in fields(METHODS[name])}
    return METHODS[name](**{o: True for o in ("speculate", "early_stop") if o in own and dice.random() < 0.5})


@pytest.mark.parametrize("name", NAMES)
def test_what_is_charged_is_what_was_made(name, monkeypatch):
    """To the token and the call, however the run ends; nothing stays reserved or running, no limit is
    overstepped."""
    ledgers: list[Ledger] = []

    class Kept(Ledger):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            ledgers.append(self)

    monkeypatch.setattr(base, "Ledger", Kept)

    async def scenario(seed):
        dice = random.Random(f"{name} {seed}")
        method, failing = made(name, dice), dice.choice([0, 0, 0.1, 0.5])
        model = Uneven(
            law, vocabulary=VOCABULARY, price=Price(generated_usd=1e6), fail=lambda _: dice.random() < failing
        )
        model.turns = dice
        scorer = scorer_for(method, fail=lambda _: dice.random() < failing)
        limits = {"generations": dice.choice([1, 2, 5, 9])}
        limits |= dice.choice([{}, {dice.choice(["tokens", "dollars", "scorer_calls"]): dice.randint(1, 12)}])
        run = asyncio.ensure_future(method.run(PROMPT, model, scorer, Budget(**limits), seed))
        if dice.random() < 0.3:
            for _ in range(dice.randrange(12)):
                await asyncio.sleep(0)
            run.cancel()
        try:
            result = await run
            assert result.usage.generated_tokens == model.tokens_generated
        except (asyncio.CancelledError, AllFailedError):
            pass
        [ledger] = ledgers or [Ledger(Budget())]
        ledgers.clear()
        assert model.running == 0
        assert ledger._reserved_tokens == 0
        made_here = model.tokens_generated, model.calls, model.tokens_read
        assert (ledger.generated_tokens, ledger.model_calls, ledger.prompt_tokens) == made_here
        assert model.tokens_generated <= min(limits.get("tokens", 999), limits.get("dollars", 999))
        assert ledger.generations <= limits["generations"]
        assert ledger.scorer_calls <= limits.get("scorer_calls", 10**9)

    for seed in range(20):
        asyncio.run(scenario(seed))


@pytest.mark.parametrize("name", NAMES)
def test_the_trace_tells_of_every_token(name):
    """Where nothing fails and nothing is cut short, the tokens of its steps are those of the account."""
    for seed in range(4):
        method, model = made(name, random.Random(seed)), Uneven(law, vocabulary=VOCABULARY)
        result = asyncio.run(method.run(PROMPT, model, scorer_for(method), Budget(generations=5), seed))
        told = sum(event.tokens for event in result.trace.events if isinstance(event, Proposed))
        assert told == result.usage.generated_tokens == model.tokens_generated


@pytest.mark.parametrize("name", UNHURRIED)
def test_a_run_depends_on_its_seed_and_not_on_speed(name):
    """Whatever the order in which calls come back, the result is the same, to the last weight."""

    def told(seed, turns):
        method = METHODS[name]()
        model, scorer = Uneven(law, vocabulary=VOCABULARY), scorer_for(method)
        model.turns = turns
        if isinstance(scorer, UnevenScorer):
            scorer.turns = turns
        result = asyncio.run(method.run(PROMPT, model, scorer, Budget(generations=6), seed))
        paths = [(c.path.text, c.weight, c.score) for c in result.candidates]
        return result.text, result.chosen, result.log_evidence, result.ess, paths

    for seed in range(4):
        assert told(seed, None) == told(seed, random.Random(seed)) == told(seed, random.Random(-seed - 1))

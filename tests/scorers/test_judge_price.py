"""A judge's tokens cost its own model's price: live, recorded, under a limit, from a price file."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from itscale.bench.costs import Prices, priced
from itscale.bench.rows import Row
from itscale.budget import Budget, Price, Usage
from itscale.methods import BestOfN, ParticleFilter
from itscale.recording import Recording
from itscale.scorers.judge import OutcomeJudge, ProcessJudge
from itscale.scorers.recorded import record_scores
from itscale.types import StopReason
from tests.bench.worlds import coin_model
from tests.scorers.test_judge import Scribe

OWN = Price(prompt_usd=2.0, generated_usd=5.0)
JUDGE = Price(prompt_usd=3.0, cached_usd=1.0, generated_usd=20.0)


def account(recording: Recording | None = None, judge_price: Price | None = JUDGE) -> tuple[Usage, Scribe]:
    """Three answers judged by a judge of that price, and the judge."""
    model = Scribe(lambda asked: "It is right.\nScore: 8", price=judge_price)
    judge: Any = OutcomeJudge(model)
    if recording is not None:
        judge = record_scores(judge, recording)
    asked = coin_model(price=OWN)
    return asyncio.run(BestOfN().run("Call it.", asked, judge, Budget(generations=3))).usage, model


def test_it_is_paid_at_its_own_price():
    """To the token, as counted on its side of the seam, beside the model's at the model's price."""
    usage, judge = account()
    read, written = sum(len(text.split()) for text in judge.asked), 5 * len(judge.asked)
    assert (usage.judge_prompt_tokens, usage.judge_generated_tokens) == (read, written)
    assert usage.scorer_tokens == read + written
    own = 2.0 * usage.prompt_tokens + 5.0 * usage.generated_tokens
    assert usage.dollars == pytest.approx((own + 3.0 * read + 20.0 * written) / 1e6, rel=1e-12)
    assert account(judge_price=None)[0].dollars == pytest.approx(own / 1e6, rel=1e-12)


def test_a_recording_accounts_for_the_same(tmp_path: Path):
    """What is replayed costs in the account what it cost when it was recorded."""
    with Recording(tmp_path / "calls.sqlite") as recording:
        first, again = account(recording)[0], account(recording)[0]
    assert again.replayed_scorer_calls == again.scorer_calls
    assert again.dollars == first.dollars == account()[0].dollars


def test_a_limit_on_dollars_counts_it():
    """A dear judge ends a run that its model's tokens would not have ended."""

    def ends(generated_usd: float) -> StopReason:
        judge = ProcessJudge(Scribe(lambda asked: "Score: 8", price=Price(generated_usd=generated_usd)))
        budget = Budget(generations=4, dollars=1.0)
        run = ParticleFilter().run("Call it.", coin_model(price=Price(generated_usd=1.0)), judge, budget)
        return asyncio.run(run).stop_reason

    assert ends(0.0) is StopReason.DONE
    assert ends(1e6) is StopReason.DOLLARS


def test_a_price_file_prices_the_judges_model():
    """By the spec of the model behind the judge; a judge it does not name costs nothing."""
    usage = replace(account()[0], dollars=0.0)
    row = Row(
        task="t", problem="p", level=1, method="best-of-n", budget=3, seed=0, correct=True, any_correct=True,
        answer=None, stop_reason="done", error=None, usage=usage, model="m", scorer="judge:j#n=1",
    )  # fmt: skip
    files = [Prices({"m": OWN, **more}, {}, {}) for more in ({"j": JUDGE}, {})]
    both, alone = (priced([row], prices)[0].usage.dollars for prices in files)
    assert both == pytest.approx(account()[0].dollars, rel=1e-12)
    assert alone == pytest.approx(account(judge_price=None)[0].dollars, rel=1e-12)

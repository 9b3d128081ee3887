"""Runs as a whole: failures, limits, cancellation, the account, and one seed.

Driven through methods on the fake model, whose own counters stand on the other side of the seam.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import ClassVar

import pytest

from itscale.budget import Budget, Ledger, Price
from itscale.errors import AllFailedError, OptionError, PromptError, ScorerError
from itscale.events import Chosen, Failed, Proposed, Scored, Stopped, Trace
from itscale.methods.base import Method, Outcome, candidate
from itscale.methods.particle_filter import ParticleFilter
from itscale.methods.session import DEFAULT_GENERATIONS, Session
from itscale.models.fake import FakeModel
from itscale.randomness import Seeded
from itscale.scorers.fake import FakeOutcomeScorer, FakeProcessScorer
from itscale.types import Prompt, Sampling, StopReason

QUESTION = "three word question"


def words(prefix):
    """Steps of one or two tokens; one step in four ends the path."""
    if prefix and prefix[-1] in ("a", "b"):
        return {"c|": 0.5, "d|": 0.5}
    return {"a": 0.3, "b": 0.3, "c|": 0.15, "$": 0.25}


def wordy(**options) -> FakeModel:
    """A fake model of `words`."""
    return FakeModel(words, vocabulary=["a", "b", "c|", "d|", "$"], **options)


def likes_a(texts):
    """A process score that varies from path to path."""
    return 0.2 + 0.6 * ("a" in texts[-1])


@dataclass(frozen=True, kw_only=True)
class Whole(Method):
    """N samples, each judged if there is a scorer; the first is the answer."""

    name: ClassVar[str] = "whole"
    summary: ClassVar[str] = "for tests"
    scorer_kind: ClassVar = "none"
    scored: bool = False

    async def search(self, session: Session) -> Outcome:
        if self.scored:
            pairs = await session.sample_scored(session.generations)
            return Outcome([candidate(p, score=s[0] if s else None) for p, s in pairs], 0)
        return Outcome([candidate(p) for p in await session.sample(session.generations)], 0)


def run(method, model, scorer=None, seed=0, **budget):
    """A run to its end."""
    return asyncio.run(method.run(QUESTION, model, scorer, Budget(**budget), seed))


def session_of(model, scorer=None, max_tokens=32, **budget) -> Session:
    """A session by itself."""
    prompt, ledger = Prompt.user(QUESTION), Ledger(Budget(**budget))
    return Session(prompt, model, scorer, ledger, Seeded(0), Trace(), Sampling(), max_tokens)


def texts(result):
    """All candidates' texts, in order."""
    return [c.path.text for c in result.candidates]


# --- failures ---------------------------------------------------------------------------------


def test_a_failed_call_costs_one_candidate():
    """Fifteen of sixteen come through, unchanged; the failure is counted, in the trace, and no candidate."""
    whole = run(Whole(), wordy())
    model = wordy(fail=lambda call: call == 3)
    result = run(Whole(), model)
    assert texts(result) == texts(whole)[:3] + texts(whole)[4:]
    assert result.usage.failed_calls == 1
    assert [event.path for event in result.trace.events if isinstance(event, Failed)] == [0]
    assert result.usage.generated_tokens == model.tokens_generated
    assert result.usage.discarded_tokens == 1


def test_all_failed_is_one_clear_error():
    """Typed, with the cause both in the text and chained; not an empty result."""
    with pytest.raises(AllFailedError, match="failed as told") as error:
        run(Whole(), wordy(fail=lambda call: True))
    assert error.value.__cause__ is not None


def test_asking_for_nothing_is_not_a_failure():
    """No paths in, no children out, whatever failed before."""

    async def scenario():
        session = session_of(wordy(fail=lambda call: call == 0))
        lost, kept = await session.extend([session.root, session.root])
        assert (lost, len(kept)) == ([], 1)
        assert await session.extend([]) == []

    asyncio.run(scenario())


def test_a_failed_judgement_costs_a_score_not_the_run():
    """A scorer that cannot answer for one path leaves that path without a score."""
    scorer = FakeOutcomeScorer(len, fail=lambda call: call == 2)
    result = run(Whole(scored=True), wordy(), scorer, generations=5)
    assert [c.score is None for c in result.candidates] == [False, False, True, False, False]
    assert result.usage.failed_calls == 1


def test_a_broken_scorer_ends_the_run():
    """Breaking the contract is a mistake in the scorer, not a candidate's bad luck."""
    with pytest.raises(ScorerError, match="outside"):
        run(ParticleFilter(), wordy(), FakeProcessScorer(lambda texts: 1.0))


def test_an_error_leaves_no_call_running():
    """A prompt that cannot be read ends the run and cancels what the run had started."""

    class Refuses(FakeModel):
        async def extend(self, path, n, until, sampling, rng, ledger):
            if self.calls == 3:
                raise PromptError("cannot read this; ask something else")
            return await super().extend(path, n, until, sampling, rng, ledger)

    model = Refuses(words, vocabulary=["a", "b", "c|", "d|", "$"], latency_s=5)

    async def scenario():
        with pytest.raises(PromptError):
            await Whole().run(QUESTION, model, None, Budget(generations=4))
        assert (model.calls, model.running) == (3, 0)

    start = time.perf_counter()
    asyncio.run(scenario())
    assert time.perf_counter() - start < 2


def test_a_method_that_judges_needs_a_scorer():
    """The verb itself refuses, for methods that decide late."""

    async def scenario():
        session = session_of(wordy())
        with pytest.raises(OptionError, match="needs a scorer"):
            await session.score([session.root])

    asyncio.run(scenario())


# --- limits -----------------------------------------------------------------------------------


def test_the_default_is_sixteen_generations():
    """A budget that does not say N means the default, not one and not infinity."""
    model = wordy()
    assert len(run(Whole(), model).candidates) == model.calls == DEFAULT_GENERATIONS == 16


def test_paths_beyond_the_generations_stay_at_the_prompt():
    """A method that asks for more than N gets N, and the session says which limit bound."""

    async def scenario():
        session = session_of(wordy(), generations=3)
        assert len(await session.sample(5)) == 3
        assert session.exhausted is StopReason.GENERATIONS
        session = session_of(wordy(), generations=3)
        assert [len(group) for group in await session.extend([session.root], 5)] == [3]
        assert session.exhausted is None

    asyncio.run(scenario())


@pytest.mark.parametrize("tokens", [1, 7, 20, 45])
def test_a_token_limit_is_kept_to_the_token(tokens):
    """Never more than the limit, by the model's own count; what was cut off is not called finished."""
    model = wordy()
    result = run(Whole(max_tokens=16), model, tokens=tokens)
    assert model.tokens_generated == result.usage.generated_tokens == tokens
    assert result.stop_reason is StopReason.TOKENS
    assert isinstance(result.trace.events[-2], Stopped)
    assert all(c.path.finished or c.answer is None for c in result.candidates)


def test_a_limit_that_cut_the_last_answer_is_named():
    """The run that ends because its only path was cut short by the budget is not DONE."""
    endless = FakeModel(lambda prefix: {"a": 1.0, "$": 0.0}, vocabulary=["a", "$"])
    assert run(Whole(max_tokens=64), endless, generations=1, tokens=5).stop_reason is StopReason.TOKENS
    assert run(Whole(max_tokens=5), endless, generations=1, tokens=64).stop_reason is StopReason.DONE


def test_tokens_returned_by_short_answers_are_used_by_others():
    """Reserving for the longest possible answer must not starve the rest: all sixteen answers fit."""
    result = run(Whole(max_tokens=50), FakeModel({(): {"$": 1.0}}), tokens=60)
    assert len(result.candidates) == 16
    assert result.stop_reason is StopReason.DONE


def test_scorer_calls_bind():
    """The rest stays unjudged, and the reason is named."""
    scorer = FakeOutcomeScorer(len)
    result = run(Whole(scored=True), wordy(latency_s=0.001), scorer, generations=6, scorer_calls=4)
    assert scorer.calls == result.usage.scorer_calls == 4
    assert sum(c.score is None for c in result.candidates) == 2
    assert result.stop_reason is StopReason.SCORER_CALLS


@pytest.mark.parametrize("dollars", [3.0, 17.0, 40.0])
def test_dollars_bind(dollars):
    """At a dollar a token not one is generated that is not paid for, with many calls in flight."""
    model = wordy(price=Price(generated_usd=1e6), latency_s=0.001)
    result = run(Whole(max_tokens=16), model, generations=16, dollars=dollars)
    assert result.stop_reason is StopReason.DOLLARS
    assert result.usage.dollars == model.tokens_generated == dollars
    result = run(ParticleFilter(), wordy(price=model.price), FakeProcessScorer(likes_a), dollars=dollars)
    assert 0 < result.usage.dollars <= dollars


def test_seconds_cancel_upstream_at_once():
    """Running calls are cancelled, not waited for; what they generated is charged all the same."""
    model = wordy(latency_s=0.02)
    endless = FakeModel(lambda prefix: {"a": 1.0, "$": 0.0}, vocabulary=["a", "$"], latency_s=0.02)
    start = time.perf_counter()
    result = run(Whole(max_tokens=500), endless, generations=4, seconds=0.3)
    assert time.perf_counter() - start < 3
    assert result.stop_reason is StopReason.SECONDS
    assert endless.running == 0
    assert 4 <= endless.tokens_generated == result.usage.generated_tokens < 400
    assert result.usage.discarded_tokens == result.usage.generated_tokens
    assert run(Whole(), model, generations=2, seconds=30).stop_reason is StopReason.DONE


def test_seconds_cancel_the_scorer_too():
    """A slow judge does not outlast the limit; the answers stay, unjudged."""
    scorer = FakeOutcomeScorer(len, latency_s=5)
    start = time.perf_counter()
    result = run(Whole(scored=True), wordy(), scorer, generations=3, seconds=0.3)
    assert time.perf_counter() - start < 3
    assert [c.score for c in result.candidates] == [None] * 3
    assert result.stop_reason is StopReason.SECONDS


def test_cancelling_a_run_cancels_its_calls():
    """Whoever gives up on a run stops paying for it at once."""
    model = wordy(latency_s=5)

    async def scenario():
        task = asyncio.create_task(Whole().run(QUESTION, model, None, Budget(generations=5)))
        while model.running < 5:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert model.running == 0

    start = time.perf_counter()
    asyncio.run(scenario())
    assert time.perf_counter() - start < 2


def test_after_a_limit_nothing_moves():
    """Once `exhausted` is set every path comes back as it is, at no cost."""

    async def scenario():
        model = wordy()
        session = session_of(model)
        [[path]] = await session.extend([session.root])
        session.exhausted = StopReason.SECONDS
        assert await session.extend([path, session.root]) == [[path], [session.root]]
        assert model.calls == 1

    asyncio.run(scenario())


# --- the account ------------------------------------------------------------------------------


@pytest.mark.parametrize("fail", [lambda call: False, lambda call: call % 5 == 4], ids=["well", "failing"])
@pytest.mark.parametrize("method", [Whole(), ParticleFilter(), ParticleFilter(ess_threshold=1.0)], ids=repr)
def test_usage_is_what_the_model_was_asked_for(method, fail):
    """Every counter equals the fake's own, to the token: pruned, failed and duplicate work included."""
    model, scorer = wordy(fail=fail), FakeProcessScorer(likes_a)
    usage = run(method, model, scorer).usage
    assert usage.generated_tokens == model.tokens_generated
    assert usage.prompt_tokens == model.tokens_read
    assert usage.model_calls == model.calls
    assert usage.scorer_calls == scorer.calls
    assert usage.scorer_tokens == scorer.tokens
    assert usage.failed_calls == sum(fail(call) for call in range(model.calls))


def test_discarded_tokens_are_in_no_candidate():
    """Kept ones count once however many candidates share them: each token is in a step, kept or not."""
    result = run(ParticleFilter(ess_threshold=1.0), wordy(), FakeProcessScorer(likes_a), seed=1)
    kept = {node for c in result.candidates for node in c.path.nodes() if node.step}
    kept_tokens = sum(len(node.step.token_ids) for node in kept)
    proposed = sum(event.tokens for event in result.trace.events if isinstance(event, Proposed))
    assert result.usage.generated_tokens == proposed
    assert result.usage.discarded_tokens == proposed - kept_tokens > 0


def test_the_same_path_is_judged_once():
    """Slots that share a path share its judgement, and its price."""

    async def scenario():
        scorer = FakeProcessScorer(likes_a)
        session = session_of(wordy(), scorer)
        [[path]] = await session.extend([session.root])
        first, second = await session.score([path, path])
        assert first == second
        assert scorer.calls == session.ledger.scorer_calls == 1

    asyncio.run(scenario())


def test_the_trace_tells_the_run():
    """One event for each step proposed and each path judged, parents before children, the choice last."""
    seen = []
    model, scorer = wordy(), FakeProcessScorer(likes_a)
    result = asyncio.run(ParticleFilter().run(QUESTION, model, scorer, Budget(generations=4), 0, seen.append))
    assert seen == result.trace.events
    proposed = [event for event in seen if isinstance(event, Proposed)]
    known = {0}
    for event in proposed:
        assert event.parent in known
        known.add(event.path)
    assert len(proposed) == model.calls
    assert sum(isinstance(event, Scored) for event in seen) == scorer.calls
    assert isinstance(seen[-1], Chosen)


# --- one seed ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [Whole(), ParticleFilter(choose="sample")], ids=repr)
def test_one_seed_one_result(method):
    """The same integer gives the same candidates, weights and choice; another gives others."""
    results = [run(method, wordy(), FakeProcessScorer(likes_a), seed) for seed in (5, 5, 6)]
    same, again, other = [
        [r.chosen, r.ess, *((c.path.text, c.weight) for c in r.candidates)] for r in results
    ]
    assert same == again
    assert same != other


@pytest.mark.parametrize("method", [Whole(), ParticleFilter()], ids=repr)
def test_the_order_of_concurrency_changes_nothing(method):
    """Calls that end in another order, because some are slow, give the same result."""

    class Uneven(FakeModel):
        async def extend(self, path, n, until, sampling, rng, ledger):
            await asyncio.sleep(0.001 * (rng.seed % 7))
            return await super().extend(path, n, until, sampling, rng, ledger)

    uneven = Uneven(words, vocabulary=["a", "b", "c|", "d|", "$"])
    scorer = FakeProcessScorer(likes_a)
    assert texts(run(method, uneven, scorer)) == texts(run(method, wordy(), scorer))


def test_runs_of_different_n_share_their_first_samples():
    """Sample i depends on the seed and i alone; and no two of them are one sample."""
    few, many = (texts(run(Whole(), wordy(), generations=n)) for n in (4, 16))
    assert many[:4] == few
    assert len(set(many)) > 4


def test_runs_side_by_side_do_not_disturb_each_other():
    """Two runs on one model in one loop give what each gives alone."""

    async def both():
        model = wordy(latency_s=0.001)
        runs = (Whole().run(QUESTION, model, None, Budget(generations=4), seed) for seed in (1, 2))
        return await asyncio.gather(*runs)

    together = [texts(result) for result in asyncio.run(both())]
    assert together == [texts(run(Whole(), wordy(), seed=seed, generations=4)) for seed in (1, 2)]


def test_calls_overlap():
    """All sixteen samples are in flight before the first has ended."""
    peak = []

    class Watched(FakeModel):
        async def extend(self, path, n, until, sampling, rng, ledger):
            children = await super().extend(path, n, until, sampling, rng, ledger)
            peak.append(self.calls)
            return children

    run(Whole(), Watched(words, vocabulary=["a", "b", "c|", "d|", "$"], latency_s=0.001))
    assert peak == [16] * 16

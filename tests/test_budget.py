"""Budgets bind, reservations are never overstepped, and the account adds up."""

from __future__ import annotations

import asyncio
import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itscale.budget import Budget, Ledger, OutOfBudget, Price
from itscale.errors import OptionError
from itscale.types import StopReason


def reason(call):
    """Which limit binds when `call` is made; None if none does."""
    try:
        call()
    except OutOfBudget as limit:
        return limit.reason
    return None


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Budget)])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_limit_of_nothing_is_refused(field, value):
    """Zero, negative and NaN limits are mistakes, and the message names the field."""
    with pytest.raises(OptionError, match=field):
        Budget(**{field: value})


@pytest.mark.parametrize("kind", [np.int64, np.uint8])
def test_any_integral_number_is_a_limit(kind):
    """NumPy's whole numbers too; they are plain ones from there on, as JSON wants them."""
    budget = Budget(generations=kind(4), tokens=kind(9), scorer_calls=kind(2), seconds=kind(5))
    assert budget == Budget(generations=4, tokens=9, scorer_calls=2, seconds=5)
    assert {type(getattr(budget, name)) for name in ("generations", "tokens", "scorer_calls")} == {int}


@pytest.mark.parametrize("field", ["generations", "tokens", "scorer_calls"])
@pytest.mark.parametrize("value", [True, 4.0, np.float64(4), "4", np.bool_(True)], ids=repr)
def test_what_is_counted_is_a_whole_number(field, value):
    """A bool, a float or a text is a mistake, said with the fix before anything runs."""
    with pytest.raises(
        OptionError, match=rf"budget {field} .* is no whole number; give a whole number from 1"
    ):
        Budget(**{field: value})


@pytest.mark.parametrize("field", ["seconds", "dollars"])
@pytest.mark.parametrize("value", [True, "4"], ids=repr)
def test_what_is_measured_is_a_number(field, value):
    """A bool or a text is a mistake; 2.5 is not."""
    with pytest.raises(OptionError, match=f"budget {field} .* is no number; give one above 0"):
        Budget(**{field: value})
    assert getattr(Budget(**{field: 2.5}), field) == 2.5


def test_no_limit_never_binds():
    """An empty budget grants whatever is asked."""
    ledger = Ledger(Budget())
    for _ in range(1000):
        ledger.start_generation()
        ledger.start_scoring()
    ledger.charge_model(prompt=10**9, cached=0, generated=10**9)
    ledger.check()
    assert asyncio.run(ledger.reserve_tokens(10**9)) == 10**9


def test_generations_and_scorer_calls_bind_after_exactly_so_many():
    """The third of two is refused, and refusing does not count."""
    ledger = Ledger(Budget(generations=2, scorer_calls=2))
    assert [reason(ledger.start_generation) for _ in range(4)] == [None, None, *[StopReason.GENERATIONS] * 2]
    assert [reason(ledger.start_scoring) for _ in range(4)] == [None, None, *[StopReason.SCORER_CALLS] * 2]
    assert (ledger.generations, ledger.scorer_calls) == (2, 2)


def test_seconds_bind():
    """From the moment the limit is reached on, not before."""
    ledger = Ledger(Budget(seconds=5))
    assert reason(ledger.check) is None
    ledger.started -= 4.5
    assert reason(ledger.check) is None
    ledger.started -= 0.5
    assert reason(ledger.check) is StopReason.SECONDS


def test_dollars_bind_and_cached_tokens_have_their_own_price():
    """Fresh, cached and generated tokens are each charged at their rate per million."""
    ledger = Ledger(Budget(dollars=6.0), Price(prompt_usd=1.0, cached_usd=0.1, generated_usd=10.0))
    ledger.charge_model(prompt=2_000_000, cached=500_000, generated=100_000)
    assert ledger.dollars == pytest.approx(1.5 + 0.05 + 1.0)
    assert reason(ledger.check) is None
    ledger.charge_model(prompt=0, cached=0, generated=345_000)
    assert reason(ledger.check) is StopReason.DOLLARS


def test_dollars_without_a_price_are_refused():
    """A limit that could never bind would be a lie."""
    with pytest.raises(OptionError, match="price"):
        Ledger(Budget(dollars=1.0))


def test_dollars_are_reserved_as_the_tokens_they_buy():
    """What is left buys three tokens; where only prompts cost, nothing is to be reserved for."""

    async def scenario():
        ledger = Ledger(Budget(dollars=4.0, tokens=100), Price(prompt_usd=1e5, generated_usd=1e6))
        ledger.charge_model(prompt=5, cached=0, generated=0)
        assert await ledger.reserve_tokens(8) == 3
        assert (ledger.scarce, ledger.affords(0), ledger.affords(1)) == (StopReason.DOLLARS, True, False)
        free = Ledger(Budget(dollars=4.0), Price(prompt_usd=1e5))
        assert await free.reserve_tokens(8) == 8

    asyncio.run(scenario())


def test_a_reservation_is_what_is_left():
    """Less than wanted when little is left, and an error that names the limit when nothing is."""

    async def scenario():
        ledger = Ledger(Budget(tokens=10))
        assert await ledger.reserve_tokens(8) == 8
        ledger.charge_model(prompt=0, cached=0, generated=7)
        await ledger.return_tokens(8)
        assert await ledger.reserve_tokens(8) == 3
        ledger.charge_model(prompt=0, cached=0, generated=3)
        await ledger.return_tokens(3)
        with pytest.raises(OutOfBudget) as limit:
            await ledger.reserve_tokens(1)
        assert limit.value.reason is StopReason.TOKENS

    asyncio.run(scenario())


def test_a_call_waits_for_what_a_running_one_may_return():
    """Too little is free now, but the first call returns most of its reservation unused."""

    async def scenario():
        ledger = Ledger(Budget(tokens=10))
        assert await ledger.reserve_tokens(8) == 8
        waiting = asyncio.create_task(ledger.reserve_tokens(8))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waiting.done()
        ledger.charge_model(prompt=0, cached=0, generated=1)
        await ledger.return_tokens(8)
        assert await waiting == 8

    asyncio.run(asyncio.wait_for(scenario(), 2))


def test_a_waiting_call_notices_that_time_is_over():
    """It wakes when the running call returns its tokens, and then the clock decides."""

    async def scenario():
        ledger = Ledger(Budget(tokens=4, seconds=5))
        await ledger.reserve_tokens(4)
        waiting = asyncio.create_task(ledger.reserve_tokens(4))
        await asyncio.sleep(0)
        ledger.started -= 6
        await ledger.return_tokens(4)
        with pytest.raises(OutOfBudget) as limit:
            await waiting
        assert limit.value.reason is StopReason.SECONDS

    asyncio.run(scenario())


async def spend(ledger: Ledger, wanted: int, used: int, turns: int) -> None:
    """One call: reserve, run for some turns of the loop, charge, return."""
    try:
        granted = await ledger.reserve_tokens(wanted)
    except OutOfBudget:
        assert ledger.generated_tokens == ledger.budget.tokens, "refused while tokens were left"
        return
    assert 1 <= granted <= wanted
    for _ in range(turns):
        await asyncio.sleep(0)
    ledger.charge_model(prompt=0, cached=0, generated=min(used, granted))
    assert ledger.generated_tokens <= ledger.budget.tokens
    await ledger.return_tokens(granted)


async def spend_all(limit: int, calls: list[tuple[int, int, int]]) -> Ledger:
    """All calls at once, each (wanted, used, turns); a deadlock is a failure."""
    ledger = Ledger(Budget(tokens=limit))
    async with asyncio.timeout(2):
        await asyncio.gather(*(spend(ledger, *call) for call in calls))
    return ledger


calls = st.lists(
    st.tuples(st.integers(1, 20), st.integers(0, 20), st.integers(0, 3)), min_size=1, max_size=12
)


@given(limit=st.integers(1, 60), calls=calls)
@settings(max_examples=60, deadline=None)
def test_a_token_limit_is_never_overstepped(limit, calls):
    """Concurrent calls of any size and length all end, within the limit at every moment, and none is
    refused while tokens are left."""
    asyncio.run(spend_all(limit, calls))


@given(limit=st.integers(1, 60), calls=calls)
@settings(max_examples=40, deadline=None)
def test_a_token_limit_is_used_up(limit, calls):
    """Calls that use all they are granted spend the limit to the last token, or all they wanted."""
    greedy = [(wanted, wanted, turns) for wanted, _, turns in calls]
    ledger = asyncio.run(spend_all(limit, greedy))
    assert ledger.generated_tokens == min(limit, sum(wanted for wanted, _, _ in greedy))


def test_usage_is_the_account():
    """Every counter appears, discarded is what no candidate kept, and JSON has every field."""
    ledger = Ledger(Budget(), Price(generated_usd=2.0))
    ledger.charge_model(prompt=5, cached=2, generated=7)
    ledger.charge_model(prompt=3, cached=0, generated=4)
    ledger.charge_scorer(tokens=6)
    ledger.start_scoring()
    usage = ledger.usage(kept_tokens=9)
    seconds = usage.seconds
    assert seconds >= 0
    assert usage.to_json() == {
        "prompt_tokens": 8,
        "cached_tokens": 2,
        "generated_tokens": 11,
        "discarded_tokens": 2,
        "model_calls": 2,
        "failed_calls": 0,
        "retries": 0,
        "scorer_calls": 1,
        "scorer_tokens": 6,
        "judge_prompt_tokens": 0,
        "judge_cached_tokens": 0,
        "judge_generated_tokens": 0,
        "replayed_tokens": 0,
        "replayed_calls": 0,
        "replayed_scorer_calls": 0,
        "seconds": seconds,
        "dollars": pytest.approx(22e-6),
    }

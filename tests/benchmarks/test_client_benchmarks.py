"""The two benchmarks of the client, at a small scale: their figures are in docs/performance.md."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest

from benchmarks.client.stub import Faults, stub
from benchmarks.client_faults import faulted
from benchmarks.client_overhead import leaks, overhead

FAST = Faults(errors=0.2, cuts=0.2, spikes=0.05, stalls=0.02, spike_s=0.02, stall_s=0.8, retry_after_s=0.01)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with stub() as url:
        yield url


@pytest.mark.parametrize("streams", [False, True])
def test_both_clients_are_timed_on_the_same_requests(url: str, streams: bool):
    """Every call of either is in the figures, and takes time of this process."""
    raw, ours = asyncio.run(overhead(url, 4, 20, 2, streams=streams))
    assert [len(timed.latencies_s) for timed in (raw, ours)] == [40, 40]
    assert all(timed.cpu_ms > 0 and timed.ms(0.5) <= timed.ms(0.95) for timed in (raw, ours))


def test_nothing_stays_of_calls_in_flight_and_cancelled_ones(url: str):
    """Three in ten of the calls are cancelled in the middle: no task, socket or slot is left of any."""
    before, *rounds, closed = asyncio.run(leaks(url, 2, in_flight=40, latency_s=1.0))
    assert [(left.answered, left.cancelled) for left in rounds] == [(28, 12), (28, 12)]
    assert {left.peak for left in rounds} == {40}
    assert {left.tasks for left in (before, *rounds, closed)} == {before.tasks}
    assert {left.in_flight for left in (before, *rounds, closed)} == {0}
    assert all(left.files <= before.files + 40 for left in rounds)  # kept connections
    assert closed.files < before.files


@pytest.mark.parametrize("method", ["best-of-n", "particle-filter"])
@pytest.mark.parametrize("streams", [True, False])
def test_spend_is_exact_whatever_breaks(url: str, method: str, streams: bool):
    """All problems end, and accounts have the tokens and requests that the server billed."""
    faults = replace(FAST, streams=streams)
    out = asyncio.run(faulted(url, method, faults, problems=6, budget=4, time_limit_s=0.4, waited=0.05))
    assert 0 < out.bill["errors"] + out.bill["cuts"] <= out.spent("retries") + out.spent("failed_calls")
    assert out.spent("generated_tokens") == out.bill["generated_tokens"]
    assert out.requests == out.bill["requests"]
    assert out.spent("prompt_tokens") >= out.bill["prompt_tokens"]


def test_with_no_candidate_left_the_error_is_typed(url: str):
    """A server that refuses everything: each problem fails by name, and the account has every attempt."""
    refusing = replace(FAST, errors=1.0)
    out = asyncio.run(faulted(url, "best-of-n", refusing, problems=2, budget=1, waited=0.01))
    assert out.errors == {"AllFailedError": 2}
    assert out.requests == out.bill["requests"] == 10
    assert out.spent("generated_tokens") == 0

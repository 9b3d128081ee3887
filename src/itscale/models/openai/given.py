"""The log-probability of tokens that are given, not drawn: read off a prompt that holds them.

Two ways servers have of telling it, both for the model's own distribution (temperature 1): `echo`
with no token to generate, and vLLM's `prompt_logprobs`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from itscale.budget import Budget, Ledger
from itscale.errors import ModelError
from itscale.models.openai.client import Call, Endpoint
from itscale.models.openai.dialects import Given
from itscale.models.openai.wire import Choice, counts_in

__all__ = ["given_logprobs", "way_to_tell"]

_NEAR = 0.1
"""Nats by which two computations of one log-probability may differ, half precision say."""
WAYS: tuple[Given, ...] = ("echo", "prompt_logprobs")
_FIELDS: Mapping[Given, Mapping[str, Any]] = {
    "echo": {"echo": True, "logprobs": 0, "max_tokens": 0},
    "prompt_logprobs": {"prompt_logprobs": 0, "max_tokens": 1},
}


async def given_logprobs(
    endpoint: Endpoint, model: str, way: Given, ids: Sequence[int], last: int, ledger: Ledger
) -> tuple[float, ...]:
    """Log-probability (nats, temperature 1) of each of the `last` of `ids` given all before it.

    Charged as the server counts it; some generate one token to answer.

    Raises:
        ModelError: the call failed for good, or the answer has not a number for each token.
    """
    url = f"{endpoint.address.url}/completions"
    body = {"model": model, "prompt": list(ids), "temperature": 1.0, "top_p": 1.0, **_FIELDS[way]}
    call = Call()
    answer: dict[str, Any] = {}
    try:
        answer = await endpoint.post(url, body, call)
    finally:
        if call.sent:
            counts = counts_in(answer)
            ledger.retries += call.retries
            ledger.charge_model(
                prompt=max(len(ids) if call.worked_on else 0, counts.prompt if counts else 0),
                cached=counts.cached if counts else 0,
                generated=counts.generated if counts else 0,
            )
    try:
        told = _echoed(answer) if way == "echo" else _prompted(answer, ids)
        logprobs = [float(value) for value in told[: len(ids)][-last:]]
    except (KeyError, IndexError, TypeError, ValueError):
        logprobs = []
    if len(logprobs) != last or not all(math.isfinite(p) and p < 1e-3 for p in logprobs):
        raise ModelError(
            f"{url} does not tell the log-probability of each given token; see: itscale doctor URL"
        )
    return tuple(min(p, 0.0) for p in logprobs)


def _echoed(answer: Mapping[str, Any]) -> Sequence[Any]:
    told: Sequence[Any] = answer["choices"][0]["logprobs"]["token_logprobs"]
    return told


def _prompted(answer: Mapping[str, Any], ids: Sequence[int]) -> Sequence[Any]:
    told = answer["choices"][0]["prompt_logprobs"]
    return [None, *(row[str(i)]["logprob"] for row, i in zip(told[1:], ids[1:], strict=True))]


async def way_to_tell(endpoint: Endpoint, model: str, ids: list[int], greedy: Choice) -> Given | None:
    """How the server tells the log-probabilities of given tokens: those of its own answer, found again."""
    said = greedy.token_ids or ()
    for way in WAYS if greedy.logprobs else ():
        try:
            told = await given_logprobs(endpoint, model, way, [*ids, *said], len(said), Ledger(Budget()))
        except ModelError:
            continue
        if all(abs(a - b) < _NEAR for a, b in zip(told, greedy.logprobs or (), strict=True)):
            return way
    return None

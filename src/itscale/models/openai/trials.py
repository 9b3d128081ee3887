"""What a probe tries of every server, whatever its dialect: pieces, seeds, and the laws that it tells."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence

from itscale.errors import ModelError
from itscale.models.openai.address import ALL
from itscale.models.openai.client import Call
from itscale.models.openai.failures import Refused
from itscale.models.openai.stream import STREAMS, Assembly, Streams
from itscale.models.openai.wire import Choice, Malformed, Reply

__all__ = ["comes_in_pieces", "counts_up", "samples_differ", "seeds_decide", "way_of_telling"]

_BEYOND_CHANCE = math.log(1e-4)
_UNKNOWN = math.log(0.02)
"""What two equal texts say where the server does not tell their probability."""
_MOST_PAIRS = 12
_NEAR = 0.1
"""Nats by which two computations of one log-probability may differ, half precision say."""
_MASS = 1e-3
"""What rounding may add to or take from a mass of 1."""

Ask = Callable[[float, int], Awaitable[Choice]]
"""An answer at this temperature, with so many likeliest tokens told at every place."""


async def comes_in_pieces(
    ask: Callable[[Streams, Call], Awaitable[Reply]],
    greedy: Choice,
    assembly: Callable[[], Assembly] = Assembly,
) -> Streams | None:
    """How the greedy answer comes in pieces, if it does, adds up to the very same, and is counted."""
    for style in STREAMS:
        call = Call(again=lambda _: False, assembly=assembly)
        try:
            reply = await ask(style, call)
        except (ModelError, Malformed):
            continue
        same = [(c.text, c.token_ids, c.finish) for c in reply.choices]
        whole = same == [(greedy.text, greedy.token_ids, greedy.finish)]
        if whole and reply.counts is not None and call.came.generated:
            return "counting" if call.came.counting else "closing"
    return None


async def samples_differ(samples: Reply, hot: Callable[[], Awaitable[Reply]]) -> bool:
    """Whether several texts in one answer are several samples, where later nothing would tell copies from
    samples that agree: if need be, `hot` ones, which would not."""
    if len({choice.text for choice in samples.choices}) == 1:
        try:
            samples = await hot()
        except (Refused, Malformed):
            return False
    return len({choice.text for choice in samples.choices}) > 1


async def seeds_decide(ask: Callable[[int], Awaitable[Reply]], pair: tuple[Choice, Choice]) -> bool:
    """Whether one seed gives one text: told by texts that chance would not have made agree."""
    evidence = 0.0  # log of the probability that independent draws agree as often
    for seed in range(8, 8 + _MOST_PAIRS):
        if (pair[0].token_ids, pair[0].text) != (pair[1].token_ids, pair[1].text):
            return False
        evidence += _UNKNOWN if pair[0].logprobs is None else math.fsum(pair[0].logprobs)
        if evidence < _BEYOND_CHANCE:
            break
        pair = (await ask(seed)).choices[0], (await ask(seed)).choices[0]
    return True


async def counts_up(ask: Callable[[float, int, int], Awaitable[Reply]]) -> bool:
    """Whether text i of a request with the seed s is that of a request with the seed s + i, alone or with
    others: told by texts that chance would not have made agree. `ask` takes temperature, seed, and n.

    At temperature 2, where a token of probability p at 1 has at most the root of p (twice the log at most).
    """
    evidence = 0.0  # log of the probability that independent draws agree as often, or more
    for seed in range(100, 100 + 4 * _MOST_PAIRS, 4):
        try:
            four, three, one = [(await ask(2.0, seed + at, 4 - at)).choices for at in (0, 1, 3)]
        except (Refused, Malformed):
            return False
        said = [[(choice.token_ids, choice.text) for choice in choices] for choices in (four, three, one)]
        if len(four) < 4 or said[0][1:] != said[1] or said[0][3:] != said[2]:
            return False
        new = [choice for i, choice in enumerate(four) if said[0][i] not in said[0][:i]]
        if len(new) == 1:
            return False  # whatever the seed, it always says that
        for choice in new[1:]:
            evidence += _UNKNOWN if choice.logprobs is None else math.fsum(choice.logprobs) / 2
        if evidence < _BEYOND_CHANCE:
            return True
    return False


async def way_of_telling(ask: Ask, wanted: int, *, distinct: bool) -> tuple[int | None, int | None]:
    """How many likeliest tokens a server can be asked for, at most `wanted` (or `ALL`), and how many there
    are in all, where it tells all of them. None where it tells none, or other laws than the model's own.

    Believed are laws in which the likeliest is what is greedily said, of a mass of 1 at most, that do not
    change with the temperature. `distinct` says that no two tokens told of can be taken for one.
    """
    try:
        greedy, sampled = [await ask(temperature, wanted) for temperature in (0.0, 1.0)]
    except (ModelError, Malformed):
        return None, None
    for choice in (greedy, sampled):
        shown = len(choice.token_ids or ())
        if not choice.likeliest or not choice.logprobs or len(choice.likeliest) != shown:
            return None, None
        if any(len(told) < 2 or _mass(told) > 1 + _MASS for told in choice.likeliest):
            return None, None
    assert greedy.likeliest is not None
    assert greedy.logprobs is not None
    assert sampled.likeliest is not None
    said = zip(greedy.logprobs, greedy.likeliest, strict=True)
    laws = [sorted(choice[0], reverse=True) for choice in (greedy.likeliest, sampled.likeliest)]
    same = all(abs(a - b) < _NEAR for a, b in zip(*laws, strict=False) if max(a, b) > -20)
    if not same or any(abs(p - max(told)) > _NEAR for p, told in said):
        return None, None
    counts = {len(told) for told in greedy.likeliest}
    n = min(counts)
    if len(counts) == 1 and distinct and (wanted == ALL or n < wanted) and _mass(laws[0]) > 1 - _MASS:
        return n, n
    return (None if wanted == ALL else wanted), None


def _mass(logprobs: Sequence[float]) -> float:
    return math.fsum(map(math.exp, logprobs))

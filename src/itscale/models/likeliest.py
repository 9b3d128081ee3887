"""The entropy of a token from the likeliest tokens at its place, as servers and vLLM tell them when asked.

They tell the log-probabilities of the k likeliest tokens, and of the one drawn. With p_i their
probabilities, r = 1 - sum p_i is left for the others, of which none is likelier than c, the k-th. The
entropy told is the least that this allows (nats, temperature 1): what is left lies on as few tokens as
it can,

    H_k = -sum p_i log p_i - q c log c - s log s,    q = floor(r / c),  s = r - q c

    H_k <= H <= -sum p_i log p_i + r log((V - k) / r)         for a vocabulary of V tokens

(the smallest vector in the order of majorisation, the largest entropy on V - k tokens: entropy is
Schur-concave). It is exact where the k tokens have all the mass, up to what single precision rounds.
Self-certainty, a mean over the whole vocabulary, is told only where all of it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Statistics", "least_entropy", "statistics_of", "token_ends"]


@dataclass(frozen=True, slots=True)
class Statistics:
    """What is known of the law at each of several places."""

    entropies: tuple[float, ...]
    """Nats, at temperature 1; the least that was possible."""
    certainties: tuple[float, ...] | None
    """KL(uniform, law), nats; None where not the whole law was told."""
    left_out: float
    """The most probability that was on tokens not told of, at any place."""


def statistics_of(laws: Sequence[Sequence[float]], k: int, vocabulary: int | None) -> Statistics:
    """Of tokens whose laws were told: the log-probabilities of the `k` likeliest tokens at each place.

    `vocabulary` is how many tokens there are in all, where it is known that all are told.
    """
    whole = [vocabulary is not None and len(told) >= vocabulary for told in laws]
    each = [least_entropy(told, k, whole=all_) for told, all_ in zip(laws, whole, strict=True)]
    return Statistics(
        tuple(entropy for entropy, _ in each),
        tuple(map(_certainty, laws)) if all(whole) and vocabulary is not None else None,
        max((left for _, left in each), default=0.0),
    )


def least_entropy(logprobs: Sequence[float], k: int, *, whole: bool = False) -> tuple[float, float]:
    """The least entropy (nats) of a law with these log-probabilities among its tokens, the k likeliest
    and perhaps one more; and the probability they leave out (linear).

    Fewer than k, unless they are the `whole` law, say nothing of how likely the others may be: servers
    that name tokens by their texts keep one of those that have the same.

    >>> least_entropy([math.log(0.5), math.log(0.25)], 2)
    (1.0397207708399179, 0.25)
    """
    entropy = math.fsum(-math.exp(p) * p for p in logprobs)
    left = 0.0 if whole else max(0.0, 1.0 - math.fsum(map(math.exp, logprobs)))
    likeliest = sorted(logprobs, reverse=True)[:k]
    most = math.exp(likeliest[-1]) if len(likeliest) == k else 1.0
    if left <= 0.0 or most <= 0.0:
        return entropy, left
    full = math.floor(left / most)
    rest = left - full * most
    entropy -= full * most * math.log(most) + (rest * math.log(rest) if rest > 0 else 0.0)
    return entropy, left


def _certainty(logprobs: Sequence[float]) -> float:
    """KL(uniform, law) of a law with these log-probabilities, nats."""
    return -math.fsum(logprobs) / len(logprobs) - math.log(len(logprobs))


def token_ends(pieces: Sequence[str], text: str) -> tuple[int, ...] | None:
    """Where in `text` each token ends, from what each says alone; None where they do not make up the text.

    White space that the server adds between tokens or drops from them is the later token's. The last
    one's end is the text's: an end of sequence says something alone, and nothing in a text.

    >>> token_ends(["7", "+", "3", "<eos>"], "7 + 3")
    (1, 3, 5, 5)
    """
    ends, at = list[int](), 0
    for piece in pieces:
        said, start = piece.strip(), at
        while piece and start < len(text) and text[start].isspace() and not text.startswith(piece, start):
            start += 1
        if text.startswith(piece, start):
            at = start + len(piece)
        elif said and text.startswith(said, start):
            at = start + len(said)
        elif said and len(ends) < len(pieces) - 1:
            return None
        ends.append(at)
    if pieces and text[at:].strip():
        return None
    return tuple([*ends[:-1], len(text)] if pieces else [])

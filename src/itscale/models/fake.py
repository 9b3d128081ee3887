"""A tiny exact language model: a table from prefixes to next-token probabilities.

For tests, examples and plug-in authors: every probability is known, every draw goes through
`Randomness.choose`, so any method on top of it can be enumerated (`itscale.testing`). It keeps its
own counters, independent of the ledger it charges, so that a test can count on the other side of
the seam. It has no prefix cache: `cached` is always 0.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from itscale.budget import Ledger, Price
from itscale.errors import ModelError, OptionError
from itscale.models.base import Capability, Model, check_plain
from itscale.randomness import Randomness
from itscale.types import End, Path, Prompt, Sampling, Step, Until

__all__ = ["FakeModel", "NextToken", "sampling_law"]

Prefix = tuple[str, ...]
NextToken = Callable[[Prefix], Mapping[str, float]] | Mapping[Prefix, Mapping[str, float]]
"""Tokens generated so far (prompt not included) to the probability of each next token (linear)."""


class FakeModel(Model):
    """A language model that is its table.

    >>> coin = FakeModel({(): {"a|": 0.5, "b|": 0.5}, ("a|",): {"$": 1.0}, ("b|",): {"$": 1.0}})
    >>> coin.vocabulary
    ('$', 'a|', 'b|')

    Args:
        next_token: the law, as a table or a function of the prefix.
        vocabulary: all tokens; a token's id is its index. A table's own tokens, sorted, if left out.
        boundary: a token that ends with this text ends a step.
        eos: the token that ends the path. It counts as generated but has no text.
        fail: given the number of a call (from 0), whether that call raises ModelError. It does so
            after one token for each child, which are charged.
        latency_s: seconds each position takes, all children of a call at once.

    Raises:
        OptionError: a function came without its vocabulary, or eos is not in it.
    """

    def __init__(
        self,
        next_token: NextToken,
        *,
        vocabulary: Sequence[str] | None = None,
        boundary: str = "|",
        eos: str = "$",
        name: str = "fake",
        capabilities: frozenset[Capability] = frozenset(Capability),
        price: Price | None = None,
        fail: Callable[[int], bool] = lambda call: False,  # noqa: ARG005  the argument is the contract
        latency_s: float = 0.0,
    ) -> None:
        if vocabulary is None:
            if callable(next_token):
                raise OptionError("a function says nothing of its tokens; pass vocabulary=[...]")
            vocabulary = sorted({token for row in next_token.values() for token in row})
        if eos not in vocabulary:
            raise OptionError(f"eos {eos!r} is not in the vocabulary; add it, or pass the right eos")
        self.vocabulary = tuple(vocabulary)
        self.boundary = boundary
        self.eos = eos
        self.name = name
        self.capabilities = capabilities
        self.price = price
        self.latency_s = latency_s
        self.calls = 0
        """Calls so far, failed and cancelled ones included."""
        self.tokens_generated = 0
        """Tokens drawn so far, in failed and cancelled calls too."""
        self.tokens_read = 0
        """Tokens of all contexts so far: the prompt's words and what a path already had."""
        self.running = 0
        """Calls in progress."""
        self._next_token = next_token
        self._fail = fail
        self._ids = {token: i for i, token in enumerate(self.vocabulary)}

    def probabilities(self, token_ids: Sequence[int]) -> npt.NDArray[np.float64]:
        """The law of the next token after these: linear, shape (V,), temperature 1."""
        prefix = tuple(self.vocabulary[i] for i in token_ids)
        row = self._next_token(prefix) if callable(self._next_token) else self._next_token[prefix]
        law = np.zeros(len(self.vocabulary))
        for token, p in row.items():
            law[self._ids[token]] = p
        if np.any(law < 0) or not math.isclose(law.sum(), 1.0, rel_tol=1e-9):
            raise ValueError(f"the table's row for {prefix} is no distribution: {dict(row)}")
        return law

    def prompt_tokens(self, prompt: Prompt) -> int:
        """How many tokens a prompt counts as: its words."""
        return len(
            (prompt.raw if prompt.raw is not None else " ".join(m.content for m in prompt.messages)).split()
        )

    def text_of(self, token_ids: Sequence[int]) -> str:
        """The text of tokens; the end of the path has none."""
        return "".join(self.vocabulary[i] for i in token_ids if self.vocabulary[i] != self.eos)

    def end_of(self, token_id: int) -> End | None:
        """What this token ends, if anything."""
        token = self.vocabulary[token_id]
        if token == self.eos:
            return End.EOS
        return End.BOUNDARY if token.endswith(self.boundary) else None

    async def extend(
        self, path: Path, n: int, until: Until, sampling: Sampling, rng: Randomness, ledger: Ledger
    ) -> list[Path]:
        check_plain(path.prompt, self.name)
        call, self.calls = self.calls, self.calls + 1
        read = self.prompt_tokens(path.prompt) + path.n_tokens
        self.tokens_read += read
        drafts = [_Draft(self, path, until, sampling, rng.child(i)) for i in range(n)]
        generated = 0
        self.running += 1
        try:
            while growing := [draft for draft in drafts if not draft.ended]:
                for draft in growing:
                    draft.grow()
                generated += len(growing)
                self.tokens_generated += len(growing)
                if self._fail(call):
                    raise ModelError(f"call {call} failed as told; drop fail= to let it pass")
                if self.latency_s:
                    await asyncio.sleep(self.latency_s)
        finally:
            self.running -= 1
            ledger.charge_model(prompt=read, cached=0, generated=generated)
        return [draft.path for draft in drafts]

    async def logprobs_of(
        self, path: Path, token_ids: Sequence[int], sampling: Sampling, ledger: Ledger
    ) -> tuple[float, ...]:
        call, self.calls = self.calls, self.calls + 1
        read = self.prompt_tokens(path.prompt) + path.n_tokens + len(token_ids)
        self.tokens_read += read
        ledger.charge_model(prompt=read, cached=0, generated=0)
        if self._fail(call):
            raise ModelError(f"call {call} failed as told; drop fail= to let it pass")
        if sampling.temperature == 0:
            sampling = replace(sampling, temperature=1.0)
        prefix, logprobs = list(path.token_ids), list[float]()
        for token in token_ids:
            impossible = bool(logprobs) and logprobs[-1] == -math.inf  # a table may have no row for it
            p = 0.0 if impossible else float(sampling_law(self.probabilities(prefix), sampling)[token])
            logprobs.append(math.log(p) if p else -math.inf)
            prefix.append(token)
        return tuple(logprobs)

    async def hidden_states(self, path: Path, ledger: Ledger) -> tuple[float, ...]:
        """The law of the next token, which is all this model knows: (V,), linear."""
        call, self.calls = self.calls, self.calls + 1
        read = self.prompt_tokens(path.prompt) + path.n_tokens
        self.tokens_read += read
        ledger.charge_model(prompt=read, cached=0, generated=0)
        if self._fail(call):
            raise ModelError(f"call {call} failed as told; drop fail= to let it pass")
        return tuple(self.probabilities(path.token_ids).tolist())

    def forced(self, path: Path, text: str | Sequence[int]) -> Path:
        """The text in the fewest of the longest tokens; ModelError if the vocabulary cannot say it."""
        if not isinstance(text, str):
            return path.child(Step(tuple(text), self.text_of(text), End.BOUNDARY, forced=True))
        ids, left = [], text
        while left:
            fitting = [token for token in self.vocabulary if token and left.startswith(token)]
            if not fitting:
                raise ModelError(f"no token of the fake model begins {left!r}; add one to the vocabulary")
            longest = max(fitting, key=len)
            ids.append(self._ids[longest])
            left = left[len(longest) :]
        return path.child(Step(tuple(ids), text, End.BOUNDARY, forced=True))


class _Draft:
    """One child in the making."""

    def __init__(
        self, model: FakeModel, path: Path, until: Until, sampling: Sampling, rng: Randomness
    ) -> None:
        self.path = path
        self.ended = False
        self._model = model
        self._until = until
        self._sampling = sampling
        self._rng = rng
        self._left = until.max_tokens
        self._prefix = list(path.token_ids)
        self._step: list[int] = []
        self._logprobs: list[float] = []
        self._entropies: list[float] = []
        self._certainties: list[float] = []

    def grow(self) -> None:
        """One token more; closes the step, and the draft, where it ends something."""
        untempered = self._model.probabilities(self._prefix)
        law = sampling_law(untempered, self._sampling)
        token = self._rng.choose(law)
        self._prefix.append(token)
        self._step.append(token)
        told = law if self._sampling.temperature else untempered
        self._logprobs.append(math.log(told[token]))
        self._entropies.append(-math.fsum(p * math.log(p) for p in untempered.tolist() if p))
        self._certainties.append(_from_uniform(untempered))
        self._left -= 1
        end = self._model.end_of(token)
        if end is None and self._left == 0:
            end = End.LENGTH
        if end is None:
            return
        if end is End.BOUNDARY and self._left == 0 and self._until.what == "end":
            end = End.LENGTH  # the whole rest was asked for, and this is not all of it
        step = Step(
            tuple(self._step),
            self._model.text_of(self._step),
            end,
            math.fsum(self._logprobs),
            token_logprobs=tuple(self._logprobs),
            token_entropies=tuple(self._entropies),
            token_certainties=tuple(self._certainties),
        )
        self.path = self.path.child(step)
        self._step, self._logprobs, self._entropies, self._certainties = [], [], [], []
        self.ended = end is not End.BOUNDARY or self._until.what == "step"


def _from_uniform(law: npt.NDArray[np.float64]) -> float:
    """KL(uniform, law) in nats; a token without probability counts as one of 1e-30, as in log space."""
    return float(-np.log(np.maximum(law, 1e-30)).mean() - math.log(len(law)))


def sampling_law(law: npt.NDArray[np.float64], sampling: Sampling) -> npt.NDArray[np.float64]:
    """The law tokens are drawn from: temperature, then top-k, then top-p (linear, shape (V,)).

    p^(1/T) renormalised; at T = 0 all mass is on the likeliest token, the lowest id among equals.

    >>> sampling_law(np.array([0.2, 0.8]), Sampling(temperature=0.5)).round(4)
    array([0.0588, 0.9412])
    """
    if sampling.temperature == 0:
        greedy: npt.NDArray[np.float64] = (np.arange(len(law)) == np.argmax(law)).astype(np.float64)
        return greedy
    scaled: npt.NDArray[np.float64] = (law / law.max()) ** (1.0 / sampling.temperature)
    order = np.argsort(-scaled, kind="stable")
    if sampling.top_k:
        scaled[order[sampling.top_k :]] = 0.0
    mass_before = np.cumsum(scaled[order]) - scaled[order]
    if sampling.top_p < 1:
        scaled[order[mass_before >= sampling.top_p * scaled.sum()]] = 0.0
    total: np.float64 = scaled.sum()
    return scaled / total

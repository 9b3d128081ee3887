"""Log-probabilities of tokens somebody else chose, beside the tokens the engine draws.

A question is a path and the tokens that are to follow it. The path's own tokens come from the prefix
cache like any other's; the given ones are read in one pass, many questions at a time, and leave
nothing behind.

Floating point: unlike a draw, an answer is not taken again in one canonical shape, so it depends on
what it was batched with in its last digits (about 1e-6 nats in float32).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from itscale.errors import ModelError
from itscale.models.engine.cache import PrefixCache, Segment
from itscale.models.engine.forward import CachedForward
from itscale.models.engine.request import Given
from itscale.models.engine.sampler import Settings, log_law

__all__ = ["Questions", "gathered"]

BATCH_TOKENS = 4096
"""Given tokens read in one pass, padding included."""
BATCH_LOGITS = 2**27
"""Logits of one pass at most: a gigabyte in double precision."""


class Questions:
    """Questions on their way through the engine's thread; `answered` is told of each that is done."""

    def __init__(
        self, forward: CachedForward, cache: PrefixCache, max_context: int, answered: Callable[[Given], None]
    ) -> None:
        self._forward = forward
        self._cache = cache
        self._max_context = max_context
        self._answered = answered
        self._waiting: list[Given] = []
        self.admitted: list[tuple[Given, Segment]] = []
        """Questions whose path is being computed."""

    def __bool__(self) -> bool:
        return bool(self._waiting or self.admitted)

    def add(self, questions: Sequence[Given]) -> None:
        """More to answer."""
        self._waiting += questions

    def admit(self, *, engine_idle: bool) -> None:
        """Take what fits into memory; with an idle engine, what does not fit even alone is refused."""
        for question in [question for question in self._waiting if question.cancelled]:
            self._waiting.remove(question)
            self._answered(question)
        while self._waiting:
            question = self._waiting[0]
            segment = self._cache.segment(question.path)
            total = segment.end + len(question.token_ids) - 1
            if total > self._max_context:
                question.error = ModelError(
                    f"path and continuation have {total} tokens and the model's context "
                    f"holds {self._max_context}; lower max_tokens"
                )
                self._answered(self._waiting.pop(0))
                continue
            self._cache.use(segment, +1)
            fresh = [s for s in segment.chain() if not s.computed and not s.promised]
            missing = sum(len(s.tokens) - len(s.slots) for s in fresh)
            if not self._cache.fits(missing + len(question.token_ids)):
                self._cache.use(segment, -1)
                if not engine_idle or self.admitted:
                    return
                question.error = ModelError("key-value memory ran out; raise kv_memory_bytes")
                self._answered(self._waiting.pop(0))
                continue
            self._cache.reserved += missing + len(question.token_ids) - 1
            for link in fresh:
                link.promised = True
            question.prompt_tokens = total
            self.admitted.append((self._waiting.pop(0), segment))

    def answer(self) -> None:
        """Read the given tokens of every admitted question, whose paths are computed by now."""
        for batch in self._batches():
            self._look_inside([pair for pair in batch if pair[0].hidden])
            longer = [(q, segment) for q, segment in batch if len(q.token_ids) > 1]
            after: dict[int, torch.Tensor] = {}
            if longer:
                rows = [q.token_ids[:-1] for q, _ in longer]
                with self._cache.pool.lent(map(len, rows)) as slots:
                    contexts = [segment.context() for _, segment in longer]
                    outputs = self._forward.prefill(rows, contexts, slots, last_only=False)
                for (question, _), taken, output in zip(longer, slots, outputs, strict=True):
                    self._cache.pool.give_back(taken)
                    self._cache.reserved -= len(taken)
                    question.computed_tokens += len(taken)
                    after[id(question)] = output
            for question, segment in batch:
                first = segment.output[None]
                logits = torch.cat([first, after[id(question)]]) if id(question) in after else first
                question.logprobs = () if question.hidden else gathered(logits, question)
                self.admitted.remove((question, segment))
                self._cache.use(segment, -1)
                self._answered(question)

    def _look_inside(self, batch: list[tuple[Given, Segment]]) -> None:
        """Compute the last token of each path once more, this time keeping the hidden states."""
        if not batch:
            return
        contexts = [segment.context() for _, segment in batch]
        last = [next(s.tokens for s in segment.chain()[::-1] if s.tokens)[-1:] for _, segment in batch]
        states = self._forward.hidden(last, [c[:-1] for c in contexts], [c[-1:] for c in contexts])
        for (question, _), own in zip(batch, states.double().tolist(), strict=True):
            question.states = tuple(own)
            question.computed_tokens += 1

    def drain(self) -> list[Given]:
        """Let go of every question: the engine failed."""
        lost = [*self._waiting, *(question for question, _ in self.admitted)]
        for _, segment in self.admitted:
            self._cache.use(segment, -1)
            for link in segment.chain():
                link.promised = False
        self._waiting, self.admitted = [], []
        return lost

    def _batches(self) -> Iterator[list[tuple[Given, Segment]]]:
        """Questions of similar length together."""
        if not self.admitted:
            return
        limit = min(BATCH_TOKENS, max(1, BATCH_LOGITS // len(self.admitted[0][1].output)))
        batch: list[tuple[Given, Segment]] = []
        for pair in sorted(self.admitted, key=lambda pair: len(pair[0].token_ids)):
            if batch and len(pair[0].token_ids) * (len(batch) + 1) > limit:
                yield batch
                batch = []
            batch.append(pair)
        yield batch


def gathered(logits: torch.Tensor, question: Given) -> tuple[float, ...]:
    """Of each given token under the sampling distribution; `logits` (tokens, vocabulary)."""
    n, sampling = len(question.token_ids), question.sampling
    settings = Settings(
        np.full(n, float(sampling.temperature)),
        np.full(n, float(sampling.top_p)),
        np.full(n, sampling.top_k),
        np.zeros(n, np.uint64),
        np.arange(n),
    )
    log_p, *_ = log_law(logits, settings)
    ids = torch.tensor(question.token_ids, device=log_p.device)[:, None]
    return tuple(log_p.gather(1, ids)[:, 0].tolist())

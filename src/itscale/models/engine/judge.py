"""The engine's other half: scores of steps from a token-classification head, each computed once.

The same slots, prefix cache and forward pass as generation. Scoring a path computes only the steps
no earlier call has computed, batched with whatever waits.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from itscale.errors import MemoryLimitError, ScorerError
from itscale.models.engine.cache import PrefixCache, Segment
from itscale.models.engine.forward import CachedForward, share_the_cores
from itscale.models.engine.request import Worker
from itscale.types import Path

__all__ = ["Judge", "Judgement"]

BATCH_TOKENS = 4096
RESOLUTION = 1 / 64
"""Score logits are rounded to multiples of this, so that floating-point differences between batch
shapes do not show in which path wins."""
CLOSE = 1e-4
"""A logit this close to where rounding changes is computed again alone, in one canonical shape."""


@dataclass(slots=True, eq=False)
class Judgement:
    """Scores of a path's steps are wanted."""

    path: Path
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[None]
    cancelled: bool = False
    scores: tuple[float, ...] = ()
    error: Exception | None = None
    computed_tokens: int = 0


class Judge:
    """Scores paths with a model whose head gives logits of ("wrong", "right") at every token.

    `step_tokens` says what a step's node adds to its parent's tokens, read at the last of them; by
    default the step's own tokens.
    """

    def __init__(
        self,
        forward: CachedForward,
        *,
        prompt_tokens: Callable[[Path], Sequence[int]],
        step_tokens: Callable[[Path], Sequence[int]] | None = None,
        max_context: int,
        max_rows: int,
    ) -> None:
        self.forward = forward
        self.cache = PrefixCache(forward.pool, prompt_tokens, step_tokens)
        self.max_context = max_context
        self.max_rows = max_rows
        self._waiting: list[Judgement] = []
        self._taken: list[tuple[Judgement, Segment]] = []
        self._worker = Worker("itscale-judge", self._turn, self._fail_all, share_the_cores)

    async def score(self, path: Path) -> Judgement:
        """The judgement of a path; a cancelled call comes back as soon as the engine has let go."""
        loop = asyncio.get_running_loop()
        request = Judgement(path, loop, loop.create_future())
        await self._worker.ask(request)
        return request

    @property
    def computing_s(self) -> float:
        """Seconds that the thread has computed so far."""
        return self._worker.computing_s

    def close(self) -> None:
        """Stop the thread."""
        self._worker.close()

    # -- the thread ---------------------------------------------------------------------------

    def _turn(self, new: list[Judgement]) -> bool:
        self.cache.collect()
        self._waiting += new
        for request in [r for r in self._waiting if r.cancelled]:
            self._waiting.remove(request)
            self._worker.answer(request)
        taken = self._taken = self._admit()
        while True:
            plan = self.cache.plan(s for _, s in taken if not s.computed)
            if not plan:
                break
            owner: dict[Segment, Judgement] = {}
            for request, segment in taken:
                for link in segment.chain():
                    owner.setdefault(link, request)
            plan.sort(key=_missing)
            for start in range(0, len(plan), self.max_rows):
                self._compute(plan[start : start + self.max_rows], owner)
        for request, segment in taken:
            request.scores = _scores(segment)
        self._taken = []
        for request, segment in taken:
            self.cache.use(segment, -1)
            self._worker.answer(request)
        return bool(self._waiting)

    def _admit(self) -> list[tuple[Judgement, Segment]]:
        """Requests that fit together into one turn."""
        taken: list[tuple[Judgement, Segment]] = []
        missing = 0
        while self._waiting and missing < BATCH_TOKENS:
            request = self._waiting[0]
            segment = self.cache.segment(request.path)
            if segment.end > self.max_context:
                request.error = ScorerError(
                    f"the path has {segment.end} tokens and the scorer's context holds {self.max_context}; "
                    "lower max_tokens"
                )
                self._worker.answer(self._waiting.pop(0))
                continue
            self.cache.use(segment, +1)
            more = sum(len(s.tokens) - len(s.slots) for s in segment.chain())
            if not self.cache.fits(missing + more):
                self.cache.use(segment, -1)
                break
            missing += more
            taken.append((self._waiting.pop(0), segment))
        if not taken and self._waiting:
            request = self._waiting.pop(0)
            try:
                self.cache.require_possible(self.cache.segment(request.path).end)
            except MemoryLimitError as error:
                request.error = error
            self._worker.answer(request)
        return taken

    def _compute(self, batch: list[list[Segment]], owner: dict[Segment, Judgement]) -> None:
        rows = [[t for s in chain for t in s.tokens] for chain in batch]
        for chain, row in zip(batch, rows, strict=True):
            owner[chain[-1]].computed_tokens += len(row)
        with self.cache.pool.lent(map(len, rows)) as fresh:
            contexts = [chain[0].context() for chain in batch]
            outputs = self.forward.prefill(rows, contexts, fresh, last_only=False)
            ends = [segment for chain in batch for segment in chain]
            last = [
                output[segment.end - chain[0].start - 1]
                for chain, output in zip(batch, outputs, strict=True)
                for segment in chain
            ]
            logits = _log_odds(torch.stack(last))
            scores = [self._settled(*pair) for pair in zip(ends, logits, strict=True)]
        for segment, score in zip(ends, scores, strict=True):
            segment.output = score
        for chain, slots in zip(batch, fresh, strict=True):
            for segment in chain:
                start = segment.start - chain[0].start
                self.cache.fill(segment, slots[start : start + len(segment.tokens)])

    def _settled(self, segment: Segment, logit: float) -> float:
        """The score: a function of the tokens, whatever batch they were computed in."""
        steps = logit / RESOLUTION
        if abs(steps - math.floor(steps) - 0.5) * RESOLUTION < CLOSE and segment.parent is not None:
            tokens = [t for link in segment.chain() for t in link.tokens]
            if self.cache.fits(len(tokens)):
                steps = _log_odds(self.forward.alone(tokens))[-1] / RESOLUTION
        logit = round(steps) * RESOLUTION
        return 1.0 / (1.0 + math.exp(-max(-30.0, min(30.0, logit))))

    def _fail_all(self, error: Exception) -> None:
        for _, segment in self._taken:
            self.cache.use(segment, -1)
        for request in [*(request for request, _ in self._taken), *self._waiting]:
            request.error = ScorerError(f"the in-process scorer failed: {error!r}; please report this")
            request.error.__cause__ = error
            self._worker.answer(request)
        self._waiting, self._taken = [], []


def _log_odds(logits: torch.Tensor) -> list[float]:
    """Log odds of "right" from logits (..., 2)."""
    values: list[float] = (logits[..., 1] - logits[..., 0]).double().tolist()
    return values


def _missing(chain: list[Segment]) -> int:
    return sum(len(s.tokens) for s in chain)


def _scores(segment: Segment) -> tuple[float, ...]:
    """Scores of the steps; a step without tokens repeats the one before it."""
    scores: list[float] = []
    for link in segment.chain()[1:]:
        scores.append(float(link.output) if link.tokens else scores[-1])
    return tuple(scores)

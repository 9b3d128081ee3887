"""The in-process engine: continuous batching over whatever paths of whatever problems wait.

One thread turns forever: admit requests while memory allows, compute the prefixes they need (each
once, however many ask), start their rows, draw one token for every row in flight. A row leaves at
once when its step ends; a fork shares every slot of its prefix.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from itscale.errors import ContextLimitError, ModelError
from itscale.models.engine.cache import PrefixCache, Segment
from itscale.models.engine.forward import CachedForward, share_the_cores
from itscale.models.engine.given import Questions
from itscale.models.engine.request import Ending, Engine, Given, Request, Worker
from itscale.models.engine.rows import Row, Rows
from itscale.models.engine.sampler import draw
from itscale.types import End, Path, Sampling, Step

__all__ = ["Generator"]

PREFILL_TOKENS = 4096
"""Prompt tokens computed in one pass, padding included."""
_ITSELF = (0,)
"""A question on the path itself: one token that is never looked at."""
KEPT_LOGITS = 8192
"""Next-token logits stay with a path while the vocabulary is at most this large."""


class Generator(Engine):
    """Extends paths with one causal language model.

    `text_of(before, ids)` turns the newest token ids into text given the ids before them.
    """

    def __init__(
        self,
        forward: CachedForward,
        *,
        prompt_tokens: Callable[[Path], Sequence[int]],
        text_of: Callable[[Sequence[int], Sequence[int]], str],
        ending: Ending,
        max_context: int,
        max_rows: int,
    ) -> None:
        self.forward = forward
        self.cache = PrefixCache(forward.pool, prompt_tokens)
        self.max_context = max_context
        self.decode_steps = 0
        self.decoded_tokens = 0
        self.redrawn_tokens = 0
        """Draws too close to call that were taken again on canonical logits."""
        self._text_of = text_of
        self._ending = ending
        self._rows = Rows(max_rows, max_context)
        self._waiting: list[Request] = []
        self._admitted: list[tuple[Request, Segment]] = []
        self._told: list[Segment] = []
        """Segments whose logits were computed in this turn, or are still waited for."""
        self._questions = Questions(
            forward, self.cache, max_context, lambda given: self._worker.answer(given)
        )
        self._worker = Worker("itscale-generator", self._turn, self._fail_all, share_the_cores)

    async def hidden(self, path: Path) -> Given:
        """The hidden states at the last token of `path`, and what that cost."""
        loop = asyncio.get_running_loop()
        question = Given(path, _ITSELF, Sampling(), loop, loop.create_future(), hidden=True)
        await self._worker.ask(question)
        return question

    # -- the thread ---------------------------------------------------------------------------

    def _turn(self, new: list[Request | Given]) -> bool:
        self.cache.collect()
        self._waiting += [request for request in new if isinstance(request, Request)]
        self._questions.add([question for question in new if isinstance(question, Given)])
        self._drop_cancelled()
        self._admit()
        self._questions.admit(engine_idle=not (self._rows.n or self._admitted))
        self._prefill()
        self._questions.answer()
        self._spawn()
        if self._rows.n:
            self._decode()
        return bool(self._rows.n or self._waiting or self._admitted or self._questions)

    def _drop_cancelled(self) -> None:
        for i in reversed(range(len(self._waiting))):
            if self._waiting[i].cancelled:
                self._worker.answer(self._waiting.pop(i))
        for request, segment in [pair for pair in self._admitted if pair[0].cancelled]:
            self._admitted.remove((request, segment))
            self.cache.use(segment, -1)
            if request.spawned == 0:
                self.cache.reserved -= self._limit(request, segment)
            if request.running == 0:
                self._worker.answer(request)
        gone = [i for i, row in enumerate(self._rows.info) if row.request.cancelled]
        for i in gone:
            self.cache.pool.give_back(self._rows.own_slots(i))
            self._leave(i)
        self._rows.remove(gone)

    def _limit(self, request: Request, segment: Segment) -> int:
        return min(request.until.max_tokens, self.max_context - segment.end)

    def _admit(self) -> None:
        """Take waiting requests, first come first served, while prefix and one row fit."""
        refused = None
        while self._waiting and len(self._admitted) < self._rows.capacity:
            request = self._waiting[0]
            segment = self.cache.segment(request.path)
            limit = self._limit(request, segment)
            if limit < 1:
                self._overflow(self._waiting.pop(0), segment)
                continue
            self.cache.use(segment, +1)
            fresh = [s for s in segment.chain() if not s.computed and not s.promised]
            missing = sum(len(s.tokens) - len(s.slots) for s in fresh)
            if not self.cache.fits(missing + limit):
                self.cache.use(segment, -1)
                refused = segment.end + limit
                break
            request.prompt_tokens = segment.end
            # The first row's memory is promised now, so that an admitted request can always run.
            self.cache.reserved += missing + limit
            for link in fresh:
                link.promised = True
            self._admitted.append((self._waiting.pop(0), segment))
        if refused is not None and not self._admitted and not self._rows.n:
            request = self._waiting.pop(0)
            try:
                self.cache.require_possible(refused)
                request.error = ModelError("key-value memory ran out; raise kv_memory_bytes")
            except ModelError as error:
                request.error = error
            self._worker.answer(request)

    def _overflow(self, request: Request, segment: Segment) -> None:
        """The context window is full: nothing can be added to this path."""
        request.prompt_tokens = 0
        if request.path.step is None:
            request.error = ContextLimitError(
                f"the prompt has {segment.end} tokens and the model's context holds "
                f"{self.max_context}; shorten it"
            )
        else:
            for i in range(request.n):
                nothing = Step(
                    (), "", End.LENGTH, 0.0, token_logprobs=(), token_entropies=(), token_certainties=()
                )
                request.children[i] = request.path.child(nothing)
        self._worker.answer(request)

    def _prefill(self) -> None:
        """Compute what admitted requests still miss, each prefix once."""
        wanted: list[tuple[Request | Given, Segment]] = [*self._admitted, *self._questions.admitted]
        while True:
            targets = [segment for _, segment in wanted if segment.output is None]
            plan = self.cache.plan(t for t in targets if not t.computed)
            recalled = list({t: None for t in targets if t.computed})
            if not plan and not recalled:
                return
            owner: dict[Segment, Request | Given] = {}
            for request, segment in wanted:
                for link in segment.chain():
                    owner.setdefault(link, request)
            for batch in _batches(plan, PREFILL_TOKENS):
                self._compute(batch, owner)
            for segment in recalled:
                segment.output = self._recall(segment)
            self._told += [*(chain[-1] for chain in plan), *recalled]

    def _compute(self, batch: list[list[Segment]], owner: dict[Segment, Request | Given]) -> None:
        rows = [[t for s in chain for t in s.tokens[len(s.slots) :]] for chain in batch]
        for chain, row in zip(batch, rows, strict=True):
            self.cache.reserved -= len(row)
            owner[chain[-1]].computed_tokens += len(row)
        with self.cache.pool.lent(map(len, rows)) as fresh:
            contexts = [chain[0].context() for chain in batch]
            outputs = self.forward.prefill(rows, contexts, fresh, last_only=True)
        for chain, slots, output in zip(batch, fresh, outputs, strict=True):
            start = 0
            for segment in chain:
                size = len(segment.tokens) - len(segment.slots)
                segment.promised = False
                self.cache.fill(segment, slots[start : start + size])
                start += size
            chain[-1].output = output[-1].clone()

    def _recall(self, segment: Segment) -> torch.Tensor:
        """Logits after a segment that is computed but whose logits were not kept."""
        slots = segment.context()
        token = next(link.tokens[-1] for link in reversed(segment.chain()) if link.tokens)
        last = self.forward.prefill([[token]], [slots[:-1]], [slots[-1:]], last_only=True)
        return last[0][-1].clone()

    def _canonical(self, tokens: Sequence[int]) -> torch.Tensor | None:
        """Logits after a sequence computed alone, in one shape: a function of its tokens.

        None when memory is too short for a second copy of it.
        """
        return self.forward.alone(tokens) if self.cache.fits(len(tokens)) else None

    def _spawn(self) -> None:
        """Start rows of admitted requests and draw their first tokens."""
        started, logits = [], []
        left: list[tuple[Request, Segment]] = []
        for request, segment in self._admitted:
            context = None
            while request.spawned < request.n and self._rows.n < self._rows.capacity:
                limit = self._limit(request, segment)
                if request.spawned:
                    if not self.cache.fits(limit):
                        break
                    self.cache.reserved += limit
                context = segment.context() if context is None else context
                child = request.spawned
                row = Row(request, child, segment, request.path)
                started.append(self._rows.add(row, context, request.seeds[child], limit))
                logits.append(segment.output)
                self.cache.use(segment, +1)
                request.spawned += 1
                request.running += 1
            if request.spawned < request.n:
                left.append((request, segment))
            else:
                self.cache.use(segment, -1)
        self._admitted = left
        waited_for = {segment for _, segment in left}
        if len(self._ending.path) > KEPT_LOGITS:
            for segment in {*self._told} - waited_for:
                segment.output = None
        self._told = [segment for segment in self._told if segment in waited_for]
        if started:
            self._consume(np.array(started), torch.stack(logits))

    def _decode(self) -> None:
        """One token for every row in flight."""
        rows = self._rows
        slots = self.cache.pool.take(rows.n)
        self.cache.reserved -= rows.n
        rows.feed(slots)
        lengths = rows.length[: rows.n]
        logits = self.forward.decode(
            rows.last_token[: rows.n], lengths, rows.slots[: rows.n, : int(lengths.max())]
        )
        self.decode_steps += 1
        self.decoded_tokens += rows.n
        self._consume(np.arange(rows.n), logits)

    def _consume(self, which: np.ndarray, logits: torch.Tensor) -> None:
        """Draw a token for each row of `which`, and let go of rows that end."""
        rows = self._rows
        settings = rows.settings(which)
        draws = draw(logits, settings)
        for k in np.flatnonzero(draws.close):
            alone = self._canonical(self._row_tokens(which[k]))
            if alone is not None:
                again = draw(alone, settings.rows(np.array([k])))
                draws.tokens[k], draws.logprobs[k] = again.tokens[0], again.logprobs[0]
                draws.entropies[k], draws.certainties[k] = again.entropies[0], again.certainties[0]
                self.redrawn_tokens += 1
        rows.append(which, draws)
        ending = self._ending.step[draws.tokens] | self._ending.path[draws.tokens]
        ending |= rows.n_tokens[which] >= rows.limit[which]
        finished: list[int] = []
        try:
            for i in which[ending].tolist():
                if self._end_step(i):
                    self._leave(i)
                    finished.append(i)
        finally:
            rows.remove(finished)

    def _row_tokens(self, i: int) -> list[int]:
        rows = self._rows
        drawn: list[int] = rows.tokens[i, : rows.n_tokens[i]].tolist()
        return _sequence(rows.info[i].parent) + drawn

    def _end_step(self, i: int) -> bool:
        """Close the step row `i` is in; whether the row is done with it."""
        rows, row = self._rows, self._rows.info[i]
        request, token, n = row.request, int(rows.last_token[i]), int(rows.n_tokens[i])
        whole = request.until.what == "end"
        if self._ending.path[token]:
            end = End.EOS
        elif self._ending.step[token] and not (whole and n >= rows.limit[i]):
            end = End.BOUNDARY
        else:
            end = End.LENGTH
        own = slice(row.step_start, n)
        ids = tuple(rows.tokens[i, own].tolist())
        logprobs, entropies, certainties = (
            tuple(told[i, own].tolist()) for told in (rows.logprobs, rows.entropies, rows.certainties)
        )
        text = self._text_of(_tail(row.path), ids)
        step = Step(
            ids,
            text,
            end,
            math.fsum(logprobs),
            token_logprobs=logprobs,
            token_entropies=entropies,
            token_certainties=certainties,
        )
        row.path = row.path.child(step)
        if whole and end is End.BOUNDARY:
            row.step_start = n
            return False
        request.children[row.child] = row.path
        slots = rows.own_slots(i)
        if end is End.BOUNDARY and len(slots):
            self.cache.adopt(row.path, row.parent, ids, slots)
        else:
            self.cache.pool.give_back(slots)
        return True

    def _leave(self, i: int) -> None:
        """Account for row `i`, which is about to be removed."""
        rows, row = self._rows, self._rows.info[i]
        request = row.request
        taken = int(rows.length[i] - rows.start[i])
        self.cache.reserved -= int(rows.limit[i]) - taken
        self.cache.use(row.parent, -1)
        request.generated_tokens += int(rows.n_tokens[i])
        request.running -= 1
        if request.running == 0 and (request.spawned == request.n or request.cancelled):
            self._worker.answer(request)

    def _fail_all(self, error: Exception) -> None:
        """Something broke on the thread: everything outstanding fails, the engine goes on."""
        lost: dict[int, Request] = {id(r): r for r in self._waiting}
        lost |= {id(r): r for r, _ in self._admitted}
        lost |= {id(row.request): row.request for row in self._rows.info}
        for i, row in enumerate(self._rows.info):
            row.request.generated_tokens += int(self._rows.n_tokens[i])
            self.cache.pool.give_back(self._rows.own_slots(i))
            self.cache.use(row.parent, -1)
        for _, segment in self._admitted:
            self.cache.use(segment, -1)
            for link in segment.chain():
                link.promised = False
        self._rows.remove(range(self._rows.n))
        self._waiting, self._admitted, self.cache.reserved = [], [], 0
        outstanding: list[Request | Given] = [*lost.values(), *self._questions.drain()]
        for request in outstanding:
            request.error = ModelError(f"the in-process engine failed: {error!r}; please report this")
            request.error.__cause__ = error
            self._worker.answer(request)


def _sequence(segment: Segment) -> list[int]:
    return [int(token) for link in segment.chain() for token in link.tokens]


def _tail(path: Path, n: int = 8) -> tuple[int, ...]:
    """The last few generated ids before the newest step: enough context to spell it right."""
    tail: tuple[int, ...] = ()
    for node in path.nodes():
        if node.step is None or len(tail) >= n:
            break
        tail = node.step.token_ids + tail
    return tail[-n:]


def _batches(plan: list[list[Segment]], limit: int) -> list[list[list[Segment]]]:
    """Rows of similar length together, each batch at most about `limit` padded tokens."""
    size = {id(chain): sum(len(s.tokens) - len(s.slots) for s in chain) for chain in plan}
    batches: list[list[list[Segment]]] = []
    for chain in sorted(plan, key=lambda c: size[id(c)]):
        if batches and size[id(chain)] * (len(batches[-1]) + 1) <= limit:
            batches[-1].append(chain)
        else:
            batches.append([chain])
    return batches

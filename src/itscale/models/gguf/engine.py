"""Continuous batching over llama.cpp: the same turn as the in-process engine's, with forked sequences.

One thread turns forever: admit requests while memory allows, compute the prefixes they miss (each
once, however many ask), start their rows, draw one token for every row in flight. A row leaves at
once when its step ends; its sequence stays with the path it made, and the next step goes on there.

Tokens are drawn by `models/engine/sampler.py`, as everywhere in this room: seeds, log-probabilities
and the law of a draw are those of the in-process engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from itscale.errors import MemoryLimitError, ModelError
from itscale.models.engine.request import Ending, Engine, Given, Request, Worker
from itscale.models.engine.sampler import draw
from itscale.models.gguf.forward import Forward
from itscale.models.gguf.rows import Admitted, Row, settings_of
from itscale.models.gguf.sequences import Held, Sequences
from itscale.types import End, Path, Step

__all__ = ["LlamaEngine"]

SHARED_WAIT = 32
"""A prefix that is being computed is waited for if it saves at least so many tokens more."""
CONTEXT_TOKENS = 8
"""How many tokens before a step are looked at to spell it right."""

Ints = npt.NDArray[np.int64]


class LlamaEngine(Engine):
    """Extends paths with one GGUF model.

    `text_of(before, ids)` turns the newest token ids into text given the ids before them. A draw
    within `tolerance` of being another is taken again on logits computed alone.
    """

    def __init__(
        self,
        forward: Forward,
        sequences: Sequences,
        *,
        prompt_tokens: Callable[[Path], Sequence[int]],
        text_of: Callable[[Sequence[int], Sequence[int]], str],
        ending: Ending,
        max_context: int,
        max_rows: int,
        tolerance: float,
    ) -> None:
        self.sequences = sequences
        self.max_context = max_context
        self.decode_steps = 0
        self.decoded_tokens = 0
        self.computed_tokens = 0
        """Prefix tokens computed so far."""
        self.redrawn_tokens = 0
        """Draws too close to call that were taken again on canonical logits."""
        self._forward = forward
        self._prompt_tokens = prompt_tokens
        self._text_of = text_of
        self._ending = ending
        self._max_rows = max_rows
        self._tolerance = tolerance
        self._rows: list[Row] = []
        self._waiting: list[Request | Given] = []
        self._admitted: list[Admitted] = []
        self._worker = Worker("itscale-gguf", self._turn, self._fail_all, lambda: None)

    def close(self) -> None:
        """Stop the thread and free llama.cpp's memory."""
        super().close()
        self._forward.close()

    # -- the thread ---------------------------------------------------------------------------

    def _turn(self, new: list[Request | Given]) -> bool:
        self.sequences.collect()
        self._waiting += new
        self._drop_cancelled()
        while self._admit():
            self._compute()
        for entry in self._forward.answer(self._admitted, self.sequences):
            self._let_go(entry)
            self._worker.answer(entry.request)
        self._spawn()
        if self._rows:
            self._decode()
        return bool(self._rows or self._waiting or self._admitted)

    def _drop_cancelled(self) -> None:
        for request in [r for r in self._waiting if r.cancelled]:
            self._waiting.remove(request)
            self._worker.answer(request)
        for entry in [a for a in self._admitted if a.request.cancelled]:
            self._let_go(entry)
            if isinstance(entry.request, Given) or entry.request.spawned == 0:
                self.sequences.reserved -= entry.limit
            if isinstance(entry.request, Given) or entry.request.running == 0:
                self._worker.answer(entry.request)
        self._leave([row for row in self._rows if row.request.cancelled])

    def _let_go(self, entry: Admitted) -> None:
        self._admitted.remove(entry)
        entry.prefix.users -= 1

    def _admit(self) -> bool:
        """Take waiting requests, first come first served; whether there is something to compute."""
        later: list[Request | Given] = []
        planned = False
        while self._waiting and len(self._admitted) < self._max_rows - 1:
            request = self._waiting.pop(0)
            tokens = np.array([*self._prompt_tokens(request.path), *request.path.token_ids], np.int64)
            limit = self._limit(request, len(tokens))
            if limit is None:
                self._overflow(request, len(tokens))
                continue
            held, shared = self.sequences.closest(tokens)
            if held is not None and shared < len(tokens) and shared >= held.computed + SHARED_WAIT:
                later.append(request)
                continue
            prefix = self._plan(request, tokens, limit, held, shared)
            if prefix is None:
                self._waiting.insert(0, request)
                break
            self._admitted.append(Admitted(request, prefix, limit))
            planned = planned or prefix.planned > 0
        self._waiting = later + self._waiting
        if self._waiting and not (self._admitted or self._rows):
            self._refuse(self._waiting.pop(0))
            return self._admit()
        return planned

    def _limit(self, request: Request | Given, size: int) -> int | None:
        """Cells that one row behind `size` tokens may take; None if the context has no room for it."""
        room = self.max_context - size
        if isinstance(request, Given):
            # The last given token is not computed: its probability is known from those before.
            return len(request.token_ids) - 1 if len(request.token_ids) - 1 <= room else None
        return min(request.until.max_tokens, room) if room > 0 else None

    def _plan(
        self, request: Request | Given, tokens: Ints, limit: int, held: Held | None, shared: int
    ) -> Held | None:
        """A sequence that holds, or is about to hold, exactly `tokens`; None if memory is short."""
        exact = held is not None and shared == len(tokens) == len(held.tokens)
        prefix = held if exact and held is not None and (held.planned or held.output is not None) else None
        known = len(tokens)
        if prefix is None:
            # At least the last token is computed, as its logits are wanted.
            known = 0 if held is None else min(shared, len(tokens) - 1, held.computed)
        if held is not None:
            held.users += 1  # so that room is not made by giving up what is about to be used
        fits = self.sequences.fits(len(tokens) - known + limit)
        if held is not None:
            held.users -= 1
        if not fits:
            return None
        if prefix is None:
            goes_on = held is not None and known == len(held.tokens) and not held.users
            prefix = held if goes_on else self.sequences.fork(held, known)
            if prefix is None:
                return None
            self.sequences.append(prefix, tokens[known:], planned=True)
            request.computed_tokens += len(tokens) - known
        self.sequences.hold(prefix, request.path)
        prefix.users += 1
        self.sequences.reserved += limit
        request.prompt_tokens = len(tokens) + (limit if isinstance(request, Given) else 0)
        return prefix

    def _overflow(self, request: Request | Given, size: int) -> None:
        """The context window is full: nothing can be added to this path."""
        if isinstance(request, Given):
            request.error = ModelError(
                f"path and continuation have {size + len(request.token_ids) - 1} tokens and the model's "
                f"context holds {self.max_context}; lower max_tokens"
            )
        elif request.path.step is None:
            request.error = ModelError(
                f"the prompt has {size} tokens and the model's context holds {self.max_context}; shorten it"
            )
        else:
            nothing = Step(
                (), "", End.LENGTH, 0.0, token_logprobs=(), token_entropies=(), token_certainties=()
            )
            request.children = {i: request.path.child(nothing) for i in range(request.n)}
        self._worker.answer(request)

    def _refuse(self, request: Request | Given) -> None:
        """Nothing runs and still there is no room."""
        size = len(self._prompt_tokens(request.path)) + request.path.n_tokens
        request.error = MemoryLimitError(
            f"one path needs {size + (self._limit(request, size) or 0)} tokens of key-value memory but the "
            f"limit holds {self.sequences.capacity}; raise kv_memory_bytes, or lower max_tokens"
        )
        self._worker.answer(request)

    def _compute(self) -> None:
        """Compute every prefix that is planned, and keep the logits at its end."""
        fresh = list(dict.fromkeys(entry.prefix for entry in self._admitted if entry.prefix.planned))
        parts = [(held, i) for held in fresh for i in range(held.computed, len(held.tokens))]
        logits = self._forward.run(parts, [i == len(held.tokens) - 1 for held, i in parts])
        for held, output in zip(fresh, logits, strict=True):
            held.planned, held.output = 0, output
        self.computed_tokens += len(parts)

    def _spawn(self) -> None:
        """Start rows of admitted requests and draw their first tokens."""
        started: list[Row] = []
        logits = []
        for entry in list(self._admitted):
            request = entry.request
            if isinstance(request, Given):
                continue
            while request.spawned < request.n and len(self._rows) + len(started) < self._max_rows:
                if request.spawned and not self.sequences.fits(entry.limit):
                    break
                sequence = self.sequences.fork(entry.prefix, len(entry.prefix.tokens))
                if sequence is None:
                    break
                if request.spawned:
                    self.sequences.reserved += entry.limit
                started.append(Row(request, request.spawned, sequence, request.path, entry.limit))
                logits.append(entry.prefix.output)
                request.spawned += 1
                request.running += 1
            if request.spawned == request.n:
                self._let_go(entry)
        self._rows += started
        if started:
            self._consume(started, torch.from_numpy(np.stack(logits)))

    def _decode(self) -> None:
        """One token for every row in flight."""
        for row in self._rows:
            self.sequences.append(row.sequence, row.drawn[-1:])
            row.fed += 1
        self.sequences.reserved -= len(self._rows)
        parts = [(row.sequence, len(row.sequence.tokens) - 1) for row in self._rows]
        logits = self._forward.run(parts, [True] * len(parts))
        self.decode_steps += 1
        self.decoded_tokens += len(parts)
        self._consume(list(self._rows), torch.from_numpy(logits))

    def _consume(self, rows: list[Row], logits: torch.Tensor) -> None:
        """Draw a token for each row, and let go of rows that end."""
        settings = settings_of(rows, self._tolerance)
        draws = draw(logits, settings)
        for k in np.flatnonzero(draws.close).tolist():
            alone = torch.from_numpy(self._forward.alone(rows[k].tokens))
            again = draw(alone, settings.rows(np.array([k])))
            draws.tokens[k], draws.logprobs[k] = again.tokens[0], again.logprobs[0]
            draws.entropies[k], draws.certainties[k] = again.entropies[0], again.certainties[0]
            self.redrawn_tokens += 1
        for k, row in enumerate(rows):
            row.add(draws, k)
        self._leave([row for row in rows if self._is_done(row)])

    def _is_done(self, row: Row) -> bool:
        """Close the step a row is in if its newest token ends it; whether the row is done."""
        end = row.end(self._ending)
        if end is None:
            return False
        before = row.path.token_ids[-CONTEXT_TOKENS:]
        row.close_step(self._text_of(before, row.drawn[row.step_start :]), end)
        if end is End.BOUNDARY and row.request.until.what == "end":
            return False
        row.request.children[row.child] = row.path
        return True

    def _leave(self, rows: Sequence[Row]) -> None:
        """Take rows out, done or cancelled, and account for them."""
        for row in rows:
            request, step = row.request, row.path.step
            self._rows.remove(row)
            self.sequences.reserved -= row.limit - row.fed
            if not request.cancelled and step is not None and step.end is End.BOUNDARY:
                self.sequences.hold(row.sequence, row.path)
            else:
                self.sequences.release(row.sequence)
            request.generated_tokens += len(row.drawn)
            request.running -= 1
            if request.running == 0 and (request.spawned == request.n or request.cancelled):
                self._worker.answer(request)

    def _fail_all(self, error: Exception) -> None:
        """Something broke on the thread: everything outstanding fails, the engine goes on."""
        lost = dict.fromkeys(self._outstanding())
        for row in self._rows:
            self.sequences.release(row.sequence)
        self._rows, self._waiting, self._admitted = [], [], []
        self.sequences.clear()  # nobody knows what of it was computed
        for request in lost:
            request.error = ModelError(f"llama.cpp failed: {error!r}; please report this")
            request.error.__cause__ = error
            self._worker.answer(request)

    def _outstanding(self) -> Iterator[Request | Given]:
        yield from self._waiting
        yield from (entry.request for entry in self._admitted)
        yield from (row.request for row in self._rows)

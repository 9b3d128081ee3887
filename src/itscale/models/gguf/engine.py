"""Continuous batching over llama.cpp: the same turn as the in-process engine's, with forked sequences.

One thread turns forever: admit requests while memory allows, compute the prefixes they miss (each
once, however many ask), start their rows, draw one token for every row in flight. A row leaves at
once when its step ends; its sequence stays with the path it made, and the next step goes on there.

Tokens are drawn by `models/engine/sampler.py`, as everywhere in this room: seeds, log-probabilities
and the law of a draw are those of the in-process engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from itscale.errors import MemoryLimitError, ModelError
from itscale.models.engine.request import Request, Worker
from itscale.models.engine.sampler import Draws, Settings, draw
from itscale.models.gguf.library import Context
from itscale.models.gguf.sequences import Held, Sequences
from itscale.types import End, Path, Sampling, Step, Until

__all__ = ["Engine"]

SHARED_WAIT = 32
"""A prefix that is being computed is waited for if it saves at least so many tokens more."""
CONTEXT_TOKENS = 8
"""How many tokens before a step are looked at to spell it right."""

Floats = npt.NDArray[np.float32]


@dataclass(slots=True, eq=False)
class _Admitted:
    """A request whose prefix has a sequence, and which still has rows to start."""

    request: Request
    prefix: Held
    limit: int
    """Tokens each of its rows may draw."""


@dataclass(slots=True, eq=False)
class _Row:
    """One child in the making."""

    request: Request
    child: int
    sequence: Held
    path: Path
    """The path so far: grows at every boundary it passes."""
    limit: int
    drawn: list[int] = field(default_factory=list)
    step_start: int = 0
    """How many of `drawn` are in `path` already."""
    logprob: float = 0.0
    """Of the step it is in."""
    fed: int = 0
    """How many of `drawn` have a cell."""

    @property
    def tokens(self) -> list[int]:
        """The whole sequence, from the prompt to the newest token."""
        return [*self.sequence.tokens.tolist(), *self.drawn[self.fed :]]


class Engine:
    """Extends paths with one GGUF model.

    `alone` makes a second context, in which a draw too close to call is computed again on its own;
    `close` is the distance that counts as such (see `models/engine/sampler.py`).
    """

    def __init__(
        self,
        context: Context,
        alone: Callable[[], Context],
        *,
        cells: int,
        sequences: int,
        prompt_tokens: Callable[[Path], Sequence[int]],
        text_of: Callable[[Sequence[int], Sequence[int]], str],
        vocabulary: int,
        boundary_ids: Sequence[int],
        eos_ids: Sequence[int],
        max_context: int,
        max_rows: int,
        close: float,
    ) -> None:
        self.sequences = Sequences(sequences, cells, context.fork, context.drop)
        self.max_context = max_context
        self.decode_steps = 0
        self.decoded_tokens = 0
        self.computed_tokens = 0
        """Prefix tokens computed so far."""
        self.redrawn_tokens = 0
        """Draws too close to call that were taken again on canonical logits."""
        self._context = context
        self._make_alone = alone
        self._alone: Context | None = None
        self._prompt_tokens = prompt_tokens
        self._text_of = text_of
        self._ends_step = np.zeros(vocabulary, np.bool_)
        self._ends_step[list(boundary_ids)] = True
        self._ends_path = np.zeros(vocabulary, np.bool_)
        self._ends_path[list(eos_ids)] = True
        self._max_rows = max_rows
        self._close = close
        self._rows: list[_Row] = []
        self._waiting: list[Request] = []
        self._admitted: list[_Admitted] = []
        self._worker = Worker("itscale-gguf", self._turn, self._fail_all, lambda: None)

    async def extend(self, path: Path, until: Until, sampling: Sampling, seeds: list[int]) -> Request:
        """One child of `path` for each seed; the request comes back with children and counts.

        A cancelled call stops its rows at once and returns, cancelled, when the engine has let go.
        """
        loop = asyncio.get_running_loop()
        request = Request(path, len(seeds), until, sampling, seeds, loop, loop.create_future())
        await self._worker.ask(request)
        return request

    def close(self) -> None:
        """Stop the thread and free llama.cpp's memory."""
        self._worker.close()
        self._context.close()
        if self._alone is not None:
            self._alone.close()

    # -- the thread ---------------------------------------------------------------------------

    def _turn(self, new: list[Request]) -> bool:
        self.sequences.collect()
        self._waiting += new
        self._drop_cancelled()
        while self._admit():
            self._compute()
        self._spawn()
        if self._rows:
            self._decode()
        return bool(self._rows or self._waiting or self._admitted)

    def _drop_cancelled(self) -> None:
        for request in [r for r in self._waiting if r.cancelled]:
            self._waiting.remove(request)
            self._worker.answer(request)
        for entry in [a for a in self._admitted if a.request.cancelled]:
            self._admitted.remove(entry)
            entry.prefix.users -= 1
            if entry.request.spawned == 0:
                self.sequences.reserved -= entry.limit
            if entry.request.running == 0:
                self._worker.answer(entry.request)
        self._leave([row for row in self._rows if row.request.cancelled])

    def _admit(self) -> bool:
        """Take waiting requests, first come first served; whether there is something to compute."""
        later: list[Request] = []
        planned = False
        while self._waiting and len(self._admitted) < self._max_rows - 1:
            request = self._waiting.pop(0)
            tokens = np.array([*self._prompt_tokens(request.path), *request.path.token_ids], np.int64)
            limit = min(request.until.max_tokens, self.max_context - len(tokens))
            if limit < 1:
                self._overflow(request, len(tokens))
                continue
            held, shared = self.sequences.closest(tokens)
            if held is not None and shared < len(tokens) and shared >= held.computed + SHARED_WAIT:
                later.append(request)
                continue
            entry = self._plan(request, tokens, limit, held, shared)
            if entry is None:
                self._waiting.insert(0, request)
                break
            self._admitted.append(entry)
            planned = planned or entry.prefix.planned > 0
        self._waiting = later + self._waiting
        if self._waiting and not (self._admitted or self._rows):
            self._refuse(self._waiting.pop(0))
            return self._admit()
        return planned

    def _plan(
        self, request: Request, tokens: npt.NDArray[np.int64], limit: int, held: Held | None, shared: int
    ) -> _Admitted | None:
        """A sequence that holds, or is about to hold, exactly `tokens`; None if memory is short."""
        exact = held is not None and shared == len(tokens) == len(held.tokens)
        if held is not None and exact and (held.planned or held.output is not None):
            prefix: Held | None = held
            known = len(tokens)
        else:
            # At least the last token is computed, as its logits are wanted.
            known = 0 if held is None else min(shared, len(tokens) - 1, held.computed)
            prefix = None
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
        request.prompt_tokens = len(tokens)
        return _Admitted(request, prefix, limit)

    def _overflow(self, request: Request, size: int) -> None:
        """The context window is full: nothing can be added to this path."""
        if request.path.step is None:
            request.error = ModelError(
                f"the prompt has {size} tokens and the model's context holds {self.max_context}; shorten it"
            )
        else:
            for i in range(request.n):
                request.children[i] = request.path.child(Step((), "", End.LENGTH, 0.0))
        self._worker.answer(request)

    def _refuse(self, request: Request) -> None:
        """Nothing runs and still there is no room."""
        wanted = len(self._prompt_tokens(request.path)) + request.path.n_tokens + request.until.max_tokens
        request.error = MemoryLimitError(
            f"one path needs {min(wanted, self.max_context)} tokens of key-value memory but the limit holds "
            f"{self.sequences.capacity}; raise kv_memory_bytes, or lower max_tokens"
        )
        self._worker.answer(request)

    def _compute(self) -> None:
        """Compute everything that is planned, as many tokens at once as llama.cpp takes."""
        parts: list[tuple[Held, int]] = []
        for held in dict.fromkeys(entry.prefix for entry in self._admitted if entry.prefix.planned):
            parts += [(held, i) for i in range(held.computed, len(held.tokens))]
        for start in range(0, len(parts), self._context.batch):
            batch = parts[start : start + self._context.batch]
            last = np.array([i == len(held.tokens) - 1 for held, i in batch])
            logits = self._context.decode(
                np.array([held.tokens[i] for held, i in batch]),
                np.array([i for _, i in batch]),
                np.array([held.slot for held, _ in batch]),
                last,
            )
            for held, _ in batch:
                held.planned -= 1
            for row, k in zip(logits, np.flatnonzero(last), strict=True):
                batch[k][0].output = row
        self.computed_tokens += len(parts)

    def _spawn(self) -> None:
        """Start rows of admitted requests and draw their first tokens."""
        started: list[_Row] = []
        logits: list[Floats] = []
        for entry in list(self._admitted):
            request = entry.request
            while request.spawned < request.n and len(self._rows) + len(started) < self._max_rows:
                if request.spawned and not self.sequences.fits(entry.limit):
                    break
                sequence = self.sequences.fork(entry.prefix, len(entry.prefix.tokens))
                if sequence is None:
                    break
                if request.spawned:
                    self.sequences.reserved += entry.limit
                started.append(_Row(request, request.spawned, sequence, request.path, entry.limit))
                logits.append(entry.prefix.output)
                request.spawned += 1
                request.running += 1
            if request.spawned == request.n:
                self._admitted.remove(entry)
                entry.prefix.users -= 1
        self._rows += started
        if started:
            self._consume(started, np.stack(logits))

    def _decode(self) -> None:
        """One token for every row in flight."""
        for row in self._rows:
            self.sequences.append(row.sequence, row.drawn[-1:])
            row.fed += 1
        self.sequences.reserved -= len(self._rows)
        logits = self._context.decode(
            np.array([row.drawn[-1] for row in self._rows]),
            np.array([len(row.sequence.tokens) - 1 for row in self._rows]),
            np.array([row.sequence.slot for row in self._rows]),
            np.ones(len(self._rows), np.bool_),
        )
        self.decode_steps += 1
        self.decoded_tokens += len(self._rows)
        self._consume(list(self._rows), logits)

    def _consume(self, rows: list[_Row], logits: Floats) -> None:
        """Draw a token for each row, and let go of rows that end."""
        settings = _settings(rows)
        draws = draw(torch.from_numpy(logits), settings, close=self._close)
        for k in np.flatnonzero(draws.close):
            self._draw_again(draws, int(k), rows[k], settings)
        for row, token, logprob in zip(rows, draws.tokens.tolist(), draws.logprobs.tolist(), strict=True):
            row.drawn.append(token)
            row.logprob += logprob
        self._leave([row for row in rows if self._ended(row)])

    def _draw_again(self, draws: Draws, k: int, row: _Row, settings: Settings) -> None:
        """A draw too close to call: take it on logits computed alone, a function of the tokens."""
        if self._alone is None:
            self._alone = self._make_alone()
        tokens = np.array(row.tokens)
        self._alone.drop(0)
        logits = np.empty((0, 0), np.float32)
        for start in range(0, len(tokens), self._alone.batch):
            part = tokens[start : start + self._alone.batch]
            positions = start + np.arange(len(part))
            logits = self._alone.decode(part, positions, np.zeros_like(part), positions == len(tokens) - 1)
        again = draw(torch.from_numpy(logits), settings.rows(np.array([k])), close=self._close)
        draws.tokens[k], draws.logprobs[k] = again.tokens[0], again.logprobs[0]
        self.redrawn_tokens += 1

    def _ended(self, row: _Row) -> bool:
        """Close the step a row is in if its newest token ends it; whether the row is done."""
        token, n = row.drawn[-1], len(row.drawn)
        whole = row.request.until.what == "end"
        if self._ends_path[token]:
            end = End.EOS
        elif self._ends_step[token] and not (whole and n >= row.limit):
            end = End.BOUNDARY
        elif n >= row.limit:
            end = End.LENGTH
        else:
            return False
        ids = tuple(row.drawn[row.step_start :])
        text = self._text_of(row.path.token_ids[-CONTEXT_TOKENS:], ids)
        row.path = row.path.child(Step(ids, text, end, row.logprob))
        row.step_start, row.logprob = n, 0.0
        if whole and end is End.BOUNDARY:
            return False
        row.request.children[row.child] = row.path
        return True

    def _leave(self, rows: Sequence[_Row]) -> None:
        """Take rows out, done or cancelled, and account for them."""
        for row in rows:
            request = row.request
            self._rows.remove(row)
            self.sequences.reserved -= row.limit - row.fed
            if row.path.step is not None and row.path.step.end is End.BOUNDARY and not request.cancelled:
                self.sequences.hold(row.sequence, row.path)
            else:
                self.sequences.release(row.sequence)
            request.generated_tokens += len(row.drawn)
            request.running -= 1
            if request.running == 0 and (request.spawned == request.n or request.cancelled):
                self._worker.answer(request)

    def _fail_all(self, error: Exception) -> None:
        """Something broke on the thread: everything outstanding fails, the engine goes on."""
        for row in self._rows:
            self.sequences.release(row.sequence)
        for entry in self._admitted:
            entry.prefix.users -= 1
        for held in {entry.prefix for entry in self._admitted if entry.prefix.planned}:
            self.sequences.release(held)  # nobody knows what of it was computed
        lost = dict.fromkeys(self._outstanding())
        self._rows, self._waiting, self._admitted, self.sequences.reserved = [], [], [], 0
        for request in lost:
            request.error = ModelError(f"llama.cpp failed: {error!r}; please report this")
            request.error.__cause__ = error
            self._worker.answer(request)

    def _outstanding(self) -> Iterator[Request]:
        yield from self._waiting
        yield from (entry.request for entry in self._admitted)
        yield from (row.request for row in self._rows)


def _settings(rows: Sequence[_Row]) -> Settings:
    """Sampling of rows."""
    sampling = [row.request.sampling for row in rows]
    return Settings(
        np.array([s.temperature for s in sampling], np.float64),
        np.array([s.top_p for s in sampling], np.float64),
        np.array([s.top_k for s in sampling], np.int64),
        np.array([row.request.seeds[row.child] for row in rows], np.uint64),
        np.array([len(row.drawn) for row in rows], np.int64),
    )

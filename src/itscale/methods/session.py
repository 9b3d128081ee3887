"""One run in progress: the few verbs methods are written in, with all bookkeeping behind them.

`sample`, `extend` and `score` start everything at once and wait for it; `sample_scored` and
`extend_scored` judge each path while others still grow. They charge the ledger, hold results
against the scorer's contract, write the trace, and turn limits and failures into values, so that
a method reads like its paper:

- a call that failed for good costs one candidate: its path has no child;
- when a limit binds, `exhausted` is set and paths that may not move come back unchanged, so every
  method is anytime by ending its loop when nothing moves any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from itscale.budget import Ledger, OutOfBudget
from itscale.errors import AllFailedError, ModelError, OptionError, ScorerError
from itscale.events import Compared, Event, Failed, Proposed, Pruned, Resampled, Scored, Trace
from itscale.methods.arrivals import Arrivals
from itscale.models.base import Model
from itscale.randomness import Randomness
from itscale.scorers.base import (
    ComparisonScorer,
    OutcomeScorer,
    ProcessScorer,
    Scorer,
    checked_ranks,
    checked_scores,
)
from itscale.types import Path, Prompt, Sampling, StopReason, Until

__all__ = ["DEFAULT_GENERATIONS", "Judged", "Session"]

T = TypeVar("T")
Judged = tuple[Path, tuple[float, ...] | None]
"""A path with what the scorer says: a score a step, or one in all; None if it was not judged."""
DEFAULT_GENERATIONS = 16
"""N of a run whose budget does not say."""


class Session:
    """The state of one run of one method on one prompt."""

    def __init__(
        self,
        prompt: Prompt,
        model: Model,
        scorer: Scorer | None,
        ledger: Ledger,
        rng: Randomness,
        trace: Trace,
        sampling: Sampling,
        max_tokens: int,
    ) -> None:
        self.root = Path.root(prompt)
        self.rng = rng
        self.exhausted: StopReason | None = None
        """The limit that binds, once one does."""
        self.ledger = ledger
        self._model = model
        self._scorer = scorer
        self._trace = trace
        self._sampling = sampling
        self._max_tokens = max_tokens
        self._round = 0
        self._ids: dict[Path, int] = {self.root: 0}
        self._last_failure: Exception | None = None

    @property
    def generations(self) -> int:
        """N: how many paths this run may start."""
        return self.ledger.budget.generations or DEFAULT_GENERATIONS

    async def sample(self, n: int) -> list[Path]:
        """`n` whole answers, in the order of their seeds; fewer when some failed or a limit bound,
        the empty path alone when it bound before the first.

        Sample i depends on the run's seed and i alone, so runs of different n share a prefix.
        """
        return [path for path, _ in await self._sample(n, scored=False)]

    async def sample_number(self, i: int) -> Path | None:
        """Sample i of `sample` and no other; None when its call failed, or a limit bound before it."""
        grown = await self._grow(self.root, 1, "end", self.rng.child("sample", i), False)
        return next((path for path, _ in grown if path is not self.root), None)

    async def sample_scored(self, n: int) -> list[Judged]:
        """Like `sample`, each answer with what the scorer says, judged as soon as it is there."""
        return await self._sample(n, scored=True)

    async def sample_while(
        self, n: int, wanted: Callable[[Sequence[Path]], Awaitable[int]], *, in_order: bool = False
    ) -> list[Path]:
        """Whole answers for as long as more are wanted, `n` at most; the very samples of `sample`.

        `wanted` is given the answers so far, first to arrive first, and says how many more to have
        under way. At 0 the sampling ends: what still runs is cancelled upstream, and charged for
        what it had generated. Answers that arrive at the same time are looked at one by one, in
        the order of their seeds.

        With `in_order` an answer is looked at only after those of all earlier seeds, so that what
        comes back depends on the seed alone and not on speed.
        """
        arrived = Arrivals(lambda i: self._grow(self.root, 1, "end", self.rng.child("sample", i), False))
        seen: list[Path] = []
        try:
            while (more := await wanted(seen)) > 0:
                arrived.start(min(n, arrived.taken + more) if not self.exhausted else 0)
                if not arrived.waiting:
                    break
                group = await arrived.next(in_order=in_order)
                seen += [path for path, _ in group if path is not self.root]
        finally:
            unwanted = await arrived.cancel()
        self.pruned([path for group in unwanted for path, _ in group if path is not self.root])
        self._survivors(seen)
        return seen or ([self.root] if self.exhausted else [])

    @property
    def failure(self) -> Exception | None:
        """The last call that failed for good, if any did."""
        return self._last_failure

    def can_grow(self, path: Path) -> bool:
        """Whether a path may get another step: it has not ended, and has tokens left."""
        return not path.ended and path.n_tokens < self._max_tokens

    async def extend(
        self,
        paths: Sequence[Path],
        n: int | Sequence[int] = 1,
        *,
        greedy: bool = False,
        required: bool = True,
    ) -> list[list[Path]]:
        """For each path its `n` children, one step longer; `n` is one number, or one for each path.

        A path that has ended, or may not move because a limit binds, comes back as its only child;
        one whose call failed has none. With `greedy` a step is the model's likeliest one, whatever
        the method's temperature. Unless it is `required` that one call goes well, all may fail: the
        caller has other paths left.

        Raises:
            AllFailedError: every call failed.
        """
        groups = await self._extend(paths, n, scored=False, greedy=greedy, required=required)
        return [[child for child, _ in group] for group in groups]

    async def extend_scored(
        self, paths: Sequence[Path], n: int | Sequence[int] = 1, *, required: bool = True
    ) -> list[list[Judged]]:
        """Like `extend`, each new child with what the scorer says, judged as soon as it is there.

        A path that comes back unchanged is not judged again: its scores are None.
        """
        return await self._extend(paths, n, scored=True, required=required)

    async def score(self, paths: Sequence[Path]) -> list[tuple[float, ...] | None]:
        """For each path what the scorer says: a score a step, or one in all; None if it failed or
        a limit bound. The same path given twice is judged once."""
        unique = list(dict.fromkeys(paths))
        judged = dict(zip(unique, await _together(map(self._judge, unique)), strict=True))
        return [judged[path] for path in paths]

    async def compare(self, orders: Sequence[Sequence[Path]]) -> list[tuple[int, ...] | None]:
        """For each list of paths, shown in that order, their ranks (0 best, equal ones ties); None if
        the judge came to no verdict or a limit bound. What is left of a limit goes to the first lists."""
        return await _together(map(self._compared, orders))

    async def logprobs(self, path: Path, token_ids: Sequence[int]) -> tuple[float, ...] | None:
        """Log-probabilities (nats) of given tokens after a path, under the method's sampling
        distribution; None if the call failed or a limit bound. Needs `Capability.GIVEN`."""
        try:
            self.ledger.check()
            call = self._model.logprobs_of(path, token_ids, self._sampling, self.ledger)
            return await self._in_time(call)
        except OutOfBudget as limit:
            self.exhausted = self.exhausted or limit.reason
        except ModelError as error:
            self.ledger.failed_calls += 1
            self._last_failure = error
            self._emit(Failed(self.path_id(path), str(error)))
        return None

    def force(self, path: Path, text: str) -> Path:
        """The path with one more step that says `text`, not drawn. Needs `Capability.FORCING`."""
        child = self._model.forced(path, text)
        self._proposed(path, child)
        return child

    async def _extend(
        self,
        paths: Sequence[Path],
        n: int | Sequence[int],
        *,
        scored: bool,
        required: bool,
        greedy: bool = False,
    ) -> list[list[Judged]]:
        turn, self._round = self._round, self._round + 1
        counts = [n] * len(paths) if isinstance(n, int) else n
        groups = await _together(
            self._grow(path, count, "step", self.rng.child("step", turn, i), scored, greedy)
            for i, (path, count) in enumerate(zip(paths, counts, strict=True))
        )
        if paths and required:
            self._survivors([child for group in groups for child, _ in group])
        return groups

    async def _grow(
        self, path: Path, n: int, what: str, rng: Randomness, scored: bool, greedy: bool = False
    ) -> list[Judged]:
        """Children of one path, the new ones judged if that is wanted."""
        children = await self._propose(path, n, what, rng, greedy)
        if not scored or children == [path]:
            return [(child, None) for child in children]
        judged = await _together(map(self._judge, children))
        return list(zip(children, judged, strict=True))

    async def _sample(self, n: int, *, scored: bool) -> list[Judged]:
        streams = [self.rng.child("sample", i) for i in range(n)]
        groups = await _together(self._grow(self.root, 1, "end", stream, scored) for stream in streams)
        pairs = [pair for group in groups for pair in group if pair[0] is not self.root]
        self._survivors([path for path, _ in pairs])
        if not pairs and self.exhausted:
            return [(self.root, None)]  # the best so far: a limit bound before the first answer
        return pairs

    def resampled(
        self, paths: Sequence[Path], weights: Sequence[float], ess: float, log_evidence: float
    ) -> None:
        """Record that slot i now continues `paths[i]`."""
        ids = tuple(self.path_id(path) for path in paths)
        self._emit(Resampled(ids, tuple(weights), ess, log_evidence))

    def pruned(self, paths: Sequence[Path]) -> None:
        """Record that these paths were dropped for good."""
        if paths:
            self._emit(Pruned(tuple(self.path_id(path) for path in paths)))

    def path_id(self, path: Path) -> int:
        """The number of a path in the trace."""
        return self._ids.setdefault(path, len(self._ids))

    def _emit(self, event: Event) -> None:
        self._trace.emit(event)

    def _survivors(self, paths: list[Path]) -> list[Path]:
        """`paths`, unless every single call failed."""
        if not paths and self._last_failure is not None:
            raise AllFailedError(
                f"every candidate failed; the last error was: {self._last_failure}"
            ) from self._last_failure
        return paths

    async def _propose(self, path: Path, n: int, what: str, rng: Randomness, greedy: bool) -> list[Path]:
        wanted = self._max_tokens - path.n_tokens
        if path.ended or self.exhausted or wanted < 1:
            return [path]
        ledger = self.ledger
        try:
            ledger.check()
            if path.parent is None:
                for i in range(n):
                    try:
                        ledger.start_generation()
                    except OutOfBudget:
                        if i == 0:
                            raise
                        n = i
                        break
            granted = await ledger.reserve_tokens(wanted * n)
            asked, n = n, min(n, granted)
            try:
                until = Until("end" if what == "end" else "step", granted // n)
                sampling = replace(self._sampling, temperature=0.0) if greedy else self._sampling
                children = await self._in_time(self._model.extend(path, n, until, sampling, rng, ledger))
            finally:
                await ledger.return_tokens(granted)
        except OutOfBudget as limit:
            self.exhausted = self.exhausted or limit.reason
            return [path]
        except ModelError as error:
            ledger.failed_calls += 1
            self._last_failure = error
            self._emit(Failed(self.path_id(path), str(error)))
            return []
        if granted < wanted * asked and (n < asked or any(child.truncated for child in children)):
            self.exhausted = self.exhausted or StopReason.TOKENS
        for child in children:
            self._proposed(path, child)
        return children

    def _proposed(self, path: Path, descendant: Path) -> None:
        """Record every step between a path and what was proposed for it."""
        for node in reversed([node for node in descendant.nodes() if node.depth > path.depth]):
            assert node.step is not None
            assert node.parent is not None
            # A sample shared between runs hangs under another run's root: here it continues `path`.
            parent = path if node.depth == path.depth + 1 else node.parent
            ids = self.path_id(parent), self.path_id(node)
            self._emit(Proposed(ids[1], ids[0], node.step.text, node.step.n_tokens, node.step.end))

    async def _judge(self, path: Path) -> tuple[float, ...] | None:
        scorer = self._scorer
        if not isinstance(scorer, ProcessScorer | OutcomeScorer):
            raise OptionError("this method needs a scorer; pass one, or choose a method that votes")

        async def ask() -> Sequence[float] | float:
            return await scorer.score(path, self.ledger)

        result = await self._judgement(scorer, path, ask)
        if result is None:
            return None
        scores = checked_scores(scorer, path, result)
        self._emit(Scored(self.path_id(path), scores))
        return scores

    async def _compared(self, paths: Sequence[Path]) -> tuple[int, ...] | None:
        scorer = self._scorer
        if not isinstance(scorer, ComparisonScorer):
            raise OptionError(
                "this method needs a scorer that compares answers; pass judge:MODEL#mode=compare"
            )
        result = await self._judgement(scorer, paths[0], lambda: scorer.compare(paths, self.ledger))
        if result is None:
            return None
        ranks = checked_ranks(scorer, len(paths), result)
        self._emit(Compared(tuple(map(self.path_id, paths)), ranks))
        return ranks

    async def _judgement(self, scorer: Scorer, path: Path, ask: Callable[[], Awaitable[T]]) -> T | None:
        """What a scorer answers; None if the call failed or a limit bound."""
        try:
            self.ledger.check()
            self.ledger.start_scoring(scorer.calls_each)
            return await self._in_time(ask())
        except OutOfBudget as limit:
            self.exhausted = self.exhausted or limit.reason
        except (ModelError, ScorerError) as error:
            self.ledger.failed_calls += 1
            self._emit(Failed(self.path_id(path), str(error)))
        return None

    async def _in_time(self, call: Awaitable[T]) -> T:
        """Await `call`, cancelling it when the run's seconds are over."""
        seconds = self.ledger.budget.seconds
        if seconds is None:
            return await call
        limit = asyncio.timeout(max(0.0, seconds - self.ledger.seconds))
        try:
            async with limit:
                return await call
        except TimeoutError:
            if not limit.expired():
                raise  # the call's own
            raise OutOfBudget(StopReason.SECONDS) from None


async def _together(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results in order. An error cancels the other calls, which `asyncio.gather` would leave running."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise

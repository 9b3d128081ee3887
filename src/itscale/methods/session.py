"""One run in progress: the few verbs methods are written in, with all bookkeeping behind them.

`sample`, `extend` and `score` start everything at once and wait for it; `sample_scored` and
`extend_scored` judge each path while others still grow. They charge the ledger, hold results
against the scorer's contract, write the trace, and turn limits and failures into values, so that
a method reads like its paper:

- a call that failed for good costs one candidate: its path has no child;
- when a limit binds, `exhausted` is set and paths that may not move come back unchanged, so every
  method is anytime by ending its loop when nothing moves any more.

A path's continuations draw from a stream named after how the path came about: the k-th step asked
of it is the same whenever it is asked, before its siblings or after. So with `speculate` a path's
next step can be begun while the scorer still judges its last one: who asks for that step gets it,
and what is dropped instead is cancelled, and was paid for in vain.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

from itscale.budget import Ledger, OutOfBudget
from itscale.errors import AllFailedError, ModelError, OptionError, ScorerError
from itscale.events import Compared, Event, Failed, Pruned, Resampled, Scored, Trace, Weighed
from itscale.methods.ahead import Ahead
from itscale.methods.answering import Answering, Judged
from itscale.methods.arrivals import together, within
from itscale.methods.gathering import Counts, Gathered, gather, in_slots
from itscale.methods.lineage import Ending, How, Lineage, check_moved
from itscale.models.base import Came, Model
from itscale.randomness import Randomness, SomeChildren
from itscale.scorers.base import (
    ComparisonScorer,
    OutcomeScorer,
    ProcessScorer,
    Scorer,
    checked_ranks,
    checked_scores,
)
from itscale.types import Path, Prompt, Sampling, StopReason, Until
from itscale.weights import Population

__all__ = ["DEFAULT_GENERATIONS", "Judged", "Session"]

T = TypeVar("T")
DEFAULT_GENERATIONS = 16
"""N of a run whose budget does not say."""


class Session(Answering):
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
        *,
        speculate: bool = False,
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
        self._speculate = speculate
        self._lineage = Lineage(self.root, rng, trace)
        self._ahead: Ahead[tuple[Path, str], list[Path]] = Ahead()
        self._last_failure: Exception | None = None

    @property
    def generations(self) -> int:
        """N: how many paths this run may start."""
        return self.ledger.budget.generations or DEFAULT_GENERATIONS

    @property
    def failure(self) -> Exception | None:
        """The last call that failed for good, if any did."""
        return self._last_failure

    def can_grow(self, path: Path) -> bool:
        """Whether a path may get another step: it has not ended, and has tokens left."""
        return not path.ended and self._room(path, How()) > 0

    def room(self, path: Path) -> int:
        """How many more tokens a path may have."""
        return self._room(path, How())

    def _room(self, path: Path, how: How) -> int:
        """How many tokens an extension may have."""
        left = self._max_tokens - path.n_tokens
        return left if how.at_most is None else how.at_most if how.beyond else min(left, how.at_most)

    async def extend(
        self,
        paths: Sequence[Path],
        n: int | Sequence[int] = 1,
        *,
        greedy: bool = False,
        required: bool = True,
        until: Ending = "step",
        at_most: int | None = None,
    ) -> list[list[Path]]:
        """For each path its `n` children, one step longer; `n` is one number, or one for each path.

        With `until="end"` they have the whole rest, of `at_most` tokens if that is given; what this
        cuts off has ended by length, and goes on from its `cut`.

        A path that has ended, or may not move because a limit binds, comes back as its only child;
        one whose call failed has none. With `greedy` a step is the model's likeliest one, whatever
        the method's temperature. Unless it is `required` that one call goes well, all may fail: the
        caller has other paths left.

        Raises:
            AllFailedError: every call failed.
        """
        how = How(0.0 if greedy else None, until, at_most)
        groups = await self._extend(paths, n, how, scored=False, ahead=False, required=required)
        return [[child for child, _ in group] for group in groups]

    async def extend_scored(
        self,
        paths: Sequence[Path],
        n: int | Sequence[int] = 1,
        *,
        temperature: float | None = None,
        kept: bool = True,
        required: bool = True,
        until: Ending = "step",
    ) -> list[list[Judged]]:
        """Like `extend`, each new child with what the scorer says, judged as soon as it is there.

        A path that comes back unchanged is not judged again: its scores are None. A `temperature`
        takes the place of the method's. Children that are not to be `kept` have no step begun ahead.
        """
        how = How(temperature, until)
        return await self._extend(paths, n, how, scored=True, ahead=kept, required=required)

    def begin(
        self, paths: Sequence[Path], *, temperature: float | None = None, until: Ending = "step"
    ) -> None:
        """Begin the next step (or the rest) of each path before it is asked for, if this run speculates."""
        for path in paths:
            key = (path, (how := How(temperature, until)).kind)
            if self._speculate and not self.exhausted and self.can_grow(path) and key not in self._ahead:
                call = self._asked(path, 1, how, self._lineage.coming(*key), whole=True)
                self._ahead.begin(key, call)

    async def close(self) -> None:
        """Cancel every step begun ahead that nobody asked for; those that came all the same are pruned."""
        for key, children in await self._ahead.close():
            for i, child in enumerate(children):
                self._lineage.proposed(key[0], child, self._lineage.coming(*key).child("then", i))
            self.pruned(children)

    async def score(self, paths: Sequence[Path]) -> list[tuple[float, ...] | None]:
        """For each path what the scorer says: a score a step, or one in all; None if it failed or
        a limit bound. The same path given twice is judged once."""
        unique = list(dict.fromkeys(paths))
        judged = dict(zip(unique, await together(map(self._judge, unique)), strict=True))
        return [judged[path] for path in paths]

    async def compare(self, orders: Sequence[Sequence[Path]]) -> list[tuple[int, ...] | None]:
        """For each list of paths, shown in that order, their ranks (0 best, equal ones ties); None if
        the judge came to no verdict or a limit bound. What is left of a limit goes to the first lists."""
        return await together(map(self._compared, orders))

    async def _extend(
        self, paths: Sequence[Path], n: Counts, how: How, *, scored: bool, ahead: bool, required: bool
    ) -> list[list[Judged]]:
        streams = [self._lineage.next(path, how.kind) for path in paths]  # before any call may take its turn

        async def grown(call: Gathered) -> list[list[Judged]]:
            children = await self._propose(path := call.path, call.count, how, call.stream)
            if children == [path]:
                return [[(path, None)] for _ in call.slots]
            if ahead:
                self.begin(children, temperature=how.temperature)
            pairs = await self._judged(path, children) if scored else [(child, None) for child in children]
            return [own or [(path, None)] * bool(self.exhausted) for own in call.shared(pairs)]

        calls = gather(paths, n, streams, together=self._model.prefers_n and not self._speculate)
        groups = in_slots(calls, await together(map(grown, calls)))
        if paths and required:
            self.survivors([child for group in groups for child, _ in group])
        return groups

    async def _judged(self, path: Path, children: Sequence[Path]) -> list[Judged]:
        """The children of a path with what the scorer says; itself, come back unchanged, without."""
        if children == [path]:
            return [(path, None)]
        return list(zip(children, await together(map(self._judge, children)), strict=True))

    def weighed(self, population: Population[Path]) -> None:
        """Record the weights of a population that took a step."""
        ids = tuple(self.path_id(path) for path in population.items)
        self._emit(Weighed(ids, tuple(population.weights.tolist()), population.ess))

    def resampled(self, before: Population[Path], after: Population[Path]) -> None:
        """Record that slot i now continues `after.items[i]`; what no slot continues is dropped."""
        ids = tuple(self.path_id(path) for path in after.items)
        self._emit(Resampled(ids, tuple(before.weights.tolist()), before.ess, after.log_evidence))
        self._drop(set(before.items) - set(after.items))

    def pruned(self, paths: Sequence[Path]) -> None:
        """Record that these paths were dropped for good."""
        if paths:
            self._emit(Pruned(tuple(self.path_id(path) for path in paths)))
            self._drop(paths)

    def _drop(self, paths: Iterable[Path]) -> None:
        """Cancel the steps begun ahead of these paths."""
        wanted = set(paths)
        self._ahead.drop([key for key in self._ahead if key[0] in wanted])

    def path_id(self, path: Path) -> int:
        """The number of a path in the trace."""
        return self._lineage.path_id(path)

    def _emit(self, event: Event) -> None:
        self._trace.emit(event)

    def survivors(self, paths: list[Path]) -> list[Path]:
        """`paths`, unless every single call failed."""
        if not paths and self._last_failure is not None:
            raise AllFailedError(
                f"every candidate failed; the last error was: {self._last_failure}"
            ) from self._last_failure
        return paths

    async def _propose(self, path: Path, n: int, how: How, rng: Randomness) -> list[Path]:
        children = await self._tried(path, n, how, rng)
        for i, child in enumerate(children if children != [path] else ()):
            self._lineage.proposed(path, child, rng.child("then", i))
        return children

    async def _tried(
        self, path: Path, n: int, how: How, rng: Randomness, came: Came | None = None
    ) -> list[Path]:
        if self.exhausted or path.ended or self._room(path, how) < 1:
            return [path]
        try:
            children: list[Path] = []
            if (key := (path, how.kind)) in self._ahead:
                children = await self._ahead.claim(key)
            if len(children) < n:
                rest = SomeChildren(rng, range(len(children), n)) if children else rng
                children = children + await self._asked(path, n - len(children), how, rest, came=came)
        except OutOfBudget as limit:
            self.exhausted = self.exhausted or limit.reason
            return [path]
        except ModelError as error:
            self.ledger.failed_calls += 1
            self._last_failure = error
            self._emit(Failed(self.path_id(path), str(error)))
            return []
        return children

    async def _asked(
        self,
        path: Path,
        n: int,
        how: How,
        rng: Randomness,
        *,
        whole: bool = False,
        came: Came | None = None,
    ) -> list[Path]:
        """Children from the model, fewer than `n` where a limit binds, or none where the `whole`
        reservation is wanted and not to be had. `came` is told of each as soon as it is there."""
        ledger, wanted = self.ledger, self._room(path, how)
        ledger.check()
        if path.parent is None:
            n = ledger.start_generations(n)
        granted = await ledger.reserve_tokens(wanted * n)
        asked, n = n, min(n, granted)
        try:
            if whole and granted < wanted * asked:
                return []
            sampling, until = how.sampling(self._sampling), Until(how.until, granted // n)
            asked_for = path, n, until, sampling, rng, ledger
            model = self._model
            call = model.extend_each(*asked_for, came) if came else model.extend(*asked_for)
            children = await within(self.ledger, call)
        finally:
            await ledger.return_tokens(granted)
        check_moved(self._model.name, path, children)
        if granted < wanted * asked and (n < asked or any(child.truncated for child in children)):
            self.exhausted = self.exhausted or ledger.scarce
        return children

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
            return await within(self.ledger, ask())
        except OutOfBudget as limit:
            self.exhausted = self.exhausted or limit.reason
        except (ModelError, ScorerError) as error:
            self.ledger.failed_calls += 1
            self._emit(Failed(self.path_id(path), str(error)))
        return None

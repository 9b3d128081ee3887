"""Samples and scores made once for every cell of a sweep that asks for them.

Methods that only sample ask for the very same answers: sample i depends on the problem's seed and i
alone. In a sweep such a call is made once and its answer given to everyone who asks. Where several
samples come in one call, each is drawn once, whoever asks for which of them together (`draws.py`); where
they would be others than one by one (`Model.samples_alike`), they are asked for one by one.

Law: every run is charged what the one real call was charged, so a cell's tokens and calls are what
it would cost alone. Its *seconds* are not: the second to ask waits for nothing. What was charged
but not made again is counted in `shared_tokens`, so charged less shared (and less what a recording
answered, which is not counted here) is the work really done.

A failure is shared by those who wait for it and then forgotten. A run cancelled while others wait
for the same call is charged only what the call had been charged by then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, MutableMapping, Sequence
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

from itscale.bench.draws import Draws
from itscale.budget import Budget, Ledger
from itscale.models.base import Came, Model, WrappedModel
from itscale.randomness import Neighbours, Randomness
from itscale.scorers.base import ComparisonScorer, OutcomeScorer, ProcessScorer, Scorer
from itscale.types import Path, Prompt, Sampling, Until

__all__ = ["SharedOutcomeScores", "SharedProcessScores", "SharedSamples", "share_scores"]

Asked = TypeVar("Asked", bound=Hashable)
Given = TypeVar("Given")


class _Call(Generic[Given]):
    """One real call and those who wait for it."""

    def __init__(self, work: Callable[[Ledger], Awaitable[Given]]) -> None:
        self.spent = Ledger(Budget())
        self.accounted = 0
        """Generated tokens of it that are in somebody's charge."""
        self._waiting = 0
        self._given_up = False
        self._task: asyncio.Future[Given] = asyncio.ensure_future(work(self.spent))

    @property
    def usable(self) -> bool:
        """Whether it gives, or may yet give, a result."""
        task = self._task
        return not self._given_up and not (task.done() and (task.cancelled() or task.exception()))

    async def result(self, ledger: Ledger) -> Given:
        """What the call gives or raises, charged to `ledger`.

        Cancelled with the last of those who wait for it, and seen to its end, so that what it had
        made by then is charged too.
        """
        self._waiting += 1
        try:
            return await asyncio.shield(self._task)
        except asyncio.CancelledError:
            if self._waiting == 1 and not self._task.done():
                self._given_up = True
                self._task.cancel()
                await asyncio.wait([self._task])
            raise
        finally:
            self._waiting -= 1
            ledger.charge(self.spent.charges())


class _Memory(Generic[Asked, Given]):
    """Calls by what was asked. A call that failed is forgotten: the next to ask makes it again."""

    def __init__(self, calls: MutableMapping[Asked, _Call[Given]]) -> None:
        self._calls = calls
        self.shared_tokens = 0

    async def ask(self, asked: Asked, work: Callable[[Ledger], Awaitable[Given]], ledger: Ledger) -> Given:
        """The result of the one call under `asked`, made now if it has not been."""
        call = self._calls.get(asked)
        if call is None or not call.usable:
            call = self._calls[asked] = _Call(work)
        try:
            return await call.result(ledger)
        finally:
            # Charged just now, less what nobody had been charged for before (a call may still run).
            charged = call.spent.generated_tokens - call.spent.replayed_tokens
            self.shared_tokens += call.accounted
            call.accounted = charged
            if not call.usable and self._calls.get(asked) is call:
                del self._calls[asked]


class SharedSamples(WrappedModel):
    """A model for the runs of one sweep: whole answers asked for twice are made once.

    Remembers until `forget(prompt)`, so a sweep that finishes problem after problem holds the
    samples of a few. Stepwise calls go straight to the model.
    """

    has_extend_each = True

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self._prompts: dict[Prompt, _Memory[Hashable, list[Path]]] = {}
        self._draws: dict[Prompt, Draws] = {}
        self._shared_before = 0

    @property
    def shared_tokens(self) -> int:
        """Generated tokens charged to runs without being generated again."""
        remembered: list[_Memory[Hashable, list[Path]] | Draws] = [
            *self._prompts.values(), *self._draws.values()
        ]  # fmt: skip
        return self._shared_before + sum(one.shared_tokens for one in remembered)

    async def extend(
        self, path: Path, n: int, until: Until, sampling: Sampling, rng: Randomness, ledger: Ledger
    ) -> list[Path]:
        if path.parent is not None or until.what != "end":
            return await self._model.extend(path, n, until, sampling, rng, ledger)
        if self.samples_together and isinstance(rng, Neighbours):
            return await self._drawn(path, n, until, sampling, rng, ledger, lambda _number, _child: None)
        memory = self._prompts.setdefault(path.prompt, _Memory({}))
        paths = await memory.ask(
            (n, until, sampling, rng.seed),
            lambda spent: self._model.extend(path, n, until, sampling, rng, spent),
            ledger,
        )
        return list(paths)

    async def extend_each(
        self,
        path: Path,
        n: int,
        until: Until,
        sampling: Sampling,
        rng: Randomness,
        ledger: Ledger,
        came: Came,
    ) -> list[Path]:
        whole = path.parent is None and until.what == "end"
        if whole and self.samples_together and isinstance(rng, Neighbours):
            return await self._drawn(path, n, until, sampling, rng, ledger, came)
        return await super().extend_each(path, n, until, sampling, rng, ledger, came)

    async def _drawn(
        self,
        path: Path,
        n: int,
        until: Until,
        sampling: Sampling,
        rng: Neighbours,
        ledger: Ledger,
        came: Came,
    ) -> list[Path]:
        async def work(first: int, count: int, spent: Ledger, each: Came) -> list[Path]:
            these = rng.some(first, count)
            return await self._model.extend_each(path, count, until, sampling, these, spent, each)

        draws = self._draws.setdefault(path.prompt, Draws())
        asked = [(until, sampling, rng.seed + i) for i in range(n)]
        answers = await draws.draw(asked, work, ledger, came)
        return [answers[i] for i in sorted(answers)]

    def forget(self, prompt: Prompt) -> None:
        """Drop what is remembered of a prompt: no further run will ask."""
        for remembered in (self._prompts.pop(prompt, None), self._draws.pop(prompt, None)):
            if remembered is not None:
                self._shared_before += remembered.shared_tokens


class SharedProcessScores(ProcessScorer):
    """A process scorer for the runs of one sweep: a path is judged once, while it lives."""

    def __init__(self, scorer: ProcessScorer) -> None:
        self.name, self.calls_each = scorer.name, scorer.calls_each
        self._scorer = scorer
        self._judged: _Memory[Path, Sequence[float]] = _Memory(WeakKeyDictionary())

    async def score(self, path: Path, ledger: Ledger) -> Sequence[float]:
        return await self._judged.ask(path, lambda spent: self._scorer.score(path, spent), ledger)

    async def close(self) -> None:
        await self._scorer.close()


class SharedOutcomeScores(OutcomeScorer):
    """An outcome scorer for the runs of one sweep: a path is judged once, while it lives."""

    def __init__(self, scorer: OutcomeScorer) -> None:
        self.name, self.calls_each = scorer.name, scorer.calls_each
        self._scorer = scorer
        self._judged: _Memory[Path, float] = _Memory(WeakKeyDictionary())

    async def score(self, path: Path, ledger: Ledger) -> float:
        return await self._judged.ask(path, lambda spent: self._scorer.score(path, spent), ledger)

    async def close(self) -> None:
        await self._scorer.close()


def share_scores(scorer: Scorer) -> Scorer:
    """The scorer, sharing its judgements among the runs of a sweep; comparisons are not shared."""
    if isinstance(scorer, ComparisonScorer):
        return scorer
    return SharedProcessScores(scorer) if isinstance(scorer, ProcessScorer) else SharedOutcomeScores(scorer)

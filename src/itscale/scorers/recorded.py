"""Scorers that remember: what was judged before is answered from a recording, for nothing.

A judgement is addressed by the scorer's identity, the prompt, and every step with how it ended; a
comparison by all its answers in the order they were shown.
What breaks the scorer's contract is passed on and not recorded, like a call that failed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from itscale.budget import Ledger
from itscale.errors import ScorerError
from itscale.recording import Address, Calls, Kind, Recorded
from itscale.scorers.base import (
    ComparisonScorer,
    OutcomeScorer,
    ProcessScorer,
    Scorer,
    checked_ranks,
    checked_scores,
)
from itscale.types import Path, Step

__all__ = ["RecordedComparisonScorer", "RecordedOutcomeScorer", "RecordedProcessScorer", "record_scores"]


class _Remembered:
    """What all kinds share. Closing closes the scorer, and leaves the recording open."""

    def __init__(self, scorer: Scorer, recording: Calls) -> None:
        self.name, self.calls_each, self.price = scorer.name, scorer.calls_each, scorer.price
        self._scorer = scorer
        self._recording = recording
        self._identity = scorer.identity

    @property
    def identity(self) -> str:
        return self._identity

    @property
    def computing_s(self) -> float | None:
        return self._scorer.computing_s

    async def close(self) -> None:
        await self._scorer.close()

    async def _remembered(
        self,
        kind: Kind,
        paths: Sequence[Path],
        ledger: Ledger,
        ask: Callable[[Ledger], Awaitable[Any]],
        checked: Callable[[Any], Any],
    ) -> Any:
        """The recorded judgement of `paths`, or a new one, recorded if it keeps the contract."""
        said = [list(map(_said, path.steps)) for path in paths]
        asked = said if kind == "comparison" else said[0]
        address = Address.of(kind, self._identity, paths[0].prompt.plain(), asked)
        async with self._recording.turn(address):
            [found] = await self._recording.look_up([address])
            if found is not None:
                ledger.charge_replayed(found.charges, scorer_calls=self.calls_each)
                return found.answer
            if self._recording.offline:
                raise await self._recording.missing(address, self.name, paths[0].prompt.question)
            spent = ledger.apart()
            try:
                result = await ask(spent)
            finally:
                ledger.charge(spent.charges())
            try:
                answer = checked(result)
            except ScorerError:
                return result  # whoever asked holds it against the contract, and says so
            [kept] = await self._recording.keep({address: Recorded.of(answer, spent.charges())})
            return kept.answer


class RecordedProcessScorer(_Remembered, ProcessScorer):
    """A process scorer, asked only for what `recording` lacks; it also raises RecordingError."""

    def __init__(self, scorer: ProcessScorer, recording: Calls) -> None:
        super().__init__(scorer, recording)
        self._inner = scorer

    async def score(self, path: Path, ledger: Ledger) -> Sequence[float]:
        inner = self._inner
        scores: Sequence[float] = await self._remembered(
            "process",
            [path],
            ledger,
            lambda spent: inner.score(path, spent),
            lambda result: list(checked_scores(inner, path, result)),
        )
        return scores


class RecordedOutcomeScorer(_Remembered, OutcomeScorer):
    """An outcome scorer, asked only for what `recording` lacks; it also raises RecordingError."""

    def __init__(self, scorer: OutcomeScorer, recording: Calls) -> None:
        super().__init__(scorer, recording)
        self._inner = scorer

    async def score(self, path: Path, ledger: Ledger) -> float:
        inner = self._inner
        score: float = await self._remembered(
            "outcome",
            [path],
            ledger,
            lambda spent: inner.score(path, spent),
            lambda result: checked_scores(inner, path, result)[0],
        )
        return score


class RecordedComparisonScorer(_Remembered, ComparisonScorer):
    """A comparison scorer, asked only for what `recording` lacks; it also raises RecordingError."""

    def __init__(self, scorer: ComparisonScorer, recording: Calls) -> None:
        super().__init__(scorer, recording)
        self._inner = scorer

    async def compare(self, paths: Sequence[Path], ledger: Ledger) -> Sequence[int]:
        inner = self._inner
        ranks: Sequence[int] = await self._remembered(
            "comparison",
            paths,
            ledger,
            lambda spent: inner.compare(paths, spent),
            lambda result: list(checked_ranks(inner, len(paths), result)),
        )
        return ranks


def _said(step: Step) -> tuple[Any, ...]:
    calls = [step.tool_calls] if step.tool_calls else []
    return (step.token_ids, step.text, step.reasoning, step.end, *calls)


def record_scores(scorer: Scorer, recording: Calls) -> Scorer:
    """The scorer, remembering its judgements in a recording."""
    if isinstance(scorer, ProcessScorer):
        return RecordedProcessScorer(scorer, recording)
    if isinstance(scorer, OutcomeScorer):
        return RecordedOutcomeScorer(scorer, recording)
    return RecordedComparisonScorer(scorer, recording)

"""Scorers that remember: what was judged before is answered from a recording, for nothing.

A judgement is addressed by the scorer's identity, the prompt, and every step with how it ended.
What breaks the scorer's contract is passed on and not recorded, like a call that failed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from itscale.budget import Budget, Ledger
from itscale.errors import ScorerError
from itscale.recording import Address, Recorded, Recording
from itscale.scorers.base import OutcomeScorer, ProcessScorer, Scorer, checked_scores
from itscale.types import Path

__all__ = ["RecordedOutcomeScorer", "RecordedProcessScorer", "record_scores"]


class _Remembered:
    """What both kinds share. Closing closes the scorer, and leaves the recording open."""

    def __init__(self, scorer: Scorer, recording: Recording) -> None:
        self.name = scorer.name
        self._scorer = scorer
        self._recording = recording
        self._identity = scorer.identity

    @property
    def identity(self) -> str:
        return self._identity

    async def close(self) -> None:
        await self._scorer.close()

    async def _judged(self, path: Path, ledger: Ledger) -> Any:
        """The recorded judgement, or a new one, recorded."""
        address = Address.of(
            "process" if isinstance(self._scorer, ProcessScorer) else "outcome",
            self._identity,
            path.prompt.plain(),
            [
                (s.token_ids, s.text, s.reasoning, s.end, *([s.tool_calls] if s.tool_calls else []))
                for s in path.steps
            ],
        )
        async with self._recording.turn(address):
            [found] = await self._recording.look_up([address])
            if found is not None:
                ledger.charge_replayed(found.charges, scorer_calls=1)
                return found.answer
            if self._recording.offline:
                raise await self._recording.missing(address, self.name, path.prompt.question)
            spent = Ledger(Budget())
            try:
                result = await self._scorer.score(path, spent)
            finally:
                ledger.charge(spent.charges())
            try:
                scores = list(checked_scores(self._scorer, path, result))
            except ScorerError:
                return result  # whoever asked holds it against the contract, and says so
            answer = scores if isinstance(self._scorer, ProcessScorer) else scores[0]
            [kept] = await self._recording.keep({address: Recorded.of(answer, spent.charges())})
            return kept.answer


class RecordedProcessScorer(_Remembered, ProcessScorer):
    """A process scorer, asked only for what `recording` lacks; it also raises RecordingError."""

    async def score(self, path: Path, ledger: Ledger) -> Sequence[float]:
        scores: Sequence[float] = await self._judged(path, ledger)
        return scores


class RecordedOutcomeScorer(_Remembered, OutcomeScorer):
    """An outcome scorer, asked only for what `recording` lacks; it also raises RecordingError."""

    async def score(self, path: Path, ledger: Ledger) -> float:
        score: float = await self._judged(path, ledger)
        return score


def record_scores(scorer: Scorer, recording: Recording) -> Scorer:
    """The scorer, remembering its judgements in a recording."""
    if isinstance(scorer, ProcessScorer):
        return RecordedProcessScorer(scorer, recording)
    return RecordedOutcomeScorer(scorer, recording)

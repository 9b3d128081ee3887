"""Scorers that are a function of the text: for tests, examples and plug-in authors.

Like `itscale.models.fake` they keep their own counters, independent of the ledger they charge.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from itscale.budget import Ledger
from itscale.errors import ScorerError
from itscale.scorers.base import ComparisonScorer, OutcomeScorer, ProcessScorer
from itscale.types import Path

__all__ = ["FakeComparisonScorer", "FakeOutcomeScorer", "FakeProcessScorer"]


class _Fake:
    """What both fakes share: counters, failures told in advance, latency.

    Args:
        fail: given the number of a call (from 0), whether that call raises ScorerError.
        latency_s: seconds every call takes.
    """

    def __init__(
        self,
        *,
        name: str = "fake",
        fail: Callable[[int], bool] = lambda call: False,  # noqa: ARG005  the argument is the contract
        latency_s: float = 0.0,
    ) -> None:
        self.name = name
        self.latency_s = latency_s
        self.calls = 0
        """Calls so far, failed and cancelled ones included."""
        self.tokens = 0
        """Tokens judged so far: all of the path, in every call that got that far."""
        self._fail = fail

    async def _judged(self, ledger: Ledger, *paths: Path) -> None:
        """One call: counts, waits, fails if told to, charges."""
        call, self.calls = self.calls, self.calls + 1
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        if self._fail(call):
            raise ScorerError(f"call {call} failed as told; drop fail= to let it pass")
        tokens = sum(path.n_tokens for path in paths)
        self.tokens += tokens
        ledger.charge_scorer(tokens=tokens)


class FakeProcessScorer(_Fake, ProcessScorer):
    """Scores each step by `judge(texts)`: the texts of the steps up to it; in (0, 1), linear."""

    def __init__(
        self,
        judge: Callable[[tuple[str, ...]], float],
        *,
        name: str = "fake",
        fail: Callable[[int], bool] = lambda call: False,  # noqa: ARG005  the argument is the contract
        latency_s: float = 0.0,
    ) -> None:
        super().__init__(name=name, fail=fail, latency_s=latency_s)
        self._judge = judge

    async def score(self, path: Path, ledger: Ledger) -> Sequence[float]:
        await self._judged(ledger, path)
        texts = tuple(step.text for step in path.steps)
        return [self._judge(texts[: i + 1]) for i in range(len(texts))]


class FakeOutcomeScorer(_Fake, OutcomeScorer):
    """Scores a path by `judge(text)`: any scale, larger is better."""

    def __init__(
        self,
        judge: Callable[[str], float],
        *,
        name: str = "fake",
        fail: Callable[[int], bool] = lambda call: False,  # noqa: ARG005  the argument is the contract
        latency_s: float = 0.0,
    ) -> None:
        super().__init__(name=name, fail=fail, latency_s=latency_s)
        self._judge = judge

    async def score(self, path: Path, ledger: Ledger) -> float:
        await self._judged(ledger, path)
        return self._judge(path.text)


class FakeComparisonScorer(_Fake, ComparisonScorer):
    """Ranks paths by `judge(texts)`: a rank for each text, in the order shown; None is no verdict."""

    def __init__(
        self,
        judge: Callable[[tuple[str, ...]], Sequence[int] | None],
        *,
        name: str = "fake",
        fail: Callable[[int], bool] = lambda call: False,  # noqa: ARG005  the argument is the contract
        latency_s: float = 0.0,
    ) -> None:
        super().__init__(name=name, fail=fail, latency_s=latency_s)
        self._judge = judge

    async def compare(self, paths: Sequence[Path], ledger: Ledger) -> Sequence[int]:
        await self._judged(ledger, *paths)
        ranks = self._judge(tuple(path.text for path in paths))
        if ranks is None:
            raise ScorerError("the judge came to no verdict; ask it again, or ask another")
        return ranks

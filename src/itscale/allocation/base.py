"""Many prompts, one budget: which prompt gets the next sample.

An allocation is a frozen dataclass whose fields are its options, like a method; `run` takes a list of
prompts and spends one global budget on them. Its rule, `choose`, sees how the samples so far agree
and nothing else: no labels, no scorer.

Laws: at most `budget.generations` samples are started in all, and any other limit that is set binds;
sample i of a prompt is the very sample i of `majority` under that prompt's seed; the rule is told of
answers in the order in which they were asked for, so that the result depends on the seed alone and
not on speed, while `in_flight` samples are under way. With `in_flight=1` it knows every answer before
it chooses, as in the papers; otherwise those under way count as votes for the leader of their prompt.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from itscale.budget import Budget, Ledger, Usage
from itscale.errors import AllFailedError, OptionError, PromptError
from itscale.events import Trace
from itscale.methods.arrivals import Arrivals
from itscale.methods.majority import Majority
from itscale.methods.session import Session
from itscale.models.base import Model
from itscale.randomness import Randomness, stream_of
from itscale.types import Candidate, Path, Prompt, StopReason

__all__ = ["Allocated", "Allocation", "Answered", "Standing"]


@dataclass(slots=True)
class Standing:
    """What is known of one prompt while the budget is spent."""

    history: list[tuple[int, ...]] = field(default_factory=list)
    """After each sample that came back: how many gave each answer, most first. All that gave none
    (failed calls too) count as one answer more, or a prompt without answers would take everything."""
    started: int = 0
    refused: str | None = None
    """Why the model cannot read the prompt; such a prompt gets no more samples."""

    @property
    def counts(self) -> tuple[int, ...]:
        """The votes now; empty before the first sample came back."""
        return self.history[-1] if self.history else ()

    @property
    def under_way(self) -> int:
        """Samples started that have not come back."""
        return self.started - len(self.history)


@dataclass(frozen=True, slots=True)
class Answered:
    """One prompt and what its share of the budget gave."""

    prompt: Prompt
    candidates: Sequence[Candidate]
    """Its samples in the order of their seeds, those that failed left out."""
    chosen: int | None
    """The winner's earliest sample; None without any sample."""
    started: int
    """Samples paid for, failed ones included."""
    refused: str | None = None

    @property
    def text(self) -> str:
        """The chosen sample's text; empty without one."""
        return "" if self.chosen is None else self.candidates[self.chosen].path.text

    @property
    def answer(self) -> str | None:
        """The majority's answer, if anybody had one."""
        return None if self.chosen is None else self.candidates[self.chosen].answer

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "question": self.prompt.question,
            "answer": self.answer,
            "text": self.text,
            "samples": self.started,
            "refused": self.refused,
            "candidates": [dict(c.to_json()) for c in self.candidates],
        }


@dataclass(frozen=True, slots=True)
class Allocated:
    """What a run returns: every prompt's answer, and one account for all."""

    answers: Sequence[Answered]
    usage: Usage
    stop_reason: StopReason
    allocation: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class Allocation(ABC):
    """A rule that splits samples over prompts; each prompt's answer is the majority of its own.

    Raises:
        OptionError: an option is out of range.
    """

    name: ClassVar[str]
    summary: ClassVar[str]

    vote: Majority = field(default_factory=Majority)
    """How a sample is drawn, read and voted on."""
    in_flight: int = 32
    """Samples under way at once. More is faster, fewer is better informed."""

    def __post_init__(self) -> None:
        if self.in_flight < 1:
            raise OptionError(f"in_flight is {self.in_flight}; give at least 1")

    @abstractmethod
    def choose(self, standings: Sequence[Standing], left: int) -> int | None:
        """The prompt that gets the next sample; None for none now.

        It is asked again when a sample has come back. `left` is what may still be started, this
        sample included. Never choose a prompt that was refused.
        """

    def check(self, model: Model, prompts: int, samples: int) -> None:
        """Hold model and budget against what the rule needs, before any token.

        Raises:
            OptionError: something is missing, or the budget is too small for the rule.
        """
        self.vote.check(model, None)

    async def run(
        self,
        prompts: Sequence[Prompt | str],
        model: Model,
        budget: Budget,
        seed: int | Randomness = 0,
        *,
        seeds: Sequence[int] | None = None,
    ) -> Allocated:
        """Answer all `prompts` with `budget.generations` samples in all.

        `seeds` gives each prompt a seed of its own in place of one derived from `seed`, so that its
        samples are those another run of that prompt has made.

        Raises:
            OptionError: no prompts, no limit on generations or one the rule cannot work with, or a seed
                that is no whole number from 0 to 2**63 - 1.
            AllFailedError: every call failed.
        """
        if not prompts:
            raise OptionError("there is nothing to allocate to; give at least one prompt")
        if budget.generations is None:
            raise OptionError(
                "an allocation spends a fixed number of samples; set budget generations to their total"
            )
        if seeds is not None and len(seeds) != len(prompts):
            raise OptionError(f"{len(seeds)} seeds for {len(prompts)} prompts; give one each")
        self.check(model, len(prompts), budget.generations)
        rng = stream_of(seed)
        streams = (
            [stream_of(s) for s in seeds] if seeds else [rng.child("prompt", i) for i in range(len(prompts))]
        )
        ledger = Ledger(budget, model.price)
        asked = [Prompt.user(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
        sessions = [
            self.vote.session(prompt, model, None, ledger, stream, Trace())
            for prompt, stream in zip(asked, streams, strict=True)
        ]
        spending = _Spending(self, sessions, budget.generations)
        await spending.spend()
        answers = [spending.answered(i, prompt) for i, prompt in enumerate(asked)]
        kept = sum(c.path.n_tokens for answered in answers for c in answered.candidates)
        reasons = [session.exhausted for session in sessions if session.exhausted]
        return Allocated(
            answers=answers,
            usage=ledger.usage(kept_tokens=kept),
            stop_reason=reasons[0] if reasons else StopReason.DONE,
            allocation=self.name,
            seed=rng.seed,
        )


class _Spending:
    """One run in progress."""

    def __init__(self, rule: Allocation, sessions: Sequence[Session], samples: int) -> None:
        self._rule = rule
        self._sessions = sessions
        self._left = samples
        self._standings = [Standing() for _ in sessions]
        self._candidates: list[list[Candidate]] = [[] for _ in sessions]
        self._winners: list[int] = [0] * len(sessions)
        self._order: list[tuple[int, int]] = []
        """Which sample of which prompt each call makes."""

    async def spend(self) -> None:
        """Start samples while the rule wants any, telling it of every one in the order of starting."""
        arrived = Arrivals(self._sample)
        try:
            while True:
                while len(self._order) - arrived.taken < self._rule.in_flight and self._start():
                    arrived.start(len(self._order))
                if not arrived.waiting:
                    break
                prompt, _ = self._order[arrived.taken]
                await self._take(prompt, await arrived.next(in_order=True))
        finally:
            await arrived.cancel()
        failures = [session.failure for session in self._sessions if session.failure]
        if failures and not any(self._candidates):
            raise AllFailedError(f"every sample failed; the last error was: {failures[-1]}") from failures[-1]

    def _start(self) -> bool:
        """Settle what the next call makes; False if there is none."""
        if self._left < 1 or any(session.exhausted for session in self._sessions):
            return False
        prompt = self._rule.choose(self._standings, self._left)
        if prompt is None:
            return False
        standing = self._standings[prompt]
        self._order.append((prompt, standing.started))
        standing.started += 1
        self._left -= 1
        return True

    async def _sample(self, call: int) -> Path | PromptError | None:
        prompt, number = self._order[call]
        try:
            return await self._sessions[prompt].sample_number(number)
        except PromptError as error:  # one prompt's fault must not cost the others
            return error

    async def _take(self, prompt: int, sample: Path | PromptError | None) -> None:
        standing, candidates = self._standings[prompt], self._candidates[prompt]
        clusters = []
        if isinstance(sample, PromptError):
            standing.refused = str(sample)
        elif sample is not None:
            candidates.append(self._rule.vote.candidate(sample))
        if candidates:
            clusters = await self._rule.vote.votes(candidates)
            self._winners[prompt] = clusters[0].representative if clusters else 0
        votes = [len(cluster.members) for cluster in clusters]
        silent = len(standing.history) + 1 - sum(votes)
        standing.history.append(tuple(sorted([*votes, *([silent] if silent else [])], reverse=True)))

    def answered(self, i: int, prompt: Prompt) -> Answered:
        """What became of prompt i."""
        candidates, standing = self._candidates[i], self._standings[i]
        chosen = self._winners[i] if candidates else None
        return Answered(prompt, candidates, chosen, standing.started, standing.refused)

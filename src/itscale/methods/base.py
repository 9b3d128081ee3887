"""What a method is: a frozen dataclass whose fields are its options, and one way to run it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from itscale.budget import Budget, Ledger, Usage
from itscale.errors import OptionError
from itscale.events import Chosen, Event, Stopped, Trace
from itscale.methods.session import Session
from itscale.methods.tree import Tree
from itscale.models.base import TOLD_OF_TOKENS, Capability, Model, in_words
from itscale.randomness import Randomness, stream_of
from itscale.scorers.answers import AUTO, AnswerKind, answer_of_calls
from itscale.scorers.base import ComparisonScorer, OutcomeScorer, ProcessScorer, Scorer
from itscale.types import Candidate, Path, Prompt, Sampling, StopReason

__all__ = ["Method", "Outcome", "Result", "StepMethod", "answer_in", "best", "candidate"]

_LOGPROBS = TOLD_OF_TOKENS | {Capability.LOGPROBS, Capability.GIVEN}
"""What servers can tell of some draws and not of others."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a method's search ended with: candidates, the chosen one, and what it knows of them."""

    candidates: Sequence[Candidate]
    chosen: int
    log_evidence: float | None = None
    """Log of the unbiased estimate of the target's normalising constant (nats)."""
    ess: float | None = None
    """Effective sample size of the final weights, 1 to N."""
    stop_reason: StopReason | None = None
    abstained: bool = False
    """Whether the method prefers no answer to the chosen one; its text is still the result's."""
    tree: Tree | None = None
    """What a tree method grew."""


@dataclass(frozen=True, slots=True)
class Result:
    """What every run returns."""

    text: str
    answer: str | None
    candidates: Sequence[Candidate]
    chosen: int
    usage: Usage
    stop_reason: StopReason
    method: str
    seed: int
    log_evidence: float | None
    ess: float | None
    trace: Trace
    answer_kind: AnswerKind = AUTO
    """How the candidates' answers were read, and are to be compared."""
    path_ids: Sequence[int] = ()
    """Of each candidate, the number of its path in the trace."""
    abstained: bool = False
    """Whether the method preferred no answer to the text's."""
    tree: Tree | None = None
    """What a tree method grew, with the value of every node; None of other methods."""

    @property
    def degraded(self) -> str | None:
        """What to say where several candidates were to be compared by their answers and none states one;
        None where all is well. The text is then that of a candidate nobody voted for."""
        if len(self.candidates) < 2 or any(c.answer is not None for c in self.candidates):
            return None
        cut = sum(c.path.truncated for c in self.candidates)
        fix = (
            f"{cut} were cut off: raise max_tokens or the limit on tokens"
            if cut
            else "give answers=KIND that fits what the model writes, or a prompt that asks for `Answer: X`"
        )
        return (
            f"none of {len(self.candidates)} candidates states an answer of kind {self.answer_kind.name!r}; "
            f"there was no vote, and the text is that of candidate {self.chosen + 1}; {fix}"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for `--json`; the trace is left out, the tree of a tree method is under `tree`."""
        return {
            "text": self.text,
            "answer": self.answer,
            "abstained": self.abstained,
            **({} if self.degraded is None else {"degraded": self.degraded}),
            "method": self.method,
            "seed": self.seed,
            "stop_reason": self.stop_reason.value,
            "log_evidence": self.log_evidence,
            "ess": self.ess,
            "chosen": self.chosen,
            "usage": self.usage.to_json(),
            "candidates": [dict(c.to_json()) for c in self.candidates],
            **({} if self.tree is None else {"tree": self.tree.to_json()}),
        }


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """An inference method. Subclasses implement `search` in the verbs of `Session`.

    Every method is anytime (when a limit binds, the best so far is the answer) and reproducible
    from one seed.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    scorer_kind: ClassVar[Literal["none", "any", "process", "comparison"]]
    needs: ClassVar[frozenset[Capability]] = frozenset()
    or_else: ClassVar[str] = ""
    """What else to run where a model tells no statistics of tokens, for the end of a sentence."""
    scales: ClassVar[bool] = True
    """Whether N (the budget's generations) changes what is done; a sweep runs one cell if not."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 512
    """Generated tokens of one path, at most."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise OptionError(f"temperature is {self.temperature}; give 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise OptionError(f"top_p is {self.top_p}; give a share above 0 and at most 1")
        if self.max_tokens < 1:
            raise OptionError(f"max_tokens is {self.max_tokens}; give at least 1")

    @property
    def races(self) -> bool:
        """Whether it matters which sample finishes first, so that a sweep must let it make its own."""
        return False

    @property
    def speculates(self) -> bool:
        """Whether steps are begun before it is known that they are wanted."""
        return False

    @property
    def required(self) -> frozenset[Capability]:
        """What a model must offer for this method with these options."""
        return self.needs

    @property
    def looks_at(self) -> frozenset[Capability]:
        """What it reads of the tokens that come: some backends tell statistics only when asked."""
        return self.required

    @property
    def samplings(self) -> tuple[Sampling, ...]:
        """How its tokens are drawn, and what they are weighed for where that is another law."""
        return (self._sampling,)

    @property
    def answer_kind(self) -> AnswerKind:
        """How this method reads and compares answers."""
        return AUTO

    @abstractmethod
    async def search(self, session: Session) -> Outcome:
        """Spend the budget and choose. Ends by itself when `session.exhausted` is set."""

    async def run(
        self,
        prompt: Prompt | str,
        model: Model,
        scorer: Scorer | None = None,
        budget: Budget | None = None,
        seed: int | Randomness = 0,
        *observers: Callable[[Event], None],
        ledger: Ledger | None = None,
    ) -> Result:
        """Answer `prompt`. With a `ledger`, which then says the budget too, what was spent can be read there
        also of a run that fails or is cancelled.

        Raises:
            OptionError: model or scorer lack what this method needs (checked before any token), or the
                seed is no whole number from 0 to 2**63 - 1.
            PromptError: the model cannot read the prompt.
            AllFailedError: every candidate failed.
            ScorerError: the scorer broke its contract.
        """
        self.check(model, scorer)
        rng = stream_of(seed)
        prompt = Prompt.user(prompt) if isinstance(prompt, str) else prompt
        ledger = ledger or Ledger(budget or Budget(), model.price, scorer.price if scorer else None)
        trace = Trace(*observers)
        session = self.session(prompt, model, scorer, ledger, rng, trace)
        try:
            outcome = await self.search(session)
        finally:
            await session.close()
        reason = outcome.stop_reason or session.exhausted or StopReason.DONE
        if reason is not StopReason.DONE:
            trace.emit(Stopped(reason.value))
        chosen = outcome.candidates[outcome.chosen]
        trace.emit(Chosen(session.path_id(chosen.path)))
        return Result(
            text=chosen.path.text,
            answer=None if outcome.abstained else chosen.answer,
            candidates=outcome.candidates,
            chosen=outcome.chosen,
            usage=ledger.usage(kept_tokens=_distinct_tokens([c.path for c in outcome.candidates])),
            stop_reason=reason,
            method=self.name,
            seed=rng.seed,
            log_evidence=outcome.log_evidence,
            ess=outcome.ess,
            trace=trace,
            answer_kind=self.answer_kind,
            path_ids=tuple(session.path_id(c.path) for c in outcome.candidates),
            abstained=outcome.abstained,
            tree=outcome.tree,
        )

    def session(
        self,
        prompt: Prompt,
        model: Model,
        scorer: Scorer | None,
        ledger: Ledger,
        rng: Randomness,
        trace: Trace,
        looks_at: frozenset[Capability] | None = None,
    ) -> Session:
        """A run of this method on one prompt, about to begin; charged to `ledger`. It looks at what the
        method does unless `looks_at` says what."""
        wanted = self.looks_at if looks_at is None else looks_at
        sampling = self._sampling
        if wanted & TOLD_OF_TOKENS:
            sampling = replace(sampling, top_logprobs=model.top_logprobs)
        return Session(
            prompt, model, scorer, ledger, rng, trace, sampling, self.max_tokens, speculate=self.speculates
        )

    @property
    def _sampling(self) -> Sampling:
        return Sampling(temperature=self.temperature, top_p=self.top_p)

    def check(self, model: Model, scorer: Scorer | None) -> None:
        """Hold model and scorer against what this method needs, before any token.

        Raises:
            OptionError: something is missing; the message says what, and what would do instead.
        """
        missing = self.required - model.capabilities
        if missing:
            fix = "use a method that samples whole answers (majority, best-of-n)"
            if missing <= TOLD_OF_TOKENS:
                told = "a server that tells the likeliest tokens with their ids (vLLM, llama-server)"
                fix = f"use an in-process model (hf:PATH), or {told}{self.or_else}"
            if not missing & self.needs:  # an option of this run asks for it
                fix = f"use an in-process model (hf:PATH), or options of {self.name} that do without"
            why = model.why_not(missing)
            raise OptionError(
                f"{self.name} needs {in_words(missing)}, which model {model.name!r} does not offer"
                f"{why and f' ({why})'}; {fix}"
            )
        self._check_told(model)
        if self.scorer_kind == "process" and not isinstance(scorer, ProcessScorer):
            raise OptionError(
                f"{self.name} needs a process scorer (a score for every step); "
                "pass one (--scorer), or use best-of-n with an outcome scorer, or majority with none"
            )
        if self.scorer_kind == "any" and not isinstance(scorer, ProcessScorer | OutcomeScorer):
            if isinstance(scorer, ComparisonScorer):
                raise OptionError(
                    f"{self.name} needs a scorer that judges one answer at a time, and {scorer.name!r} "
                    "compares answers; use knockout, round-robin or listwise with it"
                )
            raise OptionError(
                f"{self.name} needs a scorer; pass one (--scorer), or use majority, which votes"
            )
        if self.scorer_kind == "comparison" and not isinstance(scorer, ComparisonScorer):
            raise OptionError(
                f"{self.name} needs a scorer that compares answers; pass judge:MODEL#mode=compare, "
                "or use best-of-n with a scorer that judges one at a time"
            )

    def _check_told(self, model: Model) -> None:
        """That what it reads of the tokens can be had of tokens drawn, or weighed for, as it does."""
        looked_at = self.looks_at & _LOGPROBS
        if not looked_at or all(model.tells(sampling, looked_at) for sampling in self.samplings):
            return
        options = ("temperature", "proposal_temperature", "top_p")
        changed = [name for name in options if getattr(self, name, None) not in (None, 1)]
        raise OptionError(
            f"{self.name} looks at log-probabilities, which model {model.name!r} tells at temperature 1 "
            f"without top-p; leave out {', '.join(changed)}, or use a model in this process (hf:PATH)"
        )


@dataclass(frozen=True, kw_only=True)
class StepMethod(Method):
    """A method that grows answers a step at a time, guided by a process scorer."""

    scorer_kind: ClassVar[Literal["none", "any", "process"]] = "process"
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.STEPS})

    speculate: bool = False
    """Generate the next step of every path while the scorer still judges its last one. The result is
    the same; steps of paths that are then dropped are paid for in vain."""

    @property
    def speculates(self) -> bool:
        return self.speculate


def candidate(path: Path, **fields: Any) -> Candidate:
    """A candidate with its answer extracted. A path that did not finish has no answer."""
    return Candidate(path=path, answer=answer_in(path, AUTO), **fields)


def answer_in(path: Path, kind: AnswerKind) -> str | None:
    """What a finished path answers: its tool calls, or what its text states; None if not finished."""
    if not path.finished:
        return None
    calls = path.tool_calls
    return answer_of_calls(calls) if calls else kind.extract(path.text)


def best(candidates: Sequence[Candidate]) -> int:
    """The index of the best score among finished paths (among all if none is); ties to the earliest."""
    finished = [i for i, c in enumerate(candidates) if c.path.finished]

    def rank(i: int) -> tuple[float, int]:
        score = candidates[i].score
        return (-math.inf if score is None else score, -i)

    return max(finished or range(len(candidates)), key=rank)


def _distinct_tokens(paths: Sequence[Path]) -> int:
    """Tokens in the union of the paths, shared prefixes counted once."""
    nodes = {node for path in paths for node in path.nodes()}
    return sum(node.step.n_tokens for node in nodes if node.step is not None and not node.step.forced)

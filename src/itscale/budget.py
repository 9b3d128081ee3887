"""What a run may spend, and what it did spend.

`Budget` is a set of hard limits: any that is set binds. `Ledger` is the one account of a run; models
and scorers charge it at the seam, so usage is what they were asked for, to the token. Tokens are
reserved before they are generated, which is why a limit on them, or on what they cost, is never overstepped.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Real

from itscale.errors import OptionError, whole_number
from itscale.types import StopReason

__all__ = ["Budget", "Charges", "Ledger", "OutOfBudget", "Price", "Usage"]

Charges = Mapping[str, int]
"""What a model or scorer charged: names of the ledger's counters to amounts above 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Hard limits of one run; None means no limit.

    `generations` is the field's N: how many paths a method starts from the prompt. A fork takes
    the slot of a path that was dropped, so a population of N stays N.

    Raises:
        OptionError: if a limit is not positive, or no number of its kind (2.5 generations).
    """

    generations: int | None = None
    tokens: int | None = None
    """Generated tokens, discarded ones included."""
    scorer_calls: int | None = None
    """Paths judged and answers compared; a judge that is asked n times for one judgement counts n."""
    seconds: float | None = None
    dollars: float | None = None
    """What the model's tokens cost, and a judge's. Generated ones are reserved as tokens are; what a prompt
    and a judgement cost is known when the call has ended, so those of calls in flight may go beyond."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            if field.name not in ("seconds", "dollars"):
                value = whole_number(f"budget {field.name}", value, "from 1 up, or leave it out")
            elif isinstance(value, bool) or not isinstance(value, Real):
                raise OptionError(
                    f"budget {field.name} {value!r} is no number; give one above 0, or leave it out"
                )
            object.__setattr__(self, field.name, value)
            if not value > 0:
                raise OptionError(f"budget {field.name} is {value}; give a number above 0, or leave it out")


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Dollars per million tokens."""

    prompt_usd: float = 0.0
    cached_usd: float = 0.0
    generated_usd: float = 0.0

    def dollars(self, *, prompt: int, cached: int, generated: int) -> float:
        """What so many tokens cost; the cached ones are a part of those of the prompt."""
        fresh = (prompt - cached) * self.prompt_usd
        return (fresh + cached * self.cached_usd + generated * self.generated_usd) / 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What was spent. `prompt_tokens` counts the whole context of every call; `cached_tokens` is
    the part of it that was not computed again. `discarded_tokens` is the part of
    `generated_tokens` that is in no candidate of the result (pruned, killed, lost).

    What a recording answered is charged as when it was recorded, so that limits bind alike and
    accounts can be compared; the `replayed_*` say how much of it took nothing this time. Dollars
    include it too."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    discarded_tokens: int = 0
    model_calls: int = 0
    failed_calls: int = 0
    retries: int = 0
    scorer_calls: int = 0
    scorer_tokens: int = 0
    """Tokens the scorer computed (its cached prefixes are not counted)."""
    judge_prompt_tokens: int = 0
    """What a judge read, as `prompt_tokens` counts it; with the next two what its dollars are made of."""
    judge_cached_tokens: int = 0
    judge_generated_tokens: int = 0
    replayed_tokens: int = 0
    """The part of `generated_tokens` that came from a recording."""
    replayed_calls: int = 0
    """The part of `model_calls` that a recording answered."""
    replayed_scorer_calls: int = 0
    """The part of `scorer_calls` that a recording answered."""
    seconds: float = 0.0
    dollars: float = 0.0

    def to_json(self) -> dict[str, int | float]:
        """Plain values, field names as keys."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


class OutOfBudget(Exception):  # noqa: N818  a signal between rooms, never shown to a user
    """A limit binds; carries which. Caught by `Method.run`, which returns the best so far."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


_CHARGED = (
    "prompt_tokens",
    "cached_tokens",
    "generated_tokens",
    "model_calls",
    "failed_calls",
    "retries",
    "scorer_tokens",
    "judge_prompt_tokens",
    "judge_cached_tokens",
    "judge_generated_tokens",
    "replayed_tokens",
    "replayed_calls",
    "replayed_scorer_calls",
)
"""The counters of a ledger that models and scorers charge."""


class Ledger:
    """The account of one run. All counting and all refusing happens here."""

    def __init__(self, budget: Budget, price: Price | None = None, judge_price: Price | None = None) -> None:
        if budget.dollars is not None and price is None:
            raise OptionError(
                "budget dollars needs a model with a price; set the model's price or drop dollars"
            )
        self.budget = budget
        self.price = price or Price()
        self.judge_price = judge_price or Price()
        self.started = time.monotonic()
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.generated_tokens = 0
        self.model_calls = 0
        self.failed_calls = 0
        self.retries = 0
        self.scorer_calls = 0
        self.scorer_tokens = 0
        self.judge_prompt_tokens = 0
        self.judge_cached_tokens = 0
        self.judge_generated_tokens = 0
        self.replayed_tokens = 0
        self.replayed_calls = 0
        self.replayed_scorer_calls = 0
        self.generations = 0
        self._reserved_tokens = 0
        self._returned = asyncio.Condition()
        self._within: Ledger | None = None

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.monotonic() - self.started

    @property
    def dollars(self) -> float:
        """What the tokens so far cost, a judge's at its own price."""
        return self.price.dollars(
            prompt=self.prompt_tokens, cached=self.cached_tokens, generated=self.generated_tokens
        ) + self.judge_price.dollars(
            prompt=self.judge_prompt_tokens,
            cached=self.judge_cached_tokens,
            generated=self.judge_generated_tokens,
        )

    def charge_model(self, *, prompt: int, cached: int, generated: int) -> None:
        """One model call ended, well or not: `generated` tokens were produced for it."""
        self.model_calls += 1
        self.prompt_tokens += prompt
        self.cached_tokens += cached
        self.generated_tokens += generated

    def charge_scorer(self, *, tokens: int) -> None:
        """A scorer computed `tokens` tokens."""
        self.scorer_tokens += tokens

    def charge_judge(self, *, prompt: int, cached: int, generated: int) -> None:
        """A judge read and wrote so much: scorer tokens, priced as a model's are."""
        self.charge_scorer(tokens=prompt - cached + generated)
        self.judge_prompt_tokens += prompt
        self.judge_cached_tokens += cached
        self.judge_generated_tokens += generated

    def charges(self) -> Charges:
        """Everything models and scorers have charged so far, for another ledger to take over."""
        counted = {name: int(getattr(self, name)) for name in _CHARGED}
        return {name: amount for name, amount in counted.items() if amount}

    def charge(self, charges: Charges) -> None:
        """Take over what was charged to another ledger."""
        for name, amount in charges.items():
            setattr(self, name, getattr(self, name) + amount)

    def charge_replayed(self, charges: Charges, *, scorer_calls: int = 0) -> None:
        """A recording answered: charge what was charged when it was recorded, and say it was free."""
        self.charge(charges)
        self.replayed_tokens += charges.get("generated_tokens", 0)
        self.replayed_calls += charges.get("model_calls", 0)
        self.replayed_scorer_calls += scorer_calls

    def check(self) -> None:
        """Raises OutOfBudget if time or money is used up."""
        if self.budget.seconds is not None and self.seconds >= self.budget.seconds:
            raise OutOfBudget(StopReason.SECONDS)
        if self.budget.dollars is not None and self.dollars >= self.budget.dollars:
            raise OutOfBudget(StopReason.DOLLARS)

    def start_generation(self) -> None:
        """A path begins at the prompt. Raises OutOfBudget if none may."""
        if self.budget.generations is not None and self.generations >= self.budget.generations:
            raise OutOfBudget(StopReason.GENERATIONS)
        self.generations += 1

    def start_generations(self, n: int) -> int:
        """How many of `n` paths begin at the prompt. Raises OutOfBudget if none may."""
        for i in range(n):
            try:
                self.start_generation()
            except OutOfBudget:
                if i == 0:
                    raise
                return i
        return n

    def start_scoring(self, calls: int = 1) -> None:
        """A judgement that takes so many calls is about to begin. Raises OutOfBudget if it may not."""
        if self.budget.scorer_calls is not None and self.scorer_calls + calls > self.budget.scorer_calls:
            raise OutOfBudget(StopReason.SCORER_CALLS)
        self.scorer_calls += calls

    async def reserve_tokens(self, wanted: int) -> int:
        """How many tokens a call may generate: `wanted`, or what is left when that is less.

        Waits while too little is free but reservations of running calls may yet be returned.
        Raises OutOfBudget when nothing is left. Pair with `return_tokens(granted)`.
        """
        if not self._scarce_tokens:
            self.check()
            return wanted
        async with self._returned:
            while True:
                self.check()
                left, reason = self._least
                if left >= wanted or (self._reserved_tokens == 0 and left > 0):
                    granted = int(min(left, wanted))
                    self._reserved_tokens += granted
                    return granted
                if self._reserved_tokens == 0:
                    raise OutOfBudget(reason)
                await self._returned.wait()

    @property
    def left(self) -> float:
        """How many tokens may be generated beyond those reserved; infinite without a limit."""
        return self._least[0]

    @property
    def scarce(self) -> StopReason:
        """The limit that leaves the fewest tokens to generate."""
        return self._least[1]

    def affords(self, tokens: int) -> bool:
        """Whether so many tokens may be generated beyond everything that is reserved."""
        within = self._within is None or self._within.affords(tokens)
        return within and tokens <= self.left

    @property
    def limits_tokens(self) -> bool:
        """Whether a limit binds how many tokens a call on this account may generate."""
        return self._scarce_tokens or (self._within is not None and self._within.limits_tokens)

    @property
    def _scarce_tokens(self) -> bool:
        """Whether a limit is on tokens, so that they have to be reserved."""
        return self.budget.tokens is not None or self.budget.dollars is not None

    @property
    def _least(self) -> tuple[float, StopReason]:
        """What is `left`, and the limit that says so."""
        left = [(math.inf, StopReason.TOKENS)]
        if self.budget.tokens is not None:
            left.append((self.budget.tokens - self.generated_tokens, StopReason.TOKENS))
        if self.budget.dollars is not None and self.price.generated_usd > 0:
            affordable = 1e6 * (self.budget.dollars - self.dollars) / self.price.generated_usd
            left.append((math.floor(affordable + 1e-9), StopReason.DOLLARS))
        tokens, reason = min(left)
        return tokens - self._reserved_tokens, reason

    def apart(self) -> Ledger:
        """An account of its own, without limits, for one call on this one's; `charge` takes it over."""
        ledger = Ledger(Budget())
        ledger._within = self
        return ledger

    async def return_tokens(self, granted: int) -> None:
        """The call a reservation was made for has ended and charged what it used."""
        if not self._scarce_tokens:
            return
        async with self._returned:
            self._reserved_tokens -= granted
            self._returned.notify_all()

    def usage(self, *, kept_tokens: int) -> Usage:
        """The account as a value. `kept_tokens`: distinct tokens in the result's candidates."""
        return Usage(
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            generated_tokens=self.generated_tokens,
            discarded_tokens=max(0, self.generated_tokens - kept_tokens),
            model_calls=self.model_calls,
            failed_calls=self.failed_calls,
            retries=self.retries,
            scorer_calls=self.scorer_calls,
            scorer_tokens=self.scorer_tokens,
            judge_prompt_tokens=self.judge_prompt_tokens,
            judge_cached_tokens=self.judge_cached_tokens,
            judge_generated_tokens=self.judge_generated_tokens,
            replayed_tokens=self.replayed_tokens,
            replayed_calls=self.replayed_calls,
            replayed_scorer_calls=self.replayed_scorer_calls,
            seconds=self.seconds,
            dollars=self.dollars,
        )
